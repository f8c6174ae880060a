//! Guests with virtio devices and Guests of 2007 on one network.

use super::super::nic::tests::long_frame;
use super::*;
use crate::devices::console::{Config, Console, Screen};
use crate::engine::{Requests, Scripted};
use crate::transport::Transport;
use crate::transport::keys::lan::tests::{
    PAGE, Scratch, eventually, key, launcher,
};
use crate::transport::virtio::testing::{Driver, RING, guest};
use crate::transport::virtio::{RING_BYTES, VirtioBus};
use lg_abi::gen2::device::NET_MERGEABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

/// A Guest with virtio devices on a network.
struct Station {
    guest: Arc<Scripted>,
    bus: Arc<VirtioBus>,
    to_guest: Driver,
    from_guest: Driver,
    /// Whether a frame from it or to it has a header other than zero.
    headers: bool,
}

const MAC_AT: u32 = crate::transport::virtio::testing::RAM + 5 + 16 + 8;
const BUFFER: u32 = 0x8000;
const FRAME: u32 = 0x4000;

fn station(file: &Path) -> Station {
    with_features(file, 0)
}

/// A Guest whose driver accepts these features.
fn with_features(file: &Path, accepted: Features) -> Station {
    let lan = Lan::join(file).unwrap();
    let guest = guest(2);
    let devices: Vec<Box<dyn VirtioDevice>> =
        vec![Box::new(VirtioLan::new(lan))];
    let screen = screen();
    let bus = VirtioBus::new(guest.clone(), devices, screen).unwrap();
    let features = MAC_AT - 4;
    guest.put(features, &accepted.to_le_bytes());
    let mut to_guest = Driver::new(&guest, RING);
    for buffer in 0..8 {
        to_guest.offer(&[], &[(BUFFER + buffer * 0x1000, 0x1000)]);
    }
    bus.notify(to_guest.at).unwrap();
    Station {
        from_guest: Driver::new(&guest, RING + RING_BYTES),
        guest,
        bus: Arc::new(bus),
        to_guest,
        headers: accepted != 0,
    }
}

/// The screen of a console that prints nothing.
fn screen() -> Arc<Screen> {
    let (input, output) = rustix::pipe::pipe().unwrap();
    Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    })
    .screen()
}

impl Station {
    fn mac(&self) -> [u8; 6] {
        self.guest.bytes(MAC_AT, 6).try_into().unwrap()
    }

    fn send(&mut self, to: [u8; 6], from: [u8; 6], text: &[u8]) {
        let frame = [&[0; 10][..], &to, &from, text].concat();
        self.guest.put(FRAME, &frame);
        let length = u32::try_from(frame.len()).unwrap();
        self.from_guest
            .offer(&[(FRAME, 7), (FRAME + 7, length - 7)], &[]);
        self.bus.notify(self.from_guest.at).unwrap();
    }

    /// Waits until it can send to `others` members.
    fn meet(&self, others: u64) {
        eventually("it can send to all", || {
            let all = self.bus.counters();
            let met = all[0].1.iter().find(|(name, _)| *name == "peers_met");
            met.unwrap().1 == others
        });
    }

    /// The frames that have come so far, without headers.
    fn received(&self) -> Vec<Vec<u8>> {
        let _ = self.bus.handle_input(0).unwrap();
        let frame = |(n, (_, bytes)): (u32, (u32, u32))| {
            let bytes = self.guest.bytes(BUFFER + n * 0x1000, bytes as usize);
            assert!(self.headers || bytes[..10] == [0; 10]);
            bytes[if self.headers { 0 } else { 10 }..].to_vec()
        };
        (0..).zip(self.to_guest.used()).map(frame).collect()
    }
}

/// A Guest of 2007 whose driver has written this address.
fn guest_of_2007(file: &Path, mac: [u8; 6]) -> (Arc<Scripted>, Lan) {
    let (host, lan) = launcher(file, 4);
    host.memory().write(PAGE + 6 * lan.slot(), &mac).unwrap();
    (host, lan)
}

const OLD: [u8; 6] = [0x0A, 2, 3, 4, 5, 6];
const ALL: [u8; 6] = [0xFF; 6];

/// The rest of an ARP frame after its addresses: any text.
const TEXT: &[u8] = b"\x08\x06some text, long enough for a frame of two parts";

#[test]
fn a_frame_goes_from_virtio_to_2007_and_back() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let mut new = station(&file);
    assert_eq!(new.mac(), [0x02, b'l', b'g', 0, 0, 2]);
    eventually("they have met", || old.peers() == 1);
    // The old one has met the new one, but perhaps not the other way round.
    new.meet(1);
    let mac = new.mac();
    new.send(OLD, mac, TEXT);
    eventually("a frame has come", || host.full(0));
    let frame = host.take(0).unwrap();
    assert_eq!(frame, [&OLD, &mac, TEXT].concat());
    // 2007 looks the address up in the page, and sends to the slot's key.
    let mut found = [0; 6];
    host.memory().read(PAGE + 6, &mut found).unwrap();
    assert_eq!(found, mac);
    host.prepare(&[&mac, &OLD, TEXT].concat());
    let sent = old.send_frame(0x1000, key(1)).unwrap();
    assert_eq!(sent as usize, 12 + TEXT.len());
    eventually("the answer is there", || !new.received().is_empty());
    assert_eq!(new.received(), [[&mac, &OLD, TEXT].concat()]);
    assert!(new.guest.irqs().contains(&1));
}

#[test]
fn a_frame_goes_to_its_address_to_all_or_to_a_promiscuous_member() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let mut a = station(&file);
    let b = station(&file);
    eventually("all have met", || old.peers() == 2);
    a.meet(2);
    let (mac_a, mac_b) = (a.mac(), b.mac());
    a.send(ALL, mac_a, TEXT);
    eventually("a frame for all has come", || {
        host.full(0) && !b.received().is_empty()
    });
    let before = b.received().len();
    host.release(0);
    a.send(OLD, mac_a, TEXT);
    // One more to b shows that no other frame came before it.
    a.send(mac_b, mac_a, b"\x08\x06the last one");
    eventually("it has come", || b.received().len() > before);
    assert!(b.received()[before].ends_with(b"the last one"));
    // A Guest that sends from another address gets frames for others, too.
    let address = || {
        let mut first = [0];
        host.memory().read(PAGE + 6, &mut first).unwrap();
        first[0]
    };
    assert_eq!(address(), 0x02);
    a.send(mac_b, [0x06; 6], TEXT);
    assert_eq!(address(), 0x03);
}

#[test]
fn what_is_shorter_than_an_ethernet_header_is_lost() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let mut a = station(&file);
    let b = station(&file);
    eventually("all have met", || old.peers() == 2);
    a.meet(2);
    let (mac_a, mac_b) = (a.mac(), b.mac());
    a.send(mac_b, mac_a, TEXT);
    eventually("a frame has come", || !b.received().is_empty());
    let before = b.received().len();
    // 13 bytes and 8, with a part of another address than its own.
    a.send(mac_b, mac_a, b"x");
    a.send(mac_b, mac_a, b"");
    let short = [&[0; 10][..], &mac_b, &[6, 6]].concat();
    a.guest.put(FRAME, &short);
    a.from_guest.offer(&[(FRAME, 18)], &[]);
    a.bus.notify(a.from_guest.at).unwrap();
    host.prepare(&[&mac_b[..], &OLD, b"x"].concat());
    assert_eq!(old.send_frame(0x1000, key(2)).unwrap(), 13);
    host.prepare(&[&mac_b, &OLD, TEXT].concat());
    old.send_frame(0x1000, key(2)).unwrap();
    eventually("the last one has come", || b.received().len() > before);
    assert_eq!(b.received()[before], [&mac_b, &OLD, TEXT].concat());
    let mut first = [0];
    host.memory().read(PAGE + 6, &mut first).unwrap();
    assert_eq!(first, [0x02], "it does not ask for all frames");
}

#[test]
fn a_checksum_that_2007_left_out_is_filled_in() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let new = station(&file);
    eventually("they have met", || old.peers() == 1);
    let datagram = [
        0x08, 0x00, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0, // IP
        10, 0, 0, 1, 10, 0, 0, 2, // addresses
        0, 53, 0, 54, 0, 11, 0x12, 0x34, b'a', b'b', b'c',
    ];
    host.prepare(&[&new.mac(), &OLD, &datagram[..]].concat());
    old.send_frame(0x1000, key(1)).unwrap();
    eventually("it is there", || !new.received().is_empty());
    assert_eq!(new.received()[0][40..42], [0x27, 0x08]);
}

#[test]
fn frames_wait_for_a_driver_s_buffers_and_are_lost_without_a_driver() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let mut new = station(&file);
    eventually("they have met", || old.peers() == 1);
    let mac = new.mac();
    let send = |count: usize| {
        for _ in 0..count {
            host.prepare(&[&mac, &OLD, TEXT].concat());
            old.send_frame(0x1000, key(1)).unwrap();
        }
    };
    // Two more than there are buffers.
    send(10);
    eventually("the buffers are full", || new.received().len() == 8);
    eventually("more wait", || {
        let readiness = new.bus.handle_input(0).unwrap();
        readiness == Readiness::Starved { watch: false }
    });
    new.to_guest.offer(&[], &[(BUFFER + 0x8000, 0x1000)]);
    new.to_guest.offer(&[], &[(BUFFER + 0x9000, 0x1000)]);
    eventually("they have come", || new.received().len() == 10);
    // After a reset, frames have no driver.
    let status = crate::transport::virtio::testing::RAM + 4;
    new.guest.put(status, &[0]);
    new.bus.notify(status - 4).unwrap();
    new.guest.put(RING, &[0; RING_BYTES as usize]);
    send(100);
    eventually("nothing waits", || {
        new.bus.handle_input(0).unwrap() == Readiness::Wait
    });
    assert_eq!(new.to_guest.used(), []);
}

/// The rest of a frame of TCP that is three segments, and its header.
fn three_segments() -> ([u8; HEADER], Vec<u8>) {
    let (header, frame) = long_frame(3000, 1400);
    (header, frame[12..].to_vec())
}

impl Station {
    /// Sends a frame with this header.
    fn send_long(&mut self, header: [u8; HEADER], frame: &[u8]) {
        self.guest.put(FRAME, &[&header[..], frame].concat());
        let length = u32::try_from(HEADER + frame.len()).unwrap();
        self.from_guest.offer(&[(FRAME, length)], &[]);
        self.bus.notify(self.from_guest.at).unwrap();
    }
}

const OFFLOADS: Features = super::super::nic::FEATURES & !(1 << NET_MERGEABLE);

#[test]
fn a_frame_of_many_segments_stays_one_only_for_a_guest_that_takes_it() {
    let dir = Scratch::new();
    let file = dir.page("lan");
    let (host, old) = guest_of_2007(&file, OLD);
    let mut sender = with_features(&file, OFFLOADS);
    let takes = with_features(&file, OFFLOADS);
    let plain = station(&file);
    eventually("all have met", || old.peers() == 3);
    sender.meet(3);
    let mac = sender.mac();
    sender.send(ALL, mac, TEXT);
    eventually("a frame for all has come", || {
        let came = |station: &Station| !station.received().is_empty();
        host.full(0) && came(&takes) && came(&plain)
    });
    host.release(0);
    let before = [takes.received().len(), plain.received().len()];
    let (header, rest) = three_segments();
    let frame_to = |to: [u8; 6]| [&to, &mac, &rest[..]].concat();
    for to in [takes.mac(), plain.mac(), OLD] {
        sender.send_long(header, &frame_to(to));
    }
    // As it is, with its header ...
    eventually("it is there", || takes.received().len() > before[0]);
    let whole = &takes.received()[before[0]];
    assert_eq!(*whole, [&header[..], &frame_to(takes.mac())].concat());
    // ... and in segments for the others.
    eventually("all are there", || plain.received().len() > before[1] + 2);
    let segments = plain.received().split_off(before[1]);
    eventually("2007 has them, too", || {
        (0..4).filter(|&n| host.full(n)).count() == 3
    });
    let mut old_ones: Vec<_> = (0..4).filter_map(|n| host.take(n)).collect();
    old_ones.sort_by_key(|frame| frame[41]);
    assert_eq!((segments.len(), old_ones.len()), (3, 3));
    let frame = frame_to(plain.mac());
    for (n, (segment, old_one)) in segments.iter().zip(old_ones).enumerate() {
        let mut right = segment.clone();
        checksum::complete(&mut right);
        assert_eq!(*segment, right);
        let at = 54 + n * 1400;
        let end = frame.len().min(at + 1400);
        assert_eq!(segment[54..], frame[at..end]);
        assert_eq!(segment[6..], old_one[6..]);
    }
    // A header that lies: the frame is lost, and the network goes on.
    let before = takes.received().len();
    let mut bad = header;
    bad[7] = 0x80;
    sender.send_long(bad, &frame);
    // Segments for all would be thousands of frames: TCP has one receiver.
    sender.send_long(header, &frame_to(ALL));
    sender.send(ALL, mac, b"\x08\x06the last one");
    eventually("it goes on", || takes.received().len() > before);
    assert!(takes.received()[before].ends_with(b"the last one"));
}

/// Gives one more buffer to the device.
fn offer(station: &mut Station, n: u32) {
    let buffer = (BUFFER + n * 0x1000, 0x1000);
    station.to_guest.offer(&[], &[buffer]);
    station.bus.notify(station.to_guest.at).unwrap();
}

#[test]
fn broadcasts_and_multicasts_come_once_to_each_that_reads() {
    const EACH: u32 = 30;
    const MULTICAST: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    let dir = Scratch::new();
    let file = dir.page("lan");
    let mut a = station(&file);
    let mut b = station(&file);
    let mut reads = station(&file);
    // It offers eight buffers, and no more.
    let mut stops = station(&file);
    let (_old, lan) = guest_of_2007(&file, OLD);
    eventually("2007 has met all", || lan.peers() == 4);
    for station in [&a, &b, &reads, &stops] {
        station.meet(4);
    }
    let (mac_a, mac_b) = (a.mac(), b.mac());
    let count =
        |station: &Station| u32::try_from(station.received().len()).unwrap();
    for round in 0..EACH {
        // Nobody waits for the one that stops reading, nor for that of 2007.
        a.send(ALL, mac_a, TEXT);
        b.send(MULTICAST, mac_b, TEXT);
        let expected = 2 * (round + 1);
        eventually("both have come", || count(&reads) == expected);
        let next = 8 + expected - 2;
        (next..next + 2).for_each(|n| offer(&mut reads, n));
    }
    // Each has come once, and nothing comes any more.
    a.send(reads.mac(), mac_a, b"\x08\x06the last one");
    eventually("it has come", || count(&reads) > 2 * EACH);
    let received = reads.received();
    assert_eq!(received.len(), 2 * EACH as usize + 1);
    assert!(received.last().unwrap().ends_with(b"the last one"));
    let to_all = |frame: &&Vec<u8>| frame[..6] == ALL && frame[12..] == *TEXT;
    let came = received.iter().filter(to_all).count();
    assert_eq!(came, EACH as usize);
    // The one that stopped has what it had room for, and goes on afterwards.
    assert_eq!(count(&stops), 8);
    let mut next = 8;
    eventually("it is reached again", || {
        offer(&mut stops, next % 200);
        next += 1;
        a.send(stops.mac(), mac_a, b"\x08\x06go on");
        let came = stops.to_guest.used();
        let _ = stops.bus.handle_input(0).unwrap();
        let n = u32::try_from(came.len()).unwrap() - 1;
        let bytes = came.last().unwrap().1;
        let at = BUFFER + n % 200 * 0x1000;
        let frame = stops.guest.bytes(at, bytes as usize);
        frame.ends_with(b"go on")
    });
}

/// Two Guests that take frames as they are, and have met.
fn two_with_offloads(file: &Path) -> [Station; 2] {
    let stations = [file; 2].map(|file| with_features(file, OFFLOADS));
    stations.iter().for_each(|station| station.meet(1));
    stations
}

#[test]
fn frames_with_headers_wait_in_their_order_for_buffers() {
    let dir = Scratch::new();
    let [mut a, mut b] = two_with_offloads(&dir.page("lan"));
    let (header, rest) = three_segments();
    let frame = |n: u8| [&b.mac()[..], &[6, n, 6, 6, 6, 6], &rest].concat();
    let frames: Vec<_> = (0..12).map(frame).collect();
    for frame in &frames {
        a.send_long(header, frame);
    }
    eventually("all buffers are full", || b.received().len() == 8);
    let starved = Readiness::Starved { watch: false };
    for n in 8..12 {
        assert_eq!(b.bus.handle_input(0).unwrap(), starved);
        offer(&mut b, n);
        assert_eq!(b.received().len(), n as usize + 1);
    }
    assert_eq!(b.bus.handle_input(0).unwrap(), Readiness::Wait);
    let with_header = |frame| [&header[..], frame].concat();
    let all = frames.iter().map(|frame| with_header(frame));
    assert_eq!(b.received(), all.collect::<Vec<_>>());
}

/// The headers of most frames are in their first bytes, which are copied to be
/// checked.
#[test]
fn a_checksum_far_behind_in_a_frame_is_left_out_too() {
    const PLACE: usize = 900;
    let dir = Scratch::new();
    let file = dir.page("lan");
    let mut a = with_features(&file, OFFLOADS);
    let takes = with_features(&file, OFFLOADS);
    let plain = station(&file);
    a.meet(2);
    let mut header = [1, 0, 0, 0, 0, 0, 34, 0, 0, 0];
    let offset = u16::try_from(PLACE - 34).unwrap();
    header[8..].copy_from_slice(&offset.to_le_bytes());
    let to = |station: &Station| {
        let mut frame = [&station.mac()[..], &[6; 988]].concat();
        frame[PLACE..][..2].fill(0);
        frame
    };
    for station in [&takes, &plain] {
        a.send_long(header, &to(station));
    }
    eventually("both are there", || {
        let came = |station: &Station| station.received().len() == 1;
        came(&takes) && came(&plain)
    });
    assert_eq!(takes.received(), [[&header[..], &to(&takes)].concat()]);
    let finished = &plain.received()[0];
    assert_ne!(finished[PLACE..][..2], [0, 0]);
    let halves = finished[34..].chunks(2);
    let halves =
        halves.map(|half| u32::from(half[0]) << 8 | u32::from(half[1]));
    let sum: u32 = halves.sum();
    assert_eq!((sum & 0xFFFF) + (sum >> 16), 0xFFFF);
}

/// A sleep of its thread would end by time only, because no Host rings it.
#[test]
fn no_frame_of_a_launcher_waits_for_more() {
    let dir = Scratch::new();
    let [mut a, b] = two_with_offloads(&dir.page("lan"));
    let (header, rest) = three_segments();
    let frame = [&b.mac()[..], &[6; 6], &rest].concat();
    for _ in 0..60 {
        a.send_long(header, &frame);
    }
    let count = |name| {
        let all = b.bus.counters();
        all[0].1.iter().find(|(n, _)| *n == name).unwrap().1
    };
    eventually("its buffers are full", || b.received().len() == 8);
    // They are counted after they are in their buffers.
    eventually("arrivals are counted", || count("arrivals") > 0);
    assert_eq!(count("naps"), 0);
}

#[test]
fn the_thread_of_the_network_takes_frames_and_calls_when_some_wait() {
    let dir = Scratch::new();
    let [mut a, b] = two_with_offloads(&dir.page("lan"));
    let bus = Arc::downgrade(&b.bus);
    b.bus.let_take(&|device| {
        let bus = bus.clone();
        Arc::new(move || {
            let bus = bus.upgrade();
            let found = bus.map(|bus| bus.handle_input(device).unwrap());
            found == Some(Readiness::Wait)
        })
    });
    let inputs = b.bus.inputs().unwrap();
    let bell_rings = || {
        let mut bell = [PollFd::new(&inputs[0].1, PollFlags::IN)];
        poll(&mut bell, Some(&Timespec::default())).unwrap() == 1
    };
    let frame = [&b.mac()[..], &[6; 6], TEXT].concat();
    for n in 1..=8 {
        a.send_long([0; HEADER], &frame);
        eventually("it is taken", || b.to_guest.used().len() == n);
    }
    assert!(!bell_rings());
    a.send_long([0; HEADER], &frame);
    eventually("the other thread is called", bell_rings);
    assert_eq!(b.to_guest.used().len(), 8);
}

#[test]
fn a_network_leaves_while_its_thread_takes_a_flood_of_frames() {
    let dir = Scratch::new();
    let [mut a, b] = two_with_offloads(&dir.page("lan"));
    let bus = Arc::downgrade(&b.bus);
    let (begun, has_begun) = channel();
    let ended = Arc::new(AtomicBool::new(false));
    b.bus.let_take(&|device| {
        let (bus, begun) = (bus.clone(), begun.clone());
        let ended = Arc::clone(&ended);
        Arc::new(move || {
            let _ = begun.send(());
            let look = |bus: Arc<VirtioBus>| bus.handle_input(device).unwrap();
            while bus.upgrade().map(look) != Some(Readiness::Closed) {
                std::thread::yield_now();
            }
            for _ in 0..100 {
                std::thread::yield_now();
            }
            ended.store(true, Ordering::SeqCst);
            false
        })
    });
    let frame = [&b.mac()[..], &[6; 6], TEXT].concat();
    a.send_long([0; HEADER], &frame);
    has_begun.recv().unwrap();
    assert_eq!(b.bus.detach("net", 0), Some(0));
    assert!(ended.load(Ordering::SeqCst), "the thread has not ended");
}
