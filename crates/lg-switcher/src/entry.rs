//! Leaving into the Guest: the last instructions before its own.
//!
//! The Guest's registers lie in the state that the views share. To leave means
//! to load its floating-point registers, then its general ones, and then to let
//! one `iretq` do the rest: code and stack segment, flags, eip and esp. A
//! signal may come at any moment before that, and then something may have to be
//! done first (an interrupt for the Guest, say). So the stretch from the look
//! at [`Own::kicked`] to the `iretq` can be started again at any point: the
//! handler sees that it interrupted it and moves on to `lg_recheck`. Nothing is
//! lost, for all that was loaded still lies where it was loaded from.

#![expect(unsafe_code, reason = "assembly, and the Host's own state")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the Guest's registers are the low halves of ours"
)]

use crate::extended::{self, PKRU};
use crate::layout::{EXIT_FRAME, OWN, STACK, STATE, State};
use crate::own::{Own, own};
use crate::trampolines::XmmArea;
use crate::user;
use crate::user_driver;
use crate::world::{Outside, fpu, registers, state};
use core::arch::{asm, global_asm};
use core::cell::{Cell, UnsafeCell};
use core::fmt::Write;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, compiler_fence};
use lg_host::kill::Kill;
use lg_host::run::{Event, Host};
use lg_host::state::Registers;
use lg_wire::mailbox::Request;

/// Where `iretq` finds the way into the Guest.
#[repr(C)]
struct ExitFrame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// lg_leave: rdi = nothing. Everything is in memory; the stack is kept in
// `Own`, so that lg_recheck has one: what lies above it (the signal's
// frame, with the Guest's floating-point registers) must stay whole.
//
// Live from lg_leave_start on: r14 = Own, r15 = the Guest's registers. r8 to
// r14 are ours to use, for 32-bit code cannot see them.
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
    // The Host fades; the Guest takes up the pen.
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

/// The Host of this view. One thread, and the handlers that may interrupt the
/// Host do not touch it.
struct TheHost(UnsafeCell<Option<Host<'static>>>);

// SAFETY: there is one thread.
unsafe impl Sync for TheHost {}

static HOST: TheHost = TheHost(UnsafeCell::new(None));

/// Gives this view its Host.
pub(crate) fn set_host(host: Host<'static>) {
    // SAFETY: called once, before any signal can arrive.
    unsafe { *HOST.0.get() = Some(host) };
}

/// The Host of this view.
fn host() -> &'static mut Host<'static> {
    // SAFETY: one use at a time: a handler that interrupts the Host does not
    // call this, and one that interrupts the Guest finds the Host idle.
    let host = unsafe { &mut *HOST.0.get() };
    host.as_mut().expect("a view has a Host before it runs")
}

/// The Guest stopped for `event`: asks the Host and goes on. The caller has
/// put the Guest's registers where they belong. `masked`: signals are blocked
/// and have to be let through again.
pub(crate) fn enter(event: Event, masked: bool) -> ! {
    look_from_now_on();
    let result = host().run_guest(event);
    leave_or_die(result, masked)
}

/// The run token has come to this view for the first time.
pub(crate) fn begin() -> ! {
    take_fpu();
    let result = host().catch_up().and_then(|()| host().get_ready());
    leave_or_die(result, false)
}

/// A signal came between the last look around and the Guest's first
/// instruction.
extern "C" fn recheck() -> ! {
    if user::are_we() {
        user::hand_in(Event::Kick);
    }
    state().vm.counters.restarts.count();
    look_from_now_on();
    let result = host().get_ready();
    leave_or_die(result, false)
}

/// The Host is about to look around: kicks from here on are new. Only our own
/// handler writes the word, so the compiler alone has to keep the order.
pub(crate) fn look_from_now_on() {
    own().kicked.store(0, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

fn leave_or_die(mut result: Result<(), Kill>, masked: bool) -> ! {
    let host = host();
    if masked {
        unblock_signals();
    }
    loop {
        if let Err(kill) = result {
            die(&kill);
        }
        if !(host.vm.in_user_mode() && host.shadow.has_user_process()) {
            let (cs, ss) = host.real_segments();
            leave_as(cs, ss);
        }
        // User code runs elsewhere, and we are here when it comes back.
        result = if own().kicked.load(Ordering::SeqCst) == 0 {
            let event = user_driver::run();
            look_from_now_on();
            host.run_guest(event)
        } else {
            look_from_now_on();
            host.vm.counters.restarts.count();
            host.get_ready()
        };
    }
}

/// Somebody wants attention, and the Host is busy: it will look when it is
/// done. Answers where the interrupted code has to go on.
pub(crate) fn note_kick(rip: u64) -> u64 {
    own().kicked.store(1, Ordering::Relaxed);
    if !user::are_we() {
        state().vm.wire.kick.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(rip) = user_driver::kicked_at(rip) {
        return rip;
    }
    let start = &raw const lg_leave_start as u64;
    let end = &raw const lg_leave_end as u64;
    if (start..end).contains(&rip) {
        lg_recheck as *const () as u64
    } else {
        rip
    }
}

/// The Guest's floating-point registers are in a signal's frame, at `area`;
/// `parts` says which there are. They are loaded from there, but for PKRU,
/// which stays as the kernel of the machine has set it for the handler.
pub(crate) fn set_frame(area: u64, parts: u64) {
    set_fpu(area, parts & !PKRU);
}

fn set_fpu(area: u64, parts: u64) {
    own().fpu_area.store(area, Ordering::Relaxed);
    own().fpu_parts.store(parts, Ordering::Relaxed);
}

/// Of the Guest's floating-point registers, only xmm0 to xmm7 have been put
/// away; the rest is where it was.
pub(crate) fn set_xmm(area: *mut XmmArea) {
    set_fpu(area as u64, ONLY_XMM);
}

/// For [`Own::fpu_parts`].
const ONLY_XMM: u64 = u64::MAX;

/// The Guest goes on in another view or user process: its floating-point
/// registers go where that one will look for them. What FXSAVE does not know of
/// them is in the processor afterwards.
pub(crate) fn put_fpu_away() {
    let parts = own().fpu_parts.load(Ordering::Relaxed);
    if parts == ONLY_XMM {
        save_whole_fpu();
        return;
    }
    let at = own().fpu_area.load(Ordering::Relaxed);
    let (area, shared) = (at as *const [u8; 512], fpu().0.as_ptr());
    if area != shared {
        // SAFETY: every area, whoever made it, begins with these 512 bytes.
        unsafe { shared.copy_from_nonoverlapping(area, 1) };
        extended::take_from_frame(at, parts);
    }
}

/// Puts together what is in the processor and what was put away.
fn save_whole_fpu() {
    let area = own().fpu_area.load(Ordering::Relaxed) as *const XmmArea;
    let shared = fpu().0.as_ptr();
    // SAFETY: both areas are ours and aligned; the registers are named.
    unsafe {
        asm!(
            "movaps xmm0, [{area}]", "movaps xmm1, [{area} + 16]",
            "movaps xmm2, [{area} + 32]", "movaps xmm3, [{area} + 48]",
            "movaps xmm4, [{area} + 64]", "movaps xmm5, [{area} + 80]",
            "movaps xmm6, [{area} + 96]", "movaps xmm7, [{area} + 112]",
            "fxsave64 [{shared}]",
            area = in(reg) area,
            shared = in(reg) shared,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            options(nostack, preserves_flags),
        );
    };
}

/// The Guest goes on in this view: its floating-point registers are where the
/// last one has put them.
pub(crate) fn take_fpu() {
    set_fpu(fpu().0.as_ptr() as u64, 0);
}

/// The Guest is over.
pub(crate) fn die(reason: &dyn core::fmt::Display) -> ! {
    let mut text = Text {
        bytes: [0; 200],
        len: 0,
    };
    // A text that is too long is cut, which is no error here.
    let _ = write!(text, "{reason}");
    Outside::die(Request::Killed, &text.bytes[..text.len])
}

struct Text {
    bytes: [u8; 200],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for &byte in s.as_bytes() {
            let free = self.bytes.get_mut(self.len).ok_or(core::fmt::Error)?;
            *free = byte;
            self.len += 1;
        }
        Ok(())
    }
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

/// Lets all signals through again: a handler that leaves into the Guest does
/// not return, so nobody else does it.
fn unblock_signals() {
    const SIG_SETMASK: usize = 2;
    let none = 0_u64;
    let at = &raw const none as usize;
    // SAFETY: the kernel reads `none`.
    let _ = unsafe {
        crate::syscall::call(
            crate::syscall::nr::RT_SIGPROCMASK,
            [SIG_SETMASK, at, 0, 8, 0, 0],
        )
    };
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
    // A base that no 32-bit program can have is none that it has set.
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
        if changed(&live.fs, &regs.fs) | changed(&live.fs_base, &regs.fs_base) {
            asm!("mov fs, {:e}", in(reg) regs.fs.get());
            asm!("wrfsbase {}", in(reg) u64::from(regs.fs_base.get()));
        }
        if changed(&live.gs, &regs.gs) | changed(&live.gs_base, &regs.gs_base) {
            asm!("mov gs, {:e}", in(reg) regs.gs.get());
            asm!("wrgsbase {}", in(reg) u64::from(regs.gs_base.get()));
        }
    }
}
