//! `lguest device`: the devices of a machine, and how one is taken away.
//!
//! What is behind the device is closed: a disk's file, a network's other end,
//! the server of a share. The device itself stays, because no generation of the
//! interface lets a Guest lose one: its driver gets errors, or has no link.

use super::build::Built;
use super::config::{Config, DeviceConfig};
use super::inputs::Inputs;
use crate::machines::protocol::{Devices, ListedDevice};
use crate::snapshot::Network;
use crate::transport::Transport;
use std::sync::Arc;

/// The devices of a machine but its console.
pub(super) struct Attachments {
    listed: Vec<ListedDevice>,
    bus: Arc<dyn Transport>,
    inputs: Inputs,
}

/// The types of devices, by the names that their counters have.
const DISK: &str = "block";
const NET: &str = "net";
const SHARE: &str = "share";

impl Attachments {
    /// Those of the machine of `config`.
    pub(super) fn new(config: &Config, built: &Built, inputs: &Inputs) -> Self {
        Self {
            listed: listed(&config.devices),
            bus: Arc::clone(&built.bus),
            inputs: inputs.clone(),
        }
    }

    /// What there is.
    pub(super) fn list(&self) -> Devices {
        Devices {
            devices: self.listed.clone(),
        }
    }

    /// Takes the device with this name away. May block as long as its requests
    /// do. Returns whether there can still be a snapshot of the machine.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn take(&mut self, name: &str) -> Result<bool, String> {
        let at = self.listed.iter().position(|device| device.name == name);
        let Some(at) = at else {
            let names = self.listed.iter().map(|device| device.name.as_str());
            let names: Vec<&str> = names.collect();
            return Err(match names.as_slice() {
                [] => "it has no device that can be removed".into(),
                all => format!(
                    "there is no device '{name}': they are {}",
                    all.join(", ")
                ),
            });
        };
        let (before, rest) = self.listed.split_at_mut(at);
        let Some(device) = rest.first_mut() else {
            return Err("it has no devices".into());
        };
        if device.removed {
            return Err(format!("{name} was removed before"));
        }
        let same = before.iter().filter(|other| other.r#type == device.r#type);
        let index = self.bus.detach(&device.r#type, same.count());
        let Some(index) = index else {
            return Err(format!("{name} cannot be closed: try again"));
        };
        self.inputs.gone(index);
        device.removed = true;
        Ok(device.r#type == NET)
    }
}

/// The names of the devices: their kind and their number among those of this
/// kind, from 0 on.
fn listed(devices: &[DeviceConfig]) -> Vec<ListedDevice> {
    let mut listed: Vec<ListedDevice> = Vec::new();
    for device in devices {
        let (kind, word, what) = match device {
            DeviceConfig::Disk(disk) => {
                (DISK, "disk", disk.path.to_string_lossy().into_owned())
            }
            DeviceConfig::ShareNet(path) => {
                (NET, "net", format!("sharenet={}", path.display()))
            }
            DeviceConfig::Net(_) => {
                let network = Network::of(device).map_or("", Network::word);
                (NET, "net", network.into())
            }
            DeviceConfig::Share(share) => {
                let what = format!("{},{}", share.path.display(), share.tag);
                (SHARE, "share", what)
            }
        };
        let number = listed.iter().filter(|other| other.r#type == kind).count();
        listed.push(ListedDevice {
            name: format!("{word}{number}"),
            r#type: kind.into(),
            what,
            removed: false,
        });
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::config::{LinkConfig, NetConfig, ShareConfig};

    #[test]
    fn devices_are_numbered_by_kind() {
        let share = |tag: &str| {
            DeviceConfig::Share(ShareConfig {
                path: "work".into(),
                tag: tag.into(),
                read_only: false,
            })
        };
        let devices = [
            DeviceConfig::ShareNet("lan".into()),
            share("a"),
            DeviceConfig::Net(NetConfig::new(LinkConfig::Nothing)),
            share("b"),
        ];
        let listed = listed(&devices);
        let short = |d: &ListedDevice| format!("{} {}", d.name, d.what);
        let short: Vec<String> = listed.iter().map(short).collect();
        let expected = [
            "net0 sharenet=lan",
            "share0 work,a",
            "net1 none",
            "share1 work,b",
        ];
        assert_eq!(short, expected);
    }
}
