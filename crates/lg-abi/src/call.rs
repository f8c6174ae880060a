//! Hypercalls as the Host understands them, whatever the generation.
//!
//! Generations number their calls differently and pass the arguments in
//! different registers. An [`Interface`](crate::interface::Interface) turns
//! both into a [`Call`]; what a call does depends on nothing else.

/// The most arguments that a call has.
pub const MAX_ARGUMENTS: usize = 4;

macro_rules! calls {
    ($($(#[doc = $doc:literal])* $name:ident $text:literal {
        $($(#[doc = $about:literal])* $field:ident = $index:literal,)*
    })*) => {
        /// Which call, without its arguments.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CallName {
            $($(#[doc = $doc])* $name,)*
        }

        /// A call with its arguments, none of them checked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call {
            $($(#[doc = $doc])* $name {
                $($(#[doc = $about])* $field: u32,)*
            },)*
        }

        impl CallName {
            /// Every call of every generation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// How many there are: the size of a table with a place for each.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that the original gave it, without its prefix.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// This call with its arguments in their order.
            #[must_use]
            #[inline]
            pub const fn with(self, arguments: [u32; MAX_ARGUMENTS]) -> Call {
                match self {
                    $(Self::$name => Call::$name {
                        $($field: arguments[$index],)*
                    },)*
                }
            }
        }

        impl Call {
            /// Which call it is.
            #[must_use]
            #[inline]
            pub const fn name(self) -> CallName {
                match self {
                    $(Self::$name { .. } => CallName::$name,)*
                }
            }
        }
    };
}

calls! {
    /// Nothing beyond running the ring.
    FlushAsync "FLUSH_ASYNC" {}
    /// The Guest shares memory with the Host. Must come first, and only once.
    Init "LGUEST_INIT" {
        /// Physical address of `lguest_data`.
        data = 0,
    }
    /// The Guest ends.
    Crash "CRASH" {
        /// Physical address of a text.
        message = 0,
    }
    /// The descriptor table has changed.
    LoadGdt "LOAD_GDT" {
        /// Physical address.
        table = 0,
        /// Entries.
        count = 1,
    }
    /// The Guest uses another page directory.
    NewPgtable "NEW_PGTABLE" {
        /// Its physical address.
        directory = 0,
    }
    /// Page tables have changed.
    FlushTlb "FLUSH_TLB" {
        /// 0 = the user part of this page directory, else everything.
        everything = 0,
    }
    /// A gate of the interrupt table has changed.
    LoadIdtEntry "LOAD_IDT_ENTRY" {
        /// Its vector.
        vector = 0,
        /// Its low word.
        low = 1,
        /// Its high word.
        high = 2,
    }
    /// The stack for traps from user mode.
    SetStack "SET_STACK" {
        /// Its segment.
        ss = 0,
        /// Where it begins.
        esp = 1,
        /// How many pages it has.
        pages = 2,
    }
    /// Sets or clears CR0.TS.
    Ts "TS" {
        /// 0 = clear.
        on = 0,
    }
    /// A timer that goes off once, as interrupt 0.
    SetClockevent "SET_CLOCKEVENT" {
        /// Nanoseconds from now; 0 = off.
        delta = 0,
    }
    /// The Guest stops until an interrupt is pending.
    Halt "HALT" {}
    /// Buffers for input.
    BindDma "BIND_DMA" {
        /// The DMA key.
        key = 0,
        /// Physical address of an array of buffers.
        dmas = 1,
        /// Its length, and an interrupt in the low byte.
        count_irq = 2,
    }
    /// Output.
    SendDma "SEND_DMA" {
        /// The DMA key.
        key = 0,
        /// Physical address of a buffer.
        dma = 1,
    }
    /// An entry of a page table has changed.
    SetPte "SET_PTE" {
        /// Physical address of the page directory.
        directory = 0,
        /// Virtual address of the page.
        va = 1,
        /// The new entry.
        entry = 2,
        /// Its high word, with PAE.
        entry_high = 3,
    }
    /// An entry of a page directory has changed.
    SetPmd "SET_PMD" {
        /// Physical address of the page directory.
        directory = 0,
        /// Index of the entry.
        index = 1,
    }
    /// The thread-local descriptors have changed.
    LoadTls "LOAD_TLS" {
        /// Physical address of three descriptors.
        table = 0,
    }
    /// The Guest ends, or starts again. Replaces CRASH since 2.6.25.
    Shutdown "SHUTDOWN" {
        /// Physical address of a text.
        message = 0,
        /// 1 = the end, 2 = a restart.
        reason = 1,
    }
    /// A virtqueue has buffers, a device's status has changed, or the early
    /// console has a text. Generation 2.
    Notify "NOTIFY" {
        /// Physical address of the ring, the descriptor or the text.
        address = 0,
    }
    /// A descriptor of the table has changed. Replaces LOAD_GDT since 2.6.30.
    LoadGdtEntry "LOAD_GDT_ENTRY" {
        /// Its index.
        index = 0,
        /// Its low word.
        low = 1,
        /// Its high word.
        high = 2,
    }
    /// An entry of the top page table has changed. Since 2.6.31, with the
    /// number that SET_PMD had.
    SetPgd "SET_PGD" {
        /// Physical address of the table.
        directory = 0,
        /// Index of the entry.
        index = 1,
    }
    /// An entry of a middle page table has changed, which only PAE has. Since
    /// 2.6.31.
    SetPaePmd "SET_PMD" {
        /// Physical address of the table.
        table = 0,
        /// Index of the entry.
        index = 1,
    }
    /// Pending interrupts may be delivered now. Since 2.6.31.
    SendInterrupts "SEND_INTERRUPTS" {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_to_the_fields_in_their_order() {
        assert_eq!(
            CallName::SetStack.with([0x69, 0xC000_0000, 2, 9]),
            Call::SetStack {
                ss: 0x69,
                esp: 0xC000_0000,
                pages: 2
            }
        );
        for &name in CallName::ALL {
            assert_eq!(name.with([0; MAX_ARGUMENTS]).name(), name);
        }
    }

    #[test]
    fn every_call_has_its_place_in_a_table() {
        let places = CallName::ALL.iter().map(|&name| name as usize);
        assert!(places.eq(0..CallName::COUNT));
    }
}
