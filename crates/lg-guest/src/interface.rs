//! Which interface this Guest has: how it calls its Host, and what they share.
//!
//! A Guest names its releases of Linux with [`entry!`](crate::entry). One that
//! names a single generation has only the code for that one. A Guest for any
//! generation finds out when it starts: a Launcher enters it at the mark of
//! 2007, or at the entry point of its header. In the second case the banner in
//! the image has the number of the interface, and a test may have changed it.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{interface, println};
//!
//! fn describe() {
//!     let devices = match interface::has_virtio() {
//!         true => "virtio",
//!         false => "those of 2007",
//!     };
//!     println!("devices: {devices}");
//! }
//! ```

#![expect(unsafe_code, reason = "statics of the Guest and of assembly")]

use core::sync::atomic::{AtomicU32, Ordering};
use lg_abi::call::{CallName, MAX_ARGUMENTS};
use lg_abi::gen1;
use lg_abi::interface::{CallRegisters, Interface};
use lg_abi::known::Known;
use lg_abi::layout::{Field, Layout};

/// For [`entry!`](crate::entry): the Guest runs as a Guest of 2007.
pub const OF_2007: u8 = 1;

/// For [`entry!`](crate::entry): it runs as a Guest of Linux 2.6.25 to 4.13.
pub const LATER: u8 = 2;

/// For [`entry!`](crate::entry): both.
pub const ANY: u8 = OF_2007 | LATER;

/// Interfaces that there are.
pub(crate) const INTERFACES: usize = 8;

/// A number that no call has.
const NONE: u8 = u8::MAX;

/// The number of each call in each interface.
static NUMBERS: [[u8; CallName::COUNT]; INTERFACES] = {
    let mut numbers = [[NONE; CallName::COUNT]; INTERFACES];
    let mut known = 0;
    while known < INTERFACES {
        let mut call = 0;
        while call < CallName::COUNT {
            let interface = Known::by_number(crate::word(known));
            if let Some(number) = interface.number(CallName::ALL[call]) {
                numbers[known][call] = number.to_le_bytes()[0];
            }
            call += 1;
        }
        known += 1;
    }
    numbers
};

unsafe extern "C" {
    /// [`OF_2007`], [`LATER`], or both. The linker knows it, and removes the
    /// code for the other generation.
    safe static lguest_generations: u8;
}

/// The number of the interface, written by the first instructions where the
/// Guest is a later one.
#[unsafe(export_name = "lguest_known")]
static KNOWN: AtomicU32 = AtomicU32::new(Known::Linux2_6_23 as u32);

fn number_of_interface() -> u32 {
    if lguest_generations == OF_2007 {
        Known::Linux2_6_23 as u32
    } else {
        KNOWN.load(Ordering::Relaxed)
    }
}

/// The interface of this Guest.
#[must_use]
pub fn interface() -> &'static Interface {
    match has_virtio() {
        true => Known::by_number(number_of_interface()),
        false => &gen1::INTERFACE,
    }
}

/// Where the fields of the page are that this Guest shares with the Host.
#[must_use]
pub fn layout() -> &'static Layout {
    &interface().layout
}

/// Where `irq_enabled` is, in every interface.
pub(crate) const IRQ_ENABLED: Field = {
    let field = gen1::INTERFACE.layout.irq_enabled;
    let mut known = 0;
    while known < INTERFACES {
        let other = Known::by_number(crate::word(known)).layout.irq_enabled;
        assert!(other.offset() == field.offset());
        known += 1;
    }
    field
};

/// Whether its devices are virtio devices, on lguest's bus or a PCI bus.
/// Otherwise they are those of 2007, reached by keys.
#[must_use]
pub fn has_virtio() -> bool {
    if lguest_generations == LATER {
        return true;
    }
    number_of_interface() != Known::Linux2_6_23 as u32
}

/// Whether they are on a PCI bus.
#[must_use]
pub fn has_pci() -> bool {
    let known = number_of_interface();
    known == Known::Linux4_0 as u32 || known == Known::Linux4_1 as u32
}

/// The number of a call, if this interface has it.
#[must_use]
#[inline]
pub fn number(name: CallName) -> Option<u32> {
    let numbers = match has_virtio() {
        true => &NUMBERS[number_of_interface() as usize % INTERFACES],
        false => &NUMBERS[Known::Linux2_6_23 as usize],
    };
    let number = numbers[name as usize];
    (number != NONE).then_some(number.into())
}

/// The registers of a call with any number.
#[must_use]
#[inline]
pub fn registers(
    number: u32,
    arguments: [u32; MAX_ARGUMENTS],
) -> CallRegisters {
    if has_virtio() {
        return interface().registers(number, arguments);
    }
    // The compiler would not see that this is the same for 2007.
    let [edx, ebx, ecx, _] = arguments;
    CallRegisters {
        eax: number,
        edx,
        ebx,
        ecx,
        esi: 0,
    }
}
