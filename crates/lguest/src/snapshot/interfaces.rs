//! The devices of a snapshot, in the order of their command line.
//!
//! A disk is described elsewhere ([`disks`](super::disks)). Of a share, the
//! Guest knows the tag. Of a network interface, it knows an address and a
//! length of packets. What the interface is connected to is no part of a
//! snapshot: the user says it anew, because a snapshot may come from a
//! stranger.

use super::SnapshotError;
use crate::devices::net::ethernet::{MTUS, is_of_one};
use crate::devices::share::is_tag;
use crate::machine::config::{
    DeviceConfig, LinkConfig, NetConfig, ShareConfig,
};
use lg_abi::known::Known;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A device of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placed {
    /// The next disk.
    Disk,
    /// A network interface.
    Net(Interface),
    /// A folder of the machine.
    Share(Folder),
}

/// A share, as its Guest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Folder {
    /// The name by which the Guest mounts it.
    pub tag: String,
    /// Whether the Guest may only read it.
    pub read_only: bool,
}

impl Folder {
    /// Whether there can be such a share: it may be made up.
    pub(super) fn is_possible(&self) -> bool {
        is_tag(&self.tag)
    }

    /// The share of a Guest that goes on, which is one of those `given`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::NeedsShare`].
    pub(super) fn config(
        &self,
        folder: &Path,
        given: &[ShareConfig],
    ) -> Result<DeviceConfig, SnapshotError> {
        let fits = |share: &&ShareConfig| {
            (&share.tag, share.read_only) == (&self.tag, self.read_only)
        };
        let needs = || SnapshotError::NeedsShare {
            path: folder.into(),
            tag: self.tag.clone(),
            ro: if self.read_only { ",ro" } else { "" },
        };
        let found = given.iter().find(fits).cloned();
        found.map(DeviceConfig::Share).ok_or_else(needs)
    }
}

/// A network interface, as its Guest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interface {
    /// What it was connected to.
    pub network: Network,
    /// The Ethernet address of the Guest.
    pub mac: [u8; 6],
    /// The Ethernet address of the other end, where there is one.
    pub far: Option<[u8; 6]>,
    /// The most bytes of a packet, if that was said.
    pub mtu: Option<u16>,
    /// Its slot on a network of several Guests.
    #[serde(default)]
    pub slot: Option<u32>,
}

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A tap of the machine.
    Tap,
    /// A stream to another process.
    Stream,
    /// passt.
    User,
    /// A network of several Guests.
    Sharenet,
    /// None.
    None,
}

impl Network {
    /// That of a device, if it is a network interface.
    #[must_use]
    pub fn of(device: &DeviceConfig) -> Option<Self> {
        match device {
            DeviceConfig::ShareNet(_) => Some(Self::Sharenet),
            DeviceConfig::Net(NetConfig { link, .. }) => Some(match link {
                LinkConfig::Tap(_) => Self::Tap,
                LinkConfig::Stream(_) => Self::Stream,
                LinkConfig::User(_) => Self::User,
                LinkConfig::Nothing => Self::None,
            }),
            DeviceConfig::Disk(_) | DeviceConfig::Share(_) => None,
        }
    }

    /// The word of `--net`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Stream => "stream",
            Self::User => "user",
            Self::Sharenet => "sharenet",
            Self::None => "none",
        }
    }
}

impl Interface {
    /// Whether there can be such an interface: it may be made up.
    pub(super) fn is_possible(&self) -> bool {
        is_of_one(self.mac)
            && self.far.is_none_or(is_of_one)
            && self.mtu.is_none_or(|mtu| MTUS.contains(&mtu))
    }

    /// The interface of a Guest that goes on, connected to what the user has
    /// given, if anything. `number` is its place among the interfaces.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::OtherMtu`], [`SnapshotError::NoPlace`],
    /// [`SnapshotError::HasPlace`].
    pub(super) fn config(
        &self,
        folder: &Path,
        number: usize,
        given: Option<&DeviceConfig>,
        kernel: Known,
    ) -> Result<DeviceConfig, SnapshotError> {
        let mut config = match given {
            Some(DeviceConfig::Net(config)) => config.clone(),
            // The Guest has its slot of the network in its memory.
            Some(DeviceConfig::ShareNet(_))
                if kernel == Known::Linux2_6_23 && self.slot.is_none() =>
            {
                return Err(SnapshotError::NoPlace(folder.into()));
            }
            Some(other) => return Ok(other.clone()),
            None => NetConfig::new(LinkConfig::Nothing),
        };
        if kernel == Known::Linux2_6_23
            && self.slot.is_some()
            && config.link != LinkConfig::Nothing
        {
            return Err(SnapshotError::HasPlace(folder.into()));
        }
        if let Some(mtu) = config.mtu.filter(|_| config.mtu != self.mtu) {
            return Err(SnapshotError::OtherMtu {
                path: folder.into(),
                number,
                given: mtu,
                known: self.mtu,
            });
        }
        config.mtu = self.mtu;
        config.mac = config.mac.or(Some(self.mac));
        config.far = self.far;
        Ok(DeviceConfig::Net(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: Interface = Interface {
        network: Network::User,
        mac: [2, 0, 0, 0, 0, 1],
        far: None,
        mtu: Some(9000),
        slot: None,
    };

    #[test]
    fn an_interface_keeps_what_its_guest_knows() {
        let at = Path::new("saved");
        let config = |given: Option<&DeviceConfig>| {
            SAVED.config(at, 1, given, Known::Linux4_1)
        };
        let Ok(DeviceConfig::Net(none)) = config(None) else {
            panic!("it is no interface");
        };
        assert_eq!(none.link, LinkConfig::Nothing);
        assert_eq!((none.mac, none.mtu), (Some(SAVED.mac), SAVED.mtu));
        let own = Some([2, 0, 0, 0, 0, 7]);
        let given = NetConfig {
            mac: own,
            ..NetConfig::new(LinkConfig::User(Default::default()))
        };
        let Ok(DeviceConfig::Net(user)) =
            config(Some(&DeviceConfig::Net(given.clone())))
        else {
            panic!("it is no interface");
        };
        assert_eq!((user.mac, user.mtu), (own, SAVED.mtu));
        let short = NetConfig {
            mtu: Some(1500),
            ..given
        };
        let error = config(Some(&DeviceConfig::Net(short))).unwrap_err();
        assert!(error.to_string().contains("9000"), "{error}");
        let shared = DeviceConfig::ShareNet("file".into());
        assert_eq!(config(Some(&shared)).unwrap(), shared);
        let old = SAVED.config(at, 1, Some(&shared), Known::Linux2_6_23);
        assert!(matches!(old, Err(SnapshotError::NoPlace(_))));
        // One that was on such a network can be there again, and nowhere else.
        let saved = Interface {
            network: Network::Sharenet,
            slot: Some(3),
            ..SAVED
        };
        let config = |given| saved.config(at, 1, given, Known::Linux2_6_23);
        assert_eq!(config(Some(&shared)).unwrap(), shared);
        assert!(config(None).is_ok());
        let user = NetConfig::new(LinkConfig::User(Default::default()));
        let user = config(Some(&DeviceConfig::Net(user)));
        assert!(matches!(user, Err(SnapshotError::HasPlace(_))));
    }

    #[test]
    fn an_interface_that_cannot_be_is_refused() {
        assert!(SAVED.is_possible());
        let several = [3, 0, 0, 0, 0, 1];
        let bad = [
            Interface {
                mac: several,
                ..SAVED
            },
            Interface {
                far: Some([0; 6]),
                ..SAVED
            },
            Interface {
                mtu: Some(60),
                ..SAVED
            },
        ];
        assert!(bad.iter().all(|interface| !interface.is_possible()));
    }
}
