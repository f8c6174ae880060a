//! A debugger that is hostile.
//!
//! It sends packets of any contents, and bytes that are none. Most packets are
//! made of the protocol's own words, with a right checksum, so that they get
//! past the first check. Whatever comes, the session ends with the stream, and
//! the Guest lives and goes on.

use crate::input::Input;
use lguest::debugger::{Connection, session};
use lguest::engine::{Engine, Exit, Scripted, Setup};
use lguest::memory::GuestMemory;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::sync::Arc;

/// Bytes of the Guest's memory.
const LIMIT: u32 = 0x4000;

/// The most packets. All of them fit into the stream, which nobody reads
/// meanwhile.
const MOST: usize = 64;

/// What packets begin with.
const WORDS: &[&str] = &[
    "g",
    "G",
    "p",
    "P",
    "m",
    "M",
    "X",
    "s",
    "c",
    "C",
    "?",
    "D",
    "Hg",
    "Hc",
    "Z0,",
    "Z1,",
    "Z2,",
    "Z3,",
    "Z4,",
    "z0,",
    "z1,",
    "z2,",
    "z3,",
    "z4,",
    "vCont?",
    "vCont;c",
    "vCont;s:1",
    "vCont;r",
    "qRcmd,",
    "qSupported:",
    "qXfer:features:read:target.xml:",
    "QStartNoAckMode",
    "qC",
    "qfThreadInfo",
    "qsThreadInfo",
    "vMustReplyEmpty",
    "T1",
    "!",
    "vAttach;",
    "vKill;",
    "x",
];

/// Runs the target.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let guest =
        Scripted::new(GuestMemory::new(LIMIT, 0).expect("there is memory"));
    let setup = Setup::from(lg_abi::request::Initialize {
        pfn_limit: LIMIT / 0x1000,
        pgdir: 0,
        start: 0,
        page_offset: 0xC000_0000,
    });
    guest.initialize(setup).expect("it is the first time");
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("there are sockets");
    let nothing = File::options().write(true).open("/dev/null");
    let nothing = nothing.expect("it is everywhere");
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let bytes = packet(&mut input);
        rustix::io::write(&ours, &bytes).expect("there is room");
    }
    drop(ours);
    let engine: Arc<dyn Engine> = guest.clone();
    session(&engine, Connection::new(theirs, nothing.into()));
    assert_eq!(guest.killed(), None);
    guest.then(Exit::BindingsChanged);
    assert_eq!(guest.run(), Ok(Exit::BindingsChanged), "nothing holds it");
}

/// The bytes of one packet.
fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let length = usize::from(input.byte() & 0x3F);
    let kind = input.byte();
    let contents = input.bytes(length);
    match kind & 7 {
        0 => contents.to_vec(),
        1 => vec![3],
        _ => {
            let word = WORDS[usize::from(kind >> 2) % WORDS.len()];
            // Mostly the letters that arguments have.
            const LETTERS: &[u8] = b"0123456789abcdef,,;::";
            let arguments = contents.iter().map(|&byte| match byte {
                0..=0xEF => LETTERS[usize::from(byte) % LETTERS.len()],
                _ => byte,
            });
            let body: Vec<u8> = word.bytes().chain(arguments).collect();
            let sum = body.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b));
            let end = format!("#{sum:02x}");
            [b"$", &body[..], end.as_bytes()].concat()
        }
    }
}
