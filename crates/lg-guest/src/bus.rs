//! The bus: finding the devices, and reporting their status to the Host.
//!
//! Just above the memory lies a page with sixteen descriptors. Each device's
//! status is a word in its descriptor. We set bits in it and never clear one:
//! seen, driver found, driver ready or failed.
//!
//! The Host takes a device away by setting REMOVED there. The Guest does not
//! poll for that, because an idle Guest sleeps. It checks before each new
//! request and at each interrupt of the device. The Host should raise that for
//! an urgent removal. The Guest then sets REMOVED_ACK, later requests fail, and
//! tasks that wait for the device are woken.

#![expect(unsafe_code, reason = "the descriptor page is the Host's, too")]

use crate::boot::Boot;
use crate::frame::Phys;
use crate::paging;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU16, Ordering};
use lg_abi::device::{
    DeviceDescriptor, LGUEST_DEVICE_S_ACKNOWLEDGE, LGUEST_DEVICE_S_DRIVER,
    LGUEST_DEVICE_S_DRIVER_OK, LGUEST_DEVICE_S_FAILED, LGUEST_DEVICE_S_REMOVED,
    LGUEST_DEVICE_S_REMOVED_ACK, LGUEST_DEVICE_T_BLOCK,
    LGUEST_DEVICE_T_CONSOLE, LGUEST_DEVICE_T_NET, LGUEST_DEVICE_T_NONE,
    LGUEST_MAX_DEVICES, device_irq,
};
use lg_abi::page::PAGE_SHIFT;

/// The descriptor page, once it is mapped. As atomics: the Host may set bits of
/// `status` while we do.
static DESCRIPTORS: AtomicPtr<DeviceDescriptor> =
    AtomicPtr::new(core::ptr::null_mut());

/// A device on the bus.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    index: u8,
    kind: u16,
    features: u16,
    num_pages: u16,
    pfn: u32,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The Host has taken it away.
    Removed,
    /// It does not work as the interface says.
    Failed,
    /// There was no memory for its driver.
    OutOfMemory,
}

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Removed => "the device has been removed",
            Self::Failed => "the device has failed",
            Self::OutOfMemory => "no memory for the driver",
        })
    }
}

/// Maps the descriptors and lists the devices, marking each as seen.
pub fn scan(boot: &Boot) -> Vec<Device> {
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
        if descriptor.kind == LGUEST_DEVICE_T_NONE {
            continue;
        }
        let device = Device {
            index,
            kind: descriptor.kind,
            features: descriptor.features,
            num_pages: descriptor.num_pages,
            pfn: descriptor.pfn,
        };
        device.set_status(LGUEST_DEVICE_S_ACKNOWLEDGE);
        found.push(device);
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

/// Interrupt `irq` has come: the Host may have taken its device away.
pub(crate) fn interrupt(irq: u8) {
    if let Some(status) = irq.checked_sub(1).and_then(status) {
        acknowledge_removal(status);
    }
}

/// Whether the device was taken away. If so, acknowledges that.
fn acknowledge_removal(status: &AtomicU16) -> bool {
    let removed = status.load(Ordering::Acquire) & LGUEST_DEVICE_S_REMOVED != 0;
    if removed {
        status.fetch_or(LGUEST_DEVICE_S_REMOVED_ACK, Ordering::AcqRel);
    }
    removed
}

impl Device {
    /// Its place in the descriptor page.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// `LGUEST_DEVICE_T_*`.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        self.kind
    }

    /// The name of its type.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kind {
            LGUEST_DEVICE_T_CONSOLE => "console",
            LGUEST_DEVICE_T_NET => "net",
            LGUEST_DEVICE_T_BLOCK => "block",
            _ => "unknown",
        }
    }

    /// `LGUEST_DEVICE_F_*` and what depends on the type.
    #[must_use]
    pub const fn features(&self) -> u16 {
        self.features
    }

    /// `LGUEST_DEVICE_S_*`, as they are now.
    #[must_use]
    pub fn status(&self) -> u16 {
        status(self.index).map_or(0, |status| status.load(Ordering::Acquire))
    }

    fn set_status(&self, bits: u16) {
        if let Some(status) = status(self.index) {
            status.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Its interrupt.
    #[must_use]
    pub const fn irq(&self) -> u8 {
        device_irq(self.index)
    }

    /// Number of its first page.
    #[must_use]
    pub const fn pfn(&self) -> u32 {
        self.pfn
    }

    /// Where its pages begin: the first of its keys.
    #[must_use]
    pub const fn phys(&self) -> Phys {
        Phys(self.pfn << PAGE_SHIFT)
    }

    /// How many pages it has.
    #[must_use]
    pub const fn num_pages(&self) -> u16 {
        self.num_pages
    }

    /// Maps its pages.
    ///
    /// # Errors
    ///
    /// It has none, or there is no room.
    pub fn map(&self) -> Result<*mut u8, DeviceError> {
        if self.num_pages == 0 {
            return Err(DeviceError::Failed);
        }
        paging::map_device(self.pfn, self.num_pages.into())
            .ok_or(DeviceError::OutOfMemory)
    }

    /// Makes its driver by `probe`, and sets the status to the result.
    ///
    /// # Errors
    ///
    /// Those of `probe`, or that the device has been taken away already.
    pub fn start<D>(
        &self,
        probe: impl FnOnce(Self) -> Result<D, DeviceError>,
    ) -> Result<D, DeviceError> {
        self.check()?;
        self.set_status(LGUEST_DEVICE_S_DRIVER);
        let driver = probe(*self);
        self.set_status(match driver {
            Ok(_) => LGUEST_DEVICE_S_DRIVER_OK,
            Err(_) => LGUEST_DEVICE_S_FAILED,
        });
        driver
    }

    /// Checks, before each request, that the device is still there.
    ///
    /// # Errors
    ///
    /// The Host has taken it away.
    pub fn check(&self) -> Result<(), DeviceError> {
        if status(self.index).is_some_and(acknowledge_removal) {
            return Err(DeviceError::Removed);
        }
        Ok(())
    }
}
