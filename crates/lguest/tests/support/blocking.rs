//! Files that block the process that closes them.
//!
//! One is a TCP socket that lingers: closing it takes its whole linger time,
//! because its other end does not read. One is a file of a FUSE server that
//! does not answer: closing it takes until the server has ended, and no signal
//! can end that.

use super::Scratch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A socket that lingers, and its other end.
pub(crate) fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let linger = Some(Duration::from_secs(10_000));
    rustix::net::sockopt::set_socket_linger(&ours, linger).unwrap();
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[0; 1 << 16]).is_ok() {}
    (ours, theirs)
}

/// A FUSE server that answers one thread only. A process that has
/// received its file cannot end as long as the server lives, so that thread
/// must have closed the file before its process starts others.
pub(crate) struct Silent {
    server: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Silent {
    /// Starts it, if this machine and this user can. Returns also its file,
    /// which the calling thread can close.
    pub(crate) fn start(scratch: &Scratch) -> Option<(Self, File)> {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        let device = options.open("/dev/fuse").ok()?;
        let at = scratch.file("fuse", b"");
        let fd = device.as_raw_fd();
        // The root is a file.
        let data = format!("fd={fd},rootmode=100000,user_id=0,group_id=0");
        let data = CString::new(data).unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("silent", &at, "fuse", flags, data.as_c_str()).ok()?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let friend = rustix::thread::gettid().as_raw_nonzero().get();
        let server = std::thread::spawn(move || {
            // Closing the device ends all waits.
            while !stopped.load(Ordering::SeqCst) {
                let pause = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let mut fds = [PollFd::new(&device, PollFlags::IN)];
                if poll(&mut fds, Some(&pause)) == Ok(1) {
                    answer(&device, friend);
                }
            }
        });
        let this = Self {
            server: Some(server),
            stop,
        };
        let file = File::open(&at);
        unmount(&at, UnmountFlags::DETACH).unwrap();
        Some((this, file.unwrap()))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Returns one request, if it is of the thread `friend` or of the kernel.
fn answer(mut device: &File, friend: i32) {
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const INIT: u32 = 26;
    const FLUSH: u32 = 25;
    let mut request = vec![0; 1 << 17];
    // A request that was cancelled in the meantime cannot be read.
    let Ok(len) = device.read(&mut request) else {
        return;
    };
    assert!(len >= 40, "a request has a header");
    let word =
        |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let (opcode, thread) = (word(4), word(32));
    if opcode != INIT && i32::try_from(thread) != Ok(friend) {
        return;
    }
    let mut body = match opcode {
        // Version 7.31, without special features.
        INIT => vec![0; 64],
        OPEN => vec![0; 16],
        GETATTR => vec![0; 104],
        FLUSH => Vec::new(),
        _ => return,
    };
    if opcode == INIT {
        body[..4].copy_from_slice(&7_u32.to_ne_bytes());
        body[4..8].copy_from_slice(&31_u32.to_ne_bytes());
        body[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    }
    if opcode == GETATTR {
        // The inode, and that it is a file that every user may read.
        body[16..24].copy_from_slice(&1_u64.to_ne_bytes());
        body[76..80].copy_from_slice(&0o100_644_u32.to_ne_bytes());
        body[80..84].copy_from_slice(&1_u32.to_ne_bytes());
    }
    let whole = u32::try_from(16 + body.len()).unwrap();
    let mut reply = whole.to_ne_bytes().to_vec();
    reply.extend(0_i32.to_ne_bytes());
    reply.extend(&request[8..16]);
    reply.extend(body);
    let _ = device.write_all(&reply);
}
