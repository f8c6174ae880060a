//! Bytes of a console, both ways, between its files and a Guest's memory.

use super::*;
use crate::devices::console::Config;
use crate::devices::scripted;
use crate::engine::Scripted;
use proptest::prelude::*;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a busy machine may take until a process that another test has
/// forked has closed what it inherited.
const PATIENCE: Duration = Duration::from_secs(60);

const DMA: u32 = 0x3000;
const BUFFER: u32 = 0x4000;

const NOTHING_TAKEN: Readiness = Readiness::NoBuffer {
    took: false,
    watch: false,
};

fn console() -> (Arc<Scripted>, KeyedConsole, OwnedFd, OwnedFd) {
    let (shown, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (host, console, typed) = console_with(output);
    (host, console, typed, shown)
}

fn console_with(output: OwnedFd) -> (Arc<Scripted>, KeyedConsole, OwnedFd) {
    let host = scripted();
    let (input, typed) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut console = KeyedConsole::new(Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    }));
    let place = Place {
        index: 0,
        page: 0,
        irq: 1,
    };
    console.place(host.clone(), place).unwrap();
    (host, console, typed)
}

/// Does what the bus does.
fn send(console: &mut KeyedConsole) -> Result<u32, Violation> {
    let sent = console.send(DMA, 0)?;
    sent.rest.unwrap()();
    Ok(sent.bytes)
}

fn bind_sixty_four_bytes(host: &Scripted) {
    host.put_dma(DMA, &[(BUFFER, 60), (BUFFER + 100, 4)]);
    host.bind(0, DMA, 5);
}

#[test]
fn output_is_every_section_in_order() {
    let (host, mut console, _typed, shown) = console();
    host.memory().write(0x2000, b"hello ").unwrap();
    host.memory().write(0x5FFC, b"abyz").unwrap();
    host.put_dma(DMA, &[(0x2000, 6), (0x5FFC, 4)]);
    assert_eq!(send(&mut console), Ok(10));
    let mut got = [0; 20];
    assert_eq!(rustix::io::read(&shown, &mut got), Ok(10));
    assert_eq!(&got[..10], b"hello abyz");
}

#[test]
fn output_from_nowhere_or_across_pages_is_a_violation() {
    let (host, mut console, _typed, _shown) = console();
    host.put_dma(DMA, &[(0x1_2FFC, 5)]);
    let error = send(&mut console).unwrap_err().to_string();
    let rule = "it must lie inside one page below 0x13000";
    assert_eq!(error, format!("bad dma section 0x12ffc+0x5: {rule}"));
    host.put_dma(DMA, &[(0x1_3000, 1)]);
    let error = send(&mut console).unwrap_err().to_string();
    assert_eq!(error, format!("bad dma section 0x13000+0x1: {rule}"));
}

/// How many bytes had no reader.
fn discarded(console: &mut KeyedConsole) -> u64 {
    let counters = console.device().counters();
    let found = counters.iter().find(|(name, _)| *name == "bytes_discarded");
    found.unwrap().1
}

#[test]
fn output_without_a_reader_is_taken_and_lost() {
    let (host, mut console, _typed, shown) = console();
    drop(shown);
    host.put_dma(DMA, &[(0x2000, 6)]);
    // A process that another test has just forked may read for a moment.
    let mut lost = 0;
    let deadline = Instant::now() + PATIENCE;
    while lost == 0 {
        assert!(Instant::now() < deadline, "output is not lost");
        assert_eq!(send(&mut console), Ok(6));
        lost = discarded(&mut console);
    }
    assert_eq!(send(&mut console), Ok(6));
    assert_eq!((lost, discarded(&mut console)), (6, 12));
}

#[test]
fn a_full_pipe_that_does_not_block_is_waited_for() {
    let (shown, output) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let (host, mut console, _typed) = console_with(output);
    let sixteen: Vec<_> = (0..16).map(|_| (0x2000, 4096)).collect();
    host.put_dma(DMA, &sixteen);
    let reader = std::thread::spawn(move || {
        let (mut all, mut part) = (0, [0; 4096]);
        while all < 3 * 65536 {
            match rustix::io::read(&shown, &mut part) {
                Ok(n) => all += n,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    for _ in 0..3 {
        assert_eq!(send(&mut console), Ok(65536));
    }
    reader.join().unwrap();
}

#[test]
fn input_goes_into_the_bound_buffer_and_raises_its_interrupt() {
    let (host, mut console, typed, _shown) = console();
    bind_sixty_four_bytes(&host);
    let line = [b'x'; 62];
    rustix::io::write(&typed, &line).unwrap();
    assert_eq!(console.handle_input(), Ok(Readiness::Wait));
    assert_eq!(host.wait_irq(), Some(5));
    assert_eq!(host.word(DMA), 62);
    assert_eq!(host.bytes(BUFFER, 61)[59..], [b'x', 0]);
    assert_eq!(host.bytes(BUFFER + 100, 3), [b'x', b'x', 0]);
    assert_eq!(console.handle_input(), Ok(Readiness::Wait));
    assert!(host.irqs().is_empty());
}

#[test]
fn the_host_learns_which_pages_input_was_written_to() {
    let (host, mut console, typed, _shown) = console();
    bind_sixty_four_bytes(&host);
    let (sender, noted) = std::sync::mpsc::channel();
    host.memory()
        .note_writes(move |piece| sender.send(piece).unwrap());
    rustix::io::write(&typed, b"x").unwrap();
    assert_eq!(console.handle_input(), Ok(Readiness::Wait));
    let pieces: Vec<_> = noted
        .try_iter()
        .map(|piece| (piece.addr(), piece.len()))
        .collect();
    assert_eq!(pieces, [(BUFFER, 60), (BUFFER + 100, 4), (DMA, 4)]);
}

#[test]
fn input_without_a_buffer_waits_and_is_not_lost() {
    let (host, mut console, typed, _shown) = console();
    rustix::io::write(&typed, b"early").unwrap();
    assert_eq!(console.handle_input(), Ok(NOTHING_TAKEN));
    drop(typed);
    bind_sixty_four_bytes(&host);
    // A process that another test has just forked may type for a moment.
    let deadline = Instant::now() + PATIENCE;
    while console.handle_input() == Ok(Readiness::Wait) {
        assert!(Instant::now() < deadline, "the end is not noticed");
        std::thread::yield_now();
    }
    assert_eq!(console.handle_input(), Ok(Readiness::Closed));
    assert_eq!(host.bytes(BUFFER, 5), b"early");
}

proptest! {
    // In pieces of any size, and with any buffers, the Guest gets the same
    // bytes in the same order.
    #[test]
    fn no_byte_is_lost_or_doubled(
        typed in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..200), 1..10,
        ),
        lens in proptest::collection::vec(1_u16..90, 1..5),
    ) {
        let (host, mut console, keyboard, _shown) = console();
        let mut got = Vec::new();
        let mut lens = lens.iter().cycle();
        let mut take = |host: &Scripted, console: &mut KeyedConsole| {
            let used = host.word(DMA) as usize;
            got.extend(host.bytes(BUFFER, used));
            host.put_dma(DMA, &[(BUFFER, *lens.next().unwrap())]);
            host.bind(0, DMA, 1);
            console.handle_input().unwrap()
        };
        for bytes in &typed {
            rustix::io::write(&keyboard, bytes).unwrap();
            take(&host, &mut console);
        }
        drop(keyboard);
        while take(&host, &mut console) != Readiness::Closed {}
        take(&host, &mut console);
        prop_assert_eq!(got, typed.concat());
    }
}
