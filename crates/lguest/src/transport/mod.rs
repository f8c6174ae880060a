//! The bus: sixteen descriptors above RAM, and who stands behind each.
//!
//! What real machines spread over PCI, ACPI and hot-plug controllers is one
//! page here. A Guest reads it once, at boot, and then talks to devices by
//! their keys. Everything on it is settled before the Guest runs, but for one
//! thing: a device can be taken away again ([`Bus::remove`]).

use crate::devices::{Device, Place, Readiness, Requests, Violation};
use crate::engine::SharedPage;
use crate::memory::GuestMemory;
use lg_abi::device::{
    DeviceDescriptor, LGUEST_DEVICE_S_REMOVED, LGUEST_DEVICE_S_REMOVED_ACK,
    LGUEST_DEVICE_T_CONSOLE, LGUEST_DEVICE_T_NET, LGUEST_MAX_DEVICES,
    device_irq,
};
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All devices of a Guest. Any thread may use it; a lock for each device sees
/// to it that only one does at a time.
pub struct Bus {
    guest: Arc<dyn Requests>,
    slots: Vec<Slot>,
}

struct Slot {
    /// `None` once the device has gone for good.
    device: Mutex<Option<Box<dyn Device>>>,
    kind: u16,
    place: Place,
    pages: u32,
    removed: AtomicBool,
}

/// The devices cannot be put on a bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The descriptor page is too short.
    #[error(
        "{0} devices are too many: a guest has at most \
         {LGUEST_MAX_DEVICES}, its console among them"
    )]
    TooManyDevices(usize),
    /// A device cannot prepare its page.
    #[error("device {0} cannot be placed: {1}")]
    Place(usize, #[source] io::Error),
}

/// How many pages a Guest with these devices has above its RAM, the
/// descriptor page among them.
#[must_use]
pub fn pages_above_ram(devices: &[Box<dyn Device>]) -> u32 {
    let described = devices.iter().map(|device| device.description());
    1 + described.map(|d| u32::from(d.num_pages)).sum::<u32>()
}

impl Bus {
    /// Puts `devices` on the bus of `guest`, in this order. The Guest must not
    /// have run yet, and have [`pages_above_ram`].
    ///
    /// # Errors
    ///
    /// [`BusError`] says which device is one too many.
    pub fn new(
        guest: Arc<dyn Requests>,
        devices: Vec<Box<dyn Device>>,
    ) -> Result<Self, BusError> {
        if devices.len() > LGUEST_MAX_DEVICES {
            return Err(BusError::TooManyDevices(devices.len()));
        }
        let memory = guest.memory();
        let mut next_page = memory.ram() + PAGE_SIZE;
        let mut slots = Vec::with_capacity(devices.len());
        for (index, mut device) in (0_u8..).zip(devices) {
            let description = device.description();
            let pages = u32::from(description.num_pages);
            let place = Place {
                index,
                page: if pages == 0 { 0 } else { next_page },
                irq: device_irq(index),
            };
            next_page += pages << PAGE_SHIFT;
            let written = memory.write_object(
                descriptor(memory, index),
                &DeviceDescriptor {
                    kind: description.kind,
                    features: description.features,
                    status: 0,
                    num_pages: description.num_pages,
                    pfn: place.page >> PAGE_SHIFT,
                },
            );
            written.expect("every Guest has a descriptor page");
            device
                .place(Arc::clone(&guest), place)
                .map_err(|error| BusError::Place(index.into(), error))?;
            slots.push(Slot {
                device: Mutex::new(Some(device)),
                kind: description.kind,
                place,
                pages,
                removed: AtomicBool::new(false),
            });
        }
        Ok(Self { guest, slots })
    }

    /// Pages of devices that lie in other files than the Guest's memory, for
    /// LHREQ_INITIALIZE.
    ///
    /// # Errors
    ///
    /// What the kernel says when there is no descriptor left.
    pub fn shared_pages(&self) -> io::Result<Vec<SharedPage>> {
        let mut pages = Vec::new();
        for slot in &self.slots {
            let device = slot.lock();
            if let Some(files) = device.as_ref().and_then(|d| d.shared_page()) {
                pages.push(SharedPage {
                    pfn: slot.place.page >> PAGE_SHIFT,
                    file: files.page.try_clone_to_owned()?,
                    outbox: files.outbox.try_clone_to_owned()?,
                });
            }
        }
        Ok(pages)
    }

    /// The Guest sends `dma` to `key`. May block. Answers what belongs into
    /// `used_len`; `None` if that key is nobody's (somebody may just have left
    /// a network), and then `used_len` stays as it is.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_output(
        &self,
        dma: u32,
        key: u32,
    ) -> Result<Option<u32>, Violation> {
        let Some(slot) = self.slots.iter().find(|slot| slot.hears(key)) else {
            return Ok(None);
        };
        if slot.removed.load(Ordering::SeqCst) {
            return Ok(Some(0));
        }
        let mut device = slot.lock();
        let Some(open) = device.as_mut() else {
            return Ok(Some(0));
        };
        let used_len = open.handle_output(dma, key)?;
        let slow = open.slow_output();
        drop(device);
        if let Some(slow) = slow {
            slow();
        }
        Ok(Some(used_len))
    }

    /// There may be input for the device at `index`.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_input(&self, index: usize) -> Result<Readiness, Violation> {
        let Some(slot) = self.slots.get(index) else {
            return Ok(Readiness::Closed);
        };
        if slot.removed.load(Ordering::SeqCst) {
            return Ok(Readiness::Closed);
        }
        match slot.lock().as_mut() {
            Some(device) => device.handle_input(),
            None => Ok(Readiness::Closed),
        }
    }

    /// The files to watch, each with the index of its device.
    ///
    /// # Errors
    ///
    /// What the kernel says when there is no descriptor left.
    pub fn inputs(&self) -> io::Result<Vec<(usize, OwnedFd)>> {
        let mut inputs = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let device = slot.lock();
            if let Some(input) = device.as_ref().and_then(|d| d.input()) {
                inputs.push((index, input.try_clone_to_owned()?));
            }
        }
        Ok(inputs)
    }

    /// Takes a device away from the running Guest: the descriptor says so, an
    /// interrupt makes the driver look, and from now on output to it goes
    /// nowhere. The driver answers when it likes: [`Self::is_let_go`].
    pub fn remove(&self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        slot.removed.store(true, Ordering::SeqCst);
        let status = descriptor(self.memory(), slot.place.index)
            + DeviceDescriptor::STATUS_OFFSET;
        let set = self.memory().set_bits(status, LGUEST_DEVICE_S_REMOVED);
        set.expect("every Guest has a descriptor page");
        // A dead Guest has nobody left to tell.
        let _ = self.guest.irq(slot.place.irq);
    }

    /// Whether the driver of a removed device has let go of it. Then what
    /// stood behind the device (a file, its lock) has gone, too; until then a
    /// disk may still be busy for a Guest that relies on it.
    #[must_use]
    pub fn is_let_go(&self, index: usize) -> bool {
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        let status = self.descriptor(index).map_or(0, |d| d.status);
        let let_go = slot.removed.load(Ordering::SeqCst)
            && status & LGUEST_DEVICE_S_REMOVED_ACK != 0;
        if let_go {
            slot.lock().take();
        }
        let_go
    }

    /// The descriptor at `index` as it stands now.
    #[must_use]
    pub fn descriptor(&self, index: usize) -> Option<DeviceDescriptor> {
        let place = self.slots.get(index)?.place;
        let memory = self.memory();
        memory.read_object(descriptor(memory, place.index)).ok()
    }

    /// The Guest has done something: it may have bound buffers.
    pub fn buffers_changed(&self) {
        for slot in &self.slots {
            // Nobody else has anything to do then, and this happens often.
            if slot.kind == LGUEST_DEVICE_T_NET
                && let Some(device) = slot.lock().as_mut()
            {
                device.buffers_changed();
            }
        }
    }

    /// What has been done to a device from outside, of which the Guest must
    /// die.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| {
            let device = slot.device.try_lock().ok()?;
            device.as_ref()?.damage()
        })
    }

    /// Ends all devices, waits until what they have begun is done, and answers
    /// what each has done, with its type. One that is at work in another
    /// thread is left alone: that is a console whose input somebody else took,
    /// and it has nothing to finish.
    #[must_use]
    pub fn finish(&self) -> Vec<(u16, Vec<(&'static str, u64)>)> {
        let end = |slot: &Slot| {
            let device = slot.device.try_lock().ok().and_then(|mut d| d.take());
            let counters = device.map(|mut device| {
                device.finish();
                device.counters()
            });
            (slot.kind, counters.unwrap_or_default())
        };
        self.slots.iter().map(end).collect()
    }

    fn memory(&self) -> &GuestMemory {
        self.guest.memory()
    }
}

impl Slot {
    /// Whether output to `key` is for this device.
    fn hears(&self, key: u32) -> bool {
        if self.pages == 0 {
            return self.kind == LGUEST_DEVICE_T_CONSOLE
                && key == LGUEST_CONSOLE_DMA_KEY;
        }
        let page = key.wrapping_sub(self.place.page) >> PAGE_SHIFT;
        key >= self.place.page && page < self.pages
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Box<dyn Device>>> {
        // Who panicked with the lock has ended the Launcher already.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The physical address of descriptor `index`.
fn descriptor(memory: &GuestMemory, index: u8) -> u32 {
    memory.ram() + u32::from(index) * DeviceDescriptor::SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::scripted;
    use crate::devices::{Description, Device};
    use crate::engine::{Native, Scripted};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Tells where it was placed and what was sent to it.
    struct Probe(u16, u16, Sender<(Place, u32)>, Option<Place>);

    impl Device for Probe {
        fn description(&self) -> Description {
            Description {
                kind: self.0,
                features: 0x8001,
                num_pages: self.1,
            }
        }

        fn place(
            &mut self,
            _: Arc<dyn Requests>,
            place: Place,
        ) -> io::Result<()> {
            self.3 = Some(place);
            Ok(())
        }

        fn handle_output(
            &mut self,
            _: u32,
            key: u32,
        ) -> Result<u32, Violation> {
            self.2.send((self.3.unwrap(), key)).unwrap();
            Ok(7)
        }
    }

    fn bus(
        kinds: &[(u16, u16)],
    ) -> (Arc<Scripted>, Bus, Receiver<(Place, u32)>) {
        let guest = scripted();
        let (sent, got) = channel();
        let devices = kinds
            .iter()
            .map(|&(kind, pages)| -> Box<dyn Device> {
                Box::new(Probe(kind, pages, sent.clone(), None))
            })
            .collect::<Vec<_>>();
        let bus = Bus::new(guest.clone(), devices).unwrap();
        (guest, bus, got)
    }

    #[test]
    fn devices_stand_in_order_each_with_its_page() {
        let (guest, bus, _) = bus(&[(3, 1), (2, 1), (1, 0)]);
        let found: Vec<_> =
            (0..3).map(|i| bus.descriptor(i).unwrap()).collect();
        let kinds: Vec<_> = found.iter().map(|d| (d.kind, d.pfn)).collect();
        assert_eq!(kinds, [(3, 17), (2, 18), (1, 0)]);
        assert_eq!(found[0].features, 0x8001);
        // Behind the last one there is none.
        assert_eq!(guest.word(0x1_0000 + 3 * 12), 0);
    }

    #[test]
    fn output_goes_to_whose_page_holds_the_key() {
        let (_guest, bus, got) = bus(&[(3, 1), (2, 1), (1, 0)]);
        assert_eq!(bus.handle_output(0, 0x1_2FFC), Ok(Some(7)));
        assert_eq!(got.recv().unwrap().0.index, 1);
        assert_eq!(bus.handle_output(0, 0x1_1000), Ok(Some(7)));
        assert_eq!(got.recv().unwrap().0.irq, 1);
        assert_eq!(bus.handle_output(0, 0), Ok(Some(7)));
        assert_eq!(got.recv().unwrap().0.index, 2);
        // The descriptor page, RAM and what lies above are nobody's.
        for key in [0x1_0000, 4, 0x1_3000, 0xFFFF_FFFC] {
            assert_eq!(bus.handle_output(0, key), Ok(None));
        }
    }

    #[test]
    fn a_removed_device_says_so_and_hears_nothing_more() {
        let (guest, bus, got) = bus(&[(3, 1), (2, 1)]);
        bus.remove(1);
        assert_eq!(guest.wait_irq(), Some(2));
        let status = 0x1_0000 + 12 + DeviceDescriptor::STATUS_OFFSET;
        assert_eq!(guest.memory().read_object::<u16>(status), Ok(8));
        assert_eq!(bus.handle_output(0, 0x1_2000), Ok(Some(0)));
        assert_eq!(bus.handle_input(1), Ok(Readiness::Closed));
        assert!(got.try_recv().is_err());
        assert!(!bus.is_let_go(1));
        guest.memory().set_bits(status, 16).unwrap();
        assert!(bus.is_let_go(1));
        // A device that is there cannot be let go of.
        guest.memory().set_bits(0x1_0004, 16).unwrap();
        assert!(!bus.is_let_go(0));
        assert_eq!(bus.handle_output(0, 0x1_1000), Ok(Some(7)));
    }

    #[test]
    fn the_descriptor_page_takes_sixteen() {
        let guest = Native::new(GuestMemory::new(0x1_0000, 20).unwrap());
        let (sent, _got) = channel();
        let devices = |n: usize| -> Vec<Box<dyn Device>> {
            let probe = |_| Probe(3, 1, sent.clone(), None);
            (0..n).map(probe).map(|p| Box::new(p) as _).collect()
        };
        assert_eq!(pages_above_ram(&devices(16)), 17);
        assert!(Bus::new(guest.clone(), devices(16)).is_ok());
        assert!(Bus::new(guest, devices(17)).is_err());
    }
}
