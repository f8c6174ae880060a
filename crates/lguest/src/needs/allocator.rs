//! The allocator: when there is no memory, a message instead of an abort.
//!
//! Under `ulimit -d` or `ulimit -v` any allocation may fail, and the standard
//! library aborts then. The command uses this allocator. It puts the terminal
//! back, writes the reason, and ends with the documented exit code.

#![expect(unsafe_code, reason = "the global allocator")]

use super::limits;
use crate::cli::exit::Outcome;
use crate::machine::terminal;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::{self, Write as _};

/// The system's allocator. The process ends when an allocation fails.
pub struct Allocator;

// SAFETY: the system's allocator keeps the contract. A failed allocation does
// not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        there(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        there(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(
        &self,
        at: *mut u8,
        layout: Layout,
        size: usize,
    ) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        there(unsafe { System.realloc(at, layout, size) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

fn there(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        end();
    }
    at
}

/// Standard error, written without allocating.
struct Plain;

impl fmt::Write for Plain {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let stderr = rustix::stdio::stderr();
        rustix::io::write(stderr, text.as_bytes()).map_err(|_| fmt::Error)?;
        Ok(())
    }
}

#[cold]
fn end() -> ! {
    terminal::leave_at_once();
    let cause = limits::memory();
    let cure = cause.cure();
    // Causes of this kind are written without allocating.
    let _ = writeln!(Plain, "lguest: cannot have memory: {cause}; {cure}");
    // SAFETY: ends the process, and runs no code of it.
    unsafe { libc::_exit(Outcome::BadMachine.code().into()) };
}
