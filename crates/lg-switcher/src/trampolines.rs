//! Gates: a few instructions of 64-bit code where the Guest can jump to them.
//!
//! The Guest's code far-jumps to a trampoline in the Switcher's part of its
//! address space, and the far jump makes the processor a 64-bit one. The
//! trampoline does what the instructions did that it has displaced, saves eax,
//! says which trampoline it is, and goes on in the common code below, which
//! saves the rest and calls the Host. All of that costs less than the kernel
//! needs to find out which signal to send.
//!
//! A 32-bit program cannot see r8 to r15, so they are free from the first
//! instruction on. Everything else is the Guest's, xmm0 to xmm7 among it: the
//! Host's code uses them as it likes, so they are put away before it is called
//! and loaded again on the way out. The rest of the floating-point unit the
//! Host does not touch.

#![expect(unsafe_code, reason = "assembly")]

use crate::fpu;
use crate::layout::{
    ENTRY_TRAMPOLINES, OWN, STACK, STACK_SIZE, STATE, State, TRAMPOLINE_SIZE,
    TRAMPOLINES, USER_TRAMPOLINES,
};
use crate::leave;
use crate::own::{Own, XmmArea, own};
use crate::role::role;
use crate::shared::{registers, state};
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_host::address::as_word;
use lg_host::cpu::registers::EFLAGS_TF;
use lg_host::cpu::segments::REAL_LONG_CS;
use lg_host::patch::{MAX_DISPLACED, TrampolineKind};
use lg_host::run::Event;
use lg_host::state::Registers;

/// Where the general registers are kept.
const REGS: usize = STATE + offset_of!(State, vm.regs);

/// Flags of the Guest's with which our code must not run: TF, DF, NT and AC.
const UNCLEAN: u32 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18;

// In: r15 = the Guest's registers, eax saved there already; r14 = which
// trampoline. The stack is the Guest's until ours is loaded.
global_asm!(
    ".globl lg_trampoline",
    "lg_trampoline:",
    "    mov [r15 + {ebx}], ebx",
    "    mov [r15 + {ecx}], ecx",
    "    mov [r15 + {edx}], edx",
    "    mov [r15 + {esi}], esi",
    "    mov [r15 + {edi}], edi",
    "    mov [r15 + {ebp}], ebp",
    "    mov [r15 + {esp}], esp",
    "    movabs rsp, {stack}",
    "    pushfq",
    "    pop rax",
    "    mov [r15 + {eflags}], eax",
    // Our code cannot live with these, and popfq takes its time.
    "    test eax, {unclean}",
    "    jz 2f",
    "    push 2",
    "    popfq",
    "2:",
    "    movabs rdi, {xmm}",
    "    movaps [rdi], xmm0",
    "    movaps [rdi + 16], xmm1",
    "    movaps [rdi + 32], xmm2",
    "    movaps [rdi + 48], xmm3",
    "    movaps [rdi + 64], xmm4",
    "    movaps [rdi + 80], xmm5",
    "    movaps [rdi + 96], xmm6",
    "    movaps [rdi + 112], xmm7",
    "    mov esi, r14d",
    "    call {entered}",
    "    ud2",
    ebx = const offset_of!(Registers, ebx),
    ecx = const offset_of!(Registers, ecx),
    edx = const offset_of!(Registers, edx),
    esi = const offset_of!(Registers, esi),
    edi = const offset_of!(Registers, edi),
    ebp = const offset_of!(Registers, ebp),
    esp = const offset_of!(Registers, esp),
    eflags = const offset_of!(Registers, eflags),
    unclean = const UNCLEAN,
    xmm = const OWN + offset_of!(Own, xmm),
    stack = const STACK + STACK_SIZE,
    entered = sym entered,
);

unsafe extern "C" {
    fn lg_trampoline();
}

/// The Guest has come through a trampoline.
extern "C" fn entered(xmm: *mut XmmArea, kind: u32) -> ! {
    let regs = registers();
    leave::save_segments(regs, stack_segment());
    if own().stepped.load(Ordering::Relaxed) {
        own().stepped.store(false, Ordering::Relaxed);
        regs.eflags.set(regs.eflags.get() | EFLAGS_TF);
    }
    fpu::set_xmm(xmm);
    let event = TrampolineKind::from_number(kind).map(Event::Trampoline);
    // Only somebody who jumps here on purpose comes with another number.
    let event = event.unwrap_or(Event::LongMode);
    role().stopped(event, false)
}

/// What is in ss: a far jump leaves it as it is.
fn stack_segment() -> u32 {
    let ss: u32;
    // SAFETY: reads a register.
    unsafe {
        asm!(
            "mov {ss:e}, ss",
            ss = out(reg) ss,
            options(nomem, nostack, preserves_flags),
        );
    };
    ss
}

/// Makes a trampoline; answers where the Guest finds it.
pub(crate) fn make(kind: TrampolineKind, displaced: &[u8]) -> Option<u32> {
    let vm = &state().vm;
    let (users, kernels) = state().trampolines.0.split_at(USER_TRAMPOLINES);
    let (made, room, first) = match kind {
        TrampolineKind::EntryPage => {
            (&vm.user_trampolines, &users[..ENTRY_TRAMPOLINES], 0)
        }
        TrampolineKind::DirectCall => return None, // see `make_for_call`
        TrampolineKind::Iret
        | TrampolineKind::Hypercall
        | TrampolineKind::HypercallAfterStore
        | TrampolineKind::Enabling => {
            (&vm.trampolines, kernels, USER_TRAMPOLINES)
        }
    };
    let number = made.get() as usize;
    let trampoline = room.get(number)?;
    let mut code = Code { trampoline, len: 0 };
    code.push(displaced.get(..displaced.len().min(MAX_DISPLACED))?);
    code.save_eax();
    code.go(kind);
    made.set(made.get() + 1);
    Some(address(first + number))
}

/// Makes a trampoline for a direct call ([`lg_host::patch::direct`]); answers
/// where the Guest finds it. Nobody stands in the trampoline that had this slot
/// before: at its first instruction nobody stays, and the others are not
/// interrupted.
pub(crate) fn make_for_call(slot: usize, back: u32) -> u32 {
    let number = ENTRY_TRAMPOLINES + slot;
    let trampoline = &state().trampolines.0[number];
    let [a, b, c, d] = (address(number) + as_word(FAR_JUMP)).to_le_bytes();
    let mut code = Code { trampoline, len: 0 };
    // ljmp $long_cs,$behind
    code.push(&[0xEA, a, b, c, d]);
    code.push(&REAL_LONG_CS.to_le_bytes()[..2]);
    code.save_eax();
    // movl $back,eip(%r15)
    code.push(&[0x41, 0xC7, 0x47, EIP]);
    code.push(&back.to_le_bytes());
    code.go(TrampolineKind::DirectCall);
    address(number)
}

/// Where the Guest finds a trampoline.
const fn address(number: usize) -> u32 {
    as_word(TRAMPOLINES + number * TRAMPOLINE_SIZE)
}

/// Bytes of a far jump.
const FAR_JUMP: usize = 7;

/// Bytes of `movl $back,eip(%r15)`.
const STORE_EIP: usize = 8;

/// Where the registers are among the registers.
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const EAX: u8 = offset_of!(Registers, eax) as u8;
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const EIP: u8 = offset_of!(Registers, eip) as u8;

/// Code that is being written.
struct Code<'a> {
    trampoline: &'a [Cell<u8>; TRAMPOLINE_SIZE],
    len: usize,
}

impl Code<'_> {
    /// movabs $registers,%r15; mov %eax,eax(%r15)
    fn save_eax(&mut self) {
        self.push(&[0x49, 0xBF]);
        self.push(&REGS.to_le_bytes());
        self.push(&[0x41, 0x89, 0x47, EAX]);
    }

    /// mov $kind,%r14d; movabs $lg_trampoline,%r13; jmp *%r13
    fn go(&mut self, kind: TrampolineKind) {
        self.push(&[0x41, 0xBE]);
        self.push(&(kind as u32).to_le_bytes());
        self.push(&[0x49, 0xBD]);
        self.push(&(lg_trampoline as *const () as usize).to_le_bytes());
        self.push(&[0x41, 0xFF, 0xE5]);
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.trampoline[self.len].set(byte);
            self.len += 1;
        }
    }
}

/// Instructions of ours in a trampoline, without what it has displaced.
const OWN_SIZE: usize = 10 + 4 + 6 + 10 + 3;

const _: () = {
    assert!(OWN_SIZE + MAX_DISPLACED <= TRAMPOLINE_SIZE);
    assert!(OWN_SIZE + FAR_JUMP + STORE_EIP <= TRAMPOLINE_SIZE);
    assert!(offset_of!(Registers, eax) < 0x80);
    assert!(offset_of!(Registers, eip) < 0x80);
};
