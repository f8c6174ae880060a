//! Generation 1: Linux 2.6.23, released in 2007.
//!
//! These are the wire formats of `lguest_launcher.h` and its companions as Rust
//! types: how a Guest starts, its hypercalls, the memory that it shares with
//! the Host, how it moves data, and which devices it finds.

pub mod boot;

pub mod hypercall;
pub mod shared;

pub mod dma;

pub mod device;

use crate::interface::{Interface, Register};

/// How a Guest of this generation talks to the Host.
pub const INTERFACE: Interface = Interface {
    calls: hypercall::CALLS,
    arguments: &[Register::Edx, Register::Ebx, Register::Ecx],
    ring: &[Register::Eax, Register::Edx, Register::Ebx, Register::Ecx],
    vmcall: false,
    layout: shared::LAYOUT,
};

#[cfg(test)]
mod tests {
    use super::INTERFACE;
    use super::hypercall::{Hypercall, RawCall};
    use crate::call::Call;
    use zerocopy::{FromBytes, IntoBytes};

    #[test]
    fn a_ring_entry_is_the_call_that_was_put_there() {
        let raw = RawCall {
            eax: Hypercall::SetPte as u32,
            edx: 0x1000,
            ebx: 0xC000_2000,
            ecx: 0x2067,
        };
        let mut bytes = [0; 20];
        let size = INTERFACE.ring_entry_size() as usize;
        bytes[..size].copy_from_slice(raw.as_bytes());
        let words = <[u32; 5]>::read_from_bytes(&bytes).unwrap();
        let call = INTERFACE.decode(&INTERFACE.from_ring(&words));
        let expected = Call::SetPte {
            directory: 0x1000,
            va: 0xC000_2000,
            entry: 0x2067,
            entry_high: 0,
        };
        assert_eq!(call, Some(expected));
    }

    #[test]
    fn every_number_is_decoded_as_its_call() {
        for number in 0..32 {
            let name = Hypercall::from_number(number).map(Hypercall::name);
            let decoded = INTERFACE.name(number).map(|name| name.text());
            assert_eq!(decoded, name, "{number}");
        }
        assert_eq!(INTERFACE.name(u32::MAX), None);
    }
}
