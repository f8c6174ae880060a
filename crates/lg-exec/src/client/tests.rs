//! Tests of the client: what an agent may say, and what it may not.

use super::*;
use crate::credit::WINDOW;
use crate::frame::{HEAD, PAYLOAD_MOST};
use crate::report::{Failed, Hello, Reason, Status, Usage};
use alloc::vec;
use proptest::prelude::*;

const SIZE: Size = Size { rows: 24, cols: 80 };

fn run() -> Client {
    Client::start(Start::default(), &mut Vec::new()).unwrap()
}

fn with_terminal() -> Client {
    let start = Start {
        terminal: Some(SIZE),
        ..Start::default()
    };
    Client::start(start, &mut Vec::new()).unwrap()
}

fn put() -> Client {
    Client::put(Put::default(), &mut Vec::new()).unwrap()
}

fn get() -> Client {
    Client::get(Get::default(), &mut Vec::new()).unwrap()
}

fn exited() -> Report<'static> {
    Report::Exited(Exited {
        status: Status::Code(3),
        reason: Reason::None,
        usage: Usage::default(),
    })
}

fn failed() -> Report<'static> {
    Report::Failed(Failed {
        failure: Failure::NotFound,
        text: "no \x1b[31m".into(),
    })
}

fn credit(flow: Flow, bytes: u32) -> Report<'static> {
    Report::Credit(Given { flow, bytes })
}

const STARTED: Report<'static> = Report::Started(Started { pid: 7 });

/// Gives the client these messages, and returns what is wrong with them.
fn says(client: &mut Client, reports: &[Report<'_>]) -> Result<(), Violation> {
    let mut bytes = Vec::new();
    for report in reports {
        report.put(9, &mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while client.receive(&mut rest)?.is_some() {}
    Ok(())
}

#[test]
fn a_run_begins_sends_and_ends() {
    let mut client = run();
    let mut bytes = Vec::new();
    for report in [STARTED, Report::Stdout(b"a"), Report::Stderr(b"b")] {
        report.put(9, &mut bytes).unwrap();
    }
    exited().put(9, &mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut next = |wanted: Event<'_>| {
        let event = client.receive(&mut rest).unwrap();
        assert_eq!(event, Some(wanted));
    };
    next(Event::Started(Started { pid: 7 }));
    next(Event::Stdout(b"a"));
    next(Event::Stderr(b"b"));
    next(event(exited()));
    assert_eq!(client.receive(&mut rest), Ok(None));
    assert!(client.is_over());
    let mut out = Vec::new();
    client.hang_up(&mut out);
    client.stdin_end(&mut out);
    assert!(out.is_empty(), "nothing is sent after the end");
}

#[test]
fn text_of_a_failure_is_printable() {
    let mut client = run();
    let mut bytes = Vec::new();
    failed().put(9, &mut bytes).unwrap();
    let event = client.receive(&mut bytes.as_slice()).unwrap();
    let text = "no \u{fffd}[31m".into();
    assert_eq!(event, Some(Event::Failed(Failure::NotFound, text)));
}

#[test]
fn messages_at_the_wrong_time_end_it() {
    let file = || Report::File(FileFacts::default());
    let done = || Report::Done(Done::default());
    let stdout = || Report::Stdout(b"x");
    let wrong: [(Client, Vec<Report<'_>>); 21] = [
        (run(), vec![stdout()]),
        (run(), vec![exited()]),
        (run(), vec![STARTED, STARTED]),
        (run(), vec![STARTED, exited(), exited()]),
        (run(), vec![STARTED, exited(), stdout()]),
        (run(), vec![failed(), failed()]),
        (run(), vec![STARTED, done()]),
        (run(), vec![file()]),
        (run(), vec![Report::Ready]),
        (run(), vec![STARTED, Report::Hello(Hello::default())]),
        (run(), vec![STARTED, credit(Flow::Stdout, 1)]),
        (run(), vec![credit(Flow::Stdin, 1)]),
        (with_terminal(), vec![STARTED, Report::Stderr(b"x")]),
        (put(), vec![STARTED]),
        (put(), vec![file()]),
        (put(), vec![stdout()]),
        (put(), vec![exited()]),
        (get(), vec![stdout()]),
        (get(), vec![done()]),
        (get(), vec![file(), Report::Stderr(b"x")]),
        (get(), vec![file(), exited()]),
    ];
    for (mut client, reports) in wrong {
        let found = says(&mut client, &reports);
        assert_eq!(found, Err(Violation::Order), "{reports:?}");
    }
    let right: [(Client, Vec<Report<'_>>); 4] = [
        (with_terminal(), vec![STARTED, stdout(), exited()]),
        (get(), vec![file(), stdout(), done()]),
        (put(), vec![done()]),
        (get(), vec![file(), failed()]),
    ];
    for (mut client, reports) in right {
        assert_eq!(says(&mut client, &reports), Ok(()), "{reports:?}");
        assert!(client.is_over());
    }
}

#[test]
fn an_agent_without_credit_is_noticed() {
    let most = vec![0; PAYLOAD_MOST];
    let mut client = run();
    let flood = [STARTED, Report::Stdout(&most), Report::Stderr(&most)];
    says(&mut client, &flood).unwrap();
    for _ in 0..2 {
        says(&mut client, &[Report::Stdout(&most)]).unwrap();
    }
    let mut again = client.clone();
    let more = [Report::Stdout(&most)];
    assert_eq!(says(&mut client, &more), Err(Violation::Credit));
    // It goes on if bytes were taken in between.
    let mut out = Vec::new();
    again.taken(Flow::Stdout, PAYLOAD_MOST, &mut out);
    assert_eq!(out.len(), HEAD + 4, "it gives credit back");
    says(&mut again, &more).unwrap();
}

#[test]
fn input_waits_for_credit() {
    let mut client = run();
    let mut out = Vec::new();
    let much = vec![1; WINDOW as usize];
    let sent = client.stdin(&much, &mut out);
    assert!(out.len() <= WINDOW as usize && sent > 0);
    assert_eq!(client.stdin(&much, &mut out), 0);
    let back = u32::try_from(out.len()).unwrap();
    let mut wrong = client.clone();
    let reports = [
        STARTED,
        credit(Flow::Stdin, back + crate::credit::cost(0) + 1),
    ];
    assert_eq!(says(&mut wrong, &reports), Err(Violation::Credit));
    says(&mut client, &[STARTED, credit(Flow::Stdin, back)]).unwrap();
    assert!(client.stdin_room() > 0);
    client.stdin_end(&mut out);
    assert_eq!(client.stdin(b"late", &mut out), 0);
}

#[test]
fn kinds_of_later_versions_are_passed_over() {
    let mut bytes = Vec::new();
    crate::frame::put(&mut bytes, 1, 200, b"new").unwrap();
    STARTED.put(1, &mut bytes).unwrap();
    let mut client = run();
    let event = client.receive(&mut bytes.as_slice()).unwrap();
    assert_eq!(event, Some(Event::Started(Started { pid: 7 })));
}

proptest! {
    /// A hostile agent says anything, in any pieces: at most a violation.
    #[test]
    fn any_bytes_are_events_or_a_violation(
        frames in proptest::collection::vec(
            (0..45_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
        piece in 1..50_usize,
        about in 0..4,
    ) {
        let mut client = match about {
            0 => run(),
            1 => with_terminal(),
            2 => put(),
            _ => get(),
        };
        let mut bytes = Vec::new();
        for (kind, payload) in &frames {
            crate::frame::put(&mut bytes, 0, *kind, payload).unwrap();
        }
        let mut over = false;
        'all: for piece in bytes.chunks(piece) {
            let mut rest = piece;
            loop {
                match client.receive(&mut rest) {
                    Ok(None) => break,
                    Ok(Some(_)) => prop_assert!(!over, "after the end"),
                    Err(_) => break 'all,
                }
                over = client.is_over();
            }
            prop_assert!(rest.is_empty());
        }
    }
}
