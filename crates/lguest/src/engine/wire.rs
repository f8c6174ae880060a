//! The four requests as words: `/dev/lguest`, without the device.
//!
//! The original's Launcher spoke to its Host by writing a few 32-bit words and
//! by reading. Whoever has such a Launcher, or wants to write one in another
//! language over a pipe, finds the same words and the same errors here
//! (docs/abi.md, section 8).

use super::{Death, Exit, Guest, RequestError, SharedPage};
use crate::memory::GuestMemory;
use lg_abi::request::{
    Initialize, LHREQ_BREAK, LHREQ_GETDMA, LHREQ_INITIALIZE, LHREQ_IRQ,
};
use rustix::io::Errno;
use std::sync::Mutex;
use std::thread::ThreadId;

/// An open `/dev/lguest`.
pub struct Wire {
    guest: Guest,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Who may make requests: the thread that initialised.
    owner: Option<ThreadId>,
    /// Given away at INITIALIZE.
    shared_pages: Vec<SharedPage>,
    /// How the Guest died, until it has been read.
    last_words: Option<String>,
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
        };
        Self {
            guest: Guest::new(memory),
            inner: Mutex::new(inner),
        }
    }

    /// The Guest behind it.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// A write: a request and its words. Answers what the system call would:
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
        match super::lock(&self.inner).owner {
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
            LHREQ_IRQ => self.guest.irq(word).map(|()| 0).map_err(errno),
            LHREQ_BREAK => {
                let on = word != 0;
                self.guest.set_break(on).map(|()| 0).map_err(errno)
            }
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
            let mut inner = super::lock(&self.inner);
            match inner.owner {
                None => return Err(Errno::INVAL),
                Some(owner) if owner != me => return Err(Errno::PERM),
                Some(_) => {}
            }
            if let Some(words) = inner.last_words.take() {
                return Ok(words.into_bytes());
            }
        }
        match self.guest.run().map_err(errno)? {
            Exit::SendDma { dma, key } => {
                Ok([dma.to_le_bytes(), key.to_le_bytes()].concat())
            }
            Exit::Broken => Err(Errno::AGAIN),
            Exit::Dead(death) => {
                let mut inner = super::lock(&self.inner);
                inner.last_words = Some(in_the_originals_words(&death));
                Err(Errno::NOENT)
            }
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
        let mut inner = super::lock(&self.inner);
        if inner.owner.is_some() {
            return Err(Errno::BUSY);
        }
        if pfn_limit != self.guest.memory().pfn_limit() {
            return Err(Errno::INVAL);
        }
        let pages = std::mem::take(&mut inner.shared_pages);
        self.guest.initialize(&request, pages).map_err(errno)?;
        inner.owner = Some(std::thread::current().id());
        Ok(0)
    }
}

/// The text that a read of the device would give.
fn in_the_originals_words(death: &Death) -> String {
    match death {
        Death::PowerOff(_) => "CRASH: Power down\0".into(),
        other => format!("{other}\0"),
    }
}

fn errno(error: RequestError) -> Errno {
    match error {
        RequestError::NotInitialised | RequestError::NoSuchIrq(_) => {
            Errno::INVAL
        }
        RequestError::AlreadyInitialised => Errno::BUSY,
        RequestError::Dead => Errno::NOENT,
        RequestError::Start(error) => {
            Errno::from_raw_os_error(error.cause.errno())
        }
    }
}
