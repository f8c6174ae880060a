//! Faults at the Guest's CPUID, where the processor offers them.
//!
//! The view spawner switches them on once, and its children inherit that: views
//! and user processes. A view that needs the processor's answer switches them
//! off for a moment.

#![expect(unsafe_code, reason = "system calls")]

use crate::syscall::{call, nr};
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, Ordering};
use lg_host::world::CpuidAnswer;

/// The function of `arch_prctl` that lets CPUID work (1) or fault (0).
pub(crate) const ARCH_SET_CPUID: usize = 0x1012;

/// 1 where it faults. Only written by the view spawner.
static FAULTS: AtomicBool = AtomicBool::new(false);

/// Whether CPUID faults in this process.
pub(crate) fn faults() -> bool {
    FAULTS.load(Ordering::Relaxed)
}

/// Makes CPUID fault from now on, in this process and its children. If the
/// machine refuses, the Guest sees the whole processor.
pub(crate) fn hide() {
    FAULTS.store(set(false), Ordering::Relaxed);
}

fn set(works: bool) -> bool {
    let arguments = [ARCH_SET_CPUID, usize::from(works), 0, 0, 0, 0];
    // SAFETY: a switch of this process.
    unsafe { call(nr::ARCH_PRCTL, arguments) }.is_ok()
}

/// What the processor answers; `None` where the Guest's CPUID does not fault.
pub(crate) fn ask(leaf: u32, subleaf: u32) -> Option<CpuidAnswer> {
    if !faults() || !set(true) {
        return None;
    }
    let answer = __cpuid_count(leaf, subleaf);
    set(false);
    Some([answer.eax, answer.ebx, answer.ecx, answer.edx])
}
