//! The main loop: runs the Guest, and hands what it sends to a device.
//!
//! The main thread is here until the Guest dies.

use super::error::LaunchError;
use super::inputs::Inputs;
use super::stats::NamedCounts;
use crate::debugger::Debugger;
use crate::devices::Violation;
use crate::engine::{Death, Engine, Exit};
use crate::transport::{Notified, Transport};
use std::sync::Arc;
use std::time::Instant;

/// A Guest that runs.
pub(super) struct Run<'a> {
    guest: Arc<dyn Engine>,
    bus: &'a dyn Transport,
    inputs: Inputs,
    debugger: Option<&'a Debugger>,
    sends: u64,
    unheard: u64,
}

impl<'a> Run<'a> {
    /// A run in which nothing has been sent yet.
    pub(super) fn new(
        guest: Arc<dyn Engine>,
        bus: &'a dyn Transport,
        inputs: Inputs,
        debugger: Option<&'a Debugger>,
    ) -> Self {
        Self {
            guest,
            bus,
            inputs,
            debugger,
            sends: 0,
            unheard: 0,
        }
    }

    /// Serves the Guest until it dies. Blocks.
    pub(super) fn until_death(&mut self) -> Result<Death, LaunchError> {
        loop {
            match self.guest.run()? {
                Exit::SendDma { dma, key } => {
                    if let Err(violation) = self.send(dma, key) {
                        self.guest.kill(violation.to_string());
                    }
                }
                Exit::Notify { address } => {
                    self.notified(self.bus.notify(address));
                }
                Exit::ReadDevice(access) => {
                    match self.bus.read_device(access) {
                        Ok(value) => self.guest.answer(value),
                        Err(violation) => {
                            self.guest.kill(violation.to_string());
                        }
                    }
                }
                Exit::WriteDevice { access, value } => {
                    self.notified(self.bus.write_device(access, value));
                }
                Exit::BindingsChanged => self.bus.buffers_changed(),
                Exit::BuffersMayBeFree => {}
                Exit::Stopped(stopped) => {
                    // Without a debugger, the Guest goes on.
                    if let Some(debugger) = self.debugger {
                        debugger.stopped(stopped);
                    }
                }
                Exit::Held => self.guest.wait_until_let_go(),
                Exit::Dead(death) => return Ok(death),
            }
            self.inputs.nudge();
        }
    }

    /// A device has handled a notification.
    fn notified(&self, result: Result<Notified, Violation>) {
        match result {
            Ok(Notified::Done) => {}
            Ok(Notified::Buffers(device)) => self.inputs.offered(device),
            Err(violation) => self.guest.kill(violation.to_string()),
        }
    }

    fn send(&mut self, dma: u32, key: u32) -> Result<(), Violation> {
        self.sends += 1;
        if !self.bus.send(dma, key)? {
            self.unheard += 1;
        }
        Ok(())
    }

    /// Counters of a run that began at `start`.
    pub(super) fn counters(&self, start: Instant) -> NamedCounts {
        let elapsed = start.elapsed().as_micros();
        let mut counters = vec![
            ("microseconds", u64::try_from(elapsed).unwrap_or(u64::MAX)),
            ("sends", self.sends),
            ("sends_to_nobody", self.unheard),
            ("huge_pages", self.guest.counters().huge_pages),
        ];
        counters.extend(self.inputs.counters());
        counters
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::exit::Outcome;
    use crate::devices::console::{Config, Console};
    use crate::engine::{Requests, Scripted, Setup};
    use crate::machine::ending::Ending;
    use crate::memory::GuestMemory;
    use crate::transport::keys::{Bus, KeyedConsole, KeyedDevice};
    use crate::transport::virtio::testing::{self, Driver};
    use crate::transport::virtio::{VirtioBus, VirtioConsole, VirtioDevice};
    use lg_abi::request::Initialize;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    const LIST: u32 = 0x1000;
    const TEXT: u32 = 0x2000;
    const BUFFER: u32 = 0x3000;
    const IRQ: u8 = 5;

    /// A machine without a process: the Guest, its bus, and the other ends of
    /// its console.
    pub(in crate::machine) fn machine()
    -> (Arc<Scripted>, Arc<dyn Transport>, OwnedFd, File) {
        let guest = Scripted::new(GuestMemory::new(0x1_0000, 1).unwrap());
        let (input, keyboard) = rustix::pipe::pipe().unwrap();
        let (shown, output) = rustix::pipe::pipe().unwrap();
        let console = Console::new(Config {
            input,
            output,
            log: None,
            at_end: None,
        });
        let console: Box<dyn KeyedDevice> =
            Box::new(KeyedConsole::new(console));
        let bus = Bus::new(guest.clone(), vec![console]).unwrap();
        let start = Initialize {
            pfn_limit: 17,
            pgdir: 0,
            start: 0,
            page_offset: 0xC000_0000,
        };
        guest.initialize(Setup::from(start)).unwrap();
        (guest, Arc::new(bus), keyboard, shown.into())
    }

    /// Runs the machine as [`crate::machine::launch`] does. Returns the number
    /// of sends, and how many went to no device.
    fn run(
        guest: &Arc<Scripted>,
        bus: &Arc<dyn Transport>,
    ) -> (Death, u64, u64) {
        let engine: Arc<dyn Engine> = guest.clone();
        let ending = Ending::new(engine.clone());
        let inputs =
            Inputs::start(bus, &engine, &Arc::default(), &ending, false)
                .unwrap();
        let mut run = Run::new(engine, &**bus, inputs, None);
        let death = run.until_death().unwrap();
        let (outcome, _) = ending.outcome(&death);
        assert_eq!(outcome, Outcome::from(&death));
        (death, run.sends, run.unheard)
    }

    #[test]
    fn a_send_goes_to_a_device_and_the_guest_runs_on() {
        let (guest, bus, _keyboard, mut shown) = machine();
        guest.memory().write(TEXT, b"hello").unwrap();
        assert!(guest.put_dma(LIST, &[(TEXT, 5)]));
        guest.then(Exit::SendDma { dma: LIST, key: 0 });
        let key = 0x1_0000;
        guest.then(Exit::SendDma { dma: LIST, key });
        guest.then(Exit::Dead(Death::PowerOff(7)));
        assert_eq!(run(&guest, &bus), (Death::PowerOff(7), 2, 1));
        let _ = bus.finish();
        drop(bus);
        let mut text = [0; 5];
        shown.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        assert_eq!(guest.word(LIST), 5, "the sender gets the length");
    }

    #[test]
    fn a_send_against_the_rules_ends_the_guest() {
        let (guest, bus, _keyboard, _shown) = machine();
        assert!(guest.put_dma(LIST, &[(0xF_0000, 5)]));
        guest.then(Exit::SendDma { dma: LIST, key: 0 });
        let (death, ..) = run(&guest, &bus);
        assert!(
            matches!(&death, Death::Killed(why) if why.contains("bad dma"))
        );
    }

    #[test]
    fn input_waits_until_the_guest_may_have_a_buffer() {
        let (guest, bus, keyboard, _shown) = machine();
        guest.set_asleep(true);
        rustix::io::write(&keyboard, b"x").unwrap();
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| run(&guest, &bus));
            assert!(guest.put_dma(LIST, &[(BUFFER, 8)]));
            guest.bind(0, LIST, IRQ);
            // The thread may have looked before this, so it gets a report as
            // from a Host.
            while guest.word(LIST) == 0 {
                guest.then(Exit::BuffersMayBeFree);
                std::thread::yield_now();
            }
            assert_eq!(guest.wait_irq(), Some(IRQ));
            assert_eq!(guest.bytes(BUFFER, 1), b"x");
            guest.then(Exit::Dead(Death::PowerOff(0)));
            assert_eq!(ran.join().unwrap().0, Death::PowerOff(0));
        });
    }

    /// A Guest that does other things too: none of them delays the input. That
    /// the thread sets no timer meanwhile is tested with its states
    /// ([`crate::machine::inputs`]).
    #[test]
    fn a_notification_of_buffers_brings_the_input_at_once() {
        let (input, keyboard) = rustix::pipe::pipe().unwrap();
        let (_shown, output) = rustix::pipe::pipe().unwrap();
        let console = Console::new(Config {
            input,
            output,
            log: None,
            at_end: None,
        });
        let screen = console.screen();
        let devices: Vec<Box<dyn VirtioDevice>> =
            vec![Box::new(VirtioConsole::new(console))];
        let guest = testing::guest(2);
        let bus = VirtioBus::new(guest.clone(), devices, screen).unwrap();
        let bus: Arc<dyn Transport> = Arc::new(bus);
        let start = Initialize {
            pfn_limit: guest.memory().limit() >> 12,
            pgdir: 0,
            start: 0,
            page_offset: 0xC000_0000,
        };
        guest.initialize(Setup::from(start)).unwrap();
        let mut driver = Driver::new(&guest, testing::RING);
        let engine: Arc<dyn Engine> = guest.clone();
        let ending = Ending::new(engine.clone());
        let inputs =
            Inputs::start(&bus, &engine, &Arc::default(), &ending, false)
                .unwrap();
        let mut run = Run::new(engine, &*bus, inputs, None);
        std::thread::scope(|scope| {
            let ran = scope.spawn(move || {
                let death = run.until_death().unwrap();
                (death, run.inputs.counters())
            });
            for round in 0..5_u8 {
                rustix::io::write(&keyboard, &[round]).unwrap();
                let status = Exit::Notify {
                    address: testing::RAM,
                };
                for _ in 0..5 {
                    guest.then(status.clone());
                }
                let address = driver.at;
                driver.offer(&[], &[(BUFFER, 8)]);
                guest.then(Exit::Notify { address });
                assert_eq!(guest.wait_irq(), Some(1));
                assert_eq!(guest.bytes(BUFFER, 1), [round]);
            }
            guest.then(Exit::Dead(Death::PowerOff(0)));
            let (death, counters) = ran.join().unwrap();
            assert_eq!(death, Death::PowerOff(0));
            assert_eq!(counters[1], ("input_pauses", 0));
        });
    }

    #[test]
    fn a_held_guest_does_nothing_until_it_is_let_go() {
        let (guest, bus, ..) = machine();
        guest.then(Exit::Dead(Death::PowerOff(0)));
        let ending = Ending::new(guest.clone());
        let hold = ending.hold().unwrap();
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| run(&guest, &bus));
            std::thread::yield_now();
            assert_eq!(guest.death(), None);
            drop(hold);
            assert_eq!(ran.join().unwrap().0, Death::PowerOff(0));
        });
    }
}
