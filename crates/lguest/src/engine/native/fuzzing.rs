//! An entry for fuzzing: the Launcher's end of the mailbox, without processes.
//!
//! Only there with `--cfg fuzzing`.

use super::Native;
use super::processes::NotRenewed;
use super::running::Views;
use super::turn::Conversation;
use crate::engine::bindings::BoundDma;
use crate::engine::interface::Exit;
use crate::lock::lock;
use crate::needs::Lack;
use lg_wire::mailbox::Mailbox;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Views without processes: it only notes which slots are in use.
#[derive(Default)]
struct OnPaper(AtomicU32);

impl Views for OnPaper {
    fn start_view(&self, slot: u32) -> Result<(), Lack> {
        let wrong = || Lack::when("start a view", io::ErrorKind::InvalidInput);
        let bit = 1_u32.checked_shl(slot).ok_or_else(wrong)?;
        let old = self.0.fetch_or(bit, Ordering::Relaxed);
        if old & bit == 0 { Ok(()) } else { Err(wrong()) }
    }

    fn renew_view(&self, slot: u32) -> Result<(), NotRenewed> {
        match slot {
            0..32 => Ok(()),
            32..64 => Err(NotRenewed::TooOften),
            64..96 => Err(NotRenewed::NoSuchView),
            _ => {
                let wrong = io::ErrorKind::InvalidInput;
                let lack = Lack::when("start a view", wrong);
                Err(NotRenewed::Lacks(lack))
            }
        }
    }
}

/// A Launcher whose requests come from the fuzzer instead of a Host.
pub struct Asked {
    guest: Arc<Native>,
    views: OnPaper,
}

impl Asked {
    /// Makes one with this Guest's memory, which is not initialised yet.
    #[must_use]
    pub fn new(guest: Arc<Native>) -> Self {
        Self {
            guest,
            views: OnPaper::default(),
        }
    }

    /// Takes the mailbox's contents as a request. Returns what `run` would.
    #[must_use]
    pub fn serve(&self, mailbox: &Mailbox) -> Option<Exit> {
        let core = &self.guest.core;
        let mut conversation = Conversation::HostsTurn;
        core.serve(mailbox, &self.views, &mut conversation)
    }

    /// LHREQ_GETDMA; `None` also for a list that ends the Guest.
    #[must_use]
    pub fn free_buffer(&self, key: u32) -> Option<BoundDma> {
        let core = &self.guest.core;
        let found = lock(&core.bindings).free_buffer(&core.memory, key);
        found.ok().flatten()
    }
}
