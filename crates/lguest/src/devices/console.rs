//! The console: the Guest's lines go to standard output, ours come in.
//!
//! It has no page, only key 0. Going out, everything is written before the
//! Guest goes on: what a dying Guest said last has been said. Coming in, bytes
//! wait here until the Guest has a free buffer for them, so that nothing is
//! lost however fast somebody pastes; while many wait nothing more is read,
//! and the sender has to wait, too. The two directions have nothing to do with
//! each other: output that nobody takes must not keep ^C^C^C from coming in.

mod log;
pub use log::Log;

mod screen;
pub use screen::{Kind, Screen};

use super::{AT_ONCE, Description, Device, Place, Readiness};
use super::{Requests, Violation, sections, total};
use crate::engine::BoundDma;
use lg_abi::device::LGUEST_DEVICE_T_CONSOLE;
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a console is connected to.
pub struct Config {
    /// Where typed bytes come from.
    pub input: OwnedFd,
    /// Where the Guest's lines go.
    pub output: OwnedFd,
    /// Where they go as well.
    pub log: Option<Log>,
    /// An event to raise when the input has ended and the Guest has all of it.
    pub at_end: Option<OwnedFd>,
}

/// The console of a Guest.
pub struct Console {
    input: OwnedFd,
    at_end: Option<OwnedFd>,
    screen: Arc<Screen>,
    /// What the Guest has sent and nobody has shown yet.
    to_show: Vec<u8>,
    guest: Option<Arc<dyn Requests>>,
    /// Bytes that were read and not taken by the Guest yet.
    waiting: Vec<u8>,
    /// When the last ^Cs came; see [`Console::wants_out`].
    interrupts: Vec<Instant>,
    /// The input is one.
    is_terminal: bool,
    /// There is no more input.
    ended: bool,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    bytes_in: u64,
    bytes_dropped: u64,
    writes: u64,
    buffers_filled: u64,
    no_buffer: u64,
}

/// The most that is read at a time: as much as a terminal keeps.
const READ_MAX: usize = 4096;

/// What ^C sends in raw mode.
const INTERRUPT: u8 = 3;

/// So many of them ...
const INTERRUPTS: usize = 3;

/// ... within this time end the Launcher.
const INTERRUPT_TIME: Duration = Duration::from_secs(1);

/// The most that is kept for a Guest that takes nothing. On a terminal we go
/// on reading all the same, or nobody could type ^C at such a Guest.
const WAITING_MAX: usize = 1 << 16;

impl Console {
    /// A console between these two.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let is_terminal = rustix::termios::isatty(&config.input);
        Self {
            input: config.input,
            at_end: config.at_end,
            screen: Arc::new(Screen::new(config.output, config.log)),
            to_show: Vec::new(),
            guest: None,
            waiting: Vec::new(),
            interrupts: Vec::new(),
            is_terminal,
            ended: false,
            counters: Counters::default(),
        }
    }

    /// What shows the Guest's output.
    #[must_use]
    pub fn screen(&self) -> Arc<Screen> {
        Arc::clone(&self.screen)
    }

    fn attach(&mut self, guest: Arc<dyn Requests>) {
        self.guest = Some(guest);
    }

    /// Gives waiting bytes to the Guest, buffer by buffer, `most` at most.
    /// What has no buffer stays. Answers how many buffers it has filled.
    fn deliver(&mut self, most: usize) -> Result<usize, Violation> {
        let Some(guest) = self.guest.clone() else {
            return Ok(0);
        };
        let mut rest = self.waiting.as_slice();
        let mut buffers = 0;
        while !rest.is_empty() && buffers < most {
            let Ok(Some(buffer)) = guest.get_dma(LGUEST_CONSOLE_DMA_KEY) else {
                break;
            };
            let filled = fill(guest.as_ref(), buffer, rest)?;
            if filled == 0 {
                // A buffer for nothing at all: it stays free for ever.
                break;
            }
            rest = &rest[filled..];
            self.counters.bytes_in += filled as u64;
            self.counters.buffers_filled += 1;
            buffers += 1;
        }
        let done = self.waiting.len() - rest.len();
        self.waiting.drain(..done);
        if !self.waiting.is_empty() && buffers < most {
            self.counters.no_buffer += 1;
        }
        Ok(buffers)
    }

    /// Whether `read`, which has just been read, ends with the last of three
    /// ^C in a second with nothing else in between: nobody types that by
    /// accident. On a busy machine they may come in one read, behind whatever
    /// else waited there. Only on a terminal; a file may contain what it
    /// likes.
    fn wants_out(&mut self, read: &[u8], now: Instant) -> bool {
        if !self.is_terminal {
            return false;
        }
        let other = read.iter().rposition(|&byte| byte != INTERRUPT);
        if other.is_some() {
            self.interrupts.clear();
        }
        self.interrupts
            .retain(|&then| now.duration_since(then) < INTERRUPT_TIME);
        let typed = read.len() - other.map_or(0, |at| at + 1);
        let typed = std::iter::repeat_n(now, typed);
        self.interrupts.extend(typed);
        self.interrupts.len() >= INTERRUPTS
    }

    /// Keeps `read` for the Guest, as far as there is room: as a terminal
    /// does that nobody reads from.
    fn keep(&mut self, read: &[u8]) {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        let kept = read.len().min(room);
        self.waiting.extend_from_slice(&read[..kept]);
        self.counters.bytes_dropped += (read.len() - kept) as u64;
    }

    /// Whether reading would put us to sleep, or stop us: a job in the
    /// background must not touch its terminal.
    fn may_read(&self) -> MayRead {
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&now)) {
            // A signal interrupts even a look that does not wait, if it finds
            // nothing. That is no end of the input.
            Ok(0) | Err(Errno::INTR) => return MayRead::WouldBlock,
            Ok(_) => {}
            Err(_) => return MayRead::Never,
        }
        if self.is_terminal && !crate::machine::terminal::is_ours(&self.input) {
            return MayRead::InBackground;
        }
        if self.is_terminal {
            crate::machine::terminal::keep();
        }
        MayRead::Yes
    }

    /// Reads what there is, if there is something. Answers what comes next
    /// where that is settled.
    fn read(&mut self) -> Option<Readiness> {
        match self.may_read() {
            MayRead::Yes => {}
            MayRead::WouldBlock => return None,
            MayRead::InBackground => return Some(Readiness::Taken),
            MayRead::Never => {
                self.ended = true;
                return None;
            }
        }
        let mut bytes = [0; READ_MAX];
        let n = match rustix::io::read(&self.input, &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => return None,
            Ok(0) | Err(_) => {
                self.ended = true;
                return None;
            }
            Ok(n) => n,
        };
        if self.wants_out(&bytes[..n], Instant::now()) {
            return Some(Readiness::Quit);
        }
        self.keep(&bytes[..n]);
        None
    }

    /// What is to be done next about input, after so many buffers were
    /// filled.
    fn readiness(&self, buffers: usize) -> Readiness {
        match (self.waiting.is_empty(), self.ended) {
            (true, true) => Readiness::Closed,
            (true, false) => Readiness::Wait,
            (false, _) if buffers >= AT_ONCE => Readiness::More,
            // A terminal is read even so: a Guest that takes no input any
            // more is the one that ^C^C^C is for.
            (false, ended) => Readiness::NoBuffer {
                took: buffers > 0,
                watch: self.is_terminal && !ended,
            },
        }
    }

    /// The input has ended, and the Guest has all of it.
    fn tell_end(&self) {
        if let Some(event) = &self.at_end {
            // It cannot be full: it is raised once.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

enum MayRead {
    Yes,
    WouldBlock,
    InBackground,
    Never,
}

impl Device for Console {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_CONSOLE,
            features: 0,
            num_pages: 0,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        _place: Place,
    ) -> io::Result<()> {
        self.attach(guest);
        Ok(())
    }

    fn handle_output(&mut self, dma: u32, _key: u32) -> Result<u32, Violation> {
        let Some(guest) = self.guest.clone() else {
            return Ok(0);
        };
        let memory = guest.memory();
        let sections = sections(memory, dma)?;
        let len = total(&sections);
        let mut bytes = vec![0; len as usize];
        let mut rest = bytes.as_mut_slice();
        for section in sections {
            let (part, more) = rest.split_at_mut(section.len() as usize);
            memory
                .read(section.addr(), part)
                .map_err(|bad| Violation(bad.to_string()))?;
            rest = more;
        }
        self.counters.writes += 1;
        self.to_show = bytes;
        Ok(len)
    }

    /// Blocks while the output does: then the Guest has to wait, as it would
    /// for a slow serial line.
    fn slow_output(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        let bytes = std::mem::take(&mut self.to_show);
        let screen = Arc::clone(&self.screen);
        Some(Box::new(move || screen.show(&bytes)))
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.input.as_fd())
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let mut buffers = self.deliver(AT_ONCE)?;
        let reads = self.waiting.is_empty() || self.is_terminal;
        if !self.ended && reads {
            if let Some(settled) = self.read() {
                return Ok(settled);
            }
            buffers += self.deliver(AT_ONCE - buffers)?;
        }
        let next = self.readiness(buffers);
        if next == Readiness::Closed {
            self.tell_end();
        }
        Ok(next)
    }

    fn finish(&mut self) {
        self.screen.finish();
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let [out, discarded] = self.screen.counters();
        vec![
            ("bytes_in", self.counters.bytes_in),
            out,
            discarded,
            ("bytes_dropped", self.counters.bytes_dropped),
            ("writes", self.counters.writes),
            ("buffers_filled", self.counters.buffers_filled),
            ("no_buffer", self.counters.no_buffer),
        ]
    }
}

/// Fills one buffer with as much of `bytes` as it takes, and raises its
/// interrupt. Answers how much that was.
fn fill(
    guest: &dyn Requests,
    buffer: BoundDma,
    bytes: &[u8],
) -> Result<usize, Violation> {
    let memory = guest.memory();
    let bad = |bad: crate::memory::BadAddress| Violation(bad.to_string());
    let mut rest = bytes;
    for section in sections(memory, buffer.addr)? {
        let (part, more) =
            rest.split_at(rest.len().min(section.len() as usize));
        memory.write(section.addr(), part).map_err(bad)?;
        rest = more;
    }
    let filled = bytes.len() - rest.len();
    if filled > 0 {
        // Sixteen sections of a page each fit in a u32.
        let used_len = u32::try_from(filled).unwrap_or(u32::MAX);
        memory.write_last(buffer.addr, used_len).map_err(bad)?;
        // A dead Guest has nobody left to tell.
        let _ = guest.irq(buffer.irq);
    }
    Ok(filled)
}

#[cfg(fuzzing)]
impl Console {
    /// A console with somebody else for a Host.
    #[must_use]
    pub fn attached(config: Config, guest: Arc<dyn Requests>) -> Self {
        let mut console = Self::new(config);
        console.attach(guest);
        console
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted;
    use super::*;
    use crate::engine::Scripted;
    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe, pipe_with};

    const DMA: u32 = 0x3000;
    const BUFFER: u32 = 0x4000;

    const NOTHING_TAKEN: Readiness = Readiness::NoBuffer {
        took: false,
        watch: false,
    };

    fn console() -> (Arc<Scripted>, Console, OwnedFd, OwnedFd) {
        let guest = scripted();
        let (input, typed) = pipe().unwrap();
        let (shown, output) = pipe().unwrap();
        let mut console = Console::new(Config {
            input,
            output,
            log: None,
            at_end: None,
        });
        console.attach(guest.clone());
        (guest, console, typed, shown)
    }

    /// What the bus does.
    fn send(console: &mut Console) -> Result<u32, Violation> {
        let used_len = console.handle_output(DMA, 0)?;
        console.slow_output().unwrap()();
        Ok(used_len)
    }

    fn bind_sixty_four_bytes(guest: &Scripted) {
        guest.put_dma(DMA, &[(BUFFER, 60), (BUFFER + 100, 4)]);
        guest.bind(0, DMA, 5);
    }

    #[test]
    fn output_is_every_section_in_order() {
        let (guest, mut console, _typed, shown) = console();
        guest.memory().write(0x2000, b"hello ").unwrap();
        guest.memory().write(0x5FFC, b"abyz").unwrap();
        guest.put_dma(DMA, &[(0x2000, 6), (0x5FFC, 4)]);
        assert_eq!(send(&mut console), Ok(10));
        let mut got = [0; 20];
        assert_eq!(rustix::io::read(&shown, &mut got), Ok(10));
        assert_eq!(&got[..10], b"hello abyz");
    }

    #[test]
    fn output_from_nowhere_or_across_pages_is_a_violation() {
        let (guest, mut console, _typed, _shown) = console();
        guest.put_dma(DMA, &[(0x1_2FFC, 5)]);
        let error = console.handle_output(DMA, 0).unwrap_err().to_string();
        assert_eq!(error, "bad dma: 0x12ffc+0x5 crosses a page");
        guest.put_dma(DMA, &[(0x1_3000, 1)]);
        let error = console.handle_output(DMA, 0).unwrap_err().to_string();
        assert!(error.starts_with("bad dma: bad physical address 0x13000"));
    }

    #[test]
    fn output_that_nobody_reads_is_taken_and_lost() {
        let (guest, mut console, _typed, shown) = console();
        drop(shown);
        guest.put_dma(DMA, &[(0x2000, 6)]);
        assert_eq!(send(&mut console), Ok(6));
        assert_eq!(send(&mut console), Ok(6));
        assert!(console.counters().contains(&("bytes_discarded", 12)));
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for() {
        let (guest, mut console, _typed, _shown) = console();
        let (shown, output) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        console.screen = Arc::new(Screen::new(output, None));
        let sixteen: Vec<_> = (0..16).map(|_| (0x2000, 4096)).collect();
        guest.put_dma(DMA, &sixteen);
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
        let (guest, mut console, typed, _shown) = console();
        bind_sixty_four_bytes(&guest);
        let line = [b'x'; 62];
        rustix::io::write(&typed, &line).unwrap();
        assert_eq!(console.handle_input(), Ok(Readiness::Wait));
        assert_eq!(guest.wait_irq(), Some(5));
        assert_eq!(guest.word(DMA), 62);
        assert_eq!(guest.bytes(BUFFER, 61)[59..], [b'x', 0]);
        assert_eq!(guest.bytes(BUFFER + 100, 3), [b'x', b'x', 0]);
        assert_eq!(console.handle_input(), Ok(Readiness::Wait));
        assert!(guest.irqs().is_empty());
    }

    #[test]
    fn input_without_a_buffer_waits_and_is_not_lost() {
        let (guest, mut console, typed, _shown) = console();
        rustix::io::write(&typed, b"early").unwrap();
        assert_eq!(console.handle_input(), Ok(NOTHING_TAKEN));
        drop(typed);
        bind_sixty_four_bytes(&guest);
        assert_eq!(console.handle_input(), Ok(Readiness::Closed));
        assert_eq!(guest.bytes(BUFFER, 5), b"early");
    }

    /// A Guest that frees each buffer at once.
    struct Greedy(Arc<Scripted>);

    impl Requests for Greedy {
        fn memory(&self) -> &crate::memory::GuestMemory {
            self.0.memory()
        }

        fn get_dma(
            &self,
            key: u32,
        ) -> Result<Option<BoundDma>, crate::engine::RequestError> {
            self.0.memory().write_object(DMA, &0_u32).unwrap();
            self.0.get_dma(key)
        }

        fn irq(&self, irq: u8) -> Result<(), crate::engine::RequestError> {
            self.0.irq(irq)
        }

        fn bindings_in(&self, page: u32) -> Vec<crate::engine::Binding> {
            self.0.bindings_in(page)
        }

        fn kill(&self, reason: String) {
            self.0.kill(reason);
        }
    }

    #[test]
    fn a_guest_that_takes_without_end_does_not_keep_us_for_ever() {
        let (guest, mut console, typed, _shown) = console();
        guest.put_dma(DMA, &[(BUFFER, 1)]);
        guest.bind(0, DMA, 5);
        console.attach(Arc::new(Greedy(guest)));
        rustix::io::write(&typed, &[b'x'; 2 * AT_ONCE + 3]).unwrap();
        assert_eq!(console.handle_input(), Ok(Readiness::More));
        assert_eq!(console.waiting.len(), AT_ONCE + 3);
        assert_eq!(console.handle_input(), Ok(Readiness::More));
        assert_eq!(console.handle_input(), Ok(Readiness::Wait));
    }

    #[test]
    fn three_interrupts_count_only_alone_and_in_a_second() {
        let (_guest, mut console, _typed, _shown) = console();
        console.is_terminal = true;
        let start = Instant::now();
        let mut typed = |bytes: &[u8], ms: u64| {
            console.wants_out(bytes, start + Duration::from_millis(ms))
        };
        assert!(!typed(b"\x03", 0));
        assert!(!typed(b"\x03", 400));
        assert!(!typed(b"\x03", 1001)); // the first is too old
        assert!(!typed(b"\x03\x03\x03x", 1002)); // a paste
        assert!(!typed(b"\x03", 1003));
        assert!(!typed(b"\x03", 1004));
        assert!(typed(b"\x03", 1005));
        assert!(!typed(b"x", 1006));
        assert!(!typed(b"\x03", 1007));
        assert!(typed(b"\x03\x03", 1008)); // the machine was busy
    }

    #[test]
    fn interrupts_are_heard_though_the_guest_takes_nothing() {
        let (_guest, mut console, _typed, _shown) = console();
        console.is_terminal = true;
        console.keep(b"text");
        let now = Instant::now();
        assert!(!console.wants_out(b"\x03", now));
        console.keep(b"\x03");
        assert!(console.wants_out(b"\x03\x03", now));
        assert!(!console.wants_out(b"\x03x\x03", now), "a paste");
        console.keep(&[0; 2 * WAITING_MAX]);
        assert_eq!(console.waiting.len(), WAITING_MAX);
        assert_eq!(console.counters.bytes_dropped, WAITING_MAX as u64 + 5);
    }

    #[test]
    fn a_file_may_contain_interrupts() {
        let (_guest, mut console, _typed, _shown) = console();
        for _ in 0..5 {
            assert!(!console.wants_out(&[INTERRUPT], Instant::now()));
        }
    }

    proptest! {
        // However the bytes come and however the Guest takes them, it gets
        // the same ones in the same order.
        #[test]
        fn no_byte_is_lost_or_doubled(
            typed in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..200), 1..10,
            ),
            lens in proptest::collection::vec(1_u16..90, 1..5),
        ) {
            let (guest, mut console, keyboard, _shown) = console();
            let mut got = Vec::new();
            let mut lens = lens.iter().cycle();
            let mut take = |guest: &Scripted, console: &mut Console| {
                let used = guest.word(DMA) as usize;
                got.extend(guest.bytes(BUFFER, used));
                guest.put_dma(DMA, &[(BUFFER, *lens.next().unwrap())]);
                guest.bind(0, DMA, 1);
                console.handle_input().unwrap()
            };
            for bytes in &typed {
                rustix::io::write(&keyboard, bytes).unwrap();
                take(&guest, &mut console);
            }
            drop(keyboard);
            while take(&guest, &mut console) != Readiness::Closed {}
            take(&guest, &mut console);
            prop_assert_eq!(got, typed.concat());
        }
    }
}
