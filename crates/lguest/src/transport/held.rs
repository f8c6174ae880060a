//! A device in its place on a bus, until it is removed.
//!
//! Any thread may use a bus, so each device has a lock. What is the same on the
//! bus of every transport is here: input, the end, and the state.

use super::TakeInput;
use super::device::{BusDevice, Detached, DeviceState};
use crate::devices::{NamedCounts, Readiness, RestoreError, Violation};
use crate::lock::lock;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

/// A device with its lock. `None` after it was removed.
pub(super) struct Held<D: ?Sized>(Mutex<Option<Box<D>>>);

impl<D: BusDevice + ?Sized> Held<D> {
    pub(super) fn new(device: Box<D>) -> Self {
        Self(Mutex::new(Some(device)))
    }

    /// The device. Blocks while another thread uses it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Box<D>>> {
        lock(&self.0)
    }

    /// Calls `ask` with the device. `None` also if the device was removed or
    /// another thread is using it.
    pub(super) fn try_with<T>(
        &self,
        ask: impl FnOnce(&D) -> Option<T>,
    ) -> Option<T> {
        ask(self.0.try_lock().ok()?.as_deref()?)
    }

    pub(super) fn handle_input(&self) -> Result<Readiness, Violation> {
        match self.lock().as_mut() {
            Some(device) => device.handle_input(),
            None => Ok(Readiness::Closed),
        }
    }

    /// Takes away what is behind the device. Returns whether that was done. May
    /// block.
    pub(super) fn detach(&self) -> bool {
        let mut device = self.lock();
        let detached = device.as_mut().map(|held| held.device().detach());
        match detached {
            None | Some(Detached::Not) => return false,
            Some(Detached::Stays) => {}
            Some(Detached::Leaves(rest)) => {
                // Without the lock, for which a thread of it may wait.
                drop(device);
                drop(rest);
            }
            Some(Detached::Drops) => *device = None,
        }
        true
    }

    /// The file to watch, if there is one.
    fn input(&self) -> io::Result<Option<OwnedFd>> {
        let mut device = self.lock();
        let input = device.as_mut().and_then(|d| d.device().input());
        input.map(|file| file.try_clone_to_owned()).transpose()
    }

    /// Ends the device, unless another thread is using it. Returns its counts.
    /// May block.
    pub(super) fn finish(&self) -> NamedCounts {
        let device = self.0.try_lock().ok().and_then(|mut d| d.take());
        let counters = device.map(|mut device| {
            let device = device.device();
            device.finish();
            device.counters()
        });
        counters.unwrap_or_default()
    }

    /// Its counts, unless another thread is using the device.
    pub(super) fn counters(&self) -> NamedCounts {
        let mut device = self.0.try_lock().ok();
        let device = device.as_mut().and_then(|device| device.as_mut());
        device.map(|d| d.device().counters()).unwrap_or_default()
    }

    /// The state; `None` if the device was removed. May block.
    pub(super) fn state(&self) -> Option<DeviceState> {
        self.lock().as_mut().map(|device| device.device().state())
    }

    /// Goes on with `state`. If `state` has no device, because it was removed,
    /// this device is removed, too.
    pub(super) fn restore(
        &self,
        state: Option<&DeviceState>,
    ) -> Result<(), RestoreError> {
        let mut device = self.lock();
        match (device.as_mut(), state) {
            (Some(device), Some(state)) => device.device().restore(state)?,
            (_, None) => *device = None,
            (None, Some(_)) => {}
        }
        Ok(())
    }
}

/// The index of the `nth` of `names` that is `name`.
pub(super) fn find_nth<'n>(
    mut names: impl Iterator<Item = &'n str>,
    name: &str,
    nth: usize,
) -> Option<usize> {
    let mut before = 0;
    names.position(|other| {
        let same = other == name;
        before += usize::from(same);
        same && before == nth + 1
    })
}

/// Gives each device what `take` makes for its index.
pub(super) fn let_take<'d, D: BusDevice + ?Sized + 'd>(
    devices: impl Iterator<Item = &'d Held<D>>,
    take: &dyn Fn(usize) -> TakeInput,
) {
    for (index, device) in devices.enumerate() {
        if let Some(device) = device.lock().as_mut() {
            device.let_take(take(index));
        }
    }
}

/// The files to watch, each with the index of its device.
pub(super) fn inputs<'d, D: BusDevice + ?Sized + 'd>(
    devices: impl Iterator<Item = &'d Held<D>>,
) -> io::Result<Vec<(usize, OwnedFd)>> {
    let inputs = devices.enumerate().filter_map(|(index, device)| {
        let input = device.input().transpose()?;
        Some(input.map(|file| (index, file)))
    });
    inputs.collect()
}

/// Refuses the state of a bus with another number of devices.
pub(super) fn same_number(
    theirs: usize,
    ours: usize,
) -> Result<(), RestoreError> {
    if theirs == ours {
        return Ok(());
    }
    let text = format!("it has {theirs} devices, and this has {ours}");
    Err(RestoreError::Other(text))
}

#[cfg(test)]
mod tests {
    use super::find_nth;

    #[test]
    fn devices_of_a_kind_are_counted() {
        let find = |name, nth| {
            let names = ["random", "block", "net", "block"];
            find_nth(names.into_iter(), name, nth)
        };
        assert_eq!(find("block", 0), Some(1));
        assert_eq!(find("block", 1), Some(3));
        assert_eq!(find("block", 2), None);
        assert_eq!(find("share", 0), None);
    }
}
