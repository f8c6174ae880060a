//! What the values of `--net` and `--tunnet` mean.
//!
//! A value begins with the kind of the network. Words behind it, after commas,
//! are read from the end, so that a path may have commas in it.

use super::error::UsageError;
use crate::devices::net::ethernet::{MTUS, is_of_one};
use crate::machine::config::{
    Allowed, DeviceConfig, Host, LinkConfig, NetConfig, Published, StreamAt,
    StreamConfig, TapConfig, UserConfig,
};
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// No network: what a script gives whose `--net` must have a value.
pub(super) const NONE: &str = "none";

/// The netmask of a tap that is given none.
const NETMASK_BITS: u8 = 24;

/// The value of `--net`.
pub(super) fn net(text: &OsStr) -> Result<DeviceConfig, UsageError> {
    let unknown = || UsageError::NotANetwork(text.to_string_lossy().into());
    let bytes = text.as_bytes();
    if let Some(file) = bytes.strip_prefix(b"sharenet=") {
        if file.is_empty() {
            return Err(unknown());
        }
        return Ok(DeviceConfig::ShareNet(OsStr::from_bytes(file).into()));
    }
    let (bytes, common) = common(bytes).ok_or_else(unknown)?;
    let link = if let Some(stream) = bytes.strip_prefix(b"stream=") {
        LinkConfig::Stream(self::stream(stream).ok_or_else(unknown)?)
    } else {
        let text = std::str::from_utf8(bytes).map_err(|_| unknown())?;
        match text.split(',').next() {
            Some("user") => LinkConfig::User(user(text).ok_or_else(unknown)?),
            _ => LinkConfig::Tap(tap(text).ok_or_else(unknown)?),
        }
    };
    let Common { mac, mtu, capture } = common;
    Ok(DeviceConfig::Net(NetConfig {
        link,
        mac,
        far: None,
        mtu,
        capture,
    }))
}

/// Makes `network` that of the clone with this number, from 1 on: the first has
/// the Ethernet address that is there, and the others have the next ones.
pub fn give_to_clone(network: &mut DeviceConfig, number: u16) {
    if let DeviceConfig::Net(NetConfig { mac: Some(mac), .. }) = network {
        *mac = address_of_clone(*mac, number);
    }
}

/// The same for the value of `--net`.
#[must_use]
pub fn text_of_clone(text: &str, number: u16) -> String {
    const MAC: &str = ",mac=";
    let known = common(text.as_bytes()).and_then(|(_, common)| common.mac);
    let (Some(mac), Some(at)) = (known, text.rfind(MAC)) else {
        return text.into();
    };
    let own = address_of_clone(mac, number);
    let words = own.map(|byte| format!("{byte:02x}")).join(":");
    let (before, rest) = text.split_at(at + MAC.len());
    let after = rest.find(',').map_or("", |end| &rest[end..]);
    format!("{before}{words}{after}")
}

/// The Ethernet address of the clone with this number, from 1 on.
fn address_of_clone(first: [u8; 6], number: u16) -> [u8; 6] {
    let [a, b, c, d, e, f] = first;
    let own = u32::from_be_bytes([0, d, e, f]) + u32::from(number) - 1;
    let [_, d, e, f] = own.to_be_bytes();
    [a, b, c, d, e, f]
}

/// What words at the end of a value mean, which every kind may have.
#[derive(Default)]
struct Common {
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    capture: Option<PathBuf>,
}

/// What every kind may have at its end, and what is before it.
fn common(text: &[u8]) -> Option<(&[u8], Common)> {
    let (mut text, mut common) = (text, Common::default());
    while let Some(comma) = text.iter().rposition(|&byte| byte == b',') {
        let word = &text[comma + 1..];
        if let Some(address) = word.strip_prefix(b"mac=") {
            common.mac = Some(ethernet(address)?);
        } else if let Some(bytes) = word.strip_prefix(b"mtu=") {
            let mtu = number(std::str::from_utf8(bytes).ok()?)?;
            common.mtu = MTUS.contains(&mtu).then_some(mtu);
            common.mtu?;
        } else if let Some(path) = word.strip_prefix(b"pcap=") {
            let named = !path.is_empty();
            let path = named.then(|| OsStr::from_bytes(path).into())?;
            common.capture = Some(path);
        } else {
            break;
        }
        text = &text[..comma];
    }
    Some((text, common))
}

/// An Ethernet address that an interface may have: `52:54:00:12:34:56`.
fn ethernet(text: &[u8]) -> Option<[u8; 6]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next()?;
        let digits = pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        *byte = u8::from_str_radix(pair, 16).ok().filter(|_| digits)?;
    }
    (is_of_one(mac) && pairs.next().is_none()).then_some(mac)
}

/// `tap=IP`, `tap=IP/BITS`, `tap=fd:N` or `bridge=BR`.
fn tap(text: &str) -> Option<TapConfig> {
    if let Some(given) = text.strip_prefix("tap=fd:") {
        return number(given).map(TapConfig::Given);
    }
    if let Some(name) = text.strip_prefix("bridge=") {
        return (!name.is_empty()).then(|| TapConfig::Bridge(name.into()));
    }
    address(text.strip_prefix("tap=")?)
}

/// `IP` or `IP/BITS`.
fn address(text: &str) -> Option<TapConfig> {
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip, number(bits)?),
        None => (text, NETMASK_BITS),
    };
    let ip: Ipv4Addr = ip.parse().ok()?;
    (bits <= 32).then_some(TapConfig::Address(ip, bits))
}

/// `unix:PATH` or `fd:N`, and perhaps `,server`.
fn stream(text: &[u8]) -> Option<StreamConfig> {
    let (at, server) = match text.strip_suffix(b",server") {
        Some(at) => (at, true),
        None => (text, false),
    };
    let at = if let Some(path) = at.strip_prefix(b"unix:") {
        let named = !path.is_empty() && !path.contains(&0);
        named.then(|| StreamAt::Path(OsStr::from_bytes(path).into()))?
    } else {
        let text = std::str::from_utf8(at.strip_prefix(b"fd:")?).ok()?;
        StreamAt::Given(number(text)?)
    };
    Some(StreamConfig { at, server })
}

/// `user`, and what follows after commas.
fn user(text: &str) -> Option<UserConfig> {
    let mut config = UserConfig::default();
    for word in text.split(',').skip(1) {
        match word.split_once('=') {
            Some(("publish", ports)) => config.publish.push(published(ports)?),
            Some(("allow", end)) => config.allow.push(allowed(end)?),
            None if word == "restrict" => config.restrict = true,
            _ => return None,
        }
    }
    // Without a restriction everything is allowed.
    let makes_sense = config.restrict || config.allow.is_empty();
    makes_sense.then_some(config)
}

/// `HOST:PORT[/udp]`.
fn allowed(text: &str) -> Option<Allowed> {
    let (end, udp) = protocol(text);
    let (host, port) = end.rsplit_once(':')?;
    let host = match ip(host) {
        Some(address) => Host::Address(address),
        None => Host::Name(host_name(host)?),
    };
    Some(Allowed {
        host,
        port: port_number(port)?,
        udp,
    })
}

/// The name of a machine, in small letters.
fn host_name(text: &str) -> Option<String> {
    let is_part = |part: &str| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && part.bytes().all(letter)
    };
    let last = text.rsplit('.').next()?;
    // An address that is written in another way is no name.
    let is_number = last.starts_with(|c: char| c.is_ascii_digit());
    (text.len() <= 253 && text.split('.').all(is_part) && !is_number)
        .then(|| text.to_ascii_lowercase())
}

/// What comes before `/udp`, and whether that is there.
fn protocol(text: &str) -> (&str, bool) {
    match text.strip_suffix("/udp") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

fn port_number(text: &str) -> Option<u16> {
    number(text).filter(|&port| port != 0)
}

/// `[ADDRESS:]HOST:GUEST[/udp]`. Without an address, only this machine reaches
/// the port.
fn published(text: &str) -> Option<Published> {
    let (ports, udp) = protocol(text);
    let (rest, guest) = ports.rsplit_once(':')?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (ip(address)?, host),
        None => (Ipv4Addr::LOCALHOST.into(), rest),
    };
    Some(Published {
        address,
        host: port_number(host)?,
        guest: port_number(guest)?,
        udp,
    })
}

/// An address of IPv4, or one of IPv6 in brackets.
fn ip(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => {
            let address: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            Some(address.into())
        }
        None => Some(text.parse::<Ipv4Addr>().ok()?.into()),
    }
}

/// A number of digits alone.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The value of `--tunnet`.
pub(super) fn tunnet(text: &str) -> Result<DeviceConfig, UsageError> {
    let config = match text.strip_prefix("bridge:") {
        Some(name) if !name.is_empty() => Some(TapConfig::Bridge(name.into())),
        _ => address(text),
    };
    let unknown = || UsageError::NotATunnel(text.into());
    let link = LinkConfig::Tap(config.ok_or_else(unknown)?);
    Ok(DeviceConfig::Net(NetConfig::new(link)))
}
