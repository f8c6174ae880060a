//! A Guest that has said LGUEST_INIT, and all that its Host needs.
//!
//! It has one page directory and one view. A test changes what it wants to be
//! otherwise, makes a Host, and lets it work.

use super::{Pretended, Ram, RecordingMapper, record, state};
use crate::address::{GuestPhys, as_word};
use crate::host::Host;
use crate::outbox::Outboxes;
use crate::paging::{Shadow, ShadowMemory, UserSpace};
use crate::state::Vm;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE, Pte};
use lg_abi::segment::{KERNEL_CS, KERNEL_DS};
use lg_abi::shared::{HCALL_DONE, LHCALL_RING_SIZE, offset};
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::state::MAX_COPIES;
use std::boxed::Box;

/// All that a Host needs, with a Guest that has said LGUEST_INIT.
pub struct Machine {
    /// The Guest's memory.
    pub ram: Ram,
    /// Patched copies of its pages.
    pub copies: Ram,
    /// The outbox of the network whose page is [`Self::NETWORK`], if any.
    pub outbox: Option<Ram>,
    /// What its views share.
    pub vm: Box<Vm>,
    /// The record of its one view.
    pub view: Box<ShadowMemory>,
    /// What that view maps.
    pub mapper: RecordingMapper,
    /// The record and the mapper of the user process, if there is one.
    pub user_process: Option<(Box<ShadowMemory>, RecordingMapper)>,
    /// Everything else.
    pub world: Pretended,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// Bytes of RAM.
    pub const RAM: u32 = 0x40_0000;
    /// Where the page directory is.
    pub const CR3: u32 = 0x1000;
    /// The page table for user addresses below 4 MiB.
    pub const USER_TABLE: u32 = 0x2000;
    /// The page table for the kernel's first 4 MiB.
    pub const KERNEL_TABLE: u32 = 0x3000;
    /// `lguest_data`.
    pub const DATA: u32 = 0x4000;
    /// The page of a network.
    pub const NETWORK: u32 = 0x3F_F000;
    /// Bytes of patched copies.
    const COPIES: u32 = as_word(MAX_COPIES) * PAGE_SIZE;

    /// A Guest in the middle of its kernel. Nothing is mapped yet.
    #[must_use]
    pub fn new() -> Self {
        let machine = Self {
            ram: Ram::new(Self::RAM),
            copies: Ram::new(Self::COPIES),
            outbox: None,
            vm: state(),
            view: record(),
            mapper: Self::recording_mapper(),
            user_process: None,
            world: Pretended::default(),
        };
        let vm = &machine.vm;
        vm.limit.set(Self::RAM);
        vm.page_offset.set(0xC000_0000);
        vm.cr3.set(Self::CR3);
        vm.views[0].cr3.set(Self::CR3);
        vm.views[0].last_use.set(1);
        vm.uses.set(1);
        vm.cs.set(u32::from(KERNEL_CS));
        vm.ss.set(u32::from(KERNEL_DS));
        vm.lguest_data.set(Self::DATA);
        let status = GuestPhys(Self::DATA + offset::HCALL_STATUS);
        let done = [HCALL_DONE; LHCALL_RING_SIZE];
        let written = machine.ram.memory().write(status, &done);
        written.expect("it is in memory");
        machine.set_word(Self::CR3, Self::USER_TABLE | 0x67);
        machine.set_word(Self::CR3 + 0xC00, Self::KERNEL_TABLE | 0x67);
        // The kernel's memory, not linear as long as page 0 is missing.
        for page in 1..1024_u32 {
            let at = Self::KERNEL_TABLE + page * 4;
            machine.set_word(at, page << PAGE_SHIFT | 0x63);
        }
        vm.regs.esp.set(0xC000_8000);
        vm.esp1.set(0xC000_9000);
        vm.ss1.set(u32::from(KERNEL_DS));
        machine
    }

    /// A mapper for this memory that maps nothing.
    #[must_use]
    pub fn recording_mapper() -> RecordingMapper {
        RecordingMapper::new(Self::RAM, Self::COPIES)
    }

    fn set_word(&self, addr: u32, word: u32) {
        let written = self.ram.memory().set_word(GuestPhys(addr), word);
        written.expect("it is in memory");
    }

    /// There is a network.
    #[must_use]
    pub fn with_outbox(mut self) -> Self {
        self.outbox = Some(Ram::new(OUTBOX_SIZE));
        self
    }

    /// User code gets an address space of its own.
    #[must_use]
    pub fn with_user_process(mut self) -> Self {
        self.user_process = Some((record(), Self::recording_mapper()));
        self
    }

    /// Where user code's pages are mapped.
    #[must_use]
    pub fn users(&self) -> &RecordingMapper {
        self.user_process
            .as_ref()
            .map_or(&self.mapper, |(_, user_process)| user_process)
    }

    /// The Host of its one view, which has forgotten what it mapped before.
    pub fn host(&mut self) -> Host<'_> {
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
    pub fn set_user_pte(&self, page: u32, pte: Pte) {
        self.set_word(Self::USER_TABLE + page * 4, pte.0);
    }
}
