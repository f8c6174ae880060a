//! What is in a Guest's memory once a file has been loaded.
//!
//! A format says where it has put a kernel. What is put beside the kernel later
//! (initrd, page tables, boot parameters) depends on that.

use crate::memory::Section;
use lg_abi::known::Known;
use lg_abi::page::Format;

/// A kernel that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The virtual address of physical address 0.
    pub page_offset: u32,
    /// Where it begins.
    pub start: Start,
    /// The format of its page tables.
    pub paging: Format,
    /// The first physical address above the kernel.
    pub end: u32,
}

/// The entry point of a kernel, and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With paging on, at a virtual address: Linux 2.6.23.
    Paged(u32),
    /// At a physical address, with the first page tables made for it: Linux
    /// 2.6.24 to 3.0.
    Identity(u32, Known),
    /// Before there are page tables, at a physical address: Linux since 3.1.
    Linear(u32, Known),
}

/// What a loader finds out about a kernel.
pub(super) struct Placed {
    /// As in [`Kernel`].
    pub(super) page_offset: u32,
    /// Where the bytes of the file were loaded, in the file's order.
    pub(super) parts: Vec<Section>,
    /// As in [`Kernel`].
    pub(super) end: u32,
    /// The entry point in its header, if it has one.
    pub(super) entry: Option<u32>,
}

/// An initrd that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Its physical address.
    pub start: u32,
    /// Its bytes.
    pub size: u32,
}
