//! Faults at the Guest's CPUID, where the processor offers them.
//!
//! The view spawner asks for them once, and its children inherit them: views
//! and user processes. A view that has to know what the processor says switches
//! them off for that moment.

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

/// Has it fault from now on, in this process and its children. A machine that
/// refuses shows the Guest the whole processor.
pub(crate) fn hide() {
    FAULTS.store(set(false), Ordering::Relaxed);
}

fn set(works: bool) -> bool {
    let arguments = [ARCH_SET_CPUID, usize::from(works), 0, 0, 0, 0];
    // SAFETY: a switch of this process.
    unsafe { call(nr::ARCH_PRCTL, arguments) }.is_ok()
}

/// What the processor says; `None` where the Guest is told without us.
pub(crate) fn ask(leaf: u32, subleaf: u32) -> Option<CpuidAnswer> {
    if !faults() || !set(true) {
        return None;
    }
    let said = __cpuid_count(leaf, subleaf);
    set(false);
    Some([said.eax, said.ebx, said.ecx, said.edx])
}
