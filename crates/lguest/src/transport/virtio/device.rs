//! The trait of every virtio device on the bus.
//!
//! A device says what is in its descriptor and gets its queues. The bus calls
//! it when a queue has something for it.

use super::queue::Queue;
use crate::devices::Violation;
use crate::transport::held::Held;
use crate::transport::{BusDevice, Notified, SlowOutput};
use lg_abi::gen2::device::{
    TYPE_9P, TYPE_BLOCK, TYPE_CONSOLE, TYPE_NET, TYPE_RANDOM,
};
use std::io;

pub use lg_abi::gen2::device::Features;

/// A device on the bus.
pub trait VirtioDevice: BusDevice {
    /// Its type, as virtio numbers them.
    fn kind(&self) -> u8;

    /// Its name, for `--stats`.
    fn name(&self) -> &'static str {
        name(self.kind())
    }

    /// Whether it is a console with a terminal, which has registers of its own
    /// on a PCI bus.
    fn is_terminal(&self) -> bool {
        false
    }

    /// How many virtqueues it has.
    fn queues(&self) -> u8;

    /// What it offers.
    fn features(&self) -> Features {
        0
    }

    /// The driver accepts these features. Called before a queue is used, and
    /// again before each [`Self::notify`].
    fn accepted(&mut self, _: Features) {}

    /// What is in its configuration.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Its queues, once, before the Guest runs.
    ///
    /// # Errors
    ///
    /// What the kernel says when something is missing that it needs.
    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()>;

    /// The Guest has put something into queue `index`. The Guest stands still
    /// meanwhile, so this must not block. The function that is returned may
    /// block: it is called before the Guest goes on, while other threads may
    /// use the device.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn notify(&mut self, index: usize)
    -> Result<Option<SlowOutput>, Violation>;

    /// The driver resets the device. Afterwards nothing writes to the memory of
    /// requests that were taken before. May block as long as the one that is
    /// being carried out does. The queues are reset after this.
    fn reset(&mut self) {}

    /// The queue whose buffers are for input, if there is one. Its
    /// notification says that there may be free buffers.
    fn input_queue(&self) -> Option<usize> {
        None
    }

    /// Whether a network interface is connected to anything.
    fn is_linked(&self) -> bool {
        true
    }

    /// Why the last state of the device is not whole.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// How the device was damaged from outside, if the Guest has to die of it.
    fn damage(&self) -> Option<String> {
        None
    }
}

/// The driver of `device` begins, and accepts the features `accepted`: `start`
/// starts its queues. May block.
pub(super) fn begin(
    device: &Held<dyn VirtioDevice>,
    accepted: Features,
    start: impl FnOnce(),
) {
    // The thread that brings input must not use a queue before the device
    // knows what is accepted.
    let mut device = device.lock();
    if let Some(held) = device.as_mut() {
        let accepted = accepted & held.features();
        held.accepted(accepted);
    }
    start();
}

/// The driver of `device` resets it, and its `queues`. When this returns, no
/// thread writes to the Guest's memory for what was taken before. May block.
pub(super) fn reset(device: &Held<dyn VirtioDevice>, queues: &[Queue]) {
    // A thread that fills a buffer has the device.
    let mut device = device.lock();
    if let Some(held) = device.as_mut() {
        held.reset();
    }
    queues.iter().for_each(Queue::reset);
}

/// The Guest has notified a queue, with this index, of `device`, which is at
/// index `number` of its bus, and whose driver accepts the features `accepted`.
/// May block.
pub(super) fn notified(
    device: &Held<dyn VirtioDevice>,
    accepted: Features,
    number: usize,
    (index, queue): (usize, &Queue),
) -> Result<Notified, Violation> {
    let mut device = device.lock();
    let Some(held) = device.as_mut() else {
        return Ok(Notified::Done);
    };
    let accepted = accepted & held.features();
    held.accepted(accepted);
    // Drivers use queues before they say that they are ready: a disk is read
    // for partitions while it is set up.
    queue.start();
    if held.input_queue() == Some(index) {
        return Ok(Notified::Buffers(number));
    }
    let rest = held.notify(index)?;
    drop(device);
    if let Some(rest) = rest {
        rest();
    }
    Ok(Notified::Done)
}

/// The name of a type of device, for `--stats`.
fn name(kind: u8) -> &'static str {
    match kind {
        TYPE_NET => "net",
        TYPE_BLOCK => "block",
        TYPE_CONSOLE => "console",
        TYPE_RANDOM => "random",
        TYPE_9P => "share",
        _ => "unknown",
    }
}
