//! The PCI bus, as a hostile driver uses it.
//!
//! The Guest's kernel reads and writes ports of every width, moves the ranges
//! of devices to memory, over each other and away, and maps their pages with
//! any rights. Its code and its programs access these pages with instructions
//! of every form, and interrupts arrive meanwhile. A model says what each port
//! reads as and which registers the Launcher is asked for ([`model`]); another
//! decoder says what an instruction does ([`access`]). Nothing of a device is
//! ever mapped.

mod access;
mod code;
mod model;

use crate::input::Input;
use crate::machine::{
    CODE, DATA, DIRECTORY, LIMIT, Machine, PAGE_OFFSET, with_devices,
};
use code::{PAGE, PAGES, fault, handler, place};
use lg_abi::call::CallName;
use lg_abi::gen2::device::{TYPE_BLOCK, TYPE_CONSOLE, TYPE_NET, TYPE_RANDOM};
use lg_abi::gen3::pci::{Device, ENABLE, MAX_DEVICES, offset};
use lg_abi::page::{Format, PAGE_SHIFT, PAGE_SIZE};
use lg_abi::shared::offset as shared;
use lg_host::host::Event;
use lg_host::kill::Kill;
use model::Model;
use std::sync::atomic::Ordering;

/// Steps that one input may take.
const MAX_STEPS: u32 = 300;

/// Makes steps until the input ends or the Guest dies.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let format = match input.bit() {
        false => Format::TwoLevels,
        true => Format::Pae,
    };
    let devices = devices(&mut input);
    with_devices(format, input.bit(), &devices, |machine| {
        if set_up(machine).is_err() {
            return;
        }
        let mut model = Model::new(&devices, LIMIT + (1 << 20));
        for _ in 0..MAX_STEPS {
            if input.is_empty()
                || step(machine, &mut model, &mut input).is_err()
            {
                return;
            }
            check(machine);
        }
    });
}

/// Devices as a Launcher has them, and others.
fn devices(input: &mut Input<'_>) -> Vec<Device> {
    const REAL: [(u8, u8); 4] = [
        (TYPE_CONSOLE, 12),
        (TYPE_RANDOM, 0),
        (TYPE_BLOCK, 16),
        (TYPE_NET, 6),
    ];
    let count = 1 + input.below(5);
    let count = if input.byte() == 0 {
        MAX_DEVICES
    } else {
        count as usize
    };
    let devices = (0..count).map(|n| {
        let (kind, config_bytes) = match input.byte() {
            0..64 => (input.byte(), input.byte()),
            _ => REAL[n % REAL.len()],
        };
        Device { kind, config_bytes }
    });
    devices.collect()
}

/// All vectors have handlers, and programs have a page of code.
fn set_up(machine: &mut Machine<'_>) -> Result<(), Kill> {
    for vector in 0..48 {
        let gate = [
            vector,
            0x0061_0000 | handler(vector) & 0xFFFF,
            handler(vector) & 0xFFFF_0000 | 0xEE00,
            0,
        ];
        machine.say(CallName::LoadIdtEntry, gate, false)?;
    }
    let at = machine.entry_at(DIRECTORY, CODE);
    machine.set_word(at, CODE | 0x67);
    machine.set_word(DATA + shared::BLOCKED_INTERRUPTS, u32::MAX);
    Ok(())
}

fn step(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    match input.byte() % 8 {
        0 => port(machine, model, input),
        1 => configure(machine, model, input),
        2 => map(machine, input),
        3 => interrupt(machine, model, input),
        _ => access::access(machine, model, input),
    }
}

/// A port is read or written.
fn port(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let port = input.one_of(&[0xCF8, 0xCF9, 0xCFA, 0xCFB, 0xCFC, 0xCFC, 0xCFE]);
    let port = if input.byte() == 0 {
        [0x42, 0x64, 0x61, 0xCF4][input.below(4) as usize]
    } else {
        port & 0xFFFF
    };
    let value = number(machine, input);
    say_to_port(machine, model, input, [port, value])
}

/// A word of a configuration space is selected, and read or written.
fn configure(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let word = input.one_of(&[
        offset::IDS,
        offset::COMMAND,
        offset::HEADER,
        offset::BAR_0,
        offset::BAR_0,
        offset::INTERRUPT,
        offset::WINDOW_BAR,
        offset::WINDOW_OFFSET,
        offset::WINDOW_LENGTH,
        offset::WINDOW_DATA,
        offset::WINDOW_DATA,
    ]);
    let slot = input.below(6);
    let address = ENABLE | slot << 11 | word & 0xFF;
    place(machine, false, 0);
    let regs = &machine.vm.regs;
    regs.edx.set(0xCF8);
    regs.eax.set(address);
    machine.write(CODE, &[0xEF]);
    protection_fault(machine)?;
    model.write_port(0xCF8, 4, address);
    let port = 0xCFC + [0, 0, 0, 1, 2, 3][input.below(6) as usize];
    let value = number(machine, input);
    say_to_port(machine, model, input, [port, value])
}

/// An instruction accesses `port`. A program may not.
fn say_to_port(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
    [port, value]: [u32; 2],
) -> Result<(), Kill> {
    let user = input.byte() == 0;
    let wide = input.bit();
    let half = input.bit();
    let read = input.bit();
    let immediate = port < 0x100 && input.bit();
    let bytes = match (wide, half) {
        (false, _) => 1,
        (true, true) => 2,
        (true, false) => 4,
    };
    let mut code = Vec::new();
    if half {
        code.push(0x66);
    }
    let direction = if read { 0 } else { 2 };
    let form = if immediate { 0xE4 } else { 0xEC };
    code.push(form + direction + u8::from(wide));
    if let (true, Ok(port)) = (immediate, u8::try_from(port)) {
        code.push(port);
    }
    let eip = place(machine, user, 0);
    machine.write(CODE, &code);
    let regs = &machine.vm.regs;
    regs.edx.set(port);
    regs.eax.set(value);
    protection_fault(machine)?;
    let asked = machine.device_requests();
    if user {
        assert_eq!(regs.eip.get(), handler(13), "a program has no ports");
        assert_eq!(asked, []);
        return Ok(());
    }
    let length = u32::try_from(code.len()).unwrap_or(0);
    assert_eq!(regs.eip.get(), eip + length, "{code:x?}");
    let (answer, expected) = if read {
        model.read_port(port, bytes)
    } else {
        (value, model.write_port(port, bytes, value))
    };
    let mask = model::mask(bytes);
    let eax = value & !mask | answer & mask;
    assert_eq!(regs.eax.get(), eax, "port {port:#x}, {bytes} bytes");
    assert_eq!(asked, expected.as_slice(), "port {port:#x}, {bytes} bytes");
    Ok(())
}

fn protection_fault(machine: &mut Machine<'_>) -> Result<(), Kill> {
    fault(machine, 13, 0, 0)
}

/// A number with a meaning for a bus.
fn number(machine: &Machine<'_>, input: &mut Input<'_>) -> u32 {
    let first = LIMIT + (1 << 20);
    input.one_of(&[
        0,
        1,
        2,
        4,
        6,
        0x38,
        0x3A,
        0x3C,
        u32::MAX,
        first,
        first + PAGE_SIZE,
        first + 2 * PAGE_SIZE,
        machine.device_limit - PAGE_SIZE,
        machine.device_limit,
        LIMIT,
        LIMIT - PAGE_SIZE,
        CODE,
        ENABLE,
        ENABLE | 1 << 11 | offset::BAR_0,
        ENABLE | 2 << 11 | offset::WINDOW_DATA,
    ])
}

/// The Guest maps a page of a device, or other memory, and reports it.
fn map(machine: &mut Machine<'_>, input: &mut Input<'_>) -> Result<(), Kill> {
    let first = LIMIT + (1 << 20);
    let frame = match input.byte() {
        0 => input.word(),
        1..4 => input.below(machine.device_limit),
        4..32 => input.below(LIMIT),
        32..64 => LIMIT + input.below(machine.device_limit - LIMIT),
        n => first + u32::from(n) % 5 * PAGE_SIZE,
    };
    let rights =
        [0x67, 0x63, 0x7B, 0x61, 0x65, 0x03, 0x73, 0][input.below(8) as usize];
    let entry = frame & !(PAGE_SIZE - 1) | rights;
    let base = if input.bit() { PAGE_OFFSET } else { 0 };
    let va = base + ((PAGE + input.below(PAGES)) << PAGE_SHIFT);
    machine.set_word(machine.entry_at(DIRECTORY, va), entry);
    place(machine, false, 0x100);
    let by_ring = input.bit();
    machine.say(CallName::SetPte, [DIRECTORY, va, entry, 0], by_ring)
}

/// A device interrupts, or the Guest lets interrupts in.
fn interrupt(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let vm = machine.vm;
    let eip = place(machine, false, 0x80);
    if input.bit() {
        let irqs = 1 << (1 + input.below(15));
        vm.wire.irqs.fetch_or(irqs, Ordering::SeqCst);
        model.waiting |= irqs;
    } else {
        machine.set_word(DATA + shared::BLOCKED_INTERRUPTS, 0);
        machine.set_word(DATA + shared::IRQ_ENABLED, 0x200);
    }
    vm.wire.kick.fetch_add(1, Ordering::SeqCst);
    machine.step(Event::Kick)?;
    machine.set_word(DATA + shared::BLOCKED_INTERRUPTS, u32::MAX);
    let waiting = vm.wire.irqs.load(Ordering::SeqCst);
    let delivered = model.waiting & !waiting;
    assert_eq!(waiting & !model.waiting, 0, "from nowhere");
    assert!(delivered.count_ones() <= 1, "one handler runs");
    let expected = match delivered {
        0 => eip,
        one => handler(32 + one.trailing_zeros()),
    };
    assert_eq!(vm.regs.eip.get(), expected);
    model.waiting = waiting;
    model.delivered |= delivered;
    Ok(())
}

/// Nothing is mapped where the tables name a device.
fn check(machine: &Machine<'_>) {
    let mapper = machine.mappers[machine.current].borrow();
    for &page in mapper.pages.keys() {
        let va = page << PAGE_SHIFT;
        let entry = crate::tables::walk(machine, va);
        let entry = entry.expect("mapped, but not present");
        assert!(entry & !0xFFF < LIMIT, "{va:#x} is of a device");
    }
}
