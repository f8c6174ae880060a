//! The bus of lguest since Linux 2.6.25: descriptors of virtio devices.
//!
//! The page just above the memory has the descriptors, one behind the other; a
//! type of 0 ends them. Each names the rings of its virtqueues. The Guest
//! writes the status and the features that it accepts into the descriptor, and
//! notifies the Host of the descriptor's address.

#![expect(unsafe_code, reason = "the descriptor page is the Host's, too")]

use super::{Device, DeviceError, Kind};
use crate::boot::Boot;
use crate::frame::Phys;
use crate::virtqueue::{self, Described, Doorbell};
use crate::{hcall, paging};
use alloc::vec::Vec;
use lg_abi::gen2::device::{DESCRIPTOR_SIZE, Descriptor, STATUS};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};

/// Bytes of a virtqueue's description: size, interrupt, page number.
const QUEUE: u32 = 8;

/// A descriptor: where it is, and what its beginning says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// In the page of descriptors.
    at: u32,
    /// That page.
    page: Page,
    head: Descriptor,
}

/// The page of descriptors: its virtual and its physical address.
#[derive(Clone, Copy, Debug)]
struct Page {
    mapped: *mut u8,
    at: Phys,
}

impl Page {
    fn byte(&self, at: u32) -> *mut u8 {
        assert!(at < PAGE_SIZE, "a descriptor is in one page");
        // SAFETY: inside the page, which stays mapped.
        unsafe { self.mapped.add(at as usize) }
    }

    fn read(&self, at: u32) -> u8 {
        // SAFETY: valid; the Host writes nothing there that matters now.
        unsafe { self.byte(at).read_volatile() }
    }

    fn write(&self, at: u32, byte: u8) {
        // SAFETY: valid, and no reference to it exists.
        unsafe { self.byte(at).write_volatile(byte) }
    }

    /// A little-endian number of up to eight bytes.
    fn number(&self, at: u32, bytes: u32) -> u64 {
        let bytes = (at..at + bytes).rev();
        bytes.fold(0, |number, at| (number << 8) | u64::from(self.read(at)))
    }
}

/// Maps the descriptors and lists the devices.
pub(super) fn scan(boot: &Boot) -> Vec<Device> {
    let pfn = boot.descriptor_pfn();
    let Some(mapped) = paging::map_device(pfn, 1) else {
        return Vec::new();
    };
    let page = Page {
        mapped,
        at: Phys(pfn << PAGE_SHIFT),
    };
    let mut found = Vec::new();
    let mut at = 0;
    for index in 0.. {
        if at + DESCRIPTOR_SIZE > PAGE_SIZE || page.read(at) == 0 {
            break;
        }
        let field = |n| page.read(at + n);
        let head = Descriptor {
            kind: field(0),
            num_vq: field(1),
            feature_len: field(2),
            config_len: field(3),
            status: field(STATUS),
        };
        let kind = Kind::of_virtio(head.kind);
        let place = Place { at, page, head };
        at = place.config_at() + u32::from(head.config_len);
        let place = super::Place::Lguest(place);
        found.push(Device { index, kind, place });
    }
    found
}

impl Place {
    fn features_at(&self) -> u32 {
        self.at + DESCRIPTOR_SIZE + QUEUE * u32::from(self.head.num_vq)
    }

    fn config_at(&self) -> u32 {
        self.features_at() + 2 * u32::from(self.head.feature_len)
    }

    /// The first 32 features that it offers.
    pub(crate) fn features(&self) -> u32 {
        let bytes = u32::from(self.head.feature_len).min(4);
        let features = self.page.number(self.features_at(), bytes);
        u32::try_from(features).unwrap_or(u32::MAX)
    }

    /// Accepts those of `wanted` that are offered. Returns them.
    pub(crate) fn accept(&self, wanted: u32) -> u32 {
        let accepted = self.features() & wanted;
        let at = self.features_at() + u32::from(self.head.feature_len);
        let bytes = accepted.to_le_bytes();
        let bytes = bytes.iter().take(self.head.feature_len.into());
        for (at, &byte) in (at..).zip(bytes) {
            self.page.write(at, byte);
        }
        accepted
    }

    /// A number in its configuration, of up to eight bytes.
    pub(crate) fn config(&self, offset: u32, bytes: u32) -> Option<u64> {
        let inside = offset + bytes <= self.head.config_len.into();
        inside.then(|| self.page.number(self.config_at() + offset, bytes))
    }

    /// Its virtqueue `index`.
    pub(crate) fn queue(&self, index: u8) -> Result<Described, DeviceError> {
        if index >= self.head.num_vq {
            return Err(DeviceError::Failed);
        }
        let at = self.at + DESCRIPTOR_SIZE + QUEUE * u32::from(index);
        let number = |offset, bytes| self.page.number(at + offset, bytes);
        let failed = |_| DeviceError::Failed;
        let pfn = u32::try_from(number(4, 4)).map_err(failed)?;
        Ok(Described {
            ring: Phys(pfn << PAGE_SHIFT),
            doorbell: Doorbell::Notify,
            size: u16::try_from(number(0, 2)).map_err(failed)?,
            irq: u8::try_from(number(2, 2)).map_err(failed)?,
        })
    }

    /// Its status, as it is now.
    pub(crate) fn status(&self) -> u8 {
        self.page.read(self.at + STATUS)
    }

    /// Sets bits of it, and reports that.
    pub(crate) fn set_status(&self, bits: u8) {
        self.page.write(self.at + STATUS, self.status() | bits);
        hcall::notify(Phys(self.page.at.0 + self.at));
    }

    /// The interrupt of its first virtqueue.
    pub(crate) fn irq(&self) -> u8 {
        self.queue(0).map_or(0, |queue| queue.irq)
    }

    /// Where its first ring is.
    pub(crate) fn phys(&self) -> Phys {
        self.queue(0).map_or(Phys(0), |queue| queue.ring)
    }

    /// Pages of its rings.
    pub(crate) fn num_pages(&self) -> u16 {
        let queues = (0..self.head.num_vq).filter_map(|n| self.queue(n).ok());
        let pages = queues.map(|queue| virtqueue::pages(queue.size));
        u16::try_from(pages.sum::<u32>()).unwrap_or(u16::MAX)
    }
}
