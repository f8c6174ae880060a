//! Frames of an interface on either bus, and who says that a buffer is free.

use super::*;
use crate::devices::console::{Config, Console};
use crate::devices::net::stream;
use crate::engine::{DeviceAccess, Requests, Scripted};
use crate::transport::virtio::testing::{Driver, RING, guest};
use crate::transport::virtio::{PciBus, RING_BYTES, VirtioBus};
use crate::transport::{Notified, Transport};
use lg_abi::gen3::registers::{self, common};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Where the driver's buffers are.
const BUFFER: u32 = 0x8000;

/// An interface whose other end is a socket, on a bus.
struct Station {
    guest: Arc<Scripted>,
    bus: Box<dyn Transport>,
    to_guest: Driver,
    other: UnixStream,
    /// Bytes of a header.
    header: u32,
}

fn nic() -> (Vec<Box<dyn VirtioDevice>>, UnixStream) {
    let (ours, other) = UnixStream::pair().unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    (vec![Box::new(VirtioNic::new(nic))], other)
}

fn console() -> Console {
    let (input, output) = rustix::pipe::pipe().unwrap();
    Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    })
}

fn on_lguests_bus() -> Station {
    let (devices, other) = nic();
    let guest = guest(2);
    let screen = console().screen();
    let bus = VirtioBus::new(guest.clone(), devices, screen).unwrap();
    Station {
        to_guest: Driver::new(&guest, RING),
        bus: Box::new(bus),
        guest,
        other,
        header: 10,
    }
}

fn on_a_pci_bus() -> Station {
    let (devices, other) = nic();
    let guest = guest(2);
    let requests: Arc<dyn Requests> = guest.clone();
    let bus = PciBus::new(&requests, devices, console().screen()).unwrap();
    let set = |offset, bytes, value| {
        let access = DeviceAccess {
            device: 0,
            offset,
            bytes,
        };
        bus.write_device(access, value).unwrap();
    };
    set(common::DRIVER_FEATURE_SELECT, 4, 1);
    set(common::DRIVER_FEATURE, 4, 1);
    set(common::DEVICE_STATUS, 1, 11);
    for queue in 0..2 {
        let at = 0x2_0000 + queue * RING_BYTES;
        set(common::QUEUE_SELECT, 2, queue);
        set(common::QUEUE_DESC, 4, at);
        set(common::QUEUE_DESC + 8, 4, at + 0x1000);
        set(common::QUEUE_DESC + 16, 4, at + 0x2000);
        set(common::QUEUE_ENABLE, 2, 1);
    }
    set(common::DEVICE_STATUS, 1, 15);
    Station {
        to_guest: Driver::new(&guest, 0x2_0000),
        bus: Box::new(bus),
        guest,
        other,
        header: 12,
    }
}

impl Station {
    /// Notifies the device of buffers.
    fn notify(&self) -> Notified {
        if self.header == 10 {
            return self.bus.notify(self.to_guest.at).unwrap();
        }
        let access = DeviceAccess {
            device: 0,
            offset: registers::NOTIFY,
            bytes: 2,
        };
        self.bus.write_device(access, 0).unwrap()
    }

    fn arrive(&mut self, byte: u8) {
        self.other.write_all(&60_u32.to_be_bytes()).unwrap();
        self.other.write_all(&[byte; 60]).unwrap();
    }
}

#[test]
fn a_frame_without_a_buffer_waits_for_a_notification() {
    for mut station in [on_lguests_bus(), on_a_pci_bus()] {
        let length = station.header + 60;
        assert_eq!(station.notify(), Notified::Buffers(0));
        let starved = Readiness::Starved { watch: false };
        for round in 0..3 {
            let byte = u8::try_from(round).unwrap() + 7;
            station.arrive(byte);
            assert_eq!(station.bus.handle_input(0).unwrap(), starved);
            station.to_guest.offer(&[], &[(BUFFER, 2000)]);
            assert_eq!(station.notify(), Notified::Buffers(0));
            // There may be another frame, and there is no more buffer.
            assert_eq!(station.bus.handle_input(0).unwrap(), starved);
            let used = station.to_guest.used();
            assert_eq!(used.get(round), Some(&(used[round].0, length)));
            let frame = station.guest.bytes(BUFFER + station.header, 60);
            assert_eq!(frame, [byte; 60]);
        }
    }
}
