//! `print!` and `println!`: through the kernel.
//!
//! The text is gathered, so that a line of up to [`WRITE_MAX`] bytes is one
//! system call, and no line of another program comes between its parts.

use crate::call::WRITE_MAX;
use crate::write;
use core::fmt::{self, Write};

struct Gathered {
    bytes: [u8; WRITE_MAX],
    len: usize,
}

impl Gathered {
    fn send(&mut self) {
        write(&self.bytes[..self.len]);
        self.len = 0;
    }
}

impl Write for Gathered {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == WRITE_MAX {
                self.send();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Prints. For [`print!`](crate::print!).
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut gathered = Gathered {
        bytes: [0; WRITE_MAX],
        len: 0,
    };
    let _ = gathered.write_fmt(arguments); // a `Gathered` never fails
    gathered.send();
}

/// Prints.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::print(format_args!($($argument)*))
    };
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::print!("{}\n", format_args!($($argument)*))
    };
}
