//! A debugger of a few lines: GDB's remote protocol.

use super::{PATIENCE, is_here};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where registers are among those of `g`, by their number there.
pub(crate) mod register {
    pub(crate) const EAX: usize = 0;
    pub(crate) const ECX: usize = 1;
    pub(crate) const EBX: usize = 3;
    pub(crate) const ESP: usize = 4;
    pub(crate) const EIP: usize = 8;
    pub(crate) const EFLAGS: usize = 9;
    pub(crate) const CS: usize = 10;
    pub(crate) const GS: usize = 15;
}

/// The trap flag, which a guest that is stepped never has.
pub(crate) const TF: u32 = 1 << 8;

/// Bytes of all registers.
pub(crate) const ALL: usize = 0x140;

/// What the end of a step is: SIGTRAP in the thread of the processor.
const STEPPED: &str = "T05thread:01;";

/// One end of a session.
pub(crate) struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// Connects to `path` as soon as somebody listens there.
    pub(crate) fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{error}");
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut gdb = Self { stream };
        assert!(gdb.ask("qSupported:swbreak+;hwbreak+").contains("swbreak"));
        assert!(gdb.ask("?").starts_with("T05"));
        gdb
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("an answer");
        byte[0]
    }

    /// Sends a packet, and waits until it has arrived.
    pub(crate) fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        let framed = format!("${packet}#{sum:02x}");
        self.stream.write_all(framed.as_bytes()).unwrap();
        assert_eq!(self.byte(), b'+', "{packet}");
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Whether the other side has closed the stream.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            // It has not read all that was sent.
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Waits for a packet. A run of equal bytes is made whole.
    pub(crate) fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let again = self.byte() - 29;
                    let last = *packet.last().unwrap();
                    packet.extend((0..again).map(|_| last));
                }
                byte => packet.push(byte),
            }
        }
        let _ = (self.byte(), self.byte());
        // The other side may be gone after its last packet.
        let _ = self.stream.write_all(b"+");
        String::from_utf8(packet).unwrap()
    }

    /// Whether there is something to receive within this time.
    pub(crate) fn answers_within(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).unwrap();
        let mut streams = [PollFd::new(&self.stream, PollFlags::IN)];
        poll(&mut streams, Some(&patience)).unwrap() > 0
    }

    pub(crate) fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Waits until the guest stops, for this reason.
    #[track_caller]
    pub(crate) fn stops(&mut self, reason: &str) {
        let stop = self.receive();
        assert!(stop.starts_with("T05") && stop.contains(reason), "{stop}");
    }

    /// Asks for something that is only done or refused.
    #[track_caller]
    pub(crate) fn order(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    pub(crate) fn registers(&mut self) -> Vec<u8> {
        let all = from_hex(&self.ask("g"));
        assert_eq!(all.len(), ALL);
        all
    }

    pub(crate) fn register(&mut self, number: usize) -> u32 {
        word(&self.registers(), number)
    }

    pub(crate) fn eip(&mut self) -> u32 {
        self.register(register::EIP)
    }

    /// Memory, as much of it as there is.
    pub(crate) fn memory(&mut self, at: u32, length: u32) -> Vec<u8> {
        let answer = self.ask(&format!("m{at:x},{length:x}"));
        if answer.starts_with('E') {
            return Vec::new();
        }
        from_hex(&answer)
    }

    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) {
        let length = bytes.len();
        self.order(&format!("M{at:x},{length:x}:{}", to_hex(bytes)));
    }

    /// Carries out one instruction.
    #[track_caller]
    pub(crate) fn step(&mut self) {
        assert_eq!(self.ask("s"), STEPPED);
    }

    /// Goes on until the guest stops, for this reason.
    #[track_caller]
    pub(crate) fn go_on_to(&mut self, reason: &str) {
        self.send("c");
        self.stops(reason);
    }

    /// Stops a guest that runs.
    pub(crate) fn interrupt(&mut self) {
        self.send_raw(&[3]);
        assert_eq!(self.receive(), "T02thread:01;");
    }

    /// The threads, and what is said of each.
    pub(crate) fn threads(&mut self) -> Vec<(u32, String)> {
        let list = self.ask("qfThreadInfo");
        assert_eq!(self.ask("qsThreadInfo"), "l");
        let numbers = list.strip_prefix('m').unwrap().split(',');
        let numbers = numbers.map(|n| u32::from_str_radix(n, 16).unwrap());
        let mut all = Vec::new();
        for number in numbers {
            let about = self.ask(&format!("qThreadExtraInfo,{number:x}"));
            let about = String::from_utf8(from_hex(&about)).unwrap();
            all.push((number, about));
        }
        all
    }

    /// Chooses the thread for registers and memory.
    pub(crate) fn choose(&mut self, thread: u32) {
        self.order(&format!("Hg{thread:x}"));
    }

    /// The answer of `monitor`.
    pub(crate) fn monitor(&mut self, command: &str) -> String {
        self.send(&format!("qRcmd,{}", to_hex(command.as_bytes())));
        let mut all = String::new();
        loop {
            let answer = self.receive();
            match answer.strip_prefix('O') {
                Some("K") => return all,
                Some(text) => {
                    all += &String::from_utf8(from_hex(text)).unwrap();
                }
                None => panic!("{answer}"),
            }
        }
    }
}

/// GDB itself with these commands. `None` if it is not here.
pub(crate) fn real(commands: &[&str]) -> Option<Command> {
    if !is_here("gdb") {
        return None;
    }
    let mut gdb = Command::new("gdb");
    // An answer may take longer than two seconds, which is what gdb waits.
    let patience = "set remotetimeout 600";
    gdb.args(["-q", "-nx", "-batch", "-ex", patience]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    Some(gdb)
}

pub(crate) fn word(registers: &[u8], number: usize) -> u32 {
    u32::from_le_bytes(registers[number * 4..][..4].try_into().unwrap())
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut all, byte| {
        write!(all, "{byte:02x}").unwrap();
        all
    })
}

pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text}"))
    };
    pairs.map(byte).collect()
}
