//! An oracle: without its patches, memory is what the Guest wrote.
//!
//! Patches of all lengths are made, taken back, made again and overwritten in
//! any order, in the Guest's memory and in a patched copy. The oracle knows one
//! thing only, the bytes that the Guest has written.

use super::table::{PatchKind, Place};
use crate::address::{GuestPhys, GuestVirt};
use crate::testing::Machine;
use proptest::prelude::*;
use std::vec::Vec;

/// Where the bytes are that are played with: in the Guest's memory, and in
/// patched copy 1.
const AT: u32 = 0x9000;
const IN_COPY: u32 = 0x1000;
const BYTES: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Step {
    Patch { copy: bool, at: u8, length: u8 },
    Write { at: u8, length: u8, byte: u8 },
    TakeBack(u8),
    MakeAgain(u8),
    TakeBackAll,
    MakeAllAgain,
    BackAndForth,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..64_u8;
    prop_oneof![
        6 => (any::<bool>(), at.clone(), 1..27_u8)
            .prop_map(|(copy, at, length)| Step::Patch { copy, at, length }),
        4 => (at, 1..8_u8, 0..0x80_u8)
            .prop_map(|(at, length, byte)| Step::Write { at, length, byte }),
        3 => any::<u8>().prop_map(Step::TakeBack),
        3 => any::<u8>().prop_map(Step::MakeAgain),
        1 => Just(Step::TakeBackAll),
        1 => Just(Step::MakeAllAgain),
        2 => Just(Step::BackAndForth),
    ]
}

/// The machine, and what the Guest has written.
struct Play {
    m: Machine,
    /// In the Guest's memory.
    written: [u8; BYTES],
    patches: u8,
}

impl Play {
    fn new() -> Self {
        let m = Machine::new();
        let written = [1; BYTES];
        m.ram.memory().write(GuestPhys(AT), &written).unwrap();
        m.copies
            .memory()
            .write(GuestPhys(IN_COPY), &[1; BYTES])
            .unwrap();
        Self {
            m,
            written,
            patches: 0,
        }
    }

    fn memory(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        self.m.ram.memory().read(GuestPhys(AT), &mut bytes).unwrap();
        bytes
    }

    fn copy(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let at = GuestPhys(IN_COPY);
        self.m.copies.memory().read(at, &mut bytes).unwrap();
        bytes
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Patch { copy, at, length } => self.patch(copy, at, length),
            Step::Write { at, length, byte } => self.write(at, length, byte),
            Step::TakeBack(n) => {
                if let Some(id) = self.one(n) {
                    self.m.host().take_back(id);
                }
            }
            Step::MakeAgain(n) => {
                if let Some(id) = self.one(n) {
                    self.m.host().make_again(id);
                }
            }
            Step::TakeBackAll => self.take_back_all(),
            Step::MakeAllAgain => self.m.host().make_all_again(),
            Step::BackAndForth => {
                self.play(Step::MakeAllAgain);
                let before = (self.memory(), self.copy());
                self.take_back_all();
                self.play(Step::MakeAllAgain);
                assert_eq!((self.memory(), self.copy()), before);
            }
        }
    }

    fn one(&mut self, n: u8) -> Option<super::table::PatchId> {
        let patches: Vec<_> = self.m.vm.ledger.patches().collect();
        let n = usize::from(n).checked_rem(patches.len())?;
        Some(patches[n].id)
    }

    /// Our bytes have their highest bit set, the Guest's have not.
    fn patch(&mut self, copy: bool, at: u8, length: u8) {
        let at = u32::from(at);
        let length = usize::from(length).min(BYTES - at as usize);
        let (kind, place) = if copy {
            (PatchKind::DirectSlot, Place::Copy(1, at))
        } else {
            (PatchKind::Hypercall, Place::Memory(GuestPhys(AT + at)))
        };
        let host = self.m.host();
        let site = GuestVirt(0xC000_9000 + at);
        if let Some(room) = host.room_for(kind, place, site, length) {
            self.patches += 1;
            host.write_patch(room, &std::vec![0x80 | self.patches; length]);
        }
    }

    /// The Guest writes. Where it overwrites a part of a patch, the rest of
    /// that counts as its own.
    fn write(&mut self, at: u8, length: u8, byte: u8) {
        let at = usize::from(at);
        let end = (at + usize::from(length)).min(BYTES);
        let place = GuestPhys(AT + u32::try_from(at).unwrap());
        let bytes = std::vec![byte; end - at];
        self.m.ram.memory().write(place, &bytes).unwrap();
        let now = self.memory();
        self.written[at..end].copy_from_slice(&now[at..end]);
        for patch in self.m.vm.ledger.patches() {
            let Place::Memory(from) = patch.place else {
                continue;
            };
            let from = (from.0 - AT) as usize;
            let to = from + patch.ours().len();
            if patch.is_in_place() && at < to && from < end {
                self.written[from..to].copy_from_slice(&now[from..to]);
            }
        }
    }

    fn take_back_all(&mut self) {
        self.m.host().take_back_all();
        assert_eq!(self.memory(), self.written, "what the Guest wrote");
        assert_eq!(self.copy(), [1; BYTES]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn without_its_patches_memory_is_what_the_guest_wrote(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut play = Play::new();
        for step in steps {
            play.play(step);
        }
        play.take_back_all();
    }
}
