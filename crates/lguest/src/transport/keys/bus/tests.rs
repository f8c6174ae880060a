//! Which device gets which request.

use super::*;
use crate::devices::scripted;
use crate::engine::Scripted;
use crate::transport::keys::{Description, Sent};
use crate::transport::{BusDevice, Device};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Reports where it was placed and what was sent to it.
struct Probe(u16, u16, Sender<(Place, u32)>, Option<Place>);

impl KeyedDevice for Probe {
    fn description(&self) -> Description {
        Description {
            kind: self.0,
            features: 0x8001,
            num_pages: self.1,
        }
    }

    fn place(&mut self, _: Arc<dyn Requests>, place: Place) -> io::Result<()> {
        self.3 = Some(place);
        Ok(())
    }

    fn send(&mut self, _: u32, key: u32) -> Result<Sent, Violation> {
        self.2.send((self.3.unwrap(), key)).unwrap();
        Ok(Sent {
            bytes: 7,
            rest: None,
        })
    }
}

impl BusDevice for Probe {
    fn device(&mut self) -> &mut dyn Device {
        self
    }
}

impl Device for Probe {
    fn state(&mut self) -> DeviceState {
        unreachable!("no test saves it")
    }

    fn restore(&mut self, _: &DeviceState) -> Result<(), RestoreError> {
        unreachable!("as above")
    }
}

fn bus(kinds: &[(u16, u16)]) -> (Arc<Scripted>, Bus, Receiver<(Place, u32)>) {
    let host = scripted();
    let (sent, got) = channel();
    let devices = kinds
        .iter()
        .map(|&(kind, pages)| -> Box<dyn KeyedDevice> {
            Box::new(Probe(kind, pages, sent.clone(), None))
        })
        .collect::<Vec<_>>();
    let bus = Bus::new(host.clone(), devices).unwrap();
    (host, bus, got)
}

#[test]
fn devices_stand_in_order_each_with_its_page() {
    let (host, bus, _) = bus(&[(3, 1), (2, 1), (1, 0)]);
    let found: Vec<_> = (0..3).map(|i| bus.descriptor(i).unwrap()).collect();
    let kinds: Vec<_> = found.iter().map(|d| (d.kind, d.pfn)).collect();
    assert_eq!(kinds, [(3, 17), (2, 18), (1, 0)]);
    assert_eq!(found[0].features, 0x8001);
    // After the last one there is none.
    assert_eq!(host.word(0x1_0000 + 3 * 12), 0);
}

#[test]
fn output_goes_to_the_device_whose_page_holds_the_key() {
    let (host, bus, got) = bus(&[(3, 1), (2, 1), (1, 0)]);
    assert_eq!(bus.send(0, 0x1_2FFC), Ok(true));
    assert_eq!(got.recv().unwrap().0.index, 1);
    assert_eq!(host.word(0), 7, "what was taken is in the list");
    host.memory().write_object(0, &9_u32).unwrap();
    assert_eq!(bus.send(0, 0x1_1000), Ok(true));
    assert_eq!(got.recv().unwrap().0.irq, 1);
    assert_eq!(bus.send(0, 0), Ok(true));
    assert_eq!(got.recv().unwrap().0.index, 2);
    // No device has keys in the descriptor page, in RAM, or above.
    for key in [0x1_0000, 4, 0x1_3000, 0xFFFF_FFFC] {
        host.memory().write_object(0, &9_u32).unwrap();
        assert_eq!(bus.send(0, key), Ok(false));
        assert_eq!(host.word(0), 9, "no device has answered");
    }
}

#[test]
fn a_removed_device_says_so_and_hears_nothing_more() {
    let (host, bus, got) = bus(&[(3, 1), (2, 1)]);
    bus.remove(1);
    assert_eq!(host.wait_irq(), Some(2));
    let status = 0x1_0000 + 12 + DeviceDescriptor::STATUS_OFFSET;
    assert_eq!(host.memory().read_object::<u16>(status), Ok(8));
    assert_eq!(bus.send(0, 0x1_2000), Ok(true));
    assert_eq!(host.word(0), 0);
    assert_eq!(bus.handle_input(1), Ok(Readiness::Closed));
    assert!(got.try_recv().is_err());
    assert!(!bus.is_let_go(1));
    host.memory().set_bits(status, 16).unwrap();
    assert!(bus.is_let_go(1));
    // The driver cannot release a device that is not removed.
    host.memory().set_bits(0x1_0004, 16).unwrap();
    assert!(!bus.is_let_go(0));
    assert_eq!(bus.send(0, 0x1_1000), Ok(true));
}

#[test]
fn the_descriptor_page_takes_sixteen() {
    let memory = GuestMemory::new(0x1_0000, 20).unwrap();
    let guest = crate::engine::Native::new(memory);
    let (sent, _got) = channel();
    let devices = |n: usize| -> Vec<Box<dyn KeyedDevice>> {
        let probe = |_| Probe(3, 1, sent.clone(), None);
        (0..n).map(probe).map(|p| Box::new(p) as _).collect()
    };
    assert_eq!(pages_above_ram(&devices(16)), 17);
    assert!(Bus::new(guest.clone(), devices(16)).is_ok());
    assert!(Bus::new(guest, devices(17)).is_err());
}

mod state;
