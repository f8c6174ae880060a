//! Registers of devices on a PCI bus, which a hostile driver writes.
//!
//! The driver reads and writes registers of any width in any order, puts its
//! queues anywhere, and writes any bytes into them. The bus answers, or reports
//! the broken rule. What a driver may not change stays: what is offered, and a
//! queue in use. A reset leaves what was there at first. A device interrupts by
//! its own number only, a read-only disk keeps its contents, and a bus made
//! from a saved state reads like the one that was saved.

use crate::input::Input;
use crate::virtio::{
    Parts, arrive, check_disk, describe, disk, exchange, is_read_only, offer,
    parts,
};
use lg_abi::gen3::registers::{
    COMMON_BYTES, DEVICE, EMERGENCY_WRITE, FEATURE_VERSION_1, NOTIFY,
    STATUS_FEATURES_OK, common,
};
use lguest::devices::port::Channel;
use lguest::engine::{DeviceAccess, Requests, Scripted};
use lguest::memory::GuestMemory;
use lguest::transport::Transport;
use lguest::transport::virtio::PciBus;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const RAM: u32 = 0x1_0000;

/// Where queues are mostly put, and how far they are apart: descriptors, what
/// is available, and what is used.
const RINGS: u32 = 0x4000;
const RING_BYTES: u32 = 0x3000;
const PARTS: [u32; 3] = [0, 0x1000, 0x2000];

/// A bus, and what its devices are connected to.
struct Machine {
    bus: PciBus,
    guest: Arc<Scripted>,
    devices: u32,
    /// What each device offers.
    offered: Vec<u64>,
    _keyboard: OwnedFd,
    far: OwnedFd,
    channel: Arc<Channel>,
}

/// Acts as a hostile driver.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = disk();
    let kinds = input.byte();
    let machine = machine(parts(&disk, kinds));
    for _ in 0..64 {
        if input.is_empty() || step(&mut input, &machine).is_err() {
            break;
        }
        if input.byte() == 0 {
            save(&machine, kinds);
        }
    }
    drop(machine.bus.finish());
    for irq in machine.guest.irqs() {
        let slots = 1..=machine.devices;
        assert!(slots.contains(&irq.into()), "{irq} is of no device");
    }
    check_disk(&disk, is_read_only(kinds));
}

/// A machine with these devices.
fn machine(parts: Parts) -> Machine {
    let memory = GuestMemory::new(RAM, 0).expect("memory can be had");
    let guest = Scripted::new(memory);
    let requests: Arc<dyn Requests> = guest.clone();
    let devices = u32::try_from(parts.devices.len()).unwrap_or(0);
    let bus = PciBus::new(&requests, parts.devices, parts.screen);
    let mut machine = Machine {
        bus: bus.expect("five devices are few"),
        guest,
        devices,
        offered: Vec::new(),
        _keyboard: parts.keyboard,
        far: parts.far,
        channel: parts.channel,
    };
    machine.offered = (0..devices).map(|n| offered(&machine, n)).collect();
    machine
}

fn at(device: u32, offset: u32, bytes: u32) -> DeviceAccess {
    DeviceAccess {
        device,
        offset,
        bytes,
    }
}

/// Reads a register of a device that exists.
fn read(machine: &Machine, device: u32, offset: u32, bytes: u32) -> u32 {
    let read = machine.bus.read_device(at(device, offset, bytes));
    let value = read.expect("the device exists");
    assert!(bytes == 4 || value >> (8 * bytes) == 0, "{value:#x}");
    value
}

/// Writes a register, if the bus lets it.
fn write(
    machine: &Machine,
    device: u32,
    offset: u32,
    bytes: u32,
    value: u32,
) -> Result<(), ()> {
    let done = machine.bus.write_device(at(device, offset, bytes), value);
    done.map(drop).map_err(|why| {
        assert!(!why.to_string().is_empty(), "a reason is a sentence");
    })
}

/// What a device offers, as its driver reads it.
fn offered(machine: &Machine, device: u32) -> u64 {
    let word = |select| {
        let at = common::DEVICE_FEATURE_SELECT;
        let _ = write(machine, device, at, 4, select);
        u64::from(read(machine, device, common::DEVICE_FEATURE, 4))
    };
    word(0) | word(1) << 32
}

/// One action of the driver. A broken rule ends the Guest.
fn step(input: &mut Input<'_>, machine: &Machine) -> Result<(), ()> {
    let device = input.below(machine.devices);
    let ring = RINGS + input.below(2) * RING_BYTES;
    match input.byte() % 12 {
        0 => describe(input, &machine.guest, ring, RAM),
        1 | 2 => offer(input, &machine.guest, ring + PARTS[1]),
        3 => {
            let at = input.below(RAM);
            let _ = machine.guest.memory().write(at, input.bytes(32));
        }
        4 => {
            arrive(input, &machine.far);
            exchange(input, &machine.channel);
        }
        5 => {
            let index = device as usize;
            machine.bus.handle_input(index).map_err(drop)?;
        }
        6 => negotiate(input, machine, device)?,
        7 => put_queue(input, machine, device)?,
        8 => {
            let queue = input.below(3);
            write(machine, device, NOTIFY, 2, queue)?;
        }
        9 => reset(machine, device)?,
        10 => {
            let (offset, bytes) = register(input);
            let _ = read(machine, device, offset, bytes);
            let stray = at(machine.devices + input.below(20), offset, bytes);
            assert!(machine.bus.read_device(stray).is_err(), "no device");
        }
        _ => change(input, machine, device)?,
    }
    Ok(())
}

/// A register, or any bytes.
fn register(input: &mut Input<'_>) -> (u32, u32) {
    let offset = input.one_of(&[
        common::DRIVER_FEATURE,
        common::DEVICE_STATUS,
        common::DEVICE_STATUS,
        common::QUEUE_SELECT,
        common::QUEUE_SIZE,
        common::QUEUE_ENABLE,
        common::QUEUE_DESC,
        common::QUEUE_DEVICE,
        COMMON_BYTES - 2,
        NOTIFY,
        DEVICE,
        DEVICE + EMERGENCY_WRITE,
    ]);
    let bytes = match offset {
        common::DEVICE_STATUS => 1,
        common::QUEUE_SELECT..common::QUEUE_DESC | NOTIFY => 2,
        _ => 4,
    };
    if input.byte() < 0xC0 {
        return (offset, bytes);
    }
    (offset % 0x1000, [1, 2, 4][input.below(3) as usize])
}

/// Writes any value to any register. What is offered, and a queue in use, does
/// not change.
fn change(
    input: &mut Input<'_>,
    machine: &Machine,
    device: u32,
) -> Result<(), ()> {
    let (offset, bytes) = register(input);
    let value = input.one_of(&[0, 1, 2, 8, 0xF, 0x80, RINGS, RAM, 256]);
    let value = value & (u32::MAX >> (32 - 8 * bytes));
    let queue = queue(machine, device);
    let used = read(machine, device, common::QUEUE_ENABLE, 2) == 1;
    write(machine, device, offset, bytes, value)?;
    let reset = read(machine, device, common::DEVICE_STATUS, 1) == 0;
    let selected = offset == common::QUEUE_SELECT && bytes == 2;
    if used && !reset && !selected {
        assert_eq!(self::queue(machine, device), queue, "it is in use");
    }
    check_features(machine, device);
    Ok(())
}

/// The registers of the queue that is selected.
fn queue(machine: &Machine, device: u32) -> Vec<u32> {
    let words = (common::QUEUE_SIZE..COMMON_BYTES).step_by(4);
    words.map(|at| read(machine, device, at, 4)).collect()
}

/// A device agrees to features that it has offered, and to the version at
/// least.
fn check_features(machine: &Machine, device: u32) {
    let select = read(machine, device, common::DRIVER_FEATURE_SELECT, 4);
    let word = |select| {
        let at = common::DRIVER_FEATURE_SELECT;
        let _ = write(machine, device, at, 4, select);
        u64::from(read(machine, device, common::DRIVER_FEATURE, 4))
    };
    let accepted = word(0) | word(1) << 32;
    let _ = word(select);
    let offered = machine.offered[device as usize];
    assert_eq!(self::offered(machine, device), offered, "it was changed");
    let status = read(machine, device, common::DEVICE_STATUS, 1);
    if status & u32::from(STATUS_FEATURES_OK) != 0 {
        assert_eq!(accepted & !offered, 0, "they were not offered");
        assert_ne!(accepted & FEATURE_VERSION_1, 0, "the version is missing");
    }
}

/// The driver agrees to some of what a device offers.
fn negotiate(
    input: &mut Input<'_>,
    machine: &Machine,
    device: u32,
) -> Result<(), ()> {
    let refused = u64::from(input.byte());
    let accepted = machine.offered[device as usize] & !refused;
    for (select, shift) in [(0, 0), (1, 32)] {
        let word = u32::try_from(accepted >> shift & 0xFFFF_FFFF);
        let at = common::DRIVER_FEATURE_SELECT;
        write(machine, device, at, 4, select)?;
        let word = word.unwrap_or(0);
        write(machine, device, common::DRIVER_FEATURE, 4, word)?;
    }
    let status = [0xB, 0xF, 0xF, 0x8F][input.below(4) as usize];
    write(machine, device, common::DEVICE_STATUS, 1, status)?;
    check_features(machine, device);
    Ok(())
}

/// The driver uses a queue, mostly one where a queue can be.
fn put_queue(
    input: &mut Input<'_>,
    machine: &Machine,
    device: u32,
) -> Result<(), ()> {
    let index = input.below(3);
    write(machine, device, common::QUEUE_SELECT, 2, index)?;
    if input.byte() >= 0x80 {
        let size = 1 << input.below(10);
        write(machine, device, common::QUEUE_SIZE, 2, size)?;
    }
    let ring = RINGS + index % 2 * RING_BYTES;
    let odd = if input.byte() == 0 { input.word() } else { 0 };
    for (part, at) in PARTS.iter().zip((common::QUEUE_DESC..).step_by(8)) {
        let address = ring.wrapping_add(*part).wrapping_add(odd);
        write(machine, device, at, 4, address)?;
    }
    write(machine, device, common::QUEUE_ENABLE, 2, 1)
}

/// The driver resets a device. It is as it was at first.
fn reset(machine: &Machine, device: u32) -> Result<(), ()> {
    write(machine, device, common::DEVICE_STATUS, 1, 0)?;
    let offered = machine.offered[device as usize];
    assert_eq!(self::offered(machine, device), offered);
    for at in [
        common::DRIVER_FEATURE,
        common::DEVICE_STATUS - 4,
        common::QUEUE_DESC,
        common::QUEUE_DRIVER,
        common::QUEUE_DEVICE,
    ] {
        let expected = match at {
            0x10 => read(machine, device, common::NUM_QUEUES, 2) << 16 | 0xFFFF,
            _ => 0,
        };
        assert_eq!(read(machine, device, at, 4), expected, "{at:#x}");
    }
    assert_eq!(read(machine, device, common::DEVICE_STATUS, 1), 0);
    assert_eq!(read(machine, device, common::QUEUE_ENABLE, 2), 0);
    Ok(())
}

/// A bus is saved, and another one made from its state.
fn save(machine: &Machine, kinds: u8) {
    let state = machine.bus.state();
    let disk = disk();
    let other = self::machine(parts(&disk, kinds));
    other.bus.restore(&state).expect("it was saved just now");
    assert!(other.bus.state() == state, "it is saved the same again");
    for device in 0..machine.devices {
        for at in (0..DEVICE + 32).step_by(4) {
            let word = read(machine, device, at, 4);
            assert_eq!(read(&other, device, at, 4), word, "{at:#x}");
        }
    }
}
