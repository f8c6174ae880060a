//! The console for `write!`.
//!
//! `core` can format numbers and all else without a library, if it is told
//! where the text goes.

use core::fmt::{self, Write};

/// The console.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                // A terminal has to be sent to the first column, too.
                Some(line) => {
                    lesson01::print(line.as_bytes());
                    lesson01::print(b"\r\n");
                }
                None => {
                    lesson01::print(line.as_bytes());
                }
            }
        }
        Ok(())
    }
}
