//! `print!` and `println!`: to the console, a line at a time.
//!
//! Output needs no driver: a SEND_DMA to the console's key, or NOTIFY with a
//! text for the early console, works from the first moment on. Every transfer
//! costs an entry into the Host, so text is gathered until a line ends or until
//! it is flushed. The shell flushes before it waits for a key. A line feed
//! becomes carriage return and line feed, which a raw terminal needs; the
//! console of a Linux Guest does the same.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{log, print, println};
//!
//! fn report(done: u32, all: u32) {
//!     print!("{done} of {all}\r");
//!     print::flush(); // no line has ended
//!     if done == all {
//!         println!();
//!         log!("all is done");
//!     }
//! }
//! ```

use crate::drivers::console;
use crate::irq;
use crate::one_cpu::OneCpu;
use core::fmt::{self, Write};

/// Bytes that are gathered at most.
const GATHER: usize = 256;

struct Gathered {
    bytes: [u8; GATHER],
    len: usize,
}

static OUT: OneCpu<Gathered> = OneCpu::new(Gathered {
    bytes: [0; GATHER],
    len: 0,
});

impl Gathered {
    fn push(&mut self, byte: u8) {
        if self.len == GATHER {
            self.send();
        }
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Sends all of it, in as many transfers as that takes.
    fn send(&mut self) {
        let mut rest = &self.bytes[..self.len];
        while !rest.is_empty() {
            let taken = console::print(rest).min(rest.len());
            if taken == 0 {
                break; // the console takes nothing, and never will
            }
            rest = &rest[taken..];
        }
        self.len = 0;
    }
}

impl Write for Gathered {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.push(b'\r');
            }
            self.push(byte);
        }
        if text.ends_with('\n') {
            self.send();
        }
        Ok(())
    }
}

/// Prints. For [`print!`](crate::print!).
pub fn print(arguments: fmt::Arguments<'_>) {
    irq::without(|| OUT.with(|out| out.write_fmt(arguments))).ok();
}

/// Prints bytes as they are, except line feeds.
pub fn print_bytes(bytes: &[u8]) {
    irq::without(|| {
        OUT.with(|out| {
            for &byte in bytes {
                if byte == b'\n' {
                    out.push(b'\r');
                }
                out.push(byte);
            }
        });
    });
}

/// Sends what has been gathered.
pub fn flush() {
    irq::without(|| OUT.with(Gathered::send));
}

/// Prints to the console. An incomplete line may be shown only at the next
/// [`flush`].
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::print::print(format_args!($($argument)*))
    };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::print!("{}\n", format_args!($($argument)*))
    };
}

/// Prints a line with the time since the Guest was entered in front of it.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {{
        let now = $crate::time::now() / 1_000;
        $crate::print!(
            "[{:5}.{:06}] {}\n",
            now / 1_000_000,
            now % 1_000_000,
            format_args!($($argument)*)
        )
    }};
}
