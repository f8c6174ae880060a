//! Guests that do not take their input.
//!
//! A Guest may bind buffers and never free one. Then input waits. That costs
//! nothing while the Guest sleeps, because the Launcher does not look for a
//! buffer before the Host reports that there may be one.

use crate::script::Record;
use crate::support::{Running, Scratch, guests, lguest};
use crate::target::EMPTY;
use lg_abi::hypercall::Hypercall;
use std::time::Duration;

/// More looks than there are until the Guest sleeps, and fewer than with a look
/// every 50 ms.
const FEW: u64 = 15;

/// The Guest sleeps as `sleeps` says, then until the end, with a full buffer
/// bound to the console's key. Returns how often the Launcher looked for a
/// buffer.
fn looks(name: &str, sleeps: &[Record], wait: Duration) -> u64 {
    let scratch = Scratch::new(name);
    let bind = Hypercall::BindDma as u32;
    let mut script = vec![
        Record::fill(EMPTY, 1, 1, 0),
        Record::hypercall(bind, [0, EMPTY, 1 << 8 | 5]),
    ];
    script.extend(sleeps);
    let halt = Record::hypercall(Hypercall::Halt as u32, [0; 3]);
    script.extend([halt, Record::repeat(1, u64::from(u32::MAX))]);
    let script = scratch.file("script", &Record::all_bytes(&script));
    let stats = scratch.path("stats");
    let mut command = lguest();
    command.args(["run", "--memory=16", "--append=attack=script quiet"]);
    command.arg("--kernel").arg(guests().join("built/attacks"));
    command.arg("--initrd").arg(script);
    command.arg("--stats").arg(&stats);
    let mut run = Running::start(&mut command);
    run.wait_for("begin");
    run.type_in(b"this is not read");
    std::thread::sleep(wait);
    run.signal(libc::SIGTERM);
    assert_eq!(run.finish().code(), 143);
    let stats = std::fs::read_to_string(stats).unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    stats["launcher"]["input_looks"].as_u64().unwrap()
}

#[test]
fn a_sleeping_guest_is_not_polled() {
    let looks = looks("sleeps", &[], Duration::from_secs(2));
    assert!((1..FEW).contains(&looks), "{looks}");
}
