//! A network interface: frames between the Guest and something outside.
//!
//! A [`Nic`] is the device. A [`Backend`] carries its frames: a tap of the
//! machine or a stream to another process. Networks between Guests are part of
//! their transport ([`lan`](crate::transport::keys::lan)). [`checksum`] and
//! [`offload`] finish frames whose sender has left that to its device.

pub mod checksum;

pub mod ethernet;

pub mod offload;

mod backend;
pub use backend::{Backend, FRAME_MOST};

mod buffers;
pub use buffers::FrameBuffers;

mod waiting;
pub use waiting::Waiting;

mod capture;
pub use capture::Capture;

mod limit;

mod nic;
pub use nic::{Nic, NicState};

mod interface;
pub use interface::TapError;

mod tap;
pub use tap::Tap;

pub mod nothing;

pub mod stream;

pub mod user;

pub(crate) mod given;
