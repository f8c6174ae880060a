//! The lab: tools for questions, without the kit.
//!
//! The code here is simple and uses little of the kit, because a driver should
//! not influence an answer. The lab has the memory from [`memory::FIRST`] up to
//! the image. It allocates pages in order, so that addresses are the same in
//! every build.

pub(crate) mod calls;
pub(crate) mod memory;
pub(crate) mod run;
pub(crate) mod space;
pub(crate) mod trap;

use lg_abi::boot::{COMMAND_LINE, COMMAND_LINE_MAX};
use lg_abi::gen2::boot;
use lg_abi::page::PAGE_SIZE;
use lg_guest::command_line::CommandLine;
use lg_guest::interface::has_virtio;
use lg_guest::irq;

pub(crate) use calls::{call, hypercall};
pub(crate) use memory::page;
pub(crate) use run::{code, kernel, user};

/// Prepares the lab: interrupts off, its own gates and its own address space.
pub(crate) fn open() {
    irq::disable();
    if has_virtio() {
        // The kit has copied what was there, and pages of the lab are zero.
        let both = boot::PARAMETERS..boot::COMMAND_LINE + PAGE_SIZE;
        both.step_by(4).for_each(|at| memory::poke(at, 0));
    }
    trap::open();
    run::open();
    space::open();
}

/// The command line, before the kit has read it.
pub(crate) fn command_line() -> CommandLine<'static> {
    let page = memory::bytes(COMMAND_LINE, COMMAND_LINE_MAX as usize);
    let end = page.iter().position(|&b| b == 0).unwrap_or(page.len());
    CommandLine::new(core::str::from_utf8(&page[..end]).unwrap_or(""))
}
