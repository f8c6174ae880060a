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

/// Enums whose number goes through the mailbox, where any number may be.
macro_rules! numbered {
    ($(#[$about:meta])* pub enum $Name:ident {
        $($(#[$doc:meta])* $Variant:ident = $number:literal,)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $Name {
            $($(#[$doc])* $Variant = $number,)*
        }

        impl $Name {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$Variant),*];

            /// The one with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$Variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// What the Host is to do while the Guest stands.
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
        /// Answer memory. Arguments: address, length, and a [`Space`]. The text
        /// is shorter than that where the memory ends.
        Read = 5,
        /// Write memory. Arguments: address, nothing, and a [`Space`].
        Write = 6,
        /// Plant a breakpoint. Arguments: address, length, [`Kind`].
        Plant = 7,
        /// Remove one. Arguments as for [`Self::Plant`].
        Remove = 8,
        /// How the Guest goes on when it does. Argument: 1 = for one
        /// instruction.
        Prepare = 9,
        /// Remove all breakpoints, and go on as without a debugger.
        Detach = 10,
        /// Answer the entries of the Guest's tables for an address: how many,
        /// then a physical address and a value for each. Argument: the address.
        Walk = 11,
        /// Answer the page directories that have a view, one word each.
        Directories = 12,
        /// As [`Self::Read`], by the tables of a page directory that need not
        /// be loaded. Arguments: address, length, page directory.
        ReadIn = 13,
        /// As [`Self::Write`]. Arguments: address, nothing, page directory.
        WriteIn = 14,
        /// Answer the [`Frame`] of a page directory that is not loaded.
        /// Argument: the page directory.
        ReadFrame = 15,
    }
}

numbered! {
    /// Which addresses memory has.
    pub enum Space {
        /// Those of the page directory that is loaded.
        Virtual = 0,
        /// Those of the Guest's memory.
        Physical = 1,
    }
}

numbered! {
    /// Kinds of breakpoints.
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
}

numbered! {
    /// Why the Guest stands.
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
}

numbered! {
    /// What became of an order.
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

/// The registers of a program when it entered the kernel, as a trap pushes
/// them: eip, cs, eflags, esp and ss.
pub type Frame = [u32; 5];

/// Breakpoints of [`Kind::Software`] that there can be.
pub const MAX_SOFTWARE: usize = 64;

/// Breakpoints of other kinds that there can be.
pub const MAX_OTHERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        macro_rules! check {
            ($($Name:ident),*) => {$(
                for (number, &named) in (0..).zip($Name::ALL) {
                    assert_eq!(named as u32, number);
                    assert_eq!($Name::from_number(number), Some(named));
                }
                let end = u32::try_from($Name::ALL.len()).unwrap();
                assert_eq!($Name::from_number(end), None);
            )*};
        }
        check!(Order, Space, Kind, Stop, Outcome);
        assert_eq!(Order::from_number(u32::MAX), None);
    }
}
