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
    CODE, DATA, DIRECTORY, KERNEL_TABLE, LIMIT, NETWORK, PAGE_OFFSET, STACK,
    USER_TABLE, VIEWS,
};

use crate::input::Input;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE, SWITCHER_ADDR};
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
use lg_host::state::Vm;
use lg_host::testing::{Ram, RecordingMapper, SharedMapper};
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::state::MAX_COPIES;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use world::{Common, Outside};
use zeroed::Zeroed;

/// Bytes of the patched copies of some pages, which are after it.
const COPIES: u32 = as_word(MAX_COPIES) * PAGE_SIZE;

/// The outbox.
type Outbox = [Cell<u32>; OUTBOX_SIZE as usize / 4];

/// The machine.
pub struct Machine<'a> {
    ram: &'a Ram,
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
    let mut machine = Machine {
        ram: &ram,
        copies: &copies,
        outbox: &outbox,
        vm: &vm,
        mappers: &mappers,
        current: 0,
        common: &common,
        views,
    };
    machine.set_up(linear);
    play(&mut machine);
}

impl<'a> Machine<'a> {
    fn set_up(&mut self, linear: bool) {
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
        for n in 0..=as_word(VIEWS) {
            let directory = DIRECTORY + n * PAGE_SIZE;
            let kernel = PAGE_OFFSET >> 22 << 2;
            self.set_word(directory + kernel, KERNEL_TABLE | 0x67);
            self.set_word(directory, (USER_TABLE + n * PAGE_SIZE) | 0x67);
        }
        for page in u32::from(!linear)..LIMIT >> PAGE_SHIFT {
            let entry = page << PAGE_SHIFT | 0x63;
            self.set_word(KERNEL_TABLE + page * 4, entry);
        }
    }

    /// The Guest's memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.ram.memory()
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
