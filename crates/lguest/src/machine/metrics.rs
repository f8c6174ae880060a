//! `--metrics`: the counters of a run, for a program that collects them.
//!
//! A thread answers `GET /metrics`, one connection after the other, and closes
//! it. A client can read the counters, and nothing else: its request is bounded
//! in bytes, pieces and time. A pause follows, because this time counts as the
//! machine's (`--cpu-share`). The place to listen at is opened before the
//! Launcher is confined.

use super::counted::Counted;
use crate::machines::Name;
use crate::machines::metrics::prometheus;
use crate::thread;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The longest request.
const REQUEST_MOST: usize = 8 << 10;

/// How long a client may take for everything. The next one waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most pieces in which a request may come.
const PIECES_MOST: usize = 64;

/// The pause after a client. So clients that ask without end get a hundredth of
/// a processor or so, and the Guest is not held for them.
const BETWEEN: Duration = Duration::from_millis(10);

/// The pause after a client could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens at `address`.
pub(super) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    Ok(TcpListener::bind(address)?.into())
}

/// Starts the thread.
pub(super) fn start(
    listener: OwnedFd,
    name: Name,
    counted: Counted,
) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    thread::start("metrics", 128 << 10, move || {
        loop {
            match accept_with(&listener, flags) {
                // A client that goes wrong is its own affair.
                Ok(client) => {
                    let _ = serve(&client, &name, &counted);
                    drop(client);
                    std::thread::sleep(BETWEEN);
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    })?;
    Ok(())
}

/// Answers one request.
fn serve(client: &OwnedFd, name: &Name, counted: &Counted) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let request = request(client, deadline)?;
    let (status, text) = match path(&request) {
        Some("/metrics" | "/") => {
            let counts = counted.counts();
            ("200 OK", prometheus(&[(name, Some(&counts))]))
        }
        Some(_) => ("404 Not Found", "metrics are at /metrics\n".into()),
        None => ("400 Bad Request", "this is no GET\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let answer = head + &text;
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        wait(client, PollFlags::OUT, deadline)?;
        match send(client, rest, SendFlags::NOSIGNAL) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives a request, up to the empty line at its end.
fn request(client: &OwnedFd, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    for _ in 0..PIECES_MOST {
        let mut bytes = [0; 1024];
        wait(client, PollFlags::IN, deadline)?;
        match rustix::io::read(client, &mut bytes) {
            Ok(0) => return Ok(request),
            Ok(n) => request.extend_from_slice(&bytes[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        let is_whole = request.windows(4).any(|end| end == b"\r\n\r\n");
        if is_whole {
            return Ok(request);
        }
        if request.len() > REQUEST_MOST {
            break;
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The path that a request asks for, if it is a GET.
fn path(request: &[u8]) -> Option<&str> {
    let line = request.split(|&byte| byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (Some("GET"), Some(path), Some(_)) =
        (words.next(), words.next(), words.next())
    else {
        return None;
    };
    path.split('?').next()
}

/// Waits until a client is ready.
fn wait(
    client: &OwnedFd,
    flags: PollFlags,
    deadline: Instant,
) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let time = Timespec::try_from(left).ok();
    let mut fds = [PollFd::new(client, flags)];
    match poll(&mut fds, time.as_ref()) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socketpair};

    /// A request that comes byte by byte costs more time than its bytes say.
    #[test]
    fn a_request_has_few_pieces() {
        // Each packet is a piece.
        let (client, ours) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        for _ in 0..PIECES_MOST {
            rustix::io::write(&client, b"x").unwrap();
        }
        let soon = Instant::now() + Duration::from_millis(100);
        let error = request(&ours, soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        rustix::io::write(&client, b"GET / HTTP/1.1\r\n").unwrap();
        rustix::io::write(&client, b"\r\n").unwrap();
        assert_eq!(path(&request(&ours, soon + PATIENCE).unwrap()), Some("/"));
    }

    #[test]
    fn a_request_names_a_path() {
        let get = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(path(get), Some("/metrics"));
        assert_eq!(path(b"GET / HTTP/1.0\r\n\r\n"), Some("/"));
        for bad in [&b"POST / HTTP/1.1\r\n"[..], b"GET /\r\n", b"\xff", b""] {
            assert_eq!(path(bad), None);
        }
    }
}
