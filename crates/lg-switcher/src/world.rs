//! The world as a view sees it: the mailbox, the clocks, the other views.
//!
//! What the Host asks of the world becomes a system call here, or a word in
//! shared memory. Nothing is decided here.

use crate::ask;
use crate::clock::{self, CLOCK_MONOTONIC, arm, nanoseconds};
use crate::cpuid;
use crate::disks;
use crate::extended;
use crate::fpu;
use crate::layout::OUTBOXES;
use crate::own::own;
use crate::shared::{setup, state, trace};
use crate::syscall::{futex_wait, futex_wake_at};
use crate::trampolines;
use crate::user_driver;
use core::sync::atomic::Ordering;
use lg_host::address::GuestPhys;
use lg_host::cpu::extended::Extended;
use lg_host::kill::Kill;
use lg_host::patch::TrampolineKind;
use lg_host::world::{CpuidAnswer, WallClock, World};
use lg_wire::mailbox::{Request, device_and_bytes};
use lg_wire::trace::Event;

/// Whether user code runs in a process of its own.
fn has_user_process() -> bool {
    setup().user_processes != 0
}

/// The world of one view.
pub(crate) struct Outside {
    /// Its slot.
    pub slot: usize,
    /// The number of its timer.
    pub timer: u32,
}

impl World for Outside {
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        state().vm.counters.sends.count();
        ask::ask(Request::SendDma, [key, dma.0, 0]);
        Ok(())
    }

    fn ring(&mut self, at: u32) {
        futex_wake_at(OUTBOXES + at as usize);
    }

    fn bind_dma(
        &mut self,
        key: u32,
        dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill> {
        Ok(ask::ask(Request::BindDma, [key, dmas.0, count_irq]) == 1)
    }

    fn notify(&mut self, address: GuestPhys) -> Result<(), Kill> {
        ask::ask(Request::Notify, [address.0, 0, 0]);
        Ok(())
    }

    fn read_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
    ) -> Result<u32, Kill> {
        Ok(ask::ask(Request::ReadDevice, [device, offset, bytes]))
    }

    fn write_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill> {
        let which = device_and_bytes(device, bytes);
        ask::ask(Request::WriteDevice, [which, offset, value]);
        Ok(())
    }

    fn read_disk(
        &mut self,
        disk: usize,
        offset: u64,
        pieces: &[(GuestPhys, u32)],
    ) -> bool {
        disks::read(disk, offset, pieces)
    }

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        ask::die_of(Request::Crash, message)
    }

    fn broken_out(&mut self, report: [u32; 3]) -> Result<u32, Kill> {
        // As if the Guest went on in another view: the state has it all.
        fpu::put_fpu_away();
        let order = ask::ask(Request::Broken, report);
        fpu::take_fpu();
        Ok(order)
    }

    fn monotonic(&mut self) -> u64 {
        nanoseconds(CLOCK_MONOTONIC)
    }

    fn wall_clock(&mut self) -> WallClock {
        clock::wall_clock()
    }

    fn counter(&mut self) -> Option<u64> {
        clock::counter()
    }

    fn arm(&mut self, deadline: u64, earlier: bool) {
        let armed = own().armed.load(Ordering::Relaxed);
        let good =
            armed == deadline || earlier && (1..deadline).contains(&armed);
        // An alarm that is not needed costs a kick; switching it off costs a
        // call.
        if deadline != 0 && !good {
            arm(self.timer, deadline);
        }
    }

    fn sleep(&mut self, seen: u32) {
        futex_wait(&state().vm.wire.kick, seen);
    }

    fn start_view(&mut self, slot: usize) -> Result<(), Kill> {
        let slot = u32::try_from(slot).map_err(|_| Kill::NoView)?;
        match ask::ask(Request::StartView, [slot, 0, 0]) {
            1 => Ok(()),
            _ => Err(Kill::NoView),
        }
    }

    fn renew_view(&mut self) -> Result<(), Kill> {
        fpu::put_fpu_away();
        let slot = u32::try_from(self.slot).map_err(|_| Kill::NoView)?;
        ask::ask(Request::RenewView, [slot, 0, 0]);
        Err(Kill::NoView)
    }

    fn balance(&mut self) {
        ask::want_balance();
    }

    fn buffers_may_be_free(&mut self) {
        ask::ask(Request::BuffersMayBeFree, [0; 3]);
    }

    fn make_call_trampoline(&mut self, slot: usize, back: u32) -> u32 {
        trampolines::make_for_call(slot, back)
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
        padding: u32,
    ) -> Option<u32> {
        trampolines::make(kind, displaced, padding)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Option<CpuidAnswer> {
        cpuid::ask(leaf, subleaf)
    }

    fn extended_in_use(&mut self) -> bool {
        if has_user_process() {
            return user_driver::extended_in_use();
        }
        fpu::leave_frame();
        extended::in_use() != 0
    }

    fn save_extended(&mut self, to: &Extended) {
        if has_user_process() {
            user_driver::save_extended(to);
        } else {
            extended::save(to);
        }
    }

    fn load_extended(&mut self, from: Option<&Extended>) {
        if has_user_process() {
            user_driver::load_extended(from);
            return;
        }
        fpu::leave_frame();
        if from.is_some() || !extended::is_initial() {
            // MXCSR may change, and is loaded anew on the way out.
            fpu::put_fpu_away();
            fpu::take_fpu();
            extended::load(from);
        }
    }

    fn hand_over(&mut self, slot: usize) -> Result<(), Kill> {
        fpu::put_fpu_away();
        ask::pass_run_token(slot);
        ask::wait_for_run_token(self.slot);
        fpu::take_fpu();
        Ok(())
    }

    fn trace(&self, event: &Event) -> u64 {
        trace().write(clock::ticks(), event)
    }

    fn trace_end(&self, number: u64) {
        trace().end(number, clock::ticks());
    }
}
