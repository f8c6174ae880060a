//! A cell for statics: one CPU, one user at a time.
//!
//! With one CPU a `RefCell` would do for every static of the kernel, but the
//! compiler cannot know that there is only one. An interrupt handler that
//! borrows a cell already borrowed by the interrupted code panics. That is a
//! bug: the use of such a cell needs [`crate::irq::without`] around it.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::one_cpu::OneCpu;
//!
//! static VISITORS: OneCpu<u32> = OneCpu::new(0);
//!
//! fn count() -> u32 {
//!     VISITORS.with(|visitors| {
//!         *visitors += 1;
//!         *visitors
//!     })
//! }
//! ```

#![expect(unsafe_code, reason = "tells the compiler that there is one CPU")]

use core::cell::RefCell;

/// A `RefCell` that may be a static.
pub struct OneCpu<T>(RefCell<T>);

// SAFETY: there is one CPU (crate rule 1), so two borrows can only meet by one
// interrupting the other. The interrupting one sees the borrow flag as it is,
// and ends before the other goes on, so the flag is always exact.
unsafe impl<T> Sync for OneCpu<T> {}

impl<T> OneCpu<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Uses the contents.
    ///
    /// # Panics
    ///
    /// They are in use already.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        use_it(&mut self.0.borrow_mut())
    }
}
