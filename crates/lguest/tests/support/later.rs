//! Guests of the kit as Guests of Linux 2.6.25 to 4.13.
//!
//! An image that is a Guest for any generation has the mark of 2007 and the
//! banner of a later Linux. Here the mark is overwritten, and the banner gets
//! another release.

use super::Scratch;
use std::path::{Path, PathBuf};

/// A release, and the number of its interface in `lg_abi::known`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later {
    pub(crate) release: &'static str,
    number: u8,
}

/// One release of each interface with devices on lguest's bus, the last ones
/// first. All names have the same length.
pub(crate) const LATER: [Later; 5] = [
    later("3.11.10", 1),
    later("3.0.101", 4),
    later("2.6.32+", 4),
    later("2.6.30+", 3),
    later("2.6.27+", 2),
];

/// The same for devices on a PCI bus.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) const ON_PCI: [Later; 2] =
    [later("4.9.154", 7), later("4.0.5-x", 6)];

const fn later(release: &'static str, number: u8) -> Later {
    Later { release, number }
}

impl Later {
    /// Makes a copy of the image `kernel` for this release.
    pub(crate) fn of(self, kernel: &Path, scratch: &Scratch) -> PathBuf {
        let mut image = std::fs::read(kernel).unwrap();
        replace(&mut image, b"GenuineLguest", b"a later Guest");
        let banner = |Later { release, number }| {
            format!("Linux version {release} (lg-guest) #{number}").into_bytes()
        };
        replace(&mut image, &banner(LATER[0]), &banner(self));
        scratch.file(&format!("guest-{}", self.release), &image)
    }
}

/// Replaces the only place in `image` with `old`.
fn replace(image: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let found = |at: &usize| image[*at..].starts_with(old);
    let places: Vec<usize> = (0..image.len()).filter(found).collect();
    let [at] = places[..] else {
        panic!("{} places with {old:?}", places.len());
    };
    image[at..at + new.len()].copy_from_slice(new);
}
