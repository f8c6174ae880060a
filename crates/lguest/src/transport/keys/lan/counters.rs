//! Counters of a LAN device, for the statistics.
//!
//! The sending thread and the two threads of the device count.

use crate::devices::{Counter, NamedCounts};
use serde::{Deserialize, Serialize};

/// The counters of one LAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LanCounters {
    /// Frames that were taken.
    pub(super) frames_sent: Counter,
    /// Their bytes.
    pub(super) bytes_sent: Counter,
    /// Frames to keys that are not bound.
    pub(super) to_nobody: Counter,
    /// Frames for which there was no buffer, even after the receiver had run.
    pub(super) refused: Counter,
    /// How often this Launcher waited for a receiver to run.
    pub(super) waits: Counter,
    /// How often its Launcher was woken.
    pub(super) wakes: Counter,
    /// Frames fetched from outboxes.
    pub(super) fetched: Counter,
    /// Interrupts raised, each for one frame or more.
    pub(super) arrivals: Counter,
    /// How often the next interrupt was put off.
    pub(super) naps: Counter,
    /// How often the thread polled for more of a stream.
    pub(super) look_outs: Counter,
    /// How often another process needed the processor then.
    pub(super) made_way: Counter,
    /// Launchers with which a connection was made.
    pub(super) peers_met: Counter,
    /// Launchers whose connection has ended.
    pub(super) peers_gone: Counter,
}

impl LanCounters {
    /// All of them, by name.
    pub(super) fn list(&self) -> NamedCounts {
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

    /// Adds the counters that the Guest had before it was restored here.
    pub(super) fn go_on_from(&self, before: &Self) {
        let Self {
            frames_sent,
            bytes_sent,
            to_nobody,
            refused,
            waits,
            wakes,
            fetched,
            arrivals,
            naps,
            look_outs,
            made_way,
            peers_met,
            peers_gone,
        } = before;
        self.frames_sent.add(frames_sent.get());
        self.bytes_sent.add(bytes_sent.get());
        self.to_nobody.add(to_nobody.get());
        self.refused.add(refused.get());
        self.waits.add(waits.get());
        self.wakes.add(wakes.get());
        self.fetched.add(fetched.get());
        self.arrivals.add(arrivals.get());
        self.naps.add(naps.get());
        self.look_outs.add(look_outs.get());
        self.made_way.add(made_way.get());
        self.peers_met.add(peers_met.get());
        self.peers_gone.add(peers_gone.get());
    }
}
