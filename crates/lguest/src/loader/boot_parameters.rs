//! The boot parameters of a kernel since Linux 2.6.24.
//!
//! Such a kernel starts at the entry point of its header, with the physical
//! address of its boot parameters in esi. They have the form of Linux's boot
//! protocol 2.07 (docs/abi.md, section 9). They are not in page 0, because on
//! most machines an ordinary process may not map it. The parameters of Linux
//! 2.6.23 are in [`boot`](super::boot).

use super::placed::Initrd;
use crate::memory::GuestMemory;
use lg_abi::boot::{E820_RAM, E820Entry, LOADER_UNREGISTERED, offset};
use lg_abi::gen2::boot;
use zerocopy::IntoBytes;

/// Fills the boot parameters and the command line. Returns the address of the
/// boot parameters.
pub(super) fn fill(
    memory: &GuestMemory,
    initrd: Option<Initrd>,
    command_line: &[u8],
) -> u32 {
    let put = |offset: u32, bytes: &[u8]| {
        let written = memory.write(boot::PARAMETERS + offset, bytes);
        written.expect("a kernel lies above 1 MiB, so there is memory below");
    };
    let all_ram = E820Entry {
        addr: [0, 0],
        size: [memory.ram(), 0],
        kind: E820_RAM,
    };
    put(offset::E820_ENTRIES, &[1]);
    put(offset::E820_MAP, all_ram.as_bytes());
    put(boot::offset::VERSION, boot::PROTOCOL.as_bytes());
    put(boot::offset::LOAD_FLAGS, &[boot::KEEP_SEGMENTS]);
    put(offset::COMMAND_LINE, boot::COMMAND_LINE.as_bytes());
    put(boot::offset::ALIGNMENT, boot::ALIGNMENT.as_bytes());
    put(offset::SUBARCH, lg_abi::boot::SUBARCH_LGUEST.as_bytes());
    if let Some(initrd) = initrd {
        put(offset::LOADER_TYPE, &[LOADER_UNREGISTERED]);
        put(offset::INITRD_START, initrd.start.as_bytes());
        put(offset::INITRD_SIZE, initrd.size.as_bytes());
    }
    put(boot::COMMAND_LINE - boot::PARAMETERS, command_line);
    boot::PARAMETERS
}
