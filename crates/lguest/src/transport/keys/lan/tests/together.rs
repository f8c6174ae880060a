//! Several Launchers in one process exchange frames.

use super::*;
use crate::memory::SealedMemory;
use crate::transport::keys::dma::DmaSections;
use proptest::prelude::*;
use std::os::unix::net::UnixDatagram;

#[test]
fn a_frame_arrives_whole_and_rings() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, lan_a) = launcher(&file, 8);
    let (b, lan_b) = launcher(&file, 8);
    assert_eq!((lan_a.slot(), lan_b.slot()), (0, 1));
    eventually("they have met", || lan_a.peers() + lan_b.peers() == 2);
    for len in [1, 14, 60, 1514_u16] {
        let sent = frame(1, len.into());
        a.prepare(&sent);
        assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(len.into()));
        assert_eq!(b.wait_irq(), Some(IRQ));
        // The cursor moves on with every frame.
        let got = (0..8).find_map(|i| b.take(i)).unwrap();
        assert!(got == sent, "of {len} bytes");
    }
    b.prepare(&frame(2, 99));
    assert_eq!(lan_b.send_frame(SEND, key(0)), Ok(99));
    assert_eq!(a.take(0).unwrap(), frame(2, 99));
}

#[test]
fn only_a_bound_key_of_another_guest_takes_frames() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, lan_a) = launcher(&file, 8);
    a.prepare(&frame(1, 60));
    assert_eq!(lan_a.send_frame(SEND, key(0)), Ok(0), "its own key");
    assert_eq!(
        lan_a.send_frame(SEND, key(1)),
        Ok(0),
        "there is no such peer"
    );
    let (b, mut lan_b) = launcher(&file, 8);
    eventually("they have met", || lan_a.peers() == 1);
    assert_eq!(
        lan_a.send_frame(SEND, key(2)),
        Ok(0),
        "no peer has bound it"
    );
    // Any peer may bind any key.
    b.change_bindings(|all| all[0].key = key(77));
    lan_b.bindings_changed();
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(0), "not bound any more");
    assert_eq!(lan_a.send_frame(SEND, key(77)), Ok(60));
}

#[test]
fn two_devices_of_one_guest_do_not_exchange_frames() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let host = scripted();
    let mut one = Lan::join(&file).unwrap();
    one.start(host.clone(), PAGE).unwrap();
    let (b, lan_b) = launcher(&file, 8);
    let mut two = Lan::join(&file).unwrap();
    assert_eq!(two.slot(), 2);
    two.start(host.clone(), PAGE).unwrap();
    eventually("all have met", || lan_b.peers() == 2);
    eventually("and back", || one.peers() + two.peers() == 2);
    host.bind_buffers(2, 8);
    two.bindings_changed();
    host.prepare(&frame(1, 60));
    assert_eq!(one.send_frame(SEND, key(2)), Ok(0));
    b.prepare(&frame(1, 60));
    assert_eq!(lan_b.send_frame(SEND, key(2)), Ok(60));
}

#[test]
fn full_buffers_take_nothing_but_ring() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, lan_a) = launcher(&file, 1);
    let (b, _lan_b) = launcher(&file, 2);
    eventually("they have met", || lan_a.peers() == 1);
    a.prepare(&frame(1, 60));
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(60));
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(60));
    assert_eq!(b.wait_irq(), Some(IRQ));
    let _ = b.irqs();
    let start = Instant::now();
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(0));
    assert_eq!(b.wait_irq(), Some(IRQ));
    assert!(start.elapsed() < Duration::from_secs(30));
    // A sender seldom waits for a receiver that never empties its buffers.
    let waits = || {
        let counters = lan_a.counters();
        counters
            .iter()
            .find(|(name, _)| *name == "waits")
            .unwrap()
            .1
    };
    let before = waits();
    for _ in 0..1000 {
        assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(0));
    }
    let waits = waits() - before;
    assert!((1..50).contains(&waits), "{waits} waits");
    assert_eq!(b.take(0).unwrap(), frame(1, 60));
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(60));
}

#[test]
fn a_bad_list_kills_the_guest_that_owns_it() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, lan_a) = launcher(&file, 8);
    let (b, lan_b) = launcher(&file, 8);
    eventually("they have met", || lan_a.peers() + lan_b.peers() == 2);
    // The sender's own, across the end of a page.
    a.prepare(&frame(1, 60));
    a.memory().write_object(SEND + 4, &(FRAME + 4090)).unwrap();
    let died = lan_a.send_frame(SEND, key(1)).unwrap_err();
    assert_eq!(
        died.to_string(),
        "bad dma section 0x2ffa+0x3c: it must lie inside one page below \
         0x22000"
    );
    assert_eq!(b.killed(), None);
    // The receiver's, beyond the end of its memory.
    a.prepare(&frame(1, 60));
    let beyond = RAM + 2 * PAGE_SIZE;
    b.memory().write_object(RING + 4, &beyond).unwrap();
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(0));
    eventually("its owner is told", || b.killed().is_some());
    assert_eq!(
        b.killed().as_deref(),
        Some(
            "bad dma section 0x22000+0xe: it must lie inside one page below \
             0x22000"
        )
    );
    assert_eq!(a.killed(), None);
    // The receiver's array itself.
    let (c, mut lan_c) = launcher(&file, 8);
    eventually("they have met", || lan_a.peers() == 2);
    c.change_bindings(|all| all[0].dmas = beyond - 50);
    lan_c.bindings_changed();
    assert_eq!(lan_a.send_frame(SEND, key(2)), Ok(0));
    eventually("its owner is told", || c.killed().is_some());
}

#[test]
fn a_report_is_checked() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (b, lan_b) = launcher(&file, 8);
    let (_a, lan_a) = launcher(&file, 8);
    eventually("they have met", || lan_a.peers() + lan_b.peers() == 2);
    let meet = rendezvous::Rendezvous::beside(&file).unwrap();
    let socket = meet.connect(0, &porter()).unwrap();
    let slots = slots::Slots::claim(&file, None).unwrap();
    let id = slots.identity().unwrap();
    let hello = messages::Hello::new(id, slots.mine(), false);
    rendezvous::send(socket.as_fd(), &hello, &[]).unwrap();
    let mut welcome = None;
    eventually("a welcome comes", || {
        let came = porter::receive_here::<messages::Welcome>(socket.as_fd());
        welcome = came.unwrap();
        welcome.is_some()
    });
    let (_, files) = welcome.unwrap();
    let port = port::SharedPort::open(files[1].as_fd()).unwrap();
    for dma in [RING, RING + 1, RING + 800, 0, u32::MAX] {
        port.blame(dma);
        eventually("the report is read", || !port.blames());
    }
    // A message of another kind is not even received.
    let nonsense = messages::Welcome::new(1, 1);
    rendezvous::send(socket.as_fd(), &nonsense, &[]).unwrap();
    assert_eq!(b.killed(), None);
    b.prepare(&frame(3, 60));
    assert_eq!(lan_b.send_frame(SEND, key(1)), Ok(60));
}

#[test]
fn a_launcher_that_leaves_removes_its_socket_and_address() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (_a, lan_a) = launcher(&file, 8);
    let (_b, lan_b) = launcher(&file, 8);
    let (_c, lan_c) = launcher(&file, 8);
    eventually("all have met", || {
        lan_a.peers() + lan_b.peers() + lan_c.peers() == 6
    });
    std::fs::write(&file, [0xAA; 4096]).unwrap();
    assert!(dir.path().join("lan.1").exists());
    drop(lan_b);
    assert!(!dir.path().join("lan.1").exists());
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[5..13], [0xAA, 0, 0, 0, 0, 0, 0, 0xAA]);
    eventually("they part", || lan_a.peers() + lan_c.peers() == 2);
    drop((lan_a, lan_c));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "the file alone");
}

#[test]
fn the_device_describes_its_slot() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let _a = Lan::join(&file).unwrap();
    let b = Lan::join(&file).unwrap();
    assert_eq!(b.description().features, 0x4001);
    assert_eq!(b.description().kind, 2);
    assert!(b.shared_page().is_some());
}

#[test]
fn a_lan_that_cannot_be_joined_changes_nothing() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    std::fs::write(dir.path().join("lan.0"), "precious").unwrap();
    let error = Lan::join(&file).err().unwrap().to_string();
    let error = error.replace(dir.path().to_str().unwrap(), "DIR");
    assert_eq!(
        error,
        "DIR/lan.0 is in the way, and is no socket: move it away"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// A peer whose port and memory hold random words: a frame to it is refused
    /// or goes into its own memory, and that does not take long.
    #[test]
    fn a_port_of_random_words_harms_only_its_owner(
        dmas in prop_oneof![any::<u32>(), 0..RAM, RAM - 200..RAM + 0x3000],
        num in prop_oneof![any::<u32>(), 0..20_u32],
        cursor in any::<u32>(),
        words in prop::collection::vec(any::<u32>(), 25),
        free in any::<bool>(),
    ) {
        let (a, b) = (scripted(), scripted());
        let mut dma: Vec<u8> =
            words.iter().flat_map(|w| w.to_le_bytes()).collect();
        if free {
            dma[..4].fill(0);
        }
        let _ = b.memory().write(dmas, &dma);
        let port = port::Port::create().unwrap();
        let lie = Binding { key: 4, dmas, num, irq: 1 };
        port.show(0, &[lie]);
        let shared = port::SharedPort::open(port.file()).unwrap();
        shared.set_cursor(0, cursor);
        let memory = SealedMemory::open(b.memory().file()).unwrap();
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        let peer = {
            let ours = porter::Connection::new(ours.into(), &porter());
            peer::Peer::new(1, memory, shared, 2, ours)
        };
        a.prepare(&frame(1, 1514));
        let from = DmaSections::read(a.memory().region(), SEND).unwrap();
        let start = Instant::now();
        let taken = peer.take(
            0,
            4,
            from.sections(),
            &counters::LanCounters::default(),
        );
        prop_assert!(taken <= 1514);
        prop_assert!(start.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn a_bad_welcome_is_no_peer() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    // A process that has a slot and a socket, and sends a bad welcome.
    let slots = slots::Slots::claim(&file, None).unwrap();
    let meet = rendezvous::Rendezvous::beside(&file).unwrap();
    let listener = meet.listen(slots.mine(), &porter()).unwrap();
    let (_b, lan_b) = launcher(&file, 8);
    let call = rendezvous::accept(listener.socket.as_fd(), &porter())
        .unwrap()
        .unwrap();
    let plain = std::fs::File::open(&file).unwrap();
    let bad = [plain.as_fd(), plain.as_fd()];
    rendezvous::send(call.as_fd(), &messages::Welcome::new(2, PAGE), &bad)
        .unwrap();
    let hello = messages::Hello::new((0, 0), 1, true);
    eventually("the connection is closed", || {
        rendezvous::send(call.as_fd(), &hello, &[]).is_err()
    });
    assert_eq!(lan_b.peers(), 0);
}

/// Sends `frames` from one Launcher to another, as fast as they are taken,
/// until interrupts have reported all of them. Returns them in the order in
/// which they came, and how often an interrupt was put off.
fn stream(
    name: &str,
    frames: &[Vec<u8>],
    batches: bool,
) -> (Vec<Vec<u8>>, u64) {
    const BUFFERS: u32 = 8;
    let dir = Scratch::new();
    let file = dir.page(name);
    let (sender, out) = launcher(&file, 1);
    let host = scripted();
    let mut lan = Lan::join(&file).unwrap();
    if !batches {
        lan.never_in_batches();
    }
    lan.start(host.clone(), PAGE).unwrap();
    host.bind_buffers(lan.slot(), BUFFERS);
    lan.bindings_changed();
    eventually("they have met", || out.peers() == 1);
    let came = std::thread::scope(|s| {
        let receiver = s.spawn(|| {
            let (mut came, mut next) = (Vec::new(), 0);
            while came.len() < frames.len() {
                assert_eq!(host.wait_irq(), Some(IRQ), "after {}", came.len());
                while let Some(frame) = host.take(next) {
                    came.push(frame);
                    next = (next + 1) % BUFFERS;
                }
            }
            came
        });
        for frame in frames {
            sender.prepare(frame);
            eventually("it is taken", || {
                out.send_frame(SEND, key(lan.slot())) != Ok(0)
            });
        }
        receiver.join().unwrap()
    });
    let naps = lan.counters().iter().find(|c| c.0 == "naps").unwrap().1;
    (came, naps)
}

#[test]
fn a_stream_arrives_the_same_in_batches_or_frame_by_frame() {
    let frames: Vec<_> = (0..=u8::MAX).map(|i| frame(i, 1514)).collect();
    let (came, naps) = stream("lan", &frames, false);
    assert_eq!((came.len(), naps), (frames.len(), 0));
    assert_eq!(came, frames);
    // The scheduler decides whether two come at a time, so this tries until
    // they do.
    let mut batches = 0;
    eventually("some come in batches", || {
        let (came, naps) = stream("lan", &frames, true);
        assert_eq!(came, frames);
        batches += naps;
        batches > 0
    });
}

#[test]
fn the_state_of_a_slot_fits_only_that_slot() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (a, mut lan_a) = launcher(&file, 8);
    let (_b, lan_b) = launcher(&file, 8);
    eventually("they have met", || lan_a.peers() + lan_b.peers() == 2);
    a.prepare(&frame(1, 60));
    assert_eq!(lan_a.send_frame(SEND, key(1)), Ok(60));
    let text = serde_json::to_string(&lan_a.state()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    drop(lan_a);
    // The place is free again, and the next Launcher takes it.
    let (_c, mut lan_c) = launcher(&file, 8);
    let (_d, mut lan_d) = launcher(&file, 8);
    let refused = lan_d.restore(&state).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the state does not fit: it is of place 0, and this is place 2"
    );
    lan_c.restore(&state).unwrap();
    let count = |name| {
        let counters = lan_c.counters();
        counters.iter().find(|c| c.0 == name).unwrap().1
    };
    assert_eq!((count("frames_sent"), count("bytes_sent")), (1, 60));
}
