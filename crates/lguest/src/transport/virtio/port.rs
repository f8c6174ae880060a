//! A port on the bus of virtio.
//!
//! The device is a console that has several ports, and no terminal. It has six
//! queues. The first two are those of port 0, which is not there. The next two
//! have messages about ports, and the last two the bytes of port 1. Linux has
//! such ports since 2.6.35. A program of the Guest's finds the port by its
//! name.

use super::device::{Features, VirtioDevice};
use super::queue::Queue;
use crate::devices::port::{
    CHAIN_MOST, Channel, PortCounters, PortState, Waiting,
};
use crate::devices::{
    Filled, NamedCounts, Readiness, ReceiveBuffers, RestoreError, Saved,
    Violation,
};
use crate::memory::{SectionsIn, gather, scatter, total, truncated};
use crate::transport::{BusDevice, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::{
    CONSOLE_MULTIPORT, PORT_ADD, PORT_DEVICE_READY, PORT_MESSAGE, PORT_NAME,
    PORT_OPEN, PORT_READY, PortMessage, TYPE_CONSOLE,
};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Queues: two for each of two ports, and two for messages.
const QUEUES: u8 = 6;

/// The number of the port.
const PORT: u32 = 1;

/// The most ports, for the configuration. Port 0 is not there.
const PORTS: u32 = 2;

/// The queues that are used.
const MESSAGES_TO_GUEST: usize = 2;
const MESSAGES_FROM_GUEST: usize = 3;
const BYTES_TO_GUEST: usize = 4;
const BYTES_FROM_GUEST: usize = 5;

/// The most chains of messages or bytes that are taken in one visit.
const AT_ONCE: usize = 64;

/// A port on the bus.
pub struct VirtioPort {
    channel: Arc<Channel>,
    queues: Vec<Queue>,
    /// Messages that wait for a buffer: each at most once.
    waiting: Waiting,
    counters: PortCounters,
}

impl VirtioPort {
    /// The port of `channel`, to be put on a bus.
    #[must_use]
    pub fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            queues: Vec::new(),
            waiting: Waiting::default(),
            counters: PortCounters::default(),
        }
    }

    /// Moves all that can be moved. Does not block.
    fn pump(&mut self) -> Result<Readiness, Violation> {
        let more = self.hear_messages()?;
        self.tell_messages()?;
        self.give_bytes()?;
        let more = self.take_bytes()? || more;
        Ok(match more {
            true => Readiness::More,
            false => Readiness::Wait,
        })
    }

    /// Takes messages of the driver. Returns whether there may be more.
    fn hear_messages(&mut self) -> Result<bool, Violation> {
        let Some(queue) = self.queues.get(MESSAGES_FROM_GUEST).cloned() else {
            return Ok(false);
        };
        for _ in 0..AT_ONCE {
            let Some(taken) = queue.take()? else {
                return Ok(false);
            };
            let region = queue.guest().memory().region();
            let list = truncated(&taken.chain.readable, PORT_MESSAGE);
            let bytes = gather(region, &list).map_err(Violation::of)?;
            let Ok(message) = PortMessage::read_from_bytes(&bytes) else {
                let text = format!(
                    "a message about a port with {} bytes, of {PORT_MESSAGE}",
                    bytes.len()
                );
                return Err(Violation(text));
            };
            queue.answer(&taken, 0)?;
            self.hear(message);
        }
        Ok(true)
    }

    fn hear(&mut self, message: PortMessage) {
        self.counters.messages.add(1);
        let PortMessage { id, event, value } = message;
        match event {
            PORT_DEVICE_READY if value == 1 => {
                // The driver begins, perhaps anew.
                self.channel.set_open(false);
                self.waiting = Waiting {
                    add: true,
                    ..Waiting::default()
                };
            }
            PORT_READY if id == PORT && value == 1 => {
                self.waiting.name = true;
                self.waiting.open = true;
            }
            PORT_OPEN if id == PORT => self.channel.set_open(value == 1),
            _ => self.counters.messages_unknown.add(1),
        }
    }

    /// Sends messages that wait, as far as there are buffers.
    fn tell_messages(&mut self) -> Result<(), Violation> {
        let Some(queue) = self.queues.get(MESSAGES_TO_GUEST) else {
            return Ok(());
        };
        let Waiting { add, name, open } = &mut self.waiting;
        let name_bytes = lg_exec::PORT.as_bytes();
        let all: [(&mut bool, u16, u16, &[u8]); 3] = [
            (add, PORT_ADD, 1, b""),
            (name, PORT_NAME, 1, name_bytes),
            (open, PORT_OPEN, 1, b""),
        ];
        for (waits, event, value, rest) in all {
            if !*waits {
                continue;
            }
            let id = PORT;
            let message = PortMessage { id, event, value };
            let message = [message.as_bytes(), rest].concat();
            let mut put = |into: SectionsIn<'_>| {
                if (total(into.list) as usize) < message.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                scattered(into, &message)
            };
            match queue.buffers().fill(&mut put)? {
                Filled::Bytes(_) => *waits = false,
                Filled::NoneFree | Filled::Ended => return Ok(()),
                Filled::Failed(_) => {
                    let text = "a buffer that is too short for a message \
                                about a port";
                    return Err(Violation(text.into()));
                }
            }
        }
        Ok(())
    }

    /// Gives bytes to the Guest, as far as there are buffers.
    fn give_bytes(&mut self) -> Result<(), Violation> {
        let Some(queue) = self.queues.get(BYTES_TO_GUEST) else {
            return Ok(());
        };
        let counters = &mut self.counters;
        self.channel.give_to_guest(|bytes| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let mut put = |into: SectionsIn<'_>| scattered(into, rest);
                // A buffer without room for a byte stays free.
                let Filled::Bytes(n @ 1..) = queue.buffers().fill(&mut put)?
                else {
                    break;
                };
                counters.bytes_in.add(n.into());
                rest = &rest[n as usize..];
            }
            Ok(bytes.len() - rest.len())
        })
    }

    /// Takes bytes of the Guest, as far as there is room for them. Returns
    /// whether there may be more.
    fn take_bytes(&mut self) -> Result<bool, Violation> {
        let Some(queue) = self.queues.get(BYTES_FROM_GUEST) else {
            return Ok(false);
        };
        for _ in 0..AT_ONCE {
            if !self.channel.has_room_from_guest() {
                return Ok(false);
            }
            let Some(taken) = queue.take()? else {
                return Ok(false);
            };
            let list = &taken.chain.readable;
            let bytes = total(list);
            if bytes as usize > CHAIN_MOST {
                let text = format!(
                    "a chain of {bytes} bytes to a port, of {CHAIN_MOST}"
                );
                return Err(Violation(text));
            }
            let region = queue.guest().memory().region();
            let bytes = gather(region, list).map_err(Violation::of)?;
            queue.answer(&taken, 0)?;
            self.counters.bytes_out.add(bytes.len() as u64);
            self.channel.put_from_guest(&bytes);
        }
        Ok(true)
    }
}

/// Writes as many of `bytes` as there is room for. Returns how many.
fn scattered(into: SectionsIn<'_>, bytes: &[u8]) -> io::Result<u32> {
    let n = scatter(into.region, into.list, bytes);
    u32::try_from(n.map_err(io::Error::other)?).map_err(io::Error::other)
}

impl BusDevice for VirtioPort {
    fn device(&mut self) -> &mut dyn Device {
        self
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        // The event may have been read by another visit.
        let _ = rustix::io::read(self.channel.device_event(), &mut [0; 8]);
        self.pump()
    }
}

impl Device for VirtioPort {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.channel.device_event())
    }

    fn counters(&self) -> NamedCounts {
        let c = &self.counters;
        vec![
            ("bytes_in", c.bytes_in.get()),
            ("bytes_out", c.bytes_out.get()),
            ("messages", c.messages.get()),
            ("messages_unknown", c.messages_unknown.get()),
        ]
    }

    fn state(&mut self) -> DeviceState {
        let state = PortState {
            channel: self.channel.state(),
            waiting: self.waiting,
            counters: self.counters.clone(),
        };
        DeviceState::Port(state.versioned())
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Port(state) = state else {
            return Err(state.is_not_of("port"));
        };
        let state = state.known()?;
        self.channel.restore(&state.channel)?;
        self.waiting = state.waiting;
        self.counters = state.counters.clone();
        Ok(())
    }
}

impl VirtioDevice for VirtioPort {
    fn kind(&self) -> u8 {
        TYPE_CONSOLE
    }

    fn name(&self) -> &'static str {
        "port"
    }

    fn queues(&self) -> u8 {
        QUEUES
    }

    fn features(&self) -> Features {
        1 << CONSOLE_MULTIPORT
    }

    /// Columns and rows, which are 0 without a terminal, and the most ports.
    fn config(&self) -> Vec<u8> {
        [[0; 4], PORTS.to_le_bytes()].concat()
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queues = queues;
        Ok(())
    }

    /// The Guest stands still meanwhile. The bytes that are moved have a bound.
    fn notify(&mut self, _: usize) -> Result<Option<SlowOutput>, Violation> {
        if self.pump()? == Readiness::More {
            // The thread of inputs goes on.
            self.channel.wake_device();
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
