//! What a run has done so far, for those that ask while it runs.
//!
//! They are the control socket and `--metrics`.

use super::throttle::Used;
use crate::engine::Engine;
use crate::lock::lock;
use crate::machines::protocol::{Counts, DeviceCounts};
use crate::transport::Transport;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The Guest and its devices, as counters. Clones count together.
#[derive(Clone)]
pub(super) struct Counted {
    guest: Arc<dyn Engine>,
    bus: Arc<dyn Transport>,
    /// What each process had used when it was last looked at, and the sum.
    used: Arc<Mutex<(Used, Duration)>>,
}

impl Counted {
    pub(super) fn new(
        guest: &Arc<dyn Engine>,
        bus: &Arc<dyn Transport>,
    ) -> Self {
        Self {
            guest: Arc::clone(guest),
            bus: Arc::clone(bus),
            used: Arc::default(),
        }
    }

    /// All counters.
    pub(super) fn counts(&self) -> Counts {
        let counters = self.guest.counters();
        let devices = self.bus.counters().into_iter().map(|(kind, counts)| {
            let counts = counts.into_iter();
            DeviceCounts {
                r#type: kind.into(),
                counts: counts.map(|(name, n)| (name.into(), n)).collect(),
            }
        });
        Counts {
            host: counters.host.into_iter().collect(),
            devices: devices.collect(),
            huge_pages: counters.huge_pages,
            processor_us: self.processor_us(),
            memory_bytes: self.guest.memory().used_bytes(),
        }
    }

    /// The processor time of all processes so far.
    fn processor_us(&self) -> u64 {
        let mut used = lock(&self.used);
        let spent = used.0.since_last(self.guest.processor_times());
        used.1 += spent;
        u64::try_from(used.1.as_micros()).unwrap_or(u64::MAX)
    }
}
