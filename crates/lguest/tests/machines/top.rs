//! The table of all machines, and their counters for other programs.

use crate::console::on_a_terminal;
use crate::place::Place;

#[test]
fn the_table_shows_machines_until_it_is_left() {
    let place = Place::new("top");
    place.start("web");
    place.start("db");
    place.done("pause db");
    let mut session = on_a_terminal(&place, "top");
    let shown = session.wait_for("2 machines run; q leaves");
    assert!(shown.contains("web "), "{shown:?}");
    assert!(shown.contains("db                 paused"), "{shown:?}");
    // It is drawn again by itself.
    place.done("kill db");
    session.wait_for("1 machine runs");
    session.wait_until(|s| !s.terminal.is_as_before());
    session.type_in(b"n");
    session.type_in(b"q");
    session.ends(0);
    let mut session = on_a_terminal(&place, "top");
    session.wait_for("1 machine runs");
    session.type_in(b"\x03");
    session.ends(0);
}

#[test]
fn the_terminal_is_as_before_on_every_way_out() {
    let place = Place::new("top-ends");
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let session = on_a_terminal(&place, "top");
        session.wait_for("0 machines run");
        session.wait_until(|s| !s.terminal.is_as_before());
        session.signal(signal);
        session.ends(128 + signal);
    }
    let session = on_a_terminal(&place, "top");
    session.wait_for("0 machines run");
    session.wait_until(|s| !s.terminal.is_as_before());
    session.signal(libc::SIGABRT);
    session.wait_for("lguest: ended by SIGABRT");
    session.wait_until(|s| s.terminal.is_as_before());
    session.finish();
    // The folder of the machines becomes unusable meanwhile.
    place.start("web");
    let session = on_a_terminal(&place, "top");
    session.wait_for("1 machine runs");
    let all = place.folder("web").parent().unwrap().to_owned();
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&all, PermissionsExt::from_mode(mode))
            .unwrap();
    };
    mode(0o755);
    let end = session.ends(120);
    mode(0o700);
    assert!(end.stdout.contains("other users may enter it"), "{end:?}");
    let said = place.fails(123, "top");
    assert!(said.contains("no terminal: 'lguest ps'"), "{said}");
}

/// A Launcher that is stopped delays nothing but its own row.
#[test]
fn a_launcher_that_does_not_answer_is_said_to_be_silent() {
    let place = Place::new("top-silent");
    place.start("web");
    place.start("db");
    let launcher = place.launcher("db");
    launcher.signal(libc::SIGSTOP);
    let mut session = on_a_terminal(&place, "top");
    session.wait_for("db                 silent");
    // On a busy machine its answer may be late, too, but not each second.
    session.wait_for("web                running");
    session.type_in(b"q");
    session.ends(0);
    let text = place.done("stats --prometheus");
    assert!(text.contains("lguest_up{machine=\"db\"} 0\n"), "{text}");
    launcher.signal(libc::SIGCONT);
}

#[test]
fn prometheus_gets_the_counters_of_some_or_all() {
    let place = Place::new("prometheus");
    assert!(
        place
            .done("stats --prometheus")
            .contains("# TYPE lguest_up")
    );
    place.start("web");
    place.start("db");
    let all = place.done("stats --prometheus");
    for machine in ["web", "db"] {
        for name in ["up", "memory_bytes", "host_total", "device_total"] {
            let sample = format!("lguest_{name}{{machine=\"{machine}\"");
            assert!(all.contains(&sample), "{sample}: {all}");
        }
    }
    let used = |text: &str| -> u64 {
        let name = "lguest_processor_microseconds_total{machine=\"web\"} ";
        let value = text.split_once(name).unwrap().1;
        value.lines().next().unwrap().parse().unwrap()
    };
    let one = place.done("stats --prometheus web");
    assert!(!one.contains("db"), "{one}");
    assert!(used(&one) > 0 && used(&one) >= used(&all), "{one}");
    place.fails(127, "stats --prometheus web none");
    assert_eq!(place.run("stats web db").code(), 2);
    assert_eq!(place.run("stats").code(), 2);
}
