//! The four requests as words: `/dev/lguest`, without the device.
//!
//! The Launcher of 2007 wrote a few 32-bit words to a device, and read from it.
//! This file accepts the same words and gives the same errors, to such a
//! Launcher or to one in another language at the end of a pipe (docs/abi.md,
//! section 8).

use super::death::Death;
use super::error::RequestError;
use super::hold::Hold;
use super::interface::{Engine, Exit, Requests, Setup, SharedPage};
use super::native::Native;
use crate::lock::lock;
use crate::memory::GuestMemory;
use lg_abi::request::{
    Initialize, LHREQ_BREAK, LHREQ_GETDMA, LHREQ_INITIALIZE, LHREQ_IRQ,
};
use rustix::io::Errno;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

/// An open `/dev/lguest`.
pub struct Wire {
    guest: Arc<Native>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The thread that initialised: no other may make requests.
    owner: Option<ThreadId>,
    /// Handed to the engine at INITIALIZE.
    shared_pages: Vec<SharedPage>,
    /// How the Guest died, until a read has returned it.
    last_words: Option<String>,
    /// LHREQ_BREAK is on.
    hold: Option<Hold>,
}

impl Wire {
    /// What opening the device gives. The memory is the Launcher's own, as it
    /// was in 2007.
    #[must_use]
    pub fn open(memory: GuestMemory, shared_pages: Vec<SharedPage>) -> Self {
        let inner = Inner {
            owner: None,
            shared_pages,
            last_words: None,
            hold: None,
        };
        Self {
            guest: Native::new(memory),
            inner: Mutex::new(inner),
        }
    }

    /// Its Guest.
    #[must_use]
    pub fn guest(&self) -> &Arc<Native> {
        &self.guest
    }

    /// A write: a request and its words. Returns what the system call would:
    /// the address of a buffer for LHREQ_GETDMA, else 0. The buffer's
    /// interrupt is in its `used_len` then, as the header says.
    ///
    /// # Errors
    ///
    /// EINVAL before INITIALIZE, for an unknown request, and for bad words;
    /// EBUSY for a second INITIALIZE; EPERM for another thread than the one
    /// that initialised, but for BREAK; ENOENT once the Guest is dead, and
    /// when LHREQ_GETDMA finds no free buffer.
    pub fn write(&self, words: &[u32]) -> Result<u32, Errno> {
        let (&request, words) = words.split_first().ok_or(Errno::INVAL)?;
        if request == LHREQ_INITIALIZE {
            return self.initialize(words);
        }
        let me = std::thread::current().id();
        match lock(&self.inner).owner {
            None => return Err(Errno::INVAL),
            Some(owner) if owner != me && request != LHREQ_BREAK => {
                return Err(Errno::PERM);
            }
            Some(_) => {}
        }
        let &[word, ..] = words else {
            return Err(Errno::INVAL);
        };
        match request {
            LHREQ_GETDMA => {
                let found = self.guest.get_dma(word).map_err(errno)?;
                let found = found.ok_or(Errno::NOENT)?;
                self.guest
                    .memory()
                    .write_last(found.addr, u32::from(found.irq))
                    .map_err(|_| Errno::FAULT)?;
                Ok(found.addr)
            }
            LHREQ_IRQ => {
                // A number that does not fit is no interrupt.
                let irq = u8::try_from(word).unwrap_or(u8::MAX);
                self.guest.irq(irq).map(|()| 0).map_err(errno)
            }
            LHREQ_BREAK => self.set_break(word != 0).map(|()| 0).map_err(errno),
            _ => Err(Errno::INVAL),
        }
    }

    /// A read: runs the Guest. Two words, dma address and key, when it sends;
    /// then, once, the reason of its death as text with a NUL.
    ///
    /// # Errors
    ///
    /// EAGAIN when it was broken out of; ENOENT when it has died (the next
    /// read gives the reason, those after it nothing); EINVAL and EPERM as
    /// for [`Self::write`].
    pub fn read(&self) -> Result<Vec<u8>, Errno> {
        let me = std::thread::current().id();
        {
            let mut inner = lock(&self.inner);
            match inner.owner {
                None => return Err(Errno::INVAL),
                Some(owner) if owner != me => return Err(Errno::PERM),
                Some(_) => {}
            }
            if let Some(words) = inner.last_words.take() {
                return Ok(words.into_bytes());
            }
        }
        loop {
            match self.guest.run().map_err(errno)? {
                Exit::SendDma { dma, key } => {
                    return Ok([dma.to_le_bytes(), key.to_le_bytes()].concat());
                }
                Exit::BindingsChanged
                | Exit::BuffersMayBeFree
                | Exit::Notify { .. }
                | Exit::Stopped(_)
                | Exit::WriteDevice { .. } => {}
                Exit::ReadDevice(_) => self.guest.answer(u32::MAX),
                Exit::Held => return Err(Errno::AGAIN),
                Exit::Dead(death) => {
                    let mut inner = lock(&self.inner);
                    inner.last_words = Some(in_the_originals_words(&death));
                    return Err(Errno::NOENT);
                }
            }
        }
    }

    /// LHREQ_BREAK. Switching it on blocks until it is switched off again.
    fn set_break(&self, on: bool) -> Result<(), RequestError> {
        if on {
            let hold = self.guest.hold()?;
            lock(&self.inner).hold.get_or_insert(hold);
            self.guest.wait_until_let_go();
        } else {
            lock(&self.inner).hold = None;
        }
        match self.guest.death() {
            Some(_) => Err(RequestError::Dead),
            None => Ok(()),
        }
    }

    fn initialize(&self, words: &[u32]) -> Result<u32, Errno> {
        let &[pfn_limit, pgdir, start, page_offset] = words else {
            return Err(Errno::INVAL);
        };
        let request = Initialize {
            pfn_limit,
            pgdir,
            start,
            page_offset,
        };
        let mut inner = lock(&self.inner);
        if inner.owner.is_some() {
            return Err(Errno::BUSY);
        }
        if pfn_limit != self.guest.memory().pfn_limit() {
            return Err(Errno::INVAL);
        }
        let pages = std::mem::take(&mut inner.shared_pages);
        let setup = Setup {
            shared_pages: pages,
            ..Setup::from(request)
        };
        self.guest.initialize(setup).map_err(errno)?;
        inner.owner = Some(std::thread::current().id());
        Ok(0)
    }
}

/// The text that a read of the device would give.
fn in_the_originals_words(death: &Death) -> String {
    match death {
        Death::PowerOff(_) => "CRASH: Power down\0".into(),
        Death::Restart => "CRASH: Restarting system\0".into(),
        other => format!("{other}\0"),
    }
}

fn errno(error: RequestError) -> Errno {
    match error {
        RequestError::NotInitialised
        | RequestError::NoSuchIrq(_)
        | RequestError::BadState => Errno::INVAL,
        RequestError::AlreadyInitialised | RequestError::NotHeld => Errno::BUSY,
        RequestError::Dead => Errno::NOENT,
        RequestError::Start(error) => {
            Errno::from_raw_os_error(error.cause.errno())
        }
    }
}
