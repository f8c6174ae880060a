//! Counters of a machine for programs that connect to it.

use crate::place::Place;
use crate::support::free_port;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Starts a machine that has counters at a port, and returns the port.
fn start(place: &Place, options: &str) -> u16 {
    loop {
        let port = free_port();
        let words = format!("run --name web --detach --metrics {port}");
        let end = place.run(&format!("{words} {options}"));
        // Another program may have taken it meanwhile.
        if end.stderr.contains("Address already in use") {
            continue;
        }
        assert_eq!((end.code(), &*end.stderr), (0, ""), "{end:?}");
        return port;
    }
}

fn ask(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    // A connection that is closed with bytes unread is reset, perhaps before
    // all of a long request is sent.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn counters_are_read_by_http_and_nothing_else_is() {
    let place = Place::new("metrics");
    let port = start(&place, "");
    let get = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = ask(port, get);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let length = format!("Content-Length: {}", text.len());
    assert!(head.contains(&length), "{answer}");
    assert!(text.contains("lguest_up{machine=\"web\"} 1\n"), "{answer}");
    assert!(text.contains("counter=\"bytes_out\"} "), "{answer}");
    let other = ask(port, b"GET /other HTTP/1.1\r\n\r\n");
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let post = ask(port, b"POST /metrics HTTP/1.1\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 400 "), "{post}");
    assert_eq!(ask(port, &[b'x'; 100_000]), "", "it has no end");
    // One that says nothing does not keep the next one waiting for ever.
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(ask(port, get).contains("lguest_up"));
    drop(silent);
    // The option belongs to the settings of the machine.
    let settings = place.done("inspect --toml web");
    let line = format!("metrics = \"127.0.0.1:{port}\"");
    assert!(settings.contains(&line), "{settings}");
    place.done("kill web");
    assert!(place.is_empty());
}

/// Answers count as processor time of the machine, and it may have little.
#[test]
fn answers_come_one_in_ten_milliseconds_at_most() {
    let place = Place::new("metrics-often");
    let port = start(&place, "--cpu-share 20%");
    let begun = Instant::now();
    for _ in 0..21 {
        let answer = ask(port, b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let time = begun.elapsed();
    assert!(time >= Duration::from_millis(200), "{time:?}");
    place.done("kill web");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let place = Place::new("metrics-taken");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = place.fails(120, &format!("run --metrics {port}"));
    let words = format!("metrics 127.0.0.1:{port}: Address already in use");
    assert!(said.contains(&words), "{said}");
    assert_eq!(place.run("run --metrics nonsense").code(), 2);
}
