//! A Guest of 2007 on a stream.
//!
//! The other end is a socket that the test holds.

use super::super::lan::tests::*;
use super::*;
use crate::devices::net::stream;
use crate::machine::config::{StreamAt, StreamConfig};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;

/// An interface on a stream that was given by its number, and the other end.
pub(crate) fn given_stream() -> (Nic, File) {
    let (ours, other) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::io::fcntl_setfd(&ours, FdFlags::empty()).unwrap();
    let config = StreamConfig {
        at: StreamAt::Given(ours.into_raw_fd()),
        server: false,
    };
    (stream::open(&config).unwrap(), other.into())
}

#[test]
fn frames_of_2007_go_through_a_stream() {
    let (nic, mut other) = given_stream();
    let host = scripted();
    let mut nic = KeyedNic::new(nic);
    let place = Place {
        index: 0,
        page: PAGE,
        irq: IRQ,
    };
    nic.place(host.clone(), place).unwrap();
    host.bind_buffers(1, 2);
    host.prepare(&[7; 60]);
    assert_eq!(nic.send(SEND, key(0)).unwrap().bytes, 60);
    let mut sent = [0; 64];
    other.read_exact(&mut sent).unwrap();
    assert_eq!(sent[..4], [0, 0, 0, 60]);
    assert_eq!(sent[4..], [7; 60]);
    other.write_all(&[0, 0, 0, 60]).unwrap();
    other.write_all(&[8; 60]).unwrap();
    assert_eq!(nic.handle_input(), Ok(Readiness::Wait));
    assert_eq!(host.take(0), Some(vec![8; 60]));
    assert_eq!(host.wait_irq(), Some(IRQ));
    // Its end takes the link down, and the Guest goes on.
    // A process that another test has just forked may have it for a moment.
    shutdown(&other, Shutdown::Both).unwrap();
    drop(other);
    assert_eq!(nic.handle_input(), Ok(Readiness::Closed));
    assert_eq!(nic.send(SEND, key(0)).unwrap().bytes, 0);
    let counters = nic.device().counters();
    for expected in [("frames_sent", 1), ("refused", 1), ("frames_received", 1)]
    {
        assert!(counters.contains(&expected), "{counters:?}");
    }
}
