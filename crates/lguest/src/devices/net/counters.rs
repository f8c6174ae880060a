//! What a LAN has done so far: counters, for the statistics.
//!
//! Several threads count, and nobody waits for anybody because of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one LAN device.
#[derive(Default)]
pub(super) struct Counters {
    /// Frames that were taken.
    pub(super) frames_sent: Counter,
    /// Their bytes.
    pub(super) bytes_sent: Counter,
    /// Frames to keys that nobody has bound.
    pub(super) to_nobody: Counter,
    /// Frames that found no buffer, even after the receiver had run.
    pub(super) refused: Counter,
    /// How often a receiver was let run.
    pub(super) waits: Counter,
    /// How often its Launcher was woken.
    pub(super) wakes: Counter,
    /// Frames that we have fetched from others' outboxes.
    pub(super) fetched: Counter,
    /// Interrupts for what has come, each for one frame or more.
    pub(super) arrivals: Counter,
    /// How often the next interrupt was put off.
    pub(super) naps: Counter,
    /// How often we have looked out for more of a stream.
    pub(super) look_outs: Counter,
    /// How often others have needed the processor then.
    pub(super) made_way: Counter,
    /// Others that we have met.
    pub(super) peers_met: Counter,
    /// Others that have gone.
    pub(super) peers_gone: Counter,
}

impl Counters {
    /// All of them, by name.
    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("frames_sent", self.frames_sent.get()),
            ("bytes_sent", self.bytes_sent.get()),
            ("to_nobody", self.to_nobody.get()),
            ("refused", self.refused.get()),
            ("waits", self.waits.get()),
            ("wakes", self.wakes.get()),
            ("fetched", self.fetched.get()),
            ("arrivals", self.arrivals.get()),
            ("naps", self.naps.get()),
            ("look_outs", self.look_outs.get()),
            ("made_way", self.made_way.get()),
            ("peers_met", self.peers_met.get()),
            ("peers_gone", self.peers_gone.get()),
        ]
    }
}
