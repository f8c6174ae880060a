//! Every selector in frames that a kernel makes from a program's values.
//!
//! A signal's frame, a debugger and `vm86` choose selectors and flags. A kernel
//! only makes sure that they have user level. With any of them, the code runs
//! at user level, or it does not run and its kernel gets a fault as if from
//! there.

use crate::lab::run::{User, put_user};
use lg_guest::boot::Boot;
use lg_guest::println;

/// In the flags: virtual-8086 mode.
const VM: u32 = 1 << 17;

/// Words that a trap leaves on the stack if it has come from user level: with
/// an error code, without one, and out of virtual-8086 mode.
const FROM_USER: [u32; 3] = [5, 6, 10];

pub(crate) fn run(boot: &'static Boot) {
    let number =
        |name, usual| crate::number(boot.arguments, name).unwrap_or(usual);
    let (from, to) = (number("from", 0), number("to", 0x1_0000));
    let step = number("step", 1).max(1) as usize;
    let mut cases = 0;
    put_user(&[0xCD, 0x80]);
    for selector in (from..to).step_by(step) {
        if selector % 0x400 == 0 {
            println!("@{selector}");
        }
        let user = selector | 3;
        for (cs, ss, flags) in [
            (user, 0x7B, 2),
            (0x73, user, 2),
            (0x73, selector, 2),
            (user, user, 2),
            (selector, 0x7B, VM | 2),
            (0x73, selector, VM | 2),
        ] {
            let seen = User {
                cs,
                ss,
                eflags: flags,
                vm86: [selector; 4],
                ..User::new()
            }
            .run();
            assert!(
                FROM_USER.contains(&seen.words()),
                "cs {cs:#x}, ss {ss:#x}, eflags {flags:#x}: {seen}"
            );
            cases += 1;
        }
    }
    crate::survived(cases);
}
