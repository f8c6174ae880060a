//! A machine without a processor: memory, views, and their world.
//!
//! A target takes the role of the Guest: it writes memory, sets registers, and
//! reports traps. Each view has a recording mapper, which panics if something
//! is mapped that must never be. Another view gets the run token as in the real
//! machine, and its Host brings its mappings up to date.

mod checks;
mod guest;
mod layout;
mod world;
mod zeroed;

pub use layout::{
    CODE, DATA, DIRECTORY, KERNEL_DIRECTORY, KERNEL_TABLE, LIMIT, NETWORK,
    PAGE_OFFSET, SECOND_KERNEL_TABLE, SECOND_TABLE, STACK, USER_DIRECTORY,
    USER_TABLE, VIEWS,
};

use crate::input::Input;
use lg_abi::gen3::pci::{Device, MAX_DEVICES};
use lg_abi::known::Known;
use lg_abi::page::{Format, PAGE_SHIFT, PAGE_SIZE, SWITCHER_ADDR};
use lg_abi::segment::{
    Descriptor, GDT_KERNEL_CS, GDT_KERNEL_DS, GDT_USER_CS, GDT_USER_DS,
    GUEST_PL, KERNEL_CS, KERNEL_DS, USER_PL,
};
use lg_abi::shared::{HCALL_DONE, LHCALL_RING_SIZE, offset};
use lg_host::address::as_word;
use lg_host::host::{Event, Host};
use lg_host::kill::Kill;
use lg_host::memory::Memory;
use lg_host::outbox::Outboxes;
use lg_host::paging::{Shadow, ShadowMemory};
use lg_host::pci::Pci;
use lg_host::state::Vm;
use lg_host::testing::{Ram, RecordingMapper, SharedMapper};
use lg_wire::moved::Moved;
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::spawn::MAX_SHARED_PAGES;
use lg_wire::state::{MAX_COPIES, ViewSetup};
use std::cell::Cell;
use std::sync::atomic::Ordering;
use world::{Common, Outside};
pub use world::{DeviceRequest, register};
use zeroed::Zeroed;

/// Bytes of the patched copies of some pages, which are after it.
const COPIES: u32 = as_word(MAX_COPIES) * PAGE_SIZE;

/// The outbox.
type Outbox = [Cell<u32>; OUTBOX_SIZE as usize / 4];

/// The machine.
pub struct Machine<'a> {
    ram: &'a Ram,
    /// One more than the last address of a device.
    pub device_limit: u32,
    copies: &'a Ram,
    outbox: &'a Zeroed<Outbox>,
    /// The state that all views share.
    pub vm: &'a Vm,
    /// What each view maps.
    pub mappers: &'a [SharedMapper; VIEWS],
    /// The view that has the run token.
    pub current: usize,
    common: &'a Common,
    views: [ViewState<'a>; VIEWS],
}

/// A view, or its parts before it starts.
enum ViewState<'a> {
    Waiting(
        &'a mut ShadowMemory,
        &'a mut SharedMapper,
        &'a mut Outside<'a>,
    ),
    Started(Box<Host<'a>>),
    Starting,
}

/// Makes a machine with a Guest that runs its kernel, and calls `play` with it.
/// `linear`: the kernel's memory is mapped without a hole.
pub fn with_machine(linear: bool, play: impl FnOnce(&mut Machine<'_>)) {
    with_machine_of(Format::TwoLevels, linear, play);
}

/// The same with page tables of this format. Linux 3.1 is the first release
/// that is tried with PAE.
pub fn with_machine_of(
    format: Format,
    linear: bool,
    play: impl FnOnce(&mut Machine<'_>),
) {
    with_devices(format, linear, &[], play);
}

/// The same with `devices` on a PCI bus, if there are any. The Guest is then
/// one of Linux 4.1.
pub fn with_devices(
    format: Format,
    linear: bool,
    devices: &[Device],
    play: impl FnOnce(&mut Machine<'_>),
) {
    let (ram, copies) = (Ram::new(LIMIT), Ram::new(COPIES));
    let outbox: Zeroed<Outbox> = Zeroed::new();
    let vm: Zeroed<Vm> = Zeroed::new();
    let mappers: [SharedMapper; VIEWS] = std::array::from_fn(|_| {
        SharedMapper::new(RecordingMapper::new(LIMIT, COPIES))
    });
    let mut views_mappers = mappers.clone();
    let common = Common::default();
    common.now.set(1);
    let mut records: [Zeroed<ShadowMemory>; VIEWS] =
        std::array::from_fn(|_| Zeroed::new());
    let mut worlds: [Outside<'_>; VIEWS] = std::array::from_fn(|_| Outside {
        vm: &vm,
        common: &common,
    });
    let mut parts = records.iter_mut().zip(&mut views_mappers).zip(&mut worlds);
    let views = std::array::from_fn(|_| {
        let ((record, mapper), world) = parts.next().expect("one each");
        ViewState::Waiting(record, mapper, world)
    });
    let setup = setup(devices);
    let mut machine = Machine {
        device_limit: Pci::end(&setup),
        ram: &ram,
        copies: &copies,
        outbox: &outbox,
        vm: &vm,
        mappers: &mappers,
        current: 0,
        common: &common,
        views,
    };
    machine.set_up();
    match format {
        Format::TwoLevels => machine.set_up_tables(),
        Format::Pae => machine.set_up_pae(),
    }
    if !devices.is_empty() {
        vm.pci.begin(&setup);
        machine.set_interface(Known::Linux4_1);
    }
    for page in u32::from(!linear)..LIMIT >> PAGE_SHIFT {
        let va = PAGE_OFFSET + (page << PAGE_SHIFT);
        let at = machine.entry_at(DIRECTORY, va);
        machine.set_word(at, page << PAGE_SHIFT | 0x63);
    }
    play(&mut machine);
}

/// What the Launcher says of a machine with `devices`.
fn setup(devices: &[Device]) -> ViewSetup {
    let mut words = [0; MAX_DEVICES];
    for (word, device) in words.iter_mut().zip(devices) {
        *word = device.word();
    }
    ViewSetup {
        limit: LIMIT,
        shared_pages: 0,
        disks: 0,
        shared_pfns: [0; MAX_SHARED_PAGES],
        resumed: 0,
        moved: Moved::default(),
        user_processes: 0,
        slow_paths: 0,
        guestid: 0,
        page_offset: PAGE_OFFSET,
        pgdir: DIRECTORY,
        interface: Known::Linux4_1 as u32,
        paging: 0,
        boot_parameters: 0,
        start: 0,
        device_count: as_word(devices.len()),
        devices: words,
        trace_records: 0,
    }
}

impl<'a> Machine<'a> {
    fn set_up(&mut self) {
        let vm = self.vm;
        vm.limit.set(LIMIT);
        vm.page_offset.set(PAGE_OFFSET);
        vm.cr3.set(DIRECTORY);
        vm.views[0].cr3.set(DIRECTORY);
        vm.views[0].last_use.set(1);
        vm.uses.set(1);
        vm.cs.set(u32::from(KERNEL_CS));
        vm.ss.set(u32::from(KERNEL_DS));
        vm.lguest_data.set(DATA);
        vm.regs.esp.set(STACK);
        vm.regs.eip.set(PAGE_OFFSET + CODE);
        vm.regs.eflags.set(0x202);
        vm.gdt[GDT_KERNEL_CS as usize].set(Descriptor::flat_code(GUEST_PL));
        vm.gdt[GDT_KERNEL_DS as usize].set(Descriptor::flat_data(GUEST_PL));
        vm.gdt[GDT_USER_CS as usize].set(Descriptor::flat_code(USER_PL));
        vm.gdt[GDT_USER_DS as usize].set(Descriptor::flat_data(USER_PL));
        vm.esp1.set(STACK);
        vm.ss1.set(u32::from(KERNEL_DS));
        let done = [HCALL_DONE; LHCALL_RING_SIZE];
        self.write(DATA + offset::HCALL_STATUS, &done);
    }

    /// The page directories of two levels.
    fn set_up_tables(&self) {
        for n in 0..=as_word(VIEWS) {
            let directory = DIRECTORY + n * PAGE_SIZE;
            let kernel = PAGE_OFFSET >> 22 << 2;
            self.set_word(directory + kernel, KERNEL_TABLE | 0x67);
            self.set_word(directory, (USER_TABLE + n * PAGE_SIZE) | 0x67);
        }
    }

    /// The pointer tables and page directories of PAE, for a Guest of Linux
    /// 3.1.
    fn set_up_pae(&self) {
        self.vm.paging.set(Format::Pae as u32);
        self.set_interface(Known::Linux3_1);
        for n in 0..=as_word(VIEWS) {
            let pointers = DIRECTORY + n * PAGE_SIZE;
            let directory = USER_DIRECTORY + n * PAGE_SIZE;
            self.set_word(pointers, directory | 1);
            self.set_word(pointers + 3 * 8, KERNEL_DIRECTORY | 1);
            self.set_word(directory, (USER_TABLE + n * PAGE_SIZE) | 0x67);
            let second = SECOND_TABLE + n * PAGE_SIZE;
            self.set_word(directory + 8, second | 0x67);
        }
        self.set_word(KERNEL_DIRECTORY, KERNEL_TABLE | 0x67);
        self.set_word(KERNEL_DIRECTORY + 8, SECOND_KERNEL_TABLE | 0x67);
    }

    /// The Guest is of a release with this interface, and its ring is empty.
    fn set_interface(&self, known: Known) {
        self.vm.interface.set(known as u32);
        let layout = &Known::by_number(known as u32).layout;
        let status = layout.hcall_status.offset();
        self.write(DATA + status, &[HCALL_DONE; LHCALL_RING_SIZE]);
    }

    /// What the Host has asked of devices since this was called last.
    #[must_use]
    pub fn device_requests(&self) -> Vec<DeviceRequest> {
        self.common.requests.take()
    }

    /// The format of the page tables.
    #[must_use]
    pub fn format(&self) -> Format {
        Format::by_number(self.vm.paging.get())
    }

    /// Where the entry for `va` is in the tables of `directory`, as they are
    /// at first. `va` is below 4 MiB, or in the kernel's first 4 MiB.
    #[must_use]
    pub fn entry_at(&self, directory: u32, va: u32) -> u32 {
        let program = directory - DIRECTORY;
        let [first, second] = if va >= PAGE_OFFSET {
            [KERNEL_TABLE, SECOND_KERNEL_TABLE]
        } else {
            [USER_TABLE + program, SECOND_TABLE + program]
        };
        let page = va >> PAGE_SHIFT;
        match self.format() {
            Format::TwoLevels => first + page % 1024 * 4,
            Format::Pae if page & 512 == 0 => first + page % 512 * 8,
            Format::Pae => second + page % 512 * 8,
        }
    }

    /// The Guest's memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.ram.memory().with_devices_up_to(self.device_limit)
    }

    /// The patched copies of its pages.
    #[must_use]
    pub fn copies(&self) -> Memory {
        self.copies.memory()
    }

    /// Its outbox.
    #[must_use]
    pub fn outbox(&self) -> Memory {
        self.outbox.memory()
    }

    /// Handles `event`. Afterwards the Guest may go on, perhaps in another
    /// view. Checks the invariants.
    ///
    /// # Errors
    ///
    /// The Guest has to die.
    pub fn step(&mut self, event: Event) -> Result<(), Kill> {
        self.common.waits.set(0);
        let mut result = self.host().run_guest(event);
        while let Some(slot) = self.common.handed_to.take() {
            assert_eq!(result, Err(Kill::NoView), "the view ends like this");
            self.current = slot;
            let host = self.host();
            result = host.catch_up().and_then(|()| host.get_ready());
        }
        self.check();
        if result.is_ok() {
            self.check_copies();
            let cr3 = self.vm.views[self.current].cr3.get();
            assert_eq!(self.vm.cr3.get(), cr3, "the wrong view runs");
        }
        result
    }

    /// Advances the time.
    pub fn pass(&self, nanoseconds: u32) {
        let now = self.common.now.get() + u64::from(nanoseconds);
        self.common.now.set(now);
        let armed = self.common.armed.get();
        if armed != 0 && now >= armed {
            self.vm.wire.kick.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The Host of the view that has the run token.
    fn host(&mut self) -> &mut Host<'a> {
        let (vm, memory, copies) = (self.vm, self.memory(), self.copies());
        let pages = [NETWORK >> PAGE_SHIFT];
        let outboxes = Outboxes::new(self.outbox(), &pages);
        let slot = self.current;
        let view = &mut self.views[slot];
        *view = match std::mem::replace(view, ViewState::Starting) {
            ViewState::Waiting(record, mapper, world) => {
                ViewState::Started(Box::new(Host {
                    vm,
                    memory,
                    copies,
                    outboxes,
                    shadow: Shadow::new(slot, vm.views[slot].cr3.get(), record),
                    mapper,
                    world,
                }))
            }
            started => started,
        };
        match view {
            ViewState::Started(host) => host,
            _ => unreachable!("it has just been started"),
        }
    }

    /// A number with a meaning in this machine, or any number.
    pub fn interesting(input: &mut Input<'_>) -> u32 {
        input.one_of(&[
            0,
            1,
            u32::MAX,
            LIMIT,
            LIMIT - PAGE_SIZE,
            LIMIT - 4,
            DIRECTORY,
            DIRECTORY + PAGE_SIZE,
            DIRECTORY + 2 * PAGE_SIZE,
            DIRECTORY + 3 * PAGE_SIZE,
            DIRECTORY + 0xC00,
            KERNEL_TABLE,
            USER_TABLE,
            USER_TABLE + PAGE_SIZE,
            DATA,
            DATA + offset::HCALL_STATUS,
            DATA + offset::HCALLS,
            STACK,
            CODE,
            PAGE_OFFSET,
            PAGE_OFFSET + CODE,
            PAGE_OFFSET + LIMIT,
            SWITCHER_ADDR,
            SWITCHER_ADDR - 1,
            0x1000,
            0x0040_0000,
            0x61,
            0x68,
            0x73,
            0x7B,
        ])
    }
}
