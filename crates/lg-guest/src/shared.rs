//! The page that this Guest shares with the Host.
//!
//! It is an ordinary static of ours. LGUEST_INIT, the very first hypercall,
//! tells the Host its address. From then on both sides write to it at any time,
//! so every access here is volatile. It has a page to itself. A Host may watch
//! our writes to `irq_enabled` by protecting that page, and writes to other
//! words there would cause needless page faults.

#![expect(unsafe_code, reason = "memory that the Host writes to")]

use crate::frame::Phys;
use core::cell::UnsafeCell;
use core::ptr::{addr_of, addr_of_mut};
use lg_abi::hypercall::RawCall;
use lg_abi::shared::{
    HCALL_DONE, HCALL_PENDING, IF, LHCALL_RING_SIZE, LguestData,
};

/// The page. The assembly in [`crate::trap`] uses its name.
#[repr(C, align(4096))]
struct SharedPage(UnsafeCell<LguestData>);

// SAFETY: one CPU (crate rule 1), and all accesses go through the volatile
// reads and writes below.
unsafe impl Sync for SharedPage {}

#[unsafe(export_name = "lguest_data")]
static LGUEST_DATA: SharedPage = SharedPage(UnsafeCell::new(LguestData {
    irq_enabled: 0,
    blocked_interrupts: 0,
    cr2: 0,
    time_sec: 0,
    time_nsec: 0,
    hcall_status: [HCALL_DONE; LHCALL_RING_SIZE],
    hcalls: [RawCall {
        eax: 0,
        edx: 0,
        ebx: 0,
        ecx: 0,
    }; LHCALL_RING_SIZE],
    reserve_mem: 0,
    guestid: 0,
    padding: 0,
    tsc_khz: 0,
    noirq_start: 0,
    noirq_end: 0,
}));

macro_rules! read {
    ($($field:tt)+) => {{
        // SAFETY: the address of a field of a static.
        let field = unsafe { addr_of!((*LGUEST_DATA.0.get()).$($field)+) };
        // SAFETY: it is valid and aligned; the Host may write at any time,
        // hence volatile.
        unsafe { field.read_volatile() }
    }};
}

macro_rules! write {
    ($value:expr => $($field:tt)+) => {{
        let value = $value;
        // SAFETY: the address of a field of a static.
        let field = unsafe { addr_of_mut!((*LGUEST_DATA.0.get()).$($field)+) };
        // SAFETY: it is valid and aligned; no reference to it exists.
        unsafe { field.write_volatile(value) }
    }};
}

/// Tells the Host of the page, and where no interrupt may be delivered. Must be
/// the first hypercall.
pub(crate) fn init(noirq_start: u32, noirq_end: u32) {
    write!(noirq_start => noirq_start);
    write!(noirq_end => noirq_end);
    crate::hcall::init(Phys::of(&raw const LGUEST_DATA));
}

/// Whether interrupts are on.
pub fn irq_enabled() -> bool {
    read!(irq_enabled) & IF != 0
}

/// Switches interrupts on or off. Compiler fences on both sides keep other
/// memory accesses from moving across the store.
pub fn set_irq_enabled(enabled: bool) {
    use core::sync::atomic::{Ordering, compiler_fence};
    compiler_fence(Ordering::SeqCst);
    write!(if enabled { IF } else { 0 } => irq_enabled);
    compiler_fence(Ordering::SeqCst);
}

/// Blocks the interrupts in `mask`, and no others.
pub fn set_blocked(mask: u32) {
    write!(mask => blocked_interrupts);
}

/// The interrupts that are blocked.
pub fn blocked() -> u32 {
    read!(blocked_interrupts)
}

/// The faulting address of the last page fault.
pub fn cr2() -> u32 {
    read!(cr2)
}

/// Wall-clock time at the last interrupt: seconds and nanoseconds. The Host may
/// be writing it, so it is read until two reads agree.
pub fn time() -> (u32, u32) {
    loop {
        let first = (read!(time_sec), read!(time_nsec));
        if first == (read!(time_sec), read!(time_nsec)) {
            return first;
        }
    }
}

/// How fast the time-stamp counter runs, in kHz; 0 = do not use it.
pub fn tsc_khz() -> u32 {
    read!(tsc_khz)
}

/// Bytes at the top of the address space that are not ours.
pub fn reserve_mem() -> u32 {
    read!(reserve_mem)
}

/// The number that the Host gave this Guest.
pub fn guest_id() -> u16 {
    read!(guestid)
}

/// The state of an entry of the ring.
pub(crate) fn ring_status(entry: usize) -> u8 {
    read!(hcall_status[entry])
}

/// Fills an entry of the ring, then hands it over: in this order.
pub(crate) fn ring_put(entry: usize, call: RawCall) {
    write!(call => hcalls[entry]);
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
    write!(HCALL_PENDING => hcall_status[entry]);
}
