//! A port: a stream of bytes between the Launcher and an agent in the Guest.
//!
//! The agent is a program of the Guest's that runs commands. It opens the port
//! by its name. The bytes are frames: a length, the number of a stream, a kind,
//! and a payload. The [`Channel`] has the bytes of both directions, and the
//! numbers of the streams. The device moves bytes between it and the Guest. The
//! multiplexer ([`crate::exec`]) moves frames between it and clients.

mod channel;
pub use channel::{
    CHAIN_MOST, Channel, ChannelState, FRAME_MOST, Frame, FromGuest, HEADER,
    NoStream, STREAMS_MOST, frame,
};

mod state;
pub use state::{PortCounters, PortState, Waiting};
