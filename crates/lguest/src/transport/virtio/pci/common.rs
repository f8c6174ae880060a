//! The common registers of a device: features, status, and its queues.
//!
//! A driver writes them once, at its start. Nothing here touches the queues:
//! the caller learns what has changed.

use crate::transport::virtio::ring::Place;
use lg_abi::gen2::device::{
    Features, RING_SIZE, STATUS_DRIVER_OK, STATUS_FAILED,
};
use lg_abi::gen3::registers::{
    COMMON_BYTES, FEATURE_VERSION_1, NO_VECTOR, STATUS_FEATURES_OK, common,
};
use serde::{Deserialize, Serialize};

/// The common registers of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Common {
    /// What the device offers.
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    accepted: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

/// The registers of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QueueRegisters {
    size: u16,
    enabled: bool,
    /// Descriptors, available ring and used ring: low and high word each.
    addresses: [u32; 6],
}

impl Default for QueueRegisters {
    fn default() -> Self {
        Self {
            size: RING_SIZE,
            enabled: false,
            addresses: [0; 6],
        }
    }
}

/// What follows from a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The device is reset.
    Reset,
    /// The driver is ready.
    Ready,
    /// The driver has failed.
    Stopped,
    /// The driver uses this queue from now on.
    Enabled(usize),
}

impl Common {
    /// Those of a device with so many queues after a reset.
    pub(super) fn new(offered: u64, queues: usize) -> Self {
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            accepted: 0,
            status: 0,
            queue_select: 0,
            queues: vec![QueueRegisters::default(); queues],
        }
    }

    /// Whether `other` offers the same features, and has as many queues.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.offered == other.offered && self.queues.len() == other.queues.len()
    }

    /// Whether the driver uses queue `index`.
    pub(super) fn is_enabled(&self, index: usize) -> bool {
        self.queues.get(index).is_some_and(|queue| queue.enabled)
    }

    /// The first 32 features that the driver accepts.
    pub(super) fn accepted(&self) -> Features {
        word(self.accepted, 0)
    }

    /// The same, if the driver uses queue `index`.
    pub(super) fn accepted_by(&self, index: usize) -> Option<u32> {
        self.is_enabled(index).then(|| self.accepted())
    }

    /// Where the driver has put queue `index`, if it uses the queue and all
    /// addresses are below 4 GiB.
    pub(super) fn place(&self, index: usize) -> Option<Place> {
        let queue = self.queues.get(index).filter(|queue| queue.enabled)?;
        let [descriptors, 0, available, 0, used, 0] = queue.addresses else {
            return None;
        };
        Some(Place {
            size: queue.size,
            descriptors,
            available,
            used,
        })
    }

    /// What `bytes` bytes at `offset` read as.
    pub(super) fn read(&self, offset: u32, bytes: u32) -> u32 {
        part(&self.image(), offset as usize, bytes)
    }

    /// All registers as a driver reads them.
    fn image(&self) -> [u8; COMMON_BYTES as usize] {
        let mut all = [0; COMMON_BYTES as usize];
        let mut put = |at: u32, bytes: &[u8]| {
            let at = at as usize;
            all[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let select = self.device_feature_select;
        put(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
        let offered = word(self.offered, select);
        put(common::DEVICE_FEATURE, &offered.to_le_bytes());
        let select = self.driver_feature_select;
        put(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        let accepted = word(self.accepted, select);
        put(common::DRIVER_FEATURE, &accepted.to_le_bytes());
        let none = &NO_VECTOR.to_le_bytes()[..2];
        put(common::MSIX_CONFIG, none);
        let count = u16::try_from(self.queues.len()).unwrap_or(0);
        put(common::NUM_QUEUES, &count.to_le_bytes());
        put(common::DEVICE_STATUS, &[self.status]);
        put(common::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(common::QUEUE_MSIX_VECTOR, none);
        // A queue that does not exist has no descriptors.
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(common::QUEUE_SIZE, &queue.size.to_le_bytes());
            put(common::QUEUE_ENABLE, &[queue.enabled.into()]);
            for (at, word) in
                (common::QUEUE_DESC..).step_by(4).zip(queue.addresses)
            {
                put(at, &word.to_le_bytes());
            }
        }
        all
    }

    /// The driver writes `value` to `bytes` bytes at `offset`. A write that is
    /// not a whole register, or that comes at the wrong time, has no effect.
    pub(super) fn write(
        &mut self,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Change {
        let [low, high, ..] = value.to_le_bytes();
        let half = u16::from_le_bytes([low, high]);
        match (offset, bytes) {
            (common::DEVICE_FEATURE_SELECT, 4) => {
                self.device_feature_select = value;
            }
            (common::DRIVER_FEATURE_SELECT, 4) => {
                self.driver_feature_select = value;
            }
            (common::DRIVER_FEATURE, 4) => self.accept(value),
            (common::DEVICE_STATUS, 1) => return self.set_status(low),
            (common::QUEUE_SELECT, 2) => self.queue_select = half,
            _ => return self.write_queue(offset, bytes, value, half),
        }
        Change::None
    }

    /// Writes a register of the queue that is selected.
    fn write_queue(
        &mut self,
        offset: u32,
        bytes: u32,
        value: u32,
        half: u16,
    ) -> Change {
        let index = usize::from(self.queue_select);
        let Some(queue) = self.queues.get_mut(index) else {
            return Change::None;
        };
        if queue.enabled {
            return Change::None;
        }
        match (offset, bytes) {
            (common::QUEUE_SIZE, 2) => queue.size = half,
            (common::QUEUE_ENABLE, 2) if half == 1 => {
                queue.enabled = true;
                return Change::Enabled(index);
            }
            (common::QUEUE_DESC..COMMON_BYTES, 4)
                if offset.is_multiple_of(4) =>
            {
                let at = (offset - common::QUEUE_DESC) / 4;
                queue.addresses[at as usize] = value;
            }
            _ => {}
        }
        Change::None
    }

    /// The driver accepts one word of features.
    fn accept(&mut self, value: u32) {
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if self.status & STATUS_FEATURES_OK == 0 {
            self.accepted &= !(u64::from(u32::MAX) << shift);
            self.accepted |= u64::from(value) << shift;
        }
    }

    fn set_status(&mut self, status: u8) -> Change {
        if status == 0 {
            *self = Self::new(self.offered, self.queues.len());
            return Change::Reset;
        }
        let old = self.status;
        self.status = status;
        let good = self.accepted & !self.offered == 0
            && self.accepted & FEATURE_VERSION_1 != 0;
        if !good {
            // The driver reads this back, and gives up.
            self.status &= !STATUS_FEATURES_OK;
        }
        if status & STATUS_FAILED != 0 {
            Change::Stopped
        } else if status & !old & STATUS_DRIVER_OK != 0 {
            Change::Ready
        } else {
            Change::None
        }
    }
}

/// `bytes` bytes from `at` on; 0 where there are none.
pub(super) fn part(all: &[u8], at: usize, bytes: u32) -> u32 {
    let byte = |n: usize| all.get(at.checked_add(n)?).copied();
    let mut word = [0; 4];
    for (n, to) in word.iter_mut().enumerate().take(bytes as usize) {
        *to = byte(n).unwrap_or(0);
    }
    u32::from_le_bytes(word)
}

/// One word of features.
fn word(features: u64, select: u32) -> u32 {
    let bytes = features.to_le_bytes();
    part(&bytes, (select as usize).saturating_mul(4), 4)
}
