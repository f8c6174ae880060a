//! The local descriptor table of a process that runs the Guest.
//!
//! One call sets one entry. The view spawner fills the table for all views, a
//! user process fills its own anew, and later only thread-local segments change
//! ([`lg_host::cpu::tls`]).

#![expect(unsafe_code, reason = "system calls")]

use crate::shared::state;
use crate::syscall::{call, nr};
use lg_abi::page::{PAGE_SHIFT, SWITCHER_ADDR};
use lg_abi::segment::{
    Descriptor, GDT_PER_CPU, GDT_TLS_MIN, GDT_USER_CS, GDT_USER_DS,
};
use lg_host::cpu::kernel_segments::KERNEL_SEGMENTS;
use lg_host::cpu::selectors::REAL_WIDE_DS;
use lg_host::paging::shadow::USUAL;
use lg_wire::fast_path;

/// The function of `modify_ldt` that sets an entry.
pub(crate) const WRITE: usize = 0x11;

/// `struct user_desc`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UserDescriptor {
    entry_number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

const SEG_32BIT: u32 = 1;
const CONTENTS_CODE: u32 = 2 << 1;
const READ_EXEC_ONLY: u32 = 1 << 3;
const LIMIT_IN_PAGES: u32 = 1 << 4;
const SEG_NOT_PRESENT: u32 = 1 << 5;
const USEABLE: u32 = 1 << 6;

impl UserDescriptor {
    /// What the kernel must be given, so that entry `index` becomes
    /// `descriptor`.
    pub(crate) fn new(index: u32, descriptor: Descriptor) -> Self {
        let high = descriptor.high;
        let flag = |bit: u32, flag| if high >> bit & 1 != 0 { flag } else { 0 };
        let writable = flag(9, READ_EXEC_ONLY);
        let present = flag(15, SEG_NOT_PRESENT);
        Self {
            entry_number: index,
            base: descriptor.base(),
            limit: descriptor.low & 0xFFFF | high & 0xF_0000,
            flags: flag(22, SEG_32BIT)
                | (high >> 10 & 3) << 1
                | READ_EXEC_ONLY ^ writable
                | flag(23, LIMIT_IN_PAGES)
                | SEG_NOT_PRESENT ^ present
                | USEABLE,
        }
    }

    /// A segment that begins at 0 and ends in front of `end`, which is the
    /// first byte of a page, or where all addresses do if it is 0.
    const fn up_to(index: u32, end: u32, contents: u32) -> Self {
        Self {
            entry_number: index,
            base: 0,
            limit: end.wrapping_sub(1) >> PAGE_SHIFT,
            flags: SEG_32BIT | contents | LIMIT_IN_PAGES | USEABLE,
        }
    }

    /// Its words in the order in which the kernel takes them.
    pub(crate) fn words(self) -> [usize; 2] {
        let both = |low: u32, high: u32| low as usize | (high as usize) << 32;
        [
            both(self.entry_number, self.base),
            both(self.limit, self.flags),
        ]
    }

    /// Sets the entry in this process.
    pub(crate) fn set(&self) -> Result<(), i32> {
        let at = core::ptr::from_ref(self) as usize;
        let arguments = [WRITE, at, size_of::<Self>(), 0, 0, 0];
        // SAFETY: the kernel reads `self`. No segment of ours is in the table.
        // The result is 32 bits wide in a 64-bit register.
        let made = unsafe { call(nr::MODIFY_LDT, arguments) }?;
        #[expect(clippy::cast_possible_truncation, reason = "32 bits wide")]
        let made = (made as u32).cast_signed();
        if made == 0 {
            return Ok(());
        }
        Err(made.wrapping_neg())
    }
}

/// Fills the table of a view: thread-local segments, flat, whose bases are set
/// as they are needed; and the segments of user code. Data segments end where
/// the Guest's kernel begins. The code segment usually has no end, because one
/// slows every instruction down on some processors, by up to a half. A program
/// that jumps into its kernel is then caught by its first trap there
/// ([`lg_host::host::Host::run_guest`]).
pub(crate) fn fill() -> Result<(), i32> {
    fill_up_to(state().vm.page_offset.get())
}

/// Fills the table of a user process, which has no kernel in it.
pub(crate) fn fill_for_user_process() -> Result<(), i32> {
    fill_up_to(SWITCHER_ADDR)
}

/// Adds the kernel's own segments to the table of a view, which has none of
/// them yet.
pub(crate) fn fill_kernels(
    entries: [Descriptor; KERNEL_SEGMENTS],
) -> Result<(), i32> {
    for (index, entry) in (GDT_PER_CPU..).zip(entries) {
        if entry != Descriptor::default() {
            UserDescriptor::new(index, entry).set()?;
        }
    }
    Ok(())
}

fn fill_up_to(user_end: u32) -> Result<(), i32> {
    const ALL: u32 = 0;
    for (index, usual) in (GDT_TLS_MIN..).zip(USUAL) {
        UserDescriptor::new(index, usual).set()?;
    }
    let flat = state().vm.slow_paths.get() & fast_path::FLAT_CODE == 0;
    let code_end = if flat { ALL } else { user_end };
    let wide = REAL_WIDE_DS >> 3;
    for entry in [
        UserDescriptor::up_to(GDT_USER_CS, code_end, CONTENTS_CODE),
        UserDescriptor::up_to(GDT_USER_DS, user_end, 0),
        UserDescriptor::up_to(wide, SWITCHER_ADDR, 0),
    ] {
        entry.set()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(descriptor: Descriptor) -> [u32; 4] {
        let d = UserDescriptor::new(6, descriptor);
        [d.entry_number, d.base, d.limit, d.flags]
    }

    #[test]
    fn a_descriptor_is_written_in_the_kernels_format() {
        let flat = SEG_32BIT | LIMIT_IN_PAGES | USEABLE;
        let d = Descriptor::flat_data(3);
        assert_eq!(words(d), [6, 0, 0xF_FFFF, flat]);
        // 16 bits, read-only, expands down, not present, 0x1234 bytes.
        let d = Descriptor {
            low: 0x5678_1234,
            high: 0x9A00_7434,
        };
        let contents = 1 << 1;
        let flags = contents | READ_EXEC_ONLY | SEG_NOT_PRESENT | USEABLE;
        assert_eq!(words(d), [6, 0x9A34_5678, 0x1234, flags]);
    }

    #[test]
    fn a_segment_ends_in_front_of_its_end() {
        let limit = |end| UserDescriptor::up_to(15, end, 0).limit;
        assert_eq!(limit(0xC000_0000), 0xB_FFFF);
        assert_eq!(limit(0), 0xF_FFFF);
    }
}
