//! A virtio console: a queue to the Guest, a queue from it.
//!
//! Before there is a driver, text goes to the early console: NOTIFY names it,
//! or a register takes it.

use super::buffers::Buffers;
use super::place;
use crate::bus::{Device, DeviceError, pci};
use crate::drivers::console::{CHUNK, Lines};
use crate::frame::Phys;
use crate::hcall;
use crate::interface::has_pci;
use crate::one_cpu::OneCpu;
use crate::virtqueue::{Piece, Virtqueue};
use alloc::collections::VecDeque;

/// The queues, by their places in the descriptor.
const TO_GUEST: u8 = 0;
const FROM_GUEST: u8 = 1;

/// The most that is printed at once: a buffer has one page, and the early
/// console needs an end.
const MOST: usize = 256;

/// The queue to the Guest, with one buffer.
pub(crate) struct Console {
    queue: Virtqueue,
    buffers: Buffers,
}

/// The queue from the Guest, once there is a driver. It is used with interrupts
/// off only.
static OUTPUT: OneCpu<Option<Virtqueue>> = OneCpu::new(None);

impl Console {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let place = place(&device)?;
        let output = Virtqueue::new(place.queue(FROM_GUEST)?)?;
        let output = output.without_interrupts();
        let console = Self {
            queue: Virtqueue::new(place.queue(TO_GUEST)?)?,
            buffers: Buffers::new(1, 1)?,
        };
        console.give();
        crate::irq::without(|| {
            OUTPUT.with(|kept| *kept = Some(output));
        });
        Ok(console)
    }

    /// Gives the buffer to the device.
    fn give(&self) {
        let piece = Piece {
            at: self.buffers.at(0),
            bytes: CHUNK.into(),
            written: true,
        };
        self.queue.offer(0, &[piece]);
        self.queue.notify();
    }
}

impl Lines for Console {
    fn collect(&self, typed: &mut VecDeque<u8>) {
        if let Some((_, length)) = self.queue.take() {
            typed.extend(self.buffers.data(0, length));
            self.give();
        }
    }
}

/// Prints some of `bytes`, and returns how many.
pub(crate) fn print(bytes: &[u8]) -> usize {
    let mut text = [0; MOST + 1];
    let length = bytes.len().min(MOST);
    text[..length].copy_from_slice(&bytes[..length]);
    let at = Phys::of(&raw const text);
    OUTPUT.with(|output| match output {
        Some(queue) => {
            let piece = Piece {
                at,
                bytes: crate::word(length),
                written: false,
            };
            queue.offer(0, &[piece]);
            queue.notify();
            // The text is on the stack, so it must be copied by now. This
            // Launcher's console does that before the call returns.
            while queue.take().is_none() {
                core::hint::spin_loop();
            }
        }
        None if has_pci() => pci::print_early(&bytes[..length]),
        None => hcall::notify(at),
    });
    length
}
