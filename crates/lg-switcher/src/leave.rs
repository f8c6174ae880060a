//! Leaving into the Guest: the last instructions before its own.
//!
//! The Guest's registers lie in the state that the views share. To leave means
//! to load its floating-point registers, then its general ones, and then to let
//! one `iretq` do the rest: code and stack segment, flags, eip and esp. A
//! signal may come at any moment before that, and then something may have to be
//! done first (an interrupt for the Guest, for instance). So the stretch from
//! the check of [`Own::kicked`] to the `iretq` can be started again at any
//! point: the handler sees that it interrupted this stretch and moves on to
//! `lg_recheck`. Nothing is lost, because all that was loaded still lies where
//! it was loaded from.

#![expect(unsafe_code, reason = "assembly")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the Guest's registers are the low halves of ours"
)]

use crate::layout::{EXIT_FRAME, OWN, STACK, STATE, State};
use crate::own::{Own, own};
use crate::role::role;
use crate::shared::registers;
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, compiler_fence};
use lg_host::state::Registers;

/// Where `iretq` finds the way into the Guest.
#[repr(C)]
struct ExitFrame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// lg_leave has no arguments: everything is in memory. The stack pointer is kept
// in `Own`, so that lg_recheck has one. What is above it (the signal's frame,
// with the Guest's floating-point registers) must stay whole.
//
// Live from lg_leave_start on: r14 = Own, r15 = the Guest's registers. r8 to
// r14 are ours to use, because 32-bit code cannot see them.
global_asm!(
    ".globl lg_leave, lg_leave_start, lg_leave_end, lg_recheck",
    "lg_leave:",
    "    movabs r14, {own}",
    "    mov [r14 + {leave_stack}], rsp",
    "lg_leave_start:",
    "    cmp dword ptr [r14 + {kicked}], 0",
    "    jne lg_recheck",
    "    mov rdi, [r14 + {fpu_area}]",
    "    mov rax, [r14 + {fpu_parts}]",
    "    mov rdx, rax",
    "    shr rdx, 32",
    "    test rax, rax",
    "    jz 2f",
    "    cmp rax, -1",
    "    je 4f",
    "    xrstor64 [rdi]",
    "    jmp 3f",
    "4:  movaps xmm0, [rdi]",
    "    movaps xmm1, [rdi + 16]",
    "    movaps xmm2, [rdi + 32]",
    "    movaps xmm3, [rdi + 48]",
    "    movaps xmm4, [rdi + 64]",
    "    movaps xmm5, [rdi + 80]",
    "    movaps xmm6, [rdi + 96]",
    "    movaps xmm7, [rdi + 112]",
    "    jmp 3f",
    "2:  fxrstor64 [rdi]",
    "3:  movabs r15, {regs}",
    "    mov eax, [r15 + {eax}]",
    "    mov ebx, [r15 + {ebx}]",
    "    mov ecx, [r15 + {ecx}]",
    "    mov edx, [r15 + {edx}]",
    "    mov esi, [r15 + {esi}]",
    "    mov edi, [r15 + {edi}]",
    "    mov ebp, [r15 + {ebp}]",
    "    movabs rsp, {frame}",
    "    iretq",
    "lg_leave_end:",
    "lg_recheck:",
    "    movabs r14, {own}",
    "    mov rsp, [r14 + {leave_stack}]",
    "    and rsp, -16",
    "    call {recheck}",
    "    ud2",
    regs = const STATE + offset_of!(State, vm.regs),
    frame = const STACK + EXIT_FRAME,
    eax = const offset_of!(Registers, eax),
    ebx = const offset_of!(Registers, ebx),
    ecx = const offset_of!(Registers, ecx),
    edx = const offset_of!(Registers, edx),
    esi = const offset_of!(Registers, esi),
    edi = const offset_of!(Registers, edi),
    ebp = const offset_of!(Registers, ebp),
    recheck = sym recheck,
    own = const OWN,
    leave_stack = const offset_of!(Own, leave_stack),
    kicked = const offset_of!(Own, kicked),
    fpu_area = const offset_of!(Own, fpu_area),
    fpu_parts = const offset_of!(Own, fpu_parts),
);

unsafe extern "C" {
    fn lg_leave() -> !;
    static lg_leave_start: u8;
    static lg_leave_end: u8;
    fn lg_recheck();
}

/// A kick came after the last look around and before the Guest's first
/// instruction.
extern "C" fn recheck() -> ! {
    role().look_again()
}

/// Where to go on after a signal at `rip`: if the way out was interrupted, it
/// is started again.
pub(crate) fn after_kick(rip: u64) -> u64 {
    let start = &raw const lg_leave_start as u64;
    let end = &raw const lg_leave_end as u64;
    if (start..end).contains(&rip) {
        lg_recheck as *const () as u64
    } else {
        rip
    }
}

/// The Host is about to look around: only kicks from here on count. Our own
/// handler writes the word, so only the compiler has to keep the order.
pub(crate) fn look_from_now_on() {
    own().kicked.store(0, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

/// Loads the Guest's registers and goes, on these segments.
pub(crate) fn leave_as(cs: u32, ss: u32) -> ! {
    let regs = registers();
    let frame = (STACK + EXIT_FRAME) as *mut ExitFrame;
    let values = ExitFrame {
        rip: u64::from(regs.eip.get()),
        cs: u64::from(cs),
        rflags: u64::from(regs.eflags.get()),
        rsp: u64::from(regs.esp.get()),
        ss: u64::from(ss),
    };
    // SAFETY: the place is set aside for this, in the middle of our stack.
    unsafe { frame.write(values) };
    load_segments(regs);
    // SAFETY: the Guest's registers, its floating-point area and the frame
    // are complete.
    unsafe { lg_leave() }
}

/// Saves the selectors and bases that only the registers know, and the stack's
/// selector, `ss`.
pub(crate) fn save_segments(regs: &Registers, ss: u32) {
    regs.ss.set(ss);
    let (ds, es, fs, gs): (u32, u32, u32, u32);
    let (fs_base, gs_base): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!(
            "mov {ds:e}, ds", "mov {es:e}, es",
            "mov {fs:e}, fs", "mov {gs:e}, gs",
            "rdfsbase {fs_base}", "rdgsbase {gs_base}",
            ds = out(reg) ds, es = out(reg) es,
            fs = out(reg) fs, gs = out(reg) gs,
            fs_base = out(reg) fs_base, gs_base = out(reg) gs_base,
            options(nomem, nostack, preserves_flags),
        );
    };
    let live = &own().live;
    // A 32-bit program can have set only the low half of a base.
    let (fs_base, gs_base) = (fs_base as u32, gs_base as u32);
    for (place, live, value) in [
        (&regs.ds, &live.ds, ds),
        (&regs.es, &live.es, es),
        (&regs.fs, &live.fs, fs),
        (&regs.gs, &live.gs, gs),
        (&regs.fs_base, &live.fs_base, fs_base),
        (&regs.gs_base, &live.gs_base, gs_base),
    ] {
        place.set(value);
        live.set(value);
    }
}

/// Loads what differs. Loading a selector changes the base, so bases come
/// last.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one promise holds for all six"
)]
fn load_segments(regs: &Registers) {
    let live = &own().live;
    if regs.reload.replace(0) != 0 {
        live.forget();
    }
    let changed = |live: &Cell<u32>, wanted: &Cell<u32>| {
        live.replace(wanted.get()) != wanted.get()
    };
    // SAFETY: data segments mean nothing to 64-bit code; a selector that
    // cannot be loaded faults, and the fault ends the Guest.
    unsafe {
        if changed(&live.ds, &regs.ds) {
            asm!("mov ds, {:e}", in(reg) regs.ds.get());
        }
        if changed(&live.es, &regs.es) {
            asm!("mov es, {:e}", in(reg) regs.es.get());
        }
        // Not `||`: both have to be noted.
        let fs = changed(&live.fs, &regs.fs);
        if fs {
            asm!("mov fs, {:e}", in(reg) regs.fs.get());
        }
        if changed(&live.fs_base, &regs.fs_base) | fs {
            asm!("wrfsbase {}", in(reg) u64::from(regs.fs_base.get()));
        }
        let gs = changed(&live.gs, &regs.gs);
        if gs {
            asm!("mov gs, {:e}", in(reg) regs.gs.get());
        }
        if changed(&live.gs_base, &regs.gs_base) | gs {
            asm!("wrgsbase {}", in(reg) u64::from(regs.gs_base.get()));
        }
    }
}
