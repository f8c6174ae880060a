//! A source of random numbers on the bus of virtio: one queue of buffers.
//!
//! The numbers are the machine's own (getrandom(2)), so they never run out.

use super::device::VirtioDevice;
use super::queue::Queue;
use crate::devices::{RestoreError, Violation};
use crate::memory::{scatter, total};
use crate::transport::{BusDevice, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::TYPE_RANDOM;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// The most bytes for one buffer. The Guest asks again for more.
const MOST: u32 = 4096;

/// A source of random numbers on the bus.
#[derive(Default)]
pub struct VirtioRandom {
    queue: Option<Queue>,
}

impl BusDevice for VirtioRandom {
    fn device(&mut self) -> &mut dyn Device {
        self
    }
}

impl Device for VirtioRandom {
    fn state(&mut self) -> DeviceState {
        DeviceState::Random
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Random => Ok(()),
            other => Err(other.is_not_of("source of random numbers")),
        }
    }
}

impl VirtioDevice for VirtioRandom {
    fn kind(&self) -> u8 {
        TYPE_RANDOM
    }

    fn queues(&self) -> u8 {
        1
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queue = queues.into_iter().next();
        Ok(())
    }

    fn notify(&mut self, _: usize) -> Result<Option<SlowOutput>, Violation> {
        let Some(queue) = &self.queue else {
            return Ok(None);
        };
        while let Some(taken) = queue.take()? {
            let wanted = total(&taken.chain.writable).min(MOST);
            let mut bytes = vec![0; wanted as usize];
            let got = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
            bytes.truncate(got.unwrap_or(0));
            let region = queue.guest().memory().region();
            let put = scatter(region, &taken.chain.writable, &bytes);
            let put = put.map_err(Violation::of)?;
            queue.answer(&taken, u32::try_from(put).unwrap_or(0))?;
        }
        Ok(None)
    }
}
