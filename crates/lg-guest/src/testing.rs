//! Tests that run in a Guest, each in one of its own.
//!
//! [`tests!`](crate::tests) makes an image that has tests. The Launcher, as
//! cargo's runner, first starts it to get their names, and then once for each
//! test: a Guest takes a few milliseconds, and a test that crashes ends no
//! other. A test has passed when its Guest powers off with code 0.

use crate::boot::Boot;
use crate::{power, println, task};
use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;

/// The mark by which the Launcher knows an image of tests, and the first line
/// of the list of their names. The number changes with the form of the list.
const MARK: &str = "lguest tests, form 1";

/// The word on the command line that asks for the list.
const LIST: &str = "list-tests";

/// The word that names the test to run.
const TEST: &str = "test";

/// A test.
#[doc(hidden)]
pub struct Test {
    pub name: &'static str,
    /// The words inside `#[...]` above it.
    pub attributes: &'static [&'static str],
    pub start: fn() -> Pin<Box<dyn Future<Output = ()>>>,
}

/// A future, wherever it may be.
#[doc(hidden)]
pub fn boxed(
    future: impl Future<Output = ()> + 'static,
) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(future)
}

/// Makes an image of tests, in a file of the folder `tests`:
///
/// ```no_run
/// #![no_std]
/// #![no_main]
///
/// lg_guest::tests! {
///     fn one_and_one_are_two() {
///         assert_eq!(1 + 1, 2);
///     }
///
///     fn time_goes_on() {
///         let before = lg_guest::time::now();
///         lg_guest::time::sleep(1_000_000).await;
///         assert!(lg_guest::time::now() > before);
///     }
///
///     #[should_panic]
///     fn an_index_is_checked() {
///         let _ = [1, 2, 3].iter().nth(3).unwrap();
///     }
/// }
/// ```
///
/// A test may `await`. `#[should_panic]` and `#[ignore]` mean what they mean
/// elsewhere.
#[macro_export]
macro_rules! tests {
    ($($(#[$($attribute:tt)*])* fn $name:ident() $body:block)*) => {
        $(async fn $name() $body)*

        static TESTS: &[$crate::testing::Test] = &[$(
            $crate::testing::Test {
                name: stringify!($name),
                attributes: &[$(stringify!($($attribute)*)),*],
                start: || $crate::testing::boxed($name()),
            },
        )*];

        fn lguest_tests(boot: &'static $crate::boot::Boot) {
            $crate::testing::main(boot, TESTS);
        }

        $crate::entry!(lguest_tests);
    };
}

/// Lists the tests, or runs the one that the command line names.
#[doc(hidden)]
pub fn main(boot: &'static Boot, tests: &'static [Test]) {
    if boot.arguments.has(LIST) {
        println!("{MARK}");
        for test in tests {
            println!("{} {}", test.name, test.attributes.join(" "));
        }
        power::off(0);
    }
    let Some(name) = boot.arguments.value(TEST) else {
        panic!("no test is named: say {LIST} or {TEST}=NAME");
    };
    let Some(test) = tests.iter().find(|test| test.name == name) else {
        panic!("there is no test {name}");
    };
    let run = async move {
        (test.start)().await;
        power::off(0);
    };
    if let Err(error) = task::spawn("test", run) {
        panic!("no task for the test: {error:?}");
    }
}
