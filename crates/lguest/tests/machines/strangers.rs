//! Clients that keep to no rule.

use crate::place::Place;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn connect(place: &Place, name: &str) -> UnixStream {
    let stream = UnixStream::connect(place.file(name, "control")).unwrap();
    stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    stream
}

fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn the_socket_speaks_json_rpc() {
    let place = Place::new("rpc");
    place.start("web");
    let mut stream = connect(&place, "web");
    stream
        .write_all(b"{\"jsonrpc\": \"2.0\", \"id\": \"x\", ")
        .unwrap();
    std::thread::sleep(Duration::from_millis(5));
    stream.write_all(b"\"method\": \"pause\"}\n").unwrap();
    assert_eq!(
        line(&stream),
        "{\"id\":\"x\",\"jsonrpc\":\"2.0\",\"result\":{}}\n"
    );
    stream.write_all(b"nonsense\n").unwrap();
    assert!(line(&stream).contains("-32700"));
    let unknown =
        b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"reboot\"}\n";
    stream.write_all(unknown).unwrap();
    assert!(line(&stream).contains("-32601"));
    // A client that sends its call and hangs up.
    stream
        .write_all(b"{\"jsonrpc\": \"2.0\", \"method\": \"resume\"}\n")
        .unwrap();
    drop(stream);
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
}

/// A client that freezes the guest and then does nothing.
#[test]
fn a_frozen_guest_is_seen_and_goes_on_by_resume() {
    let place = Place::new("frozen");
    place.start("web");
    let mut stream = connect(&place, "web");
    let call = |method: &str| {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\"}}\n")
    };
    stream.write_all(call("freeze").as_bytes()).unwrap();
    let frozen = line(&stream);
    assert!(frozen.contains("\"machine\""), "{frozen}");
    assert!(place.done("ps").contains(" paused "));
    place.done("resume web");
    assert!(place.done("ps").contains(" running "));
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    // What it has copied is worth nothing, and it is told so.
    stream.write_all(call("thaw").as_bytes()).unwrap();
    let thawed = line(&stream);
    assert!(thawed.contains("its guest went on meanwhile"), "{thawed}");
    place.done("kill web");
}

#[test]
fn a_line_has_an_end() {
    let place = Place::new("endless");
    place.start("web");
    let mut stream = connect(&place, "web");
    let endless = std::thread::spawn(move || {
        // It is closed before all has been taken.
        let _ = stream.write_all(&vec![b'x'; 10 << 20]);
        stream
    });
    let stream = endless.join().unwrap();
    assert!(line(&stream).contains("a line has 65536 bytes at most"));
    assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0, "it is closed");
    place.done("inspect web");
}

#[test]
fn clients_that_do_not_read_make_room() {
    let place = Place::new("room");
    place.start("web");
    // Each asks without end, and takes no answer.
    let ask = b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"stats\"}\n";
    let stuck: Vec<UnixStream> = (0..140)
        .map(|_| {
            let mut stream = connect(&place, "web");
            stream.set_nonblocking(true).unwrap();
            while stream.write(ask).is_ok() {}
            stream
        })
        .collect();
    let table = place.done("ps");
    assert!(table.contains(" running "), "{table}");
    place.done("send web uptime");
    place.wait_for("web", "\nup ");
    place.done("stop web");
    drop(stuck);
}

#[test]
fn what_is_typed_waits_for_the_guest() {
    let place = Place::new("flood");
    place.start("web");
    // More than the Guest takes while it stands: the rest waits, and the
    // client with it.
    place.done("pause web");
    let data = "eCB4".repeat(8000);
    let call = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"write\",\
         \"params\":{{\"data\":\"{data}\"}}}}\n"
    );
    let mut stream = connect(&place, "web");
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while stream.write(call.as_bytes()).is_ok() && sent < 100 {
        sent += 1;
    }
    assert!(sent < 100, "all was taken");
    drop(stream);
    place.done("resume web");
    place.done("kill web");
    assert!(place.is_empty());
}
