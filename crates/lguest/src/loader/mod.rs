//! Puts a kernel, its initrd and its first page tables into a Guest's memory.
//!
//! A Guest starts with paging on, in the middle of its own kernel, knowing
//! nothing but where its boot parameters are. All that has to be there before
//! its first instruction is put there by [`load`]: pure functions over
//! [`GuestMemory`], which believe nothing that a file says. The order is that
//! of the map: the kernel low, and from the top of RAM downwards the initrd
//! and the page tables, until the two halves meet or there is room between.

use crate::engine::Setup;
use crate::memory::GuestMemory;
use lg_abi::known::Known;
use lg_abi::page::LINEAR;
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

mod linear;

mod boot;

/// Loads everything and answers what LHREQ_INITIALIZE wants to know. The
/// memory must be fresh: what no file fills is expected to be zero.
///
/// # Errors
///
/// [`LoadError`] names the file at fault and the cure.
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
        Start::Linear(start, interface) => {
            let at = linear::parameters(memory, initrd, command_line);
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
        boot_parameters,
    })
}

/// What the engine wants to know of a Guest that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The words of LHREQ_INITIALIZE.
    pub request: Initialize,
    /// Which interface the Guest has.
    pub interface: Known,
    /// The physical address of its boot parameters, for generations that are
    /// told it.
    pub boot_parameters: u32,
}

impl From<Loaded> for Setup {
    fn from(loaded: Loaded) -> Self {
        Self {
            interface: loaded.interface,
            boot_parameters: loaded.boot_parameters,
            ..Self::from(loaded.request)
        }
    }
}
