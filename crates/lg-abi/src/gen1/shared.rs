//! The page that the Guest's kernel shares with the Host.
//!
//! LGUEST_INIT names it once. From then on each side writes some fields and
//! reads the others without a call. A store switches interrupts off and on, and
//! most hypercalls wait in a ring until the next trap.

use super::hypercall::RawCall;
use crate::layout::{Field, Layout, NoIrq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries in the ring of asynchronous hypercalls.
pub const LHCALL_RING_SIZE: usize = 64;

/// In `hcall_status`: this entry is free, or was carried out.
pub const HCALL_DONE: u8 = 0xFF;

/// In `hcall_status`: this entry waits for the Host.
pub const HCALL_PENDING: u8 = 0;

/// In `irq_enabled`: the bit of eflags that means "interrupts are on".
pub const IF: u32 = 0x200;

/// `struct lguest_data`: all that both sides write without a call.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LguestData {
    /// Guest: 512 = interrupts enabled, 0 = not. The Host clears it on the
    /// way into an interrupt gate.
    pub irq_enabled: u32,
    /// Guest: a bit for each interrupt that must not be delivered.
    pub blocked_interrupts: u32,
    /// Host: the faulting address of the last page fault.
    pub cr2: u32,
    /// Host: wall-clock seconds, set at each interrupt.
    pub time_sec: u32,
    /// Host: wall-clock nanoseconds, set at each interrupt.
    pub time_nsec: u32,
    /// Both: [`HCALL_DONE`] or [`HCALL_PENDING`] for each entry of the ring.
    pub hcall_status: [u8; LHCALL_RING_SIZE],
    /// Guest: the ring itself.
    pub hcalls: [RawCall; LHCALL_RING_SIZE],
    /// Host: bytes at the top of the address space that are not the Guest's.
    pub reserve_mem: u32,
    /// Host: the number that it gave this Guest.
    pub guestid: u16,
    /// Not used.
    pub padding: u16,
    /// Host: how fast the time-stamp counter runs; 0 = do not use it.
    pub tsc_khz: u32,
    /// Guest: no interrupt may be delivered from this address ...
    pub noirq_start: u32,
    /// Guest: ... up to, and not including, this one.
    pub noirq_end: u32,
}

/// Offsets of the fields, for code that reads one at a time.
pub mod offset {
    use super::LguestData;
    use core::mem::offset_of;

    macro_rules! offsets {
        ($($name:ident = $field:ident;)*) => {$(
            #[doc = concat!("Of `", stringify!($field), "`.")]
            #[allow(clippy::cast_possible_truncation)] // a page at the most
            pub const $name: u32 = offset_of!(LguestData, $field) as u32;
        )*};
    }

    offsets! {
        IRQ_ENABLED = irq_enabled;
        BLOCKED_INTERRUPTS = blocked_interrupts;
        CR2 = cr2;
        TIME_SEC = time_sec;
        TIME_NSEC = time_nsec;
        HCALL_STATUS = hcall_status;
        HCALLS = hcalls;
        RESERVE_MEM = reserve_mem;
        GUESTID = guestid;
        TSC_KHZ = tsc_khz;
        NOIRQ_START = noirq_start;
        NOIRQ_END = noirq_end;
    }
}

/// Where the fields are, as the Host uses them.
#[allow(clippy::cast_possible_truncation)] // a page at the most
pub const LAYOUT: Layout = {
    macro_rules! field {
        ($name:ident) => {
            Field::at(core::mem::offset_of!(LguestData, $name) as u16)
        };
    }
    Layout {
        irq_enabled: field!(irq_enabled),
        blocked_interrupts: field!(blocked_interrupts),
        cr2: field!(cr2),
        time_sec: field!(time_sec),
        time_nsec: field!(time_nsec),
        irq_pending: None,
        hcall_status: field!(hcall_status),
        hcalls: field!(hcalls),
        reserve_mem: field!(reserve_mem),
        guestid: Some(field!(guestid)),
        tsc_khz: field!(tsc_khz),
        pgdir: None,
        noirq: NoIrq::Range(field!(noirq_start), field!(noirq_end)),
        kernel_address: None,
        syscall_vec: None,
        size: size_of::<LguestData>() as u32,
    }
};

/// Interrupts that a Guest has: one each, and 0 is the timer.
pub const LGUEST_IRQS: u32 = 32;

/// The vector of interrupt 0.
pub const FIRST_EXTERNAL_VECTOR: u32 = 32;

/// The vector of a system call.
pub const SYSCALL_VECTOR: u32 = 0x80;

/// The vector that the Guest gets only while CR0.TS is set.
pub const FPU_VECTOR: u32 = 7;

/// The vector of a page fault.
pub const PAGE_FAULT_VECTOR: u32 = 14;

/// Entries of the Guest's interrupt table that the Host reads.
pub const IDT_ENTRIES: usize = 256;

const _: () = {
    assert!(size_of::<LguestData>() == 1128);
    assert!(offset::HCALL_STATUS == 20);
    assert!(offset::HCALLS == 84);
    assert!(offset::RESERVE_MEM == 1108);
    assert!(offset::GUESTID == 1112);
    assert!(offset::TSC_KHZ == 1116);
    assert!(offset::NOIRQ_START == 1120);
    assert!(offset::NOIRQ_END == 1124);
};
