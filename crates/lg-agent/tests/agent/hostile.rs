//! Clients that break the protocol harm their own stream only.

use super::each;
use super::machine::{Machine, start};
use lg_exec::client::Client;
use lg_exec::command::{Command, Flow, Get, Given, Put, Start, kind};
use lg_exec::credit::WINDOW;
use lg_exec::frame;
use lg_exec::report::{Failure, Reason, Status};
use std::io::Write;

/// Sends a frame with any payload.
fn frame(machine: &mut Machine, number: u32, kind: u8, payload: &[u8]) {
    let mut bytes = Vec::new();
    frame::put(&mut bytes, number, kind, payload).unwrap();
    machine.socket.write_all(&bytes).unwrap();
}

/// A run that waits for its client.
fn waiting(machine: &mut Machine) -> u32 {
    let run = machine.shell("read x; exit 6");
    machine.until(run, |run| run.pid > 0);
    run
}

/// That run still works.
fn goes_on(machine: &mut Machine, run: u32) {
    machine.with(run, |run, out| run.client.stdin(b"\n", out));
    assert_eq!(machine.status(run), Status::Code(6));
}

#[test]
fn nonsense_ends_nobody_else() {
    each(|machine| {
        let good = waiting(machine);
        // Streams that do not exist, kinds that do not exist, the machine's.
        for kind in 0..=60 {
            if ![kind::POWER_OFF, kind::START, kind::PUT, kind::GET]
                .contains(&kind)
            {
                frame(machine, 4_000_000_000, kind, b"");
            }
        }
        for kind in [0, 3, 16, 17, 18, 21, 23, 24, 99] {
            frame(machine, 0, kind, b"\xff\xff");
        }
        goes_on(machine, good);
    });
}

#[test]
fn a_first_message_that_cannot_be_read_is_refused() {
    each(|machine| {
        let run = waiting(machine);
        for kind in [kind::START, kind::PUT, kind::GET] {
            let client = match kind {
                kind::START => Client::start(start(&[]), &mut Vec::new()),
                kind::PUT => Client::put(Put::default(), &mut Vec::new()),
                _ => Client::get(Get::default(), &mut Vec::new()),
            };
            let mut bytes = Vec::new();
            frame::put(&mut bytes, 0, kind, b"\xff").unwrap();
            let bad = machine.open(client.unwrap(), &bytes);
            assert_eq!(machine.failure(bad), Failure::Protocol);
        }
        goes_on(machine, run);
    });
}

#[test]
fn a_version_that_is_too_old_is_refused() {
    each(|machine| {
        let run = waiting(machine);
        let other = machine.run(Start {
            version: 0,
            ..start(&["true"])
        });
        assert_eq!(machine.failure(other), Failure::Version);
        goes_on(machine, run);
    });
}

#[test]
fn input_without_credit_ends_its_run() {
    each(|machine| {
        let good = waiting(machine);
        let bad = machine.shell("sleep 1000");
        machine.until(bad, |run| run.pid > 0);
        let all = vec![0; WINDOW as usize];
        machine.with(bad, |run, out| run.client.stdin(&all, out));
        let most = vec![0; frame::PAYLOAD_MOST];
        for _ in 0..=WINDOW as usize / most.len() {
            frame(machine, bad, kind::STDIN, &most);
        }
        assert_eq!(machine.exited(bad).reason, Reason::HangUp);
        goes_on(machine, good);
    });
}

#[test]
fn credit_that_was_not_spent_ends_its_run() {
    each(|machine| {
        for flow in [Flow::Stdin, Flow::Stdout, Flow::Stderr] {
            let bad = machine.shell("sleep 1000");
            machine.until(bad, |run| run.pid > 0);
            let bytes = u32::MAX;
            let mut out = Vec::new();
            Command::Credit(Given { flow, bytes })
                .put(0, &mut out)
                .unwrap();
            machine.send(bad, &out);
            assert_eq!(machine.exited(bad).reason, Reason::HangUp);
        }
        let bad = waiting(machine);
        frame(machine, bad, kind::CREDIT, b"");
        assert_eq!(machine.exited(bad).reason, Reason::HangUp);
        let bad = waiting(machine);
        frame(machine, bad, kind::START, b"");
        assert_eq!(machine.exited(bad).reason, Reason::HangUp);
    });
}

#[test]
fn signals_that_do_not_exist_are_passed_over() {
    each(|machine| {
        let run = waiting(machine);
        for number in [0, 65, 128, 255] {
            machine.with(run, |run, out| run.client.signal(number, out));
        }
        goes_on(machine, run);
    });
}

#[test]
fn a_stream_that_is_cut_wrong_ends_all_runs_but_not_the_agent() {
    each(|machine| {
        let run = waiting(machine);
        machine.socket.write_all(&[0xff; 9]).unwrap();
        assert_eq!(machine.exited(run).reason, Reason::HangUp);
        let run = machine.shell("echo hello");
        assert_eq!(machine.status(run), Status::Code(0));
    });
}
