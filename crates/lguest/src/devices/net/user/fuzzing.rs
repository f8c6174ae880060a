//! The filter of a restricted Guest, without passt.
//!
//! The fuzzer is both the Guest and passt.

use super::names::Names;
use super::restrict::{End, Guard};
use crate::machine::config::Published;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// What is between a Guest and passt.
pub struct Filter {
    guard: Guard,
    names: Names,
}

/// Where a frame of the Guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// To passt.
    ToPasst,
    /// To the name server of the Launcher.
    ToNames,
    /// It is lost.
    Nowhere,
}

impl Filter {
    /// A filter for these ports, for ends (address, port, whether it is of UDP)
    /// and for names.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub fn new(
        published: &[Published],
        allowed: &[(IpAddr, u16, bool)],
        names: BTreeMap<String, Vec<IpAddr>>,
    ) -> io::Result<Self> {
        let end =
            |&(address, port, udp): &(_, _, _)| End { address, port, udp };
        let allowed: Vec<End> = allowed.iter().map(end).collect();
        Ok(Self {
            guard: Guard::new(published, &allowed),
            names: Names::new(names)?,
        })
    }

    /// The Guest sends a frame.
    pub fn guest_sends(&mut self, frame: &[u8]) -> Sent {
        if self.names.takes(frame) {
            return Sent::ToNames;
        }
        match self.guard.admits(frame) {
            true => Sent::ToPasst,
            false => Sent::Nowhere,
        }
    }

    /// passt sends a frame. Returns whether the Guest gets it.
    pub fn passt_sends(&mut self, frame: &[u8]) -> bool {
        self.guard.passes(frame)
    }

    /// A frame of the name server to the Guest.
    pub fn answer(&mut self) -> Option<Vec<u8>> {
        self.names.next()
    }
}
