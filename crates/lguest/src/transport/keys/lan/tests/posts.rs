//! Frames that a Guest has posted without its Launcher.
//!
//! There is no Guest here. A [`Poster`] does what a Host does, or what a
//! hostile Host could do.

use super::*;
use crate::memory::SealedMemory;
use lg_wire::outbox::{FRAMES, LONGEST, OUTBOX_SIZE, RING_SIZE, ring, word};
use proptest::prelude::*;

/// A view of the Guest that is behind `lan`.
pub(super) struct Poster {
    outbox: SealedMemory,
    ring: u32,
}

impl Poster {
    /// A view that posts to `slot`.
    pub(super) fn new(lan: &Lan, slot: u32) -> Self {
        let outbox = SealedMemory::open(lan.outbox().file()).unwrap();
        assert_eq!(outbox.region().limit(), OUTBOX_SIZE);
        let ring = ring(slot).unwrap();
        Self { outbox, ring }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        self.outbox.atomic(self.ring + offset)
    }

    fn get(&self, offset: u32) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    fn set(&self, offset: u32, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    pub(super) fn is_open(&self) -> bool {
        self.get(word::ROOM) != 0
    }

    /// Frames that may be posted yet.
    pub(super) fn room(&self) -> u32 {
        let waiting =
            self.get(word::POSTED).wrapping_sub(self.get(word::FETCHED));
        FRAMES - waiting.min(FRAMES)
    }

    /// Posts without checking for room.
    pub(super) fn put(&self, bytes: &[u8]) {
        let posted = self.get(word::POSTED);
        let (length, body) = lg_wire::outbox::frame(posted);
        let size = u32::try_from(bytes.len()).unwrap();
        let outbox = self.outbox.region();
        outbox.write(self.ring + body, bytes).unwrap();
        self.set(length, size);
        self.set(word::POSTED, posted.wrapping_add(1));
    }

    pub(super) fn ring(&self) {
        let doorbell = self.word(word::ASLEEP);
        if doorbell.swap(0, Ordering::SeqCst) != 0 {
            let flags = rustix::thread::futex::Flags::empty();
            rustix::thread::futex::wake(doorbell, flags, 1).unwrap();
        }
    }

    /// Posts as a Host does, once there is room.
    fn post(&self, bytes: &[u8]) {
        eventually("there is room", || self.room() > 0);
        self.put(bytes);
        self.ring();
    }
}

/// Two connected Launchers, of which the second has `num` buffers, and a poster
/// from the first to the second. `None` if this kernel cannot wait on several
/// words.
fn pair(test: &str, num: u32) -> Option<(Scratch, Station, Station, Poster)> {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, b) = (launcher(&file, 8), launcher(&file, num));
    eventually("they have met", || a.1.peers() + b.1.peers() == 2);
    let poster = Poster::new(&a.1, b.1.slot());
    if !doorbell::is_known() {
        println!("SKIPPED {test}: needs futex_waitv (Linux 5.16)");
        return None;
    }
    eventually("it is open", || poster.is_open());
    Some((dir, a, b, poster))
}

/// Takes the frames from buffer `next` on.
fn take_all(host: &Scripted, next: &mut u32, num: u32) -> Vec<Vec<u8>> {
    let mut came = Vec::new();
    while let Some(frame) = host.take(*next) {
        came.push(frame);
        *next = (*next + 1) % num;
    }
    came
}

#[test]
fn posted_frames_arrive_in_order_and_ring() {
    let test = "posted_frames_arrive_in_order_and_ring";
    let Some((_dir, _a, b, poster)) = pair(test, 8) else {
        return;
    };
    assert_eq!(poster.get(word::ROOM), 1514);
    let frames: Vec<_> = (0..=u8::MAX).map(|i| frame(i, 1514)).collect();
    let came = std::thread::scope(|s| {
        s.spawn(|| frames.iter().for_each(|frame| poster.post(frame)));
        let (mut came, mut next) = (Vec::new(), 0);
        while came.len() < frames.len() {
            assert_eq!(b.0.wait_irq(), Some(IRQ), "after {}", came.len());
            came.extend(take_all(&b.0, &mut next, 8));
        }
        came
    });
    assert!(came == frames, "other frames have come");
}

#[test]
fn posts_and_sends_arrive_in_order() {
    let test = "posts_and_sends_arrive_in_order";
    let Some((_dir, a, b, poster)) = pair(test, 8) else {
        return;
    };
    let mut next = 0;
    for i in 0..100 {
        poster.post(&frame(i, 100));
        a.0.prepare(&frame(i, 60));
        eventually("it is taken", || a.1.send_frame(SEND, key(1)) == Ok(60));
        let mut came = Vec::new();
        eventually("both have come", || {
            came.extend(take_all(&b.0, &mut next, 8));
            came.len() == 2
        });
        assert_eq!(came, [frame(i, 100), frame(i, 60)]);
    }
}

#[test]
fn frames_wait_for_buffers_but_not_for_ever() {
    let test = "frames_wait_for_buffers_but_not_for_ever";
    let Some((_dir, a, b, poster)) = pair(test, 2) else {
        return;
    };
    for i in 0..4 {
        poster.post(&frame(i, 60));
    }
    eventually("the buffers are full", || b.0.full(0) && b.0.full(1));
    // What is sent now would overtake them.
    a.0.prepare(&frame(9, 60));
    assert_eq!(a.1.send_frame(SEND, key(1)), Ok(0));
    for i in 0..4 {
        let mut came = None;
        eventually("the next comes", || {
            came = b.0.take(u32::from(i) % 2);
            came.is_some()
        });
        assert_eq!(came.unwrap(), frame(i, 60));
    }
    // A Guest that takes nothing gets no more posts, and sends are refused,
    // too.
    poster.post(&frame(1, 60));
    poster.post(&frame(2, 60));
    poster.post(&frame(3, 60));
    eventually("it is closed", || !poster.is_open());
    assert_eq!(a.1.send_frame(SEND, key(1)), Ok(0));
    // What is sent rings the receiver. It also fills buffers, which the Guest
    // has to empty again.
    eventually("it is open again", || {
        let _ = a.1.send_frame(SEND, key(1));
        b.0.release(0);
        b.0.release(1);
        poster.is_open()
    });
}

#[test]
fn a_ring_is_open_while_its_key_is_bound() {
    let test = "a_ring_is_open_while_its_key_is_bound";
    let Some((_dir, a, mut b, poster)) = pair(test, 8) else {
        return;
    };
    let other = Poster::new(&a.1, 2);
    b.0.change_bindings(Vec::clear);
    b.1.bindings_changed();
    eventually("it is closed", || !poster.is_open());
    // This key belongs to no slot in use.
    b.0.bind_buffers(2, 8);
    b.1.bindings_changed();
    poster.put(&frame(1, 60));
    eventually("it is thrown away", || {
        poster.ring();
        poster.room() == FRAMES
    });
    assert!(!poster.is_open() && !other.is_open());
    b.0.change_bindings(Vec::clear);
    b.0.bind_buffers(1, 8);
    b.1.bindings_changed();
    eventually("it is open", || poster.is_open());
    poster.post(&frame(2, 60));
    eventually("it comes", || b.0.take(0) == Some(frame(2, 60)));
}

#[test]
fn without_outboxes_everything_is_sent() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let a = launcher(&file, 8);
    let host = scripted();
    let mut lan = Lan::join(&file).unwrap();
    lan.always_open();
    lan.never_by_outbox();
    lan.start(host.clone(), PAGE).unwrap();
    host.bind_buffers(1, 8);
    lan.bindings_changed();
    eventually("they have met", || a.1.peers() + lan.peers() == 2);
    a.0.prepare(&frame(1, 60));
    assert_eq!(a.1.send_frame(SEND, key(1)), Ok(60));
    assert!(!Poster::new(&a.1, 1).is_open());
}

#[test]
fn a_sender_that_rings_without_frames_is_ignored_after_a_while() {
    let test = "a_sender_that_rings_without_frames_is_ignored_after_a_while";
    let Some((_dir, a, b, poster)) = pair(test, 8) else {
        return;
    };
    eventually("its rings are ignored", || {
        poster.ring();
        !poster.is_open()
    });
    // It cannot wake the receiver any more. The receiver may sleep on this ring
    // once more, if it had begun to when it closed the ring.
    eventually("the receiver does not wait on it", || {
        poster.set(word::ASLEEP, 7);
        poster.ring();
        std::thread::sleep(Duration::from_millis(5));
        poster.get(word::ASLEEP) == 0
    });
    poster.put(&frame(1, 60));
    a.0.prepare(&frame(2, 60));
    eventually("what is sent comes", || {
        a.1.send_frame(SEND, key(1)) == Ok(60)
    });
    assert_eq!(b.0.take(0), Some(frame(2, 60)));
}

#[test]
fn a_flood_does_not_drown_the_others() {
    let test = "a_flood_does_not_drown_the_others";
    let dir = Scratch::new();
    let file = dir.page("lan");
    let all = [8, 8, 8].map(|num| launcher(&file, num));
    let peers = || all.iter().map(|l| l.1.peers()).sum::<usize>();
    eventually("all have met", || peers() == 6);
    if !doorbell::is_known() {
        println!("SKIPPED {test}: needs futex_waitv (Linux 5.16)");
        return;
    }
    let flood = Poster::new(&all[0].1, 2);
    let honest = Poster::new(&all[1].1, 2);
    eventually("they are open", || flood.is_open() && honest.is_open());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if flood.room() > 0 {
                    flood.put(&frame(7, 1514));
                    flood.ring();
                } else {
                    std::thread::yield_now();
                }
            }
        });
        let (mut came, mut next) = (0, 0);
        let host = &all[2].0;
        for i in 0..50_u8 {
            honest.post(&frame(i, 60));
            eventually("it comes through", || {
                for frame in take_all(host, &mut next, 8) {
                    came += usize::from(frame.len() == 60);
                }
                came > usize::from(i)
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Any contents of a ring produce only frames in buffers.
    #[test]
    fn a_ring_of_random_words_harms_only_its_sender(
        lies in prop::collection::vec((
            prop_oneof![
                Just(word::POSTED),
                Just(word::FETCHED),
                Just(word::ASLEEP),
                Just(word::ROOM),
                (0..RING_SIZE / 4).prop_map(|n| n * 4),
                (0..FRAMES).prop_map(|n| lg_wire::outbox::frame(n).0),
            ],
            prop_oneof![any::<u32>(), 0..300_u32, Just(LONGEST + 1)],
        ), 1..60),
    ) {
        let test = "a_ring_of_random_words_harms_only_its_sender";
        let Some((_dir, a, b, poster)) = pair(test, 8) else {
            return Ok(());
        };
        let mut before = vec![0; b.0.memory().limit() as usize];
        b.0.memory().read(0, &mut before).unwrap();
        for (offset, value) in lies {
            poster.set(offset, value);
            poster.ring();
        }
        // The receiver still works ...
        let mut next = 0;
        a.0.prepare(&frame(3, 60));
        eventually("what is sent comes", || {
            let all = take_all(&b.0, &mut next, 8);
            // What waits in the ring goes first, if there is an end of it.
            poster.set(word::POSTED, poster.get(word::FETCHED));
            let _ = a.1.send_frame(SEND, key(1));
            all.contains(&frame(3, 60))
        });
        // ... and nothing but the buffers has changed.
        let mut after = vec![0; before.len()];
        b.0.memory().read(0, &mut after).unwrap();
        for memory in [&mut before, &mut after] {
            for i in 0..8_u32 {
                let list = (RING + i * Dma::SIZE) as usize;
                memory[list..list + 4].fill(0);
                let head = (BUFFERS + i * PAGE_SIZE) as usize;
                memory[head..head + 14].fill(0);
                memory[head + 0x100..][..1500].fill(0);
            }
        }
        prop_assert!(before == after, "other memory was written");
        let killed = b.0.killed();
        prop_assert_eq!(killed, None);
    }
}

#[test]
fn a_bad_buffer_is_found_when_it_is_to_be_filled() {
    let test = "a_bad_buffer_is_found_when_it_is_to_be_filled";
    let Some((_dir, a, b, poster)) = pair(test, 8) else {
        return;
    };
    let beyond = RAM + 2 * PAGE_SIZE;
    b.0.memory().write_object(RING + 4, &beyond).unwrap();
    poster.post(&frame(1, 60));
    eventually("its owner dies", || b.0.killed().is_some());
    assert_eq!(
        b.0.killed().as_deref(),
        Some(
            "bad dma section 0x22000+0xe: it must lie inside one page below \
             0x22000"
        )
    );
    assert_eq!(a.0.killed(), None);
}

#[test]
fn a_new_launcher_in_a_dead_ones_slot_gets_posts() {
    let test = "a_new_launcher_in_a_dead_ones_slot_gets_posts";
    let Some((dir, a, b, poster)) = pair(test, 8) else {
        return;
    };
    poster.post(&frame(1, 60));
    eventually("it comes", || b.0.take(0) == Some(frame(1, 60)));
    drop(b);
    eventually("it is closed", || !poster.is_open());
    poster.put(&frame(2, 60));
    let b = launcher(&dir.path().join("lan"), 8);
    assert_eq!(b.1.slot(), 1);
    eventually("it is open again", || poster.is_open());
    // The other Launcher may notice only now that the dead one is gone, and
    // call the new one once more. Frames that are posted meanwhile may be lost.
    eventually("it comes", || {
        if poster.room() > 0 {
            poster.put(&frame(3, 60));
            poster.ring();
        }
        let came = (0..8).find_map(|i| b.0.take(i));
        assert_ne!(came, Some(frame(2, 60)), "posted to the dead one");
        came == Some(frame(3, 60))
    });
    // The first frames of a new Launcher, too.
    let back = Poster::new(&b.1, 0);
    eventually("both ways", || back.is_open());
    back.post(&frame(4, 60));
    eventually("it comes", || a.0.take(0) == Some(frame(4, 60)));
}

#[test]
fn a_file_that_is_no_outbox_is_not_fetched_from() {
    let memory = GuestMemory::new(PAGE_SIZE, 0).unwrap();
    assert!(inbox::Inbox::open(memory.file(), 0).is_err());
    let good = inbox::Outbox::create().unwrap();
    let last = lg_wire::outbox::RINGS - 1;
    assert!(inbox::Inbox::open(good.file(), last).unwrap().is_some());
    assert!(inbox::Inbox::open(good.file(), last + 1).unwrap().is_none());
}

#[test]
fn rings_are_open_during_a_stream() {
    let test = "rings_are_open_during_a_stream";
    if !doorbell::is_known() {
        println!("SKIPPED {test}: needs futex_waitv (Linux 5.16)");
        return;
    }
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, lan_a) = launcher(&file, 8);
    let (b, lan_b) = started(Lan::join(&file).unwrap(), 8);
    eventually("they have met", || lan_a.peers() + lan_b.peers() == 2);
    let poster = Poster::new(&lan_a, lan_b.slot());
    let mut next = 0;
    a.prepare(&frame(1, 60));
    let mut send = |count| {
        for _ in 0..count {
            assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(60));
            assert_eq!(take_all(&b, &mut next, 8).len(), 1, "at once");
            let _ = b.wait_irq();
        }
    };
    // Single frames with pauses, more of them in total than a stream needs.
    for _ in 0..24 {
        send(1);
        std::thread::sleep(Duration::from_millis(5));
        assert!(!poster.is_open());
    }
    eventually("a stream opens them", || {
        send(24);
        poster.is_open()
    });
    eventually("and its end closes them", || !poster.is_open());
    send(1);
    assert!(!poster.is_open());
}

#[test]
fn the_host_learns_which_pages_a_frame_was_written_to() {
    let test = "the_host_learns_which_pages_a_frame_was_written_to";
    let Some((_dir, a, b, poster)) = pair(test, 8) else {
        return;
    };
    let (sender, noted) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    b.0.memory().note_writes(move |piece| {
        sender.lock().unwrap().send(piece).unwrap();
    });
    // Fetched: by the buffer's two sections, and by the word of its list.
    poster.post(&frame(1, 60));
    eventually("it comes", || b.0.full(0));
    assert_eq!(b.0.wait_irq(), Some(IRQ));
    let pieces: Vec<_> = noted
        .try_iter()
        .map(|piece| (piece.addr(), piece.len()))
        .collect();
    let body = (BUFFERS + 0x100, 1500);
    assert_eq!(pieces, [(BUFFERS, 14), body, (RING, 4)]);
    // By another Launcher: anywhere.
    a.0.prepare(&frame(2, 60));
    eventually("it is taken", || a.1.send_frame(SEND, key(1)) == Ok(60));
    assert_eq!(b.0.wait_irq(), Some(IRQ));
    let all = (0, b.0.memory().limit());
    assert!(noted.try_iter().any(|p| (p.addr(), p.len()) == all));
}
