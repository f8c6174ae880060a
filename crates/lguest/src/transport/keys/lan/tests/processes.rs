//! Launchers in processes of their own, which are killed.
//!
//! This test binary starts itself. The environment says what the process does.

use super::posts::Poster;
use super::*;
use lg_wire::outbox::FRAMES;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// The environment variables that say what a process is to do.
const PART: &str = "LGUEST_NET_TEST_PART";
const FILE: &str = "LGUEST_NET_TEST_FILE";

/// A process of a test. It is killed at the end of the test.
struct Player {
    child: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Player {
    fn start(part: &str, file: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::start_as(Command::new(program), part, file)
    }

    fn start_as(mut command: Command, part: &str, file: &Path) -> Self {
        let mut child = command
            .args(["--exact", "--nocapture"])
            .arg("transport::keys::lan::tests::processes::play_a_part")
            .env(PART, part)
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Self { child, says }
    }

    /// Waits for the line that begins with `word`, and returns its rest.
    fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.says.read_line(&mut line).unwrap();
            assert!(n > 0, "it ended without saying {word}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn signal(&self, signal: i32) {
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Not a test: what the processes do that the tests start.
#[test]
fn play_a_part() {
    let Some(part) = std::env::var_os(PART) else {
        return;
    };
    let file = PathBuf::from(std::env::var_os(FILE).unwrap());
    match part.to_str().unwrap() {
        "flood" => flood(&file),
        "post" => post(&file),
        "hold" => hold(&file),
        "sink" => sink(&file),
        "alone" => alone(&file),
        "echo" => echo(&file),
        other => panic!("no part {other}"),
    }
}

/// Sends to slot 0 for ever.
fn flood(file: &Path) {
    let (host, lan) = launcher(file, 8);
    host.memory().write(PAGE + 6 * lan.slot(), &[2; 6]).unwrap();
    eventually("it has met", || lan.peers() >= 1);
    host.prepare(&frame(9, 1514));
    say(&format!("ready {}", lan.slot()));
    loop {
        lan.send_frame(SEND, key(0)).unwrap();
    }
}

/// Posts to slot 0 for ever, or sends if it cannot post.
fn post(file: &Path) {
    let (host, lan) = launcher(file, 8);
    eventually("it has met", || lan.peers() >= 1);
    let poster = Poster::new(&lan, 0);
    host.prepare(&frame(9, 1514));
    say(&format!("ready {}", lan.slot()));
    loop {
        if poster.is_open() && poster.room() > 0 {
            poster.put(&frame(9, 1514));
            poster.ring();
        } else if !poster.is_open() {
            lan.send_frame(SEND, key(0)).unwrap();
        }
    }
}

/// Takes the lock of slot 0's port, and keeps it.
fn hold(file: &Path) {
    let (host, lan) = launcher(file, 8);
    host.memory().write(PAGE + 6 * lan.slot(), &[2; 6]).unwrap();
    eventually("it has met", || lan.hold(0));
    say(&format!("ready {}", lan.slot()));
    std::thread::sleep(Duration::from_secs(60));
}

/// Sends each frame back.
fn echo(file: &Path) {
    let (host, lan) = launcher(file, 8);
    eventually("it has met", || lan.peers() >= 1);
    host.prepare(&frame(5, 64));
    say(&format!("ready {}", lan.slot()));
    let mut next = 0;
    loop {
        let _ = host.wait_irq();
        while host.full(next) {
            host.release(next);
            next = (next + 1) % 8;
            lan.send_frame(SEND, key(0)).unwrap();
        }
    }
}

/// Prints how many peers it has after a while.
fn alone(file: &Path) {
    let (_host, lan) = launcher(file, 8);
    say(&format!("ready {}", lan.slot()));
    std::thread::sleep(Duration::from_millis(50));
    say(&format!("peers {}", lan.peers()));
    std::thread::sleep(Duration::from_secs(60));
}

/// Receives and throws away, for ever.
fn sink(file: &Path) {
    let (host, lan) = launcher(file, 8);
    eventually("it has met", || lan.peers() >= 1);
    say(&format!("ready {}", lan.slot()));
    let mut next = 0;
    loop {
        let _ = host.wait_irq();
        while let Some(at) = (0..8).find(|i| host.full((next + i) % 8)) {
            next = (next + at) % 8;
            host.release(next);
            next = (next + 1) % 8;
        }
    }
}

/// Whether frames still go both ways between `a` and `b`.
fn assert_well(a: &Station, b: &Station) {
    for (from, to) in [(a, b), (b, a)] {
        from.0.prepare(&frame(4, 300));
        eventually("a frame gets through", || {
            // Frames of a dead third may still come, and fill all buffers.
            (0..8).for_each(|i| to.0.release(i));
            from.1.send_frame(SEND, key(to.1.slot())) == Ok(300)
        });
        assert!((0..8).any(|i| to.0.take(i) == Some(frame(4, 300))));
    }
}

/// A third Launcher joins `a` and `b`, does `what`, and is killed meanwhile.
/// The two see its end, and go on.
fn kill_a_third(what: &str, file: &Path, a: &Station, b: &Station, round: u32) {
    let mut third = Player::start(what, file);
    assert_eq!(third.wait_for("ready "), "2", "in round {round}");
    eventually("frames come", || (0..8).any(|i| a.0.take(i).is_some()));
    eventually("all have met", || a.1.peers() + b.1.peers() == 4);
    third.kill();
    eventually("its end is seen", || a.1.peers() + b.1.peers() == 2);
    assert_well(a, b);
}

#[test]
fn a_killed_launcher_leaves_the_others_running() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, b) = (launcher(&file, 8), launcher(&file, 8));
    for round in 0..5 {
        kill_a_third("flood", &file, &a, &b, round);
        eventually("its address is cleared", || {
            std::fs::read(&file).unwrap()[12..18] == [0; 6]
        });
        eventually("its socket is removed", || {
            !dir.path().join("lan.2").exists()
        });
    }
}

#[test]
fn a_launcher_killed_while_it_posts_leaves_the_others_running() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, b) = (launcher(&file, 8), launcher(&file, 8));
    for round in 0..5 {
        kill_a_third("post", &file, &a, &b, round);
        eventually("its ring is forgotten", || {
            (0..8).for_each(|i| a.0.release(i));
            a.1.senders() == 1
        });
        // The Launcher that removes it holds its slot for a moment.
        eventually("its socket is removed", || {
            !dir.path().join("lan.2").exists()
        });
    }
}

#[test]
fn a_stopped_launcher_fetches_nothing_and_blocks_no_sender() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let a = launcher(&file, 8);
    let mut sink = Player::start("sink", &file);
    assert_eq!(sink.wait_for("ready "), "1");
    eventually("they have met", || a.1.peers() == 1);
    if !doorbell::is_known() {
        println!(
            "SKIPPED \
                  a_stopped_launcher_fetches_nothing_and_blocks_no_sender: \
                  needs futex_waitv"
        );
        return;
    }
    let poster = Poster::new(&a.1, 1);
    eventually("it is open", || poster.is_open());
    sink.signal(libc::SIGSTOP);
    a.0.prepare(&frame(1, 60));
    let start = Instant::now();
    eventually("there is no room any more", || {
        while poster.room() > 0 {
            poster.put(&frame(1, 60));
            poster.ring();
        }
        std::thread::sleep(Duration::from_millis(5));
        poster.room() == 0
    });
    for _ in 0..100 {
        assert_eq!(a.1.send_frame(SEND, key(1)), Ok(0), "it would overtake");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    sink.signal(libc::SIGCONT);
    eventually("all is fetched", || poster.room() == FRAMES);
    eventually("sent, too", || a.1.send_frame(SEND, key(1)) == Ok(60));
}

#[test]
fn a_lock_dies_with_its_holder() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (mut a, b) = (launcher(&file, 8), launcher(&file, 8));
    eventually("they have met", || a.1.peers() + b.1.peers() == 2);
    let mut hold = Player::start("hold", &file);
    assert_eq!(hold.wait_for("ready "), "2");
    // Meanwhile no peer can send to `a`, but none hangs.
    b.0.prepare(&frame(1, 60));
    let start = Instant::now();
    assert_eq!(b.1.send_frame(SEND, key(0)), Ok(0));
    assert!(start.elapsed() < Duration::from_secs(30));
    // Its own Guest does not hang either when it binds and unbinds.
    a.0.change_bindings(|all| all[0].irq = 6);
    a.1.bindings_changed();
    a.0.change_bindings(|all| all[0].irq = 5);
    a.1.bindings_changed();
    assert!(start.elapsed() < Duration::from_secs(30));
    hold.kill();
    assert_well(&a, &b);
    eventually("its socket is removed", || {
        !dir.path().join("lan.2").exists()
    });
    let mut again = Player::start("flood", &file);
    assert_eq!(again.wait_for("ready "), "2", "the slot is free again");
}

#[test]
fn a_receiver_that_is_killed_is_no_longer_sent_to() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let a = launcher(&file, 8);
    let mut sink = Player::start("sink", &file);
    assert_eq!(sink.wait_for("ready "), "1");
    eventually("they have met", || a.1.peers() == 1);
    a.0.prepare(&frame(1, 1514));
    let mut taken = 0;
    for _ in 0..1000 {
        taken += u32::from(a.1.send_frame(SEND, key(1)) == Ok(1514));
    }
    assert!(taken > 0);
    std::thread::scope(|s| {
        let sender = s.spawn(|| {
            let deadline = Instant::now() + Duration::from_millis(200);
            while Instant::now() < deadline {
                a.1.send_frame(SEND, key(1)).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        sink.kill();
        sender.join().unwrap();
    });
    eventually("its end is seen", || a.1.peers() == 0);
    assert_eq!(a.1.send_frame(SEND, key(1)), Ok(0));
}

#[test]
fn launchers_of_other_users_do_not_meet() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = Scratch::new();
    let file = dir.page("lan");
    let allow_all = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    allow_all(dir.path(), 0o777);
    allow_all(&file, 0o666);
    // Where others may run it, which a target directory need not be.
    let program = dir.path().join("program");
    // Another process writes it: a descriptor of this one might be in a child
    // of another test for a moment, and a program that is open for writing
    // cannot be executed.
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copy.status().unwrap().success());
    allow_all(&program, 0o755);
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(65534);
    } else {
        println!("SKIPPED launchers_of_other_users_do_not_meet: needs root");
        return;
    }
    let a = launcher(&file, 8);
    let mut alone = Player::start_as(command, "alone", &file);
    assert_eq!(alone.wait_for("ready "), "1");
    assert_eq!(alone.wait_for("peers "), "0");
    let b = launcher(&file, 8);
    assert_eq!(b.1.slot(), 2);
    eventually("the others have met", || a.1.peers() + b.1.peers() == 2);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(a.1.peers() + b.1.peers(), 2);
}

/// Measures and prints the cost of a frame. Only absurd results fail.
/// `LGUEST_NET_TEST_FRAMES` sets how long it runs, and `taskset` on which
/// processors.
#[test]
fn what_a_frame_costs() {
    let frames = std::env::var("LGUEST_NET_TEST_FRAMES")
        .map_or(2000, |n| n.parse().unwrap());
    let dir = Scratch::new();
    let file = dir.page("lan");
    let a = launcher(&file, 8);
    // The cost without waiting for a receiver.
    let b = launcher(&file, 8);
    eventually("they have met", || a.1.peers() == 1);
    a.0.prepare(&frame(1, 1514));
    let mut spent = Duration::ZERO;
    for _ in 0..frames / 8 {
        let start = Instant::now();
        for _ in 0..8 {
            assert_eq!(a.1.send_frame(SEND, key(1)), Ok(1514));
        }
        spent += start.elapsed();
        (0..8).for_each(|i| b.0.release(i));
    }
    say(&format!("into free buffers: {:?} a frame", spent / frames));
    drop(b);
    // To another process, which empties its buffers after each interrupt.
    let mut sink = Player::start("sink", &file);
    let slot = sink.wait_for("ready ").parse().unwrap();
    eventually("it receives", || {
        a.1.send_frame(SEND, key(slot)) == Ok(1514)
    });
    let (mut taken, start) = (0_u32, Instant::now());
    for _ in 0..frames {
        taken += u32::from(a.1.send_frame(SEND, key(slot)) == Ok(1514));
    }
    let spent = start.elapsed();
    assert!(taken > 0);
    let rate = f64::from(taken) * 1514e-6 / spent.as_secs_f64();
    say(&format!(
        "to another process: {taken} of {frames} taken, {:?} each, {rate:.0} \
         MB/s",
        spent / taken,
    ));
    drop(sink);
    // There and back again, one at a time.
    let mut echo = Player::start("echo", &file);
    let slot = echo.wait_for("ready ").parse().unwrap();
    a.0.prepare(&frame(5, 64));
    eventually("it receives", || a.1.send_frame(SEND, key(slot)) == Ok(64));
    let (mut next, rounds) = (0, frames.min(20_000));
    let start = Instant::now();
    for _ in 0..rounds {
        while !a.0.full(next) {
            let _ = a.0.wait_irq();
        }
        a.0.release(next);
        next = (next + 1) % 8;
        a.1.send_frame(SEND, key(slot)).unwrap();
    }
    let spent = start.elapsed() / rounds;
    say(&format!("there and back: {spent:?}"));
}
