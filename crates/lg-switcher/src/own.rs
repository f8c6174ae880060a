//! What a process keeps for itself between two entries.
//!
//! All that the way in and the way out write is here, in one page at a fixed
//! address. No other static of the program is written once it is confined, and
//! a user process can write no other one. User code can reach 64-bit mode and
//! write this page, too. In a view that changes nothing, because a view belongs
//! to the Guest anyway. A user process believes nothing of this page when it is
//! woken ([`Own::reset`]), because the next program may not be the one that ran
//! before.

#![expect(unsafe_code, reason = "memory at a fixed address")]

use crate::layout::OWN;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The xmm registers of a 32-bit program.
#[repr(C, align(16))]
pub struct XmmArea(pub(crate) [[u8; 16]; 8]);

/// Bytes of an image: enough for the parts that are kept, wherever today's
/// processors put them.
pub(crate) const IMAGE_SIZE: usize = 1664;

/// An area for XSAVE and XRSTOR.
#[repr(C, align(64))]
pub struct Image([u8; IMAGE_SIZE]);

/// The page. All zero is right at the beginning.
#[repr(C, align(4096))]
pub struct Own {
    /// The xmm registers, where a trampoline puts them.
    pub(crate) xmm: UnsafeCell<XmmArea>,
    /// Where XSAVE puts the extended state, and XRSTOR finds it.
    pub(crate) image: UnsafeCell<Image>,
    /// 1 = a kick has come since the Host last looked around.
    pub(crate) kicked: AtomicU32,
    /// The Guest was single-stepping when it came into a trampoline.
    pub(crate) stepped: AtomicBool,
    /// Where the Guest's floating-point registers are.
    pub(crate) fpu_area: AtomicU64,
    /// Which parts of them XRSTOR is to load; 0 = it is an FXSAVE area; all
    /// ones = only xmm0 to xmm7 are there, and the rest is still in the
    /// processor.
    pub(crate) fpu_parts: AtomicU64,
    /// The stack of a way out that has to be started again.
    pub(crate) leave_stack: AtomicU64,
    /// When this view's timer will go off; 0 = it will not. The handler of its
    /// signal sets it to 0.
    pub(crate) armed: AtomicU64,
    /// The disks whose files this view has closed: a bit each.
    pub(crate) closed_disks: AtomicU32,
    /// What is in the segment registers.
    pub(crate) live: Live,
}

/// What is in the segment registers. The Host's own code does not touch them
/// between the Guest's leaving and its going on.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) ds: Cell<u32>,
    pub(crate) es: Cell<u32>,
    pub(crate) fs: Cell<u32>,
    pub(crate) gs: Cell<u32>,
    pub(crate) fs_base: Cell<u32>,
    pub(crate) gs_base: Cell<u32>,
}

impl Live {
    /// From now on, all selectors count as changed.
    pub(crate) fn forget(&self) {
        /// A selector that no segment register holds.
        const NO_SELECTOR: u32 = u32::MAX;
        for selector in [&self.ds, &self.es, &self.fs, &self.gs] {
            selector.set(NO_SELECTOR);
        }
    }
}

impl Own {
    /// The step into a trampoline has trapped: the trampoline runs without the
    /// trap flag, and the Guest gets its flag back afterwards.
    pub(crate) fn note_step(&self) {
        self.stepped.store(true, Ordering::Relaxed);
    }

    /// Wipes what the last program has left in registers that are kept here.
    pub(crate) fn wipe(&self) {
        let (xmm, image) = (self.xmm.get(), self.image.get());
        // SAFETY: bytes of this page, to which there are no references.
        unsafe { xmm.write_bytes(0, 1) };
        // SAFETY: as above.
        unsafe { image.write_bytes(0, 1) };
    }

    /// Forgets everything but `kicked`, which the caller has set: the next way
    /// out loads every register.
    pub(crate) fn reset(&self) {
        self.stepped.store(false, Ordering::Relaxed);
        self.fpu_area.store(0, Ordering::Relaxed);
        self.fpu_parts.store(0, Ordering::Relaxed);
        self.leave_stack.store(0, Ordering::Relaxed);
        self.armed.store(0, Ordering::Relaxed);
        self.live.forget();
    }
}

/// This process's page.
pub(crate) fn own() -> &'static Own {
    // SAFETY: the crate's standing assumption; all of it are cells and atomics.
    unsafe { &*(OWN as *const Own) }
}

const _: () = assert!(size_of::<Own>() == 4096);
