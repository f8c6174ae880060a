//! What a debugger asks the Host of a Guest that stands still.
//!
//! The Host stands at a clean point when it has made the request
//! [`Broken`](crate::mailbox::Request::Broken). The Launcher's answer is an
//! [`Order`]: its number is in `reply`, its arguments and bytes are where those
//! of a request are. The Host carries it out and makes the request again, with
//! the result. [`Order::GoOn`] lets the Guest run.
//!
//! The arguments of the request are why the Guest stands ([`Stop`]), the
//! [`Outcome`] of the last order, and a value that belongs to one of them.

/// What the Host is to do while the Guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Let the Guest go on.
    GoOn = 0,
    /// Answer the [`Words`] in the text.
    ReadRegisters = 1,
    /// Take the first [`WRITABLE`] words of the text for the registers.
    WriteRegisters = 2,
    /// Answer half of the floating-point registers, as FXSAVE has them.
    /// Argument: 0 or 1.
    ReadFpu = 3,
    /// Take half of them from the text. Argument: 0 or 1.
    WriteFpu = 4,
    /// Answer memory. Arguments: address, length, and a [`Space`]. The text is
    /// shorter than that where the memory ends.
    Read = 5,
    /// Write memory. Arguments: address, nothing, and a [`Space`].
    Write = 6,
    /// Plant a breakpoint. Arguments: address, length, [`Kind`].
    Plant = 7,
    /// Remove one. Arguments as for [`Self::Plant`].
    Remove = 8,
    /// How the Guest goes on when it does. Argument: 1 = for one instruction.
    Prepare = 9,
    /// Remove all breakpoints, and go on as without a debugger.
    Detach = 10,
    /// Answer the entries of the Guest's tables for an address: how many, then
    /// a physical address and a value for each. Argument: the address.
    Walk = 11,
    /// Answer the page directories that have a view, one word each.
    Directories = 12,
}

impl Order {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::GoOn,
        Self::ReadRegisters,
        Self::WriteRegisters,
        Self::ReadFpu,
        Self::WriteFpu,
        Self::Read,
        Self::Write,
        Self::Plant,
        Self::Remove,
        Self::Prepare,
        Self::Detach,
        Self::Walk,
        Self::Directories,
    ];

    /// The order with number `number`.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&order| order as u32 == number)
    }
}

/// Which addresses memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Space {
    /// Those of the page directory that is loaded.
    Virtual = 0,
    /// Those of the Guest's memory.
    Physical = 1,
}

/// Kinds of breakpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// An `int3` in the Guest's memory.
    Software = 0,
    /// The address of an instruction, compared before each instruction.
    Execution = 1,
    /// Memory that is written.
    Write = 2,
    /// Memory that is read.
    Read = 3,
    /// Memory that is read or written.
    Access = 4,
}

impl Kind {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [
        Self::Software,
        Self::Execution,
        Self::Write,
        Self::Read,
        Self::Access,
    ];

    /// The kind with number `number`.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u32 == number)
    }
}

/// Why the Guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stop {
    /// The Launcher has asked for it.
    Told = 0,
    /// It has carried out one instruction.
    Step = 1,
    /// It has reached a [`Kind::Software`].
    Breakpoint = 2,
    /// It has reached a [`Kind::Execution`].
    Execution = 3,
    /// It has written what is watched. The value is the address.
    Write = 4,
    /// It has read what is watched. The value is the address.
    Read = 5,
    /// It has read or written what is watched. The value is the address.
    Access = 6,
}

impl Stop {
    /// All of them, by number.
    pub const ALL: [Self; 7] = [
        Self::Told,
        Self::Step,
        Self::Breakpoint,
        Self::Execution,
        Self::Write,
        Self::Read,
        Self::Access,
    ];

    /// The reason with number `number`.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&stop| stop as u32 == number)
    }
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// It was carried out.
    Done = 0,
    /// There is no such memory, or no such breakpoint.
    NoSuch = 1,
    /// There is no room for one more breakpoint.
    Full = 2,
    /// It cannot be carried out.
    Refused = 3,
}

impl Outcome {
    /// The outcome with number `number`.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Done,
            1 => Self::NoSuch,
            2 => Self::Full,
            3 => Self::Refused,
            _ => return None,
        })
    }
}

/// The registers of [`Order::ReadRegisters`], by their index in the text, in
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)] // the processor's manual has them all
pub enum Word {
    Eax,
    Ecx,
    Edx,
    Ebx,
    Esp,
    Ebp,
    Esi,
    Edi,
    Eip,
    Eflags,
    Cs,
    Ss,
    Ds,
    Es,
    Fs,
    Gs,
    /// The bases of two segments.
    FsBase,
    GsBase,
    /// The page directory.
    Cr3,
    /// 1 = user code runs.
    User,
    /// 1 = the Guest waits for an interrupt.
    Halted,
}

/// How many there are.
pub const WORDS: usize = Word::Halted as usize + 1;

/// How many of them can be written: up to eflags.
pub const WRITABLE: usize = Word::Eflags as usize + 1;

/// The registers of [`Order::ReadRegisters`].
pub type Words = [u32; WORDS];

/// Breakpoints of [`Kind::Software`] that there can be.
pub const MAX_SOFTWARE: usize = 64;

/// Breakpoints of other kinds that there can be.
pub const MAX_OTHERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        for (number, order) in (0..).zip(Order::ALL) {
            assert_eq!(order as u32, number);
            assert_eq!(Order::from_number(number), Some(order));
        }
        for (number, kind) in (0..).zip(Kind::ALL) {
            assert_eq!(Kind::from_number(number), Some(kind));
        }
        for (number, stop) in (0..).zip(Stop::ALL) {
            assert_eq!(Stop::from_number(number), Some(stop));
        }
        assert_eq!(Order::from_number(13), None);
        assert_eq!(Kind::from_number(5), None);
        assert_eq!(Stop::from_number(7), None);
        assert_eq!(Outcome::from_number(4), None);
    }
}
