//! A PCI bus: virtio 1.0 devices, each with an interrupt and registers.
//!
//! The Host answers for the configuration spaces and for the reason of an
//! interrupt. What reaches this file are the other registers of a device: the
//! common ones ([`common`]), the notification of a queue, and those that depend
//! on the type of the device (virtio 1.0, section 4.1; docs/abi.md, section
//! 10).

mod common;

use super::device::{VirtioDevice, begin, notified, reset};
use super::queue::{Queue, QueueState};
use super::ring::Place;
use crate::devices::console::Screen;
use crate::devices::{
    NamedCounts, Readiness, RestoreError, Saved, Versioned, Violation,
};
use crate::engine::{DeviceAccess, Requests, SharedPage};
use crate::lock::lock;
use crate::transport::held::{Held, find_nth, inputs, let_take, same_number};
use crate::transport::{
    DeviceState, Notified, TakeInput, TerminalSize, Transport, TransportState,
};
use common::{Change, Common, part};
use lg_abi::gen2::device::{CONSOLE_SIZE, NET_STATUS, NET_STATUS_AT, TYPE_NET};
use lg_abi::gen3::pci::{Device, MAX_DEVICES};
use lg_abi::gen3::registers::{self, EMERGENCY_WRITE, FEATURE_VERSION_1};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// All devices of a Guest. Any thread may use it; each device has a lock.
pub struct PciBus {
    functions: Vec<Function>,
    screen: Arc<Screen>,
}

/// A device in its slot.
struct Function {
    device: Held<dyn VirtioDevice>,
    /// As in its configuration space.
    described: Device,
    /// For the statistics.
    name: &'static str,
    is_terminal: bool,
    /// The registers that depend on its type.
    config: Mutex<Vec<u8>>,
    /// The link is up again when the driver has read that it is down.
    link_returns: AtomicBool,
    /// The interrupt of its slot.
    irq: u8,
    guest: Arc<dyn Requests>,
    common: Mutex<Common>,
    queues: Vec<Queue>,
}

/// The devices cannot be put on a bus.
#[derive(Debug, thiserror::Error)]
pub enum PciBusError {
    /// There are not enough interrupts.
    #[error(
        "{0} devices need an interrupt each, and this kernel has \
         {MAX_DEVICES}: leave some out"
    )]
    TooMany(usize),
    /// A device lacks something.
    #[error("cannot start a device: {0}")]
    Device(#[from] io::Error),
}

/// What the Host needs to know of these devices, in this order.
#[must_use]
pub fn describe(devices: &[Box<dyn VirtioDevice>]) -> Vec<Device> {
    devices.iter().map(|device| described(&**device)).collect()
}

fn described(device: &dyn VirtioDevice) -> Device {
    let config_bytes = u8::try_from(config(device).len());
    Device {
        kind: device.kind(),
        config_bytes: config_bytes.expect("a configuration is short"),
    }
}

/// The registers that depend on the type of a device.
fn config(device: &dyn VirtioDevice) -> Vec<u8> {
    let mut config = device.config();
    if device.is_terminal() {
        config.resize(registers::CONSOLE_BYTES.into(), 0);
    }
    if device.kind() == TYPE_NET {
        let least = NET_STATUS_AT + LINK_IS_UP.len();
        config.resize(config.len().max(least), 0);
        put_link(&mut config, device.is_linked());
    }
    config
}

/// The status of a network whose link is up.
const LINK_IS_UP: [u8; 2] = [1, 0];

/// Writes the status of a network into its registers.
fn put_link(config: &mut [u8], up: bool) {
    let status = if up { LINK_IS_UP } else { [0, 0] };
    if let Some(at) = config.get_mut(NET_STATUS_AT..NET_STATUS_AT + 2) {
        at.copy_from_slice(&status);
    }
}

/// What a device offers on this bus.
fn features(device: &dyn VirtioDevice) -> u64 {
    let more = match device.kind() {
        _ if device.is_terminal() => registers::CONSOLE_HAS_EMERGENCY_WRITE,
        TYPE_NET => 1 << NET_STATUS,
        _ => 0,
    };
    u64::from(device.features() | more) | FEATURE_VERSION_1
}

impl PciBus {
    /// Puts `devices` on a bus, in this order from slot 1 on. `guest` must not
    /// have run yet. `screen` shows what the early console prints.
    ///
    /// # Errors
    ///
    /// [`PciBusError`] if there are too many.
    pub fn new(
        guest: &Arc<dyn Requests>,
        devices: Vec<Box<dyn VirtioDevice>>,
        screen: Arc<Screen>,
    ) -> Result<Self, PciBusError> {
        if devices.len() > MAX_DEVICES {
            return Err(PciBusError::TooMany(devices.len()));
        }
        let devices = (1..).zip(devices);
        let functions: io::Result<_> = devices
            .map(|(slot, device)| Function::new(guest, slot, device))
            .collect();
        Ok(Self {
            functions: functions?,
            screen,
        })
    }

    /// The state of the bus and of all devices. The Guest must stand still. Its
    /// memory and its interrupts are saved afterwards, because disks finish
    /// their requests first. May block.
    #[must_use]
    pub fn state(&self) -> Versioned<PciBusState> {
        let state = |function: &Function| {
            // The device comes before its queues, because it may answer chains.
            let device = function.device.state();
            let queues = function.queues.iter().map(Queue::state).collect();
            let common = lock(&function.common).clone();
            FunctionState {
                device,
                common,
                queues,
            }
        };
        let functions = self.functions.iter().map(state).collect();
        PciBusState { functions }.versioned()
    }

    /// Goes on with `state`, which was taken of a bus with the same devices. To
    /// be called once at most, before the Guest runs.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then the bus cannot be used any more.
    pub fn restore(
        &self,
        state: &Versioned<PciBusState>,
    ) -> Result<(), RestoreError> {
        let PciBusState { functions } = state.known()?;
        same_number(functions.len(), self.functions.len())?;
        for (function, saved) in self.functions.iter().zip(functions) {
            function.check(saved)?;
        }
        for (function, saved) in self.functions.iter().zip(functions) {
            function.device.restore(saved.device.as_ref())?;
            let mut common = lock(&function.common);
            *common = saved.common.clone();
            for (index, (queue, saved)) in
                function.queues.iter().zip(&saved.queues).enumerate()
            {
                if let Some(place) = common.place(index) {
                    queue.put(place);
                }
                queue.restore(saved);
            }
            let accepted = common.accepted();
            drop(common);
            begin(&function.device, accepted, || {});
        }
        Ok(())
    }

    /// The device that an access is for.
    fn function(&self, access: DeviceAccess) -> Result<&Function, Violation> {
        let found = self.functions.get(access.device as usize);
        found.ok_or_else(|| {
            let text = format!("its Host asked for device {}", access.device);
            Violation(text)
        })
    }
}

impl Function {
    fn new(
        guest: &Arc<dyn Requests>,
        slot: u8,
        mut device: Box<dyn VirtioDevice>,
    ) -> io::Result<Self> {
        let nowhere = Place::of_generation_2(0);
        let queue =
            |_| Queue::new(guest.clone(), nowhere, slot, &registers::FORMATS);
        let queues: Vec<Queue> = (0..device.queues()).map(queue).collect();
        let described = described(&*device);
        let name = device.name();
        let is_terminal = device.is_terminal();
        let config = config(&*device);
        let common = Common::new(features(&*device), queues.len());
        device.place(queues.clone())?;
        Ok(Self {
            device: Held::new(device),
            described,
            name,
            is_terminal,
            config: Mutex::new(config),
            link_returns: AtomicBool::new(false),
            irq: slot,
            guest: guest.clone(),
            common: Mutex::new(common),
            queues,
        })
    }

    /// Whether `saved` can be a state of this device: it may be made up.
    fn check(&self, saved: &FunctionState) -> Result<(), RestoreError> {
        let fits = saved.queues.len() == self.queues.len()
            && lock(&self.common).is_like(&saved.common)
            && (self.queues.iter().enumerate()).all(|(index, queue)| {
                let place = saved.common.place(index);
                place.is_none_or(|p| p.is_in(queue.guest().memory()))
            });
        if fits {
            return Ok(());
        }
        let text = "its queues or features are not those of this device";
        Err(RestoreError::Other(text.to_owned()))
    }

    fn read(&self, offset: u32, bytes: u32) -> u32 {
        if offset < registers::COMMON_BYTES {
            return lock(&self.common).read(offset, bytes);
        }
        let at = offset.wrapping_sub(registers::DEVICE) as usize;
        let value = part(&lock(&self.config), at, bytes);
        if at == NET_STATUS_AT
            && self.link_returns.swap(false, Ordering::SeqCst)
        {
            // The driver has read that the link is down.
            put_link(&mut lock(&self.config), true);
            self.tell_change();
        }
        value
    }

    /// The interface is connected to something else than before, or to nothing.
    /// A driver that learns of changes finds the link down, and then up again,
    /// as if a cable had been moved.
    fn link_changed(&self) {
        if self.described.kind != TYPE_NET {
            return;
        }
        let device = self.device.lock();
        let up = device.as_ref().is_some_and(|device| device.is_linked());
        drop(device);
        let learns = lock(&self.common).accepted() & 1 << NET_STATUS != 0;
        put_link(&mut lock(&self.config), up && !learns);
        if learns {
            self.link_returns.store(up, Ordering::SeqCst);
            self.tell_change();
        }
    }

    /// Has the driver look at the registers.
    fn tell_change(&self) {
        // A dead Guest needs no interrupt.
        let _ = self.guest.config_changed(self.irq);
    }

    /// The terminal of the console has another size, or its driver is ready to
    /// learn the size.
    fn tell_size(&self) {
        let accepted = lock(&self.common).accepted();
        let has_size = lock(&self.config).iter().any(|&byte| byte != 0);
        let knows = accepted & 1 << CONSOLE_SIZE != 0;
        if self.is_terminal && knows && has_size {
            self.tell_change();
        }
    }

    fn resized(&self, size: TerminalSize) {
        if self.is_terminal {
            let words = [size.columns, size.rows].map(u16::to_le_bytes);
            let mut config = lock(&self.config);
            for (to, from) in config.iter_mut().zip(words.as_flattened()) {
                *to = *from;
            }
            drop(config);
            self.tell_size();
        }
    }

    fn write_common(
        &self,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Violation> {
        let change = lock(&self.common).write(offset, bytes, value);
        match change {
            Change::None => {}
            Change::Reset => reset(&self.device, &self.queues),
            Change::Stopped => self.queues.iter().for_each(Queue::stop),
            Change::Ready => {
                let common = lock(&self.common).clone();
                begin(&self.device, common.accepted(), || {
                    let ready = self.queues.iter().enumerate();
                    ready
                        .filter(|&(index, _)| common.is_enabled(index))
                        .for_each(|(_, queue)| queue.start());
                });
                self.tell_size();
            }
            Change::Enabled(index) => self.enable(index)?,
        }
        Ok(())
    }

    /// The driver uses queue `index` from now on.
    fn enable(&self, index: usize) -> Result<(), Violation> {
        let place = lock(&self.common).place(index);
        let Some(queue) = self.queues.get(index) else {
            return Ok(());
        };
        match place {
            Some(place) if place.is_in(queue.guest().memory()) => {
                queue.put(place);
                Ok(())
            }
            _ => Err(Violation(format!(
                "its driver puts queue {index} of a device of type {} where no \
                 queue can be",
                self.described.kind
            ))),
        }
    }

    /// The driver has put something into queue `index`. May block.
    fn notify(&self, device: u32, index: u32) -> Result<Notified, Violation> {
        let index = index as usize;
        let Some(queue) = self.queues.get(index) else {
            return Ok(Notified::Done);
        };
        let Some(accepted) = lock(&self.common).accepted_by(index) else {
            return Ok(Notified::Done);
        };
        notified(&self.device, accepted, device as usize, (index, queue))
    }
}

impl Transport for PciBus {
    fn send(&self, _dma: u32, key: u32) -> Result<bool, Violation> {
        let text = format!("SEND_DMA to {key:#x}, which its interface lacks");
        Err(Violation(text))
    }

    fn notify(&self, address: u32) -> Result<Notified, Violation> {
        let text = format!("NOTIFY of {address:#x}, which its interface lacks");
        Err(Violation(text))
    }

    fn read_device(&self, access: DeviceAccess) -> Result<u32, Violation> {
        let function = self.function(access)?;
        Ok(function.read(access.offset, access.bytes))
    }

    fn write_device(
        &self,
        access: DeviceAccess,
        value: u32,
    ) -> Result<Notified, Violation> {
        const PRINT: u32 = registers::DEVICE + EMERGENCY_WRITE;
        let function = self.function(access)?;
        match access.offset {
            0..registers::COMMON_BYTES => {
                function.write_common(access.offset, access.bytes, value)?;
            }
            registers::NOTIFY => return function.notify(access.device, value),
            PRINT if function.is_terminal => {
                self.screen.show(&value.to_le_bytes()[..1]);
            }
            _ => {}
        }
        Ok(Notified::Done)
    }

    fn handle_input(&self, index: usize) -> Result<Readiness, Violation> {
        let Some(function) = self.functions.get(index) else {
            return Ok(Readiness::Closed);
        };
        function.device.handle_input()
    }

    fn let_take(&self, take: &dyn Fn(usize) -> TakeInput) {
        let devices = self.functions.iter().map(|function| &function.device);
        let_take(devices, take);
    }

    fn inputs(&self) -> io::Result<Vec<(usize, OwnedFd)>> {
        inputs(self.functions.iter().map(|function| &function.device))
    }

    fn shared_pages(&self) -> io::Result<Vec<SharedPage>> {
        Ok(Vec::new())
    }

    fn buffers_changed(&self) {}

    fn resized(&self, size: TerminalSize) {
        for function in &self.functions {
            function.resized(size);
        }
    }

    fn links_changed(&self) {
        self.functions.iter().for_each(Function::link_changed);
    }

    fn detach(&self, kind: &str, nth: usize) -> Option<usize> {
        let names = self.functions.iter().map(|function| function.name);
        let index = find_nth(names, kind, nth)?;
        let function = self.functions.get(index)?;
        function.device.detach().then(|| {
            function.link_changed();
            index
        })
    }

    fn damage(&self) -> Option<String> {
        let damage = |function: &Function| {
            function.device.try_with(|device| device.damage())
        };
        self.functions.iter().find_map(damage)
    }

    fn counters(&self) -> Vec<(&'static str, NamedCounts)> {
        let counts =
            |function: &Function| (function.name, function.device.counters());
        self.functions.iter().map(counts).collect()
    }

    fn state(&self) -> TransportState {
        TransportState::of(&Self::state(self))
    }

    fn obstacle(&self) -> Option<String> {
        let obstacle = |function: &Function| {
            function.device.try_with(|device| device.obstacle())
        };
        self.functions.iter().find_map(obstacle)
    }

    fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        Self::restore(self, &state.read()?)
    }

    fn finish(&self) -> Vec<(&'static str, NamedCounts)> {
        let end =
            |function: &Function| (function.name, function.device.finish());
        self.functions.iter().map(end).collect()
    }
}

/// The state of a bus. Rings are in the Guest's memory, and configuration
/// spaces in the Host's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBusState {
    functions: Vec<FunctionState>,
}

impl Saved for PciBusState {
    const DEVICE: &'static str = "PCI bus";
    const VERSION: u32 = 1;
}

/// The state of one device on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FunctionState {
    device: Option<DeviceState>,
    common: Common,
    queues: Vec<QueueState>,
}

#[cfg(test)]
mod tests;
