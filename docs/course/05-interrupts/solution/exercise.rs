//! Exercise 5: a moment without interrupts.
//!
//! A handler that runs between two steps of other code sees what that code has
//! half done. So such steps are taken with interrupts off.

use lg_guest::shared::{irq_enabled, set_irq_enabled};

/// Calls `action` with interrupts off. Afterwards they are as they were before:
/// on, or still off.
pub fn without_interrupts<R>(action: impl FnOnce() -> R) -> R {
    let before = irq_enabled();
    set_irq_enabled(false);
    let result = action();
    set_irq_enabled(before);
    result
}
