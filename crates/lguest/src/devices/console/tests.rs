//! What a console keeps, and what ends it.

use super::*;
use crate::memory::GuestMemory;
use rustix::pipe::pipe;

fn console() -> (Console, OwnedFd, OwnedFd) {
    let (input, typed) = pipe().unwrap();
    let (shown, output) = pipe().unwrap();
    let console = Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    });
    (console, typed, shown)
}

/// So many buffers of one byte, each free again at once.
struct Bytes {
    memory: GuestMemory,
    left: usize,
    taken: Vec<u8>,
}

impl Bytes {
    fn new(left: usize) -> Self {
        Self {
            memory: GuestMemory::new(0x1000, 1).unwrap(),
            left,
            taken: Vec::new(),
        }
    }
}

impl ReceiveBuffers for Bytes {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(crate::memory::SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        if self.left == 0 {
            return Ok(Filled::NoneFree);
        }
        let list = [self.memory.section(0x100, 1).unwrap()];
        let region = self.memory.region();
        let into = crate::memory::SectionsIn {
            region,
            list: &list,
        };
        let bytes = fill(into).unwrap();
        self.left -= 1;
        self.taken.push(region.byte(0x100).unwrap());
        Ok(Filled::Bytes(bytes))
    }

    fn are_any(&self) -> bool {
        true
    }
}

#[test]
fn a_guest_that_takes_without_end_does_not_keep_us_for_ever() {
    let (mut console, typed, _shown) = console();
    rustix::io::write(&typed, &[b'x'; 2 * AT_ONCE + 3]).unwrap();
    let mut buffers = Bytes::new(usize::MAX);
    assert_eq!(console.handle_input(&mut buffers), Ok(Readiness::More));
    assert_eq!(console.waiting.len(), AT_ONCE + 3);
    assert_eq!(console.handle_input(&mut buffers), Ok(Readiness::More));
    assert_eq!(console.handle_input(&mut buffers), Ok(Readiness::Wait));
}

#[test]
fn interrupts_are_seen_though_the_guest_takes_nothing() {
    let (mut console, _typed, _shown) = console();
    console.exit_keys = Some(ExitKeys::default());
    // All at the same time: after a second, keys do not count any more.
    let now = Instant::now();
    let typed = |console: &mut Console, bytes: &[u8]| {
        let keys = console.exit_keys.as_mut().unwrap();
        keys.are_typed(bytes, now)
    };
    console.keep(b"text");
    assert!(!typed(&mut console, b"\x03"));
    console.keep(b"\x03");
    assert!(typed(&mut console, b"\x03\x03"));
    assert!(!typed(&mut console, b"\x03x\x03"), "a paste");
    console.keep(&[0; 2 * WAITING_MAX]);
    assert_eq!(console.waiting.len(), WAITING_MAX);
    let dropped = console.counters.bytes_dropped.get();
    assert_eq!(dropped, WAITING_MAX as u64 + 5);
}

#[test]
fn a_file_may_contain_interrupts() {
    let (mut console, typed, _shown) = console();
    rustix::io::write(&typed, b"\x03\x03\x03\x03\x03").unwrap();
    let mut buffers = Bytes::new(9);
    assert_eq!(console.handle_input(&mut buffers), Ok(Readiness::Wait));
    assert_eq!(buffers.taken, b"\x03\x03\x03\x03\x03");
}

#[test]
fn bytes_that_wait_go_along_with_the_state() {
    let (mut before, typed, _shown) = console();
    rustix::io::write(&typed, b"hello").unwrap();
    let mut buffers = Bytes::new(2);
    before.handle_input(&mut buffers).unwrap();
    before.print(b"printed".to_vec())();
    let text = serde_json::to_string(&before.state()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    let (mut after, typed, _shown) = console();
    after.restore(&state).unwrap();
    assert_eq!(after.state(), before.state());
    rustix::io::write(&typed, b"!").unwrap();
    buffers.left = usize::MAX;
    while after.handle_input(&mut buffers) != Ok(Readiness::Wait) {}
    assert_eq!(buffers.taken, b"hello!");
    // The state of a newer program is refused.
    let newer = text.replace("\"version\":1", "\"version\":2");
    let newer = serde_json::from_str(&newer).unwrap();
    let refused = after.restore(&newer).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the state of a console has version 2, and this program knows version \
         1: restore it with the program that saved it"
    );
}
