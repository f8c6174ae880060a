//! What is posted, what is not, and who is rung for.

use super::*;
use crate::fast_path;
use crate::testing::{Machine, Ram};
use lg_wire::outbox::{RING_SIZE, RINGS, STRIDE};
use std::vec;
use std::vec::Vec;

const LIST: u32 = 0x1_0000;
const BYTES: u32 = 0x2_0FF0;
const SLOT: u32 = 3;
const KEY: u32 = Machine::NETWORK + KEY_ALIGN * SLOT;

/// A machine whose neighbour in [`SLOT`] takes frames of 1514 bytes.
fn machine() -> Machine {
    let m = Machine::new().with_outbox();
    set(&m, word::ROOM, 1514);
    m
}

fn outbox(m: &Machine) -> &Ram {
    m.outbox.as_ref().unwrap()
}

const fn at(offset: u32) -> GuestPhys {
    GuestPhys(PAGE_SIZE + SLOT * RING_SIZE + offset)
}

fn set(m: &Machine, word: u32, value: u32) {
    outbox(m).memory().store(at(word), value).unwrap();
}

fn get(m: &Machine, word: u32) -> u32 {
    outbox(m).memory().load(at(word)).unwrap()
}

fn list(m: &Machine, sections: &[(u32, u16)]) {
    let mut dma = Dma::default();
    for (i, &(addr, len)) in sections.iter().enumerate() {
        (dma.addr[i], dma.len[i]) = (addr, len);
    }
    m.ram.memory().set_object(GuestPhys(LIST), &dma).unwrap();
}

/// Sends the list; answers what its `used_len` is, if it was posted.
fn post(m: &mut Machine) -> Option<u32> {
    let posted = m.host().post(KEY, GuestPhys(LIST)).unwrap();
    (posted == Post::Done)
        .then(|| m.ram.memory().word(GuestPhys(LIST)).unwrap())
}

/// Frame `n` of the ring.
fn frame_of(m: &Machine, n: u32) -> Vec<u8> {
    let (length, body) = frame(n);
    let mut bytes = vec![0; get(m, length) as usize];
    outbox(m).memory().read(at(body), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_frame_is_put_together_and_its_receiver_rung_once() {
    let mut m = machine();
    let bytes: Vec<u8> = (0..=99).collect();
    m.ram.memory().write(GuestPhys(BYTES), &bytes).unwrap();
    set(&m, word::ASLEEP, 1);
    list(&m, &[(BYTES, 10), (BYTES + 16, 84)]);
    assert_eq!(post(&mut m), Some(94));
    assert_eq!(post(&mut m), Some(94));
    let expected = [&bytes[..10], &bytes[16..]].concat();
    assert_eq!(frame_of(&m, 0), expected);
    assert_eq!(frame_of(&m, 1), expected);
    assert_eq!(get(&m, word::POSTED), 2);
    assert_eq!(get(&m, word::ASLEEP), 0);
    assert_eq!(m.world.rung, [at(word::ASLEEP).0]);
    assert_eq!(m.world.sent, []);
    assert_eq!(m.vm.counters.posts.get(), 2);
}

#[test]
fn whatever_is_unusual_is_the_launchers() {
    let mut m = machine();
    let good = [(BYTES, 14)];
    for bad in [
        vec![],
        vec![(BYTES, 17)],
        vec![(Machine::RAM, 1)],
        vec![(u32::MAX, 1)],
        vec![(BYTES - 0xFF0, 1515)],
        vec![(BYTES - 0xFF0, 1500), (BYTES, 15)],
    ] {
        list(&m, &bad);
        assert_eq!(post(&mut m), None, "{bad:x?}");
    }
    list(&m, &good);
    for (word, value) in [(word::ROOM, 0), (word::ROOM, 13)] {
        set(&m, word, value);
        assert_eq!(post(&mut m), None);
    }
    set(&m, word::ROOM, u32::MAX);
    list(&m, &[(BYTES - 0xFF0, 2033)]);
    assert_eq!(post(&mut m), None, "longer than the ring's");
    list(&m, &good);
    m.vm.slow_paths.set(fast_path::OUTBOX);
    assert_eq!(post(&mut m), None);
    m.vm.slow_paths.set(0);
    let mut to = |key| m.host().post(key, GuestPhys(LIST)).unwrap();
    for key in [
        KEY + KEY_ALIGN, // whose ring is closed
        Machine::NETWORK + KEY_ALIGN * RINGS,
        KEY - PAGE_SIZE,
    ] {
        assert_eq!(to(key), Post::Never, "{key:#x}");
    }
    assert_eq!(get(&m, word::POSTED), 0);
    assert_eq!(post(&mut m), Some(14), "and now as usual");
}

#[test]
fn a_ring_takes_what_there_is_room_for_wherever_it_begins() {
    for start in [0, u32::MAX - 5] {
        let mut m = machine();
        set(&m, word::POSTED, start);
        set(&m, word::FETCHED, start);
        for n in 0..FRAMES {
            m.ram.memory().set_word(GuestPhys(BYTES), n).unwrap();
            list(&m, &[(BYTES, 4)]);
            assert_eq!(post(&mut m), Some(4), "{n}");
        }
        assert_eq!(post(&mut m), None);
        assert_eq!(m.vm.counters.posts_refused.get(), 1);
        for n in 0..FRAMES {
            let expected = n.to_le_bytes();
            assert_eq!(frame_of(&m, start.wrapping_add(n)), expected);
        }
        set(&m, word::FETCHED, start.wrapping_add(1));
        assert_eq!(post(&mut m), Some(4));
        assert_eq!(post(&mut m), None);
    }
}

#[test]
fn nonsense_in_the_words_stays_in_the_ring() {
    let mut m = machine();
    list(&m, &[(BYTES, 14)]);
    for (posted, fetched) in [(0, 1), (7, u32::MAX), (u32::MAX, 7), (9, 9)] {
        set(&m, word::POSTED, posted);
        set(&m, word::FETCHED, fetched);
        let _ = post(&mut m);
        for other in (0..RINGS).filter(|&slot| slot != SLOT) {
            let memory = outbox(&m).memory();
            for offset in (0..RING_SIZE).step_by(STRIDE as usize) {
                let at = PAGE_SIZE + other * RING_SIZE + offset;
                let at = GuestPhys(at);
                assert_eq!(memory.word(at), Ok(0));
            }
        }
    }
}

#[test]
fn a_send_is_posted_or_asked_for() {
    let mut m = machine();
    list(&m, &[(BYTES, 14)]);
    let send = |m: &mut Machine, key| {
        m.vm.regs
            .eax
            .set(lg_abi::hypercall::Hypercall::SendDma as u32);
        m.vm.regs.edx.set(key);
        m.vm.regs.ebx.set(LIST);
        m.host().do_hypercall().unwrap();
    };
    send(&mut m, KEY);
    assert_eq!(m.world.sent, []);
    send(&mut m, KEY + KEY_ALIGN);
    assert_eq!(m.world.sent, [(KEY + KEY_ALIGN, LIST)]);
}

#[test]
fn one_who_dozes_is_rung_when_enough_waits() {
    let mut m = machine();
    list(&m, &[(BYTES, 14)]);
    set(&m, word::ASLEEP, 3);
    for rung in [0, 0, 1, 1, 1] {
        assert_eq!(post(&mut m), Some(14));
        assert_eq!(m.world.rung.len(), rung);
    }
    assert_eq!(get(&m, word::ASLEEP), 0);
}

#[test]
fn our_own_fetcher_is_rung_when_we_have_nothing_to_do() {
    let mut m = machine();
    let wake = GuestPhys(WAKE_WHEN_IDLE);
    outbox(&m).memory().store(wake, 1).unwrap();
    m.host().get_ready().unwrap();
    assert_eq!(m.world.rung, []);
    for _ in 0..2 {
        m.host().let_fetch().unwrap();
        assert_eq!(m.world.rung, [WAKE_WHEN_IDLE]);
        assert_eq!(outbox(&m).memory().load(wake), Ok(0));
    }
}

#[test]
fn the_launcher_waits_for_room_and_then_it_is_posted() {
    let mut m = machine();
    list(&m, &[(BYTES, 14)]);
    set(&m, word::POSTED, FRAMES);
    // Nothing makes room here, so both attempts fail.
    let regs = &m.vm.regs;
    regs.eax.set(lg_abi::hypercall::Hypercall::SendDma as u32);
    regs.edx.set(KEY);
    regs.ebx.set(LIST);
    m.host().do_hypercall().unwrap();
    assert_eq!(m.world.sent, [(KEY, LIST)]);
    assert_eq!(m.vm.counters.posts_refused.get(), 2);
    assert_eq!(get(&m, word::POSTED), FRAMES);
}
