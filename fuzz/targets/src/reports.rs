//! The client of an agent that is hostile.
//!
//! The agent sends any messages, and any bytes, in any pieces. The client sends
//! input, takes output, hangs up. It never receives more than it has given
//! credit for, sends no more than it was given credit for, and gets no event
//! after the last one; and what a terminal may be shown controls none.

use crate::input::Input;
use lg_exec::client::{Client, Event};
use lg_exec::command::{
    Command, Flow, Get, Given, Put, Size, Start, kind as command,
};
use lg_exec::credit::{WINDOW, cost};
use lg_exec::frame::{self, Decoder};
use lg_exec::report::{
    Done, Exited, Failed, Failure, FileFacts, Reason, Report, Started, Status,
    Usage,
};

/// What has gone each way, as the fuzzer counts it.
struct Counted {
    /// What the client may still send.
    input: u64,
    /// What the agent may still send.
    output: [u64; 2],
}

/// Reads what a client says.
///
/// # Panics
///
/// If it sends more than it may, or something that cannot be read.
fn check_sent(mut bytes: &[u8], counted: &mut Counted) {
    let mut decoder = Decoder::new();
    while let Some(frame) = decoder.next(&mut bytes).expect("whole frames") {
        if frame.kind == command::STDIN {
            let cost = u64::from(cost(frame.payload.len()));
            let left = counted.input.checked_sub(cost);
            counted.input = left.expect("it sends without credit");
        }
        let read = Command::read(&frame).expect("it can be read");
        if let Some(Command::Credit(given)) = read {
            let left = match given.flow {
                Flow::Stdin => panic!("it gives credit for its own"),
                Flow::Stdout => &mut counted.output[0],
                Flow::Stderr => &mut counted.output[1],
            };
            *left += u64::from(given.bytes);
            assert!(*left <= u64::from(WINDOW), "too much credit");
        }
    }
    assert!(!decoder.is_within(), "half a frame");
}

/// A message of the agent, likely or not.
fn say(input: &mut Input<'_>, out: &mut Vec<u8>) {
    let number = input.word();
    let bytes = |input: &mut Input<'_>| {
        let wide = input.bit();
        let length = usize::from(input.byte());
        vec![input.byte(); if wide { length * 256 } else { length }]
    };
    let (a, b);
    let report = match input.byte() % 10 {
        0 => Report::Started(Started { pid: number }),
        1 => {
            a = bytes(input);
            Report::Stdout(&a)
        }
        2 => {
            b = bytes(input);
            Report::Stderr(&b)
        }
        3 => {
            let flows = [Flow::Stdin, Flow::Stdout, Flow::Stderr];
            let flow = flows[usize::from(input.byte()) % 3];
            let bytes = if input.bit() { number } else { number % 70_000 };
            Report::Credit(Given { flow, bytes })
        }
        4 => Report::File(FileFacts::default()),
        5 => Report::Exited(Exited {
            status: Status::Signal(input.byte()),
            reason: Reason::from(input.byte()),
            usage: Usage::default(),
        }),
        6 => Report::Done(Done {
            bytes: number.into(),
        }),
        7 => {
            let text = String::from_utf8_lossy(input.bytes(40)).into_owned();
            let failure = Failure::from(input.byte());
            Report::Failed(Failed { failure, text })
        }
        8 => {
            let kind = input.byte();
            let length = usize::from(input.byte());
            let payload = input.bytes(length);
            return frame::put(out, number, kind, payload).expect("short");
        }
        _ => {
            let length = usize::from(input.byte());
            return out.extend_from_slice(input.bytes(length));
        }
    };
    report.put(number, out).expect("not too long");
}

fn client(input: &mut Input<'_>, out: &mut Vec<u8>) -> Client {
    let start = Start {
        terminal: input.bit().then(Size::default),
        ..Start::default()
    };
    match input.byte() % 4 {
        0 => Client::put(Put::default(), out),
        1 => Client::get(Get::default(), out),
        _ => Client::start(start, out),
    }
    .expect("it is short")
}

/// What the client has received and not taken.
struct Held([usize; 2]);

/// Gives the client bytes. Returns whether it goes on.
fn receive(
    client: &mut Client,
    mut bytes: &[u8],
    counted: &mut Counted,
    held: &mut Held,
) -> bool {
    let mut over = client.is_over();
    loop {
        let event = match client.receive(&mut bytes) {
            Err(_) => return false,
            Ok(None) => break,
            Ok(Some(event)) => event,
        };
        assert!(!over, "an event after the last");
        let arrived = match event {
            Event::Stdout(bytes) => Some((0, bytes.len())),
            Event::Stderr(bytes) => Some((1, bytes.len())),
            Event::StdinRoom => {
                // How much was given is not told. It is a window at most.
                counted.input = u64::from(WINDOW);
                None
            }
            Event::Failed(_, text) => {
                assert!(!text.chars().any(char::is_control), "{text:?}");
                None
            }
            _ => None,
        };
        if let Some((flow, length)) = arrived {
            let cost = u64::from(cost(length));
            let left = counted.output[flow].checked_sub(cost);
            counted.output[flow] = left.expect("it takes more than it may");
            held.0[flow] += length;
        }
        over = client.is_over();
    }
    assert!(bytes.is_empty(), "bytes are left");
    true
}

/// A hostile agent, and a client.
///
/// # Panics
///
/// If the client breaks a promise.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let window = u64::from(WINDOW);
    // The agent may give back at most what was spent, which the client checks.
    let mut counted = Counted {
        input: window,
        output: [window; 2],
    };
    let mut held = Held([0; 2]);
    let mut sent = Vec::new();
    let mut client = client(&mut input, &mut sent);
    while !input.is_empty() {
        sent.clear();
        match input.byte() % 8 {
            0 => {
                let room = client.stdin_room();
                let length = usize::from(input.half()) * 4;
                let taken = client.stdin(&vec![7; length], &mut sent);
                assert!(taken <= length && (taken > 0 || room * length == 0));
            }
            1 => {
                let flow = usize::from(input.byte() & 1);
                let length = std::mem::take(&mut held.0[flow]);
                let flows = [Flow::Stdout, Flow::Stderr];
                client.taken(flows[flow], length, &mut sent);
            }
            2 if input.byte() == 0 => client.stdin_end(&mut sent),
            3 if input.byte() == 0 => client.hang_up(&mut sent),
            _ => {
                let mut bytes = Vec::new();
                say(&mut input, &mut bytes);
                let piece = usize::from(input.byte()) + 1;
                for piece in bytes.chunks(piece * 64) {
                    if !receive(&mut client, piece, &mut counted, &mut held) {
                        return;
                    }
                }
            }
        }
        assert!(!client.is_over() || sent.is_empty(), "it sends at the end");
        check_sent(&sent, &mut counted);
    }
}
