//! Frames that come to an agent.
//!
//! Any bytes, in any pieces: the frames are the same as if all bytes came at
//! once, no more than one frame is held, and what can be read can be written
//! and is read as the same. Credit never grows beyond its window.

use crate::input::Input;
use lg_exec::command::{Command, Flow, kind};
use lg_exec::credit::{Receiver, Sender, WINDOW};
use lg_exec::frame::{self, Decoder, Frame, TooLong};

/// The frames of some bytes.
type Frames = Vec<(u32, u8, Vec<u8>)>;

/// Cuts bytes into frames. `cut` says how long each piece is.
fn frames(
    bytes: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (Frames, Result<(), TooLong>) {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(cut().clamp(1, rest.len()));
        rest = later;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(it)) => {
                    found.push((it.stream, it.kind, it.payload.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (found, Err(error)),
            }
        }
        assert!(piece.is_empty(), "bytes are left");
    }
    (found, Ok(()))
}

/// Bytes that are mostly frames. A fuzzer hardly finds them by chance.
fn bytes(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while !input.is_empty() && out.len() < 1 << 20 {
        let what = input.byte();
        if what == 0xff {
            out.extend_from_slice(input.bytes(12));
            continue;
        }
        let kinds = [
            kind::START,
            kind::PUT,
            kind::GET,
            kind::STDIN,
            kind::CREDIT,
            kind::SIGNAL,
            kind::RESIZE,
            kind::RESTORED,
            what,
        ];
        let kind = kinds[usize::from(what) % kinds.len()];
        let length = usize::from(input.byte());
        let mut payload = input.bytes(length).to_vec();
        if what & 0x40 != 0 {
            payload.resize(length * 256, what);
        }
        let stream = u32::from(input.byte() % 4);
        frame::put(&mut out, stream, kind, &payload).expect("short");
    }
    out
}

/// A hostile client, or a hostile way.
///
/// # Panics
///
/// If frames depend on how their bytes are cut, or a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = usize::from(input.byte());
    let bytes = bytes(&mut input);
    let whole = frames(&bytes, || bytes.len());
    let mut n = seed;
    let cut = frames(&bytes, || {
        n = (n * 31 + 7) % 5000;
        n
    });
    assert_eq!(whole, cut, "frames depend on their pieces");
    let mut given = Sender::default();
    let mut taken = Receiver::default();
    for (stream, kind, payload) in &whole.0 {
        let frame = Frame {
            stream: *stream,
            kind: *kind,
            payload,
        };
        let Ok(Some(command)) = Command::read(&frame) else {
            continue;
        };
        let mut again = Vec::new();
        command
            .put(*stream, &mut again)
            .expect("no longer than it was");
        let (back, _) = frames(&again, || again.len());
        let [(_, kind, payload)] = &back[..] else {
            panic!("one message is one frame");
        };
        let frame = Frame {
            stream: *stream,
            kind: *kind,
            payload,
        };
        assert_eq!(Command::read(&frame), Ok(Some(command.clone())));
        match command {
            Command::Credit(it) if it.flow == Flow::Stdout => {
                let _ = given.refill(it.bytes);
            }
            Command::Stdin(bytes) => {
                let _ = given.spend(bytes.len());
                if taken.arrived(bytes.len()).is_ok() {
                    let back = taken.taken(bytes.len());
                    assert!(back.is_none_or(|back| back <= WINDOW));
                }
            }
            _ => {}
        }
        assert!(given.room() < WINDOW as usize);
    }
}
