//! What is known of a Guest: shared by its handle, its watcher and its holds.
//!
//! Order of locks: `conversation` is taken first. `holds`, `death` and
//! `bindings` are held for a moment only, and no other lock is taken inside.

use super::holds::Holds;
use super::running::Running;
use super::turn::Conversation;
use crate::engine::bindings::Bindings;
use crate::engine::death::Death;
use crate::engine::error::RequestError;
use crate::lock::lock;
use crate::memory::GuestMemory;
use crate::needs::Lack;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};

/// The Guest itself.
pub(super) struct Core {
    pub(super) memory: GuestMemory,
    /// Once it has been initialised.
    pub(super) running: OnceLock<Running>,
    pub(super) bindings: Mutex<Bindings>,
    pub(super) conversation: Mutex<Conversation>,
    /// A thread sleeps on the mailbox's turn, or is about to.
    pub(super) waiting: AtomicBool,
    pub(super) holds: Holds,
    pub(super) death: Mutex<Option<Death>>,
    /// Why the last view could not be started, if it could not.
    pub(super) refused: Mutex<Option<Lack>>,
}

impl Core {
    /// A Guest that has not been initialised.
    pub(super) fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            running: OnceLock::new(),
            bindings: Mutex::default(),
            conversation: Mutex::new(Conversation::NotBegun),
            waiting: AtomicBool::new(false),
            holds: Holds::default(),
            death: Mutex::new(None),
            refused: Mutex::new(None),
        }
    }

    /// The running part of a Guest that has been initialised and is not dead.
    pub(super) fn alive(&self) -> Result<&Running, RequestError> {
        let running = self.running.get().ok_or(RequestError::NotInitialised)?;
        match self.death() {
            Some(_) => Err(RequestError::Dead),
            None => Ok(running),
        }
    }

    /// How it ended, if it has.
    pub(super) fn death(&self) -> Option<Death> {
        lock(&self.death).clone()
    }
}
