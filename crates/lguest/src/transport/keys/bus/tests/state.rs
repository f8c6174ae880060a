//! A bus goes on from the state of another one as if nothing had happened.

use super::*;
use crate::devices::block::{Block, Disk};
use crate::devices::console::{Config, Console};
use crate::transport::keys::{KeyedConsole, KeyedDisk};
use lg_abi::device::{BLOCK_DONE, BLOCK_READ, BLOCK_WRITE, BlockPage};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;

const LIST: u32 = 0x1000;
const SENT: u32 = 0x1800;
const DATA: u32 = 0x2000;
const TYPED: u32 = 0x3000;
const KEYS: u32 = 0x4000;
const DISK: u32 = 0x1_1000;
const REMOVED: u32 = 0x1_2000;
const LIMIT: usize = 0x1_3000;

/// A Guest with a disk, another disk, and a console.
struct Machine {
    guest: Arc<Scripted>,
    bus: Bus,
    /// The files of both disks.
    files: [File; 2],
    keyboard: OwnedFd,
}

fn disk_file() -> File {
    let file = memfd_create("disk", MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(file);
    file.set_len(16 * 512).unwrap();
    file
}

fn disk(file: &File) -> Box<dyn KeyedDevice> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let disk = Disk::open_when_free(path.as_ref(), false);
    Box::new(KeyedDisk::new(Block::new(disk)))
}

fn machine(files: [File; 2]) -> Machine {
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let output = memfd_create("output", MemfdFlags::CLOEXEC).unwrap();
    let console = KeyedConsole::new(Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    }));
    let devices = vec![disk(&files[0]), disk(&files[1]), Box::new(console)];
    let guest = scripted();
    let bus = Bus::new(guest.clone(), devices).unwrap();
    Machine {
        guest,
        bus,
        files,
        keyboard,
    }
}

impl Machine {
    /// Sends a request for sector 3 to the first disk. Returns its result and
    /// the list's `used_len`.
    fn ask(&self, kind: u32) -> (u32, u32) {
        let page = BlockPage {
            kind,
            sector: 3,
            bytes: 512,
            ..BlockPage::default()
        };
        self.guest.memory().write_object(DISK, &page).unwrap();
        for list in [LIST, SENT] {
            self.guest.put_dma(list, &[(DATA, 512)]);
        }
        self.guest.bind(DISK, LIST, 1);
        assert_eq!(self.bus.send(SENT, DISK), Ok(true));
        assert_eq!(self.guest.wait_irq(), Some(1));
        let result = self.guest.word(DISK + BlockPage::RESULT_OFFSET);
        (result, self.guest.word(LIST))
    }

    /// Has the console fill a buffer of `len` bytes. Returns the bytes.
    fn receive(&self, len: u16) -> Vec<u8> {
        self.guest.put_dma(KEYS, &[(TYPED, len)]);
        self.guest.bind(LGUEST_CONSOLE_DMA_KEY, KEYS, 3);
        self.bus.handle_input(2).unwrap();
        let used = self.guest.word(KEYS);
        self.guest.bytes(TYPED, used as usize)
    }
}

#[test]
fn a_bus_goes_on_from_its_state() {
    let before = machine([disk_file(), disk_file()]);
    before.guest.memory().write(DATA, &[7; 512]).unwrap();
    assert_eq!(before.ask(BLOCK_WRITE).0, BLOCK_DONE);
    rustix::io::write(&before.keyboard, b"typed").unwrap();
    assert_eq!(before.receive(2), b"ty");
    // One device was removed, and its driver has acknowledged it.
    before.bus.remove(1);
    let status = 0x1_0000 + 12 + DeviceDescriptor::STATUS_OFFSET;
    let memory = before.guest.memory();
    memory
        .set_bits(status, LGUEST_DEVICE_S_REMOVED_ACK)
        .unwrap();
    assert!(before.bus.is_let_go(1));

    let text = serde_json::to_string(&before.bus.state()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    let memory = before.guest.bytes(0, LIMIT);
    // The lock of a disk goes with its device.
    drop(before.bus);
    let after = machine(before.files);
    after.guest.memory().write(0, &memory).unwrap();
    after.bus.restore(&state).unwrap();
    assert_eq!(after.bus.state(), state);

    // The disk has the same contents, and waiting input is still there.
    after.guest.memory().write(DATA, &[0; 512]).unwrap();
    assert_eq!(after.ask(BLOCK_READ), (BLOCK_DONE, 512));
    assert_eq!(after.guest.bytes(DATA, 512), [7; 512]);
    rustix::io::write(&after.keyboard, b"!").unwrap();
    let got = [after.receive(10), after.receive(10)].concat();
    assert_eq!(got, b"ped!");
    // The removed device is still removed.
    assert!(after.bus.is_let_go(1));
    assert_eq!(after.bus.handle_input(1), Ok(Readiness::Closed));
    assert_eq!(after.bus.send(SENT, REMOVED), Ok(true));
    assert_eq!(after.guest.word(SENT), 0, "output to it is lost");
    // Counts go on from those in the state.
    let counts = after.bus.finish();
    for count in [("writes", 1), ("bytes_read", 512)] {
        assert!(counts[0].1.contains(&count), "{counts:?}");
    }
    assert!(counts[1].1.is_empty());
}

#[test]
fn a_state_of_other_devices_is_refused() {
    let bus = machine([disk_file(), disk_file()]).bus;
    let (_, other, _) = super::bus(&[]);
    let refused = other.restore(&bus.state()).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the state does not fit: it has 3 devices, and this has 0"
    );
    // A console where a disk is.
    let text = serde_json::to_string(&bus.state()).unwrap();
    let mut slots: serde_json::Value = serde_json::from_str(&text).unwrap();
    slots["state"]["slots"].as_array_mut().unwrap().reverse();
    let swapped = serde_json::from_value(slots).unwrap();
    let refused = bus.restore(&swapped).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the state does not fit: it is of a console, and this is a disk"
    );
}
