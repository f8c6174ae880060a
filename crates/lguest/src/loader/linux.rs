//! Releases of Linux, as their images name them.
//!
//! A kernel with the mark of 2007 runs, and its release does not matter. A
//! later kernel has no such mark, and its release decides which interface it
//! has. If a kernel cannot run, its release explains why.

use super::search::find;
use lg_abi::known::Known;
use lg_abi::page::Format;
use serde::{Serialize, Serializer};
use std::fmt;

/// A release of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name: `2.6.23.17`, `4.9.154-lguest`.
    name: String,
    number: (u32, u32, u32),
}

/// The release of 2007.
const OURS: (u32, u32, u32) = (2, 6, 23);

/// The last release that can be a guest of lguest.
const LAST: (u32, u32) = (4, 13);

/// The text before the release in a kernel.
const BANNER: &[u8] = b"Linux version ";

impl Release {
    /// The release of the kernel that consists of these bytes.
    pub(super) fn of_kernel(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        loop {
            let at = find(rest, BANNER)?;
            rest = &rest[at + BANNER.len()..];
            if let Some(release) = Self::parse(rest) {
                return Some(release);
            }
        }
    }

    /// The release at the beginning of `text`, up to a blank or its end.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let end = |byte: &u8| !byte.is_ascii_graphic();
        let name = text.iter().take(64).take_while(|b| !end(b));
        let name: String = name.map(|&byte| char::from(byte)).collect();
        let mut numbers = name
            .split(['.', '-', '+', '_'])
            .map_while(|number| number.parse::<u32>().ok());
        let (first, second) = (numbers.next()?, numbers.next()?);
        let third = numbers.next().unwrap_or(0);
        let number = (first, second, third);
        Some(Self { name, number })
    }

    /// Whether it is the release of 2007.
    pub(super) fn is_ours(&self) -> bool {
        self.number == OURS
    }

    /// Whether it had lguest, with a later interface.
    pub(super) fn is_later_generation(&self) -> bool {
        let (first, second, _) = self.number;
        self.number > OURS && (first, second) <= LAST
    }

    /// The generation of lguest's interface that this release has, if it has
    /// one.
    pub(super) fn generation(&self) -> Option<u8> {
        let (first, ..) = self.number;
        if self.is_ours() {
            Some(1)
        } else if self.is_later_generation() {
            Some(if first < 4 { 2 } else { 3 })
        } else {
            None
        }
    }

    /// The interface with which its guests run here, if they do.
    pub(super) fn interface(&self) -> Option<Known> {
        Some(match self.number {
            OURS => Known::Linux2_6_23,
            (2, 6, 24) => Known::Linux2_6_24,
            (2, 6, 25..=29) => Known::Linux2_6_25,
            (2, 6, 30) => Known::Linux2_6_30,
            (2, 6, 31..) | (3, 0, _) => Known::Linux2_6_31,
            (3, 1..=19, _) => Known::Linux3_1,
            (4, 0, _) => Known::Linux4_0,
            (4, 1..=13, _) => Known::Linux4_1,
            _ => return None,
        })
    }

    /// Whether `kernel` was built with PAE. Every release has a message about a
    /// bad entry of the top page table, in which the entry has as many digits
    /// as its format needs.
    pub(super) fn has_pae_in(kernel: &[u8]) -> Option<bool> {
        let has = |text: &[u8]| find(kernel, text).is_some();
        if has(b"bad pgd %p(%016L") {
            Some(true)
        } else {
            has(b"bad pgd %08lx").then_some(false)
        }
    }

    /// The format of the page tables of `kernel`.
    pub(super) fn paging_of(kernel: &[u8]) -> Format {
        match Self::has_pae_in(kernel) {
            Some(true) => Format::Pae,
            _ => Format::TwoLevels,
        }
    }

    /// Whether its guests may be built with PAE.
    pub(super) fn knows_pae(&self) -> bool {
        self.number >= (2, 6, 31)
    }

    /// Whether `kernel` of this release was built for several processors: its
    /// banner says so after the number of the build.
    pub(super) fn is_smp_in(&self, kernel: &[u8]) -> Option<bool> {
        let banner = [BANNER, self.name.as_bytes(), b" "].concat();
        let at = find(kernel, &banner)?;
        let line = kernel[at..].iter().take(256);
        let line: Vec<u8> = line
            .take_while(|&&byte| byte != b'\n' && byte != 0)
            .copied()
            .collect();
        let build = find(&line, b" #")?;
        let mut words = line[build + 1..].split(|&byte| byte == b' ');
        words.next()?;
        Some(words.next() == Some(b"SMP"))
    }

    /// How many bytes of its command line it reads (`COMMAND_LINE_SIZE`), as
    /// far as that is known.
    #[must_use]
    pub fn command_line_bytes(&self) -> Option<usize> {
        // One byte of them is the end.
        self.is_ours().then_some(256 - 1)
    }
}

impl Serialize for Release {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.name)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        Release::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn releases_are_read_from_their_banner() {
        let kernel = b"Linux version %s\0Linux version 2.6.23.17 (a@b) #1";
        let found = Release::of_kernel(kernel).unwrap();
        assert_eq!(found.to_string(), "Linux 2.6.23.17");
        assert!(found.is_ours() && !found.is_later_generation());
        assert_eq!(Release::of_kernel(b"Linux version of mine"), None);
        assert_eq!(Release::of_kernel(b"a kernel of one's own"), None);
    }

    #[test]
    fn each_release_has_its_interface() {
        for (text, interface) in [
            ("2.6.23.17", Some(Known::Linux2_6_23)),
            ("2.6.24.7", Some(Known::Linux2_6_24)),
            ("2.6.25", Some(Known::Linux2_6_25)),
            ("2.6.29.6", Some(Known::Linux2_6_25)),
            ("2.6.30", Some(Known::Linux2_6_30)),
            ("2.6.32-5-486", Some(Known::Linux2_6_31)),
            ("2.6.39", Some(Known::Linux2_6_31)),
            ("3.0.101", Some(Known::Linux2_6_31)),
            ("3.1", Some(Known::Linux3_1)),
            ("3.19.8", Some(Known::Linux3_1)),
            ("4.0", Some(Known::Linux4_0)),
            ("4.0.5", Some(Known::Linux4_0)),
            ("4.1.15", Some(Known::Linux4_1)),
            ("4.9.154", Some(Known::Linux4_1)),
            ("4.13.16", Some(Known::Linux4_1)),
            ("4.14", None),
        ] {
            assert_eq!(release(text).interface(), interface, "{text}");
        }
    }

    #[test]
    fn generations_are_told_apart() {
        for (text, ours, later) in [
            ("2.6.23", true, false),
            ("2.6.23-rc9", true, false),
            ("2.6.22.19", false, false),
            ("2.6.24", false, true),
            ("2.6.32-5-486", false, true),
            ("3.19.8", false, true),
            ("4.9.154", false, true),
            ("4.13.16", false, true),
            ("4.14", false, false),
            ("6.1.0-13-amd64", false, false),
        ] {
            let found = release(text);
            assert_eq!(found.is_ours(), ours, "{text}");
            assert_eq!(found.is_later_generation(), later, "{text}");
        }
    }
}
