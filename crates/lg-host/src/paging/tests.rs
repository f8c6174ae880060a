//! Shadow paging against an oracle, and the corners that an oracle misses.

use crate::address::{GuestPhys, GuestVirt};
use crate::fast_path;
use crate::kill::Kill;
use crate::paging::Fault;
use crate::paging::walk::Tables;
use crate::state::{Changes, Gate, MAX_CHANGES};
use crate::testing::{Machine, Ram};
use crate::world::Access;
use core::cell::Cell;
use lg_abi::page::{Format, Pte};
use proptest::prelude::*;
use std::vec::Vec;

mod pieces;
mod rights;
mod views;

fn format(m: &Machine) -> Format {
    Format::by_number(m.vm.paging.get())
}

/// The entries for `va` in its page directory and its page table; 0 where there
/// is no table.
fn entries(m: &Machine, va: u32) -> (u32, u32) {
    let memory = m.ram.memory();
    let word = |at| memory.word(GuestPhys(at)).unwrap();
    let cr3 = m.vm.cr3.get();
    if format(m) == Format::TwoLevels {
        return match word(cr3 + (va >> 22) * 4) {
            pde if pde & 1 == 0 => (pde, 0),
            pde => (pde, word((pde & !0xFFF) + (va >> 12 & 1023) * 4)),
        };
    }
    let pointer = word(cr3 + (va >> 30) * 8);
    if pointer & 1 == 0 {
        return (0, 0);
    }
    match word((pointer & !0xFFF) + (va >> 21 & 511) * 8) {
        pde if pde & 1 == 0 => (pde, 0),
        pde => (pde, word((pde & !0xFFF) + (va >> 12 & 511) * 8)),
    }
}

/// What a processor would allow: the oracle.
fn oracle(m: &Machine, va: u32, write: bool, user: bool) -> Option<u32> {
    let (pde, pte) = entries(m, va);
    if pde & 1 == 0 {
        return None;
    }
    if pte & 1 == 0 || write && pte & pde & 2 == 0 {
        return None;
    }
    if user && pte & pde & 4 == 0 {
        return None;
    }
    Some(pte & !0xFFF)
}

/// Whether everything that is mapped may be mapped.
fn everything_agrees(m: &Machine) -> bool {
    let own = m.mapper.pages.iter().map(|page| (page, false));
    let user_process = m
        .user_process
        .iter()
        .flat_map(|(_, user_process)| &user_process.pages);
    let all = own.chain(user_process.map(|page| (page, true)));
    all.into_iter()
        .all(|(mapped, in_user_process)| agrees(m, mapped, in_user_process))
}

/// Whether that page may be mapped.
fn agrees(
    m: &Machine,
    (&page, &(frame, access)): (&u32, &(u32, Access)),
    in_user_process: bool,
) -> bool {
    let (pde, pte) = entries(m, page << 12);
    let pte = Pte(pte);
    let writable = access == Access::Write;
    pde & 1 != 0
        && pte.has(Pte::PRESENT | Pte::ACCESSED)
        && pte.frame() == frame
        && (!writable || pte.has(Pte::WRITE | Pte::DIRTY))
        && (!writable || pde & Pte::WRITE != 0)
        && (!in_user_process || pte.0 & pde & Pte::USER != 0)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The Guest writes an entry and says so.
    SetPte { page: u32, pte: u32 },
    /// The Guest writes an entry and flushes.
    Flush { page: u32, pte: u32, all: bool },
    /// A directory entry of user code changes its rights, or goes. With PAE
    /// there are two of them.
    Table { second: bool, flags: u32 },
    /// With PAE, the pointer to user code's directory goes or comes back.
    Pointer { present: bool },
    /// The Guest touches a page.
    Touch { page: u32, write: bool, user: bool },
    /// The Guest writes an entry above PAGE_OFFSET, and says so or flushes.
    High { page: u32, pte: u32, flush: bool },
    /// The Guest touches a page there.
    TouchHigh { page: u32, write: bool, user: bool },
}

fn pte() -> impl Strategy<Value = u32> {
    // Frames in RAM; Present, Writable, User, Accessed, Dirty as they come.
    (0..1024_u32, 0..32_u32)
        .prop_map(|(frame, bits)| frame << 12 | bits & 7 | (bits & 0x18) << 2)
}

fn step() -> impl Strategy<Value = Step> {
    // With PAE, the last of them are in another table.
    let page = prop_oneof![4 => 1..20_u32, 1 => 510..514_u32];
    prop_oneof![
        (page.clone(), pte())
            .prop_map(|(page, pte)| Step::SetPte { page, pte }),
        (page.clone(), pte(), any::<bool>())
            .prop_map(|(page, pte, all)| Step::Flush { page, pte, all }),
        (any::<bool>(), 0..4_usize).prop_map(|(second, n)| Step::Table {
            second,
            flags: [0, 0x61, 0x63, 0x67][n]
        }),
        any::<bool>().prop_map(|present| Step::Pointer { present }),
        (page.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(page, write, user)| Step::Touch { page, write, user }),
        (page.clone(), pte(), any::<bool>())
            .prop_map(|(page, pte, flush)| Step::High { page, pte, flush }),
        (page, any::<bool>(), any::<bool>()).prop_map(|(page, write, user)| {
            Step::TouchHigh { page, write, user }
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_mapped_is_what_the_tables_allow(
        steps in proptest::collection::vec(step(), 1..80),
        room in proptest::option::of(4..12_usize),
        with_user_process in any::<bool>(),
        pae in any::<bool>(),
    ) {
        let format = if pae { Format::Pae } else { Format::TwoLevels };
        let mut m = Machine::with_format(format);
        m.mapper.room = room;
        if with_user_process {
            m = m.with_user_process();
            m.user_process.as_mut().unwrap().1.room = room;
        }
        let mut host = m.host();
        for step in steps {
            match step {
                Step::SetPte { page, pte } => {
                    let va = GuestVirt(page << 12);
                    let at = Machine::entry_at(format, va.0);
                    host.memory.set_word(at, pte).unwrap();
                    host.set_pte(Machine::CR3, va, [pte, 0]).unwrap();
                }
                Step::Flush { page, pte, all } => {
                    let at = Machine::entry_at(format, page << 12);
                    host.memory.set_word(at, pte).unwrap();
                    if all {
                        host.flush_everything().unwrap();
                    } else {
                        host.flush_user().unwrap();
                    }
                }
                Step::Table { second, flags } => {
                    let va = u32::from(pae && second) << 21;
                    let table = Machine::entry_at(format, va);
                    let pde = if flags == 0 { 0 } else { table.0 | flags };
                    let at = Machine::directory_entry_at(format, va);
                    host.memory.set_word(at, pde).unwrap();
                    if pae {
                        let (directory, index) = (at.0 & !0xFFF, va >> 21);
                        host.set_pmd(directory, index).unwrap();
                    } else {
                        host.set_pgd(Machine::CR3, 0).unwrap();
                    }
                }
                Step::Pointer { present } if pae => {
                    let pointer = Machine::USER_DIRECTORY | u32::from(present);
                    let at = GuestPhys(Machine::CR3);
                    host.memory.set_word(at, pointer).unwrap();
                    host.set_pgd(Machine::CR3, 0).unwrap();
                }
                Step::Pointer { .. } => {}
                Step::High { page, pte, flush } => {
                    let va = GuestVirt(0xC000_0000 | page << 12);
                    let at = Machine::entry_at(format, va.0);
                    host.memory.set_word(at, pte).unwrap();
                    if flush {
                        host.flush_everything().unwrap();
                    } else {
                        host.set_pte(Machine::CR3, va, [pte, 0]).unwrap();
                    }
                }
                Step::Touch { page, write, user }
                | Step::TouchHigh { page, write, user } => {
                    let high = matches!(step, Step::TouchHigh { .. });
                    let page = page + u32::from(high) * 0xC_0000;
                    let va = page << 12 | 0x123;
                    let expected = oracle(&m, va, write, user);
                    host = m.host();
                    let got = host
                        .demand_page(GuestVirt(va), write, user)
                        .unwrap();
                    prop_assert_eq!(
                        got == Fault::Mapped,
                        expected.is_some()
                    );
                    if let Some(frame) = expected {
                        let book = if user { m.users() } else { &m.mapper };
                        let (mapped, access) = book.pages[&page];
                        prop_assert_eq!(mapped, frame);
                        prop_assert!(!write || access == Access::Write);
                    }
                }
            }
            prop_assert!(everything_agrees(&m));
            host = m.host();
        }
    }
}

#[test]
fn the_first_use_and_the_first_write_leave_their_marks() {
    let mut m = Machine::new();
    m.set_user_pte(5, Pte::new(9, Pte::PRESENT | Pte::WRITE | Pte::USER));
    let va = GuestVirt(0x5000);
    let entry = GuestPhys(Machine::USER_TABLE + 20);
    let mut host = m.host();
    assert_eq!(host.demand_page(va, false, true), Ok(Fault::Mapped));
    assert_eq!(host.memory.word(entry), Ok(0x9027));
    assert_eq!(m.mapper.pages[&5], (0x9000, Access::Read));
    let mut host = m.host();
    assert_eq!(host.demand_page(va, true, true), Ok(Fault::Mapped));
    assert_eq!(host.memory.word(entry), Ok(0x9067));
    assert_eq!(m.mapper.pages[&5], (0x9000, Access::Write));
}

#[test]
fn a_linear_kernel_is_mapped_in_one_piece_until_it_changes() {
    for format in [Format::TwoLevels, Format::Pae] {
        // A page of the first table of PAE, and one of the second.
        for page in [5, 0x205] {
            map_in_one_piece_and_change(format, 0xC000_0000 | page << 12);
        }
    }
}

fn map_in_one_piece_and_change(format: Format, va: u32) {
    let mut m = Machine::with_format(format);
    let memory = m.ram.memory();
    let first = Machine::entry_at(format, 0xC000_0000);
    memory.set_word(first, 0x63).unwrap();
    let at = Machine::entry_at(format, va);
    let mut host = m.host();
    let va = GuestVirt(va);
    assert_eq!(host.demand_page(va, true, false), Ok(Fault::Mapped));
    assert_eq!(host.shadow.linear_pages(0x300), 1024);
    assert_eq!(host.vm.counters.maps.get(), 0);
    // One page elsewhere, and the piece falls apart.
    memory.set_word(at, 0x9063).unwrap();
    host.set_pte(Machine::CR3, va, [0x9063, 0]).unwrap();
    assert_eq!(host.shadow.linear_pages(0x300), 0);
    assert_eq!(host.demand_page(va, true, false), Ok(Fault::Mapped));
    let pages: Vec<_> = m.mapper.pages.iter().collect();
    assert_eq!(pages, [(&(va.0 >> 12), &(0x9000, Access::Write))]);
}

/// Since Linux 4.x a kernel may only read its text, also where all around it is
/// linear. The text is mapped in one go, and a write there is the Guest's.
#[test]
fn read_only_text_is_mapped_in_one_go_and_cannot_be_written() {
    const TEXT: core::ops::Range<u32> = 0x1F0..0x230;
    for format in [Format::TwoLevels, Format::Pae] {
        let mut m = Machine::with_format(format);
        let memory = m.ram.memory();
        let set = |page: u32, flags: u32| {
            let at = Machine::entry_at(format, 0xC000_0000 | page << 12);
            memory.set_word(at, page << 12 | flags).unwrap();
        };
        set(0, 0x63);
        for page in TEXT {
            set(page, 0x61);
        }
        // One page was never used, and one is writable.
        set(0x228, 0x41);
        set(0x1F8, 0x63);
        let va = |page: u32| GuestVirt(0xC000_0000 | page << 12);
        let mut host = m.host();
        let write = host.demand_page(va(0x210), true, false);
        assert_eq!(write, Ok(Fault::Guests));
        let read = host.demand_page(va(0x210), false, false);
        assert_eq!(read, Ok(Fault::Mapped));
        assert_eq!(host.vm.counters.linear_maps.get(), 1);
        let write = host.demand_page(va(0x211), true, false);
        assert_eq!(write, Ok(Fault::Guests), "mapped, and not writable");
        let write = host.demand_page(va(0x1F8), true, false);
        assert_eq!(write, Ok(Fault::Mapped));
        // The kernel makes one page of it writable for a moment.
        set(0x212, 0x63);
        host.set_pte(Machine::CR3, va(0x212), [0x21_2063, 0])
            .unwrap();
        let write = host.demand_page(va(0x212), true, false);
        assert_eq!(write, Ok(Fault::Mapped));
        set(0x212, 0x61);
        host.set_pte(Machine::CR3, va(0x212), [0x21_2061, 0])
            .unwrap();
        let write = host.demand_page(va(0x212), true, false);
        assert_eq!(write, Ok(Fault::Guests));
        let mapped: Vec<_> = m.mapper.pages.iter().collect();
        for &(&page, &(frame, access)) in &mapped {
            assert_eq!(frame, (page << 12) - 0xC000_0000);
            let writable = page == 0xC_01F8;
            assert_eq!(access == Access::Write, writable, "{page:#x}");
        }
        assert!(mapped.len() > 0x228 - 0x1F9, "{}", mapped.len());
    }
}

#[test]
fn a_run_ends_with_the_first_entry_that_differs_in_either_word() {
    const FORMAT: Format = Format::Pae;
    // RAM ends within the second table, so the piece need not be whole.
    let mut m = Machine::with_format(FORMAT);
    m.ram = Ram::new(0x31_0000);
    let copy = Machine::with_format(FORMAT);
    let mut bytes = std::vec![0; 0x31_0000];
    copy.ram.memory().read(GuestPhys(0), &mut bytes).unwrap();
    let memory = m.ram.memory();
    memory.write(GuestPhys(0), &bytes).unwrap();
    let first = Machine::entry_at(FORMAT, 0xC000_0000);
    memory.set_word(first, 0x63).unwrap();
    assert_eq!(m.host().linear_pages(0x300), Ok(0x310));
    let at = Machine::entry_at(FORMAT, 0xC000_0000 | 0x222 << 12);
    memory.set_words(at, [0x22_2063, 1]).unwrap();
    assert_eq!(m.host().linear_pages(0x300), Ok(0x222));
    memory.set_words(at, [0x22_2061, 0]).unwrap();
    assert_eq!(m.host().linear_pages(0x300), Ok(0x222));
    let second = Machine::directory_entry_at(FORMAT, 0xC020_0000);
    memory.set_word(second, 0).unwrap();
    assert_eq!(m.host().linear_pages(0x300), Ok(0x200));
}

#[test]
fn a_high_word_in_a_call_ends_the_guest_with_pae_only() {
    for (format, end) in [
        (Format::TwoLevels, Ok(())),
        (
            Format::Pae,
            Err(Kill::BadHighWord {
                low: 0x9067,
                high: 1,
            }),
        ),
    ] {
        let mut m = Machine::with_format(format);
        let va = GuestVirt(0x5000);
        let set =
            |m: &mut Machine, entry| m.host().set_pte(Machine::CR3, va, entry);
        assert_eq!(set(&mut m, [0x9067, 1]), end);
        // Not present: the place of a swapped page.
        assert_eq!(set(&mut m, [0x9060, 1]), Ok(()));
    }
}

/// The kernel's page directory is in the pointer tables of all views, a
/// program's in that of one.
#[test]
fn a_changed_directory_is_noted_for_each_view_that_has_it() {
    const OTHER: u32 = 0x20_0020;
    const OTHER_DIRECTORY: u32 = 0x20_1000;
    let mut m = Machine::with_format(Format::Pae);
    let memory = m.ram.memory();
    let pointer = GuestPhys(OTHER);
    memory.set_word(pointer, OTHER_DIRECTORY | 1).unwrap();
    let kernel = Machine::KERNEL_DIRECTORY | 1;
    memory.set_word(pointer.plus(24), kernel).unwrap();
    m.vm.views[1].cr3.set(OTHER);
    m.vm.views[1].last_use.set(1);
    let mut notes = |directory, index| {
        m.host().set_pmd(directory, index).unwrap();
        let view = &m.vm.views[1];
        let count = view.change_count.replace(0) as usize;
        m.vm.notes[1][..count]
            .iter()
            .map(Cell::get)
            .collect::<Vec<_>>()
    };
    assert_eq!(notes(Machine::USER_DIRECTORY, 3), []);
    assert_eq!(notes(OTHER_DIRECTORY, 3), [3 << 21 | 1]);
    assert_eq!(notes(Machine::KERNEL_DIRECTORY, 3), [0xC060_0001]);
    assert_eq!(notes(OTHER_DIRECTORY, 512), [], "no such entry");
    // A GiB of the other program, and one with the kernel.
    for (index, flush) in [
        (0, Changes::USER),
        (2, Changes::USER),
        (3, Changes::EVERYTHING),
        (4, 0),
    ] {
        m.host().set_pgd(OTHER, index).unwrap();
        assert_eq!(m.vm.views[1].flush.replace(0), flush, "{index}");
    }
}

#[test]
fn entries_that_cannot_be_are_fatal() {
    for (pte, kill) in [
        (0x1081_u32, Kill::BadPageTableEntry(0x1081)),
        (0x1009, Kill::BadPageTableEntry(0x1009)),
        (0x40_0001, Kill::BadPageTableEntry(0x40_0001)),
    ] {
        let mut m = Machine::new();
        m.set_user_pte(5, Pte(pte));
        let mut host = m.host();
        let fault = host.demand_page(GuestVirt(0x5000), false, true);
        assert_eq!(fault, Err(kill));
    }
    for pde in [0x2087, 0x2007 | Pte::GLOBAL, 0x40_0007] {
        let mut m = Machine::new();
        m.ram
            .memory()
            .set_word(GuestPhys(Machine::CR3), pde)
            .unwrap();
        let fault = m.host().demand_page(GuestVirt(0x5000), false, true);
        assert_eq!(fault, Err(Kill::BadPageDirectoryEntry(pde)));
    }
}

/// The Guest's kernel would find nothing wrong with a page that its tables
/// allow, go back, and fault again for ever: it is told of a trap that it does
/// not put right.
#[test]
fn pages_that_the_machine_never_maps_are_no_page_faults() {
    const HANDLER: u32 = 0xC000_5000;
    for user in [false, true] {
        let mut m = Machine::new();
        m.set_user_pte(0, Pte::new(9, 0x67));
        m.vm.idt[13].set(Gate {
            handler: HANDLER,
            flags: Gate::PRESENT,
        });
        m.vm.user.set(user.into());
        m.vm.regs.eip.set(0x0804_8000);
        let mut host = m.host();
        let fault = host.demand_page(GuestVirt(8), false, user);
        assert_eq!(fault, Ok(Fault::Unmappable));
        host.page_fault(GuestVirt(8), 0).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER, "{user}");
        let error = GuestVirt(m.vm.regs.esp.get());
        assert_eq!(m.host().read_virtual(error).unwrap(), 0);
    }
}

/// Faults in turn at two pages, where there is room for one, as an instruction
/// does that needs both. After so many pages, how does it end?
fn two_pages_in_turn(eips: &[u32], pages: usize) -> Result<(), Kill> {
    let mut m = Machine::new();
    for page in [5, 6] {
        m.set_user_pte(page, Pte(page << 12 | 0x67));
    }
    m.mapper.room = Some(1);
    let mut host = m.host();
    let va = [0x5000, 0x6000].map(GuestVirt);
    let mut turns = va.into_iter().cycle().zip(eips.iter().cycle());
    turns.by_ref().take(pages).try_for_each(|(va, &eip)| {
        host.vm.regs.eip.set(eip);
        host.demand_page(va, true, true).map(drop)
    })
}

#[test]
fn an_instruction_for_which_there_is_never_room_ends_the_guest() {
    let end = Err(Kill::OutOfMappings);
    // The first page finds room, and each of the others none.
    assert_eq!(two_pages_in_turn(&[1], 10_001), Ok(()));
    assert_eq!(two_pages_in_turn(&[1], 10_002), end);
    assert_eq!(two_pages_in_turn(&[1, 2], 30_000), Ok(()), "it goes on");
}

#[test]
fn a_page_that_the_kernel_takes_back_leaves_the_user_process() {
    let mut m = Machine::new().with_user_process();
    m.set_user_pte(5, Pte(0x9067));
    let va = GuestVirt(0x5000);
    let mut host = m.host();
    assert_eq!(host.demand_page(va, true, true), Ok(Fault::Mapped));
    assert_eq!(m.mapper.pages.len(), 0, "the kernel has not asked for it");
    assert_eq!(m.users().pages[&5], (0x9000, Access::Write));
    m.set_user_pte(5, Pte(0x9063));
    m.host().set_pte(Machine::CR3, va, [0x9063, 0]).unwrap();
    assert_eq!(m.users().pages.get(&5), None);
    let mut host = m.host();
    assert_eq!(host.demand_page(va, true, true), Ok(Fault::Guests));
    assert_eq!(host.demand_page(va, true, false), Ok(Fault::Mapped));
    assert_eq!(m.users().pages.get(&5), None);
}

#[test]
fn a_user_process_has_what_the_tables_give_to_user_code_wherever_it_lies() {
    let mut m = Machine::new().with_user_process();
    let (va, neighbour) = (GuestVirt(0xC000_6000), GuestVirt(0xC000_7000));
    let entry = GuestPhys(Machine::KERNEL_TABLE + 6 * 4);
    let set = |m: &mut Machine, pte| {
        m.ram.memory().set_word(entry, pte).unwrap();
        m.host().set_pte(Machine::CR3, va, [pte, 0]).unwrap();
    };
    // The directory entry of the kernel gives it to user code as well.
    set(&mut m, 0x6067);
    assert_eq!(m.users().pages[&0xC_0006], (0x6000, Access::Write));
    let mut host = m.host();
    assert_eq!(host.demand_page(va, true, true), Ok(Fault::Mapped));
    assert_eq!(
        host.demand_page(neighbour, false, true),
        Ok(Fault::Guests),
        "the kernel's own"
    );
    assert_eq!(host.demand_page(neighbour, true, false), Ok(Fault::Mapped));
    assert_eq!(m.users().pages.len(), 1);
    // Taken back by name, and by a flush.
    set(&mut m, 0x6063);
    assert_eq!(m.users().pages.len(), 0);
    set(&mut m, 0x6067);
    m.ram.memory().set_word(entry, 0x6063).unwrap();
    m.host().flush_everything().unwrap();
    assert_eq!(m.users().pages.len(), 0);
    assert_eq!(m.host().demand_page(va, false, true), Ok(Fault::Guests));
}

#[test]
fn no_piece_of_the_kernel_is_ever_in_a_user_process() {
    let mut m = Machine::new().with_user_process();
    // All of the first 4 MiB are linear, and one page is user code's, too.
    let table = GuestPhys(Machine::KERNEL_TABLE);
    m.ram.memory().set_word(table, 0x63).unwrap();
    m.ram.memory().set_word(table.plus(24), 0x6067).unwrap();
    let mut host = m.host();
    let va = GuestVirt(0xC000_6000);
    assert_eq!(host.demand_page(va, true, false), Ok(Fault::Mapped));
    assert_eq!(host.shadow.linear_pages(0x300), 1024);
    assert_eq!(host.demand_page(va, true, true), Ok(Fault::Mapped));
    let users: Vec<_> = m.users().pages.keys().collect();
    assert_eq!(users, [&0xC_0006]);
}

/// Maps the pages `pages` for user code, `flags` being their entries' flags.
fn map_all(m: &mut Machine, pages: &[u32], flags: u32) {
    for &page in pages {
        m.set_user_pte(page, Pte(page << 12 | flags));
        let (va, write) = (GuestVirt(page << 12), flags & Pte::WRITE != 0);
        let fault = m.host().demand_page(va, write, true);
        assert_eq!(fault, Ok(Fault::Mapped));
    }
}

#[test]
fn a_page_to_read_is_hidden_and_shown_again() {
    for slow in [false, true] {
        let mut m = Machine::new();
        if slow {
            m.vm.slow_paths.set(fast_path::HIDE);
        }
        map_all(&mut m, &[5, 6, 8], 0x25);
        for page in [5, 6, 8] {
            m.set_user_pte(page, Pte(0));
        }
        m.host().flush_user().unwrap();
        assert!(m.mapper.pages.is_empty());
        let hidden: Vec<u32> = m.mapper.hidden.keys().copied().collect();
        assert_eq!(hidden, if slow { [].as_slice() } else { &[5, 6, 8] });
        let fault = m.host().demand_page(GuestVirt(0x5000), false, true);
        assert_eq!(fault, Ok(Fault::Guests), "hidden is as good as gone");
        // The same page again, another one, and the same to write to.
        map_all(&mut m, &[5], 0x25);
        m.set_user_pte(6, Pte(0x9025));
        let fault = m.host().demand_page(GuestVirt(0x6000), false, true);
        assert_eq!(fault, Ok(Fault::Mapped));
        map_all(&mut m, &[8], 0x67);
        let pages: Vec<_> = m.mapper.pages.iter().collect();
        let wanted = [
            (&5, &(0x5000, Access::Read)),
            (&6, &(0x9000, Access::Read)),
            (&8, &(0x8000, Access::Write)),
        ];
        assert_eq!(pages, wanted);
        assert!(m.mapper.hidden.is_empty());
        assert_eq!(m.vm.counters.shown.get(), if slow { 0 } else { 2 });
    }
}

#[test]
fn one_call_unmaps_all_that_nothing_lies_between() {
    let mut m = Machine::new();
    map_all(&mut m, &[5, 9, 12, 14], 0x67);
    let gone = |m: &mut Machine, pages: &[u32]| {
        let before = m.vm.counters.unmaps.get();
        for &page in pages {
            m.set_user_pte(page, Pte(0));
        }
        m.host().flush_user().unwrap();
        m.vm.counters.unmaps.get() - before
    };
    assert_eq!(gone(&mut m, &[5, 12, 14]), 2, "9 stays");
    assert_eq!(m.mapper.pages.len(), 1);
    // A hidden page in the middle stays, too.
    map_all(&mut m, &[5, 12], 0x67);
    map_all(&mut m, &[7], 0x25);
    assert_eq!(gone(&mut m, &[7]), 0);
    assert_eq!(gone(&mut m, &[5, 9, 12]), 2, "7 stays where it was");
    assert!(m.mapper.pages.is_empty());
    assert_eq!(m.mapper.hidden[&7], 0x7000);
}

#[test]
fn a_page_that_went_for_want_of_room_is_not_hidden_afterwards() {
    let mut m = Machine::new();
    map_all(&mut m, &[1, 2, 15], 0x25);
    for page in [1, 2, 15] {
        m.set_user_pte(page, Pte(0));
    }
    // Neither to hide the first two nor to unmap them is there room.
    m.mapper.room = Some(3);
    m.host().flush_user().unwrap();
    assert!(m.mapper.pages.is_empty());
    assert!(m.mapper.hidden.is_empty());
    assert!(!m.host().shadow.shadow(GuestVirt(15 << 12)).is_hidden());
    assert_eq!(m.vm.counters.overflows.get(), 1);
}

#[test]
fn not_everything_can_be_hidden() {
    let mut m = Machine::new();
    for pages in [1..600, 700..710] {
        let pages: Vec<u32> = pages.collect();
        map_all(&mut m, &pages, 0x25);
        for &page in &pages {
            m.set_user_pte(page, Pte(0));
        }
        m.host().flush_user().unwrap();
        assert!(m.mapper.pages.is_empty());
    }
    assert_eq!(m.mapper.hidden.len(), 599, "enough for now");
    // Another page directory, and all is forgotten.
    m.host().change_user().unwrap();
    assert!(m.mapper.hidden.is_empty());
    map_all(&mut m, &[5], 0x25);
    assert_eq!(m.vm.counters.shown.get(), 0);
}
