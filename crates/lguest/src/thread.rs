//! Threads of the Launcher.
//!
//! The standard library panics in a new thread that finds no address space for
//! its signal stack. Under a limit that is a matter of some pages, and of what
//! the other threads map meanwhile. So a thread is started in two steps: look
//! whether there is far more room than it needs, then wait until it runs.

use crate::needs;
use std::io;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a stack of `stack` bytes. Blocks until it runs `work`.
///
/// # Errors
///
/// The kernel has no thread left, or no memory for one.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    needs::room_for_a_thread()?;
    let (runs, has_begun) = channel();
    let thread = Builder::new().name(name.into()).stack_size(stack);
    let thread = thread.spawn(move || {
        // The other end waits for this.
        let _ = runs.send(());
        drop(runs);
        work()
    })?;
    // It fails only if the thread has panicked. Its message is printed then.
    let _ = has_begun.recv();
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_when_its_start_returns() {
        let (sender, receiver) = channel();
        let thread = start("test", 64 << 10, move || {
            let name = std::thread::current().name().map(str::to_owned);
            sender.send(name).unwrap();
            7
        });
        assert_eq!(thread.unwrap().join().unwrap(), 7);
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("test"));
    }
}
