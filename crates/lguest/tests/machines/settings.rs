//! Machines from files of settings, and as services.

use crate::place::Place;
use crate::support::{Running, Scratch, run};
use std::os::unix::net::UnixDatagram;

#[test]
fn a_file_of_settings_says_what_options_say() {
    let place = Place::new("settings");
    let scratch = Scratch::new("settings");
    let disk = scratch.file("disk", &[0; 64 * 512]);
    let text = format!(
        "name = \"web\"\nmemory = \"16M\"\nuntil = \"lguest> \"\n\
         disk = \"{}\"\nappend = [\"run=uptime\"]\n",
        disk.display()
    );
    let file = scratch.file("web.toml", text.as_bytes());
    let words = format!("run {} --detach --memory 24M", file.display());
    place.done(&words);
    place.wait_for("web", "\nup ");
    let printed = place.done("logs web");
    assert!(printed.contains("memory: 24 MiB"), "{printed}");
    // The settings of a machine make another one.
    let again = place.done("inspect --toml web");
    assert!(again.contains("memory = \"24M\""), "{again}");
    place.done("kill web");
    let again = scratch.file("again.toml", again.as_bytes());
    let words = format!("run --name again --detach {}", again.display());
    place.done(&words);
    let table = place.done("ps");
    assert!(table.contains("again ") && table.contains("24M"), "{table}");
}

#[test]
fn a_wrong_file_of_settings_is_refused() {
    let place = Place::new("wrong-settings");
    let scratch = Scratch::new("wrong-settings");
    let file = scratch.file("web.toml", b"memroy = \"16M\"\n");
    let said = place.fails(2, &format!("run {}", file.display()));
    assert!(said.ends_with("did you mean 'memory'?\n"), "{said}");
    let said = place.fails(2, "run /nowhere.toml");
    assert!(
        said.contains("settings /nowhere.toml: it cannot be read"),
        "{said}"
    );
}

#[test]
fn systemd_is_told_when_the_guest_is_ready() {
    let place = Place::new("notify");
    let scratch = Scratch::new("notify");
    let path = scratch.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = place.command("run --name web");
    command.args(["--until", "ready to serve"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    assert!(place.done("ps").contains(" starting "));
    assert!(socket.recv(&mut [0; 64]).is_err(), "it is not ready");
    guest.type_in(b"echo ready to serve\n");
    socket.set_nonblocking(false).unwrap();
    let mut said = [0; 64];
    let n = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..n], b"READY=1\n");
    assert!(place.done("ps").contains(" running "));
    place.done("stop web");
    guest.finish().ends_well(0);
}

/// The unit's own words are those of the command.
#[test]
fn the_unit_of_systemd_uses_commands_that_there_are() {
    let place = Place::new("unit");
    let unit = include_str!("../../../../deploy/systemd/lguest@.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Exec"));
    let commands: Vec<&str> = lines
        .filter_map(|line| line.split_once("lguest "))
        .map(|p| p.1)
        .collect();
    assert_eq!(commands.len(), 2);
    for words in commands {
        let words = words.replace("%i", "web").replace("%E", "/none");
        let end = run(&mut place.command(&words), b"");
        let said = &end.stderr;
        let known = said.contains("no machine 'web'")
            || said.contains("/none/lguest/web.toml: it cannot be read");
        assert!(known, "{words}: {end:?}");
    }
}
