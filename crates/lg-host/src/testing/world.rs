//! A world in which time stands still and every request is recorded.
//!
//! It answers every request at once. Where a real one would block until another
//! process has done something, it ends the Guest.

use crate::address::{GuestPhys, as_word};
use crate::cpu::extended::{Extended, part};
use crate::kill::Kill;
use crate::memory::Memory;
use crate::patch::TrampolineKind;
use crate::world::{CpuidAnswer, WallClock, World};
use core::cell::RefCell;
use lg_wire::trace::Event;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

/// Where the first trampoline of a direct call is.
pub const CALL_TRAMPOLINES: u32 = 0xFFFE_0400;

/// A world in which time stands still and every request is recorded.
#[derive(Default)]
pub struct Pretended {
    /// The time on the monotonic clock.
    pub now: u64,
    /// The time-stamp counter, if there is one.
    pub counter: Option<u64>,
    /// How many ticks of it go by while a clock is read.
    pub reading: u64,
    /// How often a clock was read.
    pub clocks_read: u32,
    /// The deadline of the timer, 0 if it is off.
    pub armed: u64,
    /// By how many seconds the wall clock was set forward.
    pub clock_set: i32,
    /// How often the Host slept.
    pub slept: u32,
    /// The key and the address of each SEND_DMA.
    pub sent: Vec<(u32, u32)>,
    /// The words of outboxes that were rung.
    pub rung: Vec<u32>,
    /// How often the Launcher was told that a buffer may be free.
    pub buffer_calls: u32,
    /// The three arguments of each BIND_DMA.
    pub bound: Vec<(u32, u32, u32)>,
    /// The address of each NOTIFY.
    pub notified: Vec<u32>,
    /// The device, the offset, the bytes, and the value if it was written, of
    /// each access to a device.
    pub device_accesses: Vec<(u32, u32, u32, Option<u32>)>,
    /// What registers of devices read as.
    pub device_value: u32,
    /// What the kernel has in memory of the file of each disk, and the Guest's
    /// memory.
    pub disks: Vec<(Vec<u8>, Memory)>,
    /// The message of the last CRASH.
    pub crashed: Option<String>,
    /// The views to which the run token was passed.
    pub handed_to: Vec<usize>,
    /// How often the view was made anew.
    pub renewed: u32,
    /// The trampolines, and what each displaces.
    pub trampolines: Vec<(TrampolineKind, Vec<u8>)>,
    /// Where the trampolines of direct calls go on.
    pub call_trampolines: Vec<u32>,
    /// How much padding is behind the far call of each trampoline.
    pub paddings: Vec<u32>,
    /// What it says to CPUID, where that faults.
    pub cpuid: Option<CpuidAnswer>,
    /// What is in the processor.
    pub extended: Extended,
    /// How many views there can be, if not any number.
    pub most_views: Option<usize>,
    /// What the Guest was reported to stand for, and the outcomes of orders.
    pub reports: Vec<[u32; 3]>,
    /// What the Launcher answers to each report. After the last of them, it is
    /// gone.
    pub orders: VecDeque<u32>,
    /// The trace, without times.
    pub traced: RefCell<Vec<Event>>,
    /// The numbers of records of which the end was noted.
    pub ends_traced: RefCell<Vec<u64>>,
}

impl Pretended {
    /// A clock is read.
    fn pass_reading(&mut self) {
        self.clocks_read += 1;
        self.counter = self.counter.map(|c| c.wrapping_add(self.reading));
    }
}

impl World for Pretended {
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        self.sent.push((key, dma.0));
        Ok(())
    }

    fn ring(&mut self, at: u32) {
        self.rung.push(at);
    }

    fn bind_dma(
        &mut self,
        key: u32,
        dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill> {
        self.bound.push((key, dmas.0, count_irq));
        Ok(true)
    }

    fn notify(&mut self, address: GuestPhys) -> Result<(), Kill> {
        self.notified.push(address.0);
        Ok(())
    }

    fn read_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
    ) -> Result<u32, Kill> {
        self.device_accesses.push((device, offset, bytes, None));
        Ok(self.device_value)
    }

    fn write_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill> {
        self.device_accesses
            .push((device, offset, bytes, Some(value)));
        Ok(())
    }

    fn read_disk(
        &mut self,
        disk: usize,
        offset: u64,
        pieces: &[(GuestPhys, u32)],
    ) -> bool {
        let Some((file, memory)) = self.disks.get(disk) else {
            return false;
        };
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        for &(to, bytes) in pieces {
            let end = at.saturating_add(bytes as usize);
            let Some(part) = file.get(at..end) else {
                return false;
            };
            if memory.write(to, part).is_err() {
                return false;
            }
            at = end;
        }
        true
    }

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        self.crashed = Some(String::from_utf8_lossy(message).into());
        Ok(())
    }

    fn broken_out(&mut self, report: [u32; 3]) -> Result<u32, Kill> {
        self.reports.push(report);
        self.orders.pop_front().ok_or(Kill::LauncherGone)
    }

    fn monotonic(&mut self) -> u64 {
        self.pass_reading();
        self.now
    }

    fn counter(&mut self) -> Option<u64> {
        self.counter
    }

    fn wall_clock(&mut self) -> WallClock {
        self.pass_reading();
        WallClock {
            sec: 1_190_000_000_u32.wrapping_add_signed(self.clock_set),
            nsec: 7,
        }
    }

    fn arm(&mut self, deadline: u64, earlier: bool) {
        if earlier && (1..deadline).contains(&self.armed) {
            return;
        }
        self.armed = deadline;
    }

    fn sleep(&mut self, _seen: u32) {
        self.slept += 1;
    }

    fn start_view(&mut self, slot: usize) -> Result<(), Kill> {
        match self.most_views {
            Some(most) if slot >= most => Err(Kill::NoView),
            _ => Ok(()),
        }
    }

    fn renew_view(&mut self) -> Result<(), Kill> {
        self.renewed += 1;
        Ok(())
    }

    fn balance(&mut self) {}

    fn buffers_may_be_free(&mut self) {
        self.buffer_calls += 1;
    }

    fn make_call_trampoline(&mut self, slot: usize, back: u32) -> u32 {
        self.call_trampolines.push(back);
        CALL_TRAMPOLINES + 64 * as_word(slot)
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
        padding: u32,
    ) -> Option<u32> {
        self.paddings.push(padding);
        self.trampolines.push((kind, displaced.to_vec()));
        Some(0x1000)
    }

    fn cpuid(&mut self, _leaf: u32, _subleaf: u32) -> Option<CpuidAnswer> {
        self.cpuid
    }

    fn extended_in_use(&mut self) -> bool {
        self.extended.parts.get() != 0
    }

    fn save_extended(&mut self, to: &Extended) {
        to.copy_from(&self.extended, part::ALL);
    }

    fn load_extended(&mut self, from: Option<&Extended>) {
        match from {
            Some(from) => self.extended.copy_from(from, part::ALL),
            None => self.extended.parts.set(0),
        }
    }

    fn hand_over(&mut self, slot: usize) -> Result<(), Kill> {
        self.handed_to.push(slot);
        // There is no other view to hand it back.
        Err(Kill::NoView)
    }

    fn trace(&self, event: &Event) -> u64 {
        let mut traced = self.traced.borrow_mut();
        traced.push(*event);
        traced.len() as u64 - 1
    }

    fn trace_end(&self, number: u64) {
        self.ends_traced.borrow_mut().push(number);
    }
}
