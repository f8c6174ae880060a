//! Networks: a page of Ethernet addresses, and frames that are sent to them.
//!
//! The page is an array of slots, one for each Guest on the network. A Guest
//! writes its address into its slot and binds receive buffers to the key that
//! belongs to it; who wants to send a frame looks the address up and sends to
//! that key. Two devices look like this. [`Lan`] (`--sharenet=FILE`) joins
//! Guests of different Launchers: the page is the first page of a file that
//! all of them map, and a frame is copied once, by the Launcher of the
//! sending Guest, from one Guest's memory into the other's. [`Tap`]
//! (`--tunnet=`) joins one Guest and the machine it runs on.
//!
//! In reading order: [`window`] is memory that a frame is copied between,
//! [`port`] is where a Launcher tells the others which buffers its Guest has
//! bound, [`slots`] is who is who in the page, [`doorbell`] and [`inbox`] are
//! how frames are fetched that a Guest has posted by itself, [`porter`] is the
//! process that receives what other Launchers send, [`rendezvous`] is how
//! Launchers meet, [`peer`] is one of them and how it gets a frame, [`links`]
//! is the thread that keeps them in touch, [`arrivals`] the one that fetches
//! and raises interrupts, and [`lan`] puts these together.

use super::{Requests, Violation};

mod window;

mod port;

mod slots;

mod doorbell;

mod inbox;

mod porter;

mod rendezvous;

mod peer;

mod links;

mod arrivals;

mod lan;
pub use lan::{Lan, LanError};
pub use rendezvous::RendezvousError;
pub use slots::SlotsError;

mod counters;

mod tap;
pub use tap::{Tap, TapError};

/// What breaks the rules, as the reason of its owner's death.
fn violation(error: impl std::fmt::Display) -> Violation {
    Violation(error.to_string())
}

#[cfg(fuzzing)]
pub mod fuzzing;

#[cfg(test)]
mod tests;
