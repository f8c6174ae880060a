//! The state of a device as data: taken out of one, and put into another.
//!
//! A device's state is what its Guest relies on and what is in no file, no
//! terminal and no other machine: bytes that were read and not delivered, and
//! counts. The file or terminal behind a device is no part of it. A new
//! Launcher opens that anew, and refuses a state that does not fit.
//!
//! The Guest stands still while a state is taken. Its memory and its interrupts
//! are saved *after* the states of its devices: taking the state of a disk
//! finishes the disk's requests, which writes to both. So a state never
//! contains a request.

use serde::{Deserialize, Serialize};

/// A state that does not fit a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It was written by another version of this program.
    #[error(
        "the state of a {device} has version {found}, and this program knows \
         version {known}: restore it with the program that saved it"
    )]
    Version {
        /// The kind of the device.
        device: &'static str,
        /// The version of the state.
        found: u32,
        /// The version that is known here.
        known: u32,
    },
    /// It is the state of something else.
    #[error("the state does not fit: {0}")]
    Other(String),
}

/// A state with the version of its layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The version. A change of `T` that older programs would read wrongly
    /// needs a new one.
    pub version: u32,
    /// The state.
    pub state: T,
}

/// What a state is of, and which version of it this program writes.
pub trait Saved: Sized {
    /// The kind of the device.
    const DEVICE: &'static str;

    /// The version that this program writes, and the only one that it reads.
    const VERSION: u32;

    /// This state, with its version.
    fn versioned(self) -> Versioned<Self> {
        Versioned {
            version: Self::VERSION,
            state: self,
        }
    }
}

impl<T: Saved> Versioned<T> {
    /// The state, if its version is known.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Version`].
    pub fn known(&self) -> Result<&T, RestoreError> {
        if self.version == T::VERSION {
            return Ok(&self.state);
        }
        Err(RestoreError::Version {
            device: T::DEVICE,
            found: self.version,
            known: T::VERSION,
        })
    }
}
