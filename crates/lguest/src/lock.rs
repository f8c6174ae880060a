//! A lock whose last holder may have panicked.
//!
//! A panic in any thread ends the Launcher. So a poisoned lock is found only
//! while the process ends, and the data behind it is good enough for that.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not. Blocks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
