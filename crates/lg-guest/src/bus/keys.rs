//! The bus of 2007: sixteen descriptors in a page just above the memory.
//!
//! The Host takes a device away by setting REMOVED in its status. The Guest
//! does not poll for that, because an idle Guest sleeps. It checks before each
//! new request and at each interrupt of the device. The Host should raise that
//! for an urgent removal. The Guest then sets REMOVED_ACK, later requests fail,
//! and tasks that wait for the device are woken. Bits are set there and never
//! cleared.

#![expect(unsafe_code, reason = "the descriptor page is the Host's, too")]

use super::{Device, DeviceError, Kind};
use crate::boot::Boot;
use crate::frame::Phys;
use crate::paging;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU16, Ordering};
use lg_abi::device::{
    DeviceDescriptor, LGUEST_DEVICE_S_REMOVED, LGUEST_DEVICE_S_REMOVED_ACK,
    LGUEST_DEVICE_T_BLOCK, LGUEST_DEVICE_T_CONSOLE, LGUEST_DEVICE_T_NET,
    LGUEST_DEVICE_T_NONE, LGUEST_MAX_DEVICES,
};
use lg_abi::page::PAGE_SHIFT;

/// The descriptor page, once it is mapped. As atomics: the Host may set bits of
/// `status` while we do.
static DESCRIPTORS: AtomicPtr<DeviceDescriptor> =
    AtomicPtr::new(core::ptr::null_mut());

/// What a descriptor says besides the type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    features: u16,
    num_pages: u16,
    pfn: u32,
}

/// Maps the descriptors and lists the devices.
pub(super) fn scan(boot: &Boot) -> Vec<Device> {
    let Some(page) = paging::map_device(boot.descriptor_pfn(), 1) else {
        return Vec::new();
    };
    DESCRIPTORS.store(page.cast(), Ordering::Release);
    let mut found = Vec::new();
    for index in (0..).take(LGUEST_MAX_DEVICES) {
        // SAFETY: sixteen descriptors are in that page, now mapped.
        let at = unsafe { page.cast::<DeviceDescriptor>().add(index.into()) };
        // SAFETY: the Host changes nothing but the status, which is not used
        // from this copy.
        let descriptor = unsafe { at.read_volatile() };
        let kind = match descriptor.kind {
            LGUEST_DEVICE_T_NONE => continue,
            LGUEST_DEVICE_T_CONSOLE => Kind::Console,
            LGUEST_DEVICE_T_NET => Kind::Net,
            LGUEST_DEVICE_T_BLOCK => Kind::Block,
            _ => Kind::Unknown,
        };
        let place = super::Place::Keys(Place {
            features: descriptor.features,
            num_pages: descriptor.num_pages,
            pfn: descriptor.pfn,
        });
        found.push(Device { index, kind, place });
    }
    found
}

/// The status word of the device at `index`, if the page is mapped.
fn status(index: u8) -> Option<&'static AtomicU16> {
    let page = DESCRIPTORS.load(Ordering::Acquire);
    if page.is_null() || usize::from(index) >= LGUEST_MAX_DEVICES {
        return None;
    }
    // SAFETY: inside the page, which stays mapped.
    let descriptor = unsafe { page.add(index.into()) };
    // SAFETY: as above; only the address is taken.
    let status = unsafe { &raw mut (*descriptor).status };
    // SAFETY: aligned, valid for good, and used only as an atomic.
    Some(unsafe { AtomicU16::from_ptr(status) })
}

/// The status of the device at `index`, as it is now.
pub(super) fn status_of(index: u8) -> u16 {
    status(index).map_or(0, |status| status.load(Ordering::Acquire))
}

/// Sets bits of it.
pub(super) fn set_status(index: u8, bits: u16) {
    if let Some(status) = status(index) {
        status.fetch_or(bits, Ordering::AcqRel);
    }
}

/// Interrupt `irq` has come: the Host may have taken its device away.
pub(super) fn interrupt(irq: u8) {
    if let Some(status) = irq.checked_sub(1).and_then(status) {
        acknowledge_removal(status);
    }
}

/// Checks that the device at `index` is still there.
pub(super) fn check(index: u8) -> Result<(), DeviceError> {
    if status(index).is_some_and(acknowledge_removal) {
        return Err(DeviceError::Removed);
    }
    Ok(())
}

/// Whether the device was taken away. If so, acknowledges that.
fn acknowledge_removal(status: &AtomicU16) -> bool {
    let removed = status.load(Ordering::Acquire) & LGUEST_DEVICE_S_REMOVED != 0;
    if removed {
        status.fetch_or(LGUEST_DEVICE_S_REMOVED_ACK, Ordering::AcqRel);
    }
    removed
}

impl Place {
    /// `LGUEST_DEVICE_F_*` and what depends on the type.
    pub(crate) const fn features(&self) -> u16 {
        self.features
    }

    /// Where its pages begin: the first of its keys.
    pub(crate) const fn phys(&self) -> Phys {
        Phys(self.pfn << PAGE_SHIFT)
    }

    /// How many pages it has.
    pub(crate) const fn num_pages(&self) -> u16 {
        self.num_pages
    }

    /// Maps its pages.
    pub(crate) fn map(&self) -> Result<*mut u8, DeviceError> {
        if self.num_pages == 0 {
            return Err(DeviceError::Failed);
        }
        paging::map_device(self.pfn, self.num_pages.into())
            .ok_or(DeviceError::OutOfMemory)
    }
}
