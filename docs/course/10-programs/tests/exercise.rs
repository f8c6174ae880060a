//! The test of exercise 10. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson10::exercise::sum;
use lesson10::run;
use lg_guest::user::End;

lg_guest::tests! {
    fn numbers_are_added() {
        for (argument, wanted) in [(1, 1), (4, 10), (100, 5050), (0, 0)] {
            let (end, counts) = run(sum(), argument).await;
            assert_eq!(end, End::Exit(wanted));
            assert_eq!(counts.calls, 1);
        }
    }
}
