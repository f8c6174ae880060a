//! What the Launcher may ask of the Host: four requests.
//!
//! In 2007 these were writes of a few words to `/dev/lguest`, the first word
//! naming the request; a read ran the Guest. The words are the same today
//! (header, `enum lguest_req`; docs/abi.md, section 8).

/// + pfn limit, page directory, start, page offset. Must come first.
pub const LHREQ_INITIALIZE: u32 = 0;
/// + key: returns the address of a free buffer, its interrupt in `used_len`.
pub const LHREQ_GETDMA: u32 = 1;
/// + interrupt to raise.
pub const LHREQ_IRQ: u32 = 2;
/// + 1: stop the Guest and wait; 0: let it go on.
pub const LHREQ_BREAK: u32 = 3;

/// The four words of LHREQ_INITIALIZE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialize {
    /// Nothing may name a page at or above this.
    pub pfn_limit: u32,
    /// Physical address of the first page directory.
    pub pgdir: u32,
    /// Virtual address of the first instruction.
    pub start: u32,
    /// Virtual address of physical address 0.
    pub page_offset: u32,
}
