//! A disk that fails now and then, for the author of a driver.
//!
//! `--disk FILE,fail=N` makes one request in N fail, on average: at once, as on
//! a sector that cannot be read; or halfway, as on a disk that is full, with
//! part of the data moved. Which ones fail is random, but the same in every
//! run, so that a driver's mistake can be seen again.

use crate::memory::{Section, total, truncated};
use lg_abi::device::SECTOR_SIZE;
use std::sync::atomic::{AtomicU64, Ordering};

/// Decides which requests fail.
#[derive(Debug)]
pub(super) struct Faults {
    one_in: u32,
    random: AtomicU64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    /// Nothing of it is done.
    Nothing,
    /// The first half of it is.
    Half,
}

impl Faults {
    /// One request in `one_in` fails.
    pub(super) fn new(one_in: u32) -> Self {
        Self {
            one_in: one_in.max(1),
            random: AtomicU64::new(0),
        }
    }

    /// The part of a request for `sections` that is carried out.
    pub(super) fn spoil(&self, sections: &[Section]) -> Vec<Section> {
        match self.next() {
            Fate::Whole => sections.to_vec(),
            Fate::Nothing => Vec::new(),
            Fate::Half => half(sections),
        }
    }

    /// Where the random numbers are: see [`Self::go_on_at`].
    pub(super) fn position(&self) -> u64 {
        self.random.load(Ordering::Relaxed)
    }

    /// Goes on with the random numbers from `position` on.
    pub(super) fn go_on_at(&self, position: u64) {
        self.random.store(position, Ordering::Relaxed);
    }

    fn next(&self) -> Fate {
        // SplitMix64.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed);
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        if !z.is_multiple_of(u64::from(self.one_in)) {
            Fate::Whole
        } else if z >> 63 == 0 {
            Fate::Nothing
        } else {
            Fate::Half
        }
    }
}

/// The first half of `sections`, in whole sectors.
fn half(sections: &[Section]) -> Vec<Section> {
    let half = total(sections) / 2;
    truncated(sections, half - half % SECTOR_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;

    #[test]
    fn one_in_so_many_fails_and_every_run_is_the_same() {
        let fates = |one_in| -> Vec<Fate> {
            let faults = Faults::new(one_in);
            (0..10_000).map(|_| faults.next()).collect()
        };
        let count = |fate| fates(10).iter().filter(|&&f| f == fate).count();
        assert!((400..600).contains(&count(Fate::Nothing)));
        assert!((400..600).contains(&count(Fate::Half)));
        assert_eq!(fates(7), fates(7));
        assert!(!fates(1).contains(&Fate::Whole));
        assert!(!fates(0).contains(&Fate::Whole));
    }

    #[test]
    fn half_of_a_request_is_whole_sectors_of_it() {
        let memory = GuestMemory::new(0x1_0000, 1).unwrap();
        let section = |addr, len| memory.section(addr, len).unwrap();
        let all = [section(0x1000, 1024), section(0x3000, 2048)];
        let kept = [section(0x1000, 1024), section(0x3000, 512)];
        assert_eq!(half(&all), kept);
        let one = [section(0x1000, 512)];
        assert_eq!(total(&half(&one)), 0);
    }
}
