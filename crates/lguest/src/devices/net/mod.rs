//! A network interface: frames to and from a tap.
//!
//! Networks between Guests are part of their transport
//! ([`lan`](crate::transport::keys::lan)). [`checksum`] completes frames whose
//! sender has left a checksum out.

mod interface;
pub use interface::TapError;

pub mod checksum;

mod tap;
pub use tap::{Tap, TapState};
