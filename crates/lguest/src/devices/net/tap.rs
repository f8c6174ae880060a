//! `--tunnet`: a network of two, the Guest and the machine it runs on.
//!
//! The machine's side is a tap interface: what is written to its file arrives
//! there as a frame, and each read takes one frame that was sent to it. It
//! has slot 0 of a page that nobody shares, and is promiscuous, so the Guest
//! sends it everything; the Guest has slot 1. A frame goes between the tap's
//! file and the Guest's buffers in one vectored system call.

#![expect(unsafe_code, reason = "ioctls of network interfaces")]

use super::Requests;
use super::violation;
use super::window::Window;
use crate::devices::{AT_ONCE, Description, Device, Place};
use crate::devices::{Readiness, Violation};
use crate::machine::config::TapConfig;
use lg_abi::device::{
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_DEVICE_T_NET, NET_PROMISC, Net,
    net_key_offset,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

/// The slot of the machine that the Guest runs on.
const HOST_SLOT: u32 = 0;
/// The slot of the Guest.
const GUEST_SLOT: u16 = 1;

const TUN: &str = "/dev/net/tun";

/// A tap that cannot be had. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No tap driver.
    #[error("cannot open {TUN} ({0}): load the module with `modprobe tun`")]
    Open(#[source] io::Error),
    /// We may not.
    #[error(
        "no permission to make a tap interface: run as root or with \
         CAP_NET_ADMIN, or use --sharenet between guests, which needs neither"
    )]
    NotPermitted,
    /// There is no such bridge.
    #[error("there is no bridge {0}: `ip link add {0} type bridge` makes one")]
    NoBridge(String),
    /// Something else.
    #[error("cannot {0}: {1}")]
    Configure(&'static str, #[source] io::Error),
}

/// A tap interface with a Guest on it.
pub struct Tap {
    file: File,
    name: String,
    mac: [u8; 6],
    running: Option<Running>,
    counters: Counters,
}

/// What a tap has done so far.
#[derive(Default)]
struct Counters {
    frames_sent: u64,
    bytes_sent: u64,
    /// Frames that the interface would not have.
    refused: u64,
    frames_received: u64,
    bytes_received: u64,
    /// Frames that came while the Guest had nothing bound.
    forgotten: u64,
}

struct Running {
    guest: Arc<dyn Requests>,
    window: Window,
    page: u32,
}

impl Tap {
    /// Makes a tap interface and sets it up. It is gone when this is dropped.
    ///
    /// # Errors
    ///
    /// [`TapError`], whose message names the cure.
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        let (file, name) = interface()?;
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| TapError::Configure("make a socket", e.into()))?;
        match config {
            TapConfig::Address(ip) => set_address(&socket, &name, *ip)?,
            TapConfig::Bridge(bridge) => add_to_bridge(&socket, &name, bridge)?,
        }
        set_up(&socket, &name)?;
        let mac = hardware_address(&socket, &name)?;
        Ok(Self {
            file,
            name,
            mac,
            running: None,
            counters: Counters::default(),
        })
    }

    /// Whether interfaces can be made here: makes one, which is gone again.
    pub(crate) fn probe() -> Result<(), TapError> {
        interface().map(drop)
    }

    /// The name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fills the page at physical address `page`: [`Device::place`], for any
    /// Host.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn start(
        &mut self,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<()> {
        let mut mac = self.mac;
        mac[0] |= NET_PROMISC;
        let memory = guest.memory();
        memory
            .write_object(page + HOST_SLOT * size_of_net(), &Net { mac })
            .map_err(io::Error::other)?;
        let window = Window::open(memory.file()).map_err(io::Error::other)?;
        self.running = Some(Running {
            guest,
            window,
            page,
        });
        Ok(())
    }
}

impl Device for Tap {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_NET,
            features: LGUEST_DEVICE_F_RANDOMNESS | GUEST_SLOT,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        self.start(guest, place.page)
    }

    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation> {
        let Some(running) = &self.running else {
            return Ok(0);
        };
        if key != running.page + net_key_offset(HOST_SLOT) {
            return Ok(0);
        }
        let list = running.window.dma(dma).map_err(violation)?;
        let from = running.window.sections(&list).map_err(violation)?;
        // A frame that the interface refuses is a frame lost: the Guest sees
        // that none of its bytes were taken.
        match from.write_to(&self.file) {
            Ok(bytes) => {
                self.counters.frames_sent += 1;
                self.counters.bytes_sent += u64::from(bytes);
                Ok(bytes)
            }
            Err(_) => {
                self.counters.refused += 1;
                Ok(0)
            }
        }
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(running) = &self.running else {
            return Ok(Readiness::Wait);
        };
        let key = running.page + net_key_offset(GUEST_SLOT.into());
        // A flood must not keep the thread from other devices. What is left
        // in the interface makes its file readable again.
        for buffers in 0..AT_ONCE {
            let Ok(bound) = running.guest.get_dma(key) else {
                // The Guest is dead.
                return Ok(Readiness::Closed);
            };
            let Some(bound) = bound else {
                let bindings = running.guest.bindings_in(running.page);
                if bindings.iter().any(|b| b.key == key) {
                    return Ok(Readiness::NoBuffer {
                        took: buffers > 0,
                        watch: false,
                    });
                }
                // The Guest's interface is down: nobody waits for frames.
                match discard(&self.file) {
                    Ok(()) => {
                        self.counters.forgotten += 1;
                        continue;
                    }
                    Err(e) => return Ok(readiness(&e)),
                }
            };
            let list = running.window.dma(bound.addr).map_err(violation)?;
            let into = running.window.sections(&list).map_err(violation)?;
            match into.read_from(&self.file) {
                Ok(bytes) => {
                    self.counters.frames_received += 1;
                    self.counters.bytes_received += u64::from(bytes);
                    running
                        .window
                        .write_last(bound.addr, bytes)
                        .map_err(violation)?;
                }
                Err(e) => return Ok(readiness(&e)),
            }
            // Should it have died meanwhile, the next question tells.
            let _ = running.guest.irq(bound.irq);
        }
        Ok(Readiness::Wait)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("frames_sent", c.frames_sent),
            ("bytes_sent", c.bytes_sent),
            ("refused", c.refused),
            ("frames_received", c.frames_received),
            ("bytes_received", c.bytes_received),
            ("forgotten", c.forgotten),
        ]
    }
}

/// Makes a tap interface: its file, and its name.
fn interface() -> Result<(File, String), TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => TapError::NotPermitted,
            _ => TapError::Open(e),
        })?;
    let kind = flags(libc::IFF_TAP | libc::IFF_NO_PI);
    let mut request = Request::new("tap%d", &kind);
    request
        .call(file.as_fd(), libc::TUNSETIFF)
        .map_err(|e| refused("make a tap interface", e))?;
    Ok((file, request.name()))
}

/// Takes one frame from the tap and forgets it.
fn discard(mut file: &File) -> io::Result<()> {
    // Whatever does not fit is forgotten by the kernel.
    file.read(&mut [0]).map(drop)
}

/// What an error in reading means.
fn readiness(error: &io::Error) -> Readiness {
    match error.kind() {
        io::ErrorKind::WouldBlock => Readiness::Wait,
        _ => Readiness::Closed,
    }
}

fn size_of_net() -> u32 {
    u32::try_from(size_of::<Net>()).expect("six bytes")
}

/// Gives interface `name` an address.
fn set_address(
    socket: &OwnedFd,
    name: &str,
    ip: Ipv4Addr,
) -> Result<(), TapError> {
    // A `sockaddr_in`: family, port, address.
    let mut address = [0; 8];
    address[..2].copy_from_slice(&libc::AF_INET.to_ne_bytes()[..2]);
    address[4..].copy_from_slice(&ip.octets());
    Request::new(name, &address)
        .call(socket.as_fd(), libc::SIOCSIFADDR)
        .map_err(|e| refused("give the tap interface its address", e))
}

/// Makes interface `name` a port of `bridge`.
fn add_to_bridge(
    socket: &OwnedFd,
    name: &str,
    bridge: &str,
) -> Result<(), TapError> {
    let none = || TapError::NoBridge(bridge.to_owned());
    if bridge.is_empty() || bridge.len() >= libc::IFNAMSIZ {
        return Err(none());
    }
    let mut port = Request::new(name, &[]);
    port.call(socket.as_fd(), libc::SIOCGIFINDEX)
        .map_err(|e| refused("find the tap interface", e))?;
    let [a, b, c, d, ..] = port.value;
    Request::new(bridge, &[a, b, c, d])
        .call(socket.as_fd(), SIOCBRADDIF)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV | libc::EOPNOTSUPP | libc::ENOTTY) => none(),
            _ => refused("add the tap interface to the bridge", e),
        })
}

/// Switches interface `name` on.
fn set_up(socket: &OwnedFd, name: &str) -> Result<(), TapError> {
    Request::new(name, &flags(libc::IFF_UP))
        .call(socket.as_fd(), libc::SIOCSIFFLAGS)
        .map_err(|e| refused("switch the tap interface on", e))
}

/// The Ethernet address of interface `name`.
fn hardware_address(socket: &OwnedFd, name: &str) -> Result<[u8; 6], TapError> {
    let mut request = Request::new(name, &[]);
    request
        .call(socket.as_fd(), libc::SIOCGIFHWADDR)
        .map_err(|e| refused("ask for the tap interface's address", e))?;
    // A `sockaddr`: family, address.
    let [_, _, mac @ ..] = request.value;
    let [a, b, c, d, e, f, ..] = mac;
    Ok([a, b, c, d, e, f])
}

fn refused(what: &'static str, error: io::Error) -> TapError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => TapError::NotPermitted,
        _ => TapError::Configure(what, error),
    }
}

/// Adds a port to a bridge: `linux/sockios.h`.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

/// The flags of an interface: a `short`.
fn flags(flags: libc::c_int) -> [u8; 2] {
    let [low, high, ..] = flags.to_ne_bytes();
    [low, high]
}

/// `struct ifreq`, without its union: a question to the kernel about the
/// interface that it names.
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    fn new(interface: &str, about: &[u8]) -> Self {
        let mut name = [0; libc::IFNAMSIZ];
        // The last byte stays zero.
        let room = name[..libc::IFNAMSIZ - 1].iter_mut();
        room.zip(interface.bytes())
            .for_each(|(to, from)| *to = from);
        let mut value = [0; 24];
        value[..about.len()].copy_from_slice(about);
        Self { name, value }
    }

    fn name(&self) -> String {
        CStr::from_bytes_until_nul(&self.name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn call(
        &mut self,
        file: BorrowedFd<'_>,
        what: libc::Ioctl,
    ) -> io::Result<()> {
        // SAFETY: all of these requests read and write one `ifreq`, at the
        // address of what has its size and alignment.
        let done = unsafe {
            libc::ioctl(file.as_raw_fd(), what, std::ptr::from_mut(self))
        };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
