//! What runs a Guest, as the rest of the Launcher sees it.
//!
//! In 2007 this was the character device `/dev/lguest`; here it is a trait.
//! [`Engine::initialize`] comes first (LHREQ_INITIALIZE); a call of
//! [`Engine::run`] runs the Guest until it sends DMA, is held, or has died;
//! [`Requests`] is the part that devices use: memory, buffers (LHREQ_GETDMA)
//! and interrupts (LHREQ_IRQ). [`Engine::hold`] is LHREQ_BREAK.
//!
//! [`Native`] runs the Guest's instructions on the processor, in processes of
//! its own. `Scripted` runs nothing: a test says what its Guest does. No code
//! outside of this folder depends on the choice.

mod bindings;
pub use bindings::{Binding, BoundDma};

mod death;
pub use death::Death;
pub(crate) use death::printable;

pub mod debug;

mod error;
pub use error::RequestError;

mod frozen;
pub use frozen::{EngineState, Frozen, HOST_AT, Piece, Resumed};

mod hold;
pub use hold::{Hold, Holder};

mod interface;
pub use interface::{
    DeviceAccess, Engine, EngineCounters, Exit, Isolation, Requests, Setup,
    SharedPage, Tracing,
};

pub mod clock;

mod native;
pub use native::Native;
#[cfg(fuzzing)]
pub use native::fuzzing;
pub use native::view_program;
pub(crate) use native::{Anywhere, STATISTICS, check_processor, no_program};

#[cfg(any(test, fuzzing))]
mod scripted;
#[cfg(any(test, fuzzing))]
pub use scripted::Scripted;

pub mod wire;
