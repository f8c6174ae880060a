//! Where the Guest's floating-point registers are while it does not run.
//!
//! They are in a signal's frame, or xmm0 to xmm7 are in
//! [`Own`](crate::own::Own) and the rest is still in the processor, or all of
//! them are in the state. The way out ([`crate::leave`]) loads them from there.

#![expect(unsafe_code, reason = "copies registers")]

use crate::extended::{self, PKRU};
use crate::own::{XmmArea, own};
use crate::shared::fpu;
use core::arch::asm;
use core::sync::atomic::Ordering;

/// The Guest's floating-point registers are in a signal's frame, at `area`,
/// with a bit in `parts` for each part. They will be loaded from there. Only
/// PKRU stays as the kernel of the machine has set it for the handler.
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

/// For [`Own::fpu_parts`](crate::own::Own::fpu_parts).
const ONLY_XMM: u64 = u64::MAX;

/// The Guest goes on in another view or user process: copies its floating-point
/// registers to where they are looked for there. The parts that FXSAVE does not
/// know are in the processor afterwards.
pub(crate) fn put_fpu_away() {
    let parts = own().fpu_parts.load(Ordering::Relaxed);
    if parts == ONLY_XMM {
        save_whole_fpu();
        return;
    }
    let at = own().fpu_area.load(Ordering::Relaxed);
    let (area, shared) = (at as *const [u8; 512], fpu().0.as_ptr());
    if area != shared {
        // SAFETY: areas of XSAVE and of FXSAVE begin with these 512 bytes.
        unsafe { shared.copy_from_nonoverlapping(area, 1) };
        extended::take_from_frame(at, parts);
    }
}

/// If the Guest's floating-point registers are in a signal's frame, they go
/// into the state, and the parts that FXSAVE does not know into the processor.
pub(crate) fn leave_frame() {
    let area = own().fpu_area.load(Ordering::Relaxed);
    let parts = own().fpu_parts.load(Ordering::Relaxed);
    if parts != ONLY_XMM && area != fpu().0.as_ptr() as u64 {
        put_fpu_away();
        take_fpu();
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
