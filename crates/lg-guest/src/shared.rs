//! The page that this Guest shares with the Host.
//!
//! It is an ordinary static of ours. LGUEST_INIT, the very first hypercall,
//! tells the Host its address. From then on both sides write to it at any time,
//! so every access here is volatile. It has a page to itself. A Host may watch
//! our writes to `irq_enabled` by protecting that page, and writes to other
//! words there would cause needless page faults. Where its fields are depends
//! on the interface.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{println, shared};
//!
//! fn describe() {
//!     println!("I am guest {}", shared::guest_id());
//!     println!("the counter runs at {} kHz", shared::tsc_khz());
//! }
//! ```

#![expect(unsafe_code, reason = "memory that the Host writes to")]

use crate::frame::Phys;
use crate::interface::{IRQ_ENABLED, has_virtio, interface, layout};
use core::cell::UnsafeCell;
use lg_abi::interface::CallRegisters;
use lg_abi::layout::{Field, NoIrq};
use lg_abi::page::PAGE_SIZE;
use lg_abi::shared::{HCALL_DONE, HCALL_PENDING, IF, LHCALL_RING_SIZE};

const WORDS: usize = PAGE_SIZE as usize / 4;

/// The page. The assembly in [`crate::trap`] and [`crate::boot`] uses its name.
#[repr(C, align(4096))]
struct SharedPage(UnsafeCell<[u32; WORDS]>);

// SAFETY: one CPU (crate rule 1), and all accesses go through the volatile
// reads and writes below.
unsafe impl Sync for SharedPage {}

#[unsafe(export_name = "lguest_data")]
static LGUEST_DATA: SharedPage = SharedPage(UnsafeCell::new([0; WORDS]));

/// The address of the `index`th byte of a field.
fn byte(field: Field, index: usize) -> *mut u8 {
    let at = field.offset() as usize + index;
    assert!(at < PAGE_SIZE as usize);
    // SAFETY: inside the page, as was just checked.
    unsafe { LGUEST_DATA.0.get().cast::<u8>().add(at) }
}

/// A word of a field; they are all aligned.
fn word(field: Field, index: usize) -> *mut u32 {
    byte(field, 4 * index).cast()
}

fn read(field: Field) -> u32 {
    // SAFETY: valid and aligned; the Host may write at any time, hence
    // volatile.
    unsafe { word(field, 0).read_volatile() }
}

fn write(field: Field, index: usize, value: u32) {
    // SAFETY: valid and aligned; no reference to it exists.
    unsafe { word(field, index).write_volatile(value) }
}

/// Tells the Host of the page, and where no interrupt may be delivered. Must be
/// the first hypercall. Later Guests make it before they can run Rust.
pub(crate) fn init(noirq_start: u32, noirq_end: u32) {
    for entry in 0..LHCALL_RING_SIZE {
        set_ring_status(entry, HCALL_DONE);
    }
    if let NoIrq::Range(start, end) = layout().noirq {
        write(start, 0, noirq_start);
        write(end, 0, noirq_end);
    }
    crate::hcall::init(Phys::of(&raw const LGUEST_DATA));
}

/// Whether interrupts are on.
pub fn irq_enabled() -> bool {
    read(IRQ_ENABLED) & IF != 0
}

/// Switches interrupts on or off. Compiler fences on both sides keep other
/// memory accesses from moving across the store. Where the Host says that an
/// interrupt waits, it is asked for it.
pub fn set_irq_enabled(enabled: bool) {
    use core::sync::atomic::{Ordering, compiler_fence};
    compiler_fence(Ordering::SeqCst);
    write(IRQ_ENABLED, 0, if enabled { IF } else { 0 });
    compiler_fence(Ordering::SeqCst);
    if enabled && irq_pending() {
        crate::hcall::send_interrupts();
    }
}

/// Whether the Host says that an interrupt waits. Older Hosts do not say.
pub fn irq_pending() -> bool {
    let field = match has_virtio() {
        true => layout().irq_pending,
        false => None,
    };
    field.is_some_and(|field| read(field) != 0)
}

/// Blocks the interrupts in `mask`, and no others.
pub fn set_blocked(mask: u32) {
    write(layout().blocked_interrupts, 0, mask);
}

/// The interrupts that are blocked.
pub fn blocked() -> u32 {
    read(layout().blocked_interrupts)
}

/// The faulting address of the last page fault.
pub fn cr2() -> u32 {
    read(layout().cr2)
}

/// Wall-clock time at the last interrupt: seconds and nanoseconds. The Host may
/// be writing it, so it is read until two reads agree.
pub fn time() -> (u32, u32) {
    let read = || (read(layout().time_sec), read(layout().time_nsec));
    loop {
        let first = read();
        if first == read() {
            return first;
        }
    }
}

/// How fast the time-stamp counter runs, in kHz; 0 = do not use it.
pub fn tsc_khz() -> u32 {
    read(layout().tsc_khz)
}

/// Bytes at the top of the address space that are not ours.
pub fn reserve_mem() -> u32 {
    read(layout().reserve_mem)
}

/// The number that the Host gave this Guest; 0 if it gives none.
pub fn guest_id() -> u16 {
    let [low, high, ..] = layout().guestid.map_or(0, read).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The state of an entry of the ring.
pub(crate) fn ring_status(entry: usize) -> u8 {
    // SAFETY: as in `read`.
    unsafe { byte(layout().hcall_status, entry).read_volatile() }
}

fn set_ring_status(entry: usize, status: u8) {
    // SAFETY: as in `write`.
    unsafe { byte(layout().hcall_status, entry).write_volatile(status) }
}

/// Fills an entry of the ring, then hands it over: in this order.
pub(crate) fn ring_put(entry: usize, call: &CallRegisters) {
    let ring = interface().ring;
    for (index, &register) in ring.iter().enumerate() {
        let word = entry * ring.len() + index;
        write(layout().hcalls, word, call.get(register));
    }
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
    set_ring_status(entry, HCALL_PENDING);
}
