//! The stream of bytes from and to GDB.
//!
//! Bytes are read when there are some, and written when an answer is complete.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Both ends of the stream. They may be one socket.
pub struct Connection {
    input: OwnedFd,
    output: OwnedFd,
    /// Bytes that were read, from the next one on.
    read: Vec<u8>,
    next: usize,
    /// Bytes that are to be written, about [`PIECE`] at most.
    written: Vec<u8>,
}

/// The most bytes that are read at once, or collected before they are written.
const PIECE: usize = 4096;

/// What has come first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A byte.
    Byte(u8),
    /// Something else: see [`super::inbox`].
    News,
    /// GDB is gone.
    End,
}

impl Connection {
    /// A stream of these two ends.
    #[must_use]
    pub fn new(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            input,
            output,
            read: Vec::new(),
            next: 0,
            written: Vec::new(),
        }
    }

    /// Waits for a byte, or for the event `news`, which comes first.
    pub(super) fn wait(&mut self, news: &OwnedFd) -> Came {
        // gdbstub does not flush the receipt of an order that lets the Guest
        // run.
        if gdbstub::conn::Connection::flush(self).is_err() {
            return Came::End;
        }
        loop {
            if has_come(news, &[]) {
                return Came::News;
            }
            if let Some(&byte) = self.read.get(self.next) {
                self.next += 1;
                return Came::Byte(byte);
            }
            if !has_come(news, &[&self.input]) {
                self.read.resize(PIECE, 0);
                self.next = 0;
                match rustix::io::read(&self.input, &mut self.read[..]) {
                    Err(Errno::INTR | Errno::AGAIN) => self.read.clear(),
                    Ok(0) | Err(_) => {
                        self.read.clear();
                        return Came::End;
                    }
                    Ok(length) => self.read.truncate(length),
                }
            }
        }
    }
}

/// Whether the event `news` has come. Waits for it or for one of `others`, if
/// there are some.
pub(super) fn has_come(news: &OwnedFd, others: &[&OwnedFd]) -> bool {
    let mut fds = vec![PollFd::new(news, PollFlags::IN)];
    fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)));
    let at_once = rustix::event::Timespec::default();
    loop {
        let timeout = others.is_empty().then_some(&at_once);
        match poll(&mut fds, timeout) {
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return !fds[0].revents().is_empty(),
        }
    }
}

impl gdbstub::conn::Connection for Connection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.write_all(&[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written.extend_from_slice(bytes);
        // GDB may ask for all of the memory at once.
        match self.written.len() < PIECE {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.written[..];
        while !rest.is_empty() {
            match rustix::io::write(self.output.as_fd(), rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => rest = &rest[length..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdbstub::conn::Connection as _;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::net::{
        AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
    };

    /// Two ends of a stream.
    fn pair() -> (OwnedFd, OwnedFd) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Closes an end. A process that another test has just forked may have it
    /// for a moment.
    fn close(end: OwnedFd) {
        shutdown(&end, Shutdown::Both).unwrap();
    }

    #[test]
    fn a_long_answer_is_written_while_it_is_made() {
        let (input, _gdb) = pair();
        let (shown, output) = pair();
        let mut connection = Connection::new(input, output);
        for _ in 0..10 * PIECE {
            connection.write(b'0').unwrap();
            assert!(connection.written.len() < PIECE);
        }
        let written = rustix::io::ioctl_fionread(&shown).unwrap();
        assert_eq!(written, 10 * PIECE as u64);
        // GDB that is gone ends it before its end.
        close(shown);
        assert!((0..PIECE).any(|_| connection.write(b'0').is_err()));
    }

    #[test]
    fn bytes_come_one_by_one_and_news_comes_first() {
        let news = eventfd(0, EventfdFlags::empty()).unwrap();
        let (input, gdb) = pair();
        let (shown, output) = pair();
        let mut connection = Connection::new(input, output);
        rustix::io::write(&gdb, b"ab").unwrap();
        assert_eq!(connection.wait(&news), Came::Byte(b'a'));
        rustix::io::write(&news, &1_u64.to_ne_bytes()).unwrap();
        assert_eq!(connection.wait(&news), Came::News);
        rustix::io::read(&news, &mut [0; 8]).unwrap();
        assert_eq!(connection.wait(&news), Came::Byte(b'b'));
        connection.write_all(b"+$").unwrap();
        connection.write(b'#').unwrap();
        connection.flush().unwrap();
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&shown, &mut bytes), Ok(3));
        assert_eq!(&bytes[..3], b"+$#");
        close(gdb);
        assert_eq!(connection.wait(&news), Came::End);
        connection.write(b'x').unwrap();
        assert_eq!(connection.wait(&news), Came::End);
        assert_eq!(rustix::io::read(&shown, &mut bytes), Ok(1));
        close(shown);
        connection.write(b'x').unwrap();
        assert!(connection.flush().is_err());
    }
}
