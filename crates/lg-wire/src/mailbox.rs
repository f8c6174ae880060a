//! The mailbox: the Host's requests to the Launcher, and the answers.
//!
//! There is one request at a time, because one view runs at a time. The Host
//! writes it and gives the turn to the Launcher; the Launcher answers and gives
//! the turn back. The turn is a futex, so the side that waits sleeps. Every
//! word is an atomic. The Launcher reads a word once and checks its copy: the
//! other side may be a Guest that has broken into its Host.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// It is the Host's turn: it runs the Guest.
pub const HOSTS_TURN: u32 = 0;

/// It is the Launcher's turn: there is a request.
pub const LAUNCHERS_TURN: u32 = 1;

/// The longest text that goes with a request.
pub const MAX_TEXT: usize = 256;

/// The requests of the Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// SEND_DMA. Arguments: key, physical address of the `lguest_dma`.
    SendDma = 1,
    /// BIND_DMA. Arguments: key, physical address, count and interrupt.
    /// Reply: 1 or 0.
    BindDma = 2,
    /// A process for a view. Argument: its slot. Reply: 1 or 0.
    StartView = 3,
    /// The Guest stands at a clean point. Arguments and reply are a debugger's:
    /// see [`debug`](crate::debug).
    Broken = 4,
    /// The Guest called CRASH; the text is its message. Never answered.
    Crash = 5,
    /// The Host kills the Guest; the text says why. Never answered.
    Killed = 6,
    /// Input waits for a buffer, and the Guest may have freed one.
    BuffersMayBeFree = 7,
    /// NOTIFY. Argument: a physical address.
    Notify = 8,
    /// Another process for a view, in the place of the one that asks. Argument:
    /// its slot. Never answered: the new process gets the run token, and goes
    /// on when it is the Host's turn.
    RenewView = 9,
    /// The Guest reads registers of a device on its PCI bus. Arguments: the
    /// device, from 0; where they are in BAR 0; and bytes: 1, 2 or 4. Reply:
    /// their value.
    ReadDevice = 10,
    /// It writes such registers. Arguments: device and bytes
    /// ([`device_and_bytes`]), where they are, and the value.
    WriteDevice = 11,
}

impl Request {
    /// The request with number `nr`.
    #[must_use]
    pub const fn from_number(nr: u32) -> Option<Self> {
        Some(match nr {
            1 => Self::SendDma,
            2 => Self::BindDma,
            3 => Self::StartView,
            4 => Self::Broken,
            5 => Self::Crash,
            6 => Self::Killed,
            7 => Self::BuffersMayBeFree,
            8 => Self::Notify,
            9 => Self::RenewView,
            10 => Self::ReadDevice,
            11 => Self::WriteDevice,
            _ => return None,
        })
    }

    /// Its name, for a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::SendDma => "SEND_DMA",
            Self::BindDma => "BIND_DMA",
            Self::StartView => "start a view",
            Self::Broken => "stand for a debugger",
            Self::Crash => "CRASH",
            Self::Killed => "killed",
            Self::BuffersMayBeFree => "buffers may be free",
            Self::Notify => "NOTIFY",
            Self::RenewView => "make a view anew",
            Self::ReadDevice => "read a device",
            Self::WriteDevice => "write to a device",
        }
    }
}

/// The argument of [`Request::WriteDevice`] with the number of a device and how
/// many bytes are written.
#[must_use]
pub const fn device_and_bytes(device: u32, bytes: u32) -> u32 {
    device << 8 | bytes & 0xFF
}

/// Texts of [`Request::Killed`] that the Launcher recognises. It then explains
/// what this machine lacks.
pub mod reason {
    /// A page cannot be mapped, although the view has dropped all mappings that
    /// it can do without.
    pub const OUT_OF_MAPPINGS: &str = "the machine has no room for more mappings: \
         raise vm.max_map_count, or give it memory";
    /// The Launcher could not start a view, and the Host cannot do without.
    pub const NO_VIEW: &str =
        "the host cannot start another process for the guest";
    /// The Host cannot return from a signal handler.
    pub const RETURN_REFUSED: &str = "the machine refuses rt_sigreturn";
}

/// The words of the conversation. All of them start as zero.
#[repr(C)]
pub struct Mailbox {
    /// [`HOSTS_TURN`] or [`LAUNCHERS_TURN`]. A futex.
    pub turn: AtomicU32,
    /// A [`Request`].
    pub request: AtomicU32,
    /// The arguments of the request.
    pub arguments: [AtomicU32; 3],
    /// The Launcher's answer.
    pub reply: AtomicU32,
    /// Bytes of `text` that are in use.
    pub text_len: AtomicU32,
    /// A text for the user.
    pub text: [AtomicU8; MAX_TEXT],
}

impl Mailbox {
    /// Writes a request, for the Host. The caller then gives the turn.
    pub fn write(&self, request: Request, arguments: [u32; 3]) {
        self.request.store(request as u32, Ordering::Relaxed);
        for (word, argument) in self.arguments.iter().zip(arguments) {
            word.store(argument, Ordering::Relaxed);
        }
    }

    /// Writes the text that goes with a request, as much as there is room
    /// for.
    pub fn write_text(&self, text: &[u8]) {
        let len = text.len().min(MAX_TEXT);
        for (to, &from) in self.text.iter().zip(&text[..len]) {
            to.store(from, Ordering::Relaxed);
        }
        #[allow(clippy::cast_possible_truncation)] // at most MAX_TEXT
        self.text_len.store(len as u32, Ordering::Relaxed);
    }

    /// Copies the text out, for the Launcher: at most [`MAX_TEXT`] bytes,
    /// whatever the other side claims.
    #[must_use]
    pub fn read_text(&self) -> ([u8; MAX_TEXT], usize) {
        let mut text = [0; MAX_TEXT];
        let claimed = self.text_len.load(Ordering::Relaxed) as usize;
        for (to, from) in text.iter_mut().zip(&self.text) {
            *to = from.load(Ordering::Relaxed);
        }
        (text, claimed.min(MAX_TEXT))
    }
}
