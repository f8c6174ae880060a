//! The way outside: a port of a virtio console, found by its name.
//!
//! `/sys/class/virtio-ports` has a folder for each port, with its name and the
//! numbers of its device. Where nothing makes device nodes, the agent makes
//! one.

use crate::files;
use crate::sys::{self, Errno, Fd, flag};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;

/// How often the first process looks for its port, which may come late.
const TRIES: u32 = 600;

/// The pause between two tries, in milliseconds.
const PAUSE: u32 = 50;

/// Finds the port and opens it.
///
/// # Errors
///
/// `ENOENT`: there is none; otherwise as the kernel says.
pub fn find(wait: bool) -> sys::Result<Fd> {
    let tries = if wait { TRIES } else { 1 };
    let mut last = Errno::NOENT;
    for n in 0..tries {
        match look() {
            Ok(fd) => return Ok(fd),
            Err(error) => last = error,
        }
        if n + 1 < tries {
            let _ = sys::poll(&mut [], Some(PAUSE));
        }
    }
    Err(last)
}

fn look() -> sys::Result<Fd> {
    for name in files::names(c"/sys/class/virtio-ports")? {
        let Ok(name) = String::from_utf8(name) else {
            continue;
        };
        let of = |what: &str| {
            let path = format!("/sys/class/virtio-ports/{name}/{what}");
            files::read(&files::path(path.as_bytes())?, 256)
        };
        let said = of("name").unwrap_or_default();
        if said.trim_ascii() == lg_exec::PORT.as_bytes() {
            return open(&name, &of("dev")?);
        }
    }
    Err(Errno::NOENT)
}

/// Opens the node of a port, or makes one.
fn open(name: &str, device: &[u8]) -> sys::Result<Fd> {
    let flags = flag::O_RDWR | flag::O_NONBLOCK;
    let node = CString::new(format!("/dev/{name}"));
    let node = node.map_err(|_| Errno::NOENT)?;
    let opened = sys::open(&node, flags, 0);
    if !matches!(opened, Err(Errno::NOENT)) {
        return opened;
    }
    let text = core::str::from_utf8(device).unwrap_or_default().trim();
    let (major, minor) = text.split_once(':').ok_or(Errno::NOENT)?;
    let number = |text: &str| text.parse().map_err(|_| Errno::NOENT);
    let own = c"/run/.lguest-agent";
    let _ = sys::unlink(own);
    sys::mknod(own, 0o600, number(major)?, number(minor)?)?;
    let opened = sys::open(own, flags, 0);
    let _ = sys::unlink(own);
    opened
}
