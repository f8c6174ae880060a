//! No memory for the Launcher itself: a sentence instead of an abort.
//!
//! Under `ulimit -d` or `ulimit -v` any allocation may be the one that fails,
//! and the standard library aborts then. The command has this allocator, which
//! puts the terminal back, says why, and ends with the documented code.

#![expect(unsafe_code, reason = "the global allocator")]

use super::limits;
use crate::cli::exit::Outcome;
use crate::machine::terminal;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::{self, Write as _};
use std::io;

/// The system's allocator; the process ends where it has nothing to give.
pub struct Allocator;

// SAFETY: the system's allocator keeps the promises; what it does not answer
// is never answered.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        there(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        there(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(
        &self,
        at: *mut u8,
        layout: Layout,
        size: usize,
    ) -> *mut u8 {
        // SAFETY: the caller's.
        there(unsafe { System.realloc(at, layout, size) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

fn there(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        end();
    }
    at
}

/// Standard error, without any memory.
struct Plain;

impl fmt::Write for Plain {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let stderr = rustix::stdio::stderr();
        rustix::io::write(stderr, text.as_bytes()).map_err(|_| fmt::Error)?;
        Ok(())
    }
}

/// Address space for the stacks of the Launcher's threads, twice over.
const THREADS: usize = 1 << 20;

/// Looks whether there is room for the Launcher's threads. The standard library
/// panics in a new thread that finds none for its signal stack.
///
/// # Errors
///
/// There is none. With [`Allocator`] the process has ended by then.
pub(crate) fn room_for_threads() -> io::Result<()> {
    let mut room: Vec<u8> = Vec::new();
    let reserved = room.try_reserve_exact(THREADS);
    std::hint::black_box(&room);
    reserved.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

#[cold]
fn end() -> ! {
    terminal::leave_at_once();
    let cause = limits::memory();
    let cure = cause.cure();
    // No cause of this kind allocates anything for its words.
    let _ = writeln!(Plain, "lguest: cannot have memory: {cause}; {cure}");
    // SAFETY: ends the process, without the help of anything in it.
    unsafe { libc::_exit(Outcome::BadMachine.code().into()) };
}
