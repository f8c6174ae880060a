//! The world of the fuzzed Host: one for each view, with a clock for all.
//!
//! Requests of the Host are checked by assertions. What it waits for always
//! comes, so a step ends.

use super::layout::{LIMIT, VIEWS};
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::gen3::pci::MAX_DEVICES;
use lg_abi::hypercall::CRASH_MESSAGE_MAX;
use lg_abi::page::{PAGE_SIZE, SWITCHER_ADDR};
use lg_host::address::{GuestPhys, as_word};
use lg_host::cpu::extended::{Extended, part};
use lg_host::kill::Kill;
use lg_host::patch::TrampolineKind;
use lg_host::patch::limits::{MAX_DIRECT, MAX_DISPLACED};
use lg_host::state::Vm;
use lg_host::testing::CALL_TRAMPOLINES;
use lg_host::world::{CpuidAnswer, WallClock, World};
use lg_wire::disk::{MAX_DISKS, MAX_PIECES};
use lg_wire::outbox::OUTBOX_SIZE;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

/// The part of the world that all views share.
#[derive(Default)]
pub(super) struct Common {
    pub(super) now: Cell<u64>,
    pub(super) armed: Cell<u64>,
    pub(super) trampolines: Cell<u32>,
    /// The view to which the run token went.
    pub(super) handed_to: Cell<Option<usize>>,
    /// How often the Host has waited in this step.
    pub(super) waits: Cell<u32>,
    /// What it has asked of devices.
    pub(super) requests: RefCell<Vec<DeviceRequest>>,
}

/// A register of a device that the Host has read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The number of the device.
    pub device: u32,
    /// Where the register is.
    pub offset: u32,
    /// How many bytes.
    pub bytes: u32,
    /// What was written, if anything.
    pub value: Option<u32>,
}

/// What such a register reads as.
#[must_use]
pub const fn register(offset: u32, bytes: u32) -> u32 {
    0xF1E2_D3C4_u32.rotate_left(offset) >> (32 - 8 * bytes)
}

/// The world of one view.
pub(super) struct Outside<'a> {
    pub(super) vm: &'a Vm,
    pub(super) common: &'a Common,
}

/// A Host that waits more often than this in one step counts as waiting for
/// ever.
const MAX_WAITS: u32 = 64;

impl Outside<'_> {
    fn wait(&self) -> u32 {
        let waits = self.common.waits.get() + 1;
        self.common.waits.set(waits);
        assert!(waits < MAX_WAITS, "the Host waits for ever");
        waits
    }

    fn note(&self, request: DeviceRequest) {
        check_device(request);
        self.common.requests.borrow_mut().push(request);
    }
}

/// Checks that such registers of a device exist.
fn check_device(request: DeviceRequest) {
    let DeviceRequest {
        device,
        offset,
        bytes,
        ..
    } = request;
    assert!((device as usize) < MAX_DEVICES, "{device}");
    assert!(matches!(bytes, 1 | 2 | 4), "{bytes}");
    assert!(offset < PAGE_SIZE - bytes, "{offset:#x}");
}

impl World for Outside<'_> {
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        assert!(
            key <= LIMIT - KEY_ALIGN && key.is_multiple_of(KEY_ALIGN),
            "{key:#x}"
        );
        assert!(dma.0 <= LIMIT - Dma::SIZE, "{dma:?}");
        Ok(())
    }

    fn ring(&mut self, at: u32) {
        assert!(at <= OUTBOX_SIZE - 4 && at.is_multiple_of(4), "{at:#x}");
    }

    fn bind_dma(
        &mut self,
        key: u32,
        _dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill> {
        assert!(key.is_multiple_of(KEY_ALIGN), "{key:#x}");
        Ok(count_irq & 0xFF < 32)
    }

    fn notify(&mut self, _: GuestPhys) -> Result<(), Kill> {
        Ok(())
    }

    fn read_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
    ) -> Result<u32, Kill> {
        self.note(DeviceRequest {
            device,
            offset,
            bytes,
            value: None,
        });
        Ok(register(offset, bytes))
    }

    fn write_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill> {
        self.note(DeviceRequest {
            device,
            offset,
            bytes,
            value: Some(value),
        });
        assert!(bytes == 4 || value < 1 << (8 * bytes), "{value:#x}");
        Ok(())
    }

    fn read_disk(
        &mut self,
        disk: usize,
        offset: u64,
        pieces: &[(GuestPhys, u32)],
    ) -> bool {
        assert!(disk < MAX_DISKS, "{disk}");
        assert!((1..=MAX_PIECES).contains(&pieces.len()));
        for &(at, bytes) in pieces {
            assert!(bytes > 0 && bytes <= LIMIT, "{bytes:#x}");
            assert!(at.0 <= LIMIT - bytes, "{at:?} {bytes:#x}");
        }
        // Every other sector is in memory.
        offset & 512 == 0
    }

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        assert!(
            message.len() <= CRASH_MESSAGE_MAX as usize
                && !message.contains(&0)
        );
        Err(Kill::LauncherGone)
    }

    fn broken_out(&mut self, _: [u32; 3]) -> Result<u32, Kill> {
        self.wait();
        self.vm.wire.break_wanted.store(0, Ordering::SeqCst);
        Ok(0)
    }

    fn monotonic(&mut self) -> u64 {
        self.common.now.get()
    }

    fn wall_clock(&mut self) -> WallClock {
        WallClock {
            sec: 1_190_000_000,
            nsec: 999_999_999,
        }
    }

    fn arm(&mut self, deadline: u64, _: bool) {
        self.common.armed.set(deadline);
    }

    fn sleep(&mut self, seen: u32) {
        let waits = self.wait();
        if self.vm.wire.kick.load(Ordering::SeqCst) != seen {
            return;
        }
        let (now, armed) = (self.common.now.get(), self.common.armed.get());
        if armed != 0 {
            self.common.now.set(now.max(armed));
        } else if waits < MAX_WAITS / 2 {
            self.vm.wire.irqs.fetch_or(0x8000_0001, Ordering::SeqCst);
        } else {
            // A Guest that blocks all its interrupts would sleep for ever. Here
            // the step ends.
            self.vm.halted.set(0);
        }
        self.vm.wire.kick.fetch_add(1, Ordering::SeqCst);
    }

    fn start_view(&mut self, slot: usize) -> Result<(), Kill> {
        if slot < VIEWS {
            Ok(())
        } else {
            Err(Kill::NoView)
        }
    }

    fn renew_view(&mut self) -> Result<(), Kill> {
        Ok(())
    }

    fn balance(&mut self) {}

    fn buffers_may_be_free(&mut self) {}

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Option<CpuidAnswer> {
        Some([leaf, subleaf, u32::MAX, u32::MAX])
    }

    fn extended_in_use(&mut self) -> bool {
        self.common.now.get() & 1 != 0
    }

    fn save_extended(&mut self, to: &Extended) {
        to.parts.set(part::ALL);
    }

    fn load_extended(&mut self, from: Option<&Extended>) {
        assert!(from.is_none_or(|from| from.parts.get() == part::ALL));
    }

    fn make_call_trampoline(&mut self, slot: usize, _back: u32) -> u32 {
        assert!(slot < MAX_DIRECT);
        CALL_TRAMPOLINES + 64 * as_word(slot)
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
        _padding: u32,
    ) -> Option<u32> {
        assert!(displaced.len() <= MAX_DISPLACED, "{kind:?}");
        let trampolines = self.common.trampolines.get() + 1;
        self.common.trampolines.set(trampolines);
        (trampolines < 40).then_some(SWITCHER_ADDR + 0x20 * trampolines)
    }

    fn hand_over(&mut self, slot: usize) -> Result<(), Kill> {
        self.wait();
        assert!(slot < VIEWS, "there is no view {slot}");
        self.common.handed_to.set(Some(slot));
        // The driver goes on with the other view.
        Err(Kill::NoView)
    }
}
