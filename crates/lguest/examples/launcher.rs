//! A small Launcher, to show how the library is used.
//!
//! It boots a kernel of 2007 with a console on standard output and input, and
//! no other device. It uses memory, a loader, and the requests of the engine.
//!
//!     cargo run --example launcher -- vmlinux console=hvc0

use lg_abi::device::{DeviceDescriptor, LGUEST_DEVICE_T_CONSOLE};
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY};
use lguest::confine::{self, Plan};
use lguest::engine::{Engine, Exit, Native, Requests, Setup};
use lguest::loader::{self, Image};
use lguest::memory::GuestMemory;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::{thread, time::Duration};

const RAM: u32 = 32 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let kernel = words.next().ok_or("usage: launcher KERNEL [ARGS]...")?;
    let command_line = words.collect::<Vec<_>>().join(" ");

    // RAM, one page above it for the descriptors, and a kernel.
    let memory = GuestMemory::new(RAM, 1)?;
    let kernel = Image::File(File::open(kernel)?);
    let start = loader::load(&memory, &kernel, None, command_line.as_bytes())?;

    // A bus with one device: the console needs no page, only its type.
    let console = DeviceDescriptor {
        kind: LGUEST_DEVICE_T_CONSOLE,
        ..DeviceDescriptor::default()
    };
    memory.write_object(RAM, &console)?;

    // LHREQ_INITIALIZE. Then one thread reads the input, and this one runs the
    // Guest. Rights that are not needed any more are given up before and after
    // this request.
    let walls = Plan::default();
    let _ = confine::before_threads(&walls);
    let guest = Native::new(memory);
    guest.initialize(Setup::from(start))?;
    let _ = confine::when_ready(&walls);
    let keyboard = guest.clone();
    thread::spawn(move || type_lines(&keyboard));

    loop {
        match guest.run()? {
            Exit::SendDma { dma, key } => {
                let taken = match key {
                    LGUEST_CONSOLE_DMA_KEY => show(&guest, dma)?,
                    _ => 0,
                };
                guest.memory().write_last(dma, taken)?;
            }
            Exit::BindingsChanged
            | Exit::BuffersMayBeFree
            | Exit::Notify { .. }
            | Exit::Stopped(_)
            | Exit::WriteDevice { .. } => {}
            Exit::ReadDevice(_) => guest.answer(0),
            Exit::Held => guest.wait_until_let_go(),
            Exit::Dead(death) => {
                eprintln!("the guest has ended: {death}");
                return Ok(());
            }
        }
    }
}

/// Writes all sections of what the Guest sends. Returns the number of bytes.
fn show(guest: &Native, dma: u32) -> Result<u32, Box<dyn Error>> {
    let mut taken = 0;
    let dma: Dma = guest.memory().read_object(dma)?;
    for (addr, len) in dma.sections() {
        let mut bytes = vec![0; len.into()];
        guest.memory().read(addr, &mut bytes)?;
        io::stdout().write_all(&bytes)?;
        taken += u32::from(len);
    }
    io::stdout().flush()?;
    Ok(taken)
}

/// Gives the Guest what is typed, a byte at a time, until the input ends.
fn type_lines(guest: &Native) {
    for byte in io::stdin().lock().bytes().map_while(Result::ok) {
        // LHREQ_GETDMA, until the Guest has a buffer to spare ...
        let buffer = loop {
            match guest.get_dma(LGUEST_CONSOLE_DMA_KEY) {
                Ok(Some(buffer)) => break buffer,
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        };
        // ... then the data, its length, and LHREQ_IRQ.
        let memory = guest.memory();
        let Ok(dma) = memory.read_object::<Dma>(buffer.addr) else {
            return;
        };
        let filled = memory
            .write(dma.addr[0], &[byte])
            .and_then(|()| memory.write_last(buffer.addr, 1));
        if filled.is_err() || guest.irq(buffer.irq).is_err() {
            return;
        }
    }
}
