//! Two views at a time: one works, the other changes its words.
//!
//! A Guest has one processor, because one view has the run token. But a hostile
//! view can pass the run token on and continue in 64-bit mode, without its
//! Host. Then it changes the requests of the other view while Host and Launcher
//! read them.

#![expect(unsafe_code, reason = "code starts on another stack")]

use crate::lab::memory::{peek, poke as poke_word, shared, va};
use crate::lab::space::{Space, first};
use crate::long::{Long, SCRIBBLE};
use core::arch::global_asm;
use lg_abi::shared::offset;
use lg_guest::boot::Boot;
use lg_guest::power;

/// The addresses of the state that all views share, and of the Host's code.
const STATE: u64 = 0x1000_0000_0000;
const IMAGE: u64 = 0x4000_0000_0000;

/// FUTEX, and its FUTEX_WAKE.
const FUTEX: u64 = 202;
const WAKE: u64 = 1;

global_asm!(
    r#"
.section .bss.race, "aw", @nobits
.balign 4096
.globl race_stack_top
    .skip 0x10000
race_stack_top:
.text
.globl race_second_life
race_second_life:
    xor %ebp, %ebp
    call race_lives
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static race_stack_top: u8;
    static race_second_life: u8;
}

/// The view with the run token continues here: it plays the script.
#[unsafe(export_name = "race_lives")]
extern "C" fn lives() -> ! {
    crate::script::run(lg_guest::boot::boot());
    power::off(0);
}

pub(crate) fn run(boot: &'static Boot) {
    let number = |name| {
        let found = crate::number(boot.arguments, name);
        u64::from(found.unwrap_or_else(|| panic!("{name} is needed")))
    };
    let poke = |name, word: u32| {
        Long {
            rip: crate::long::POKE,
            rdi: STATE + number(name),
            rsi: word.into(),
            flags: 2,
            ..Long::default()
        }
        .call();
    };
    let (at, size) = match boot.arguments.value("region") {
        Some("irq") => (shared(offset::IRQ_ENABLED), 8),
        Some("ring") => (shared(offset::HCALL_STATUS), 64),
        Some("calls") => (shared(offset::HCALLS), 1024),
        _ => (number("at") as u32, number("size")),
    };
    // From here on this is another view.
    Space::new().activate();
    // 64-bit code gets no page on demand.
    poke_word(at, peek(at));
    poke("cr3", first().directory);
    poke("current", 0);
    poke("eip", &raw const race_second_life as usize as u32);
    poke("esp", &raw const race_stack_top as usize as u32);
    poke("run_token", 1);
    Long {
        rip: IMAGE + number("syscall"),
        rax: FUTEX,
        rdi: STATE + number("run_token"),
        rsi: WAKE,
        rdx: 1,
        flags: 2,
        ..Long::default()
    }
    .call();
    loop {
        Long {
            rip: SCRIBBLE,
            rdi: va(at).into(),
            rsi: size,
            rdx: 1 << 30,
            r8: number("mask"),
            rbx: number("seed") + 1,
            flags: 2,
            ..Long::default()
        }
        .call();
    }
}
