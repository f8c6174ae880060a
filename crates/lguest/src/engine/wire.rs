//! Requests as words: `/dev/lguest`, without the device.
//!
//! The Launcher of 2007 wrote a few 32-bit words to a device, and read from it.
//! This file accepts the same words and gives the same errors, to such a
//! Launcher or to one in another language at the end of a pipe (docs/abi.md,
//! section 8). A Launcher of a Guest of Linux 4.x has other requests (section
//! 10), for it carries accesses to devices out itself ([`access`]).

mod access;

use self::access::Access;
use super::death::Death;
use super::error::RequestError;
use super::hold::Hold;
use super::interface::{
    DeviceAccess, Engine, Exit, Requests, Setup, SharedPage,
};
use super::native::Native;
use crate::lock::lock;
use crate::memory::GuestMemory;
use lg_abi::gen3::pci::first_place;
use lg_abi::gen3::request as gen3;
use lg_abi::page::{LINEAR, PAGE_SIZE};
use lg_abi::request::{
    Initialize, LHREQ_BREAK, LHREQ_GETDMA, LHREQ_INITIALIZE, LHREQ_IRQ,
};
use rustix::io::Errno;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use zerocopy::IntoBytes;

/// An open `/dev/lguest`.
pub struct Wire {
    guest: Arc<Native>,
    /// The Guest is one of Linux 4.x.
    is_later: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The thread that initialised: no other may make requests.
    owner: Option<ThreadId>,
    /// What INITIALIZE does not say, until then.
    setup: Option<Setup>,
    /// What the Guest of Linux 4.x does to a device, until the next read that
    /// runs it.
    access: Option<Access>,
    /// What the next read returns, after LHREQ_GETREG.
    register: Option<u32>,
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
        let setup = Setup {
            shared_pages,
            ..Setup::from(Initialize {
                pfn_limit: 0,
                pgdir: 0,
                start: 0,
                page_offset: 0,
            })
        };
        Self::with(memory, setup, false)
    }

    /// The same for a Guest of Linux 4.0 to 4.13. `setup` says what the words
    /// of INITIALIZE do not: interface, boot parameters, and which devices
    /// there are. The Host has their configuration spaces, and the Launcher
    /// their registers.
    #[must_use]
    pub fn open_later(memory: GuestMemory, setup: Setup) -> Self {
        Self::with(memory, setup, true)
    }

    fn with(memory: GuestMemory, setup: Setup, is_later: bool) -> Self {
        let inner = Inner {
            owner: None,
            setup: Some(setup),
            access: None,
            register: None,
            last_words: None,
            hold: None,
        };
        Self {
            guest: Native::new(memory),
            is_later,
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
    /// that initialised, but for BREAK; ENOENT once the Guest is dead, when
    /// LHREQ_GETDMA finds no free buffer, and for a register that does not
    /// exist or cannot be written. LHREQ_TRAP is always EINVAL: the Host
    /// delivers traps itself.
    pub fn write(&self, words: &[u32]) -> Result<u32, Errno> {
        let (&request, rest) = words.split_first().ok_or(Errno::INVAL)?;
        if request == LHREQ_INITIALIZE {
            return self.initialize(words);
        }
        let may_any = !self.is_later && request == LHREQ_BREAK;
        let me = std::thread::current().id();
        match lock(&self.inner).owner {
            None => return Err(Errno::INVAL),
            Some(owner) if owner != me && !may_any => {
                return Err(Errno::PERM);
            }
            Some(_) => {}
        }
        if self.is_later {
            return self.write_later(words).map(|()| 0);
        }
        let &[word, ..] = rest else {
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
            LHREQ_IRQ => self.raise(word).map(|()| 0),
            LHREQ_BREAK => self.set_break(word != 0).map(|()| 0).map_err(errno),
            _ => Err(Errno::INVAL),
        }
    }

    /// A request of a Launcher of Linux 4.x other than INITIALIZE.
    fn write_later(&self, words: &[u32]) -> Result<(), Errno> {
        if self.guest.death().is_some() {
            return Err(Errno::NOENT);
        }
        let request = gen3::Request::from_words(words).map_err(bad_request)?;
        let mut inner = lock(&self.inner);
        let Inner {
            access, register, ..
        } = &mut *inner;
        match request {
            gen3::Request::GetReg(which) => {
                let value = access.as_ref().map_or(0, |a| a.get(which));
                *register = Some(value);
            }
            gen3::Request::SetReg(which, value) => {
                if let Some(access) = access {
                    access.set(which, value);
                }
            }
            gen3::Request::Irq(irq) => {
                drop(inner);
                return self.raise(irq);
            }
            gen3::Request::Trap(_) | gen3::Request::Initialize(_) => {
                return Err(Errno::INVAL);
            }
        }
        Ok(())
    }

    fn raise(&self, irq: u32) -> Result<(), Errno> {
        // A number that does not fit is no interrupt.
        let irq = u8::try_from(irq).unwrap_or(u8::MAX);
        self.guest.irq(irq).map_err(errno)
    }

    /// A read: runs the Guest. Two words, dma address and key, when it sends;
    /// for a Guest of Linux 4.x the twelve bytes of an access to a device;
    /// then, once, the reason of its death as text with a NUL. After
    /// LHREQ_GETREG it runs nothing, and returns the register.
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
            if let Some(register) = inner.register.take() {
                return Ok(register.to_le_bytes().to_vec());
            }
            let answer = inner.access.take().and_then(|a| a.answer());
            if let Some(value) = answer {
                self.guest.answer(value);
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
                | Exit::Stopped(_) => {}
                Exit::ReadDevice(access) => {
                    return Ok(self.accessed(access, None));
                }
                Exit::WriteDevice { access, value } => {
                    return Ok(self.accessed(access, Some(value)));
                }
                Exit::Held => return Err(Errno::AGAIN),
                Exit::Dead(death) => {
                    let mut inner = lock(&self.inner);
                    inner.last_words = Some(in_the_originals_words(&death));
                    return Err(Errno::NOENT);
                }
            }
        }
    }

    /// The Guest of Linux 4.x accesses a device: what a read returns.
    fn accessed(&self, access: DeviceAccess, value: Option<u32>) -> Vec<u8> {
        let limit = self.guest.memory().limit();
        let access = Access::new(limit, access, value);
        let pending = access.pending();
        lock(&self.inner).access = Some(access);
        pending.as_bytes().to_vec()
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

    /// LHREQ_INITIALIZE, the first of `words`.
    fn initialize(&self, words: &[u32]) -> Result<u32, Errno> {
        let mut inner = lock(&self.inner);
        let setup = inner.setup.as_ref().ok_or(Errno::BUSY)?;
        let request = match self.is_later {
            true => self.words_of_later(words, setup)?,
            false => words_of_2007(words)?,
        };
        if request.pfn_limit != self.guest.memory().pfn_limit() {
            return Err(Errno::INVAL);
        }
        let setup = inner.setup.take().ok_or(Errno::BUSY)?;
        let setup = Setup { request, ..setup };
        self.guest.initialize(setup).map_err(errno)?;
        inner.owner = Some(std::thread::current().id());
        Ok(0)
    }

    /// What the words of a Launcher of Linux 4.x say. Where it has mapped the
    /// memory does not matter.
    fn words_of_later(
        &self,
        words: &[u32],
        setup: &Setup,
    ) -> Result<Initialize, Errno> {
        let request = gen3::Request::from_words(words).map_err(bad_request)?;
        let gen3::Request::Initialize(words) = request else {
            return Err(Errno::INVAL);
        };
        let devices = u32::try_from(setup.pci.len()).unwrap_or(u32::MAX);
        let end = first_place(self.guest.memory().limit(), devices);
        if words.device_limit < end / PAGE_SIZE {
            return Err(Errno::INVAL);
        }
        Ok(Initialize {
            pfn_limit: words.pfn_limit,
            pgdir: LINEAR,
            start: words.start,
            page_offset: setup.request.page_offset,
        })
    }
}

/// What the words of a Launcher of 2007 say.
fn words_of_2007(words: &[u32]) -> Result<Initialize, Errno> {
    let &[_, pfn_limit, pgdir, start, page_offset] = words else {
        return Err(Errno::INVAL);
    };
    Ok(Initialize {
        pfn_limit,
        pgdir,
        start,
        page_offset,
    })
}

fn bad_request(bad: gen3::BadRequest) -> Errno {
    match bad {
        gen3::BadRequest::Invalid => Errno::INVAL,
        gen3::BadRequest::NoSuchRegister => Errno::NOENT,
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
