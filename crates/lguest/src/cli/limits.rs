//! Options that say what a machine may use.
//!
//! They are kept as they were written, for `lguest inspect --toml`.

use super::error::UsageError;
use super::values;
use crate::devices::block::DiskRate;
use crate::machine::config::Limits;
use crate::machines::settings::Settings;
use clap::Args;
use std::num::NonZeroU64;

/// Limits, as they were written.
#[derive(Debug, Default, Args)]
pub(super) struct Limited {
    /// The share of a processor that the guest may use, from 1% to 100%
    #[arg(long, value_name = "PERCENT")]
    pub(super) cpu_share: Option<String>,
    /// The processors that the guest runs on: numbers and ranges, as in 0,2-3
    #[arg(long, value_name = "LIST")]
    pub(super) cpus: Option<String>,
    /// How much memory the launcher and the guest's processes may take from
    /// this machine: 128M, 1G. A guest that takes more is ended
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_limit: Option<String>,
    /// What all disks together may do in a second: bytes (10M), requests
    /// (ops=500), or both (10M,ops=500)
    #[arg(long, value_name = "[BYTES][,ops=N]")]
    pub(super) io_limit: Option<String>,
    /// How many bytes each network interface may carry in a second, in each
    /// direction: 500K, 10M. A guest of Linux 2.6.23 loses frames beyond it
    #[arg(long, value_name = "BYTES")]
    pub(super) net_limit: Option<String>,
    /// How long the log may be: 500K, 10M. The older half of a longer one is
    /// removed
    #[arg(long, value_name = "SIZE")]
    pub(super) log_limit: Option<String>,
}

impl Limited {
    /// The same, for `lguest inspect`.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            cpu_share: self.cpu_share.clone(),
            cpus: self.cpus.clone(),
            memory_limit: self.memory_limit.clone(),
            io_limit: self.io_limit.clone(),
            net_limit: self.net_limit.clone(),
            log_limit: self.log_limit.clone(),
            ..Settings::default()
        }
    }

    /// What they mean.
    pub(super) fn limits(&self) -> Result<Limits, UsageError> {
        Ok(Limits {
            cpu_share: meaning(
                "cpu-share",
                self.cpu_share.as_ref(),
                percent,
                "a number from 1% to 100%",
            )?,
            cpus: meaning(
                "cpus",
                self.cpus.as_ref(),
                processors,
                "numbers of processors and ranges, as in 0,2-3",
            )?
            .unwrap_or_default(),
            memory: meaning(
                "memory-limit",
                self.memory_limit.as_ref(),
                bytes,
                "an amount of memory, with a unit: 128M or 1G",
            )?,
            disks: meaning(
                "io-limit",
                self.io_limit.as_ref(),
                disks,
                "bytes a second (10M), requests a second (ops=500), or both \
                 (10M,ops=500)",
            )?,
            net: meaning(
                "net-limit",
                self.net_limit.as_ref(),
                bytes,
                "bytes a second, with a unit: 500K or 10M",
            )?,
            log: meaning(
                "log-limit",
                self.log_limit.as_ref(),
                |text| bytes(text).filter(|size| size.get() >= LEAST_LOG),
                "64K or more: 500K or 10M",
            )?,
        })
    }
}

/// The smallest log: half of it is removed at a time.
const LEAST_LOG: u64 = 64 << 10;

/// What the text of an option means, if it was given. `wanted` is what an error
/// asks for.
fn meaning<T>(
    option: &'static str,
    text: Option<&String>,
    meaning: impl Fn(&str) -> Option<T>,
    wanted: &'static str,
) -> Result<Option<T>, UsageError> {
    let wrong =
        |text: &String| UsageError::NotALimit(option, text.clone(), wanted);
    text.map(|text| meaning(text).ok_or_else(|| wrong(text)))
        .transpose()
}

/// `25%` or `25`.
fn percent(text: &str) -> Option<u8> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().ok()?;
    (1..=100).contains(&percent).then_some(percent)
}

/// `0,2-3`.
fn processors(text: &str) -> Option<Vec<usize>> {
    /// More than any kernel knows.
    const MOST: usize = 8192;
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().ok()?;
        let last: usize = last.parse().ok()?;
        if first > last || last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// `500K`, `10M`, `1G`, or `B` for a number of bytes.
fn bytes(text: &str) -> Option<NonZeroU64> {
    let (number, unit) = values::number_and_unit(text)?;
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    NonZeroU64::new(number.checked_mul(1 << shift)?)
}

/// `10M`, `ops=500`, or both.
fn disks(text: &str) -> Option<DiskRate> {
    let mut rate = DiskRate::default();
    for part in text.split(',') {
        let place = match part.strip_prefix("ops=") {
            Some(number) => {
                let number: u64 = number.parse().ok()?;
                rate.requests.replace(NonZeroU64::new(number)?)
            }
            None => rate.bytes.replace(bytes(part)?),
        };
        if place.is_some() {
            return None;
        }
    }
    Some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units() {
        assert_eq!(percent("25%"), Some(25));
        assert_eq!(percent("100"), Some(100));
        assert!(["0", "101", "-1", "%", ""].map(percent) == [None; 5]);
        assert_eq!(processors("2-3,0,3"), Some(vec![0, 2, 3]));
        assert!(
            ["", "3-2", "a", "9999"]
                .iter()
                .all(|t| processors(t).is_none())
        );
        let number = |n| NonZeroU64::new(n);
        assert_eq!(bytes("500K"), number(500 << 10));
        assert_eq!(bytes("1MiB/s"), number(1 << 20));
        assert_eq!(bytes("7B"), number(7));
        let wrong = ["5", "0K", "K", "99999999999G", "5X"];
        assert!(wrong.iter().all(|text| bytes(text).is_none()));
        let both = DiskRate {
            bytes: number(10 << 20),
            requests: number(500),
        };
        assert_eq!(disks("10M,ops=500"), Some(both));
        assert_eq!(disks("ops=500,10M"), Some(both));
        let wrong = ["", "ops=", "ops=0", "1M,2M", "ops=1,ops=2"];
        assert!(wrong.iter().all(|text| disks(text).is_none()));
    }
}
