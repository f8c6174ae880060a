//! The registers of devices, as good and bad drivers use them.

use super::*;
use crate::devices::block::{Block, Disk};
use crate::devices::console::{Config, Console};
use crate::devices::net::{Backend, Nic, nothing, offload::Offload};
use crate::engine::Scripted;
use crate::transport::virtio::testing::{Driver, RAM, guest};
use crate::transport::virtio::{
    VirtioConsole, VirtioDisk, VirtioNic, VirtioRandom,
};
use lg_abi::gen2::device::{RING_SIZE, TYPE_BLOCK, TYPE_RANDOM};
use lg_abi::gen3::registers::common;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Numbers of the devices.
const CONSOLE: u32 = 0;
const RANDOM: u32 = 1;
const DISK: u32 = 2;

/// Where a driver puts a ring: it has the form of generation 2.
const RING: u32 = 0x8000;

struct Machine {
    guest: Arc<Scripted>,
    bus: PciBus,
    output: File,
}

fn memory_file(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn devices(output: &File) -> (Vec<Box<dyn VirtioDevice>>, Arc<Screen>) {
    let disk = memory_file(&[7; 1024]);
    let path =
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&disk));
    let block = Block::new(Disk::open_when_free(path.as_ref(), false));
    let console = Console::new(Config {
        input: memory_file(b"").into(),
        output: output.try_clone().unwrap().into(),
        log: None,
        at_end: None,
    });
    let screen = console.screen();
    let devices: Vec<Box<dyn VirtioDevice>> = vec![
        Box::new(VirtioConsole::new(console)),
        Box::<VirtioRandom>::default(),
        Box::new(VirtioDisk::new(block)),
    ];
    (devices, screen)
}

impl Machine {
    fn new() -> Self {
        Self::of(guest(0))
    }

    fn of(guest: Arc<Scripted>) -> Self {
        let output = memory_file(b"");
        let (devices, screen) = devices(&output);
        let requests: Arc<dyn Requests> = guest.clone();
        let bus = PciBus::new(&requests, devices, screen).unwrap();
        Self { guest, bus, output }
    }

    fn read(&self, device: u32, offset: u32, bytes: u32) -> u32 {
        let access = DeviceAccess {
            device,
            offset,
            bytes,
        };
        self.bus.read_device(access).unwrap()
    }

    fn try_write(
        &self,
        device: u32,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Violation> {
        let access = DeviceAccess {
            device,
            offset,
            bytes,
        };
        self.bus.write_device(access, value).map(drop)
    }

    fn write(&self, device: u32, offset: u32, bytes: u32, value: u32) {
        self.try_write(device, offset, bytes, value).unwrap();
    }

    fn status(&self, device: u32) -> u32 {
        self.read(device, common::DEVICE_STATUS, 1)
    }

    /// What a driver does up to its queues, accepting these features.
    fn negotiate(&self, device: u32, features: u64) {
        for status in [0, 1, 3] {
            self.write(device, common::DEVICE_STATUS, 1, status);
        }
        for (select, word) in [(0, features & 0xFFFF_FFFF), (1, features >> 32)]
        {
            let word = u32::try_from(word).unwrap();
            self.write(device, common::DRIVER_FEATURE_SELECT, 4, select);
            self.write(device, common::DRIVER_FEATURE, 4, word);
        }
        self.write(device, common::DEVICE_STATUS, 1, 0xB);
    }

    /// Puts queue 0 at [`RING`].
    fn put_queue(&self, device: u32) -> Result<(), Violation> {
        self.write(device, common::QUEUE_SELECT, 2, 0);
        let parts = [
            (common::QUEUE_DESC, RING),
            (common::QUEUE_DRIVER, RING + 16 * u32::from(RING_SIZE)),
            (common::QUEUE_DEVICE, RING + 0x2000),
        ];
        for (at, address) in parts {
            self.write(device, at, 4, address);
            self.write(device, at + 4, 4, 0);
        }
        self.try_write(device, common::QUEUE_ENABLE, 2, 1)
    }

    /// A device whose driver is ready, and the driver.
    fn ready(&self, device: u32) -> Driver {
        self.negotiate(device, FEATURE_VERSION_1);
        self.put_queue(device).unwrap();
        self.write(device, common::DEVICE_STATUS, 1, 0xF);
        Driver::new(&self.guest, RING)
    }
}

#[test]
fn a_driver_learns_what_a_device_offers() {
    let m = Machine::new();
    let feature = |device, select| {
        m.write(device, common::DEVICE_FEATURE_SELECT, 4, select);
        m.read(device, common::DEVICE_FEATURE, 4)
    };
    assert_eq!(feature(CONSOLE, 0), 1 | 1 << 2, "size, emergency write");
    assert_eq!(feature(RANDOM, 0), 0);
    assert_eq!(feature(DISK, 0), 1 << 2 | 1 << 9);
    for device in [CONSOLE, RANDOM, DISK] {
        assert_eq!(feature(device, 1), 1, "version 1");
        assert_eq!(feature(device, 2), 0);
        assert_eq!(feature(device, u32::MAX), 0);
    }
    assert_eq!(m.read(CONSOLE, common::NUM_QUEUES, 2), 2);
    assert_eq!(m.read(RANDOM, common::QUEUE_SIZE, 2), 256);
    m.write(RANDOM, common::QUEUE_SELECT, 2, 1);
    assert_eq!(m.read(RANDOM, common::QUEUE_SIZE, 2), 0, "no such queue");
    assert_eq!(m.read(DISK, registers::DEVICE, 4), 2, "sectors");
    assert_eq!(m.read(DISK, registers::DEVICE + 200, 4), 0);
    let (devices, _) = devices(&m.output);
    let described = describe(&devices);
    assert_eq!(described[1].kind, TYPE_RANDOM);
    assert_eq!(described[1].config_bytes, 0);
    assert_eq!(described[2].kind, TYPE_BLOCK);
    assert_eq!(described[0].config_bytes, 12);
}

#[test]
fn features_are_refused_that_were_not_offered() {
    let m = Machine::new();
    m.negotiate(RANDOM, FEATURE_VERSION_1);
    assert_eq!(m.status(RANDOM), 0xB);
    for bad in [0, FEATURE_VERSION_1 | 1, FEATURE_VERSION_1 << 1] {
        m.negotiate(RANDOM, bad);
        assert_eq!(m.status(RANDOM), 3, "{bad:x}");
    }
    // They cannot be changed once they are agreed upon.
    m.negotiate(RANDOM, FEATURE_VERSION_1);
    m.write(RANDOM, common::DRIVER_FEATURE, 4, 0);
    m.write(RANDOM, common::DEVICE_STATUS, 1, 0xF);
    assert_eq!(m.status(RANDOM), 0xF);
}

#[test]
fn a_driver_learns_the_size_of_the_terminal() {
    let m = Machine::new();
    let size = TerminalSize {
        columns: 132,
        rows: 43,
    };
    let read = || {
        let at = registers::DEVICE;
        (m.read(CONSOLE, at, 2), m.read(CONSOLE, at + 2, 2))
    };
    assert_eq!(read(), (0, 0), "no terminal");
    m.ready(CONSOLE);
    assert!(m.guest.irqs().is_empty());
    // It does not accept the size: it reads it, but gets no interrupt.
    m.bus.resized(size);
    assert_eq!((read(), m.guest.irqs()), ((132, 43), vec![]));
    m.negotiate(CONSOLE, FEATURE_VERSION_1 | 1);
    m.write(CONSOLE, common::DEVICE_STATUS, 1, 0xF);
    assert_eq!(m.guest.irqs(), [1], "the size at the start");
    let rows = 24;
    m.bus.resized(TerminalSize { rows, ..size });
    assert_eq!((read(), m.guest.irqs()), ((132, 24), vec![1]));
}

/// An end of a network that is there, and silent.
struct Silent(File);

impl Backend for Silent {
    fn send(&mut self, _: &[u8], _: Offload) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, _: &mut Vec<u8>) -> io::Result<Offload> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Two interfaces: the first is connected to something.
fn networks() -> Machine {
    let far = [2, 0, 0, 0, 0, 1];
    let linked = Nic::new(Box::new(Silent(memory_file(b""))), far);
    let nics = [linked, nothing::connect().unwrap()].map(VirtioNic::new);
    let devices = nics.map(|nic| -> Box<dyn VirtioDevice> { Box::new(nic) });
    let (guest, output) = (guest(0), memory_file(b""));
    let requests: Arc<dyn Requests> = guest.clone();
    let screen = super::tests::devices(&output).1;
    let bus = PciBus::new(&requests, devices.into(), screen).unwrap();
    Machine { guest, bus, output }
}

#[test]
fn a_driver_learns_that_its_network_is_another_one() {
    const STATUS: u32 = registers::DEVICE + 6;
    let m = networks();
    let links = || [0, 1].map(|device| m.read(device, STATUS, 2));
    assert_eq!(links(), [1, 0]);
    // It learns nothing of changes, and so the link stays up.
    m.ready(0);
    m.bus.links_changed();
    assert_eq!((links(), m.guest.irqs()), ([1, 0], vec![]));
    for device in [0, 1] {
        m.negotiate(device, FEATURE_VERSION_1 | 1 << NET_STATUS);
        m.write(device, common::DEVICE_STATUS, 1, 0xF);
    }
    m.bus.links_changed();
    assert_eq!(m.guest.irqs(), [1, 2]);
    assert_eq!(m.read(0, registers::DEVICE, 4), 0x0000_0002, "its address");
    assert_eq!((links(), m.guest.irqs()), ([0, 0], vec![1]));
    assert_eq!((links(), m.guest.irqs()), ([1, 0], vec![]));
}

#[test]
fn a_driver_learns_that_its_network_was_taken_away() {
    const STATUS: u32 = registers::DEVICE + 6;
    let m = networks();
    m.negotiate(0, FEATURE_VERSION_1 | 1 << NET_STATUS);
    m.write(0, common::DEVICE_STATUS, 1, 0xF);
    assert_eq!(m.bus.detach("net", 0), Some(0));
    assert_eq!(m.guest.irqs(), [1]);
    // The link stays down.
    assert_eq!(m.read(0, STATUS, 2), 0);
    assert_eq!(m.read(0, STATUS, 2), 0);
    assert!(m.guest.irqs().is_empty());
    assert_eq!(m.bus.detach("net", 2), None);
    assert_eq!(m.bus.detach("block", 0), None);
}

#[test]
fn a_device_answers_after_it_was_started() {
    let m = Machine::new();
    let mut driver = m.ready(RANDOM);
    driver.offer(&[], &[(0x2000, 16)]);
    m.write(RANDOM, registers::NOTIFY, 2, 0);
    assert_eq!(driver.used(), [(0, 16)]);
    assert_ne!(m.guest.bytes(0x2000, 16), [0; 16]);
    assert_eq!(m.guest.irqs(), [2], "the interrupt of its slot");
    // After a reset it does not answer, and starts anew.
    m.write(RANDOM, common::DEVICE_STATUS, 1, 0);
    assert_eq!(m.status(RANDOM), 0);
    assert_eq!(m.read(RANDOM, common::QUEUE_ENABLE, 2), 0);
    driver.offer(&[], &[(0x2000, 16)]);
    m.write(RANDOM, registers::NOTIFY, 2, 0);
    assert_eq!(driver.used().len(), 1);
    assert!(m.guest.irqs().is_empty());
}

#[test]
fn a_small_ring_goes_round() {
    let m = Machine::new();
    m.negotiate(RANDOM, FEATURE_VERSION_1);
    m.write(RANDOM, common::QUEUE_SIZE, 2, 2);
    m.put_queue(RANDOM).unwrap();
    let put = |at, bytes: &[u8]| m.guest.put(at, bytes);
    // Both descriptors name the same four bytes.
    for index in 0..2 {
        put(RING + 16 * index, &0x2000_u64.to_le_bytes());
        put(RING + 16 * index + 8, &4_u32.to_le_bytes());
        put(RING + 16 * index + 12, &2_u16.to_le_bytes());
    }
    let available = RING + 16 * u32::from(RING_SIZE);
    put(available + 4, &[1, 0, 0, 0]);
    for round in 1..=5_u16 {
        put(available + 2, &round.to_le_bytes());
        m.write(RANDOM, registers::NOTIFY, 2, 0);
        let used = m.guest.bytes(RING + 0x2002, 2);
        assert_eq!(used, round.to_le_bytes());
        let slot = u32::from(round - 1) % 2;
        let element = m.guest.word(RING + 0x2004 + 8 * slot);
        assert_eq!(element, 1 - slot, "the chain of round {round}");
    }
}

#[test]
fn a_queue_must_be_where_a_queue_can_be() {
    type Step = fn(&Machine);
    let cases: [Step; 8] = [
        |m| m.write(RANDOM, common::QUEUE_DESC, 4, RAM + 0x1000),
        |m| m.write(RANDOM, common::QUEUE_DESC, 4, RAM + 0x800),
        |m| m.write(RANDOM, common::QUEUE_DESC, 4, RING + 8),
        |m| m.write(RANDOM, common::QUEUE_DRIVER, 4, u32::MAX - 3),
        |m| m.write(RANDOM, common::QUEUE_DEVICE, 4, RING + 2),
        |m| m.write(RANDOM, common::QUEUE_DEVICE + 4, 4, 1),
        |m| m.write(RANDOM, common::QUEUE_SIZE, 2, 3),
        |m| m.write(RANDOM, common::QUEUE_SIZE, 2, 512),
    ];
    for (n, step) in cases.iter().enumerate() {
        let m = Machine::new();
        m.negotiate(RANDOM, FEATURE_VERSION_1);
        for at in [common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            m.write(RANDOM, at, 4, RING + 0x2000);
        }
        m.write(RANDOM, common::QUEUE_DESC, 4, RING);
        step(&m);
        let enabled = m.try_write(RANDOM, common::QUEUE_ENABLE, 2, 1);
        let Violation(why) = enabled.unwrap_err();
        assert!(why.contains("where no queue can be"), "{n}: {why}");
    }
    let m = Machine::new();
    m.write(RANDOM, common::QUEUE_SIZE, 2, 0);
    assert!(m.put_queue(RANDOM).is_err());
}

#[test]
fn odd_accesses_have_no_effect() {
    let m = Machine::new();
    m.write(RANDOM, common::DEVICE_STATUS, 4, 1);
    m.write(RANDOM, common::NUM_QUEUES, 2, 9);
    m.write(RANDOM, common::QUEUE_SELECT, 2, 7);
    m.write(RANDOM, common::QUEUE_ENABLE, 2, 1);
    m.write(RANDOM, registers::NOTIFY, 2, 0);
    m.write(RANDOM, registers::NOTIFY, 2, 9);
    m.write(RANDOM, 0xFFC, 4, u32::MAX);
    assert_eq!(m.read(RANDOM, 0xFFC, 4), 0);
    assert_eq!(m.read(RANDOM, 0x36, 4), 0, "across the common registers");
    assert_eq!(m.status(RANDOM), 0);
    // A queue that is in use stays where it is.
    let _driver = m.ready(RANDOM);
    m.write(RANDOM, common::QUEUE_DESC, 4, 0x4000);
    assert_eq!(m.read(RANDOM, common::QUEUE_DESC, 4), RING);
    assert!(m.try_write(3, 0, 4, 0).is_err(), "no such device");
    assert!(m.bus.notify(0).is_err());
    assert!(m.bus.send(0, 0).is_err());
}

#[test]
fn characters_of_the_early_console_are_shown() {
    let m = Machine::new();
    let at = registers::DEVICE + EMERGENCY_WRITE;
    for byte in *b"hi\n" {
        m.write(CONSOLE, at, 4, u32::from(byte) | 0xFF00);
    }
    m.write(DISK, at, 4, b'x'.into());
    let mut bytes = [0; 8];
    let len = m.output.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], b"hi\n");
}

#[test]
fn a_bus_goes_on_where_another_was() {
    let m = Machine::new();
    let mut driver = m.ready(RANDOM);
    driver.offer(&[], &[(0x2000, 16)]);
    m.write(RANDOM, registers::NOTIFY, 2, 0);
    let state = m.bus.state();
    let text = serde_json::to_string(&state).unwrap();
    let other = Machine::of(guest(0));
    let mut ram = vec![0; RAM as usize];
    m.guest.memory().read(0, &mut ram).unwrap();
    other.guest.put(0, &ram);
    let state = serde_json::from_str(&text).unwrap();
    other.bus.restore(&state).unwrap();
    let mut driver = driver.of(&other.guest);
    driver.offer(&[], &[(0x3000, 16)]);
    assert_eq!(other.status(RANDOM), 0xF);
    other.write(RANDOM, registers::NOTIFY, 2, 0);
    assert_eq!(driver.used().len(), 2);
}

#[test]
fn a_state_that_fits_no_device_is_refused() {
    let m = Machine::new();
    let _ = m.ready(RANDOM);
    let good = serde_json::to_value(m.bus.state()).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut bad = good.clone();
        change(&mut bad["state"]["functions"][RANDOM as usize]);
        assert_ne!(bad, good);
        let bad = serde_json::from_value(bad).unwrap();
        let error = Machine::of(guest(0)).bus.restore(&bad).unwrap_err();
        assert!(error.to_string().contains("queues or features"), "{error}");
    };
    refused(&|f| f["common"]["queues"][0]["size"] = 0.into());
    refused(&|f| f["common"]["queues"][0]["size"] = 100.into());
    refused(&|f| {
        f["common"]["queues"][0]["addresses"][2] = 0xFFFF_FFFE_u32.into();
    });
    refused(&|f| f["common"]["offered"] = 0.into());
    refused(&|f| f["common"]["queues"] = serde_json::json!([]));
    refused(&|f| f["queues"] = serde_json::json!([]));
}

#[test]
fn more_devices_than_interrupts_are_refused() {
    let guest: Arc<dyn Requests> = guest(0);
    let random =
        |_| -> Box<dyn VirtioDevice> { Box::<VirtioRandom>::default() };
    let screen = devices(&memory_file(b"")).1;
    let devices = |count| (0..count).map(random).collect();
    assert!(PciBus::new(&guest, devices(15), screen.clone()).is_ok());
    let error = PciBus::new(&guest, devices(16), screen).err().unwrap();
    assert!(error.to_string().contains("16 devices need"), "{error}");
}
