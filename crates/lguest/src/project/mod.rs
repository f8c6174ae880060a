//! Crates of guests: `lguest new` and `lguest runner`.
//!
//! The first makes a crate, and cargo starts the second. In reading order:
//! [`new`] writes the crate; [`files`] has what it is made of, the guest kit
//! among it, so that a crate fits the program that made it; [`toolchain`] finds
//! a compiler for guests; [`runner`] tells a guest from an image of tests, and
//! [`testing`] runs the latter.

mod error;
pub use error::ProjectError;

mod files;
pub use files::Template;

mod new;
pub use new::make;

pub mod runner;

pub mod testing;

mod toolchain;
