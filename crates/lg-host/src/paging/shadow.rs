//! What a view knows of its own mappings, and of the changes it has seen.
//!
//! The record itself is [`ShadowMemory`]; a view with a user process has two of
//! them, and works on one at a time.

use super::pte::ShadowPte;
use super::record::ShadowMemory;
use crate::address::GuestVirt;
use crate::world::Mapper;
use core::ops::{Deref, DerefMut};
use lg_abi::page::Pte;
use lg_abi::segment::{Descriptor, GDT_TLS_ENTRIES, USER_PL};

/// Thread-local entries of the local descriptor table.
pub const TLS_ENTRIES: usize = GDT_TLS_ENTRIES as usize;

/// These entries as they are at first.
pub const USUAL: [Descriptor; TLS_ENTRIES] =
    [Descriptor::flat_data(USER_PL); TLS_ENTRIES];

/// The bits that make the usual kind: everything but the base.
const KIND_LOW: u32 = 0xFFFF;
const KIND_HIGH: u32 = 0x00CF_FE00;

/// Whether it is writable data in all of the address space, wherever that
/// begins.
pub(crate) fn is_usual(descriptor: Descriptor) -> bool {
    let usual = USUAL[0];
    (descriptor.low ^ usual.low) & KIND_LOW == 0
        && (descriptor.high ^ usual.high) & KIND_HIGH == 0
}

/// After there was no room, the number of faults that are answered with one
/// page each. Where there is room for one piece of 4 MiB and not for two, code
/// in one and data in the other would drop each other for ever.
const CRAMPED: u32 = 1000;

/// How often in a row there may be no room at one instruction. An instruction
/// that copies memory faults once for each page.
const STUCK: u32 = 10_000;

/// What a view maps, for which page directory, and what it has seen of changes.
pub struct Shadow<'a> {
    /// The instruction at which there was no room last, and how often in a
    /// row.
    stuck: (u32, u32),
    slot: usize,
    cr3: u32,
    memory: &'a mut ShadowMemory,
    kernel_seen: u32,
    kick_seen: u32,
    copies_seen: u32,
    /// The kernel stack of the process that ran when this view got the run
    /// token.
    kernel_stack: u32,
    last_fault: GuestVirt,
    spurious: u32,
    behind: bool,
    /// The number of faults to come that get no large mapping.
    cramped: u32,
    /// The address space of user code, while the Host does not work on it.
    user_process: Option<UserSpace<'a>>,
    /// `memory` is the user process's.
    in_user_process: bool,
    /// The entries of the local descriptor table that user code has.
    table: [Descriptor; TLS_ENTRIES],
    has_unusual_table: bool,
    /// Which version of the kernel's own segments is in the table.
    segments_version: u32,
}

/// The record that the view works on: its own, or its user process's.
impl Deref for Shadow<'_> {
    type Target = ShadowMemory;

    fn deref(&self) -> &ShadowMemory {
        self.memory
    }
}

impl DerefMut for Shadow<'_> {
    fn deref_mut(&mut self) -> &mut ShadowMemory {
        self.memory
    }
}

impl<'a> Shadow<'a> {
    /// A view that maps nothing, for the page directory at `cr3`.
    #[must_use]
    pub fn new(slot: usize, cr3: u32, memory: &'a mut ShadowMemory) -> Self {
        Self {
            slot,
            cr3,
            memory,
            kernel_seen: 0,
            kick_seen: 0,
            copies_seen: 0,
            kernel_stack: 0,
            last_fault: GuestVirt(0),
            spurious: 0,
            behind: false,
            cramped: 0,
            stuck: (0, 0),
            user_process: None,
            in_user_process: false,
            table: USUAL,
            has_unusual_table: false,
            segments_version: 0,
        }
    }

    /// The thread-local entries of user code's local descriptor table.
    pub(crate) fn table(&self) -> &[Descriptor; TLS_ENTRIES] {
        &self.table
    }

    pub(crate) fn set_table(&mut self, number: usize, entry: Descriptor) {
        self.table[number] = entry;
        let [first, others @ ..] = &self.table;
        let [_, usual @ ..] = &USUAL;
        self.has_unusual_table = !is_usual(*first) || others != usual;
    }

    /// Whether they are as they were at first, but for the base of the first
    /// one: while only fs and gs are loaded with it, the Host sets their bases.
    pub(crate) fn has_usual_table(&self) -> bool {
        !self.has_unusual_table
    }

    /// Which version of the kernel's own segments
    /// ([`kernel_segments`](crate::cpu::kernel_segments)) is in the table.
    pub(crate) fn segments_version(&self) -> u32 {
        self.segments_version
    }

    /// They are in the table, in this version.
    pub fn set_segments_version(&mut self, version: u32) {
        self.segments_version = version;
    }

    /// Gives it a user process for user code.
    pub fn put_user_process(&mut self, user_process: UserSpace<'a>) {
        self.user_process = Some(user_process);
    }

    pub(super) fn take_user_process(&mut self) -> Option<UserSpace<'a>> {
        self.user_process.take()
    }

    pub(super) fn change_places(&mut self, user_process: &mut UserSpace<'a>) {
        core::mem::swap(&mut self.memory, &mut user_process.memory);
        self.in_user_process = !self.in_user_process;
    }

    /// Whether user code runs in an address space of its own.
    #[must_use]
    pub fn has_user_process(&self) -> bool {
        self.user_process.is_some()
    }

    /// Whether the Host works on the user process.
    pub(super) fn in_user_process(&self) -> bool {
        self.in_user_process
    }

    /// What should be mapped for the Guest's entry `pte`.
    pub(super) fn wanted(&self, pte: Pte) -> ShadowPte {
        if self.in_user_process && !pte.has(Pte::USER) {
            return ShadowPte::NONE;
        }
        ShadowPte::wanted(pte)
    }

    /// The number of this view.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The page directory that this view maps.
    #[must_use]
    pub fn cr3(&self) -> u32 {
        self.cr3
    }

    pub(super) fn set_cr3(&mut self, cr3: u32) {
        self.cr3 = cr3;
    }

    /// Whether the tables may have changed more than once since this view last
    /// looked: what is on record may be neither what they said then nor what
    /// they say now.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(super) fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// How many of the changed kernel pages this view has looked at.
    pub(super) fn kernel_seen(&self) -> u32 {
        self.kernel_seen
    }

    pub(super) fn set_kernel_seen(&mut self, seen: u32) {
        self.kernel_seen = seen;
    }

    /// The kernel stack of the process that ran when this view got the run
    /// token.
    pub(super) fn kernel_stack(&self) -> u32 {
        self.kernel_stack
    }

    pub(super) fn set_kernel_stack(&mut self, stack: u32) {
        self.kernel_stack = stack;
    }

    /// How many patched copies had been made when this view last gave up the
    /// right to write to their pages.
    pub(crate) fn copies_seen(&self) -> u32 {
        self.copies_seen
    }

    pub(crate) fn set_copies_seen(&mut self, seen: u32) {
        self.copies_seen = seen;
    }

    /// Remembers the count of kicks; answers whether it is a new one.
    pub(crate) fn notice_kick(&mut self, kick: u32) -> bool {
        let news = self.is_news(kick);
        self.kick_seen = kick;
        news
    }

    /// Whether that many kicks are more than this view has noticed.
    pub(crate) fn is_news(&self, kick: u32) -> bool {
        self.kick_seen != kick
    }

    /// There is no room at the instruction at `eip`. Answers whether that has
    /// happened too often in a row.
    pub(super) fn is_stuck_at(&mut self, eip: u32) -> bool {
        let (last, times) = self.stuck;
        self.stuck = (eip, if eip == last { times + 1 } else { 1 });
        self.stuck.1 > STUCK
    }

    /// There is no room for large mappings.
    pub(super) fn set_cramped(&mut self) {
        self.cramped = CRAMPED;
    }

    /// Whether there has been no room lately. It is asked once at each fault.
    pub(super) fn is_cramped(&mut self) -> bool {
        let cramped = self.cramped > 0;
        self.cramped = self.cramped.saturating_sub(1);
        cramped
    }

    /// The last address that faulted.
    pub(crate) fn last_fault(&self) -> GuestVirt {
        self.last_fault
    }

    pub(crate) fn set_last_fault(&mut self, va: GuestVirt) {
        if self.last_fault != va {
            self.spurious = 0;
        }
        self.last_fault = va;
    }

    /// One more fault at the last address, where the page was mapped as it
    /// should be. Answers how many there were.
    pub(super) fn count_spurious(&mut self) -> u32 {
        self.spurious += 1;
        self.spurious
    }
}

/// The user process of a view.
pub struct UserSpace<'a> {
    pub(super) memory: &'a mut ShadowMemory,
    pub(super) mapper: &'a mut dyn Mapper,
}

impl<'a> UserSpace<'a> {
    /// A user process that maps nothing.
    #[must_use]
    pub fn new(
        memory: &'a mut ShadowMemory,
        mapper: &'a mut dyn Mapper,
    ) -> Self {
        Self { memory, mapper }
    }
}
