//! Snapshots of strangers: a manifest, an image, and states of devices.
//!
//! The text of a good manifest is changed in some places: numbers, words, whole
//! pieces. Either it is refused, or what is in it is within its bounds. Then a
//! bus goes on from the states in it, over memory with any bytes, as a new
//! Launcher would, and does what a driver asks. Nothing panics. An image gives
//! its pages inside of its memory, or fails. A manifest that was not changed is
//! taken, and the bus has the same state again.

use crate::guest::file;
use crate::input::Input;
use crate::virtio::{Parts, parts};
use lguest::engine::{EngineState, Requests, Scripted};
use lguest::machines::settings::Settings;
use lguest::memory::GuestMemory;
use lguest::snapshot::checksum;
use lguest::snapshot::manifest::{Clocks, FORMAT, Manifest, Still};
use lguest::snapshot::pages::{PAGE, Pages};
use lguest::transport::Transport;
use lguest::transport::virtio::{
    PciBus, VirtioBus, describe_for_pci, pages_above_ram,
};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of the Guest's RAM.
const RAM: u32 = 0x1_0000;

/// Pages above it: enough for all devices of virtio.
const ABOVE: u32 = 64;

/// Words that mean something, for the places of others.
const WORDS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "65535",
    "4294967295",
    "18446744073709551615",
    "null",
    "true",
    "[]",
    "\"disk0\"",
];

/// A machine, as far as its devices go.
struct Machine {
    guest: Arc<Scripted>,
    bus: Box<dyn Transport>,
    _keyboard: OwnedFd,
    _far: OwnedFd,
}

fn machine(pci: bool) -> Machine {
    let disk = file(&[0xD1; 0x2000]);
    let Parts {
        devices,
        screen,
        keyboard,
        far,
        channel: _,
    } = parts(&disk, 7);
    assert!(pages_above_ram(&devices) <= ABOVE);
    assert!(describe_for_pci(&devices).len() <= usize::from(u8::MAX));
    let memory = GuestMemory::new(RAM, ABOVE).expect("memory can be had");
    let guest = Scripted::new(memory);
    let requests: Arc<dyn Requests> = guest.clone();
    let bus: Box<dyn Transport> = if pci {
        let bus = PciBus::new(&requests, devices, screen);
        Box::new(bus.expect("there are few devices"))
    } else {
        let bus = VirtioBus::new(requests, devices, screen);
        Box::new(bus.expect("there are few queues"))
    };
    Machine {
        guest,
        bus,
        _keyboard: keyboard,
        _far: far,
    }
}

/// A good manifest of a machine that has not run.
fn good(machine: &Machine, pci: bool) -> Manifest {
    let whole = |bytes: u64| Pages {
        bytes,
        runs: vec![(1, 2), (5, 1)],
        sum: checksum(&[7; 3 * PAGE]),
    };
    Manifest {
        format: FORMAT,
        taken: 1,
        machine: Still {
            lguest: "0.1.0".into(),
            view: 1,
            boot: "a boot".into(),
            processor: "a processor".into(),
            clocks: Clocks {
                counter: 1,
                moved: false,
                monotonic: 1,
                wall: 1,
            },
            settings: Settings::default(),
            built_in: true,
            ram: RAM,
            limit: machine.guest.memory().limit(),
            interface: if pci { 7 } else { 1 },
            user_processes: false,
            slow_paths: 0,
            order: Vec::new(),
            disks: Vec::new(),
            engine: EngineState::default(),
            devices: machine.bus.state(),
        },
        disks: Vec::new(),
        memory: whole(machine.guest.memory().limit().into()),
        state: whole(lg_wire::state::STATE_SIZE as u64),
        copies: whole(lg_wire::state::COPIES_SIZE as u64),
    }
}

/// Changes `text` in some places. Returns whether it has changed.
fn forge(input: &mut Input<'_>, text: &mut String) -> bool {
    let before = text.clone();
    for _ in 0..input.byte() % 6 {
        let at = input.below(u32::try_from(text.len()).unwrap_or(1)) as usize;
        // The next value.
        let Some(colon) = text[at..].find([':', '[', ',']) else {
            continue;
        };
        let begin = at + colon + 1;
        let end = text[begin..].find([',', '}', ']']);
        let end = begin + end.unwrap_or(0);
        match input.byte() % 8 {
            0 => text.truncate(begin),
            1 => drop(text.drain(begin..end)),
            2 => {
                let piece = text[begin..end].to_owned();
                text.insert_str(end, &format!(",{piece}"));
            }
            3 => text.replace_range(begin..end, &input.word().to_string()),
            _ => {
                let word = WORDS[usize::from(input.byte()) % WORDS.len()];
                text.replace_range(begin..end, word);
            }
        }
        if text.is_empty() {
            break;
        }
    }
    *text != before
}

/// Forges a snapshot and goes on from it.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let pci = input.bit();
    let manifest = good(&machine(pci), pci);
    let (text, _) = manifest.write();
    let mut text = String::from_utf8(text).expect("JSON is UTF-8");
    let forged = forge(&mut input, &mut text);
    let sum = format!("{:016x}\n", checksum(text.as_bytes()));
    let read = Manifest::read(text.as_bytes(), sum.as_bytes());
    let Ok(read) = read else {
        assert!(forged, "a good manifest was refused");
        return;
    };
    assert!(forged || read == manifest);
    let Still { ram, limit, .. } = read.machine;
    assert!(ram <= limit && read.machine.interface().is_some());
    unpack(&mut input, &read.memory);
    if ram != RAM || limit != manifest.machine.limit {
        return;
    }
    go_on(&mut input, &read, forged, pci);
}

/// Reads an image from a file that may be cut off or changed.
fn unpack(input: &mut Input<'_>, pages: &Pages) {
    let mut bytes = vec![7; 3 * PAGE];
    if input.bit() {
        bytes.truncate(input.below(20_000) as usize);
    }
    if input.bit() {
        let at = input.below(3 * 4096) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
    }
    let is_whole = checksum(&bytes) == pages.sum;
    let mut from = file(&bytes);
    from.seek(SeekFrom::Start(0)).expect("it is a file");
    let mut put = 0;
    let read = pages.unpack(&mut from, |at, piece| {
        put += piece.len() as u64;
        assert!(at + piece.len() as u64 <= pages.bytes);
        Ok(())
    });
    if read.is_ok() {
        assert!(put == pages.in_file());
        assert!(is_whole || pages.in_file() < bytes.len() as u64);
    }
}

/// A bus goes on from the states in `manifest`.
fn go_on(input: &mut Input<'_>, manifest: &Manifest, forged: bool, pci: bool) {
    let machine = machine(pci);
    let memory = machine.guest.memory();
    if forged {
        let bytes = input.bytes(4096);
        for at in (0..memory.limit()).step_by(0x2000) {
            memory.write(at, bytes).expect("it is in memory");
        }
    }
    let restored = machine.bus.restore(&manifest.machine.devices);
    if !forged {
        restored.expect("a good state was refused");
        assert_eq!(machine.bus.state(), manifest.machine.devices);
        return;
    }
    if restored.is_err() {
        return;
    }
    for _ in 0..16 {
        let device = usize::from(input.byte() % 5);
        match input.byte() % 3 {
            0 => drop(machine.bus.handle_input(device)),
            1 => {
                let page = RAM + (input.below(ABOVE) << 12);
                drop(machine.bus.notify(page));
            }
            _ => {
                let access = lguest::engine::DeviceAccess {
                    device: input.byte().into(),
                    offset: input.one_of(&[0x14, 0x16, 0x1C, 0x38]) % 4092,
                    bytes: 1 << (input.byte() % 3),
                };
                let value = input.one_of(&[0, 1, 15]);
                drop(machine.bus.write_device(access, value));
            }
        }
    }
    drop(machine.bus.state());
    drop(machine.bus.finish());
}
