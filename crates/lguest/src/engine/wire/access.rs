//! An access of a Guest to a device, as a Launcher of Linux 4.x sees it.
//!
//! Our Host carries the Guest's instruction out itself, and asks only for the
//! value. So what a Launcher reads is always the same `mov` between eax (or its
//! lower parts) and the memory at edx, with registers that belong to it. The
//! Launcher does with them what it would do with the Guest's: it reads eax or
//! writes it, and moves eip on.

use crate::engine::interface::DeviceAccess;
use lg_abi::gen3::pci::first_place;
use lg_abi::gen3::request::{Pending, Register};

/// An access that the Launcher has to carry out.
pub(super) struct Access {
    pending: Pending,
    eax: u32,
    eip: u32,
    reads: bool,
}

impl Access {
    /// `access` of a Guest whose memory ends at `limit`. `value` is what it
    /// writes, if it does.
    pub(super) fn new(
        limit: u32,
        access: DeviceAccess,
        value: Option<u32>,
    ) -> Self {
        let place = first_place(limit, access.device);
        let address = place.wrapping_add(access.offset);
        let writes = value.is_some();
        Self {
            pending: Pending::of_access(address, access.bytes, writes),
            eax: value.unwrap_or(0),
            eip: 0,
            reads: !writes,
        }
    }

    /// What a read returns.
    pub(super) fn pending(&self) -> Pending {
        self.pending
    }

    /// The value of a register: 0 for those that the instruction does not use.
    pub(super) fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Edx => self.pending.address,
            Register::Eip => self.eip,
            _ => 0,
        }
    }

    /// Writes a register. Of these only eax has an effect.
    pub(super) fn set(&mut self, register: Register, value: u32) {
        match register {
            Register::Eax => self.eax = value,
            Register::Eip => self.eip = value,
            _ => {}
        }
    }

    /// What the Guest gets, if it reads.
    pub(super) fn answer(&self) -> Option<u32> {
        self.reads.then_some(self.eax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lg_abi::gen3::request::DEVICE_ACCESS;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_launcher_that_executes_the_instruction_gives_the_value(
            device in 0_u32..15,
            offset in 0_u32..128,
            size in 0_usize..3,
            value: u32,
            writes: bool,
        ) {
            let bytes = [1, 2, 4][size];
            let access = DeviceAccess { device, offset, bytes };
            let written = writes.then_some(value);
            let mut access = Access::new(0x100_0000, access, written);
            let pending = access.pending();
            prop_assert_eq!(pending.trap, DEVICE_ACCESS);
            prop_assert_eq!(
                pending.address,
                0x110_0000 + device * 4096 + offset
            );
            // The forms that the original's Launcher knows, by their bytes.
            let [first, second, third, ..] = pending.instruction;
            let (opcode, operand, length, wanted) = match first {
                0x66 => (second, third, 3, 2),
                0x88 | 0x8A => (first, second, 2, 1),
                _ => (first, second, 2, 4),
            };
            prop_assert_eq!(wanted, bytes);
            prop_assert_eq!(opcode & !3, 0x88);
            prop_assert_eq!(opcode & 1 == 0, bytes == 1);
            prop_assert_eq!(opcode & 2 == 0, writes);
            prop_assert_eq!(operand, 2, "between eax and the memory at edx");
            prop_assert_eq!(access.get(Register::Edx), pending.address);
            if writes {
                prop_assert_eq!(access.get(Register::Eax), value);
            } else {
                access.set(Register::Eax, value);
            }
            access.set(Register::Eip, access.get(Register::Eip) + length);
            prop_assert_eq!(access.get(Register::Eip), length);
            prop_assert_eq!(access.answer(), (!writes).then_some(value));
        }
    }
}
