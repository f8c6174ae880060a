//! A network interface: frames out, frames in, and a tap behind it.
//!
//! Networks between Guests are part of their transport
//! ([`lan`](crate::transport::keys::lan)).

mod interface;
pub use interface::TapError;

mod tap;
pub use tap::{Tap, TapState};
