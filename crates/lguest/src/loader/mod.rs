//! Puts a kernel, its initrd and its first page tables into a Guest's memory.
//!
//! [`load`] puts into memory what must be there before the first instruction,
//! and checks everything that a file says. The kernel is low in RAM. The initrd
//! is at the top, and the first page tables, if there are any, are right below
//! it.
//!
//! How a Guest starts depends on its release ([`Start`]). Linux 2.6.23 starts
//! with paging on, at a virtual address, and finds its boot parameters in page
//! 0. Later kernels start at a physical address and get the address of their
//! boot parameters in a register. Up to 3.0 they start with page tables, since
//! 3.1 without.

use crate::engine::Setup;
use crate::memory::GuestMemory;
use lg_abi::known::Known;
use lg_abi::page::{Format, LINEAR};
use lg_abi::request::Initialize;
use std::fs::File;

mod error;
pub use error::{BootError, InitrdError, KernelError, LoadError};

mod image;
pub use image::Image;

mod placed;
pub use placed::{Initrd, Kernel, Start};

mod search;

mod kernel;

mod elf;

mod compression;
pub use compression::Compression;

mod bzimage;

mod payload;

mod setup;

mod page_offset;

mod linux;
pub use linux::Release;

mod describe;
pub use describe::{Container, DescribeError, Description};

mod diagnosis;
pub use diagnosis::{kernel_end, release};

mod fit;

mod boot_parameters;

mod vmcall;

mod boot;

/// Loads everything, and returns the words of LHREQ_INITIALIZE. The memory must
/// be fresh: bytes that no file fills must be zero.
///
/// # Errors
///
/// [`LoadError`] names the file and the cure.
pub fn load(
    memory: &GuestMemory,
    kernel: &Image,
    initrd: Option<&File>,
    command_line: &[u8],
) -> Result<Loaded, LoadError> {
    boot::check_command_line(command_line)?;
    let size = initrd.map(boot::initrd_size).transpose()?.unwrap_or(0);
    let kernel = kernel::load(memory, kernel, size).map_err(|error| {
        match diagnosis::explain(kernel, error) {
            KernelError::Initrd(error) => LoadError::Initrd(error),
            error => LoadError::Kernel(error),
        }
    })?;
    let initrd = initrd
        .map(|file| boot::load_initrd(memory, file, &kernel))
        .transpose()?;
    let top = initrd.map_or(memory.ram(), |initrd| initrd.start);
    let (start, pgdir, interface, boot_parameters) = match kernel.start {
        Start::Paged(start) => {
            let pgdir = boot::page_tables(memory, &kernel, top)?;
            boot::parameters(memory, initrd, command_line);
            (start, pgdir, Known::Linux2_6_23, 0)
        }
        Start::Identity(start, interface) => {
            let pgdir = boot::page_tables(memory, &kernel, top)?;
            let at = boot_parameters::fill(memory, initrd, command_line);
            (start, pgdir, interface, at)
        }
        Start::Linear(start, interface) => {
            let at = boot_parameters::fill(memory, initrd, command_line);
            (start, LINEAR, interface, at)
        }
    };
    Ok(Loaded {
        request: Initialize {
            pfn_limit: memory.pfn_limit(),
            pgdir,
            start,
            page_offset: kernel.page_offset,
        },
        interface,
        paging: kernel.paging,
        boot_parameters,
    })
}

/// What the engine must know about a Guest that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The words of LHREQ_INITIALIZE.
    pub request: Initialize,
    /// Which interface the Guest has.
    pub interface: Known,
    /// The format of its page tables.
    pub paging: Format,
    /// The physical address of its boot parameters, for generations that get it
    /// in a register.
    pub boot_parameters: u32,
}

impl From<Loaded> for Setup {
    fn from(loaded: Loaded) -> Self {
        Self {
            interface: loaded.interface,
            paging: loaded.paging,
            boot_parameters: loaded.boot_parameters,
            ..Self::from(loaded.request)
        }
    }
}
