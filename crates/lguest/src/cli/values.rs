//! What the values of options mean: sizes, times, disks, shares.
//!
//! Each function takes the text of one value. It returns the value, or an error
//! that says what to write instead.

use super::error::UsageError;
use crate::confine::wall;
use crate::devices::share::is_tag;
use crate::machine::config::{
    Changes, DebuggerAt, DeviceConfig, DiskConfig, Parent, ShareConfig, Stats,
};
use crate::memory::MAX_RAM;
use crate::trace::GROUPS;
use clap::builder::{
    OsStringValueParser, PossibleValuesParser, TypedValueParser,
};
use lg_wire::fast_path;
use lg_wire::trace;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// The bits of the fast paths with these names.
pub(super) fn slow_paths(names: &[String]) -> u32 {
    let named = |&&(name, _): &&(&str, u32)| names.iter().any(|n| n == name);
    fast_path::ALL
        .iter()
        .filter(named)
        .map(|&(_, bit)| bit)
        .sum()
}

/// What `--no-confine` calls all walls.
pub(super) const EVERY_WALL: &str = "all";

/// The bits of the walls with these names.
pub(super) fn open_walls(names: &[String]) -> u32 {
    let named = |&&(name, _): &&(&str, u32)| {
        names.iter().any(|n| n == name || n == EVERY_WALL)
    };
    wall::ALL.iter().filter(named).map(|&(_, bit)| bit).sum()
}

/// The size of a disk: a number of megabytes, or one with a unit.
pub(super) fn disk_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "'{text}' is no size of a disk: give 512M or 4G (at most 2047G)"
        )
    };
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number.saturating_mul(1 << shift);
    match bytes {
        SMALLEST_DISK..=LARGEST_DISK => Ok(bytes),
        _ => Err(wrong()),
    }
}

/// A file system of less has no room for its journal.
const SMALLEST_DISK: u64 = 32 << 20;
/// A disk has 32-bit numbers of sectors.
const LARGEST_DISK: u64 = 2047 << 30;

/// `64`, `64M`, `64MB`, `64MiB`, `65536K`, `1G`; a plain number is megabytes.
pub(super) fn size(text: &str) -> Result<u32, UsageError> {
    let not_a_size = || UsageError::NotASize(text.into());
    let (number, unit) = number_and_unit(text).ok_or_else(not_a_size)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(not_a_size()),
    };
    let bytes = number.saturating_mul(1 << shift);
    if bytes > u64::from(MAX_RAM) {
        return Err(UsageError::TooMuchMemory(text.into()));
    }
    let bytes = u32::try_from(bytes).unwrap_or(MAX_RAM);
    if bytes < 1 << 20 {
        return Err(UsageError::TooLittleMemory(text.into()));
    }
    Ok(bytes - bytes % lg_abi::page::PAGE_SIZE)
}

/// The groups of events of a trace.
pub(super) fn groups() -> PossibleValuesParser {
    GROUPS.into()
}

/// How many records a trace keeps.
pub(super) fn records(text: &str) -> Result<u32, String> {
    let records = text.parse().ok();
    let good = records.filter(|&records| trace::allowed(records) == records);
    good.ok_or_else(|| {
        let (fewest, most) = (trace::FEWEST, trace::MOST);
        format!("give a power of two from {fewest} to {most}")
    })
}

/// The digits that `text` begins with, and what follows. More digits than fit
/// are the largest number.
pub(super) fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let too_many = |_| u64::MAX;
    (!number.is_empty())
        .then(|| (number.parse().unwrap_or_else(too_many), unit))
}

/// `64M`, `1G`, `500K`; a plain number is bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let not_a_size = "give a size with its unit (500K, 64M, 1G)";
    let (number, unit) = number_and_unit(text).ok_or(not_a_size)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(not_a_size.into()),
    };
    match number.saturating_mul(1 << shift) {
        0 => Err(not_a_size.into()),
        bytes => Ok(bytes),
    }
}

/// The longest time that an option may have. Clocks would overflow with much
/// longer ones.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `90`, `90s`, `500ms`, `5m`, `2h`, `1d`; a plain number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let not_a_time = "give seconds (90), or a unit (500ms, 90s, 5m, 2h, 1d)";
    let (number, unit) = number_and_unit(text).ok_or(not_a_time)?;
    let ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(not_a_time.into()),
    };
    let time = Duration::from_millis(number.saturating_mul(ms));
    match time {
        Duration::ZERO => Err("give a millisecond (1ms) or more".into()),
        time if time > LONGEST => Err("give a year (365d) or less".into()),
        time => Ok(time),
    }
}

/// A time as [`duration`] takes it.
pub(super) fn duration_text(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// The value of `--die-with-parent`: a process number, or the word that clap
/// puts there when there is none.
pub(super) fn parent(text: &str) -> Result<Parent, String> {
    if text == "whoever" {
        return Ok(Parent::Whoever);
    }
    let number = text.parse::<NonZeroU32>().ok();
    let number = number.filter(|n| i32::try_from(n.get()).is_ok());
    number
        .map(Parent::Number)
        .ok_or_else(|| "give the number of a process, or nothing".into())
}

/// `FILE`, followed by `,ro`, `,raw`, `,overlay=FILE`, `,snapshot` and
/// `,fail=N` in any order. If the name of the file itself ends like one of
/// these, `,rw` follows it.
pub(super) fn disk(text: &OsStr) -> Result<DeviceConfig, UsageError> {
    let (mut path, mut read_only, mut raw) = (text.as_bytes(), false, false);
    let (mut fail, mut changes) = (None, Changes::Kept);
    while let Some(comma) = path.iter().rposition(|&byte| byte == b',') {
        let option = &path[comma..];
        if let Some(place) = place_of_changes(option) {
            if place == Changes::Overlay("".into()) || changes != Changes::Kept
            {
                let text = text.to_string_lossy();
                return Err(UsageError::OtherChanges(text.into()));
            }
            changes = place;
            path = &path[..comma];
            continue;
        }
        match option {
            b",ro" => read_only = true,
            b",raw" => raw = true,
            b",rw" => {
                path = &path[..comma];
                break;
            }
            [b',', b'f', b'a', b'i', b'l', b'=', number @ ..] => {
                let number = std::str::from_utf8(number).ok();
                let number = number.and_then(|n| n.parse::<NonZeroU32>().ok());
                let bad =
                    || UsageError::NotARate(text.to_string_lossy().into());
                fail = Some(number.ok_or_else(bad)?.get());
            }
            _ => break,
        }
        path = &path[..comma];
    }
    if read_only && changes != Changes::Kept {
        return Err(UsageError::OtherChanges(text.to_string_lossy().into()));
    }
    Ok(DeviceConfig::Disk(DiskConfig {
        path: OsStr::from_bytes(path).into(),
        layers: Vec::new(),
        read_only,
        changes,
        raw,
        fail,
    }))
}

/// Where changes go if `option` of a disk says that.
fn place_of_changes(option: &[u8]) -> Option<Changes> {
    if option == b",snapshot" {
        return Some(Changes::ThrownAway);
    }
    let file = option.strip_prefix(b",overlay=")?;
    Some(Changes::Overlay(OsStr::from_bytes(file).into()))
}

/// `DIR,TAG`, and perhaps `,ro`. The folder's name may have commas.
pub(super) fn share(text: &OsStr) -> Result<DeviceConfig, UsageError> {
    let bad = || UsageError::NotAShare(text.to_string_lossy().into());
    let bytes = text.as_bytes();
    let (bytes, read_only) = match bytes.strip_suffix(b",ro") {
        Some(bytes) => (bytes, true),
        None => (bytes, false),
    };
    let comma = bytes.iter().rposition(|&byte| byte == b',');
    let (path, tag) = bytes.split_at(comma.ok_or_else(bad)?);
    let tag = std::str::from_utf8(&tag[1..]).map_err(|_| bad())?;
    if path.is_empty() || !is_tag(tag) {
        return Err(bad());
    }
    Ok(DeviceConfig::Share(ShareConfig {
        path: OsStr::from_bytes(path).into(),
        tag: tag.into(),
        read_only,
    }))
}

/// Whether it is `DIR` or `DIR,ro`.
pub(super) fn has_no_tag(share: &OsStr) -> bool {
    let bytes = share.as_bytes();
    let folder = bytes.strip_suffix(b",ro").unwrap_or(bytes);
    !folder.is_empty() && !folder.contains(&b',')
}

/// A disk of the form of 2007: all of `path` is the file's name.
pub(super) fn block(path: PathBuf) -> DeviceConfig {
    DeviceConfig::Disk(DiskConfig {
        path,
        layers: Vec::new(),
        read_only: false,
        changes: Changes::Kept,
        raw: false,
        fail: None,
    })
}

/// The value of `--stats`.
pub(super) fn stats(path: PathBuf) -> Stats {
    match path.as_os_str().as_bytes() {
        b"-" => Stats::Stdout,
        _ => Stats::File(path),
    }
}

/// `9100`, `:9100` or `0.0.0.0:9100`.
pub(super) fn listens_at(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let address = match port {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse::<SocketAddr>(),
    };
    address
        .ok()
        .filter(|address| address.port() != 0)
        .ok_or_else(|| "give a port (9100) or ADDRESS:PORT".into())
}

/// The value of `--gdb`.
pub(super) fn debugger() -> impl TypedValueParser<Value = DebuggerAt> {
    OsStringValueParser::new().try_map(|text: OsString| debugger_at(&text))
}

/// `1234`, `:1234`, `127.0.0.1:1234`, `[::1]:1234`, `unix:PATH` or `stdio`. GDB
/// may do everything with a Guest, and a port has no owner. So only this
/// machine may connect to one.
pub(super) fn debugger_at(text: &OsStr) -> Result<DebuggerAt, String> {
    const NO_PLACE: &str = "give [ADDRESS:]PORT, unix:PATH or stdio";
    if let Some(path) = text.as_bytes().strip_prefix(b"unix:") {
        return match path {
            [] => Err(NO_PLACE.into()),
            path => Ok(DebuggerAt::Path(OsStr::from_bytes(path).into())),
        };
    }
    let text = text.to_str().ok_or(NO_PLACE)?;
    if text == "stdio" {
        return Ok(DebuggerAt::Stdio);
    }
    let port = text.strip_prefix(':').unwrap_or(text);
    let port = port.strip_prefix("localhost:").unwrap_or(port);
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let address = match port.parse::<u16>() {
        Ok(port) => here(port),
        Err(_) => text.parse().map_err(|_| NO_PLACE)?,
    };
    if !address.ip().is_loopback() {
        return Err(format!(
            "anyone could connect to {address}: give a port of this machine, \
             and reach it from elsewhere by 'ssh -L'"
        ));
    }
    if address.port() == 0 {
        return Err("give a port from 1 to 65535".into());
    }
    Ok(DebuggerAt::Port(address))
}
