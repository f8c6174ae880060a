//! SIGKILL and SIGSTOP for any process of a machine, at any moment.
//!
//! This is checked for each process, and for each work of the Guest. The
//! Launcher says why it ends, with the right exit code, or it was killed
//! itself. No process remains. The terminal is as before. The disk has every
//! acknowledged write. The next Launcher starts on the same files. The target
//! and the moment are random, but the same every time. A run that fails prints
//! its number.
//!
//! `LGUEST_TEST_FAULT_RUNS` sets the number of runs, or with `N..M` which runs.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::processes::{Process, children};
use support::pty::Session;
use support::random::Random;
use support::{PATIENCE, Running, Scratch, lguest};

/// The Guest's work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scene {
    Boot,
    Idle,
    Output,
    Disk,
    Network,
    Programs,
}

/// The process that gets the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Launcher,
    Spawner,
    /// The first view, or another one if there is one.
    View,
}

/// The fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    /// Stopped for a while. Afterwards the machine goes on as before.
    Pause,
    /// Stopped for ever. Then the user ends the machine.
    StopAndSignal,
    StopAndType,
}

/// The runs to do: a few, or those that the environment names.
fn runs() -> Range<usize> {
    let Ok(wanted) = std::env::var("LGUEST_TEST_FAULT_RUNS") else {
        return 0..40;
    };
    match wanted.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..wanted.parse().unwrap(),
    }
}

/// Sectors that one `dd` writes.
const SECTORS: usize = 8;
const SECTOR: usize = 512;

/// The most `dd`s in a run.
const WRITES: usize = 100;

#[test]
fn each_process_may_be_killed_or_stopped_at_any_moment() {
    // Processes that lose a killed parent become children of this process, so
    // that it sees them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .unwrap();
    let scratch = Scratch::new("kills");
    let (disk, lan) = (scratch.path("disk"), scratch.file("lan", &[0; 4096]));
    // Another Guest on the network, which is never hit.
    let mut neighbour = Running::start(&mut machine(None, &lan));
    neighbour.wait_for("lguest> ");
    let neighbours = children(neighbour.pid());

    let mut told = Vec::new();
    for run in runs() {
        let start = Instant::now();
        let mut random = Random::new(run as u64);
        let scene = random.one_of(&[
            Scene::Boot,
            Scene::Idle,
            Scene::Output,
            Scene::Disk,
            Scene::Network,
            Scene::Programs,
        ]);
        let fault = random.one_of(&[
            Fault::Kill,
            Fault::Kill,
            Fault::Pause,
            Fault::StopAndSignal,
            Fault::StopAndType,
        ]);
        let victim = random.one_of(&[
            Victim::Launcher,
            Victim::Spawner,
            Victim::View,
            Victim::View,
        ]);
        println!("run {run}: {scene:?}, {victim:?}, {fault:?}");
        if scene == Scene::Network {
            // It may still wait for data from a Guest that was killed.
            neighbour.type_in(b"\x03\ntcp-serve\n");
        }
        std::fs::write(&disk, vec![0; WRITES * SECTORS * SECTOR]).unwrap();
        let hit = hit(scene, victim, fault, &mut random, &disk, &lan);
        told.push(format!("{scene:?} {victim:?} {fault:?}: {hit}"));
        no_other_process_is_left(neighbour.pid());
        println!("    {hit} after {:?}", start.elapsed());
    }
    assert!(neighbours.iter().all(|process| process.lives()));
    drop(neighbour);
    told.sort();
    for line in told.chunk_by(|a, b| a == b) {
        println!("{:4} {}", line.len(), line[0]);
    }
}

fn machine(disk: Option<&Path>, lan: &Path) -> Command {
    let mut command = lguest();
    command.args(["run", "--append=quiet"]);
    command.arg(format!("--net=sharenet={}", lan.display()));
    if let Some(disk) = disk {
        command.arg(format!("--disk={}", disk.display()));
    }
    command
}

/// One run. Returns how it ended, for the list.
fn hit(
    scene: Scene,
    victim: Victim,
    fault: Fault,
    random: &mut Random,
    disk: &Path,
    lan: &Path,
) -> String {
    let mut session = Session::start(&machine(Some(disk), lan));
    if scene != Scene::Boot {
        session.wait_for("lguest> ");
        session.type_in(&lines(scene));
    }
    std::thread::sleep(random.up_to_ms(60));
    // Without the porter of the network, which is no part of the Guest.
    let is_part = |process: &Process| process.name().contains("lguest-vi");
    let mut parts = children(session.run.id());
    parts.retain(is_part);
    let pick = match victim {
        Victim::Launcher => Process::find(session.run.id()),
        Victim::Spawner => parts.first().copied(),
        Victim::View if parts.len() > 1 => {
            Some(parts.remove(1 + random.below(parts.len() - 1)))
        }
        Victim::View => None,
    };
    let Some(process) = pick else {
        // If it does not exist yet, the Launcher gets the signal.
        session.signal(libc::SIGTERM);
        let end = session.finish();
        let early = end.signal() == Some(libc::SIGTERM);
        assert!(early || end.code() == 143, "{end:?}");
        return "ended before the process existed".into();
    };
    let end = match fault {
        Fault::Kill => {
            process.signal(libc::SIGKILL);
            let end = session.finish();
            killed(victim, &end);
            end
        }
        Fault::Pause => {
            process.signal(libc::SIGSTOP);
            std::thread::sleep(random.up_to_ms(100));
            process.signal(libc::SIGCONT);
            session.wait_for("lguest> ");
            // It reads its input, and has received all that was typed.
            let deadline = Instant::now() + PATIENCE;
            while !session.shown().contains("\nstill here") {
                assert!(Instant::now() < deadline, "{}", session.shown());
                session.type_in(b"\x03\recho still here\r");
                std::thread::sleep(Duration::from_millis(100));
            }
            session.type_in(b"\x03\rpoweroff\r");
            session.ends(0)
        }
        Fault::StopAndSignal => {
            process.signal(libc::SIGSTOP);
            std::thread::sleep(random.up_to_ms(30));
            session.signal(libc::SIGTERM);
            if victim == Victim::Launcher {
                process.signal(libc::SIGCONT);
            }
            by_signal(session.finish(), libc::SIGTERM)
        }
        Fault::StopAndType => {
            session.wait_until(|s| {
                !s.terminal.is_as_before()
                    || Process::find(s.run.id()).is_none()
            });
            process.signal(libc::SIGSTOP);
            session.type_three_interrupts();
            if victim == Victim::Launcher {
                process.signal(libc::SIGCONT);
            }
            by_signal(session.finish(), libc::SIGINT)
        }
    };
    acknowledged_is_written(&end.stdout, disk);
    match end.status.code() {
        Some(code) => format!("exit {code}"),
        None => format!("signal {}", end.signal().unwrap()),
    }
}

/// The input that starts a scene.
fn lines(scene: Scene) -> Vec<u8> {
    let text = match scene {
        Scene::Boot | Scene::Idle => String::new(),
        Scene::Output => "help\r".repeat(100),
        Scene::Disk => {
            let dd = |n| format!("dd {} {SECTORS} yes\r", n * SECTORS);
            (0..WRITES).map(dd).collect()
        }
        Scene::Network => "tcp-send 10.0.0.1 4000\r".into(),
        Scene::Programs => "run primes 300\r".repeat(100),
    };
    // No more than a terminal buffers for its reader.
    let end = text.len().min(2000);
    text.as_bytes()[..end].to_vec()
}

/// A process was killed. The Launcher reports it, or was killed itself.
fn killed(victim: Victim, end: &support::Finished) {
    if victim == Victim::Launcher {
        assert_eq!(end.signal(), Some(libc::SIGKILL), "{end:?}");
        return;
    }
    // Before the Guest runs, this counts as a machine on which it does not
    // start.
    let code = end.code();
    let reason = match code {
        121 => "lguest: cannot start the guest's processes: ",
        122 => "lguest: lost: ",
        _ => panic!("{end:?}"),
    };
    assert!(end.stdout.contains(reason), "{end:?}");
    let why = "was killed from outside (SIGKILL)";
    assert!(end.stdout.contains(why), "{end:?}");
}

/// The user has ended it, perhaps before it caught signals.
fn by_signal(end: support::Finished, signal: i32) -> support::Finished {
    let early = end.signal() == Some(signal);
    assert!(early || end.code() == 128 + signal, "{end:?}");
    let reason = match signal {
        libc::SIGINT => "lguest: ended by ^C^C^C",
        _ => "lguest: ended by SIGTERM",
    };
    assert!(early || end.stdout.contains(reason), "{end:?}");
    end
}

/// All that the Guest has reported as written and read back is in the file.
/// After it there is at most the one that it was writing.
fn acknowledged_is_written(shown: &str, disk: &Path) {
    let written = shown.matches("read back the same").count();
    let file = std::fs::read(disk).unwrap();
    let mut pieces = file.chunks(SECTORS * SECTOR);
    let is_full = |piece: &[u8]| {
        piece
            .chunks(SECTOR)
            .all(|s| s.iter().any(|&byte| byte != 0))
    };
    let full = pieces.by_ref().take(written).all(is_full);
    assert!(full, "{written} acknowledged: {shown}");
    pieces.next();
    assert!(pieces.all(|piece| piece.iter().all(|&byte| byte == 0)));
}

/// Waits until only this process and the neighbour are left.
fn no_other_process_is_left(neighbour: u32) {
    let deadline = Instant::now() + PATIENCE;
    let me = std::process::id();
    loop {
        let left: Vec<Process> = children(me)
            .into_iter()
            .filter(|p| p.pid != neighbour && p.lives())
            .collect();
        if left.is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "these processes remain: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    // Reaps those that have become children of this process.
    while let Ok(Some(_)) =
        rustix::process::wait(rustix::process::WaitOptions::NOHANG)
    {}
}
