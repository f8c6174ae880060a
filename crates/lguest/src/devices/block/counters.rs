//! What a disk counts, for the statistics.
//!
//! The counts are part of the disk's state, so a restored disk goes on from
//! them.

use crate::devices::{Counter, NamedCounts};
use serde::{Deserialize, Serialize};

/// What a disk has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskCounters {
    pub(super) at_once: Counter,
    pub(super) ahead: Counter,
    pub(super) reads: Counter,
    pub(super) writes: Counter,
    pub(super) flushes: Counter,
    /// How often the kernel was asked to write the file to its disk.
    pub(super) syncs: Counter,
    pub(super) bytes_read: Counter,
    pub(super) bytes_written: Counter,
    pub(super) errors: Counter,
}

impl DiskCounters {
    /// All of them, in the order of the statistics.
    pub(super) fn list(&self) -> NamedCounts {
        vec![
            ("reads", self.reads.get()),
            ("writes", self.writes.get()),
            ("flushes", self.flushes.get()),
            ("syncs", self.syncs.get()),
            ("bytes_read", self.bytes_read.get()),
            ("bytes_written", self.bytes_written.get()),
            ("at_once", self.at_once.get()),
            ("ahead", self.ahead.get()),
            ("errors", self.errors.get()),
        ]
    }
}
