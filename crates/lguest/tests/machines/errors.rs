//! What can go wrong with each command, and what is said.

use crate::place::Place;
use crate::support::Running;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Makes a folder that is only ours.
fn make(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let only_ours = fs::Permissions::from_mode(0o700);
    fs::set_permissions(folder, only_ours).unwrap();
}

/// The commands that need a machine. None of them makes a file here.
const VERBS: [&str; 16] = [
    "console web",
    "logs web",
    "stop web",
    "kill web",
    "pause web",
    "resume web",
    "wait web",
    "stats web",
    "inspect web",
    "send web text",
    "device list web",
    "device remove web disk0",
    "snapshot web no-such-folder",
    "clone web",
    "trace web --seconds 1",
    "profile web --seconds 1 --folded -",
];

/// Those that use what a machine has left, too.
const OF_THE_ENDED: [&str; 3] = ["logs web", "wait web", "inspect web"];

#[test]
fn there_is_no_such_machine() {
    let place = Place::new("none");
    for again in [false, true] {
        if again {
            make(&place.folder(""));
        }
        for words in VERBS.into_iter().chain(["rm web"]) {
            let said = place.fails(127, words);
            let expected = "lguest: there is no machine 'web': 'lguest ps' \
                            lists those that there are\n";
            assert_eq!(said, expected);
        }
        place.done("kill --all");
        place.done("rm --all");
    }
}

#[test]
fn a_machine_has_ended() {
    let place = Place::new("ended");
    place.start("web");
    place.done("stop web");
    for words in VERBS {
        if OF_THE_ENDED.contains(&words) {
            place.done(words);
            continue;
        }
        let said = place.fails(126, words);
        let expected = "lguest: machine 'web' has ended (powered off): \
                        'lguest logs web' shows its last output, 'lguest rm \
                        web' removes it\n";
        assert_eq!(said, expected, "{words}");
    }
    // Its name is not free.
    let said = place.fails(126, "run --name web");
    assert!(said.contains("has ended (powered off)"), "{said}");
    place.done("rm web");
    place.start("web");
    let said = place.fails(126, "rm web");
    assert!(said.contains("machine 'web' runs: end it first"), "{said}");
}

#[test]
fn a_launcher_was_killed() {
    let place = Place::new("dead");
    place.start("web");
    let launcher = place.launcher("web");
    launcher.signal(libc::SIGKILL);
    launcher.wait_until_gone();
    for words in VERBS {
        match words {
            "wait web" => assert_eq!(place.run(words).code(), 123),
            words if OF_THE_ENDED.contains(&words) => {
                place.done(words);
            }
            words => {
                let said = place.fails(126, words);
                let why = "machine 'web' has ended (its launcher was killed";
                assert!(said.contains(why), "{words}: {said}");
            }
        }
    }
    place.done("rm web");
    assert!(place.is_empty());
}

#[test]
fn a_name_is_given_once() {
    let place = Place::new("twice");
    // All begin at the same time, and one of them gets the name.
    let starts: Vec<Running> = (0..4)
        .map(|_| Running::start(&mut place.command("run --name web --detach")))
        .collect();
    let ends = starts.into_iter().map(Running::finish);
    let (good, bad): (Vec<_>, Vec<_>) = ends.partition(|end| end.code() == 0);
    assert_eq!(good.len(), 1, "{bad:?}");
    for end in bad {
        assert_eq!(end.code(), 126);
        let words = "a machine 'web' runs already: choose another name";
        assert!(end.stderr.contains(words), "{end:?}");
    }
}

#[test]
fn names_are_checked() {
    let place = Place::new("names");
    for bad in ["../x", "a/b", "..", ".x", &"x".repeat(49)] {
        for words in ["run --name", "logs", "rm"] {
            let end = place.run(&format!("{words} {bad}"));
            assert_eq!(end.code(), 2, "{words} {bad}: {end:?}");
            assert!(end.stderr.contains("a name has up to"), "{end:?}");
        }
    }
    assert!(place.is_empty());
}

#[test]
fn a_socket_is_gone_or_a_launcher_does_not_answer() {
    let place = Place::new("gone");
    place.start("web");
    let launcher = place.launcher("web");
    launcher.signal(libc::SIGSTOP);
    let said = place.fails(126, "pause web");
    assert!(
        said.contains("'web' does not answer (no answer in time)"),
        "{said}"
    );
    // The list does not wait for it.
    let table = place.done("ps");
    assert!(table.contains(" running "), "{table}");
    // It cannot end its machine, so its process is killed.
    place.done("kill web");
    launcher.wait_until_gone();
    assert!(place.is_empty());

    place.start("web");
    let launcher = place.launcher("web");
    fs::remove_file(place.file("web", "control")).unwrap();
    // That ends it even now.
    for words in VERBS.into_iter().filter(|words| *words != "kill web") {
        let said = place.fails(126, words);
        assert!(said.contains("'web' does not answer ("), "{words}: {said}");
    }
    launcher.signal(libc::SIGTERM);
    launcher.wait_until_gone();
    assert!(place.done("ps").contains("ended by SIGTERM"));
}

/// A Launcher that is stopped, and whose socket takes no more clients.
#[test]
fn a_launcher_that_takes_no_clients_is_killed() {
    let place = Place::new("no-clients");
    place.start("web");
    let launcher = place.launcher("web");
    launcher.signal(libc::SIGSTOP);
    let socket = place.file("web", "control");
    // They wait to be accepted until there is no room for more.
    let connect = || {
        let flags = SocketFlags::NONBLOCK;
        let family = AddressFamily::UNIX;
        let client = socket_with(family, SocketType::STREAM, flags, None);
        let client = client.unwrap();
        let address = SocketAddrUnix::new(&socket).unwrap();
        rustix::net::connect(&client, &address)
            .ok()
            .map(|()| client)
    };
    let waiting: Vec<_> = std::iter::from_fn(connect).collect();
    assert!(waiting.len() >= 128, "{}", waiting.len());
    place.fails(126, "pause web");
    place.done("kill web");
    launcher.wait_until_gone();
    assert!(place.is_empty());
}

#[test]
fn a_place_that_is_not_ours_is_refused() {
    let place = Place::new("theirs");
    let folder = place.folder("web");
    let all = folder.parent().unwrap().to_owned();
    fs::create_dir(&all).unwrap();
    let mode =
        |mode| fs::set_permissions(&all, fs::Permissions::from_mode(mode));
    mode(0o755).unwrap();
    let others = ["run --name web --detach", "ps", "rm web"];
    for words in others.into_iter().chain(VERBS) {
        let said = place.fails(120, words);
        assert!(
            said.contains("/lguest: other users may enter it: "),
            "{said}"
        );
    }
    mode(0o700).unwrap();
    // A machine's folder that leads elsewhere.
    symlink("/", &folder).unwrap();
    let said = place.fails(120, "logs web");
    assert!(said.contains("/lguest/web: it is no folder"), "{said}");
    assert_eq!(place.done("ps --json"), "[]\n");
    fs::remove_file(&folder).unwrap();
    // Files that lead elsewhere are not read.
    place.start("web");
    place.done("stop web");
    let facts = place.file("web", "facts");
    let elsewhere = all.with_file_name("elsewhere");
    fs::rename(&facts, &elsewhere).unwrap();
    fs::copy(&elsewhere, &facts).unwrap();
    place.done("inspect web");
    fs::remove_file(&facts).unwrap();
    symlink(&elsewhere, &facts).unwrap();
    place.fails(127, "inspect web");
    fs::remove_file(&elsewhere).unwrap();
}

#[test]
fn a_path_is_too_long_or_cannot_be_made() {
    let place = Place::new(&"long".repeat(20));
    let said = place.fails(120, "run --name web --detach");
    assert!(said.contains("the path is too long for a socket"), "{said}");
    let mut command = place.command("run --name web --detach");
    command.env("XDG_RUNTIME_DIR", "/proc/none");
    let end = crate::support::run(&mut command, b"");
    assert_eq!(end.code(), 120, "{end:?}");
    let words = "/proc/none/lguest: the folder for machines cannot be used: ";
    assert!(end.stderr.contains(words), "{end:?}");
}

/// Folders without a process behind them: of a Launcher that was killed before
/// its machine ran, and of one that was killed later.
#[test]
fn what_a_killed_launcher_leaves_is_cleaned() {
    let place = Place::new("cleaned");
    place.start("other");
    make(&place.folder("half"));
    fs::write(place.file("half", "facts"), "").unwrap();
    fs::write(place.file("half", "lock"), "").unwrap();
    assert!(!place.done("ps").contains("half"));
    assert!(!place.folder("half").exists());
    place.done("kill other");
    assert!(place.is_empty());
}
