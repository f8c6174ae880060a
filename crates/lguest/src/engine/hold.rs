//! A token that keeps a Guest standing still.
//!
//! Several parts of the Launcher may hold a Guest at the same time: the
//! terminal when its job is stopped, a snapshot, a debugger. Each has a
//! [`Hold`] of its own, and the Guest goes on when the last of them is dropped.
//! While a Guest is held, all of its state lies in its memory and in the state
//! that the views share.

use super::error::RequestError;
use std::sync::Arc;
use std::time::Duration;

/// The side of an engine that its tokens use.
pub trait Holder: Send + Sync {
    /// Blocks until the Guest stands at a clean point, or for `patience`.
    /// Returns whether it stands.
    ///
    /// # Errors
    ///
    /// [`RequestError::Dead`], also for a Guest that runs and cannot be made
    /// to stop.
    fn wait_until_still(
        &self,
        patience: Option<Duration>,
    ) -> Result<bool, RequestError>;

    /// Removes one token.
    fn let_go(&self);
}

/// Keeps a Guest standing still until it is dropped
/// ([`super::Engine::hold`]).
#[must_use = "the guest goes on when this is dropped"]
pub struct Hold(Arc<dyn Holder>);

impl Hold {
    /// A token of `engine`, which has already counted it.
    pub fn new(engine: Arc<dyn Holder>) -> Self {
        Self(engine)
    }

    /// Blocks until the Guest stands at a clean point. Some thread has to call
    /// [`super::Engine::run`] meanwhile.
    ///
    /// # Errors
    ///
    /// [`RequestError::Dead`]: the Guest has ended, or was killed because it
    /// did not stop.
    pub fn wait(&self) -> Result<(), RequestError> {
        self.0.wait_until_still(None).map(drop)
    }

    /// [`Self::wait`], for `patience` at most. Returns whether the Guest
    /// stands.
    ///
    /// # Errors
    ///
    /// [`RequestError::Dead`].
    pub fn wait_for(&self, patience: Duration) -> Result<bool, RequestError> {
        self.0.wait_until_still(Some(patience))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
