//! A share on a bus: a driver's requests, good and bad, and the end of the
//! server.

use super::*;
use crate::devices::console::{Config, Console};
use crate::devices::share::Killer;
use crate::engine::Scripted;
use crate::machine::config::ShareConfig;
use crate::transport::Transport;
use crate::transport::virtio::VirtioBus;
use crate::transport::virtio::ring::RING_BYTES;
use crate::transport::virtio::testing::{Driver, RAM, RING, guest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

const REQUEST: u32 = 0x1000;
const ANSWER: u32 = 0x2000;

/// A bus with a share and nothing else.
struct Machine {
    guest: Arc<Scripted>,
    bus: VirtioBus,
    folder: PathBuf,
    input: OwnedFd,
    killer: Killer,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.bus.finish();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn machine(name: &str) -> Machine {
    machine_with(name, |_| {})
}

fn machine_with(name: &str, change: impl FnOnce(&mut Share)) -> Machine {
    let name = format!("lguest-on-bus-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config = ShareConfig {
        path: folder.clone(),
        tag: "home".into(),
        read_only: false,
    };
    let mut share = Share::start(&config, 0).unwrap();
    change(&mut share);
    let killer = share.killer();
    let (input, output) = rustix::pipe::pipe().unwrap();
    let console = Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    });
    let guest = guest(1);
    let devices: Vec<Box<dyn VirtioDevice>> =
        vec![Box::new(VirtioShare::new(share))];
    let bus = VirtioBus::new(guest.clone(), devices, console.screen()).unwrap();
    let (_, input) = bus.inputs().unwrap().remove(0);
    Machine {
        guest,
        bus,
        folder,
        input,
        killer,
    }
}

/// `Tversion` with this tag.
fn version(tag: u16) -> Vec<u8> {
    let [low, high] = tag.to_le_bytes();
    let body = b"\0\x20\0\0\x08\x009P2000.L";
    [&[21, 0, 0, 0, 100, low, high][..], body].concat()
}

impl Machine {
    fn driver(&self) -> Driver {
        Driver::new(&self.guest, RING)
    }

    /// Waits until the driver has `count` answers.
    fn wait(&self, driver: &Driver, count: usize) {
        while driver.used().len() < count {
            let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            self.bus.handle_input(0).unwrap();
        }
    }
}

#[test]
fn a_guest_finds_a_tag_and_gets_answers() {
    let machine = machine("answers");
    // A queue, one set of features, and the tag with its length.
    let found = machine.guest.bytes(RAM, 5);
    assert_eq!(found, [9, 1, 4, 6, 0]);
    assert_eq!(machine.guest.bytes(RAM + 5 + 8, 4), [1, 0, 0, 0]);
    assert_eq!(machine.guest.bytes(RAM + 5 + 16, 6), *b"\x04\0home");
    let mut driver = machine.driver();
    // More at once than the server is asked at once.
    for n in 0..100_u16 {
        let at = u32::from(n) * 64;
        machine.guest.put(REQUEST + at, &version(n));
        driver.offer(&[(REQUEST + at, 21)], &[(0x4000 + at, 64)]);
    }
    machine.bus.notify(RING).unwrap();
    machine.wait(&driver, 100);
    for n in 0..100_u16 {
        let at = 0x4000 + u32::from(n) * 64;
        let mut expected = version(n);
        expected[4] = 101;
        assert_eq!(machine.guest.bytes(at, 21), expected);
    }
    assert!(driver.used().iter().all(|&(_, bytes)| bytes == 21));
    assert!(machine.guest.irqs().contains(&1));
}

/// Whether there is something to handle.
fn has_input(machine: &Machine) -> bool {
    let mut fds = [PollFd::new(&machine.input, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

/// Whether something to handle comes.
fn gets_input(machine: &Machine) -> bool {
    let mut fds = [PollFd::new(&machine.input, PollFlags::IN)];
    let minute = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&minute)).unwrap() > 0
}

#[test]
fn a_single_request_is_answered_while_the_guest_stands_still() {
    let day = Timespec {
        tv_sec: 86_400,
        tv_nsec: 0,
    };
    let machine = machine_with("at-once", |share| share.set_moment(day));
    let mut driver = machine.driver();
    for count in 1..20_usize {
        machine.guest.put(REQUEST, &version(7));
        driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
        machine.bus.notify(RING).unwrap();
        assert_eq!(driver.used().len(), count);
        assert!(!has_input(&machine), "its answer is taken");
    }
    // Two requests are answered as input.
    for _ in 0..2 {
        driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    }
    machine.bus.notify(RING).unwrap();
    machine.wait(&driver, 21);
    // The end of the server is input, too.
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    assert_eq!(driver.used().len(), 22);
    machine.killer.kill();
    // A process that another test has just forked may have its end.
    assert!(gets_input(&machine));
}

/// The first of two requests is answered at once, and the socket had no room
/// for the second.
#[test]
fn a_request_that_is_held_is_asked_when_there_is_room() {
    let day = Timespec {
        tv_sec: 86_400,
        tv_nsec: 0,
    };
    let machine = machine_with("held", |share| {
        share.set_moment(day);
        share.set_room(1);
    });
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    for _ in 0..2 {
        driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    }
    machine.bus.notify(RING).unwrap();
    assert!(gets_input(&machine), "the second request was forgotten");
    machine.wait(&driver, 2);
}

#[test]
fn a_guest_runs_on_where_answers_are_never_waited_for() {
    let machine = machine_with("slow-path", Share::never_at_once);
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    assert_eq!(driver.used().len(), 0);
    machine.wait(&driver, 1);
}

#[test]
fn a_guest_goes_on_when_an_answer_takes_longer() {
    let no_time = Timespec::default();
    let machine = machine_with("later", |share| share.set_moment(no_time));
    let mut driver = machine.driver();
    machine.killer.stop();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    assert_eq!(driver.used().len(), 0);
    machine.killer.go_on();
    machine.wait(&driver, 1);
}

#[test]
fn the_requests_to_a_share_that_was_taken_away_get_errors() {
    let no_time = Timespec::default();
    let machine = machine_with("taken", |share| share.set_moment(no_time));
    let mut driver = machine.driver();
    machine.killer.stop();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    assert_eq!(driver.used().len(), 0);
    machine.killer.go_on();
    assert_eq!(machine.bus.detach("share", 0), Some(0));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    // The first one may have been answered before.
    assert_eq!(driver.used().len(), 2);
    let error = machine.guest.bytes(ANSWER, 11);
    assert_eq!(error, [11, 0, 0, 0, 7, 7, 0, 5, 0, 0, 0]);
    assert_eq!(machine.guest.killed(), None);
}

#[test]
fn the_requests_of_a_dead_server_get_errors() {
    let machine = machine("dies");
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    machine.wait(&driver, 1);
    machine.killer.kill();
    for count in 2..5 {
        driver.offer(&[(REQUEST, 21)], &[(ANSWER, 5), (ANSWER + 5, 59)]);
        driver.offer(&[(REQUEST, 21)], &[(ANSWER + 64, 3)]);
        machine.bus.notify(RING).unwrap();
        machine.wait(&driver, 1 + 2 * (count - 1));
        let error = machine.guest.bytes(ANSWER, 11);
        assert_eq!(error, [11, 0, 0, 0, 7, 7, 0, 5, 0, 0, 0]);
    }
    let lengths: Vec<u32> = driver.used().iter().map(|used| used.1).collect();
    assert_eq!(lengths, [21, 11, 3, 11, 3, 11, 3]);
    assert_eq!(machine.guest.killed(), None);
}

#[test]
fn a_request_without_a_header_ends_the_guest() {
    let machine = machine("short");
    let mut driver = machine.driver();
    driver.offer(&[(REQUEST, 6)], &[(ANSWER, 64)]);
    let broken = machine.bus.notify(RING).unwrap_err();
    assert!(broken.to_string().contains("without a header"), "{broken}");
}

/// The Guest may go on after its state was taken.
#[test]
fn a_state_has_no_request_that_is_held() {
    let machine = machine_with("held-state", |share| {
        share.never_at_once();
        share.set_room(1);
    });
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    for _ in 0..2 {
        driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    }
    machine.bus.notify(RING).unwrap();
    let _ = machine.bus.state();
    assert_eq!(driver.used().len(), 2);
}

/// What was asked is answered before a state is taken.
#[test]
fn a_state_has_no_request_in_progress() {
    let machine = machine("state");
    let mut driver = machine.driver();
    for n in 0..10 {
        machine.guest.put(REQUEST + n * 64, &version(1));
        driver.offer(&[(REQUEST + n * 64, 21)], &[(ANSWER + n * 64, 64)]);
    }
    machine.bus.notify(RING).unwrap();
    let state = machine.bus.state();
    assert_eq!(driver.used().len(), 10);
    assert_eq!(machine.bus.obstacle(), None);
    let text = serde_json::to_string(&state).unwrap();
    assert!(text.contains("8192"), "{text}");
    machine.bus.restore(&state).unwrap();
    // A server that has ended tells nothing.
    machine.killer.kill();
    let _ = machine.bus.state();
    let why = machine.bus.obstacle().unwrap();
    assert!(why.contains("its server has ended"), "{why}");
}

#[test]
fn a_reset_waits_until_the_server_writes_no_more() {
    let machine = machine_with("reset", |share| {
        share.set_moment(Timespec::default());
    });
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.killer.stop();
    machine.bus.notify(RING).unwrap();
    let (bus, guest) = (&machine.bus, &machine.guest);
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| {
            guest.put(RAM + 4, &[0]);
            bus.notify(RAM).unwrap();
            // This memory is something else now.
            guest.put(ANSWER, &[0xEE; 64]);
        });
        // Without this, the server would be killed.
        let moment = std::time::Duration::from_millis(50);
        std::thread::sleep(moment);
        machine.killer.go_on();
        reset.join().unwrap();
    });
    let _ = bus.state();
    assert_eq!(guest.bytes(ANSWER, 64), [0xEE; 64]);
}

#[test]
fn a_server_that_does_not_end_is_killed() {
    let machine = machine("hostile");
    machine.killer.stop();
    assert_eq!(machine.bus.detach("share", 0), Some(0));
    assert!(machine.killer.has_killed(), "it has the guest's memory");
}

/// The thread that serves the Guest waits for it, and so do a person's orders.
#[test]
fn a_reset_does_not_wait_long_for_a_server_that_is_silent() {
    let machine = machine_with("silent", |share| {
        share.set_moment(Timespec::default());
    });
    let mut driver = machine.driver();
    machine.guest.put(REQUEST, &version(7));
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.killer.stop();
    machine.bus.notify(RING).unwrap();
    let start = std::time::Instant::now();
    machine.guest.put(RAM + 4, &[0]);
    machine.bus.notify(RAM).unwrap();
    let time = start.elapsed();
    assert!(time < std::time::Duration::from_secs(30), "{time:?}");
    assert!(machine.killer.has_killed(), "it may still write an answer");
    // The Guest goes on, and its driver gets errors.
    let mut driver = machine.driver();
    machine.guest.put(RING, &[0; RING_BYTES as usize]);
    machine.guest.put(RAM + 4, &[4]);
    machine.bus.notify(RAM).unwrap();
    driver.offer(&[(REQUEST, 21)], &[(ANSWER, 64)]);
    machine.bus.notify(RING).unwrap();
    assert_eq!(driver.used().len(), 1);
    let error = machine.guest.bytes(ANSWER, 11);
    assert_eq!(error, [11, 0, 0, 0, 7, 7, 0, 5, 0, 0, 0]);
    assert_eq!(machine.guest.killed(), None);
}
