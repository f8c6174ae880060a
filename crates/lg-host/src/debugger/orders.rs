//! The Guest stands, and the Launcher gives orders.
//!
//! The order is the answer to the Host's request, and the Host's next request
//! is the answer to the order. So no word of the shared state is needed beside
//! the mailbox.

use super::memory::Addresses;
use super::work;
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use core::sync::atomic::Ordering;
use lg_wire::debug::{Kind, Order, Outcome, Space};

/// What is switched off while code is stepped: all that patches it. The patches
/// that there are were taken back.
const PATCHES: u32 = fast_path::IRET
    | fast_path::HYPERCALL
    | fast_path::ENTRY_PAGE
    | fast_path::SEGMENTS
    | fast_path::INT80
    | fast_path::DIRECT
    | fast_path::ENABLING
    | fast_path::ACCESSORS
    | fast_path::CROSSING;

impl Host<'_> {
    /// The Guest stands until the Launcher lets it go on. Carries out what the
    /// Launcher orders meanwhile.
    #[cold]
    pub(crate) fn stand(&mut self) -> Result<(), Kill> {
        self.write_extended_down();
        let debugger = &self.vm.debugger;
        let (stop, value) =
            (debugger.stop.replace(0), debugger.value.replace(0));
        let mut report = [stop, Outcome::Done as u32, value];
        loop {
            let number = self.world.broken_out(report)?;
            let (outcome, value) = match Order::from_number(number) {
                Some(Order::GoOn) => {
                    self.vm.anchors.forget();
                    return Ok(());
                }
                Some(order) => self.obey(order),
                None => (Outcome::Refused, 0),
            };
            report = [0, outcome as u32, value];
        }
    }

    /// Carries out an order. Answers a value that belongs to the outcome.
    fn obey(&mut self, order: Order) -> (Outcome, u32) {
        self.begin_noting_frames();
        let arguments = &self.vm.wire.mailbox.arguments;
        let [a, b, c] =
            [0, 1, 2].map(|n: usize| arguments[n].load(Ordering::Relaxed));
        let space = self.addresses(if c == Space::Physical as u32 {
            Space::Physical
        } else {
            Space::Virtual
        });
        let outcome = match order {
            Order::GoOn => Outcome::Done,
            Order::ReadRegisters => self.show_registers(),
            Order::WriteRegisters => self.set_registers(),
            Order::ReadFpu => self.show_fpu(a),
            Order::WriteFpu => self.set_fpu(a),
            Order::Read => self.show_memory(space, a, b),
            Order::Write => self.change_memory(space, a),
            Order::ReadIn => self.show_memory(Addresses::Of(c), a, b),
            Order::WriteIn => self.change_memory(Addresses::Of(c), a),
            Order::ReadFrame => self.show_frame(a),
            Order::Plant | Order::Remove => match Kind::from_number(c) {
                Some(kind) if order == Order::Plant => self.plant(kind, a, b),
                Some(kind) => self.remove(kind, a, b),
                None => Outcome::Refused,
            },
            Order::Prepare => self.prepare(a == 1),
            Order::Detach => self.detach(),
            Order::Walk => return self.show_walk(GuestVirt(a)),
            Order::Directories => return self.show_directories(),
        };
        (outcome, 0)
    }

    /// Plants a breakpoint. One that is there already counts as planted.
    fn plant(&self, kind: Kind, va: u32, length: u32) -> Outcome {
        if kind == Kind::Software {
            // The one that is lifted counts.
            self.put_down();
            return self.plant_breakpoint(GuestVirt(va));
        }
        let debugger = &self.vm.debugger;
        let last = va.saturating_add(length.max(1) - 1);
        let same = |k, f, l| (k, f, l) == (kind, va, last);
        if debugger.find(same).is_some() {
            return Outcome::Done;
        }
        match debugger.compared.iter().find(|c| !c.is_used()) {
            Some(free) => {
                free.kind.set(kind as u32);
                free.first.set(va);
                free.last.set(last);
                Outcome::Done
            }
            None => Outcome::Full,
        }
    }

    fn remove(&self, kind: Kind, va: u32, length: u32) -> Outcome {
        let debugger = &self.vm.debugger;
        if kind == Kind::Software {
            self.put_down();
            return self.remove_breakpoint(GuestVirt(va));
        }
        let last = va.saturating_add(length.max(1) - 1);
        let same = |k, f, l| (k, f, l) == (kind, va, last);
        match debugger.find(same) {
            Some(number) => {
                debugger.compared[number].kind.set(0);
                Outcome::Done
            }
            None => Outcome::NoSuch,
        }
    }

    /// How the Guest goes on when it does: for one instruction, or until it
    /// stops by itself.
    fn prepare(&mut self, step: bool) -> Outcome {
        let debugger = &self.vm.debugger;
        self.put_down();
        let compares = debugger.find(|_, _, _| true).is_some();
        debugger.work.set(
            if step { work::STEP } else { 0 }
                | if compares { work::COMPARE } else { 0 },
        );
        let eip = self.vm.regs.eip.get();
        debugger.passes[0].set(u32::from(compares));
        debugger.passes[1].set(eip);
        debugger.pause.set(0);
        self.lift_at(GuestVirt(eip));
        let slow_paths = &self.vm.slow_paths;
        if debugger.has(work::STEP | work::COMPARE) {
            let added = PATCHES & !slow_paths.get();
            debugger.slow_paths.set(debugger.slow_paths.get() | added);
            slow_paths.set(slow_paths.get() | added);
            self.take_back_to_step();
        } else {
            let added = debugger.slow_paths.replace(0);
            slow_paths.set(slow_paths.get() & !added);
            self.make_again_after_steps();
        }
        Outcome::Done
    }

    /// Removes all breakpoints.
    fn detach(&mut self) -> Outcome {
        let debugger = &self.vm.debugger;
        debugger.clear(work::LIFTED);
        debugger.frames.end();
        self.remove_breakpoints();
        for compared in &debugger.compared {
            compared.kind.set(0);
        }
        self.prepare(false)
    }

    /// The page directories that have a view: how many words are in the text.
    fn show_directories(&self) -> (Outcome, u32) {
        let views = self.vm.views.iter().filter(|v| v.last_use.get() != 0);
        let mut text = [0; lg_wire::mailbox::MAX_TEXT];
        let mut count = 0;
        for (to, view) in text.chunks_exact_mut(4).zip(views) {
            to.copy_from_slice(&view.cr3.get().to_le_bytes());
            count += 1;
        }
        self.vm.wire.mailbox.write_text(&text[..count * 4]);
        (Outcome::Done, as_word(count))
    }
}
