//! The console by the traits of `embedded-io` and `embedded-io-async`.
//!
//! [`Console`] can be read, and [`Output`] can be written. A read that does not
//! await sleeps until a byte is there, and no task runs meanwhile.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use embedded_io::Write;
//!
//! fn report(to: &mut impl Write, done: u32) {
//!     writeln!(to, "{done} done").expect("it prints");
//! }
//!
//! fn main() {
//!     report(&mut lg_guest::drivers::console::Output, 7);
//! }
//! ```

use super::Console;
use crate::bus::DeviceError;
use crate::{irq, print};
use core::convert::Infallible;
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};

/// The console's output. It needs no driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output;

impl embedded_io::Error for DeviceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Removed => ErrorKind::NotConnected,
            Self::Failed => ErrorKind::Other,
            Self::OutOfMemory => ErrorKind::OutOfMemory,
        }
    }
}

impl ErrorType for Output {
    type Error = Infallible;
}

impl Write for Output {
    /// A line feed becomes carriage return and line feed.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        print::print_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        print::flush();
        Ok(())
    }
}

impl embedded_io_async::Write for Output {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Write::write(self, bytes)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Write::flush(self)
    }
}

impl ErrorType for Console {
    type Error = DeviceError;
}

impl Read for Console {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, DeviceError> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut result = Ok(0);
        irq::block_until(|| {
            result = self.take(into);
            result != Ok(0)
        });
        result
    }
}

impl ReadReady for Console {
    fn read_ready(&mut self) -> Result<bool, DeviceError> {
        self.take(&mut []).map(|_| !self.typed.borrow().is_empty())
    }
}

impl embedded_io_async::Read for Console {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, DeviceError> {
        let Some((first, rest)) = into.split_first_mut() else {
            return Ok(0);
        };
        *first = Self::read(self).await?;
        Ok(1 + self.take(rest)?)
    }
}
