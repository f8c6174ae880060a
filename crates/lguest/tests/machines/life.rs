//! From the start of a machine to its end.

use crate::place::Place;
use crate::support::{Running, run};

#[test]
fn a_machine_is_found_looked_at_and_stopped() {
    let place = Place::new("life");
    assert_eq!(place.done("ps --json"), "[]\n");
    place.start("web");
    let launcher = place.launcher("web");
    let table = place.done("ps");
    let row: Vec<&str> =
        table.lines().nth(1).unwrap().split_whitespace().collect();
    let pid = launcher.pid.to_string();
    assert_eq!(row[..3], ["web", "running", &pid], "{table}");
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    assert!(place.done("stats web").contains(".bytes_in"));
    // The built-in guest is asked, and powers off.
    let end = place.run("stop web");
    assert_eq!(end.code(), 0, "{end:?}");
    assert_eq!(end.stderr, "lguest: machine 'web': powered off\n");
    launcher.wait_until_gone();
    let table = place.done("ps");
    assert!(table.contains("ended 0"), "{table}");
    assert!(place.done("logs web").contains("lguest guest ready"));
    assert!(place.done("inspect web").contains("\"state\": \"ended\""));
    assert_eq!(place.run("wait web").code(), 0);
    place.done("rm web");
    assert!(place.is_empty());
}

#[test]
fn wait_ends_with_the_guests_code() {
    let place = Place::new("wait");
    place.start("web");
    let waiting = Running::start(&mut place.command("wait web"));
    let mut typed = place.command("send web");
    typed.arg("poweroff 7");
    assert_eq!(run(&mut typed, b"").code(), 0);
    assert_eq!(waiting.finish().code(), 7);
    // Later, too.
    assert_eq!(place.run("wait web").code(), 7);
    place.done("rm --all");
    assert!(place.is_empty());
}

#[test]
fn a_guest_that_does_not_power_off_is_killed() {
    let place = Place::new("stop");
    let deaf = "--stop-with=uptime";
    place.start_with("deaf", deaf);
    // Time in which a busy machine lets the guest print what was typed.
    let end = place.run("stop deaf --timeout 3s");
    assert_eq!(end.code(), 0, "{end:?}");
    let words = "did not power off within 3s, and was killed";
    assert!(end.stderr.contains(words), "{end:?}");
    // What it was asked with is in its last output.
    assert!(place.done("logs deaf").contains("uptime"));
    assert_eq!(place.run("wait deaf").code(), 137);
    place.done("rm deaf");
    assert!(place.is_empty());
}

#[test]
fn a_paused_guest_stands_and_goes_on() {
    let place = Place::new("pause");
    place.start("web");
    place.done("pause web");
    place.done("pause web");
    assert!(place.done("ps").contains(" paused "));
    let before = place.done("logs web");
    place.done("send web uptime");
    assert_eq!(place.done("logs web"), before);
    place.done("resume web");
    place.wait_for("web", "\nup ");
    // A paused one can be ended.
    place.done("pause web");
    place.done("kill web");
    assert!(place.is_empty());
}

/// The last words of a guest that crashes, and of a Launcher that is killed.
#[test]
fn a_dead_machine_leaves_its_reason_and_its_last_output() {
    let place = Place::new("dead");
    place.start("crash");
    let mut send = place.command("send crash");
    send.arg("panic out of \u{1b}[31mpaint");
    assert_eq!(run(&mut send, b"").code(), 0);
    assert_eq!(place.run("wait crash").code(), 1);
    let table = place.done("ps");
    assert!(table.contains("ended 1"), "{table}");
    assert!(table.contains("CRASH: "), "{table}");
    assert!(!table.contains('\u{1b}'), "{table}");

    place.start("killed");
    place.done("send killed uptime");
    place.wait_for("killed", "\nup ");
    let launcher = place.launcher("killed");
    let waiting = Running::start(&mut place.command("wait killed"));
    launcher.signal(libc::SIGKILL);
    assert_eq!(waiting.finish().code(), 123);
    launcher.wait_until_gone();
    assert!(place.done("logs killed").contains("\nup "));
    let table = place.done("ps");
    assert!(table.contains("its launcher was killed"), "{table}");
    assert!(!place.file("killed", "control").exists());

    place.start("signal");
    place.launcher("signal").signal(libc::SIGTERM);
    assert_eq!(place.run("wait signal").code(), 143);
    assert!(place.done("ps").contains("ended by SIGTERM"));
    place.done("rm --all");
    assert!(place.is_empty());
}

#[test]
fn a_machine_that_does_not_start_leaves_nothing() {
    let place = Place::new("nothing");
    let said = place.fails(120, "run --name web --detach --kernel /none");
    assert!(said.contains("image /none: "), "{said}");
    place.done("rm --all");
    assert!(place.is_empty());
    // It ends before it is ready.
    let mut command = place.command("run --name web --detach --append");
    command.args(["run=\"poweroff\"", "--until", "login:"]);
    let end = run(&mut command, b"");
    assert_eq!(end.code(), 1, "{end:?}");
    assert!(end.stderr.contains("before it was ready"), "{end:?}");
    let mut command = place.command("run --name slow --detach --timeout 200ms");
    command.args(["--until", "login:"]);
    let end = run(&mut command, b"");
    assert_eq!(end.code(), 124, "{end:?}");
    assert!(end.stderr.contains("by --timeout"), "{end:?}");
    place.done("rm --all");
    assert!(place.is_empty());
}

/// The command ends when the machine runs, behind all of its walls.
#[test]
fn messages_of_a_detached_start_are_all_printed() {
    let place = Place::new("messages");
    let end = place.run("run --name web --detach --verbose");
    assert_eq!(end.code(), 0, "{end:?}");
    assert!(end.stderr.contains("wall seccomp: "), "{end:?}");
}

/// In the foreground its own terminal, or pipe, is a console as without a name.
#[test]
fn a_machine_in_the_foreground_is_found_too() {
    let place = Place::new("foreground");
    let mut guest = Running::start(&mut place.command("run --name web"));
    guest.wait_for("lguest> ");
    guest.type_in(b"echo first\n");
    guest.wait_for("\nfirst");
    place.done("send web uptime");
    guest.wait_for("\nup ");
    // The end of its input does not end the clients'.
    guest.close_input();
    place.done("send web help");
    guest.wait_for("poweroff");
    place.done("send web poweroff");
    assert_eq!(guest.finish().ends_well(0).code(), 0);
    place.done("rm web");
    assert!(place.is_empty());
    // An input that cannot be watched.
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut command = place.command("run --name web");
    command.stdin(null).stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let patience = std::time::Instant::now();
    while place.run("send web poweroff").code() != 0 {
        assert!(patience.elapsed() < crate::support::PATIENCE);
    }
    assert_eq!(crate::support::end_of(&mut child).unwrap().code(), Some(0));
}

#[test]
fn logs_follow_and_begin_at_a_time() {
    let place = Place::new("logs");
    place.start("web");
    let follows = Running::start(&mut place.command("logs --follow web"));
    follows.wait_for("lguest> ");
    place.done("send web uptime");
    // Nothing is printed after the second prompt.
    let printed = follows.wait_for_nth("lguest> ", 2);
    assert!(printed.contains("\nup "), "{printed}");
    assert!(place.done("logs web --since 1h").contains("ready"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(place.done("logs web --since 1ms"), "");
    place.done("stop web");
    let all = follows.finish().ends_well(0).stdout;
    assert!(all.contains("poweroff"), "{all}");
    assert_eq!(place.done("logs web"), all);
}
