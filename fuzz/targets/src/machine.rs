//! A machine without a processor: memory, views, and a world that goes on.
//!
//! Who drives it plays the Guest: it writes memory, sets registers, and says
//! what trapped. What the Host maps goes into a recording mapper for each view,
//! and what may never be mapped is refused there by panic. Handing over to
//! another view happens as in the real machine: the Host of the other one
//! catches up, and goes on.

#![expect(unsafe_code, reason = "zeroed state, and a Vec as Guest memory")]

use crate::input::Input;
use lg_abi::hypercall::RawCall;
use lg_abi::page::{
    ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_ADDR, SWITCHER_INDEX,
};
use lg_abi::segment::{
    Descriptor, GDT_KERNEL_CS, GDT_KERNEL_DS, GDT_TLS_ENTRIES, GDT_TLS_MIN,
    GDT_USER_CS, GDT_USER_DS, GUEST_PL, KERNEL_CS, KERNEL_DS, USER_PL,
};
use lg_abi::shared::{HCALL_PENDING, offset};
use lg_host::address::{GuestPhys, GuestVirt, as_word};
use lg_host::cpu::cpuid::Answer;
use lg_host::cpu::extended::{Extended, part};
use lg_host::kill::Kill;
use lg_host::memory::Memory;
use lg_host::outbox::{OUTBOX_SIZE, Outboxes};
use lg_host::paging::{Shadow, ShadowMemory};
use lg_host::patch::TrampolineKind;
use lg_host::patch::copies::MAX_COPIES;
use lg_host::patch::direct::MAX_DIRECT;
use lg_host::run::{Event, Host};
use lg_host::state::Vm;
use lg_host::world::{Access, MapError, Mapper, WallClock, World};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

/// Views that the machine has processes for.
pub const VIEWS: usize = 3;

/// Bytes of physical memory.
pub const LIMIT: u32 = 64 * PAGE_SIZE;

/// Bytes of the patched copies of some pages, which lie behind it.
const COPIES: u32 = as_word(MAX_COPIES) * PAGE_SIZE;

/// The page of a network, whose outbox the views have.
pub const NETWORK: u32 = LIMIT - PAGE_SIZE;

/// The outbox.
type Outbox = [Cell<u32>; OUTBOX_SIZE as usize / 4];

/// Where the kernel maps physical memory.
pub const PAGE_OFFSET: u32 = 0xC000_0000;

/// The first page directory; there are [`VIEWS`] and one more, each in a page
/// of its own.
pub const DIRECTORY: u32 = 0x1000;

/// The page table for the kernel's addresses, which all directories share.
pub const KERNEL_TABLE: u32 = 0x5000;

/// The page table for addresses below 4 MiB of the first directory; the others
/// follow.
pub const USER_TABLE: u32 = 0x6000;

/// `lguest_data`.
pub const DATA: u32 = 0xB000;

/// The kernel's stack ends here.
pub const STACK: u32 = PAGE_OFFSET + 0xE000;

/// The kernel's code; its page is below the stack's.
pub const CODE: u32 = 0xF000;

/// What is mapped in one view.
#[derive(Default)]
pub struct RecordingMapper {
    /// Page number to frame and access.
    pub pages: BTreeMap<u32, (u32, Access)>,
    /// What is mapped where nobody can get at it: page number to frame.
    pub hidden: BTreeMap<u32, u32>,
    /// How many mappings there may be.
    pub room: Option<usize>,
}

impl Mapper for RecordingMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        let bytes = u64::from(pages) * u64::from(PAGE_SIZE);
        assert!(
            pages > 0
                && va.page_offset() == 0
                && pa.0.is_multiple_of(PAGE_SIZE)
        );
        let end = u64::from(pa.0) + bytes;
        let copy = pa.0 >= LIMIT && access == Access::Read && pages == 1;
        let limit = if copy { LIMIT + COPIES } else { LIMIT };
        assert!(end <= u64::from(limit), "{pa:?}");
        assert!(
            u64::from(va.0) + bytes <= u64::from(SWITCHER_ADDR),
            "{va:?}"
        );
        if va.page_number() == 0 {
            return Err(MapError::Forbidden);
        }
        if self.room.is_some_and(|room| self.pages.len() >= room) {
            // The old mapping may be gone then, and here it is.
            self.pages.remove(&va.page_number());
            self.hidden.remove(&va.page_number());
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
        assert!(va.page_offset() == 0);
        let page = va.page_number();
        let shown = self.pages.get(&page).map(|&(frame, _)| frame);
        let there = shown.or_else(|| self.hidden.remove(&page));
        assert_eq!(there, Some(pa.0), "what is at {va:?}");
        self.pages.insert(page, (pa.0, access));
        Ok(())
    }

    fn hides(&self) -> bool {
        true
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        assert!(va.page_offset() == 0 && pages > 0);
        if self.room.is_some_and(|room| self.pages.len() >= room) {
            return Err(MapError::NoRoom);
        }
        let first = va.page_number();
        for page in first..first + pages {
            if let Some((frame, _)) = self.pages.remove(&page) {
                self.hidden.insert(page, frame);
            }
            assert!(self.hidden.contains_key(&page), "{va:?}+{pages}");
        }
        Ok(())
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let bytes = u64::from(pages) * u64::from(PAGE_SIZE);
        assert!(va.page_offset() == 0);
        assert!(
            u64::from(va.0) + bytes <= u64::from(SWITCHER_ADDR),
            "{va:?}"
        );
        let first = va.page_number();
        let inside: Vec<u32> = self
            .pages
            .range(first..first + pages)
            .map(|(&page, _)| page)
            .collect();
        // One page out of the middle of others splits a mapping.
        let splits = pages < ENTRIES && !inside.is_empty();
        if splits && self.room.is_some_and(|room| self.pages.len() >= room) {
            return Err(MapError::NoRoom);
        }
        for page in inside {
            self.pages.remove(&page);
        }
        self.hidden.retain(|&p, _| p < first || p >= first + pages);
        Ok(())
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        let tls = GDT_TLS_MIN..GDT_TLS_MIN + GDT_TLS_ENTRIES;
        assert!(tls.contains(&index), "{index}");
        // Whatever the Guest has for one, ours can be loaded.
        assert!(descriptor.is_present() && descriptor.dpl() == 3);
        Ok(())
    }
}

/// A view's hand on its recording mapper.
struct Book<'a>(&'a RefCell<RecordingMapper>);

impl Mapper for Book<'_> {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().map(va, pa, pages, access)
    }

    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().protect(va, pa, access)
    }

    fn hides(&self) -> bool {
        self.0.borrow().hides()
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        self.0.borrow_mut().hide(va, pages)
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        self.0.borrow_mut().unmap(va, pages)
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().set_segment(index, descriptor)
    }
}

/// What all views know of the world.
#[derive(Default)]
struct Common {
    now: Cell<u64>,
    armed: Cell<u64>,
    trampolines: Cell<u32>,
    /// To whom the run token went.
    handed_to: Cell<Option<usize>>,
    /// How often the Host has waited in this step.
    waits: Cell<u32>,
}

/// Everything but memory.
struct Outside<'a> {
    vm: &'a Vm,
    common: &'a Common,
}

/// So often in one step may a Host wait before it waits for ever.
const MAX_WAITS: u32 = 64;

impl Outside<'_> {
    fn wait(&self) -> u32 {
        let waits = self.common.waits.get() + 1;
        self.common.waits.set(waits);
        assert!(waits < MAX_WAITS, "the Host goes round in circles");
        waits
    }
}

impl World for Outside<'_> {
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        assert!(key <= LIMIT - 4 && key.is_multiple_of(4), "{key:#x}");
        assert!(dma.0 <= LIMIT - 100, "{dma:?}");
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
        assert!(key.is_multiple_of(4), "{key:#x}");
        Ok(count_irq & 0xFF < 32)
    }

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        assert!(message.len() <= 128 && !message.contains(&0));
        Err(Kill::LauncherGone)
    }

    fn broken_out(&mut self) -> Result<(), Kill> {
        self.wait();
        self.vm.break_wanted.store(0, Ordering::SeqCst);
        Ok(())
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
        if self.vm.kick.load(Ordering::SeqCst) != seen {
            return;
        }
        let (now, armed) = (self.common.now.get(), self.common.armed.get());
        if armed != 0 {
            self.common.now.set(now.max(armed));
        } else if waits < MAX_WAITS / 2 {
            self.vm.irqs.fetch_or(0x8000_0001, Ordering::SeqCst);
        } else {
            // A Guest that blocks all its interrupts sleeps for ever. Here
            // somebody shakes it.
            self.vm.halted.set(0);
        }
        self.vm.kick.fetch_add(1, Ordering::SeqCst);
    }

    fn start_view(&mut self, slot: usize) -> Result<(), Kill> {
        if slot < VIEWS {
            Ok(())
        } else {
            Err(Kill::NoView)
        }
    }

    fn balance(&mut self) {}

    fn buffers_may_be_free(&mut self) {}

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Option<Answer> {
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
        0xFFFE_0400 + 64 * u32::try_from(slot).expect("it is small")
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
    ) -> Option<u32> {
        assert!(displaced.len() <= lg_host::patch::MAX_DISPLACED, "{kind:?}");
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

/// The machine.
pub struct Machine<'a> {
    ram: &'a [u32],
    outbox: &'a Outbox,
    /// The state that all views share.
    pub vm: &'a Vm,
    /// What each view maps.
    pub mappers: &'a [RefCell<RecordingMapper>; VIEWS],
    /// Whose turn it is.
    pub current: usize,
    common: &'a Common,
    views: [ViewState<'a>; VIEWS],
}

/// A view: what it needs, until it starts.
enum ViewState<'a> {
    Waiting(&'a mut ShadowMemory, &'a mut Book<'a>, &'a mut Outside<'a>),
    Started(Box<Host<'a>>),
    Starting,
}

/// A value whose every field is fine when it is zero, in pages of its own:
/// what is not touched of it costs nothing, and a view's record is megabytes.
///
/// # Invariants
///
/// 1. It points to a zeroed mapping of its own, large enough for a `T`.
struct Zeroed<T>(NonNull<T>);

impl<T> Zeroed<T> {
    /// Only for `Vm` and `ShadowMemory`, for which zero is valid, and numbers.
    fn new() -> Self {
        let (flags, rights) =
            (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping touches nothing that exists.
        let at = unsafe {
            mmap_anonymous(ptr::null_mut(), size_of::<T>(), rights, flags)
        };
        let at = at.expect("memory can be had");
        Self(NonNull::new(at.cast()).expect("mmap never answers null"))
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: invariant 1, and zero is a good T.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: invariant 1; nobody has references any more.
        let done = unsafe { munmap(self.0.as_ptr().cast(), size_of::<T>()) };
        done.expect("we mapped it ourselves");
    }
}

/// Makes a machine with a Guest that is in the middle of its kernel, and
/// plays with it. `linear`: the kernel's memory is mapped without a hole.
pub fn with_machine(linear: bool, play: impl FnOnce(&mut Machine<'_>)) {
    let ram = vec![0_u32; (LIMIT + COPIES) as usize / 4];
    let outbox: Zeroed<Outbox> = Zeroed::new();
    let vm: Zeroed<Vm> = Zeroed::new();
    let mappers: [RefCell<RecordingMapper>; VIEWS] = Default::default();
    let common = Common::default();
    common.now.set(1);
    let mut memories: [Zeroed<ShadowMemory>; VIEWS] =
        std::array::from_fn(|_| Zeroed::new());
    let mut books: [Book<'_>; VIEWS] =
        std::array::from_fn(|slot| Book(&mappers[slot]));
    let mut worlds: [Outside<'_>; VIEWS] = std::array::from_fn(|_| Outside {
        vm: &vm,
        common: &common,
    });
    let mut parts = memories.iter_mut().zip(&mut books).zip(&mut worlds);
    let views = std::array::from_fn(|_| {
        let ((memory, book), world) = parts.next().expect("one each");
        ViewState::Waiting(memory, book, world)
    });
    let mut machine = Machine {
        ram: &ram,
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
        for n in 0..64 {
            self.write(DATA + offset::HCALL_STATUS + n, &[0xFF]);
        }
        for n in 0..=3 {
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
        let base = self.ram.as_ptr().cast_mut().cast();
        // SAFETY: the words outlive the machine, and nobody touches them but
        // through this. LIMIT bytes of them there are.
        unsafe { Memory::new(base, LIMIT) }
    }

    /// The patched copies of its pages, which lie behind it.
    #[must_use]
    pub fn copies(&self) -> Memory {
        let base = self.ram[LIMIT as usize / 4..].as_ptr();
        // SAFETY: as above; there are COPIES bytes.
        unsafe { Memory::new(base.cast_mut().cast(), COPIES) }
    }

    /// Its outbox.
    #[must_use]
    pub fn outbox(&self) -> Memory {
        let base = self.outbox.as_ptr().cast_mut().cast();
        // SAFETY: as above; there are OUTBOX_SIZE bytes.
        unsafe { Memory::new(base, OUTBOX_SIZE) }
    }

    /// Reads a word of the Guest's memory that must be there.
    #[must_use]
    pub fn word(&self, addr: u32) -> u32 {
        self.memory().word(GuestPhys(addr)).expect("it is there")
    }

    /// Somebody writes a word, if there is such a word.
    pub fn set_word(&self, addr: u32, word: u32) {
        self.write(addr, &word.to_le_bytes());
    }

    /// Somebody writes bytes, if there is room for them. Nobody has asked
    /// whether they may, so to a page that has a patched copy it was a device,
    /// and a kick follows.
    pub fn write(&self, addr: u32, bytes: &[u8]) {
        let _ = self.memory().write(GuestPhys(addr), bytes);
        let last = addr.saturating_add(as_word(bytes.len()));
        let pages = addr >> PAGE_SHIFT..=last >> PAGE_SHIFT;
        let frames = self.vm.copies.iter().map(|copy| copy.get());
        let mut pages_with_copies =
            frames.filter(|&frame| frame != 0).map(|f| f >> PAGE_SHIFT);
        if pages_with_copies.any(|page| pages.contains(&page)) {
            self.vm.kick.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The Guest stores bytes at `va`, by what is mapped there. Answers
    /// whether it could, with as many page faults as it takes.
    ///
    /// # Errors
    ///
    /// The Guest has to die.
    pub fn store(
        &mut self,
        va: u32,
        user: bool,
        bytes: &[u8],
    ) -> Result<bool, Kill> {
        let Some(at) = self.reach(va, Access::Write, user)? else {
            return Ok(false);
        };
        self.memory().write(GuestPhys(at), bytes)?;
        Ok(true)
    }

    /// What user code that executes at `va` finds there, if anything is.
    ///
    /// # Errors
    ///
    /// The Guest has to die.
    pub fn code(&mut self, va: u32) -> Result<Option<[u8; 2]>, Kill> {
        let Some(at) = self.reach(va, Access::Read, true)? else {
            return Ok(None);
        };
        let mut code = [0; 2];
        match at.checked_sub(LIMIT) {
            Some(at) => self.copies().read(GuestPhys(at), &mut code)?,
            None => self.memory().read(GuestPhys(at), &mut code)?,
        }
        Ok(Some(code))
    }

    /// Where `va` is, after as many page faults as it takes; `None` if it is
    /// nowhere, or there is no room.
    fn reach(
        &mut self,
        va: u32,
        access: Access,
        user: bool,
    ) -> Result<Option<u32>, Kill> {
        const TRIES: u32 = 4;
        for _ in 0..TRIES {
            let book = self.mappers[self.current].borrow();
            let there = book.pages.get(&(va >> PAGE_SHIFT)).copied();
            drop(book);
            if let Some((frame, allowed)) = there
                && (access == Access::Read || allowed == access)
            {
                return Ok(Some(frame + va % PAGE_SIZE));
            }
            self.vm.user.set(user.into());
            self.vm
                .regs
                .eip
                .set(if user { va } else { PAGE_OFFSET + CODE });
            let write = u32::from(access == Access::Write);
            self.step(Event::Trap {
                vector: 14,
                error: write << 1 | u32::from(user) << 2,
                cr2: va,
            })?;
            if user && !self.vm.in_user_mode() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The Guest leaves a call in the ring.
    pub fn leave_in_ring(&self, call: RawCall) {
        let n = self.vm.next_hcall.get();
        let at = DATA + offset::HCALLS + n * 16;
        for (i, word) in [call.eax, call.edx, call.ebx, call.ecx]
            .into_iter()
            .enumerate()
        {
            self.set_word(at + u32::try_from(i).unwrap_or(0) * 4, word);
        }
        self.write(DATA + offset::HCALL_STATUS + n, &[HCALL_PENDING]);
    }

    /// The Guest makes a call by the instruction, from its code page.
    ///
    /// # Errors
    ///
    /// The Guest has to die.
    pub fn call(&mut self, call: RawCall) -> Result<(), Kill> {
        let regs = &self.vm.regs;
        regs.eax.set(call.eax);
        regs.edx.set(call.edx);
        regs.ebx.set(call.ebx);
        regs.ecx.set(call.ecx);
        regs.eip.set(PAGE_OFFSET + CODE + 0x100);
        self.write(CODE + 0x100, &[0xCD, 0x1F]);
        self.step(Event::Trap {
            vector: 13,
            error: 0xFA,
            cr2: 0,
        })
    }

    /// The Guest stopped for `event`; afterwards it may go on, perhaps in
    /// another view. What must never be is looked for.
    ///
    /// # Errors
    ///
    /// The Guest has to die.
    pub fn step(&mut self, event: Event) -> Result<(), Kill> {
        self.common.waits.set(0);
        let mut result = self.host().run_guest(event);
        while let Some(slot) = self.common.handed_to.take() {
            assert_eq!(result, Err(Kill::NoView), "that is how we left");
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

    /// Time passes.
    pub fn pass(&self, nanoseconds: u32) {
        let now = self.common.now.get() + u64::from(nanoseconds);
        self.common.now.set(now);
        let armed = self.common.armed.get();
        if armed != 0 && now >= armed {
            self.vm.kick.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The Host of the view whose turn it is.
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

    /// What executes must be what its page says. A patched copy is its page but
    /// for system calls and the trampoline slots of direct calls, and nobody
    /// can write to a page that has one.
    fn check_copies(&self) {
        let book = self.mappers[self.current].borrow();
        for (&page, &(frame, access)) in &book.pages {
            let is_it = |copy: &Cell<u32>| copy.get() == frame;
            let has_copy = frame != 0 && self.vm.copies.iter().any(is_it);
            assert!(
                access == Access::Read || !has_copy,
                "page {page:#x} is writable, and frame {frame:#x} has a copy"
            );
            if let Some(at) = frame.checked_sub(LIMIT) {
                let original =
                    self.vm.copies[(at >> PAGE_SHIFT) as usize].get();
                assert!(original != 0, "page {page:#x} has nobody's copy");
                self.compare(original, at);
            }
        }
    }

    fn compare(&self, original: u32, patched: u32) {
        let mut page = [0; PAGE_SIZE as usize];
        let mut copy = page;
        let read = self.memory().read(GuestPhys(original), &mut page);
        read.expect("it has a copy");
        let read = self.copies().read(GuestPhys(patched), &mut copy);
        read.expect("it is mapped");
        let mut at = 0;
        while at < page.len() {
            let may_differ = match page[at..] {
                [0xCD, 0x80, ..] => 2,
                [0x8D, 0xB4, 0x26, 0, 0, 0, 0, ..]
                | [0x8D, 0xBC, 0x27, 0, 0, 0, 0, ..]
                | [0x0F, 0x1F, 0x80, 0, 0, 0, 0, ..] => 7,
                _ => 0,
            };
            assert!(
                may_differ > 0 || page[at] == copy[at],
                "the copy of {original:#x} is stale at {at:#x}"
            );
            at += may_differ.max(1);
        }
    }

    /// Whatever is mapped must be on record, for nobody would ever unmap it
    /// otherwise.
    fn check(&mut self) {
        let next = self.vm.next_hcall.get();
        assert!(next < 64, "the ring has no entry {next}");
        let mapper = self.mappers[self.current].borrow();
        // Pages that have or had patched copies are not the kernel's to write
        // at once.
        let copies = self.vm.copy_count.get() != 0;
        let view = &self.host().shadow;
        for (&page, &(frame, access)) in &mapper.pages {
            let va = GuestVirt(page << PAGE_SHIFT);
            let index = page / ENTRIES;
            let linear = view.linear_pages(index) > page % ENTRIES
                && frame == va.0.wrapping_sub(PAGE_OFFSET)
                && (access == Access::Write || copies);
            let shadow = view.shadow(va);
            let single = shadow.is_mapped()
                && shadow.frame().0 == frame
                && shadow.access() == access;
            assert!(linear || single, "{va:?} is mapped and not on record");
            assert!(index < SWITCHER_INDEX, "{va:?} is not the Guest's");
        }
    }

    /// A number that means something in this machine, or any.
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
