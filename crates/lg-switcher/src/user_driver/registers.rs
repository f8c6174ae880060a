//! The registers of user code, made such that loading them cannot fault.
//!
//! They come from a page that user code can write. The processor refuses some
//! values of flags, selectors and MXCSR with a fault, and that fault would be
//! in our own code.

#![expect(unsafe_code, reason = "asks the processor")]

use core::arch::asm;
use lg_host::cpu::registers::{
    EFLAGS_FIXED, EFLAGS_NT, EFLAGS_RF, EFLAGS_USABLE,
};
use lg_host::state::Registers;

/// Copies every register once.
pub(super) fn copy_registers(from: &Registers, to: &Registers) {
    to.eax.set(from.eax.get());
    to.ebx.set(from.ebx.get());
    to.ecx.set(from.ecx.get());
    to.edx.set(from.edx.get());
    to.esi.set(from.esi.get());
    to.edi.set(from.edi.get());
    to.ebp.set(from.ebp.get());
    to.esp.set(from.esp.get());
    to.eip.set(from.eip.get());
    to.eflags.set(from.eflags.get());
    to.ds.set(from.ds.get());
    to.es.set(from.es.get());
    to.fs.set(from.fs.get());
    to.gs.set(from.gs.get());
    to.fs_base.set(from.fs_base.get());
    to.gs_base.set(from.gs_base.get());
    to.ss.set(from.ss.get());
    to.reload.set(from.reload.replace(0));
}

/// Removes what user code cannot have in its registers.
pub(super) fn make_loadable(regs: &Registers) {
    /// Flags that a program or the processor can set.
    const FLAGS: u32 = EFLAGS_USABLE | EFLAGS_NT | EFLAGS_RF;
    regs.eflags.set(regs.eflags.get() & FLAGS | EFLAGS_FIXED);
    for selector in [&regs.ds, &regs.es, &regs.fs, &regs.gs] {
        if !is_loadable(selector.get()) {
            selector.set(0);
        }
    }
}

/// Whether a data segment register takes this selector.
fn is_loadable(selector: u32) -> bool {
    let readable: u8;
    // SAFETY: asks the processor about a segment.
    unsafe {
        asm!(
            "verr {selector:x}",
            "setz {readable}",
            selector = in(reg) selector,
            readable = out(reg_byte) readable,
            options(nomem, nostack),
        );
    };
    selector <= 3 || selector <= 0xFFFF && readable != 0
}

/// Clears bits of MXCSR that the processor does not have: FXRSTOR would fault.
pub(super) fn make_fpu_loadable(image: &mut [u8; 512], mask: u32) {
    let [a, b, c, d] = mask.to_le_bytes();
    for (byte, mask) in image[24..28].iter_mut().zip([a, b, c, d]) {
        *byte &= mask;
    }
}

/// The bits of MXCSR that this processor has (Intel SDM volume 1, "Guidelines
/// for Writing to the MXCSR Register").
pub(super) fn mxcsr_mask() -> u32 {
    const IF_IT_DOES_NOT_SAY: u32 = 0xFFBF;
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: the processor writes `image`.
    unsafe {
        asm!(
            "fxsave64 [{image}]",
            image = in(reg) &raw mut image,
            options(nostack, preserves_flags),
        );
    };
    let [a, b, c, d] = [28, 29, 30, 31].map(|n: usize| image.0[n]);
    match u32::from_le_bytes([a, b, c, d]) {
        0 => IF_IT_DOES_NOT_SAY,
        mask => mask,
    }
}
