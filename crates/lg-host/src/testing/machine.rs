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
use lg_abi::page::{Format, PAGE_SHIFT, PAGE_SIZE, Pte};
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
    /// Where the addresses of its devices end, if it has a PCI bus.
    pub device_limit: u32,
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
    /// The page table for user addresses from 0 on.
    pub const USER_TABLE: u32 = 0x2000;
    /// The page table for the kernel's first addresses.
    pub const KERNEL_TABLE: u32 = 0x3000;
    /// With PAE, the page directory for the first GiB.
    pub const USER_DIRECTORY: u32 = 0x30_0000;
    /// With PAE, the page directory for the kernel's GiB.
    pub const KERNEL_DIRECTORY: u32 = 0x30_1000;
    /// With PAE, the second page tables of user code and of the kernel.
    const SECOND_TABLES: u32 = 0x30_2000;
    /// `lguest_data`.
    pub const DATA: u32 = 0x4000;
    /// The page of a network.
    pub const NETWORK: u32 = 0x3F_F000;
    /// Bytes of patched copies.
    const COPIES: u32 = as_word(MAX_COPIES) * PAGE_SIZE;

    /// A Guest in the middle of its kernel. Nothing is mapped yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_format(Format::TwoLevels)
    }

    /// The same with page tables of this format.
    #[must_use]
    pub fn with_format(format: Format) -> Self {
        let machine = Self {
            ram: Ram::new(Self::RAM),
            copies: Ram::new(Self::COPIES),
            outbox: None,
            vm: state(),
            view: record(),
            mapper: Self::recording_mapper(),
            user_process: None,
            world: Pretended::default(),
            device_limit: 0,
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
        vm.paging.set(format as u32);
        let set = |at: GuestPhys, entry| machine.set_word(at.0, entry);
        let directory_entry = |va| Self::directory_entry_at(format, va);
        set(directory_entry(0), Self::USER_TABLE | 0x67);
        set(directory_entry(0xC000_0000), Self::KERNEL_TABLE | 0x67);
        if format == Format::Pae {
            set(GuestPhys(Self::CR3), Self::USER_DIRECTORY | 1);
            set(GuestPhys(Self::CR3 + 24), Self::KERNEL_DIRECTORY | 1);
            let second = Self::SECOND_TABLES;
            set(directory_entry(0x20_0000), second | 0x67);
            set(directory_entry(0xC020_0000), (second + PAGE_SIZE) | 0x67);
        }
        // The kernel's memory, not linear as long as page 0 is missing.
        for page in 1..1024_u32 {
            let va = 0xC000_0000 | page << PAGE_SHIFT;
            set(Self::entry_at(format, va), page << PAGE_SHIFT | 0x63);
        }
        vm.regs.esp.set(0xC000_8000);
        vm.esp1.set(0xC000_9000);
        vm.ss1.set(u32::from(KERNEL_DS));
        machine
    }

    /// Where the page-table entry for `va` is, below 4 MiB or in the kernel's
    /// first 4 MiB.
    #[must_use]
    pub fn entry_at(format: Format, va: u32) -> GuestPhys {
        let kernel = va >= 0xC000_0000;
        let first = [Self::USER_TABLE, Self::KERNEL_TABLE][usize::from(kernel)];
        GuestPhys(match format {
            Format::TwoLevels => first + (va >> PAGE_SHIFT) % 1024 * 4,
            Format::Pae => {
                let second =
                    Self::SECOND_TABLES + u32::from(kernel) * PAGE_SIZE;
                let table = [first, second][va as usize >> 21 & 1];
                table + (va >> PAGE_SHIFT) % 512 * 8
            }
        })
    }

    /// Where the directory entry for `va` is, in the first GiB or the
    /// kernel's.
    #[must_use]
    pub fn directory_entry_at(format: Format, va: u32) -> GuestPhys {
        let kernel = va >= 0xC000_0000;
        GuestPhys(match format {
            Format::TwoLevels => Self::CR3 + (va >> 22) * 4,
            Format::Pae => {
                let directories =
                    [Self::USER_DIRECTORY, Self::KERNEL_DIRECTORY];
                directories[usize::from(kernel)] + (va >> 21) % 512 * 8
            }
        })
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
            memory: self.ram.memory().with_devices_up_to(self.device_limit),
            copies: self.copies.memory(),
            outboxes,
            shadow: view,
            mapper: &mut self.mapper,
            world: &mut self.world,
        }
    }

    /// Writes the entry for a user page below 4 MiB.
    pub fn set_user_pte(&self, page: u32, pte: Pte) {
        let format = Format::by_number(self.vm.paging.get());
        let at = Self::entry_at(format, page << PAGE_SHIFT);
        self.set_word(at.0, pte.0);
    }
}
