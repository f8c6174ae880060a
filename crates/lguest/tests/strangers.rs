//! Foreign processes send a Launcher files that block their holder.
//!
//! Any process of the same user can connect to the socket of a Launcher on a
//! network and send it files. With files of any kind, the Launcher serves its
//! Guest, connects to others, and ends on request.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Instant;
use support::blocking::{Silent, lingering};
use support::network::{Guest, Network};
use support::processes::children;
use support::{PATIENCE, skip};

/// No test starts a process while another test has a file that blocks, because
/// a child has that file, too, between fork and exec.
static TURN: Mutex<()> = Mutex::new(());

/// Connects to the Launcher in slot 0 and sends it bytes, with these files.
fn send(network: &Network, bytes: &[u8], files: &[BorrowedFd<'_>]) -> OwnedFd {
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket(AddressFamily::UNIX, kind, None);
    let socket = socket.unwrap();
    let path = format!("{}.0", network.file.display());
    let address = SocketAddrUnix::new(path).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    let parts = [IoSlice::new(bytes)];
    let flags = SendFlags::empty();
    rustix::net::sendmsg(&socket, &parts, &mut control, flags).unwrap();
    socket
}

/// Messages with `file`, short and long, with one file and with several, by
/// connections that end and that do not.
fn send_all_kinds(network: &Network, file: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut open = Vec::new();
    for len in [1, 32, 33] {
        for files in [1, 2, 4] {
            let bytes = vec![7; len];
            let files = vec![file; files];
            open.push(send(network, &bytes, &files));
            drop(send(network, &bytes, &files));
        }
    }
    open
}

#[test]
fn a_socket_that_lingers_does_not_block_a_launcher() {
    let _turn = TURN.lock();
    let network = Network::new("lingers");
    let (a, b) = (network.guest(), network.guest());
    let (file, other) = lingering();
    let open = send_all_kinds(&network, file.as_fd());
    // Now only the receiving processes hold it.
    drop(file);
    goes_on(&network, a, b);
    drop((open, other));
}

#[test]
fn a_file_whose_server_does_not_answer_does_not_block_a_launcher() {
    let _turn = TURN.lock();
    let network = Network::new("silent");
    let (a, b) = (network.guest(), network.guest());
    let Some((silent, file)) = Silent::start(&network.scratch) else {
        skip(
            "a_file_whose_server_does_not_answer_does_not_block_a_launcher",
            "needs root and /dev/fuse",
        );
        return;
    };
    let open = send_all_kinds(&network, file.as_fd());
    drop(file);
    // Processes are blocked, but only helpers of the porter.
    let porter = children(a.0.pid()).into_iter();
    let porter = porter.map(|child| child.pid);
    let porters: Vec<u32> = porter.collect();
    let deadline = Instant::now() + PATIENCE;
    while !porters.iter().any(|&pid| !children(pid).is_empty()) {
        assert!(Instant::now() < deadline, "no file was received");
    }
    goes_on(&network, a, b);
    drop((silent, open));
}

/// Others join and get connections. One ends by itself, and one by a signal.
#[track_caller]
fn goes_on(network: &Network, mut a: Guest, b: Guest) {
    let mut c = network.guest();
    c.is_in_slot(2);
    c.pings(0);
    a.pings(2);
    a.ends();
    c.ends();
    b.0.signal(libc::SIGTERM);
    assert_eq!(b.0.finish().code(), 143);
}

#[test]
fn the_end_of_a_porter_is_reported_and_ends_no_link() {
    let _turn = TURN.lock();
    let network = Network::new("porter");
    let (mut a, mut b) = (network.guest(), network.guest());
    a.pings(1);
    let of_a = children(a.0.pid());
    let porter = of_a.iter().find(|child| child.name() == "lguest-porter");
    porter.unwrap().signal(libc::SIGKILL);
    let file = network.file.display();
    a.0.wait_for_error(&format!("network {file}: the process lguest-porter"));
    a.pings(1);
    b.pings(0);
    // The message says that a new start helps, and it does.
    a.types("poweroff");
    assert_eq!(a.0.finish().code(), 0);
    let mut a = network.guest();
    a.is_in_slot(0);
    b.pings(0);
    a.pings(1);
}
