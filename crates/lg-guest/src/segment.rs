//! The segments: all flat; the processor cannot do without them.
//!
//! Kernel and user have a code and a data segment each, from zero to the end.
//! Page tables keep the two apart.

use crate::hcall;
use lg_abi::segment::{
    Descriptor, GDT_ENTRIES, GDT_KERNEL_CS, GDT_KERNEL_DS, GDT_USER_CS,
    GDT_USER_DS, GUEST_PL, USER_PL,
};

static GDT: [Descriptor; GDT_ENTRIES as usize] = {
    let mut table = [Descriptor { low: 0, high: 0 }; GDT_ENTRIES as usize];
    table[GDT_KERNEL_CS as usize] = Descriptor::flat_code(GUEST_PL);
    table[GDT_KERNEL_DS as usize] = Descriptor::flat_data(GUEST_PL);
    table[GDT_USER_CS as usize] = Descriptor::flat_code(USER_PL);
    table[GDT_USER_DS as usize] = Descriptor::flat_data(USER_PL);
    table
};

/// Has the Host load them.
pub(crate) fn init() {
    hcall::load_gdt(&GDT);
}
