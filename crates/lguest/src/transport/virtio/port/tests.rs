//! A port on a bus: what a good driver and a bad one get.

use super::*;
use crate::devices::console::{Config, Console, Screen};
use crate::devices::port::{Frame, FromGuest, frame};
use crate::engine::{Requests, Scripted};
use crate::transport::Transport;
use crate::transport::virtio::testing::{Driver, RAM, RING, guest};
use crate::transport::virtio::{PciBus, RING_BYTES, VirtioBus};
use std::os::fd::OwnedFd;

/// Where things are in the Guest's memory.
const MESSAGE: u32 = 0x1000;
const HEARD: u32 = 0x2000;
const BYTES: u32 = 0x3000;
const BUFFER: u32 = 0x2_0000;

/// A driver of the port: its four queues.
struct Machine {
    guest: Arc<Scripted>,
    bus: VirtioBus,
    channel: Arc<Channel>,
    told: Driver,
    tells: Driver,
    gets: Driver,
    sends: Driver,
    _keyboard: OwnedFd,
}

fn screen() -> (Arc<Screen>, OwnedFd) {
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let (_, output) = rustix::pipe::pipe().unwrap();
    let console = Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    });
    (console.screen(), keyboard)
}

fn machine() -> Machine {
    let guest = guest(QUEUES.into());
    let channel = Arc::new(Channel::new().unwrap());
    let port: Box<dyn VirtioDevice> =
        Box::new(VirtioPort::new(channel.clone()));
    let (screen, _keyboard) = screen();
    let bus = VirtioBus::new(guest.clone(), vec![port], screen).unwrap();
    let queue = |n: usize| {
        let n = u32::try_from(n).unwrap();
        Driver::new(&guest, RING + n * RING_BYTES)
    };
    Machine {
        told: queue(MESSAGES_TO_GUEST),
        tells: queue(MESSAGES_FROM_GUEST),
        gets: queue(BYTES_TO_GUEST),
        sends: queue(BYTES_FROM_GUEST),
        guest,
        bus,
        channel,
        _keyboard,
    }
}

impl Machine {
    /// The driver says something about a port.
    fn try_tell(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.guest.put(MESSAGE, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.tells.offer(&[(MESSAGE, len)], &[]);
        self.bus.notify(self.tells.at).map(drop)
    }

    fn tell(&mut self, id: u32, event: u16, value: u16) {
        let message = PortMessage { id, event, value };
        self.try_tell(message.as_bytes()).unwrap();
    }

    /// Offers a buffer for a message of the device.
    fn hear(&mut self) -> u32 {
        let n = u32::try_from(self.told.used().len()).unwrap();
        let at = HEARD + n * 64;
        self.told.offer(&[], &[(at, 64)]);
        at
    }

    /// The messages so far, of buffers that were offered in this order.
    fn heard(&self) -> Vec<Vec<u8>> {
        let used = self.told.used();
        let at = |n: usize| HEARD + u32::try_from(n).unwrap() * 64;
        let message = |(n, &(_, len)): (usize, &(u32, u32))| {
            self.guest.bytes(at(n), len as usize)
        };
        used.iter().enumerate().map(message).collect()
    }

    /// The driver begins, and its agent opens the port.
    fn open(&mut self) {
        for n in 0..3 {
            self.told.offer(&[], &[(HEARD + n * 64, 64)]);
        }
        self.bus.notify(self.told.at).unwrap();
        self.tell(u32::MAX, PORT_DEVICE_READY, 1);
        self.tell(PORT, PORT_READY, 1);
        self.tell(PORT, PORT_OPEN, 1);
    }

    fn try_send(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.guest.put(BYTES, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.sends.offer(&[(BYTES, len)], &[]);
        self.bus.notify(self.sends.at).map(drop)
    }
}

#[test]
fn a_driver_learns_of_the_port_and_its_name() {
    let mut machine = machine();
    // Six queues, one set of features, and the most ports.
    assert_eq!(machine.guest.bytes(RAM, 5), [3, 6, 4, 8, 0]);
    let features = machine.guest.bytes(RAM + 5 + 6 * 8, 4);
    assert_eq!(features, [2, 0, 0, 0]);
    let config = machine.guest.bytes(RAM + 5 + 6 * 8 + 8, 8);
    assert_eq!(config, [0, 0, 0, 0, 2, 0, 0, 0]);
    machine.open();
    let name = [&[1, 0, 0, 0, 7, 0, 1, 0][..], b"lguest.agent"].concat();
    let expected = [
        vec![1, 0, 0, 0, 1, 0, 1, 0],
        name,
        vec![1, 0, 0, 0, 6, 0, 1, 0],
    ];
    assert_eq!(machine.heard(), expected);
    assert!(machine.channel.is_open());
    machine.tell(PORT, PORT_OPEN, 0);
    assert!(!machine.channel.is_open());
}

#[test]
fn messages_wait_for_buffers_and_do_not_pile_up() {
    let mut machine = machine();
    for _ in 0..1000 {
        machine.tell(u32::MAX, PORT_DEVICE_READY, 1);
        machine.tell(PORT, PORT_READY, 1);
    }
    for n in 1..=3 {
        machine.hear();
        machine.bus.notify(machine.told.at).unwrap();
        assert_eq!(machine.told.used().len(), n);
    }
    machine.hear();
    machine.bus.notify(machine.told.at).unwrap();
    assert_eq!(machine.told.used().len(), 3, "each is said once");
}

#[test]
fn other_ports_and_messages_change_nothing() {
    let mut machine = machine();
    machine.tell(0, PORT_OPEN, 1);
    machine.tell(7, PORT_READY, 1);
    machine.tell(PORT, 99, 1);
    machine.hear();
    machine.bus.notify(machine.told.at).unwrap();
    assert_eq!(machine.heard(), Vec::<Vec<u8>>::new());
    assert!(!machine.channel.is_open());
    let (_, counts) = machine.bus.counters().remove(0);
    assert!(counts.contains(&("messages_unknown", 3)));
}

#[test]
fn bytes_go_both_ways() {
    let mut machine = machine();
    machine.open();
    let start = frame(1, 16, b"start");
    machine.channel.put_to_guest(&start);
    machine.bus.handle_input(0).unwrap();
    assert_eq!(machine.gets.used().len(), 0, "there is no buffer");
    // Two buffers, of which the first is short.
    machine.gets.offer(&[], &[(BUFFER, 4)]);
    machine.gets.offer(&[], &[(BUFFER + 4, 64)]);
    machine.bus.notify(machine.gets.at).unwrap();
    assert_eq!(machine.guest.bytes(BUFFER, start.len()), start);
    let lens: Vec<u32> = machine.gets.used().iter().map(|u| u.1).collect();
    assert_eq!(lens, [4, 10]);
    machine.try_send(&frame(1, 33, b"hello")).unwrap();
    let hello = FromGuest::Frame(Frame {
        stream: 1,
        kind: 33,
        payload: b"hello".to_vec(),
    });
    assert_eq!(machine.channel.take(), Some(hello));
}

#[test]
fn a_guest_that_sends_much_has_to_wait_and_goes_on() {
    let mut machine = machine();
    machine.open();
    let bytes = frame(1, 33, &vec![7; 60_000]);
    for _ in 0..8 {
        machine.try_send(&bytes).unwrap();
    }
    let waiting = machine.sends.used().len();
    assert!(waiting < 8, "{waiting}");
    for _ in 0..8 {
        while machine.channel.take().is_none() {
            machine.bus.handle_input(0).unwrap();
        }
        machine.bus.handle_input(0).unwrap();
    }
    assert_eq!(machine.sends.used().len(), 8);
    assert_eq!(machine.channel.take(), None);
}

#[test]
fn a_driver_that_begins_anew_closes_the_port() {
    let mut machine = machine();
    machine.open();
    machine.channel.put_to_guest(&frame(1, 16, b"old"));
    machine.tell(u32::MAX, PORT_DEVICE_READY, 1);
    assert!(!machine.channel.is_open());
    assert_eq!(machine.channel.take(), Some(FromGuest::Closed));
    machine.gets.offer(&[], &[(BUFFER, 64)]);
    machine.tell(PORT, PORT_OPEN, 1);
    machine.bus.notify(machine.gets.at).unwrap();
    assert_eq!(machine.gets.used().len(), 0, "it was for another agent");
}

#[test]
fn sizes_that_cannot_be_end_the_guest() {
    for len in [0, 1, 7] {
        let mut machine = machine();
        let ended = machine.try_tell(&vec![0; len]).unwrap_err();
        let text = format!("a message about a port with {len} bytes, of 8");
        assert_eq!(ended.0, text);
    }
    let mut machine = machine();
    machine.told.offer(&[], &[(HEARD, 7)]);
    machine.bus.notify(machine.told.at).unwrap();
    let ready = PortMessage {
        id: u32::MAX,
        event: PORT_DEVICE_READY,
        value: 1,
    };
    let ended = machine.try_tell(ready.as_bytes()).unwrap_err();
    assert!(ended.0.contains("too short"), "{ended}");
    // Parts that overlap make a chain longer than memory.
    let mut machine = self::machine();
    let long = [(0, RAM), (0, RAM)];
    machine.sends.offer(&long, &[]);
    let ended = machine.bus.notify(machine.sends.at).unwrap_err();
    assert!(ended.0.contains("to a port, of 1048576"), "{ended}");
}

#[test]
fn a_state_goes_on_in_another_machine() {
    let mut machine = machine();
    machine.open();
    machine.channel.begin_stream().unwrap();
    let start = frame(1, 16, b"start");
    machine.channel.put_to_guest(&start);
    let state = Transport::state(&machine.bus);
    let text = serde_json::to_string(&state).unwrap();
    let mut other = self::machine();
    let memory = machine
        .guest
        .bytes(0, other.guest.memory().limit() as usize);
    other.guest.put(0, &memory);
    let state = serde_json::from_str(&text).unwrap();
    Transport::restore(&other.bus, &state).unwrap();
    assert!(other.channel.is_open());
    assert_eq!(other.channel.streams(), [1]);
    let mut gets = machine.gets.of(&other.guest);
    gets.offer(&[], &[(BUFFER, 64)]);
    other.bus.notify(gets.at).unwrap();
    assert_eq!(other.guest.bytes(BUFFER, start.len()), start);
    other.told = machine.told.of(&other.guest);
    assert_eq!(other.told.used().len(), 3, "nothing is said again");
}

#[test]
fn on_a_pci_bus_it_has_no_registers_of_a_terminal() {
    let guest = guest(0);
    let requests: Arc<dyn Requests> = guest;
    let channel = Arc::new(Channel::new().unwrap());
    let port: Box<dyn VirtioDevice> = Box::new(VirtioPort::new(channel));
    let described = crate::transport::virtio::describe_for_pci(&[port]);
    assert_eq!((described[0].kind, described[0].config_bytes), (3, 8));
    let channel = Arc::new(Channel::new().unwrap());
    let port: Box<dyn VirtioDevice> = Box::new(VirtioPort::new(channel));
    let (screen, _keyboard) = screen();
    let bus = PciBus::new(&requests, vec![port], screen).unwrap();
    bus.resized(crate::transport::TerminalSize {
        columns: 80,
        rows: 24,
    });
    let access = crate::engine::DeviceAccess {
        device: 0,
        offset: lg_abi::gen3::registers::DEVICE,
        bytes: 4,
    };
    assert_eq!(bus.read_device(access).unwrap(), 0, "columns and rows");
    let ports = crate::engine::DeviceAccess {
        offset: access.offset + 4,
        ..access
    };
    assert_eq!(bus.read_device(ports).unwrap(), 2);
}
