//! Signals at any moment, and processes that are stopped.

use crate::support::processes::{Process, children};
use crate::support::pty::Session;
use crate::support::random::Random;
use crate::support::{Running, lguest, lguest_with, program};
use lguest::machine::signals::NOT_WAITED_FOR;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The signals by which a user ends a program.
const ENDING: [i32; 4] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// A session at its prompt, and its processes.
fn session() -> (Session, Vec<Process>) {
    let session = Session::start(&lguest());
    session.wait_for("lguest> ");
    let children = children(session.run.id());
    (session, children)
}

fn all_gone(children: &[Process]) {
    children.iter().for_each(|child| child.wait_until_gone());
}

#[test]
fn a_signal_at_any_moment_of_the_start_or_the_run() {
    // SIGQUIT writes a core file. The limit forbids it here. The hard limit
    // stays as it is: tests of limits run in the same process at the same time,
    // and an ordinary user cannot raise it again.
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    setrlimit(Resource::Core, none).unwrap();
    let mut random = Random::new(1);
    for n in 0..32 {
        let signal = random.one_of(&ENDING);
        let session = Session::start(&lguest());
        std::thread::sleep(random.up_to_ms(40));
        let children = children(session.run.id());
        session.signal(signal);
        let end = session.finish();
        // Before there is a Guest, a signal has its default effect.
        let early = end.signal() == Some(signal);
        assert!(early || end.code() == 128 + signal, "{n}: {end:?}");
        let word = ["HUP", "INT", "QUIT"].get(signal as usize - 1);
        let word = format!("lguest: ended by SIG{}", word.unwrap_or(&"TERM"));
        assert!(early || end.stdout.contains(&word), "{n}: {end:?}");
        all_gone(&children);
    }
}

#[test]
fn two_signals_at_once_and_sigcont_behind_leave_no_raw_terminal() {
    // A job that may be stopped is ended by SIGTERM and then SIGCONT.
    let mut random = Random::new(2);
    for n in 0..20 {
        let (session, children) = session();
        session.signal(libc::SIGTERM);
        let second = random.one_of(&[libc::SIGCONT, libc::SIGTERM]);
        let (start, time) = (Instant::now(), random.up_to_ms(8));
        while start.elapsed() < time {
            session.signal(second);
        }
        // `finish` checks the terminal.
        let end = session.finish();
        assert_eq!(end.code(), 143, "{n}: {end:?}");
        let said = end.stdout.matches("lguest: ended by SIGTERM").count();
        assert_eq!(said, 1, "{n}: {end:?}");
        all_gone(&children);
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    // As nohup does, and a shell without job control behind its `&`.
    let mut command = program("sh");
    command
        .arg("-c")
        .arg("trap '' HUP INT QUIT; exec \"$0\" run");
    command.arg(env!("CARGO_BIN_EXE_lguest"));
    let mut guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        guest.signal(signal);
    }
    guest.type_in(b"echo still here\n");
    guest.wait_for("\nstill here");
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.finish().code(), 143);
}

#[test]
fn a_stopped_guest_can_be_ended() {
    for n in 0..2 {
        // A view that is stopped takes neither input nor kicks.
        let (session, all) = session();
        all[1].signal(libc::SIGSTOP);
        session.signal(libc::SIGTERM);
        session.ends(143);
        all_gone(&all);

        let (mut session, all) = self::session();
        all[1].signal(libc::SIGSTOP);
        if n == 1 {
            // Input that it has not read comes before the keys that count.
            session.type_in(&b"echo this is not read\r".repeat(100));
            std::thread::sleep(Duration::from_millis(100));
        }
        session.type_three_interrupts();
        session.ends(130);
        all_gone(&all);
    }
}

#[test]
fn the_launcher_of_a_stopped_guest_can_be_stopped() {
    let (session, all) = session();
    all[1].signal(libc::SIGSTOP);
    session.signal(libc::SIGTSTP);
    session.wait_until(Session::is_stopped);
    assert!(session.terminal.is_as_before());
    session.signal(libc::SIGCONT);
    session.wait_until(|s| !s.terminal.is_as_before());
    session.signal(libc::SIGTERM);
    session.ends(143);
    all_gone(&all);
}

#[test]
fn a_stopped_spawner_does_not_delay_the_end() {
    for by_key in [false, true] {
        let (mut session, all) = session();
        all[0].signal(libc::SIGSTOP);
        // A program has a page directory of its own, and so needs a view.
        session.type_in(b"run primes 1000\r");
        std::thread::sleep(Duration::from_millis(100));
        let end = if by_key {
            session.type_three_interrupts();
            session.ends(130)
        } else {
            session.signal(libc::SIGTERM);
            session.ends(143)
        };
        assert!(!end.stdout.contains(NOT_WAITED_FOR), "{end:?}");
        all_gone(&all);
    }
}

#[test]
fn a_spawner_goes_on_after_a_stop() {
    let (mut session, all) = session();
    all[0].signal(libc::SIGSTOP);
    session.type_in(b"run primes 1000\r");
    std::thread::sleep(Duration::from_millis(100));
    all[0].signal(libc::SIGCONT);
    session.wait_for("168");
    session.type_in(b"poweroff 3\r");
    session.ends(3);
}

#[test]
fn a_storm_of_sigcont_costs_no_input() {
    let mut guest = Running::start(&mut lguest_with("run"));
    guest.wait_for("lguest> ");
    let launcher = Process::find(guest.pid()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && launcher.lives() {
                launcher.signal(libc::SIGCONT);
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        for n in 0..40 {
            guest.type_in(&b"echo a line of some length\n".repeat(20));
            guest.type_in(format!("echo part {n}.\n").as_bytes());
            guest.wait_for(&format!("\npart {n}."));
        }
        done.store(true, Ordering::Relaxed);
    });
    guest.type_in(b"poweroff\n");
    guest.finish().ends_well(0);
}

/// Sends signals, also those that rustix does not name.
fn kill(session: &Session, signals: &[i32]) {
    let mut sh = crate::support::program("sh");
    let words: Vec<String> = signals.iter().map(i32::to_string).collect();
    sh.arg("-c").arg(format!(
        "for signal in {}; do kill -$signal {} || exit; done",
        words.join(" "),
        session.run.id()
    ));
    assert!(sh.status().unwrap().success(), "{signals:?}");
}

#[test]
fn signals_without_a_meaning_do_nothing() {
    let mut session = Session::start(&lguest_with("run"));
    session.wait_for("lguest> ");
    let named = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGSTKFLT,
        libc::SIGXFSZ,
        libc::SIGPIPE,
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let all: Vec<i32> = named.into_iter().chain(real_time).collect();
    for signal in &all {
        kill(&session, &[*signal]);
    }
    session.type_in(b"echo still here\r");
    session.wait_for("\nstill here");
    // A process that goes on gets all that have come meanwhile at once, by any
    // of its threads.
    for n in 0..10 {
        session.signal(libc::SIGSTOP);
        session.wait_until(Session::is_stopped);
        kill(&session, &all);
        session.signal(libc::SIGCONT);
        session.type_in(format!("echo here {n}\r").as_bytes());
        session.wait_for(&format!("\nhere {n}"));
    }
    session.type_in(b"poweroff 3\r");
    session.ends(3);
}

#[test]
fn limits_of_time_and_failing_power_are_reported() {
    for (signal, name) in [(libc::SIGXCPU, "SIGXCPU"), (libc::SIGPWR, "SIGPWR")]
    {
        let (session, children) = session();
        kill(&session, &[signal]);
        let end = session.ends(128 + signal);
        let words = format!("lguest: ended by {name}\r\n");
        assert!(end.stdout.ends_with(&words), "{end:?}");
        all_gone(&children);
    }
}

#[test]
fn signals_of_a_broken_process_are_reported_and_leave_no_raw_terminal() {
    for (signal, name) in [
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS: a file in use has become shorter"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGTRAP, "SIGTRAP"),
    ] {
        let mut command = crate::support::program("sh");
        let script = "ulimit -c 0; exec \"$0\" run";
        command.args(["-c", script, env!("CARGO_BIN_EXE_lguest")]);
        let session = Session::start(&command);
        session.wait_for("lguest> ");
        let children = children(session.run.id());
        kill(&session, &[signal]);
        session.wait_for(&format!("lguest: ended by {name}"));
        session.wait_until(|s| s.terminal.is_as_before());
        let end = session.finish();
        assert_eq!(end.signal(), Some(signal), "{end:?}");
        assert!(end.stdout.ends_with("\r\n"), "{end:?}");
        all_gone(&children);
    }
}
