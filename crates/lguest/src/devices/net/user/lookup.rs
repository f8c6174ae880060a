//! What `,allow` names: addresses, and names that are looked up once.
//!
//! The program `getent` looks a name up as all programs of this machine do. It
//! is started before the Launcher confines itself. This program itself is
//! linked statically, and cannot load what the machine has for names.

use super::UserError;
use super::restrict::{End, GATEWAY};
use crate::machine::config::{Allowed, Host};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program that looks names up.
const PROGRAM: &str = "getent";

/// How long it may take. Resolvers give up earlier.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of its answer that are looked at: what a pipe holds.
const ANSWER: u64 = 64 << 10;

/// The most addresses of a name.
const ADDRESSES: usize = 64;

/// Ends that the Guest may reach, and the addresses of those with names.
pub(super) struct Found {
    pub(super) ends: Vec<End>,
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
}

/// Finds the ends that are `allowed`. Each name is looked up once.
///
/// # Errors
///
/// [`UserError`]: a name without an address, or an address that leads nowhere.
pub(super) fn find(allowed: &[Allowed]) -> Result<Found, UserError> {
    let mut found = Found {
        ends: Vec::new(),
        names: BTreeMap::new(),
    };
    for Allowed { host, port, udp } in allowed {
        let addresses = match host {
            Host::Address(address) => {
                vec![usable(*address).ok_or(UserError::Unusable(*address))?]
            }
            Host::Name(name) => match found.names.get(name) {
                Some(known) => known.clone(),
                None => {
                    let addresses = look_up(name)?;
                    found.names.insert(name.clone(), addresses.clone());
                    addresses
                }
            },
        };
        found.ends.extend(addresses.into_iter().map(|address| End {
            address,
            port: *port,
            udp: *udp,
        }));
    }
    Ok(found)
}

/// An address as frames have it; `None` if it leads nowhere, or to the Guest
/// itself.
fn usable(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_broadcast = address == IpAddr::from([255; 4]);
    let nowhere = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || is_broadcast;
    (!nowhere).then_some(address)
}

/// The same for an address of a name. It may not lead to this machine, which
/// the Guest finds at the gateway: strangers answer for names.
fn usable_for_name(address: IpAddr) -> Option<IpAddr> {
    let address = usable(address)?;
    let is_ours = match address {
        IpAddr::V4(address) => address == GATEWAY || address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    (!is_ours).then_some(address)
}

/// The addresses of a name.
fn look_up(name: &str) -> Result<Vec<IpAddr>, UserError> {
    let mut command = Command::new(PROGRAM);
    command.args(["ahosts", name]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("LC_ALL", "C");
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UserError::NoLookup(name.to_owned()),
        _ => UserError::Failed(error),
    })?;
    let said = answer(child).map_err(UserError::Failed)?;
    let all = addresses_in(&said);
    if all.is_empty() {
        return Err(UserError::NoAddress(name.to_owned()));
    }
    let usable = all.iter().copied().filter_map(usable_for_name);
    let usable: Vec<_> = usable.take(ADDRESSES).collect();
    match (usable.is_empty(), all.first()) {
        (true, Some(first)) => Err(UserError::Unusable(*first)),
        _ => Ok(usable),
    }
}

/// What the program has printed when it ends. It is killed if that takes too
/// long.
fn answer(mut child: Child) -> io::Result<String> {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let patience = Timespec::try_from(PATIENCE).ok();
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let ended = retry_on_intr(|| poll(&mut ended, patience.as_ref()));
    if !matches!(ended, Ok(1..)) {
        child.kill()?;
    }
    child.wait()?;
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(ANSWER).read_to_end(&mut said)?;
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The addresses in lines that begin with one, each once.
fn addresses_in(said: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in said.lines() {
        let word = line.split_whitespace().next();
        // An address with a scope has no meaning for the Guest.
        if let Some(Ok(address)) = word.map(str::parse::<IpAddr>)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_once_and_in_their_order() {
        let said = "2001:db8::7     STREAM a.example\n\
                    2001:db8::7     DGRAM\n\
                    fe80::1%eth0    STREAM\n\
                    no address\n\n\
                    192.0.2.7       STREAM\n";
        let expected: [IpAddr; 2] =
            ["2001:db8::7", "192.0.2.7"].map(|text| text.parse().unwrap());
        assert_eq!(addresses_in(said), expected);
    }

    #[test]
    fn an_address_that_leads_to_the_guest_itself_is_refused() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.251",
            "ff02::1",
            "255.255.255.255",
        ] {
            let address: IpAddr = text.parse().unwrap();
            let allowed = Allowed {
                host: Host::Address(address),
                port: 80,
                udp: false,
            };
            let error = find(&[allowed]).err().unwrap();
            assert!(error.to_string().contains("10.0.2.2"), "{error}");
            assert!(!error.is_of_machine());
        }
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(usable(mapped), Some([192, 0, 2, 7].into()));
    }

    #[test]
    fn a_name_does_not_lead_to_this_machine() {
        for (text, may) in [
            ("10.0.2.2", false),
            ("::ffff:10.0.2.2", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("127.0.0.1", false),
            ("10.0.2.4", true),
            ("192.0.2.7", true),
            ("2001:db8::7", true),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(usable_for_name(address).is_some(), may, "{text}");
        }
        // A person who names it means it.
        let gateway = GATEWAY.into();
        assert_eq!(usable(gateway), Some(gateway));
    }
}
