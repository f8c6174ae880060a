//! Coming back: every trap of the Guest's arrives here as a signal.
//!
//! The kernel saves the interrupted registers on our stack and calls
//! `lg_signal_entry`. If the Guest was interrupted, its registers are copied
//! into the shared state, the signal becomes an [`Event`], and the handler
//! never returns: the Host leaves into the Guest by its own way. If our own
//! code was interrupted, the signal is either a kick, which is noted, or a
//! fault, which ends the Guest.

#![expect(unsafe_code, reason = "signal frames are the kernel's memory")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the Guest's registers are the low halves of ours"
)]

use crate::extended::{LEGACY, PKRU};
use crate::fpu;
use crate::layout::{
    IMAGE, IMAGE_SIZE, STACK, STACK_SIZE, TRAMPOLINES, TrampolinePages,
    USER_TRAMPOLINES_SIZE,
};
use crate::leave;
use crate::notify;
use crate::own::own;
use crate::role::role;
use crate::shared::{registers, setup};
use crate::syscall::{
    FORCE_SIGNAL, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP,
    call, lg_restorer, nr, return_site,
};
use crate::vdso;
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_host::cpu::faults::PROTECTION_KEY;
use lg_host::cpu::registers::EFLAGS_TF;
use lg_host::cpu::selectors::REAL_LONG_CS;
use lg_host::host::Event;
use lg_host::patch::crossing;
use lg_wire::mailbox::reason;
use lg_wire::spawn::KICK_SIGNAL;

/// The signals as which traps arrive.
const TRAPS: [i32; 6] = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS];

/// Signals that a terminal or a shell sends to the whole group of processes,
/// and that only the Launcher handles: HUP, INT, QUIT and TERM.
const LAUNCHERS: [i32; 4] = [1, 2, 3, 15];

// rdi = signal, rsi = siginfo, rdx = context: as the kernel leaves them. The
// kernel may leave some of the Guest's flags set. With alignment checks on, our
// first unaligned access would fault; with "nested task", our iretq would.
global_asm!(
    ".globl lg_signal_entry",
    "lg_signal_entry:",
    "    push 2",
    "    popfq",
    "    jmp {handler}",
    handler = sym handle_signal,
);

// lg_resume: what the end of a handler does, without the kernel. rdi = the
// context, rsi = the floating-point registers, rdx = which parts of them.
global_asm!(
    ".globl lg_resume",
    "lg_resume:",
    "    mov eax, edx",
    "    shr rdx, 32",
    "    xrstor64 [rsi]",
    "    movzx eax, word ptr [rdi + {ss}]",
    "    push rax",
    "    push qword ptr [rdi + {rsp}]",
    "    push qword ptr [rdi + {eflags}]",
    "    movzx eax, word ptr [rdi + {cs}]",
    "    push rax",
    "    push qword ptr [rdi + {rip}]",
    "    mov r8, [rdi + {r8}]",
    "    mov r9, [rdi + {r8} + 8]",
    "    mov r10, [rdi + {r8} + 16]",
    "    mov r11, [rdi + {r8} + 24]",
    "    mov r12, [rdi + {r8} + 32]",
    "    mov r13, [rdi + {r8} + 40]",
    "    mov r14, [rdi + {r8} + 48]",
    "    mov r15, [rdi + {r8} + 56]",
    "    mov rsi, [rdi + {rsi}]",
    "    mov rbp, [rdi + {rbp}]",
    "    mov rbx, [rdi + {rbx}]",
    "    mov rdx, [rdi + {rdx}]",
    "    mov rax, [rdi + {rax}]",
    "    mov rcx, [rdi + {rcx}]",
    "    mov rdi, [rdi + {rdi}]",
    "    iretq",
    ss = const offset_of!(SignalContext, ss),
    rsp = const offset_of!(SignalContext, rsp),
    eflags = const offset_of!(SignalContext, eflags),
    cs = const offset_of!(SignalContext, cs),
    rip = const offset_of!(SignalContext, rip),
    r8 = const offset_of!(SignalContext, r8_to_r15),
    rsi = const offset_of!(SignalContext, rsi),
    rbp = const offset_of!(SignalContext, rbp),
    rbx = const offset_of!(SignalContext, rbx),
    rdx = const offset_of!(SignalContext, rdx),
    rax = const offset_of!(SignalContext, rax),
    rcx = const offset_of!(SignalContext, rcx),
    rdi = const offset_of!(SignalContext, rdi),
);

unsafe extern "C" {
    fn lg_signal_entry();
    fn lg_resume(context: *const SignalContext, fpu: u64, parts: u64) -> !;
}

/// `struct sigcontext` of x86-64.
#[repr(C)]
struct SignalContext {
    r8_to_r15: [u64; 8],
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    vector: u64,
    old_mask: u64,
    cr2: u64,
    fpu: *const FpuFrame,
    reserved: [u64; 8],
}

/// `siginfo_t`, up to what we read.
#[repr(C)]
struct SignalInfo {
    signal: i32,
    error: i32,
    code: i32,
}

/// A protection key forbade the access. The error code of the fault does not
/// show that if the page was not there yet.
const SEGV_PKUERR: i32 = 4;

/// `struct ucontext`, up to what we read.
#[repr(C)]
struct UserContext {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    machine: SignalContext,
}

/// The floating-point part of a frame: an FXSAVE area. In its unused end the
/// kernel describes what follows (`struct _fpx_sw_bytes`).
#[repr(C)]
struct FpuFrame {
    fxsave: [u8; 464],
    magic: u32,
    extended_size: u32,
    parts: u64,
}

/// "More than FXSAVE follows" (`FP_XSTATE_MAGIC1`).
const FPU_MAGIC: u32 = 0x4650_5853;

/// `struct sigaction` as the kernel has it.
#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SA_NODEFER: u64 = 0x4000_0000;

/// Makes a signal arrive at [`handle_signal`].
fn action(signal: i32, flags: u64, mask: u64) -> Result<usize, i32> {
    const SA_SIGINFO: u64 = 4;
    const SA_RESTORER: u64 = 0x0400_0000;
    const SA_ONSTACK: u64 = 0x0800_0000;
    let action = Action {
        handler: lg_signal_entry as *const () as usize,
        flags: SA_SIGINFO | SA_RESTORER | SA_ONSTACK | flags,
        restorer: lg_restorer as *const () as usize,
        mask,
    };
    let signal = signal.cast_unsigned() as usize;
    let at = &raw const action as usize;
    // SAFETY: the handler keeps to what a handler may do.
    unsafe { call(nr::RT_SIGACTION, [signal, at, 0, 8, 0, 0]) }
}

/// What is different in a user process: it may not make the call that unblocks
/// signals, so none is ever blocked. Only its driver sends it signals.
pub(crate) fn listen_in_user_process() -> Result<(), i32> {
    for signal in [SIGALRM, KICK_SIGNAL, FORCE_SIGNAL] {
        action(signal, SA_NODEFER, 0)?;
    }
    Ok(())
}

/// Makes all signals arrive at [`handle_signal`], on a stack of ours.
pub(crate) fn listen() -> Result<(), i32> {
    let kicks = 1_u64 << (SIGALRM - 1) | 1 << (KICK_SIGNAL - 1);
    // struct sigaltstack: address, flags, size.
    let stack = [STACK, 0, STACK_SIZE];
    let at = &raw const stack as usize;
    // SAFETY: the stack is mapped, and used for this only.
    unsafe { call(nr::SIGALTSTACK, [at, 0, 0, 0, 0, 0]) }?;
    for signal in TRAPS {
        // Nothing is blocked while a trap is handled, because the handler does
        // not return in the way that would unblock it.
        action(signal, SA_NODEFER, 0)?;
    }
    for signal in LAUNCHERS {
        let ignore = Action {
            handler: 1,
            flags: 0,
            restorer: 0,
            mask: 0,
        };
        let signal = signal.cast_unsigned() as usize;
        let at = &raw const ignore as usize;
        // SAFETY: the kernel reads `ignore`.
        unsafe { call(nr::RT_SIGACTION, [signal, at, 0, 8, 0, 0]) }?;
    }
    for signal in [SIGALRM, KICK_SIGNAL] {
        // A storm of kicks must not pile up on the stack.
        action(signal, 0, kicks)?;
    }
    Ok(())
}

/// A signal that has come.
struct Came {
    signal: i32,
    /// It is a page fault that a protection key caused.
    keys: bool,
    /// It has interrupted 64-bit code.
    long: bool,
}

impl Came {
    fn is_kick(&self) -> bool {
        matches!(self.signal, SIGALRM | KICK_SIGNAL)
    }
}

extern "C" fn handle_signal(
    signal: i32,
    info: *const SignalInfo,
    context: *mut UserContext,
) {
    // SAFETY: the kernel passes its frame, which is on our stack until we
    // leave.
    let context = unsafe { &mut (*context).machine };
    // SAFETY: it passes this, too.
    let keys = signal == SIGSEGV && unsafe { (*info).code } == SEGV_PKUERR;
    let long = u32::from(context.cs) == REAL_LONG_CS;
    let came = Came { signal, keys, long };
    if signal == SIGALRM {
        own().armed.store(0, Ordering::Relaxed);
    }
    if long {
        let event_words = [context.rdi, context.rsi, context.rdx];
        let kicked = came.is_kick() || signal == FORCE_SIGNAL;
        role().interrupted(context.rip, context.rax, event_words, kicked);
    }
    if signal == FORCE_SIGNAL {
        forced(long, context);
    }
    if long && is_ours(context.rip) {
        return in_our_code(&came, context);
    }
    take_over(context);
    role().stopped(event_of(&came, context), came.is_kick())
}

/// The driver of this user process makes it report where it is.
fn forced(long: bool, context: &SignalContext) -> ! {
    // A kick that was delivered late comes together with this signal, which
    // then interrupts the kick's handler at its first instruction. That handler
    // goes on.
    if long && context.rip == lg_signal_entry as *const () as u64 {
        resume(context);
    }
    // Our own code answers in time, so this is user code that has jumped into
    // it.
    take_over(context);
    let event = if long { Event::LongMode } else { Event::Kick };
    role().stopped(event, false)
}

/// Whether `rip` is in a trampoline.
fn in_trampoline(rip: u64) -> bool {
    let size = size_of::<TrampolinePages>();
    (TRAMPOLINES as u64..(TRAMPOLINES + size) as u64).contains(&rip)
}

/// Whether `rip` is in a trampoline for kernels.
fn in_kernels_trampoline(rip: u64) -> bool {
    in_trampoline(rip) && rip >= (TRAMPOLINES + USER_TRAMPOLINES_SIZE) as u64
}

/// Whether `rip` is in this program or in a trampoline.
fn is_ours(rip: u64) -> bool {
    (IMAGE as u64..(IMAGE + IMAGE_SIZE) as u64).contains(&rip)
        || in_trampoline(rip)
}

/// A signal has interrupted our own code. If it has faulted, this does not
/// return.
fn in_our_code(came: &Came, context: &mut SignalContext) {
    if came.keys {
        // User code had locked our pages by protection keys when it came here.
        // The kernel has unlocked them for this handler.
        resume(context);
    }
    if came.is_kick() {
        context.rip = note_kick(context.rip);
        return finish(context);
    }
    let step = is_step(came.signal, context.vector, context.eflags);
    if step && in_trampoline(context.rip) {
        // The Guest's kernel single-steps the Guest's code, and a trampoline
        // stands where its processor had one instruction. The trampoline is
        // stepped over.
        context.eflags &= !u64::from(EFLAGS_TF);
        own().note_step();
        return finish(context);
    }
    if came.signal == SIGILL && context.rip == return_site() {
        role().faulted(&reason::RETURN_REFUSED);
    }
    role().faulted(&HostFault {
        signal: came.signal,
        vector: context.vector,
        rip: context.rip,
        cr2: context.cr2,
    });
    take_over(context);
    role().stopped(Event::LongMode, false)
}

/// A kick has interrupted our own code, at `rip`: it is looked at when that
/// code is done. Answers where the code has to go on.
fn note_kick(rip: u64) -> u64 {
    own().kicked.store(1, Ordering::Relaxed);
    role().count_kick();
    notify::kicked_at(rip).unwrap_or_else(|| leave::after_kick(rip))
}

/// Lets the interrupted code go on: returns if the handler may return.
fn finish(context: &SignalContext) {
    if !role().may_return() {
        resume(context);
    }
}

/// What a signal in the Guest's code means.
fn event_of(came: &Came, context: &SignalContext) -> Event {
    let Came { signal, keys, long } = *came;
    match signal {
        // A 64-bit loop must not be able to hide from its kernel.
        _ if came.is_kick() && long => Event::LongMode,
        _ if !long && is_crossing(context.rip) => Event::Crossing,
        _ if !long && vdso::is_landing(context.rip) => Event::StraySystemCall,
        _ if came.is_kick() => Event::Kick,
        _ if long => Event::LongMode,
        SIGSYS if context.rip >> 32 != 0 => Event::StraySystemCall,
        SIGSYS => Event::SystemCall,
        _ => Event::Trap {
            vector: context.vector as u8,
            error: context.error as u32 | if keys { PROTECTION_KEY } else { 0 },
            cr2: context.cr2 as u32,
        },
    }
}

/// Whether `rip` is in the code of crossings, or in a trampoline that leads
/// there, which only a view has.
fn is_crossing(rip: u64) -> bool {
    (crossing::is_code(rip) || in_kernels_trampoline(rip))
        && setup().user_processes == 0
}

/// Whether the signal is that of a single step.
fn is_step(signal: i32, vector: u64, eflags: u64) -> bool {
    const DEBUG_VECTOR: u64 = 1;
    signal == SIGTRAP
        && vector == DEBUG_VECTOR
        && eflags & u64::from(EFLAGS_TF) != 0
}

/// Goes on where a signal has interrupted our own code, with the protection
/// keys of this handler.
fn resume(context: &SignalContext) -> ! {
    let (area, parts) = fpu_of(context);
    // SAFETY: what the kernel saved is loaded again.
    unsafe { lg_resume(context, area, parts & !PKRU) }
}

/// Copies the Guest's registers into the shared state.
fn take_over(context: &SignalContext) {
    let regs = registers();
    leave::save_segments(regs, u32::from(context.ss));
    regs.eax.set(context.rax as u32);
    regs.ebx.set(context.rbx as u32);
    regs.ecx.set(context.rcx as u32);
    regs.edx.set(context.rdx as u32);
    regs.esi.set(context.rsi as u32);
    regs.edi.set(context.rdi as u32);
    regs.ebp.set(context.rbp as u32);
    regs.esp.set(context.rsp as u32);
    regs.eip.set(context.rip as u32);
    regs.eflags.set(context.eflags as u32);
    let (area, parts) = fpu_of(context);
    fpu::set_frame(area, parts);
}

/// Where a frame's floating-point registers are, and which parts of them.
fn fpu_of(context: &SignalContext) -> (u64, u64) {
    // SAFETY: every frame of a 64-bit kernel has a floating-point part.
    let fpu = unsafe { &*context.fpu };
    let parts = if fpu.magic == FPU_MAGIC {
        fpu.parts
    } else {
        LEGACY
    };
    (context.fpu as u64, parts)
}

/// The Host itself has faulted: by a bug, or because the Guest has changed it.
struct HostFault {
    signal: i32,
    vector: u64,
    rip: u64,
    cr2: u64,
}

impl core::fmt::Display for HostFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the Host faulted: signal {}, trap {} at {:#x} (address {:#x})",
            self.signal, self.vector, self.rip, self.cr2
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_neither_a_breakpoint_nor_a_fault() {
        assert!(is_step(SIGTRAP, 1, 0x302));
        assert!(!is_step(SIGTRAP, 3, 0x302), "int3");
        assert!(!is_step(SIGTRAP, 1, 0x202), "icebp");
        assert!(!is_step(SIGSEGV, 13, 0x302));
    }
}
