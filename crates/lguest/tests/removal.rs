//! A disk is removed from a running Guest, and the Guest releases it.
//!
//! `lguest device remove` closes the disk's file and does not wait for its
//! Guest. So this is a small Launcher of its own, with the same bus and the
//! same Guest.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

use lguest::devices::Readiness;
use lguest::devices::block::{Block, Disk, DiskError};
use lguest::devices::console::{Config, Console};
use lguest::engine::{Death, Engine, Exit, Native, Setup};
use lguest::loader::{self, Image};
use lguest::machine::default_guest;
use lguest::memory::GuestMemory;
use lguest::transport::Transport;
use lguest::transport::keys::{
    Bus, KeyedConsole, KeyedDevice, KeyedDisk, pages_above_ram,
};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RAM: u32 = 32 << 20;
const DISK: usize = 0;
const CONSOLE: usize = 1;

#[test]
fn a_driver_releases_a_removed_disk_and_the_guest_goes_on() {
    let name = format!("lguest-removal-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, vec![0; 64 * 512]).unwrap();
    let disk = Disk::open(&path, false).unwrap();
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let (shown, output) = rustix::pipe::pipe().unwrap();
    let devices: Vec<Box<dyn KeyedDevice>> = vec![
        Box::new(KeyedDisk::new(Block::new(disk))),
        Box::new(KeyedConsole::new(Console::new(Config {
            input,
            output,
            log: None,
            at_end: None,
        }))),
    ];
    let memory = GuestMemory::new(RAM, pages_above_ram(&devices)).unwrap();
    let image = Image::Embedded(default_guest::IMAGE);
    let initialize = loader::load(&memory, &image, None, b"").unwrap();
    let guest = Native::new(memory);
    let bus = Arc::new(Bus::new(guest.clone(), devices).unwrap());
    guest.initialize(Setup::from(initialize)).unwrap();
    let running = {
        let (guest, bus) = (guest.clone(), bus.clone());
        std::thread::spawn(move || run(&guest, &bus))
    };
    let mut shown = Shown(File::from(shown), String::new());
    shown.wait_for("lguest> ");
    type_in(&bus, &keyboard, "dd 3 8 yes\n");
    shown.wait_for("read back the same");

    bus.remove(DISK);
    let start = Instant::now();
    while !bus.is_let_go(DISK) {
        assert!(start.elapsed() < Duration::from_secs(60), "not released");
        std::thread::sleep(Duration::from_millis(1));
    }
    // It can be used again, because its lock is gone. A child of another test
    // may hold a copy of it for a moment.
    while let Err(DiskError::InUse) = Disk::open(&path, false) {
        assert!(start.elapsed() < Duration::from_secs(60), "still locked");
    }
    type_in(&bus, &keyboard, "dd 3 8 yes\nuptime\n");
    shown.wait_for("\nup ");
    type_in(&bus, &keyboard, "poweroff 9\n");
    assert_eq!(running.join().unwrap(), Death::PowerOff(9));
    std::fs::remove_file(&path).unwrap();
}

fn run(guest: &Native, bus: &Bus) -> Death {
    loop {
        match guest.run().unwrap() {
            Exit::SendDma { dma, key } => {
                bus.send(dma, key).unwrap();
            }
            Exit::BindingsChanged => bus.buffers_changed(),
            Exit::BuffersMayBeFree
            | Exit::Notify { .. }
            | Exit::Stopped(_)
            | Exit::WriteDevice { .. } => {}
            Exit::ReadDevice(_) => guest.answer(0),
            Exit::Held => guest.wait_until_let_go(),
            Exit::Dead(death) => return death,
        }
    }
}

fn type_in(bus: &Bus, keyboard: &OwnedFd, line: &str) {
    rustix::io::write(keyboard, line.as_bytes()).unwrap();
    while let Readiness::NoBuffer { .. } = bus.handle_input(CONSOLE).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The output of the Guest.
struct Shown(File, String);

impl Shown {
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.1.contains(text) {
            let len = self.0.read(&mut bytes).unwrap();
            assert_ne!(len, 0, "nothing more than: {}", self.1);
            self.1 += &String::from_utf8_lossy(&bytes[..len]);
        }
        println!("{}", self.1);
        self.1.clear();
    }
}
