//! A driver's view of the bus.

use super::*;
use crate::testing::Machine;
use lg_abi::gen2::device::{TYPE_CONSOLE, TYPE_RANDOM};
use lg_abi::gen3::registers;
use lg_abi::known::Known;
use lg_wire::moved::Moved;
use lg_wire::spawn::MAX_SHARED_PAGES;

/// Where the console's range of memory is.
pub(crate) const BAR: u32 = first_place(Machine::RAM, 0);

/// What the Launcher says of a Guest with a console and a source of random
/// numbers.
pub(crate) fn setup() -> ViewSetup {
    let mut devices = [0; MAX_DEVICES];
    devices[0] = Device {
        kind: TYPE_CONSOLE,
        config_bytes: registers::CONSOLE_BYTES,
    }
    .word();
    devices[1] = Device {
        kind: TYPE_RANDOM,
        config_bytes: 0,
    }
    .word();
    ViewSetup {
        limit: Machine::RAM,
        shared_pages: 0,
        disks: 0,
        shared_pfns: [0; MAX_SHARED_PAGES],
        resumed: 0,
        moved: Moved::default(),
        user_processes: 0,
        slow_paths: 0,
        guestid: 0,
        page_offset: 0xC000_0000,
        paging: 0,
        pgdir: Machine::CR3,
        interface: Known::Linux4_1 as u32,
        boot_parameters: 0,
        start: 0,
        device_count: 2,
        devices,
        trace_records: 0,
    }
}

/// A Guest with a console and a source of random numbers.
pub(crate) fn machine() -> Machine {
    let mut m = Machine::new();
    m.vm.pci.begin(&setup());
    m.device_limit = Pci::end(&setup());
    m
}

/// An address for the address register.
fn space(slot: u32, at: u32) -> u32 {
    ENABLE | slot << 11 | at
}

fn read(m: &mut Machine, slot: u32, at: u32, bytes: u32) -> u32 {
    let mut host = m.host();
    let word = space(slot, at & !3);
    host.write_pci_port(ADDRESS_PORT, 4, word).unwrap();
    let port = DATA_PORT + (at & 3);
    let read = host.read_pci_port(port, bytes).unwrap().unwrap();
    read & mask(bytes)
}

fn write(m: &mut Machine, slot: u32, at: u32, bytes: u32, value: u32) {
    let mut host = m.host();
    let word = space(slot, at & !3);
    host.write_pci_port(ADDRESS_PORT, 4, word).unwrap();
    let port = DATA_PORT + (at & 3);
    assert!(host.write_pci_port(port, bytes, value).unwrap());
}

#[test]
fn linux_finds_mechanism_1() {
    let mut m = machine();
    let mut host = m.host();
    host.write_pci_port(ADDRESS_PORT + 3, 1, 1).unwrap();
    host.write_pci_port(ADDRESS_PORT, 4, ENABLE).unwrap();
    let word = host.read_pci_port(ADDRESS_PORT, 4).unwrap();
    assert_eq!(word, Some(ENABLE));
    assert_eq!(read(&mut m, 0, 0x0A, 2), 0x0600);
    assert_eq!(read(&mut m, 0, 0, 4), 0, "no device is there");
}

#[test]
fn devices_are_in_their_slots_and_nothing_is_elsewhere() {
    let mut m = machine();
    assert_eq!(read(&mut m, 1, 0, 4), 0x1043_1AF4);
    assert_eq!(read(&mut m, 1, 2, 2), 0x1043);
    assert_eq!(read(&mut m, 2, 0, 4), 0x1044_1AF4);
    assert_eq!(read(&mut m, 2, offset::INTERRUPT, 1), 2);
    assert_eq!(read(&mut m, 3, 0, 4), u32::MAX);
    assert_eq!(read(&mut m, 1, 0x98, 4), u32::MAX);
    let mut host = m.host();
    for address in [
        0,                     // not enabled
        space(1, 0) | 1 << 8,  // function 1
        space(1, 0) | 1 << 16, // bus 1
    ] {
        host.write_pci_port(ADDRESS_PORT, 4, address).unwrap();
        let value = host.read_pci_port(DATA_PORT, 4).unwrap();
        assert_eq!(value, Some(u32::MAX), "{address:x}");
        assert!(host.write_pci_port(DATA_PORT, 4, 0).unwrap());
    }
    assert_eq!(host.read_pci_port(0x80, 1), Ok(None));
    assert_eq!(host.read_pci_port(ADDRESS_PORT + 2, 4), Ok(None));
    assert_eq!(host.read_pci_port(DATA_PORT + 3, 2), Ok(None));
}

#[test]
fn a_range_says_its_size_and_can_be_moved() {
    let mut m = machine();
    assert_eq!(read(&mut m, 1, offset::BAR_0, 4), BAR);
    write(&mut m, 1, offset::BAR_0, 4, u32::MAX);
    assert_eq!(read(&mut m, 1, offset::BAR_0, 4), !(128 - 1));
    write(&mut m, 1, offset::BAR_0, 4, BAR + 0x1000 * 7);
    for at in (offset::BAR_0 + 4..=offset::BAR_5).step_by(4) {
        write(&mut m, 1, at, 4, u32::MAX);
        assert_eq!(read(&mut m, 1, at, 4), 0, "there is no other range");
    }
    m.world.device_value = 0xAB;
    let mut host = m.host();
    assert_eq!(host.read_device(GuestPhys(BAR + 4), 4), Ok(u32::MAX));
    assert_eq!(host.read_device(GuestPhys(BAR + 0x7004), 4), Ok(0xAB));
    assert_eq!(m.world.device_accesses, [(0, 4, 4, None)]);
}

#[test]
fn only_what_a_driver_may_write_changes() {
    let mut m = machine();
    for at in (0..WORDS * 4).step_by(4) {
        let at = as_word(at);
        if at != offset::WINDOW_DATA {
            write(&mut m, 2, at, 4, u32::MAX);
        }
    }
    let device = Device::from_word(setup().devices[1]);
    for (n, word) in device.space(2, BAR + 0x1000).into_iter().enumerate() {
        let at = as_word(n) * 4;
        let changes = match at {
            offset::COMMAND => COMMAND_BITS,
            offset::HEADER => 0xFFFF,
            offset::BAR_0 => !63,
            offset::INTERRUPT | offset::WINDOW_BAR => 0xFF,
            offset::WINDOW_OFFSET | offset::WINDOW_LENGTH => u32::MAX,
            offset::WINDOW_DATA => continue,
            _ => 0,
        };
        assert_eq!(read(&mut m, 2, at, 4), word | changes, "{at:#x}");
    }
}

#[test]
fn the_window_shows_registers_and_takes_characters() {
    let mut m = machine();
    m.world.device_value = 7;
    write(&mut m, 1, offset::WINDOW_LENGTH, 4, 1);
    write(&mut m, 1, offset::WINDOW_OFFSET, 4, 0x14);
    assert_eq!(read(&mut m, 1, offset::WINDOW_DATA, 4), 7);
    let at = registers::DEVICE + registers::EMERGENCY_WRITE;
    write(&mut m, 1, offset::WINDOW_LENGTH, 4, 4);
    write(&mut m, 1, offset::WINDOW_OFFSET, 4, at);
    write(&mut m, 1, offset::WINDOW_DATA, 4, b'x'.into());
    let done = &mut m.world.device_accesses;
    let expected = [(0, 0x14, 1, None), (0, at, 4, Some(b'x'.into()))];
    assert_eq!(done[..], expected);
    done.clear();
    for (bar, at, bytes) in
        [(1, 0, 4), (0, 2, 4), (0, 0, 3), (0, 0, 0), (0, 128, 4)]
    {
        write(&mut m, 1, offset::WINDOW_BAR, 1, bar);
        write(&mut m, 1, offset::WINDOW_OFFSET, 4, at);
        write(&mut m, 1, offset::WINDOW_LENGTH, 4, bytes);
        write(&mut m, 1, offset::WINDOW_DATA, 4, 1);
        read(&mut m, 1, offset::WINDOW_DATA, 4);
    }
    assert_eq!(m.world.device_accesses, [], "they are no windows");
}

#[test]
fn the_reason_of_an_interrupt_is_read_once() {
    let mut m = machine();
    let isr = |m: &mut Machine, page| {
        let at = GuestPhys(BAR + page * PAGE_SIZE + ISR);
        m.host().read_device(at, 1).unwrap()
    };
    assert_eq!(isr(&mut m, 0), 0);
    m.vm.pci.note_delivered(2);
    assert_eq!(isr(&mut m, 0), 0, "it was the other device");
    assert_eq!(isr(&mut m, 1), ISR_QUEUE);
    assert_eq!(isr(&mut m, 1), 0);
    // One that waits is a reason, too, and stays one until it is delivered.
    m.vm.raise(1);
    assert_eq!(isr(&mut m, 0), ISR_QUEUE);
    // A change of registers is told once.
    m.vm.wire.config_changes.store(1 << 2, Ordering::SeqCst);
    assert_eq!(isr(&mut m, 0), ISR_QUEUE);
    m.vm.pci.note_delivered(2);
    assert_eq!(isr(&mut m, 1), ISR_QUEUE | ISR_CONFIG);
    assert_eq!(isr(&mut m, 1), 0);
    assert_eq!(m.world.device_accesses, []);
}

#[test]
fn linux_measures_no_time_and_sees_no_keyboard() {
    let mut m = machine();
    let mut host = m.host();
    for (port, value) in [(0x42, 0), (0x61, 0xFF), (0x64, 1), (0x80, 0xFF)] {
        host.vm.regs.edx.set(port);
        assert_eq!(host.port_io(&[0xEC]), Ok(true));
        assert_eq!(host.vm.regs.eax.get() & 0xFF, value, "{port:#x}");
    }
}
