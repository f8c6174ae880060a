//! A tap interface of the machine: made, and set up by ioctl.
//!
//! A tap interface has a file. A write to it is a frame that arrives at the
//! machine by the interface; a read takes one frame that the machine has sent
//! by it. Closing the file removes the interface.

#![expect(unsafe_code, reason = "ioctls of network interfaces")]

use super::given::{self, GivenError};
use super::offload::HEADER;
use crate::machine::config::TapConfig;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

const TUN: &str = "/dev/net/tun";

/// A tap that cannot be made. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No tap driver.
    #[error("cannot open {TUN} ({0}): load the module with `modprobe tun`")]
    Open(#[source] io::Error),
    /// The user may not make one.
    #[error(
        "no permission to make a tap interface: run as root or with \
         CAP_NET_ADMIN, or use --sharenet between guests, which needs neither"
    )]
    NotPermitted,
    /// There is no such bridge.
    #[error("there is no bridge {0}: `ip link add {0} type bridge` makes one")]
    NoBridge(String),
    /// The descriptor cannot be taken.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// The descriptor is of something else.
    #[error(
        "descriptor {0} is not a tap interface: open /dev/net/tun, and set \
         IFF_TAP and IFF_NO_PI, and IFF_VNET_HDR only with headers of {HEADER} \
         bytes"
    )]
    NotATap(RawFd),
    /// Something else.
    #[error("cannot {0}: {1}")]
    Configure(&'static str, #[source] io::Error),
}

/// A tap interface.
pub(super) struct Interface {
    /// Its file.
    pub(super) file: File,
    /// Its Ethernet address.
    pub(super) mac: [u8; 6],
    /// Whether a header precedes each frame, and checksums and segments may be
    /// left to do.
    pub(super) headers: bool,
}

impl Interface {
    /// Makes one and sets it up, for packets of `mtu` bytes if that was said.
    /// A Guest that goes on knows its Ethernet address, `mac`. A port of a
    /// bridge needs none, and the owner of a given one has set it up.
    ///
    /// # Errors
    ///
    /// [`TapError`].
    pub(super) fn open(
        config: &TapConfig,
        mtu: Option<u16>,
        mac: Option<[u8; 6]>,
    ) -> Result<Self, TapError> {
        if let TapConfig::Given(number) = config {
            return given_interface(*number);
        }
        let (file, name, headers) = interface()?;
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| TapError::Configure("make a socket", e.into()))?;
        if let Some(mtu) = mtu {
            Request::new(&name, &i32::from(mtu).to_ne_bytes())
                .call(socket.as_fd(), libc::SIOCSIFMTU)
                .map_err(|e| refused("set the tap interface's MTU", e))?;
        }
        match config {
            TapConfig::Address(ip, bits) => {
                if let Some(mac) = mac {
                    set_hardware_address(&socket, &name, mac)?;
                }
                set_address(&socket, &name, *ip)?;
                set_netmask(&socket, &name, *bits)?;
            }
            TapConfig::Bridge(bridge) => add_to_bridge(&socket, &name, bridge)?,
            TapConfig::Given(_) => {}
        }
        set_up(&socket, &name)?;
        let mac = hardware_address(&socket, &name)?;
        Ok(Self { file, mac, headers })
    }

    /// Whether interfaces can be made here. Makes one, and removes it again.
    ///
    /// # Errors
    ///
    /// [`TapError`].
    pub(super) fn probe() -> Result<(), TapError> {
        interface().map(drop)
    }
}

/// Makes a tap interface: its file, its name, and whether frames have headers.
fn interface() -> Result<(File, String, bool), TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => TapError::NotPermitted,
            _ => TapError::Open(e),
        })?;
    let kind = libc::IFF_TAP | libc::IFF_NO_PI;
    // Every kernel since Linux 2.6.27 has headers.
    let mut request = Request::new("tap%d", &flags(kind | libc::IFF_VNET_HDR));
    let mut made = request.call(file.as_fd(), libc::TUNSETIFF);
    let headers = made.is_ok();
    if !headers {
        request = Request::new("tap%d", &flags(kind));
        made = request.call(file.as_fd(), libc::TUNSETIFF);
    }
    made.map_err(|e| refused("make a tap interface", e))?;
    if headers {
        leave_to_us(&file);
    }
    Ok((file, request.name(), headers))
}

/// Lets the kernel leave checksums and segments to the reader of `file`. If it
/// does not, it does them itself.
fn leave_to_us(file: &File) {
    let what = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: the argument of this request is a number.
    let _ = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(what),
        )
    };
}

/// The interface behind descriptor `number`, as it was set up.
fn given_interface(number: RawFd) -> Result<Interface, TapError> {
    let file = File::from(given::take(number)?);
    let mut request = Request::new("", &[]);
    let asked = request.call(file.as_fd(), libc::TUNGETIFF);
    let [low, high, ..] = request.value;
    let kind = libc::c_int::from(u16::from_ne_bytes([low, high]));
    let wanted = libc::IFF_TAP | libc::IFF_NO_PI;
    if asked.is_err() || kind & wanted != wanted {
        return Err(TapError::NotATap(number));
    }
    // Its owner may have set headers of another length, or other offloads.
    let headers = kind & libc::IFF_VNET_HDR != 0;
    if headers && header_of(&file) != Some(HEADER) {
        return Err(TapError::NotATap(number));
    }
    // A tap's file answers for its interface, whatever the name.
    let mac = hardware_address(&file, "")?;
    rustix::fs::fcntl_setfl(&file, OFlags::RDWR | OFlags::NONBLOCK)
        .map_err(|e| refused("use the tap interface", e.into()))?;
    Ok(Interface { file, mac, headers })
}

/// Bytes of a header in front of a frame.
fn header_of(file: &File) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    let to = std::ptr::from_mut(&mut bytes);
    // SAFETY: the request writes one `int` to where `to` points.
    let done =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETVNETHDRSZ, to) };
    (done == 0).then(|| usize::try_from(bytes).ok()).flatten()
}

/// Gives interface `name` an address.
fn set_address(
    socket: &OwnedFd,
    name: &str,
    ip: Ipv4Addr,
) -> Result<(), TapError> {
    Request::new(name, &internet(ip))
        .call(socket.as_fd(), libc::SIOCSIFADDR)
        .map_err(|e| refused("give the tap interface its address", e))
}

/// Gives interface `name` a netmask of so many bits.
fn set_netmask(socket: &OwnedFd, name: &str, bits: u8) -> Result<(), TapError> {
    let host_bits = 32_u32.saturating_sub(bits.into());
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    Request::new(name, &internet(mask.into()))
        .call(socket.as_fd(), libc::SIOCSIFNETMASK)
        .map_err(|e| refused("give the tap interface its netmask", e))
}

/// A `sockaddr_in`: family, port, address.
fn internet(ip: Ipv4Addr) -> [u8; 8] {
    let mut address = [0; 8];
    address[..2].copy_from_slice(&libc::AF_INET.to_ne_bytes()[..2]);
    address[4..].copy_from_slice(&ip.octets());
    address
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

/// Gives interface `name` an Ethernet address.
fn set_hardware_address(
    socket: &OwnedFd,
    name: &str,
    mac: [u8; 6],
) -> Result<(), TapError> {
    // A `sockaddr`: family, address.
    let [low, high] = libc::ARPHRD_ETHER.to_ne_bytes();
    let value = [&[low, high], &mac[..]].concat();
    Request::new(name, &value)
        .call(socket.as_fd(), libc::SIOCSIFHWADDR)
        .map_err(|e| refused("give the tap interface its address", e))
}

/// The Ethernet address of interface `name`.
fn hardware_address(
    socket: impl AsFd,
    name: &str,
) -> Result<[u8; 6], TapError> {
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
        // SAFETY: all of these requests read and write one `ifreq`, and the
        // value at this address has the size and alignment of one.
        let done = unsafe {
            libc::ioctl(file.as_raw_fd(), what, std::ptr::from_mut(self))
        };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
