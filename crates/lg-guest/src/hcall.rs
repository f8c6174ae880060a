//! Hypercalls: direct ones, and those that wait in the ring.
//!
//! All direct calls use one `int`. Three moves that do nothing stand before it:
//! a Host for which trapping is too slow can write a far jump to a trampoline
//! over these bytes, as it would patch a paravirtual kernel. No jump may lead
//! into the middle of that patch site, so no other code lies within reach of a
//! short jump.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{hcall, time};
//!
//! /// Nanoseconds of a hypercall that does nothing.
//! fn cost() -> u64 {
//!     let before = time::now();
//!     hcall::flush_async();
//!     time::now() - before
//! }
//! ```

#![expect(unsafe_code, reason = "the hypercall instruction")]

use crate::frame::Phys;
use crate::interface::{number, registers};
use crate::one_cpu::OneCpu;
use crate::ring::Cursor;
use crate::{irq, shared};
use core::arch::{asm, global_asm};
use lg_abi::call::CallName;
use lg_abi::dma::{BindCount, Dma};
use lg_abi::hypercall::HYPERCALL_VECTOR;
use lg_abi::interface::CallRegisters;
use lg_abi::page::Pte;
use lg_abi::segment::Descriptor;

global_asm!(
    ".text",
    ".skip {short_jump}, {int3}",
    // eax = the call, edx, ebx, ecx = its arguments; eax = the result. The
    // other registers keep their values.
    ".globl lguest_hypercall",
    "lguest_hypercall:",
    "    mov %eax, %eax",
    "    mov %edx, %edx",
    "    mov %ebx, %ebx",
    "    int ${vector}",
    "    ret",
    ".skip {short_jump}, {int3}",
    short_jump = const 128,
    int3 = const 0xCC,
    vector = const HYPERCALL_VECTOR,
    options(att_syntax)
);

/// Makes a call at once. The Host runs what is in the ring first.
fn direct(call: &CallRegisters) -> u32 {
    let result;
    // SAFETY: the Host keeps all registers but eax; memory that it may
    // write to was handed over by the caller (crate rule 3), and asm
    // without `nomem` counts as touching all of it.
    unsafe {
        asm!(
            "call lguest_hypercall",
            inout("eax") call.eax => result,
            in("edx") call.edx,
            in("ebx") call.ebx,
            in("ecx") call.ecx,
        );
    }
    result
}

/// The registers of a call that this interface has. No call of ours has a
/// fourth argument.
#[inline]
fn call(name: CallName, first: u32, second: u32, third: u32) -> CallRegisters {
    let number = number(name).expect("a call of this interface");
    registers(number, [first, second, third, 0])
}

/// A call of the interface, made at once.
#[inline]
fn now(name: CallName, first: u32, second: u32) -> u32 {
    direct(&call(name, first, second, 0))
}

static CURSOR: OneCpu<Cursor> = OneCpu::new(Cursor::new());

/// Puts a call into the ring, or makes it at once if the ring is full.
/// Interrupts must be off, because a handler may put one there, too.
fn defer(call: &CallRegisters) {
    irq::without(|| {
        let entry = CURSOR.with(|cursor| cursor.claim(shared::ring_status));
        match entry {
            Some(entry) => shared::ring_put(entry, call),
            None => {
                direct(call);
            }
        }
    });
}

/// Has the Host run the ring.
pub fn flush_async() {
    now(CallName::FlushAsync, 0, 0);
}

/// Does nothing, by way of the ring: used to measure the cost.
pub fn deferred_nothing() {
    defer(&call(CallName::FlushAsync, 0, 0, 0));
}

/// Tells the Host where the shared page is. The first call, made once.
pub(crate) fn init(lguest_data: Phys) {
    now(CallName::Init, lguest_data.0, 0);
}

/// Ends the Guest with a message, NUL-terminated, at `message`.
pub(crate) fn end(message: Phys) -> ! {
    /// The Guest does not want to start again.
    const FOR_GOOD: u32 = 1;
    let name = match number(CallName::Shutdown) {
        Some(_) => CallName::Shutdown,
        None => CallName::Crash,
    };
    now(name, message.0, FOR_GOOD);
    loop {
        // Neither of them returns.
        core::hint::spin_loop();
    }
}

/// Has the Host use a descriptor table.
pub(crate) fn load_gdt(table: &'static [Descriptor]) {
    if number(CallName::LoadGdt).is_some() {
        let at = Phys::of(table.as_ptr());
        now(CallName::LoadGdt, at.0, crate::word(table.len()));
        return;
    }
    for (index, descriptor) in (0..).zip(table) {
        let Descriptor { low, high } = *descriptor;
        defer(&call(CallName::LoadGdtEntry, index, low, high));
    }
    flush_async();
}

/// Sets the gate of a vector.
pub(crate) fn load_idt_entry(vector: u32, low: u32, high: u32) {
    defer(&call(CallName::LoadIdtEntry, vector, low, high));
}

/// Switches to the address space whose directory is at `directory`.
pub(crate) fn new_pgtable(directory: Phys) {
    now(CallName::NewPgtable, directory.0, 0);
}

/// Makes the Host drop its mappings of the user half of the current address
/// space, or of everything.
pub fn flush_tlb(everything: bool) {
    now(CallName::FlushTlb, u32::from(everything), 0);
}

/// Names the stack for the next trap from user mode: its selector, its top and
/// its number of pages. Deferred: a switch of address space follows.
pub(crate) fn set_stack(ss: u32, esp: u32, pages: u32) {
    defer(&call(CallName::SetStack, ss, esp, pages));
}

/// With `true`, the next use of the FPU traps with vector 7.
pub fn set_ts(on: bool) {
    const TS: u32 = 8;
    now(CallName::Ts, if on { TS } else { 0 }, 0);
}

/// Has the timer interrupt come in `nanoseconds`; 0 = not at all.
pub(crate) fn set_clockevent(nanoseconds: u32) {
    now(CallName::SetClockevent, nanoseconds, 0);
}

/// Sleeps until an interrupt is pending. The Host delivers it, and this returns
/// with interrupts on. Must be called with interrupts off: then no interrupt is
/// lost between the caller's last check and the sleep.
pub(crate) fn halt() {
    now(CallName::Halt, 0, 0);
}

/// Has the Host deliver an interrupt that waits.
pub(crate) fn send_interrupts() {
    now(CallName::SendInterrupts, 0, 0);
}

/// Binds `count` buffers at `buffers` to `key`, and returns whether that
/// worked. The Host may write to them, and to what they name, from now on.
pub(crate) fn bind_dma(key: Phys, buffers: Phys, count: u32, irq: u8) -> bool {
    let bind = BindCount { count, irq };
    direct(&call(CallName::BindDma, key.0, buffers.0, bind.word())) != 0
}

/// Takes back the buffers at `buffers` from `key`.
pub(crate) fn unbind_dma(key: Phys, buffers: Phys) {
    let bind = BindCount { count: 0, irq: 0 };
    direct(&call(CallName::BindDma, key.0, buffers.0, bind.word()));
}

/// Sends the sections of `dma` to `key`. On return, `used_len` is the number of
/// bytes that were taken.
pub(crate) fn send_dma(key: Phys, dma: &mut Dma) {
    let at = Phys::of(&raw const *dma);
    now(CallName::SendDma, key.0, at.0);
}

/// Tells the Host of a virtqueue with buffers, of a device's new status, or of
/// a text for the early console.
pub(crate) fn notify(at: Phys) {
    now(CallName::Notify, at.0, 0);
}

/// Says that the entry for `va` in the tables of `directory` is `pte` now.
pub(crate) fn set_pte(directory: Phys, va: u32, pte: Pte) {
    defer(&call(CallName::SetPte, directory.0, va, pte.0));
}

/// Says that entry `index` of `directory` has changed.
pub(crate) fn set_directory_entry(directory: Phys, index: u32) {
    let name = match number(CallName::SetPgd) {
        Some(_) => CallName::SetPgd,
        None => CallName::SetPmd,
    };
    defer(&call(name, directory.0, index, 0));
}

/// Has the Host copy three thread-local segments.
pub fn load_tls(descriptors: Phys) {
    now(CallName::LoadTls, descriptors.0, 0);
}
