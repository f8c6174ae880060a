//! The machine: which devices were found, with a driver for each.
//!
//! Commands and tasks share it. It is made once, at boot, after the bus was
//! read and each driver has started or failed.

use crate::network::Stack;
use alloc::vec::Vec;
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Device, Kind};
use lg_guest::drivers::console::Console;
use lg_guest::drivers::disk::Disk;
use lg_guest::drivers::net::Net;
use lg_guest::drivers::random::Random;
use lg_guest::log;

/// The devices and their drivers.
pub(crate) struct Machine {
    pub(crate) boot: &'static Boot,
    pub(crate) devices: Vec<Device>,
    pub(crate) console: Option<Console>,
    pub(crate) disks: Vec<Disk>,
    /// The first network. Others are listed, but have no address.
    pub(crate) network: Option<&'static Stack>,
    pub(crate) random: Option<Random>,
}

impl Machine {
    /// Scans the bus, and starts a driver for each device.
    pub(crate) fn new(boot: &'static Boot) -> Self {
        let mut machine = Self {
            boot,
            devices: bus::scan(boot),
            console: None,
            disks: Vec::new(),
            network: None,
            random: None,
        };
        for device in machine.devices.clone() {
            if let Err(error) = machine.start(device) {
                log!("{} {}: {error}", device.kind().name(), device.index());
            }
        }
        machine
    }

    fn start(&mut self, device: Device) -> Result<(), bus::DeviceError> {
        match device.kind() {
            Kind::Console if self.console.is_none() => {
                self.console = Some(device.start(Console::new)?);
            }
            Kind::Block => {
                self.disks.push(device.start(Disk::new)?);
            }
            Kind::Net if self.network.is_none() => {
                let net = device.start(Net::new)?;
                self.network = Some(Stack::start(net, self.boot.arguments));
            }
            Kind::Random if self.random.is_none() => {
                self.random = Some(device.start(Random::new)?);
            }
            _ => {} // no driver
        }
        Ok(())
    }
}
