//! Frames of an interface on either bus: buffers, checksums and segments.

use super::*;
use crate::devices::console::{Config, Console};
use crate::devices::net::offload::HEADER;
use crate::devices::net::{checksum, stream};
use crate::engine::{DeviceAccess, Requests, Scripted};
use crate::transport::virtio::testing::{self, Driver, RING, guest};
use crate::transport::virtio::{PciBus, RING_BYTES, VirtioBus};
use crate::transport::{Notified, Transport};
use lg_abi::gen3::registers::{self, common};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the driver's buffers are.
const BUFFER: u32 = 0x8000;

/// Where it has frames that it sends.
const FRAME: u32 = 0x4_0000;

/// An interface whose other end is a socket, on a bus.
struct Station {
    guest: Arc<Scripted>,
    bus: Box<dyn Transport>,
    to_guest: Driver,
    from_guest: Driver,
    other: UnixStream,
    pci: bool,
    /// Bytes of a header.
    header: u32,
}

fn nic() -> (Vec<Box<dyn VirtioDevice>>, UnixStream) {
    let (ours, other) = UnixStream::pair().unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    (vec![Box::new(VirtioNic::new(nic))], other)
}

fn console() -> Console {
    let (input, output) = rustix::pipe::pipe().unwrap();
    Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    })
}

/// Features that a driver accepts in these tests.
const OFFLOADS: Features = FEATURES & !(1 << NET_MERGEABLE);

fn on_lguests_bus(accepted: Features) -> Station {
    on_lguests_bus_with(nic(), accepted)
}

fn on_lguests_bus_with(
    (devices, other): (Vec<Box<dyn VirtioDevice>>, UnixStream),
    accepted: Features,
) -> Station {
    let guest = guest(2);
    let screen = console().screen();
    let bus = VirtioBus::new(guest.clone(), devices, screen).unwrap();
    let at = testing::RAM + 5 + 16;
    let offered: Features = guest.memory().read_object(at).unwrap();
    assert_eq!(offered, FEATURES);
    guest.put(at + 4, &accepted.to_le_bytes());
    let merges = accepted & 1 << NET_MERGEABLE != 0;
    Station {
        to_guest: Driver::new(&guest, RING),
        from_guest: Driver::new(&guest, RING + RING_BYTES),
        bus: Box::new(bus),
        guest,
        other,
        pci: false,
        header: if merges { 12 } else { 10 },
    }
}

fn on_a_pci_bus(accepted: Features) -> Station {
    let (devices, other) = nic();
    let guest = guest(2);
    let requests: Arc<dyn Requests> = guest.clone();
    let bus = PciBus::new(&requests, devices, console().screen()).unwrap();
    let set = |offset, bytes, value| {
        let access = DeviceAccess {
            device: 0,
            offset,
            bytes,
        };
        bus.write_device(access, value).unwrap();
    };
    set(common::DRIVER_FEATURE, 4, accepted);
    set(common::DRIVER_FEATURE_SELECT, 4, 1);
    set(common::DRIVER_FEATURE, 4, 1);
    set(common::DEVICE_STATUS, 1, 11);
    for queue in 0..2 {
        let at = 0x2_0000 + queue * RING_BYTES;
        set(common::QUEUE_SELECT, 2, queue);
        set(common::QUEUE_DESC, 4, at);
        set(common::QUEUE_DESC + 8, 4, at + 0x1000);
        set(common::QUEUE_DESC + 16, 4, at + 0x2000);
        set(common::QUEUE_ENABLE, 2, 1);
    }
    set(common::DEVICE_STATUS, 1, 15);
    Station {
        to_guest: Driver::new(&guest, 0x2_0000),
        from_guest: Driver::new(&guest, 0x2_0000 + RING_BYTES),
        bus: Box::new(bus),
        guest,
        other,
        pci: true,
        header: 12,
    }
}

/// A station on either bus, with a driver that accepts these features.
fn both(accepted: Features) -> [Station; 2] {
    [on_lguests_bus(accepted), on_a_pci_bus(accepted)]
}

impl Station {
    /// Notifies the device of what is in a queue.
    fn notify(&self, queue: u32) -> Notified {
        if !self.pci {
            let queues = [&self.to_guest, &self.from_guest];
            return self.bus.notify(queues[queue as usize].at).unwrap();
        }
        let access = DeviceAccess {
            device: 0,
            offset: registers::NOTIFY,
            bytes: 2,
        };
        self.bus.write_device(access, queue).unwrap()
    }

    fn arrive(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        self.other.write_all(&length.to_be_bytes()).unwrap();
        self.other.write_all(frame).unwrap();
    }

    /// The Guest sends `frame` with `header`.
    fn send(&mut self, header: [u8; HEADER], frame: &[u8]) {
        let mut bytes = header.to_vec();
        bytes.resize(self.header as usize, 0);
        bytes.extend(frame);
        self.guest.put(FRAME, &bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.from_guest
            .offer(&[(FRAME, 15), (FRAME + 15, length - 15)], &[]);
        assert_eq!(self.notify(1), Notified::Done);
    }

    /// The next frame at the other end. Waits.
    fn read(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.other.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.other.read_exact(&mut frame).unwrap();
        frame
    }
}

/// A frame of `data` bytes of TCP over IPv4 as a Guest hands it over: its
/// checksum is that of the pseudo header, for 10.0.0.1 and 10.0.0.2.
pub(in super::super) fn long_frame(
    data: u16,
    size: u16,
) -> ([u8; HEADER], Vec<u8>) {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((40 + data).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0]);
    let sum = 0x0A00 + 1 + 0x0A00 + 2 + 6 + 20 + data;
    frame.extend(sum.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..data).map(|n| n.to_le_bytes()[0]));
    let mut header = [1, 1, 54, 0, 0, 0, 34, 0, 16, 0];
    header[4..6].copy_from_slice(&size.to_le_bytes());
    (header, frame)
}

#[test]
fn a_frame_without_a_buffer_waits_for_a_notification() {
    for mut station in both(0) {
        let length = station.header + 60;
        assert_eq!(station.notify(0), Notified::Buffers(0));
        let starved = Readiness::Starved { watch: true };
        for round in 0..3 {
            let byte = u8::try_from(round).unwrap() + 7;
            station.arrive(&[byte; 60]);
            assert_eq!(station.bus.handle_input(0).unwrap(), starved);
            station.to_guest.offer(&[], &[(BUFFER, 2000)]);
            assert_eq!(station.notify(0), Notified::Buffers(0));
            let found = station.bus.handle_input(0).unwrap();
            assert_eq!(found, Readiness::Wait);
            let used = station.to_guest.used();
            assert_eq!(used.get(round), Some(&(used[round].0, length)));
            let frame = station.guest.bytes(BUFFER + station.header, 60);
            assert_eq!(frame, [byte; 60]);
        }
    }
}

#[test]
fn segments_and_checksums_are_done_for_another_process() {
    for mut station in both(OFFLOADS) {
        let (header, frame) = long_frame(3000, 1400);
        station.send(header, &frame);
        for (n, data) in [1400, 1400, 200].into_iter().enumerate() {
            let segment = station.read();
            assert_eq!(segment.len(), 54 + data);
            let at = 54 + n * 1400;
            assert_eq!(segment[54..], frame[at..at + data]);
            let mut right = segment.clone();
            checksum::complete(&mut right);
            assert_eq!(segment, right);
        }
        // A header that does not fit: that frame is lost, and no other.
        let mut bad = header;
        bad[7] = 0x80;
        station.send(bad, &frame);
        station.send([0; HEADER], &[9; 13]);
        station.send([0; HEADER], &[8; 60]);
        assert_eq!(station.read(), [8; 60]);
    }
}

#[test]
fn a_long_frame_has_several_buffers_where_the_driver_merges() {
    for mut station in both(FEATURES) {
        station.notify(0);
        let frame: Vec<u8> = (0..=255).cycle().take(5000).collect();
        station.arrive(&frame);
        for buffer in 0..3 {
            // With two of three buffers, nothing is written.
            let found = station.bus.handle_input(0).unwrap();
            assert_eq!(found, Readiness::Starved { watch: true });
            assert_eq!(station.to_guest.used(), []);
            station
                .to_guest
                .offer(&[], &[(BUFFER + buffer * 0x1000, 2000)]);
            assert_eq!(station.notify(0), Notified::Buffers(0));
        }
        assert_eq!(station.bus.handle_input(0).unwrap(), Readiness::Wait);
        let used: Vec<u32> =
            station.to_guest.used().iter().map(|used| used.1).collect();
        assert_eq!(used, [2000, 2000, 1012]);
        let header = station.guest.bytes(BUFFER, 12);
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
        let mut got = station.guest.bytes(BUFFER + 12, 1988);
        got.extend(station.guest.bytes(BUFFER + 0x1000, 2000));
        got.extend(station.guest.bytes(BUFFER + 0x2000, 1012));
        assert_eq!(got, frame);
    }
}

#[test]
fn a_frame_for_more_buffers_than_a_queue_has_is_dropped() {
    let mut station = on_lguests_bus(FEATURES);
    station.arrive(&[1; 5000]);
    station.arrive(&[2; 60]);
    for _ in 0..256 {
        station.to_guest.offer(&[], &[(BUFFER, 15)]);
    }
    assert_eq!(station.notify(0), Notified::Buffers(0));
    assert_eq!(station.bus.handle_input(0).unwrap(), Readiness::Wait);
    let used = station.to_guest.used();
    assert_eq!(used.len(), 5, "72 bytes in buffers of 15");
}

#[test]
fn a_driver_learns_the_mtu_where_one_was_said() {
    let (ours, _other) = UnixStream::pair().unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let mac = nic.mac();
    let nic = VirtioNic::new(nic.with_mtu(9000));
    let offered = FEATURES | 1 << 3;
    // On lguest's bus, the configuration is behind the features.
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(nic)];
    assert_eq!(devices[0].features(), offered);
    let guest = guest(2);
    let screen = console().screen();
    let _bus = VirtioBus::new(guest.clone(), devices, screen).unwrap();
    let config = guest.bytes(testing::RAM + 5 + 16 + 8, 12);
    assert_eq!(config, [&mac[..], &[0; 4], &[0x28, 0x23]].concat());
    // On a PCI bus, it has a place of its own.
    let (ours, _other) = UnixStream::pair().unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let nic = VirtioNic::new(nic.with_mtu(9000));
    let requests: Arc<dyn Requests> = testing::guest(2);
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(nic)];
    let bus = PciBus::new(&requests, devices, console().screen()).unwrap();
    let access = |offset, bytes| DeviceAccess {
        device: 0,
        offset,
        bytes,
    };
    let read = |offset, bytes| bus.read_device(access(offset, bytes)).unwrap();
    let status = 1 << 16;
    assert_eq!(read(common::DEVICE_FEATURE, 4), offered | status);
    assert_eq!(read(registers::DEVICE + 10, 2), 9000);
}

#[test]
fn without_an_mtu_the_driver_has_its_own() {
    let (devices, _other) = nic();
    assert_eq!(devices[0].features(), FEATURES);
    assert_eq!(devices[0].config().len(), 6);
}

#[test]
fn frames_beyond_a_limit_wait_in_the_queue_and_at_the_other_end() {
    let (ours, other) = UnixStream::pair().unwrap();
    // A burst has 1000 bytes.
    let rate = NonZeroU64::new(20_000).unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let nic = VirtioNic::new(nic.with_limit(rate).unwrap());
    let mut station = on_lguests_bus_with((vec![Box::new(nic)], other), 0);
    let file = station.bus.inputs().unwrap().remove(0).1;
    let is_ready = |time: i64| {
        let time = Timespec {
            tv_sec: time,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap() > 0
    };
    // 3000 bytes have to come in before the fourth frame.
    let least = Duration::from_millis(100);
    let start = Instant::now();
    station.notify(0);
    for _ in 0..4 {
        station.send([0; HEADER], &[1; 1000]);
    }
    assert!(station.from_guest.used().len() < 4);
    while station.from_guest.used().len() < 4 {
        assert!(is_ready(60));
        station.bus.handle_input(0).unwrap();
    }
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    for _ in 0..4 {
        assert_eq!(station.read(), [1; 1000]);
    }

    let start = Instant::now();
    for _ in 0..4 {
        station.arrive(&[2; 1000]);
    }
    // Without a buffer, the other end is not watched.
    let starved = Readiness::Starved { watch: true };
    assert_eq!(station.bus.handle_input(0).unwrap(), starved);
    assert!(!is_ready(0));
    for _ in 0..4 {
        station.to_guest.offer(&[], &[(BUFFER, 2000)]);
    }
    assert_eq!(station.notify(0), Notified::Buffers(0));
    while station.to_guest.used().len() < 4 {
        station.bus.handle_input(0).unwrap();
        assert!(station.to_guest.used().len() == 4 || is_ready(60));
    }
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
}

/// Its frames are lost then, as without a limit, and its queue is not stuck.
#[test]
fn a_limited_guest_gets_its_buffers_back_when_the_other_end_is_gone() {
    let (ours, other) = UnixStream::pair().unwrap();
    let rate = NonZeroU64::new(20_000).unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let nic = VirtioNic::new(nic.with_limit(rate).unwrap());
    let gone = other.try_clone().unwrap();
    let mut station = on_lguests_bus_with((vec![Box::new(nic)], other), 0);
    gone.shutdown(std::net::Shutdown::Both).unwrap();
    let file = station.bus.inputs().unwrap().remove(0).1;
    let time = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    station.notify(0);
    for _ in 0..4 {
        station.send([0; HEADER], &[1; 1000]);
    }
    let mut looks = 0;
    while station.from_guest.used().len() < 4 {
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        assert!(poll(&mut fds, Some(&time)).unwrap() > 0, "nothing wakes it");
        let found = station.bus.handle_input(0).unwrap();
        assert_ne!(found, Readiness::Closed);
        looks += 1;
    }
    assert!(looks < 20, "{looks}: it is not watched any more");
}

/// An end that is not watched, because it has sent enough for a while, has no
/// room for a frame, and then has room.
#[test]
fn room_at_an_end_that_is_not_watched_is_found() {
    let (ours, other) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
    // The next frames, either way, may come in ten seconds or later.
    let rate = NonZeroU64::new(100).unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let nic = VirtioNic::new(nic.with_limit(rate).unwrap());
    let mut station = on_lguests_bus_with((vec![Box::new(nic)], other), 0);
    let file = station.bus.inputs().unwrap().remove(0).1;
    station.to_guest.offer(&[], &[(BUFFER, 2000)]);
    station.notify(0);
    station.arrive(&[2; 1000]);
    station.bus.handle_input(0).unwrap();
    assert_eq!(station.to_guest.used().len(), 1);
    station.send([0; HEADER], &[1; 60_000]);
    station.other.set_nonblocking(true).unwrap();
    let time = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let (mut frame, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        while let Ok(count) = station.other.read(&mut bytes) {
            frame.extend_from_slice(&bytes[..count]);
        }
        if frame.len() == 60_004 {
            break;
        }
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        assert!(poll(&mut fds, Some(&time)).unwrap() > 0, "{}", frame.len());
        station.bus.handle_input(0).unwrap();
    }
}

/// The Guest has no buffer, so the other end is not watched for frames. It is
/// watched for room.
#[test]
fn room_for_a_starved_guest_with_a_limit_is_waited_for_without_a_timer() {
    let (ours, other) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
    let rate = NonZeroU64::new(1 << 30).unwrap();
    let nic = stream::on_socket(OwnedFd::from(ours)).unwrap();
    let nic = VirtioNic::new(nic.with_limit(rate).unwrap());
    let mut station = on_lguests_bus_with((vec![Box::new(nic)], other), 0);
    let file = station.bus.inputs().unwrap().remove(0).1;
    let is_ready = |milliseconds: i64| {
        let time = Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        };
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap() > 0
    };
    station.notify(0);
    station.arrive(&[2; 1000]);
    for _ in 0..4 {
        station.send([0; HEADER], &[1; 60_000]);
    }
    let starved = Readiness::Starved { watch: true };
    assert_eq!(station.bus.handle_input(0).unwrap(), starved);
    // What the limit had left to do is done.
    while is_ready(0) {
        assert_eq!(station.bus.handle_input(0).unwrap(), starved);
    }
    assert!(!is_ready(200), "a timer wakes it");
    station.other.set_nonblocking(true).unwrap();
    let (mut bytes, mut count) = (vec![0; 64 << 10], 0);
    while count < 4 * 60_004 {
        match station.other.read(&mut bytes) {
            Ok(read) => count += read,
            Err(_) => {
                assert!(is_ready(60_000), "{count}: room is not found");
                station.bus.handle_input(0).unwrap();
            }
        }
    }
    assert!(!is_ready(200), "nothing is left to do");
    // The end of the other end is noticed at the next look.
    station.send([0; HEADER], &[1; 60_000]);
    station.send([0; HEADER], &[1; 60_000]);
    station.other.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..20 {
        if !is_ready(200) {
            return;
        }
        station.bus.handle_input(0).unwrap();
    }
    panic!("it is woken again and again");
}
