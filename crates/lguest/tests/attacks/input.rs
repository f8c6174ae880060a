//! Guests that do not take their input.
//!
//! A Guest may bind buffers and never free one. Then input waits. That costs
//! nothing while the Guest sleeps, because the Launcher does not look for a
//! buffer before the Host reports that there may be one.

use crate::script::Record;
use crate::support::processes::Process;
use crate::support::{Running, Scratch, at_rest, guests, lguest};
use crate::target::EMPTY;
use lg_abi::hypercall::Hypercall;
use std::time::Duration;

/// Fewer switches than a thread has that looks every 50 ms.
const FEW: u64 = 15;

/// The Guest sleeps until the end, with a full buffer bound to the console's
/// key. While it is awake, which may be long on a busy machine, the Launcher
/// looks for a buffer every 50 ms.
#[test]
fn a_sleeping_guest_is_not_polled() {
    let scratch = Scratch::new("sleeps");
    let bind = Hypercall::BindDma as u32;
    let mut script = vec![
        Record::fill(EMPTY, 1, 1, 0),
        Record::hypercall(bind, [0, EMPTY, 1 << 8 | 5]),
    ];
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
    let launcher = Process::find(run.pid()).unwrap();
    let before = at_rest(|| launcher.switches());
    std::thread::sleep(Duration::from_secs(2));
    let switches = launcher.switches() - before;
    run.signal(libc::SIGTERM);
    assert_eq!(run.finish().code(), 143);
    let stats = std::fs::read_to_string(stats).unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let looks = stats["launcher"]["input_looks"].as_u64().unwrap();
    assert!(looks > 0 && switches < FEW, "{looks} and {switches}");
}
