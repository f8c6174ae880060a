//! Ending: cleanly, with an exit code, or in a panic.
//!
//! All three are one hypercall with a message: CRASH, or since Linux 2.6.25
//! SHUTDOWN. Every Launcher treats the message "Power down" as a clean end.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{power, println};
//!
//! /// The Launcher ends with this code.
//! fn end(failures: u8) -> ! {
//!     println!("{failures} failures");
//!     power::off(failures)
//! }
//! ```

#![expect(unsafe_code, reason = "a function that the linker knows by name")]

use crate::frame::Phys;
use crate::one_cpu::OneCpu;
use crate::{hcall, irq, print};
use core::fmt::Write;
use lg_abi::hypercall::{CRASH_MESSAGE_MAX, POWER_DOWN, POWER_DOWN_WITH_CODE};

/// A message, cut off at the length that the call takes.
struct Message {
    bytes: [u8; CRASH_MESSAGE_MAX as usize],
    len: usize,
}

impl Message {
    const fn new() -> Self {
        Self {
            bytes: [0; CRASH_MESSAGE_MAX as usize],
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // The last one stays zero: it ends the message.
            if self.len + 1 < self.bytes.len() {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Powers the Guest off. A `code` of 0 is a clean end. Any other one goes to
/// the Launcher, which exits with it if it can.
pub fn off(code: u8) -> ! {
    let mut message = Message::new();
    if code == 0 {
        message.push(POWER_DOWN);
    } else {
        message.push(POWER_DOWN_WITH_CODE);
        let _ = write!(message, "{code}"); // a `Message` never fails
    }
    end(&message)
}

fn end(message: &Message) -> ! {
    print::flush();
    irq::disable();
    hcall::end(Phys::of(&raw const message.bytes))
}

/// Whether a panic is being reported. A second one then gives no details.
static PANICKING: OneCpu<bool> = OneCpu::new(false);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    irq::disable();
    let again = PANICKING.with(|flag| core::mem::replace(flag, true));
    let mut message = Message::new();
    if again {
        message.push(b"panic in panic");
        hcall::end(Phys::of(&raw const message.bytes));
    }
    let _ = write!(message, "panic: {}", info.message());
    if let Some(place) = info.location() {
        let _ = write!(message, " ({}:{})", place.file(), place.line());
    }
    end(&message)
}

/// The ready-made `alloc` was compiled with unwinding and refers to this
/// symbol. Nothing calls it: a panic ends in [`panic()`].
#[unsafe(export_name = "_Unwind_Resume")]
extern "C" fn unwind_resume() -> ! {
    panic!("unwinding")
}
