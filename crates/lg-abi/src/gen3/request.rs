//! What the Launcher of a Guest of Linux 4.0 to 4.13 asks of the Host.
//!
//! These Launchers carry accesses to ports and devices out themselves. A read
//! of `/dev/lguest` returns what the Guest did ([`Pending`]). The Launcher then
//! reads and writes registers, or delivers a trap, and reads again (header,
//! `enum lguest_req`; docs/abi.md, section 10).

use crate::request::{LHREQ_INITIALIZE, LHREQ_IRQ};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// + offset of a register: the next read returns its value.
pub const LHREQ_GETREG: u32 = 5;
/// + offset of a register, value.
pub const LHREQ_SETREG: u32 = 6;
/// + vector of a trap to deliver.
pub const LHREQ_TRAP: u32 = 7;

/// A request with its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first one.
    Initialize(Initialize),
    /// Raises this interrupt.
    Irq(u32),
    /// Reads a register.
    GetReg(Register),
    /// Writes a register that can be [written](Register::can_be_set).
    SetReg(Register, u32),
    /// Delivers the trap with this vector.
    Trap(u32),
}

/// The four words of LHREQ_INITIALIZE in these releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialize {
    /// Where the Launcher has mapped the Guest's memory.
    pub base: u32,
    /// Pages of memory.
    pub pfn_limit: u32,
    /// Physical address of the first instruction.
    pub start: u32,
    /// One more than the last page of a device.
    pub device_limit: u32,
}

/// Why words are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// There is no such request, or words are missing.
    Invalid,
    /// There is no such register, or it cannot be written.
    NoSuchRegister,
}

impl Request {
    /// The request that begins `words`. Words behind it are ignored, as the
    /// original does.
    ///
    /// # Errors
    ///
    /// [`BadRequest`].
    pub fn from_words(words: &[u32]) -> Result<Self, BadRequest> {
        let register =
            |offset| Register::at(offset).ok_or(BadRequest::NoSuchRegister);
        Ok(match *words {
            [LHREQ_INITIALIZE, base, pfn_limit, start, device_limit, ..] => {
                Self::Initialize(Initialize {
                    base,
                    pfn_limit,
                    start,
                    device_limit,
                })
            }
            [LHREQ_IRQ, irq, ..] => Self::Irq(irq),
            [LHREQ_GETREG, offset, ..] => Self::GetReg(register(offset)?),
            [LHREQ_SETREG, offset, value, ..] => {
                let register = register(offset)?;
                if !register.can_be_set() {
                    return Err(BadRequest::NoSuchRegister);
                }
                Self::SetReg(register, value)
            }
            [LHREQ_TRAP, vector, ..] => Self::Trap(vector),
            _ => return Err(BadRequest::Invalid),
        })
    }

    /// Its words, and how many they are. Words behind them are 0.
    #[must_use]
    pub const fn words(self) -> ([u32; 5], usize) {
        match self {
            Self::Initialize(words) => {
                let Initialize {
                    base,
                    pfn_limit,
                    start,
                    device_limit,
                } = words;
                let number = LHREQ_INITIALIZE;
                ([number, base, pfn_limit, start, device_limit], 5)
            }
            Self::Irq(irq) => ([LHREQ_IRQ, irq, 0, 0, 0], 2),
            Self::GetReg(register) => {
                ([LHREQ_GETREG, register.offset(), 0, 0, 0], 2)
            }
            Self::SetReg(register, value) => {
                ([LHREQ_SETREG, register.offset(), value, 0, 0], 3)
            }
            Self::Trap(vector) => ([LHREQ_TRAP, vector, 0, 0, 0], 2),
        }
    }
}

/// A register that the Launcher may name. The number is its place in Linux's
/// `struct pt_regs` of i386.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names of registers")]
pub enum Register {
    Ebx = 0,
    Ecx = 1,
    Edx = 2,
    Esi = 3,
    Edi = 4,
    Ebp = 5,
    Eax = 6,
    Ds = 7,
    Es = 8,
    Fs = 9,
    Gs = 10,
    Eip = 12,
    Cs = 13,
    Eflags = 14,
    Esp = 15,
    Ss = 16,
}

impl Register {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Ebx,
        Self::Ecx,
        Self::Edx,
        Self::Esi,
        Self::Edi,
        Self::Ebp,
        Self::Eax,
        Self::Ds,
        Self::Es,
        Self::Fs,
        Self::Gs,
        Self::Eip,
        Self::Cs,
        Self::Eflags,
        Self::Esp,
        Self::Ss,
    ];

    /// Its offset in bytes.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self as u32 * 4
    }

    /// The register at this offset.
    #[must_use]
    pub fn at(offset: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.offset() == offset)
    }

    /// Whether SETREG writes it: the general registers, eip and esp.
    #[must_use]
    pub const fn can_be_set(self) -> bool {
        !matches!(
            self,
            Self::Ds
                | Self::Es
                | Self::Fs
                | Self::Gs
                | Self::Cs
                | Self::Eflags
                | Self::Ss
        )
    }
}

/// In [`Pending`]: the Guest has executed an instruction that accesses a port.
pub const PORT_ACCESS: u8 = 13;

/// In [`Pending`]: the Guest has accessed the memory of a device.
pub const DEVICE_ACCESS: u8 = 14;

/// What a read returns (`struct lguest_pending`).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Pending {
    /// [`PORT_ACCESS`] or [`DEVICE_ACCESS`].
    pub trap: u8,
    /// The instruction, and what is behind it.
    pub instruction: [u8; 7],
    /// With [`DEVICE_ACCESS`], the physical address.
    pub address: u32,
}

const _: () = assert!(size_of::<Pending>() == 12);

impl Pending {
    /// An access to `bytes` bytes (1, 2 or 4) of a device, as the `mov` between
    /// al, ax or eax and the memory at edx.
    #[must_use]
    pub const fn of_access(address: u32, bytes: u32, writes: bool) -> Self {
        const OPERAND_SIZE: u8 = 0x66;
        const STORE: u8 = 0x88;
        const LOAD: u8 = 0x8A;
        /// (%edx) and the first register.
        const AT_EDX: u8 = 0x02;
        let opcode = if writes { STORE } else { LOAD };
        let mut instruction = [0; 7];
        match bytes {
            1 => {
                instruction[0] = opcode;
                instruction[1] = AT_EDX;
            }
            2 => {
                instruction[0] = OPERAND_SIZE;
                instruction[1] = opcode | 1;
                instruction[2] = AT_EDX;
            }
            _ => {
                instruction[0] = opcode | 1;
                instruction[1] = AT_EDX;
            }
        }
        Self {
            trap: DEVICE_ACCESS,
            instruction,
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_read_as_it_was_written() {
        let initialize = Initialize {
            base: 0x1000_0000,
            pfn_limit: 0x1000,
            start: 0x100_0000,
            device_limit: 0x1103,
        };
        let mut all = 0;
        let mut check = |request: Request| {
            let (words, count) = request.words();
            assert_eq!(Request::from_words(&words[..count]), Ok(request));
            // More words change nothing, and one word less is too few.
            assert_eq!(Request::from_words(&words), Ok(request));
            let short = Request::from_words(&words[..count - 1]);
            assert_eq!(short, Err(BadRequest::Invalid));
            all += 1;
        };
        check(Request::Initialize(initialize));
        for value in [0, 1, 31, 32, u32::MAX] {
            check(Request::Irq(value));
            check(Request::Trap(value));
            for register in Register::ALL {
                check(Request::GetReg(register));
                if register.can_be_set() {
                    check(Request::SetReg(register, value));
                }
            }
        }
        assert_eq!(all, 1 + 5 * (2 + 16 + 9));
    }

    #[test]
    fn words_that_are_no_request_are_refused() {
        for words in [&[][..], &[1, 0], &[3, 1], &[4, 0, 0], &[8, 0], &[99]] {
            let read = Request::from_words(words);
            assert_eq!(read, Err(BadRequest::Invalid), "{words:?}");
        }
        for offset in 0..200 {
            let known = offset % 4 == 0 && offset <= 64 && offset != 44;
            let get = Request::from_words(&[LHREQ_GETREG, offset]);
            assert_eq!(get.is_ok(), known, "{offset}");
            let general = known && !(28..=40).contains(&offset);
            let set = general && ![52, 56, 64].contains(&offset);
            let read = Request::from_words(&[LHREQ_SETREG, offset, 1]);
            assert_eq!(read.is_ok(), set, "{offset}");
        }
    }

    #[test]
    fn an_access_is_twelve_bytes() {
        let store = Pending::of_access(0x410_0038, 2, true);
        let bytes = [14, 0x66, 0x89, 2, 0, 0, 0, 0, 0x38, 0, 0x10, 4];
        assert_eq!(store.as_bytes(), bytes);
        assert_eq!(Pending::read_from_bytes(&bytes), Ok(store));
        let load = |bytes| Pending::of_access(0, bytes, false).instruction;
        assert_eq!(load(1), [0x8A, 2, 0, 0, 0, 0, 0]);
        assert_eq!(load(2), [0x66, 0x8B, 2, 0, 0, 0, 0]);
        assert_eq!(load(4), [0x8B, 2, 0, 0, 0, 0, 0]);
        let byte = Pending::of_access(7, 1, true);
        assert_eq!(byte.instruction[..2], [0x88, 2]);
    }
}
