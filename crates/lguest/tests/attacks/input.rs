//! Guests that leave their input waiting.
//!
//! A Guest may bind buffers and never free one. Then input waits, and that
//! costs nothing as long as the Guest sleeps: the Launcher does not look for a
//! buffer before the Host tells it that there may be one.

use crate::script::Record;
use crate::support::{Running, Scratch, guests, lguest};
use crate::target::EMPTY;
use lg_abi::hypercall::Hypercall;
use std::time::Duration;

/// More looks than it takes until the Guest sleeps, and fewer than a look every
/// 50 ms would be.
const FEW: u64 = 15;

/// Sleeps `repeat` times for so long, then until the end, with a full buffer
/// bound to the console's key; answers how often the Launcher looked.
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
    run.type_in(b"nobody takes this");
    std::thread::sleep(wait);
    run.signal(libc::SIGTERM);
    assert_eq!(run.finish().code(), 143);
    let stats = std::fs::read_to_string(stats).unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    stats["launcher"]["input_looks"].as_u64().unwrap()
}

#[test]
fn a_guest_that_sleeps_is_not_looked_at() {
    let looks = looks("sleeps", &[], Duration::from_secs(2));
    assert!((1..FEW).contains(&looks), "{looks}");
}
