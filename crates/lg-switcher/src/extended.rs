//! The extended state: what vector instructions have beyond xmm0 to xmm7.
//!
//! A kernel of 2007 does not know it, so the Host keeps it apart for each of
//! the kernel's threads ([`lg_host::cpu::extended`]). This module moves it
//! between the processor and memory, and knows which parts of it the processor
//! has. Of the sixteen or thirty-two registers, 32-bit code has eight: only
//! those are kept. All other parts are put into their initial state when the
//! thread changes.
//!
//! State of the processor that user code can change without privilege, and the
//! code that makes it right, is in a table in SECURITY.md.

#![expect(unsafe_code, reason = "instructions of the processor")]

use crate::own::{IMAGE_SIZE, own};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::cell::{Cell, UnsafeCell};
use lg_host::cpu::extended::{Extended, part};

/// PKRU, among the parts that XSAVE knows. It is never loaded from memory: with
/// a value that user code has chosen, our own accesses could fault.
pub(crate) const PKRU: u64 = 1 << 9;

/// What FXSAVE knows: x87 and SSE.
pub(crate) const LEGACY: u64 = 3;

/// Where the header of an XSAVE area is. Its first word has a bit for each part
/// that is there.
pub(crate) const HEADER: usize = 512;

/// Bytes of it.
const HEADER_SIZE: usize = 64;

/// Where MXCSR is.
const MXCSR: usize = 24;

/// Bytes of the parts as XSAVE writes them: all sixteen ymm registers, the
/// masks, and sixteen zmm registers.
const YMM_SIZE: usize = 256;
const MASKS_SIZE: usize = 64;
const ZMM_SIZE: usize = 512;

/// What this processor has. It is asked before the process is confined.
struct Facts {
    /// XCR0: the parts that the kernel of the machine has switched on.
    parts: Cell<u64>,
    /// Those that are kept for each thread.
    kept: Cell<u64>,
    /// XSAVEC can be used, whose format does not depend on the processor.
    compact: Cell<bool>,
    /// XGETBV reports which parts are in use.
    tells: Cell<bool>,
    /// Where the ymm registers, the masks and the zmm registers are.
    at: [Cell<usize>; 3],
    /// `rdpkru` and `wrpkru` can be used.
    keys: Cell<bool>,
}

struct TheFacts(UnsafeCell<Facts>);

// SAFETY: there is one thread.
unsafe impl Sync for TheFacts {}

static FACTS: TheFacts = TheFacts(UnsafeCell::new(Facts {
    parts: Cell::new(LEGACY),
    kept: Cell::new(0),
    compact: Cell::new(false),
    tells: Cell::new(false),
    at: [const { Cell::new(0) }; 3],
    keys: Cell::new(false),
}));

fn facts() -> &'static Facts {
    // SAFETY: cells, in a process with one thread.
    unsafe { &*FACTS.0.get() }
}

/// The user-level instructions on protection keys work here.
pub(crate) fn has_keys() -> bool {
    facts().keys.get()
}

/// Asks the processor. A virtual machine takes some 10 µs for each answer.
pub(crate) fn find() {
    const OSXSAVE: u32 = 1 << 27;
    const OSPKE: u32 = 1 << 4;
    const XSAVEC: u32 = 1 << 1;
    const XGETBV1: u32 = 1 << 2;
    const XSAVE_LEAF: u32 = 0xD;
    if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return;
    }
    let facts = facts();
    let parts = xgetbv(0);
    facts.parts.set(parts);
    if parts & PKRU != 0 {
        facts.keys.set(__cpuid_count(7, 0).ecx & OSPKE != 0);
    }
    let mut kept = parts & part::ALL;
    if kept == 0 {
        return;
    }
    let offered = __cpuid_count(XSAVE_LEAF, 1).eax;
    facts.compact.set(offered & XSAVEC != 0);
    facts.tells.set(offered & XGETBV1 != 0);
    let mut next = HEADER + HEADER_SIZE;
    let sizes = [YMM_SIZE, MASKS_SIZE, ZMM_SIZE];
    for ((at, size), bit) in facts.at.iter().zip(sizes).zip(part::EACH) {
        if kept & bit == 0 {
            continue;
        }
        if facts.compact.get() {
            at.set(next);
            next += size;
        } else {
            let leaf = __cpuid_count(XSAVE_LEAF, bit.trailing_zeros());
            at.set(leaf.ebx as usize);
        }
        if at.get() + size > IMAGE_SIZE {
            kept &= !bit;
        }
    }
    facts.kept.set(kept);
}

fn xgetbv(which: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register that exists: the callers have checked.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") which, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Which of the kept parts are not in their initial state.
pub(crate) fn in_use() -> u64 {
    let facts = facts();
    let kept = facts.kept.get();
    if kept == 0 {
        0
    } else if facts.tells.get() {
        xgetbv(1) & kept
    } else {
        save_image(kept)
    }
}

/// Saves `parts` into the image; answers which were in use.
#[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
fn save_image(parts: u64) -> u64 {
    let image = own().image.get();
    let (low, high) = (parts as u32, (parts >> 32) as u32);
    if facts().compact.get() {
        // SAFETY: the image is ours, aligned, and large enough: see `find`.
        unsafe {
            asm!("xsavec64 [{}]", in(reg) image, in("eax") low,
                in("edx") high, options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: as above.
        unsafe {
            asm!("xsave64 [{}]", in(reg) image, in("eax") low,
                in("edx") high, options(nostack, preserves_flags));
        }
    }
    let at = image.cast::<u8>().wrapping_add(HEADER).cast::<u64>();
    // SAFETY: inside the image, and aligned.
    parts & unsafe { at.read() }
}

/// Has the processor load `parts` from an XSAVE area; those that are not in it
/// get into their initial state.
#[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
fn restore(area: *const u8, parts: u64) {
    let (low, high) = (parts as u32, (parts >> 32) as u32);
    // SAFETY: the callers have the area, which is aligned; what is loaded is
    // nothing that Rust code uses.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high,
            options(nostack, preserves_flags));
    };
}

/// Where in the image the parts are.
fn place(n: usize) -> *mut u8 {
    let image = own().image.get().cast::<u8>();
    image.wrapping_add(facts().at[n].get())
}

/// Saves what is in the processor, if anything is in use.
pub(crate) fn save(to: &Extended) {
    let kept = facts().kept.get();
    let mut used = in_use();
    if used != 0 {
        used = save_image(kept);
    }
    to.parts.set(used);
    let ([ymm, masks, zmm], pieces) = (part::EACH, to.pieces());
    for (n, (bit, (piece, size))) in
        [ymm, masks, zmm].into_iter().zip(pieces).enumerate()
    {
        if used & bit != 0 {
            // SAFETY: `size` bytes of the image's part and of the piece.
            unsafe { piece.copy_from_nonoverlapping(place(n), size) };
        }
    }
}

/// Whether the processor says that all of it is in its initial state.
pub(crate) fn is_initial() -> bool {
    let facts = facts();
    let managed = facts.parts.get() & !(LEGACY | PKRU);
    managed == 0 || facts.tells.get() && xgetbv(1) & managed == 0
}

/// Loads what was saved; with `None`, the initial state. MXCSR may change, and
/// is loaded anew on the way out.
pub(crate) fn load(from: Option<&Extended>) {
    const MXCSR_DEFAULT: u32 = 0x1F80;
    const COMPACT: u64 = 1 << 63;
    let facts = facts();
    let kept = facts.kept.get();
    let managed = facts.parts.get() & !(LEGACY | PKRU);
    let parts = from.map_or(0, |from| from.parts.get() & kept);
    if managed == 0 {
        return;
    }
    if parts == 0 && is_initial() {
        return;
    }
    let format = if facts.compact.get() {
        COMPACT | kept
    } else {
        0
    };
    let header = [parts, format, 0, 0, 0, 0, 0, 0];
    let image = own().image.get().cast::<u8>();
    let mxcsr = image.wrapping_add(MXCSR).cast::<u32>();
    // SAFETY: inside the image, and aligned.
    unsafe { mxcsr.write(MXCSR_DEFAULT) };
    let at = image.wrapping_add(HEADER).cast::<[u64; 8]>();
    // SAFETY: as above.
    unsafe { at.write(header) };
    if let Some(from) = from {
        let pieces = from.pieces().into_iter().zip(part::EACH);
        for (n, ((piece, size), bit)) in pieces.enumerate() {
            if parts & bit != 0 {
                // SAFETY: as in `save`.
                unsafe { place(n).copy_from_nonoverlapping(piece, size) };
            }
        }
    }
    restore(image, managed);
}

/// Loads the extended state from a signal's frame. The kernel of the machine
/// has saved it there, and has put the processor's into its initial state.
pub(crate) fn take_from_frame(area: u64, parts: u64) {
    let managed = facts().parts.get() & parts & !(LEGACY | PKRU);
    let area = area as *const u8;
    let there = area.wrapping_add(HEADER).cast::<u64>();
    // SAFETY: a frame with more parts than FXSAVE knows has this word.
    if unsafe { there.read() } & managed != 0 {
        restore(area, managed);
    }
}
