//! Accesses to memory of devices on the PCI bus.
//!
//! Nothing is mapped there, so each access is a page fault, and the instruction
//! is carried out here. Drivers use `mov` between memory and a register. All
//! kinds of `mov` of one value are known, with every form of address; another
//! instruction gets the page fault.

use crate::address::{GuestPhys, GuestVirt};
use crate::cpu::instruction::{
    Instruction, MAX_INSTRUCTION, Operand, displacement, instruction, mod_rm,
};
use crate::cpu::registers::{SegmentRegister, general};
use crate::host::Host;
use crate::kill::Kill;
use crate::pci::mask;
use crate::state::Registers;
use lg_abi::page::PAGE_SIZE;

/// A `mov` between memory and a register, or of a constant to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    /// Where the memory is, in a segment that begins at 0.
    at: GuestVirt,
    /// Bytes of memory: 1, 2 or 4.
    bytes: u32,
    what: What,
    /// Bytes of the instruction.
    length: u32,
}

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// This value to memory.
    Store(u32),
    /// From memory to a register of so many bytes, with the sign if it is
    /// longer.
    Load {
        register: u8,
        bytes: u32,
        signed: bool,
    },
}

/// What a fault of the Guest has to do with devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceFault {
    /// Nothing: no device is there, or the Guest's tables forbid the access.
    NoDevice,
    /// The instruction was carried out.
    Done,
    /// The instruction is none that can be.
    Refused,
}

impl Host<'_> {
    /// The Guest's access at `va` has faulted. If a device is there, carries
    /// out the instruction.
    pub(crate) fn device_access(
        &mut self,
        va: GuestVirt,
        write: bool,
    ) -> Result<DeviceFault, Kill> {
        if !self.vm.pci.exists() {
            return Ok(DeviceFault::NoDevice);
        }
        let Some(address) = self.device_address(va, write) else {
            return Ok(DeviceFault::NoDevice);
        };
        let eip = self.vm.regs.eip.get();
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(eip), &mut code);
        let Some(found) = decode(&code[..fetched], &self.vm.regs) else {
            return Ok(DeviceFault::Refused);
        };
        let stores = matches!(found.what, What::Store(_));
        let in_page = found.bytes <= PAGE_SIZE - va.page_offset();
        if found.at != va || stores != write || !in_page {
            return Ok(DeviceFault::Refused);
        }
        self.patch_accessor();
        self.clear_resume_flag();
        self.carry_out(found, address)?;
        Ok(DeviceFault::Done)
    }

    /// Carries out the kernel's instruction at eip, if it is an access to a
    /// device. If not, the processor does.
    pub(crate) fn access_ahead(&mut self) -> Result<(), Kill> {
        let mut code = [0; MAX_INSTRUCTION];
        let at = GuestVirt(self.vm.regs.eip.get());
        let fetched = self.fetch(at, &mut code);
        let Some(found) = decode(&code[..fetched], &self.vm.regs) else {
            return Ok(());
        };
        let stores = matches!(found.what, What::Store(_));
        let in_page = found.bytes <= PAGE_SIZE - found.at.page_offset();
        match self.device_address(found.at, stores) {
            Some(address) if in_page => self.carry_out(found, address),
            _ => Ok(()),
        }
    }

    /// Carries out a `mov` at eip, whose memory is at `address`.
    fn carry_out(
        &mut self,
        found: Move,
        address: GuestPhys,
    ) -> Result<(), Kill> {
        let eip = self.vm.regs.eip.get();
        self.vm.regs.eip.set(eip.wrapping_add(found.length));
        match found.what {
            What::Store(value) => {
                self.write_device(address, found.bytes, value)?;
            }
            What::Load {
                register,
                bytes,
                signed,
            } => {
                let value = self.read_device(address, found.bytes)?;
                let value = extended(value, found.bytes, signed);
                set_register(&self.vm.regs, register, bytes, value);
            }
        }
        Ok(())
    }
}

/// The lowest `bytes` bytes of `value`, longer, with the sign or with zeroes.
fn extended(value: u32, bytes: u32, signed: bool) -> u32 {
    let value = value & mask(bytes);
    let sign = signed && value >> (8 * bytes - 1) != 0;
    if sign { value | !mask(bytes) } else { value }
}

/// Which register a number means if it has so many bytes, and by how many bits
/// it is shifted there: the second four of one byte are parts of the first.
fn place(register: u8, bytes: u32) -> (u8, u32) {
    if bytes == 1 && register >= 4 {
        (register - 4, 8)
    } else {
        (register, 0)
    }
}

fn get_register(regs: &Registers, register: u8, bytes: u32) -> u32 {
    let (register, shift) = place(register, bytes);
    general(regs, register).get() >> shift & mask(bytes)
}

fn set_register(regs: &Registers, register: u8, bytes: u32, value: u32) {
    let (register, shift) = place(register, bytes);
    let cell = general(regs, register);
    let mask = mask(bytes) << shift;
    cell.set(cell.get() & !mask | value << shift & mask);
}

/// The `mov` that `code` begins with, if it is one, and if its memory is in a
/// segment that begins at 0.
fn decode(code: &[u8], regs: &Registers) -> Option<Move> {
    let found = instruction(code)?;
    let odd = matches!(
        found.prefix,
        Some(SegmentRegister::Fs | SegmentRegister::Gs)
    );
    if odd || found.address_16 || found.repeated {
        return None;
    }
    let word = if found.operand_16 { 2 } else { 4 };
    let bytes = match found.opcode {
        0x88 | 0x8A | 0xA0 | 0xA2 | 0xC6 | 0x0FB6 | 0x0FBE => 1,
        0x0FB7 | 0x0FBF => 2,
        0x89 | 0x8B | 0xA1 | 0xA3 | 0xC7 => word,
        _ => return None,
    };
    let (at, what, length) = match found.opcode {
        0xA0..=0xA3 => absolute(&found, regs, bytes)?,
        _ => by_mod_rm(&found, regs, bytes, word)?,
    };
    (length as usize <= MAX_INSTRUCTION.min(code.len())).then_some(Move {
        at,
        bytes,
        what,
        length,
    })
}

/// `mov` between eax, or a part of it, and an absolute address.
fn absolute(
    found: &Instruction<'_>,
    regs: &Registers,
    bytes: u32,
) -> Option<(GuestVirt, What, u32)> {
    let at = GuestVirt(displacement(found.rest, 0)?);
    let what = if found.opcode >= 0xA2 {
        What::Store(get_register(regs, 0, bytes))
    } else {
        load(0, bytes)
    };
    Some((at, what, found.length + 4))
}

/// `mov` with a ModRM byte.
fn by_mod_rm(
    found: &Instruction<'_>,
    regs: &Registers,
    bytes: u32,
    word: u32,
) -> Option<(GuestVirt, What, u32)> {
    let modrm = mod_rm(found.rest, regs)?;
    let Operand::Memory(at, _) = modrm.operand else {
        return None;
    };
    let length = found.length + modrm.length;
    let register = modrm.reg;
    Some(match found.opcode {
        0x88 | 0x89 => {
            let value = get_register(regs, register, bytes);
            (at, What::Store(value), length)
        }
        0x8A | 0x8B => (at, load(register, bytes), length),
        0xC6 | 0xC7 if register == 0 => {
            let constant = found.rest.get(modrm.length as usize..)?;
            let mut value = [0; 4];
            let given = constant.get(..bytes as usize)?;
            value[..given.len()].copy_from_slice(given);
            let value = u32::from_le_bytes(value);
            (at, What::Store(value), length + bytes)
        }
        0x0FB6 | 0x0FB7 | 0x0FBE | 0x0FBF => {
            let what = What::Load {
                register,
                bytes: word,
                signed: found.opcode >= 0x0FBE,
            };
            (at, what, length)
        }
        _ => return None,
    })
}

fn load(register: u8, bytes: u32) -> What {
    What::Load {
        register,
        bytes,
        signed: false,
    }
}

#[cfg(test)]
mod tests;
