//! Every combination of the flags in a directory entry and a table entry.
//!
//! For each of them, and each kind of access, the Host must do what the
//! oracle and the rule for every page say: nothing is mapped that the tables
//! do not allow, and nothing with more rights than they leave.

use super::*;
use crate::paging::ShadowPte;

const FORMATS: [Format; 2] = [Format::TwoLevels, Format::Pae];
const VA: u32 = 0x5123;
const FRAME: u32 = 0x7000;

/// Flags that a table entry must not have.
const BAD: u32 = Pte::WRITE_THROUGH | Pte::SIZE;

fn set(m: &Machine, pde: u32, pte: u32) {
    let memory = m.ram.memory();
    let pde = Machine::USER_TABLE | pde;
    let at = Machine::directory_entry_at(format(m), VA);
    memory.set_word(at, pde).unwrap();
    m.set_user_pte(VA >> 12, Pte(FRAME | pte));
}

#[test]
fn a_walk_leaves_the_rights_that_both_entries_give() {
    for format in FORMATS {
        every_walk(&Machine::with_format(format));
    }
}

fn every_walk(m: &Machine) {
    let memory = m.ram.memory();
    let tables = Tables::new(&memory, format(m), Machine::CR3);
    for pde in 0..0x1000 {
        // All flags of the table where the directory's can be, and the
        // usual ones where they cannot.
        let possible = pde & !Pte::DIRECTORY_FLAGS == 0;
        let ptes = if possible { 0..0x1000 } else { 0x67..0x68 };
        for pte in ptes {
            set(m, pde, pte);
            let end = tables.walk(GuestVirt(VA));
            let what = std::format!("{pde:#x} {pte:#x}");
            if pde & Pte::PRESENT == 0 {
                assert_eq!(end, Ok(None), "{what}");
            } else if !possible {
                let bad =
                    Kill::BadPageDirectoryEntry(Machine::USER_TABLE | pde);
                assert_eq!(end, Err(bad), "{what}");
            } else if pte & Pte::PRESENT == 0 {
                assert_eq!(end, Ok(None), "{what}");
            } else if pte & BAD != 0 {
                let bad = Kill::BadPageTableEntry(FRAME | pte);
                assert_eq!(end, Err(bad), "{what}");
            } else {
                let left = end.unwrap().unwrap().pte;
                for right in [Pte::WRITE, Pte::USER] {
                    let both = pde & pte & right;
                    assert_eq!(left.0 & right, both, "{what}");
                }
                let others = !(Pte::WRITE | Pte::USER);
                assert_eq!(left.0 & others, (FRAME | pte) & others, "{what}");
                let wanted = ShadowPte::wanted(left);
                let used = pte & Pte::ACCESSED != 0;
                assert_eq!(wanted.is_mapped(), used, "{what}");
                let written =
                    pde & pte & Pte::WRITE != 0 && pte & Pte::DIRTY != 0;
                let access = if used && written {
                    Access::Write
                } else {
                    Access::Read
                };
                assert_eq!(wanted.access(), access, "{what}");
            }
        }
    }
}

#[test]
fn every_fault_ends_as_the_oracle_says() {
    for format in FORMATS {
        every_fault(Machine::with_format(format));
    }
}

fn every_fault(mut m: Machine) {
    for flags in 0..1 << 13 {
        // Directory: P, W, U, A, D. Table: all that a processor looks at.
        let pde = flags & 7 | (flags >> 3 & 3) << 5;
        let pte = flags >> 5;
        for (write, user) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            set(&m, pde, pte);
            let allowed = oracle(&m, VA, write, user);
            let fault = m.host().demand_page(GuestVirt(VA), write, user);
            let what = std::format!("{pde:#x} {pte:#x} {write} {user}");
            if pde & pte & Pte::PRESENT != 0 && pte & BAD != 0 {
                assert!(fault.is_err(), "{what}");
            } else if allowed.is_some() {
                assert_eq!(fault, Ok(Fault::Mapped), "{what}");
                let (frame, access) = m.mapper.pages[&(VA >> 12)];
                assert_eq!(frame, FRAME, "{what}");
                assert!(!write || access == Access::Write, "{what}");
            } else {
                assert_eq!(fault, Ok(Fault::Guests), "{what}");
            }
            assert!(everything_agrees(&m), "{what}");
            // And away with it.
            set(&m, 0x67, 0);
            m.host()
                .set_pte(Machine::CR3, GuestVirt(VA), [0, 0])
                .unwrap();
            assert!(m.mapper.pages.is_empty(), "{what}");
        }
    }
}

#[test]
fn a_pointer_is_present_and_no_more() {
    let m = Machine::with_format(Format::Pae);
    let memory = m.ram.memory();
    let pointer = GuestPhys(Machine::CR3);
    m.set_user_pte(VA >> 12, Pte(FRAME | 0x67));
    for flags in 0..0x1000 {
        let entry = Machine::USER_DIRECTORY | flags;
        memory.set_word(pointer, entry).unwrap();
        let tables = Tables::new(&memory, Format::Pae, Machine::CR3);
        let end = tables.walk(GuestVirt(VA));
        match flags {
            0b1 => assert_eq!(end.unwrap().unwrap().pte.0, FRAME | 0x67),
            _ if flags & 1 == 0 => assert_eq!(end, Ok(None), "{flags:#x}"),
            _ => assert_eq!(end, Err(Kill::BadPageDirectoryEntry(entry))),
        }
    }
}

#[test]
fn no_entry_of_any_level_has_a_high_word() {
    let m = Machine::with_format(Format::Pae);
    let memory = m.ram.memory();
    m.set_user_pte(VA >> 12, Pte(FRAME | 0x67));
    let tables = Tables::new(&memory, Format::Pae, Machine::CR3);
    for at in [
        GuestPhys(Machine::CR3),
        Machine::directory_entry_at(Format::Pae, VA),
        Machine::entry_at(Format::Pae, VA),
    ] {
        let low = memory.word(at).unwrap();
        for high in [1, 0x8000_0000] {
            memory.set_words(at, [low, high]).unwrap();
            let bad = Err(Kill::BadHighWord { low, high });
            assert_eq!(tables.walk(GuestVirt(VA)), bad);
            // Linux keeps the places of swapped pages there.
            memory.set_word(at, low & !1).unwrap();
            assert_eq!(tables.walk(GuestVirt(VA)), Ok(None));
        }
        memory.set_words(at, [low, 0]).unwrap();
    }
    assert!(tables.walk(GuestVirt(VA)).unwrap().is_some());
}
