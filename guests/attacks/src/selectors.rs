//! Every selector into every segment register, in both modes.
//!
//! A selector that cannot be loaded faults. One that can be loaded is used, and
//! then replaced. `from`, `to` and `step` choose the selectors.

use crate::lab::{kernel, user};
use lg_guest::boot::Boot;
use lg_guest::println;

/// `mov %eax, SEGMENT`: es, ss, ds, fs, gs.
const LOADS: [u8; 5] = [0xC0, 0xD0, 0xD8, 0xE0, 0xE8];

/// The prefix that names the segment of a byte.
const PREFIXES: [u8; 5] = [0x26, 0x36, 0x3E, 0x64, 0x65];

/// The selectors of 64-bit code, from which this code could not return.
const LONG: core::ops::RangeInclusive<u32> = 0x30..=0x33;

pub(crate) fn run(boot: &'static Boot) {
    let number =
        |name, usual| crate::number(boot.arguments, name).unwrap_or(usual);
    let (from, to) = (number("from", 0), number("to", 0x1_0000));
    let step = number("step", 1).max(1) as usize;
    let mut cases = 0;
    for selector in (from..to).step_by(step) {
        let [low, high, ..] = selector.to_le_bytes();
        if selector % 0x400 == 0 {
            println!("@{selector}");
        }
        for (load, prefix) in LOADS.into_iter().zip(PREFIXES) {
            let code = [
                0x8C, 0xD1, // mov %ss, %ecx
                0xB8, low, high, 0, 0, // mov $selector, %eax
                0x8E, load, // mov %eax, SEGMENT
                0x89, 0xE2, // mov %esp, %edx
                prefix, 0x8A, 0x1A, // mov SEGMENT:(%edx), %bl
                0x8E, 0xD1, // mov %ecx, %ss
                0x16, 0x1F, // push %ss; pop %ds
                0x16, 0x07, // push %ss; pop %es
            ];
            kernel(&code);
            let mut code_of_a_user = [0; 16];
            code_of_a_user[..14].copy_from_slice(&code[..14]);
            code_of_a_user[14..].copy_from_slice(&[0xCD, 0x80]);
            user(&code_of_a_user);
            cases += 2;
        }
        // Code: a far jump and a far return.
        let far_return = [
            0x68, low, high, 0, 0, // push $selector
            0xE8, 0, 0, 0, 0, // call the next one
            0x83, 0x04, 0x24, 6,    // addl $6, (%esp): after the return
            0xCB, // lret
            0x90, 0xCD, 0x80, // nop; int $0x80
        ];
        user(&far_return);
        cases += 1;
        if !LONG.contains(&selector) {
            let [a, b, c, d] =
                (crate::lab::space::KERNEL_CODE + 7).to_le_bytes();
            kernel(&[0xEA, a, b, c, d, low, high]);
            kernel(&far_return[..15]);
            cases += 2;
        }
    }
    crate::survived(cases);
}
