//! A pretended machine for tests: memory, a recording mapper of mappings, a
//! world.

#![expect(
    unsafe_code,
    reason = "gives a Vec to Memory, and makes zeroed state"
)]

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::cpu::cpuid::Answer;
use crate::cpu::extended::{Extended, part};
use crate::kill::Kill;
use crate::memory::Memory;
use crate::outbox::{OUTBOX_SIZE, Outboxes};
use crate::paging::{Shadow, ShadowMemory, UserSpace};
use crate::patch::TrampolineKind;
use crate::patch::copies::MAX_COPIES;
use crate::run::Host;
use crate::state::Vm;
use crate::world::{Access, MapError, Mapper, WallClock, World};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE, Pte};
use lg_abi::segment::Descriptor;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

/// Memory for a Guest. Words, so that it is aligned.
pub(crate) struct Ram(Box<[u32]>);

impl Ram {
    pub(crate) fn new(bytes: u32) -> Self {
        Self(std::vec![0; bytes as usize / 4].into())
    }

    pub(crate) fn memory(&self) -> Memory {
        let bytes = u32::try_from(self.0.len() * 4).unwrap();
        let base = self.0.as_ptr().cast_mut().cast();
        // SAFETY: tests keep the `Ram` as long as the `Memory`, and touch it
        // only through the `Memory`.
        unsafe { Memory::new(base, bytes) }
    }
}

/// A value whose every field is fine when it is zero, made on the heap.
fn zeroed<T>() -> Box<T> {
    // SAFETY: only used for `Vm` and `ShadowMemory`, for which zero is a
    // valid value.
    unsafe { Box::<T>::new_zeroed().assume_init() }
}

/// A view's record, with nothing in it.
pub(crate) fn record() -> Box<ShadowMemory> {
    zeroed()
}

/// What is mapped: page number to frame and access.
#[derive(Default)]
pub(crate) struct RecordingMapper {
    pub(crate) pages: BTreeMap<u32, (u32, Access)>,
    /// What is hidden: page number to frame.
    pub(crate) hidden: BTreeMap<u32, u32>,
    /// How many more mappings may be made before there is no room.
    pub(crate) room: Option<usize>,
    /// The descriptors that were set, in their order.
    pub(crate) segments: Vec<(u32, Descriptor)>,
}

impl Mapper for RecordingMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        if va.0 < 0x1000 {
            return Err(MapError::Forbidden);
        }
        if self.room.is_some_and(|room| self.pages.len() >= room) {
            return Err(MapError::NoRoom);
        }
        for i in 0..pages {
            let frame = pa.0 + (i << PAGE_SHIFT);
            self.pages.insert(va.page_number() + i, (frame, access));
            self.hidden.remove(&(va.page_number() + i));
        }
        Ok(())
    }

    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        let page = va.page_number();
        let shown = self.pages.get(&page).map(|&(frame, _)| frame);
        let frame = shown.or_else(|| self.hidden.remove(&page));
        assert_eq!(frame, Some(pa.0), "another page is there");
        self.pages.insert(page, (pa.0, access));
        Ok(())
    }

    fn hides(&self) -> bool {
        true
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let first = va.page_number();
        for page in first..first + pages {
            if let Some((frame, _)) = self.pages.remove(&page) {
                self.hidden.insert(page, frame);
            }
            assert!(self.hidden.contains_key(&page), "nothing is there");
        }
        Ok(())
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        self.segments.push((index, descriptor));
        Ok(())
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let first = va.page_number();
        let inside: Vec<u32> = self
            .pages
            .range(first..first + pages)
            .map(|(&p, _)| p)
            .collect();
        for page in inside {
            self.pages.remove(&page);
        }
        self.hidden.retain(|&p, _| p < first || p >= first + pages);
        Ok(())
    }
}

/// Where the first trampoline of a direct call is.
pub(crate) const CALL_TRAMPOLINES: u32 = 0xFFFE_0400;

/// A world in which time stands still and every request is written down.
#[derive(Default)]
pub(crate) struct Pretended {
    pub(crate) now: u64,
    pub(crate) armed: u64,
    /// By how many seconds somebody has set the wall clock forward.
    pub(crate) clock_set: i32,
    pub(crate) slept: u32,
    pub(crate) sent: Vec<(u32, u32)>,
    pub(crate) rung: Vec<u32>,
    pub(crate) buffer_calls: u32,
    pub(crate) bound: Vec<(u32, u32, u32)>,
    pub(crate) crashed: Option<String>,
    pub(crate) handed_to: Vec<usize>,
    pub(crate) trampolines: Vec<(TrampolineKind, Vec<u8>)>,
    pub(crate) call_gates: Vec<u32>,
    /// What it says to CPUID, where that faults.
    pub(crate) cpuid: Option<Answer>,
    /// What is in the processor.
    pub(crate) extended: Extended,
    /// How many views there can be, if not any number.
    pub(crate) most_views: Option<usize>,
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

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        self.crashed = Some(String::from_utf8_lossy(message).into());
        Ok(())
    }

    fn broken_out(&mut self) -> Result<(), Kill> {
        Ok(())
    }

    fn monotonic(&mut self) -> u64 {
        self.now
    }

    fn wall_clock(&mut self) -> WallClock {
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

    fn balance(&mut self) {}

    fn buffers_may_be_free(&mut self) {
        self.buffer_calls += 1;
    }

    fn make_call_trampoline(&mut self, slot: usize, back: u32) -> u32 {
        self.call_gates.push(back);
        CALL_TRAMPOLINES + 64 * u32::try_from(slot).unwrap()
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
    ) -> Option<u32> {
        self.trampolines.push((kind, displaced.to_vec()));
        Some(0x1000)
    }

    fn cpuid(&mut self, _leaf: u32, _subleaf: u32) -> Option<Answer> {
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
        // Nobody is there to hand it back.
        Err(Kill::NoView)
    }
}

/// All that a Host needs, with a Guest that has said LGUEST_INIT.
pub(crate) struct Machine {
    pub(crate) ram: Ram,
    pub(crate) copies: Ram,
    /// The outbox of the network whose page is [`Self::NETWORK`], if any.
    pub(crate) outbox: Option<Ram>,
    pub(crate) vm: Box<Vm>,
    pub(crate) view: Box<ShadowMemory>,
    pub(crate) mapper: RecordingMapper,
    /// The user process of user code, if there is to be one.
    pub(crate) user_process: Option<(Box<ShadowMemory>, RecordingMapper)>,
    pub(crate) world: Pretended,
}

impl Machine {
    /// Bytes of RAM.
    pub(crate) const RAM: u32 = 0x40_0000;
    /// Where the page directory is.
    pub(crate) const CR3: u32 = 0x1000;
    /// The page table for user addresses below 4 MiB.
    pub(crate) const USER_TABLE: u32 = 0x2000;
    /// The page table for the kernel's first 4 MiB.
    pub(crate) const KERNEL_TABLE: u32 = 0x3000;
    /// `lguest_data`.
    pub(crate) const DATA: u32 = 0x4000;
    /// The page of a network.
    pub(crate) const NETWORK: u32 = 0x3F_F000;

    pub(crate) fn new() -> Self {
        let machine = Self {
            ram: Ram::new(Self::RAM),
            copies: Ram::new(as_word(MAX_COPIES) * PAGE_SIZE),
            outbox: None,
            vm: zeroed(),
            view: zeroed(),
            mapper: RecordingMapper::default(),
            user_process: None,
            world: Pretended::default(),
        };
        let (vm, m) = (&machine.vm, machine.ram.memory());
        vm.limit.set(Self::RAM);
        vm.page_offset.set(0xC000_0000);
        vm.cr3.set(Self::CR3);
        vm.views[0].cr3.set(Self::CR3);
        vm.views[0].last_use.set(1);
        vm.uses.set(1);
        vm.cs.set(u32::from(lg_abi::segment::KERNEL_CS));
        vm.ss.set(u32::from(lg_abi::segment::KERNEL_DS));
        vm.lguest_data.set(Self::DATA);
        let status = GuestPhys(Self::DATA + 20);
        m.write(status, &[0xFF; 64]).unwrap();
        m.set_word(GuestPhys(Self::CR3), Self::USER_TABLE | 0x67)
            .unwrap();
        m.set_word(GuestPhys(Self::CR3 + 0xC00), Self::KERNEL_TABLE | 0x67)
            .unwrap();
        // The kernel's memory, not linear as long as page 0 is missing.
        for page in 1..1024_u32 {
            let at = GuestPhys(Self::KERNEL_TABLE + page * 4);
            m.set_word(at, page << 12 | 0x63).unwrap();
        }
        vm.regs.esp.set(0xC000_8000);
        vm.esp1.set(0xC000_9000);
        vm.ss1.set(u32::from(lg_abi::segment::KERNEL_DS));
        machine
    }

    /// There is a network.
    pub(crate) fn with_outbox(mut self) -> Self {
        self.outbox = Some(Ram::new(OUTBOX_SIZE));
        self
    }

    /// User code gets an address space of its own.
    pub(crate) fn with_user_process(mut self) -> Self {
        self.user_process = Some((zeroed(), RecordingMapper::default()));
        self
    }

    /// Where user code's pages are mapped.
    pub(crate) fn users(&self) -> &RecordingMapper {
        self.user_process
            .as_ref()
            .map_or(&self.mapper, |(_, user_process)| user_process)
    }

    pub(crate) fn host(&mut self) -> Host<'_> {
        let mut view = Shadow::new(0, Self::CR3, &mut self.view);
        if let Some((memory, mapper)) = &mut self.user_process {
            view.put_user_process(UserSpace::new(memory, mapper));
        }
        let pages = [Self::NETWORK >> PAGE_SHIFT];
        let outboxes = match &self.outbox {
            Some(outbox) => Outboxes::new(outbox.memory(), &pages),
            None => Outboxes::new(Ram::new(0).memory(), &[]),
        };
        Host {
            vm: &self.vm,
            memory: self.ram.memory(),
            copies: self.copies.memory(),
            outboxes,
            shadow: view,
            mapper: &mut self.mapper,
            world: &mut self.world,
        }
    }

    /// Writes the entry for a user page below 4 MiB.
    pub(crate) fn set_user_pte(&self, page: u32, pte: Pte) {
        let at = GuestPhys(Self::USER_TABLE + page * 4);
        self.ram.memory().set_word(at, pte.0).unwrap();
    }
}
