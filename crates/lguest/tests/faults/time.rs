//! Time in which the Guest was stopped.

use crate::support::processes::{Process, children};
use crate::support::{Running, Scratch, lguest};
use std::time::{Duration, Instant};

/// A Guest with a network on which there is no other Guest.
fn guest(scratch: &Scratch) -> (Running, Vec<Process>) {
    let lan = scratch.file("lan", &[0; 4096]);
    let mut command = lguest();
    command.args(["run", "--append=quiet"]);
    command.arg(format!("--net=sharenet={}", lan.display()));
    let guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    let mut all = children(guest.pid());
    all.extend(Process::find(guest.pid()));
    (guest, all)
}

/// A time that the Guest has printed, and the moments before and after.
struct Told {
    seconds: f64,
    asked: Instant,
    answered: Instant,
}

/// The `n`th answer to `uptime`, counted from 1.
fn uptime(guest: &mut Running, n: usize) -> Told {
    let asked = Instant::now();
    guest.type_in(b"uptime\n");
    let said = guest.wait_for_nth(" timer interrupts", n);
    let line = said.rsplit("\nup ").next().unwrap();
    let word = line.split_whitespace().next().unwrap();
    Told {
        seconds: word.parse::<f64>().unwrap() / 1000.0,
        asked,
        answered: Instant::now(),
    }
}

#[test]
fn a_guest_that_was_stopped_has_the_right_time_and_timers_that_work() {
    // The Launcher alone, the views alone, all of them.
    for part in 0..3 {
        let scratch = Scratch::new("stopped");
        let (mut guest, all) = guest(&scratch);
        let (launcher, views) = all.split_last().unwrap();
        let hit: Vec<Process> = match part {
            0 => vec![*launcher],
            1 => views.to_vec(),
            _ => all.clone(),
        };
        let before = uptime(&mut guest, 1);
        // A timer runs when they are stopped, and is long due afterwards.
        guest.type_in(b"ping 10.0.0.77 1\n");
        std::thread::sleep(Duration::from_millis(100));
        hit.iter().for_each(|process| process.signal(libc::SIGSTOP));
        std::thread::sleep(Duration::from_millis(1500));
        hit.iter().for_each(|process| process.signal(libc::SIGCONT));
        guest.wait_for("0 of 1 answered");
        let now = uptime(&mut guest, 2);
        let told = now.seconds - before.seconds;
        // The answers may take any time. The Guest's time must be what has
        // passed, within the error of the time-stamp counter's rate.
        let least = (now.asked - before.answered).as_secs_f64();
        let most = (now.answered - before.asked).as_secs_f64();
        let right = least * 0.98 - 0.02..=most * 1.02 + 0.02;
        assert!(right.contains(&told), "{part}: {told}, not in {right:?}");
        // A timer that is set afterwards works, too.
        let start = Instant::now();
        guest.type_in(b"ping 10.0.0.78 1\n");
        guest.wait_for_nth("0 of 1 answered", 2);
        assert!(start.elapsed() > Duration::from_millis(900), "{part}");
        guest.type_in(b"poweroff\n");
        guest.finish().ends_well(0);
    }
}
