//! The console: input from the keyboard.
//!
//! Output needs no driver; see [`mod@crate::print`]. For input, the device has
//! one buffer. Its bytes are moved to a queue while the queue has room.
//! Otherwise they stay in the buffer, and the Launcher waits before it sends
//! more.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::bus::DeviceError;
//! use lg_guest::drivers::console::Console;
//! use lg_guest::line::Editor;
//! use lg_guest::println;
//!
//! async fn greet(console: &Console) -> Result<(), DeviceError> {
//!     let mut editor = Editor::new();
//!     if let Some(name) = console.line("Your name? ", &mut editor).await? {
//!         println!("Hello, {name}.");
//!     }
//!     Ok(())
//! }
//! ```

#[cfg(feature = "embedded-io")]
mod io;
#[cfg(feature = "embedded-io")]
pub use io::Output;

use super::{keys, virtio};
use crate::bus::{Device, DeviceError};
use crate::interface::has_virtio;
use crate::line::{Editor, Outcome};
use crate::{irq, print};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::cell::RefCell;

/// Bytes that may come at a time.
pub(super) const CHUNK: u16 = 4096;

/// Bytes that are kept until they are read.
const TYPE_AHEAD: usize = 16 << 10;

/// The byte of ^C.
pub const INTERRUPT: u8 = 3;

/// A console.
pub struct Console {
    device: Device,
    lines: Box<dyn Lines>,
    typed: RefCell<VecDeque<u8>>,
}

/// How input arrives.
pub(super) trait Lines {
    /// Moves what is in the buffer, if there is something, and gives the buffer
    /// back.
    fn collect(&self, typed: &mut VecDeque<u8>);
}

/// Prints some of `bytes`. Returns how many; 0 if the console takes nothing.
/// To be called with interrupts off.
pub(crate) fn print(bytes: &[u8]) -> usize {
    if has_virtio() {
        virtio::console::print(bytes)
    } else {
        keys::console::print(bytes)
    }
}

impl Console {
    /// The driver for `device`.
    ///
    /// # Errors
    ///
    /// There is no memory, or the Host refuses the buffer.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        let lines: Box<dyn Lines> = if has_virtio() {
            Box::new(virtio::console::Console::new(device)?)
        } else {
            Box::new(keys::console::Console::new(device)?)
        };
        Ok(Self {
            device,
            lines,
            typed: RefCell::new(VecDeque::new()),
        })
    }

    /// Takes the bytes that have come, if there is room for them.
    fn collect(&self) {
        let mut typed = self.typed.borrow_mut();
        if typed.len() < TYPE_AHEAD {
            self.lines.collect(&mut typed);
        }
    }

    /// Waits until `take` finds what it needs in the queue.
    async fn wait<T>(
        &self,
        mut take: impl FnMut(&mut VecDeque<u8>) -> Option<T>,
    ) -> Result<T, DeviceError> {
        loop {
            let seen = irq::count(self.device.irq());
            self.device.check()?;
            self.collect();
            if let Some(found) = take(&mut self.typed.borrow_mut()) {
                return Ok(found);
            }
            irq::after(self.device.irq(), seen).await;
        }
    }

    /// Takes bytes that have come already. Returns how many.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub fn take(&self, into: &mut [u8]) -> Result<usize, DeviceError> {
        self.device.check()?;
        self.collect();
        let mut typed = self.typed.borrow_mut();
        let taken = typed.len().min(into.len());
        for (place, byte) in into.iter_mut().zip(typed.drain(..taken)) {
            *place = byte;
        }
        Ok(taken)
    }

    /// Waits for a byte.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub async fn read(&self) -> Result<u8, DeviceError> {
        self.wait(VecDeque::pop_front).await
    }

    /// Prompts for a line, and waits until it is complete. ^C begins another
    /// one. `None`: ^D was typed on an empty line.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub async fn line(
        &self,
        prompt: &str,
        editor: &mut Editor,
    ) -> Result<Option<String>, DeviceError> {
        let mut show = prompt.as_bytes().to_vec();
        loop {
            print::print_bytes(&show);
            print::flush();
            show.clear();
            match editor.key(self.read().await?, &mut show) {
                Outcome::More => {}
                Outcome::Interrupt => show.extend(prompt.bytes()),
                Outcome::Line(line) => {
                    print::print_bytes(&show);
                    return Ok(Some(line));
                }
                Outcome::End => return Ok(None),
            }
        }
    }

    /// Waits until ^C is typed, and drops it and all bytes before it. Later
    /// bytes stay in the queue.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub async fn interrupted(&self) -> Result<(), DeviceError> {
        self.wait(|typed| {
            let at = typed.iter().position(|&byte| byte == INTERRUPT)?;
            typed.drain(..=at);
            Some(())
        })
        .await
    }
}
