//! Whose turn it is at the mailbox, as the Launcher knows it.
//!
//! The processes wait on a word in shared memory, which a hostile Guest may
//! write. So the Launcher keeps its own record of whose turn it is.

use super::kernel::Kernel;
use super::running::Running;
use lg_wire::mailbox::HOSTS_TURN;
use lg_wire::turns;
use std::sync::atomic::Ordering;

/// Where we stand in the conversation with the Host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversation {
    /// The first view still waits for the run token.
    NotBegun,
    /// The Guest runs.
    HostsTurn,
    /// The Host waits for the answer to a request.
    Owed,
    /// The Host waits at a clean point, because it was told to stop.
    Stopped,
}

impl Conversation {
    /// Whether the Guest stands where it may be held.
    pub(super) fn is_clean(self) -> bool {
        matches!(self, Self::NotBegun | Self::Stopped)
    }

    /// Gives the turn to the Host, if it is not its turn already.
    pub(super) fn go_on(&mut self, running: &Running) {
        match *self {
            Self::NotBegun => running.begin(),
            Self::Owed | Self::Stopped => {
                running.stands.store(false, Ordering::SeqCst);
                let turn = &running.shared.mailbox().turn;
                turns::give::<Kernel>(turn, HOSTS_TURN);
            }
            Self::HostsTurn => {}
        }
        *self = Self::HostsTurn;
    }
}
