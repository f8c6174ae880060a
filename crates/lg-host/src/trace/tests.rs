//! A pretended Guest, and what its Host records.

use super::*;
use crate::address::GuestPhys;
use crate::patch::TrampolineKind;
use crate::state::Gate;
use crate::testing::Machine;
use lg_abi::shared::{FIRST_EXTERNAL_VECTOR, IF, offset};
use lg_wire::trace::{PATCHES, TRAMPOLINES, wait};
use std::vec::Vec;

/// A Guest of which these groups are traced.
fn traced(groups: u32) -> Machine {
    let m = Machine::new();
    m.vm.wire.traced.store(groups, Ordering::Relaxed);
    m
}

/// Kind and detail of all that was recorded.
fn recorded(m: &Machine) -> Vec<(Kind, u16)> {
    let traced = m.world.traced.borrow();
    traced.iter().map(|e| (e.kind, e.detail)).collect()
}

#[test]
fn an_exit_is_recorded_and_its_end() {
    let mut m = traced(group::EXITS);
    m.vm.regs.eip.set(0xC000_5000);
    m.host().run_guest(Came::Kick).unwrap();
    assert_eq!(recorded(&m), [(Kind::Exit, cause::KICK)]);
    assert_eq!(m.world.traced.borrow()[0].eip, 0xC000_5000);
    assert_eq!(*m.world.ends_traced.borrow(), [0]);
    // A second look before the Guest goes on ends nothing.
    m.host().get_ready().unwrap();
    assert_eq!(m.world.ends_traced.borrow().len(), 1);
}

#[test]
fn what_is_not_wanted_is_not_recorded() {
    for groups in [0, group::PATCHES, !group::ALL & !group::SAMPLES] {
        let mut m = traced(groups);
        m.host().run_guest(Came::Kick).unwrap();
        assert_eq!(recorded(&m), []);
        assert!(m.world.ends_traced.borrow().is_empty());
    }
}

#[test]
fn an_interrupt_waits_and_is_delivered() {
    let mut m = traced(group::INTERRUPTS);
    let memory = m.ram.memory();
    let shared = |offset| GuestPhys(Machine::DATA + offset);
    m.vm.idt[(FIRST_EXTERNAL_VECTOR + 3) as usize].set(Gate {
        handler: 0xC000_4000,
        flags: Gate::PRESENT,
    });
    m.vm.wire.irqs.store(1 << 3 | 1 << 5, Ordering::SeqCst);
    let blocked = shared(offset::BLOCKED_INTERRUPTS);
    memory.set_word(blocked, 1 << 3 | 1 << 5).unwrap();
    m.host().maybe_do_interrupt().unwrap();
    memory.set_word(blocked, 0).unwrap();
    m.host().maybe_do_interrupt().unwrap();
    for _ in 0..2 {
        memory.set_word(shared(offset::IRQ_ENABLED), IF).unwrap();
        m.host().maybe_do_interrupt().unwrap();
    }
    assert_eq!(
        recorded(&m),
        [
            (Kind::Waits, wait::BLOCKED),
            (Kind::Waits, wait::OFF),
            (Kind::Delivered, 3),
            (Kind::Dropped, 5),
        ]
    );
    let events = m.world.traced.borrow();
    assert_eq!(events[0].words, [0x28, 0x28, 0]);
    assert_eq!(events[1].words, [0x28, 0, 0]);
    assert_eq!(events[2].words, [0xC000_4000, 0x20, 0]);
}

/// A Guest whose timer of a profile has gone off.
fn sampled(m: &mut Machine) {
    m.vm.wire.sample_every.store(1_000_000, Ordering::Relaxed);
    let look = |m: &mut Machine| {
        m.vm.wire.kick.fetch_add(1, Ordering::SeqCst);
        m.host().run_guest(Came::Kick).unwrap();
    };
    // The first look settles when the first sample is due.
    look(m);
    assert_eq!(recorded(m), []);
    assert_eq!(m.world.armed, m.world.now + 1_000_000);
    m.world.now = m.world.armed;
    look(m);
}

#[test]
fn a_sample_has_the_frames_of_its_callers() {
    let mut m = traced(group::SAMPLES);
    m.world.now = 7_000_000;
    m.vm.regs.eip.set(0xC000_5000);
    // Three callers by frame pointers, and the last of them is in front of it.
    let frames = [
        (0xC000_8100, 0xC000_8200, 0xC000_5111),
        (0xC000_8200, 0xC000_8208, 0xC000_5222),
        (0xC000_8208, 0xC000_8100, 0xC000_5333),
    ];
    for (at, caller, back) in frames {
        let place = GuestPhys(at - 0xC000_0000);
        m.ram.memory().set_words(place, [caller, back]).unwrap();
    }
    m.vm.regs.ebp.set(0xC000_8100);
    sampled(&mut m);
    let events = m.world.traced.borrow();
    let [sample, frames] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((sample.kind, sample.eip), (Kind::Sample, 0xC000_5000));
    assert_eq!(sample.words, [Machine::CR3, 3, 0xC000_5111]);
    assert_eq!(frames.detail, sample.detail);
    assert_eq!((frames.kind, frames.eip), (Kind::Frames, 0xC000_5222));
    assert_eq!(frames.words, [0xC000_5333, 0, 0]);
}

#[test]
fn a_chain_that_leads_nowhere_has_no_frames() {
    // Below the stack; far above it; not aligned; no memory; a user's.
    for ebp in [
        0,
        0xC000_7000,
        0xC010_0000,
        0xC000_8102,
        0xC03F_FFFC,
        0x1000,
    ] {
        let mut m = traced(group::SAMPLES);
        m.world.now = 7_000_000;
        m.vm.regs.ebp.set(ebp);
        sampled(&mut m);
        let events = m.world.traced.borrow();
        assert_eq!(events.len(), 1, "{ebp:#x}");
        assert_eq!(events[0].words[1], 0, "{ebp:#x}");
    }
}

#[test]
fn a_guest_that_sleeps_is_not_sampled() {
    let mut m = traced(group::SAMPLES);
    m.world.now = 7_000_000;
    sampled(&mut m);
    let count = recorded(&m).len();
    m.vm.halted.set(1);
    assert_eq!(m.host().sample_at(), 0, "the timer is not set for it");
    m.world.now += 1_000_000;
    let now = m.world.now;
    m.host().maybe_sample(now);
    m.host().halt().unwrap();
    m.vm.halted.set(0);
    // It slept for long: that is no sample of where it wakes up.
    m.world.now += 900_000_000;
    let now = m.world.now;
    m.host().maybe_sample(now);
    assert_eq!(recorded(&m).len(), count);
    assert_eq!(m.host().sample_at(), now + 1_000_000);
}

/// A Guest that had to wait for its processor is where it was before.
#[test]
fn a_late_sample_counts_once() {
    let mut m = traced(group::SAMPLES);
    m.world.now = 7_000_000;
    sampled(&mut m);
    let count = recorded(&m).len();
    m.world.now += 15_000_000;
    let now = m.world.now;
    m.host().maybe_sample(now);
    m.host().maybe_sample(now);
    assert_eq!(recorded(&m).len(), count + 1);
    assert_eq!(m.host().sample_at(), now + 1_000_000);
}

#[test]
fn a_reader_has_the_names_of_trampolines_and_patches() {
    let named = |names: &[&str], number: usize, name: &str| {
        assert_eq!(names.get(number), Some(&name));
    };
    for kind in TrampolineKind::ALL {
        named(&TRAMPOLINES, kind as usize, &std::format!("{kind:?}"));
    }
    assert_eq!(TRAMPOLINES.len(), TrampolineKind::ALL.len() + 1);
    for kind in PatchKind::ALL {
        named(&PATCHES, kind as usize, &std::format!("{kind:?}"));
    }
    assert_eq!(PATCHES.len(), PatchKind::ALL.len() + 1);
}
