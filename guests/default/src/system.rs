//! Commands about the system itself.
//!
//! They show facts about the Guest and its machine. Only the two that end the
//! Guest change anything.

use crate::Milliseconds;
use crate::machine::Machine;
use crate::programs::{self, Program};
use crate::shell::{COMMANDS, Failure, number};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lg_abi::boot::E820_RAM;
use lg_abi::page::PAGE_SHIFT;
use lg_guest::bus::{Device, Kind};
use lg_guest::user::End;
use lg_guest::{frame, heap, irq, print, println, shared, task, time, trap};

pub(crate) fn help() {
    for (name, arguments, text) in COMMANDS {
        println!("  {:28} {text}", format!("{name} {arguments}"));
    }
}

/// The memory, in a line.
pub(crate) fn memory_line(machine: &Machine) -> String {
    let boot = machine.boot;
    let initrd = match boot.initrd {
        Some((start, size)) => {
            format!(", initrd {} KiB at {:#x}", size >> 10, start.0)
        }
        None => String::new(),
    };
    format!(
        "memory: {} MiB, image {} KiB{initrd}",
        boot.memory >> 20,
        boot.image >> 10
    )
}

/// The clock, in a line.
pub(crate) fn clock_line() -> String {
    match shared::tsc_khz() {
        0 => "clock: the Host's, in steps".into(),
        khz => format!(
            "clock: time-stamp counter, {}.{:03} MHz",
            khz / 1000,
            khz % 1000
        ),
    }
}

/// The devices, a line each.
pub(crate) fn device_lines(machine: &Machine) -> Vec<String> {
    let mut disks = machine.disks.iter();
    let line = |device: &Device| {
        let about = match device.kind() {
            Kind::Block => disks.next().map_or_else(String::new, |disk| {
                format!(", {} KiB", disk.sectors() / 2)
            }),
            Kind::Net => match machine.network {
                Some(stack) if stack.is(device) => format!(", {stack}"),
                _ => String::new(),
            },
            _ => String::new(),
        };
        let (index, irq) = (device.index(), device.irq());
        format!("device {index}: {}, irq {irq}{about}", device.kind().name())
    };
    machine.devices.iter().map(line).collect()
}

pub(crate) fn devices(machine: &Machine) {
    println!("  nr type     irq  interrupts  features  status  pages");
    for device in &machine.devices {
        println!(
            "  {:2} {:8} {:3}  {:10}  {:#06x}    {:#04x}    {} at pfn {:#x}",
            device.index(),
            device.kind().name(),
            device.irq(),
            irq::count(device.irq()),
            device.features(),
            device.status(),
            device.num_pages(),
            device.phys().0 >> PAGE_SHIFT
        );
    }
    println!("  timer        0  {:10}", irq::count(irq::TIMER));
}

pub(crate) fn memory(machine: &Machine) {
    println!("{}", memory_line(machine));
    for entry in machine.boot.map.iter().flatten() {
        let kind = match entry.kind {
            E820_RAM => "usable",
            _ => "reserved",
        };
        println!(
            "  map: {:#010x} + {:#010x} {kind}",
            entry.addr[0], entry.size[0]
        );
    }
    let (used, free) = heap::usage();
    println!("  heap: {} KiB used, {} KiB free", used >> 10, free >> 10);
    println!("  frames: {} KiB free", frame::available() << 2);
    println!("  not ours: the top {} MiB", shared::reserve_mem() >> 20);
}

pub(crate) fn tasks() {
    println!("  turns       task");
    for task in task::all() {
        println!("  {:10}  {}", task.polls, task.name);
    }
}

pub(crate) fn uptime() {
    let wall = time::wall() / time::SECOND % 86_400;
    println!(
        "up {} ms; it is {:02}:{:02}:{:02} UTC; {} timer interrupts",
        Milliseconds(time::now()),
        wall / 3600,
        wall / 60 % 60,
        wall % 60,
        irq::count(irq::TIMER)
    );
}

pub(crate) fn peek(address: &str) -> Result<(), Failure> {
    let address: u32 = number(address)?;
    // The Host ends a Guest that reads the Switcher's addresses.
    if address >= lg_abi::page::SWITCHER_ADDR {
        return Err("that address belongs to the Switcher".into());
    }
    match trap::probe(address) {
        Some(byte) => println!("{address:#010x}: {byte:#04x}"),
        None => println!("{address:#010x}: page fault"),
    }
    Ok(())
}

/// Prints 16 random bytes of the device, in hexadecimal.
pub(crate) async fn random(machine: &Machine) -> Result<(), Failure> {
    let Some(random) = &machine.random else {
        return Err("no device for random numbers".into());
    };
    for word in 0..4 {
        let mut bytes = [0; 4];
        random.fill(&mut bytes).await;
        let separator = if word == 0 { "  " } else { "" };
        print!("{separator}{:08x}", u32::from_be_bytes(bytes));
    }
    println!();
    Ok(())
}

pub(crate) fn power_off(code: &[&str]) -> Result<(), Failure> {
    match code {
        [] => lg_guest::power::off(0),
        [code, ..] => lg_guest::power::off(number(code)?),
    }
}

pub(crate) async fn run(words: &[&str]) -> Result<(), Failure> {
    const ALL: [Program; 7] = [
        Program::Primes,
        Program::Stack,
        Program::Calls,
        Program::Yields,
        Program::Sleeper,
        Program::Talker,
        Program::Trespasser,
    ];
    let (name, argument) = match words {
        [] => {
            let names: Vec<_> = ALL.iter().map(|p| p.name()).collect();
            println!("{}", names.join(" "));
            return Ok(());
        }
        [name] => (name, 1),
        [name, argument, ..] => (name, number(argument)?),
    };
    let Some(&program) = ALL.iter().find(|p| p.name() == *name) else {
        return Err("no such program".into());
    };
    let result = programs::run(program, argument).await;
    match result.end {
        End::Exit(code) => println!("result {code}"),
        End::Trap {
            vector,
            eip,
            address,
        } => println!("trap {vector} at {eip:#x}, address {address:#x}"),
        End::OutOfMemory => println!("out of memory"),
    }
    println!(
        "{} system calls, {} pages on demand, {} interrupts, {} ms",
        result.counts.calls,
        result.counts.faults,
        result.counts.interrupts,
        Milliseconds(result.nanoseconds)
    );
    Ok(())
}
