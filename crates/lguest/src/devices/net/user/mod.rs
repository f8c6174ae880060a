//! `--net user`: a network for users without root, made by passt.
//!
//! passt is a program of its own. It turns the frames of the Guest into sockets
//! of an ordinary process, and has a DHCP server for it. It confines itself: a
//! user namespace, an empty root, a filter of system calls. The Launcher starts
//! it before it confines itself, and holds the other end of its socket. When
//! that is closed, passt ends, so it does not outlive the Launcher.

use super::offload::{Offload, Takes};
use super::stream::{Report, Stream, random_mac};
use super::{Backend, Nic, given};
use crate::machine::config::{Published, UserConfig};
use crate::machine::terminal;
use rustix::event::Timespec;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
    timerfd_create, timerfd_settime,
};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod process;
use process::Passt;

mod acks;
use acks::{ASKS, Acks};

mod packet;

mod restrict;
use restrict::Guard;

mod lookup;

mod names;
use names::Names;

mod error;
pub use error::UserError;

#[cfg(fuzzing)]
pub mod fuzzing;

/// The name of the program, which is looked for in `PATH`.
const PROGRAM: &str = "passt";

/// The most bytes of a packet if nothing was said: what every kernel takes.
const MTU: u16 = 1500;

/// Bytes of frames that passt may send before the Launcher reads them.
const SEND_BUFFER: usize = 4 << 20;

/// The Guest's IPv4 address, and its gateway, which is also this machine's
/// loopback interface. For IPv6, passt takes this machine's ...
const ADDRESSES: [&str; 6] = [
    "--address",
    "10.0.2.15",
    "--netmask",
    "24",
    "--gateway",
    "10.0.2.2",
];

/// ... unless the Guest is restricted.
const ADDRESSES_V6: [&str; 4] =
    ["--address", "fd6c:6775:6573:74::15", "--gateway", "fe80::2"];

/// A network that passt makes.
struct User {
    stream: Stream,
    passt: Arc<Passt>,
    /// What the Guest may send and receive, where it is restricted.
    guard: Option<Guard>,
    /// Its name server, where it may reach something.
    names: Option<Names>,
    acks: Acks,
    /// It runs, or has run out, while an acknowledgement waits.
    timer: OwnedFd,
    is_set: bool,
}

/// Starts passt, and waits until it is ready. Packets have at most `mtu` bytes,
/// which passt tells the Guest by DHCP.
///
/// # Errors
///
/// [`UserError`].
pub fn start(config: &UserConfig, mtu: Option<u16>) -> Result<Nic, UserError> {
    let found = lookup::find(&config.allow)?;
    let kind = SocketType::STREAM;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)
        .map_err(io::Error::from)?;
    // passt of 2023 loses frames for which its socket has no room. The kernel
    // has a limit of its own (net.core.wmem_max), and takes less then.
    let _ = set_socket_send_buffer_size(&theirs, SEND_BUFFER);
    let (messages, stderr) = process::messages()?;
    let mut command = Command::new(PROGRAM);
    command
        .args(words_for(config, mtu.unwrap_or(MTU), &theirs))
        // Keys that are typed send no signals to it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    given::inherit_only(&mut command, theirs.as_raw_fd());
    let started = command.spawn();
    drop((theirs, command));
    let started = started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UserError::Missing,
        _ => UserError::Start(error),
    })?;
    let passt = Arc::new(Passt::new(&started, messages)?);
    passt.wait_until_ready()?;
    let ended = passt.clone();
    let report: Report = Box::new(move |reason| {
        let message = ended.last_message();
        let why = message.as_deref().unwrap_or(reason);
        terminal::tell_or_lose(&format!(
            "network user: passt has ended ({why}): the guest goes on without \
             this network"
        ));
    });
    let stream = Stream::connected(ours, report)?;
    let restrict = config.restrict;
    let guard = restrict.then(|| Guard::new(&config.publish, &found.ends));
    let names = (!config.allow.is_empty()).then_some(found.names);
    let user = User::new(stream, passt, guard, names)?;
    Ok(Nic::new(Box::new(user), random_mac()?))
}

/// The arguments of passt.
fn words_for(config: &UserConfig, mtu: u16, socket: &OwnedFd) -> Vec<String> {
    let mut words: Vec<String> =
        ["--foreground", "--quiet"].map(str::to_owned).into();
    words.extend(["--fd".to_owned(), socket.as_raw_fd().to_string()]);
    words.extend(["--mtu".to_owned(), mtu.to_string()]);
    words.extend(ADDRESSES.map(str::to_owned));
    if config.restrict {
        words.extend(ADDRESSES_V6.map(str::to_owned));
    }
    if !config.allow.is_empty() {
        words.extend(["--dns".to_owned(), names::ADDRESS.to_string()]);
    }
    for Published {
        address,
        host,
        guest,
        udp,
    } in &config.publish
    {
        let option = if *udp { "--udp-ports" } else { "--tcp-ports" };
        words.push(option.to_owned());
        words.push(format!("{address}/{host}:{guest}"));
    }
    words
}

impl User {
    fn new(
        stream: Stream,
        passt: Arc<Passt>,
        guard: Option<Guard>,
        names: Option<BTreeMap<String, Vec<IpAddr>>>,
    ) -> io::Result<Self> {
        let names = names.map(Names::new).transpose()?;
        if let Some(names) = &names {
            stream.watch_also(names.bell())?;
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        stream.watch_also(&timer)?;
        Ok(Self {
            stream,
            passt,
            guard,
            names,
            acks: Acks::new(),
            timer,
            is_set: false,
        })
    }

    /// Sets the timer if an acknowledgement waits.
    fn set_timer(&mut self) {
        let Some(due) = self.acks.due().filter(|_| !self.is_set) else {
            return;
        };
        let left = due.saturating_duration_since(Instant::now());
        // Zero would stop the timer.
        let left = left.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: 0, // the pause is shorter
            tv_nsec: left.subsec_nanos().into(),
        };
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        let flags = TimerfdTimerFlags::empty();
        self.is_set = timerfd_settime(&self.timer, flags, &time).is_ok();
    }

    /// passt gets the acknowledgements that have waited until the timer has
    /// run out.
    fn release(&mut self) {
        let is_over = rustix::io::read(&self.timer, &mut [0; 8]).is_ok();
        if !is_over {
            return;
        }
        self.is_set = false;
        for frame in self.acks.release(Instant::now()) {
            for _ in 0..ASKS {
                // If it is lost, passt goes on after two seconds.
                let _ = self.stream.send(&frame, Offload::default());
            }
        }
        self.stream.flush();
        self.set_timer();
    }
}

impl Backend for User {
    fn takes(&self) -> Takes {
        // passt reads the data of a segment, whatever its length is.
        Takes {
            whole: true,
            ..Takes::default()
        }
    }

    fn send(&mut self, frame: &[u8], left: Offload) -> io::Result<()> {
        if let Some(names) = &mut self.names
            && names.takes(frame)
        {
            return Ok(());
        }
        let guard = self.guard.as_ref();
        if guard.is_some_and(|guard| !guard.admits(frame)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        for _ in 0..self.acks.copies(frame, Instant::now()) {
            self.stream.send(frame, left)?;
        }
        self.set_timer();
        Ok(())
    }

    fn flush(&mut self) {
        self.stream.flush();
    }

    fn room(&self) -> Option<BorrowedFd<'_>> {
        self.stream.room()
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<Offload> {
        if let Some(answer) = self.names.as_mut().and_then(Names::next) {
            frame.extend(answer);
            return Ok(Offload::VALID);
        }
        let received = self.stream.receive(frame);
        if received.is_err() && self.is_set {
            self.release();
        }
        received?;
        let guard = self.guard.as_mut();
        match guard.is_none_or(|guard| guard.passes(frame)) {
            true => self.acks.saw(frame),
            false => frame.clear(),
        }
        // passt makes the frames on this machine, with right checksums.
        Ok(Offload::VALID)
    }

    fn read_ahead(&mut self) {
        // A Guest without a buffer takes no frame. Then nothing else reads the
        // timer or the bell, and either would keep the input readable.
        if self.is_set {
            self.release();
        }
        if let Some(names) = &self.names {
            names.silence();
        }
        self.stream.read_ahead();
    }

    fn reads_more(&self) -> bool {
        self.stream.reads_more()
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.stream.input()
    }

    fn finish(&mut self) {
        self.stream.finish();
        self.passt.wait_for_the_end();
    }
}

#[cfg(test)]
mod tests;
