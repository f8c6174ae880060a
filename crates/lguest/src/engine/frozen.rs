//! What there is of a Guest that stands still, beside its devices.
//!
//! A Guest that is held is in three files: its memory, the state that its views
//! share, and its patched copies. Of the state, the part from
//! [`HOSTS_PART`] on is the Host's. The Launcher copies it and reads nothing in
//! it. Whatever is there, only processes use it that count as the Guest. The
//! words before it are the Launcher's, too, and [`EngineState`] has those of
//! them that the Guest relies on.
//!
//! The rest is not kept, because it is made anew: views and what they map, the
//! mailbox and whose turn it is, the run tokens, and counts of kicks.

use super::bindings::Binding;
use lg_abi::dma::{KEY_ALIGN, LGUEST_MAX_DMA};
use lg_abi::shared::LGUEST_IRQS;
use lg_wire::state::HOSTS_PART;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// Where the Host's part begins in [`Frozen::state_file`].
pub const HOST_AT: u64 = HOSTS_PART as u64;

/// What the engine's own part of the Launcher knows of a Guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineState {
    /// The frequency of the time-stamp counter that the Guest was told.
    pub tsc_khz: u32,
    /// Interrupts that wait, a bit each.
    pub irqs: u32,
    /// Those of devices whose registers have changed.
    pub config_changes: u32,
    /// Pages that were written to and that the Host has not looked at, as a
    /// filter.
    pub written_pages: u64,
    /// What the Guest has bound.
    pub bindings: Vec<Binding>,
}

impl EngineState {
    /// Whether a Guest with `limit` bytes of memory can have this state: it may
    /// be made up.
    #[must_use]
    pub fn is_possible(&self, limit: u32) -> bool {
        let good = |binding: &Binding| {
            let Binding { key, num, irq, .. } = *binding;
            key.is_multiple_of(KEY_ALIGN)
                && key < limit
                && num < 1 << 24
                && (1..LGUEST_IRQS).contains(&irq.into())
        };
        self.bindings.len() <= LGUEST_MAX_DMA && self.bindings.iter().all(good)
    }
}

/// A Guest that stands still.
#[derive(Debug)]
pub struct Frozen {
    /// What the Launcher knows.
    pub state: EngineState,
    /// Its memory.
    pub memory: OwnedFd,
    /// The state that its views share.
    pub state_file: OwnedFd,
    /// Its patched copies.
    pub copies: OwnedFd,
}

/// A Guest that goes on in new processes.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// What the Launcher knows.
    pub state: EngineState,
    /// What is not zero in the Host's part of the state.
    pub host: Vec<Piece>,
    /// What is not zero in the patched copies.
    pub copies: Vec<Piece>,
}

/// Bytes of a file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Where they belong.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_those_that_a_guest_can_make() {
        let with = |binding: Binding| EngineState {
            bindings: vec![binding],
            ..EngineState::default()
        };
        let good = Binding {
            key: 0x1000,
            dmas: u32::MAX,
            num: 4,
            irq: 1,
        };
        assert!(with(good).is_possible(0x2000));
        let bad = [
            Binding { key: 2, ..good },
            Binding {
                key: 0x2000,
                ..good
            },
            Binding {
                num: 1 << 24,
                ..good
            },
            Binding { irq: 0, ..good },
            Binding { irq: 32, ..good },
        ];
        for binding in bad {
            assert!(!with(binding).is_possible(0x2000), "{binding:?}");
        }
        let mut many = with(good);
        many.bindings = vec![good; LGUEST_MAX_DMA + 1];
        assert!(!many.is_possible(0x2000));
    }
}
