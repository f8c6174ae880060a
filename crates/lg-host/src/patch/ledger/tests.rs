//! Patches of every kind can be taken back, and made again.

use super::table::{
    MAX_IN_MEMORY, MAX_PER_COPY, Patch, PatchKind, Place, TAKEN_BACK,
};
use crate::address::{GuestPhys, GuestVirt};
use crate::host::Event;
use crate::patch::TrampolineKind;
use crate::patch::copies::tests as copies;
use crate::patch::far::FAR_CALL;
use crate::testing::Machine;
use lg_abi::page::PAGE_SIZE;
use lg_abi::shared::{IF, offset};
use std::vec::Vec;

const KERNEL: u32 = 0xC000_0000;
const CODE: u32 = 0xC001_0000;

/// All bytes of the Guest's memory, and of its patched copies.
fn bytes(m: &Machine) -> (Vec<u8>, Vec<u8>) {
    let all = |memory: &crate::memory::Memory| {
        let mut bytes = std::vec![0; memory.limit() as usize];
        memory.read(GuestPhys(0), &mut bytes).unwrap();
        bytes
    };
    (all(&m.ram.memory()), all(&m.copies.memory()))
}

fn patches(m: &Machine) -> Vec<Patch> {
    m.vm.ledger.patches().collect()
}

fn kinds(m: &Machine) -> Vec<PatchKind> {
    patches(m).iter().map(|patch| patch.kind).collect()
}

/// A machine whose kernel has `code` at [`CODE`], and stands `at` bytes in.
fn standing_at(code: &[u8], at: u32) -> Machine {
    let m = Machine::new();
    write(&m, CODE - KERNEL, code);
    m.vm.regs.eip.set(CODE + at);
    m
}

fn write(m: &Machine, at: u32, bytes: &[u8]) {
    m.ram.memory().write(GuestPhys(at), bytes).unwrap();
}

/// `make` makes one patch of this kind, which lies at `place` and is `length`
/// bytes long. All that it has changed is in the ledger.
fn check(
    m: &mut Machine,
    kind: PatchKind,
    (place, length): (Place, usize),
    make: impl FnOnce(&mut Machine),
) {
    let before = bytes(m);
    make(m);
    let patched = bytes(m);
    let found: Vec<Patch> =
        patches(m).into_iter().filter(|p| p.kind == kind).collect();
    let [patch] = found[..] else {
        panic!("{kind:?}: {found:?}");
    };
    assert_eq!(
        (patch.place, patch.ours().len()),
        (place, length),
        "{kind:?}"
    );
    assert!(patch.is_in_place());
    // One alone.
    assert!(m.host().take_back(patch.id), "{kind:?}");
    assert!(!patches(m).contains(&patch), "{kind:?}");
    assert!(m.host().make_again(patch.id), "{kind:?}");
    assert!(bytes(m) == patched, "{kind:?}");
    // All of them.
    m.host().take_back_all();
    let (memory, copies) = bytes(m);
    match place {
        Place::Memory(_) => assert!(memory == before.0, "{kind:?}"),
        Place::Copy(..) => {
            let page = &memory[copies::FRAME.0 as usize..];
            let page = &page[..PAGE_SIZE as usize];
            assert!(copies.starts_with(page), "{kind:?}");
        }
    }
    m.host().make_all_again();
    assert!(bytes(m) == patched, "{kind:?}");
    assert!(patches(m).contains(&patch), "{kind:?}");
}

fn in_memory(at: u32, length: usize) -> (Place, usize) {
    (Place::Memory(GuestPhys(at)), length)
}

#[test]
fn the_jump_at_the_iret_is_in_the_ledger() {
    let [a, b, c, d] = (KERNEL + Machine::DATA).to_le_bytes();
    let mut m = standing_at(&[0x36, 0xA3, a, b, c, d, 0x58, 0xCF], 7);
    m.vm.noirq_start.set(CODE);
    m.vm.noirq_end.set(CODE + 8);
    let place = in_memory(CODE - KERNEL, 7);
    check(&mut m, PatchKind::Iret, place, |m| m.host().patch_iret());
}

#[test]
fn the_hlt_at_an_iret_is_in_the_ledger() {
    let mut m = standing_at(&[0xCF], 0);
    let place = in_memory(CODE - KERNEL, 1);
    check(&mut m, PatchKind::TrappingIret, place, |m| {
        m.host().patch_iret();
    });
}

#[test]
fn the_call_at_a_hypercall_is_in_the_ledger() {
    let mut code = std::vec![0x90; 32];
    code.extend([0xB8, 5, 0, 0, 0, 0xBA, 0, 0, 0, 0, 0xCD, 0x1F, 0xC3]);
    // The last load alone gives the room that is needed.
    let mut m = standing_at(&code, 42);
    m.vm.regs.eax.set(5);
    let place = in_memory(CODE - KERNEL + 37, 7);
    check(&mut m, PatchKind::Hypercall, place, |m| {
        m.host().patch_hypercall();
    });
}

#[test]
fn the_call_at_a_hypercall_with_a_store_is_in_the_ledger() {
    let mut code = std::vec![0x90; 32];
    code.extend([0xC7, 0x42, 4, 7, 0, 0, 0, 0x89, 0xF2, 0xCD, 0x1F, 0xC3]);
    let mut m = standing_at(&code, 41);
    m.vm.regs.eax.set(7);
    m.vm.regs.esi.set(0x69);
    m.vm.regs.edx.set(0x69);
    let place = in_memory(CODE - KERNEL + 32, 11);
    check(&mut m, PatchKind::HypercallAfterStore, place, |m| {
        m.host().patch_hypercall();
    });
}

#[test]
fn the_call_where_interrupts_are_switched_on_is_in_the_ledger() {
    let irq_enabled = KERNEL + Machine::DATA + offset::IRQ_ENABLED;
    let mut code = std::vec![0x90; 64];
    code.extend([0xFF, 0x53, 0x38, 0xC7, 0x05]);
    code.extend(irq_enabled.to_le_bytes());
    code.extend(IF.to_le_bytes());
    code.push(0xC3);
    let mut m = standing_at(&code, 0);
    m.vm.regs.esp.set(KERNEL + 0x7F00);
    write(&m, 0x7F00, &(CODE + 67).to_le_bytes());
    let place = in_memory(CODE - KERNEL + 67, 10);
    check(&mut m, PatchKind::Enabling, place, |m| {
        assert!(m.host().patch_enabling());
    });
    // While it is taken back, nothing is heard from there.
    m.host().take_back_all();
    assert!(!m.host().patch_enabling());
}

#[test]
fn the_selector_that_a_handler_loads_is_in_the_ledger() {
    let code = [0xB9, 0x7B, 0, 0, 0, 0x8E, 0xD9, 0x8E, 0xC1];
    let mut m = standing_at(&code, 0);
    m.vm.last_handler.set(CODE);
    let place = in_memory(CODE - KERNEL + 1, 1);
    check(&mut m, PatchKind::SegmentLoad, place, |m| {
        m.host().patch_segment_load();
    });
}

/// A program behind the `int $0x80` of its entry page.
fn at_the_entry() -> (Machine, u32) {
    const PAGE: u32 = 0x200;
    const FRAME: u32 = 0x20_0000;
    const ENTRY: u32 = 0x400;
    let m = Machine::new();
    write(&m, FRAME, b"\x7fELF");
    write(&m, FRAME + 24, &(PAGE << 12 | ENTRY).to_le_bytes());
    let mut code = [0x90; 39];
    code[..3].copy_from_slice(&[0xCD, 0x80, 0xC3]);
    code[32..].copy_from_slice(&[0x58, 0xB8, 0x77, 0, 0, 0, 0xCD]);
    write(&m, FRAME + ENTRY, &code);
    m.set_user_pte(PAGE, lg_abi::page::Pte(FRAME | 0x25));
    m.vm.user.set(1);
    m.vm.regs.eip.set((PAGE << 12 | ENTRY) + 2);
    (m, FRAME + ENTRY)
}

#[test]
fn the_call_in_the_entry_page_is_in_the_ledger() {
    let (mut m, entry) = at_the_entry();
    check(&mut m, PatchKind::EntryPage, in_memory(entry, 23), |m| {
        m.host().patch_entry_page();
    });
}

/// The same since Linux 2.6.25, where the signal returns come first.
fn at_a_later_entry() -> (Machine, u32) {
    const PAGE: u32 = 0x200;
    const FRAME: u32 = 0x20_0000;
    const ENTRY: u32 = 0x414;
    let m = Machine::new();
    write(&m, FRAME, b"\x7fELF");
    write(&m, FRAME + 24, &ENTRY.to_le_bytes());
    let code = [
        0x58, 0xB8, 0x77, 0, 0, 0, 0xCD, 0x80, 0x90, 0x8D, 0x76, 0, 0xB8, 0xAD,
        0, 0, 0, 0xCD, 0x80, 0x90, 0xCD, 0x80, 0xC3, 0, b'.', b's', b'h',
    ];
    write(&m, FRAME + 0x400, &code);
    m.set_user_pte(PAGE, lg_abi::page::Pte(FRAME | 0x25));
    m.vm.user.set(1);
    m.vm.regs.eip.set((PAGE << 12 | ENTRY) + 2);
    (m, FRAME + ENTRY)
}

#[test]
fn an_entry_behind_the_signal_returns_has_its_call_in_front_of_them() {
    let (mut m, entry) = at_a_later_entry();
    let place = in_memory(entry - 27, 29);
    check(&mut m, PatchKind::EntryPage, place, |m| {
        m.host().patch_entry_page();
    });
    let (mut m, at) = at_a_later_entry();
    let entry = m.vm.regs.eip.get() - 2;
    m.host().patch_entry_page();
    // A short jump back to the far call, and the signal returns as they were.
    let mut jump = [0; 2];
    m.ram.memory().read(GuestPhys(at), &mut jump).unwrap();
    assert_eq!(jump, [0xEB, 0_u8.wrapping_sub(29)]);
    let mut before = [0; 20];
    m.ram
        .memory()
        .read(GuestPhys(at - 20), &mut before)
        .unwrap();
    assert_eq!(before[..9], [0x58, 0xB8, 0x77, 0, 0, 0, 0xCD, 0x80, 0x90]);
    // The kernel believes the program to be behind its `int $0x80`.
    assert_eq!(m.host().behind_entry(entry - 20), entry + 2);
    m.vm.regs.eip.set(entry - 27);
    assert_eq!(m.host().step_back(Event::Kick, false), Event::Kick);
    assert_eq!(m.vm.regs.eip.get(), entry);
    // Something where the far call would go: nothing is patched.
    let (mut m, at) = at_a_later_entry();
    write(&m, at - 21, &[1]);
    m.host().patch_entry_page();
    assert_eq!(m.vm.patches.entry_call.get(), 0);
}

/// In Linux 3.10 for M686, four bytes align the signal return.
#[test]
fn instructions_without_an_effect_make_room_for_the_call() {
    for (before, is_free) in [
        ([0, 0, 0, 0x90, 0x8D, 0x76, 0], true),
        ([0, 0, 0, 0x90, 0x90, 0x90, 0x90], true),
        ([0, 0, 0, 0x90, 0x0F, 0x1F, 0], true),
        ([0, 0, 0x66, 0x90, 0x66, 0x90, 0x90], true),
        // Halves of such instructions, and ones that have an effect.
        ([0, 0, 0, 0x90, 0, 0x8D, 0x76], false),
        ([0, 0, 0, 0x90, 0x8D, 0x76, 4], false),
        ([0x8D, 0, 0, 0x90, 0x8D, 0x76, 0], false),
        ([0, 0, 0, 0x90, 0x8D, 0x90, 0x76], false),
    ] {
        let (mut m, at) = at_a_later_entry();
        write(&m, at - 27, &before);
        m.host().patch_entry_page();
        let has_call = m.vm.patches.entry_call.get() != 0;
        assert_eq!(has_call, is_free, "{before:x?}");
        let mut there = [0; 7];
        m.ram.memory().read(GuestPhys(at - 27), &mut there).unwrap();
        assert_eq!(there[0] == FAR_CALL, is_free, "{before:x?}");
    }
}

/// The same in Linux 4.9: its header names the first `push`.
fn at_an_entry_with_pushes() -> (Machine, u32) {
    const PAGE: u32 = 0x200;
    const FRAME: u32 = 0x20_0000;
    const ENTRY: u32 = 0xB88;
    let m = Machine::new();
    write(&m, FRAME, b"\x7fELF");
    write(&m, FRAME + 24, &ENTRY.to_le_bytes());
    let code = [
        0x51, 0x52, 0x55, 0x90, 0x90, 0x90, 0x90, 0xCD, 0x80, 0x5D, 0x5A, 0x59,
        0xC3, 0x90, 0x90, 0x90, 0x90, 0x8D, 0x76, 0, 0x58, 0xB8, 0x77, 0, 0, 0,
        0xCD, 0x80,
    ];
    write(&m, FRAME + ENTRY, &code);
    m.set_user_pte(PAGE, lg_abi::page::Pte(FRAME | 0x25));
    m.vm.user.set(1);
    m.vm.regs.eip.set((PAGE << 12 | ENTRY) + 9);
    (m, FRAME + ENTRY + 7)
}

#[test]
fn an_entry_with_seven_free_bytes_has_its_call_there() {
    let (mut m, entry) = at_an_entry_with_pushes();
    check(&mut m, PatchKind::EntryPage, in_memory(entry, 13), |m| {
        m.host().patch_entry_page();
    });
    let (mut m, at) = at_an_entry_with_pushes();
    let entry = m.vm.regs.eip.get() - 2;
    m.host().patch_entry_page();
    let mut code = [0; 20];
    m.ram.memory().read(GuestPhys(at), &mut code).unwrap();
    assert_eq!(code[..7], [0xEB, 4, 0x5D, 0x5A, 0x59, 0xC3, 0x9A]);
    assert_eq!(code[13..19], [0x58, 0xB8, 0x77, 0, 0, 0]);
    // The kernel believes the program to be behind its `int $0x80`.
    assert_eq!(m.host().behind_entry(entry + 13), entry + 2);
    m.vm.regs.eip.set(entry + 6);
    assert_eq!(m.host().step_back(Event::Kick, false), Event::Kick);
    assert_eq!(m.vm.regs.eip.get(), entry);
    // Another instruction where the far call would go: nothing is patched.
    let (mut m, at) = at_an_entry_with_pushes();
    write(&m, at + 12, &[0x40]);
    m.host().patch_entry_page();
    assert_eq!(m.vm.patches.entry_call.get(), 0);
}

#[test]
fn a_program_in_the_middle_of_the_entry_goes_back_to_its_beginning() {
    let (mut m, _) = at_the_entry();
    let entry = m.vm.regs.eip.get() - 2;
    m.host().patch_entry_page();
    m.vm.regs.eip.set(entry + 16);
    assert_eq!(m.host().step_back(Event::Kick, false), Event::Kick);
    assert_eq!(m.vm.regs.eip.get(), entry);
    // Single-stepping, it would come back for ever: it makes its call, also
    // where the step is ours and its program knows nothing of it.
    let step = Event::Trap {
        vector: 1,
        error: 0,
        cr2: 0,
    };
    for event in [step, Event::Kick] {
        m.vm.regs.eip.set(entry + 16);
        let call = Event::Trampoline(TrampolineKind::DirectCall);
        assert_eq!(m.host().step_back(event, true), call);
        assert_eq!(m.vm.regs.eip.get(), entry + 2);
    }
    // The same place in another page is nothing special.
    for other in [entry + 0x1010, entry + 17] {
        m.vm.regs.eip.set(other);
        m.host().step_back(Event::Kick, false);
        assert_eq!(m.vm.regs.eip.get(), other);
    }
}

#[test]
fn an_int3_in_a_copy_is_in_the_ledger() {
    let mut m = copies::machine();
    let place = (Place::Copy(0, 0x10), 1);
    check(&mut m, PatchKind::Int3, place, |m| {
        copies::trap(m, copies::SITE, 2, Event::SystemCall);
    });
}

#[test]
fn a_direct_call_and_its_slot_are_in_the_ledger() {
    let both = [
        (PatchKind::DirectCall, (Place::Copy(0, 0x10), 2)),
        (PatchKind::DirectSlot, (Place::Copy(0, 0x40), 7)),
    ];
    for (kind, place) in both {
        let mut m = copies::machine();
        let slot = [0x8D, 0xB4, 0x26, 0, 0, 0, 0];
        write(&m, copies::FRAME.0 + 0x40, &slot);
        check(&mut m, kind, place, |m| {
            copies::trap(m, copies::SITE, 2, Event::SystemCall);
            for _ in 0..16 {
                copies::trap(m, copies::SITE, 1, copies::int3());
            }
        });
        // A jump to a slot without its jump would skip the system call.
        let part = patches(&m).iter().find(|p| p.kind == kind).unwrap().id;
        m.host().take_back(part);
        assert_eq!(bytes(&m).1[0x10..0x12], [0xCD, 0x80]);
        assert_eq!(bytes(&m).1[0x40..0x43], [0x8D, 0xB4, 0x26]);
        let both = [PatchKind::DirectSlot, PatchKind::DirectCall];
        assert_eq!(kinds(&m).len(), 2);
        assert!(both.iter().all(|kind| kinds(&m).contains(kind)));
    }
}

/// A machine with one patch of seven bytes, and that patch.
fn patched() -> (Machine, Patch) {
    let mut m = Machine::new();
    write(&m, 0x9000, &[1; 16]);
    patch(&mut m, 0x9004).unwrap();
    let patch = patches(&m)[0];
    (m, patch)
}

fn patch(m: &mut Machine, at: u32) -> Option<()> {
    let place = Place::Memory(GuestPhys(at));
    let site = GuestVirt(KERNEL + at);
    let host = m.host();
    let room = host.room_for(PatchKind::Hypercall, place, site, 7)?;
    host.write_patch(room, &[0xAA; 7]);
    Some(())
}

fn at_9000(m: &Machine) -> [u8; 16] {
    let mut bytes = [0; 16];
    m.ram.memory().read(GuestPhys(0x9000), &mut bytes).unwrap();
    bytes
}

#[test]
fn what_the_guest_has_overwritten_stays() {
    let (mut m, patch) = patched();
    write(&m, 0x9006, &[2]);
    let there = at_9000(&m);
    assert!(!m.host().take_back(patch.id), "it is not known any more");
    assert_eq!(at_9000(&m), there);
    assert!(patches(&m).is_empty());
    // Overwritten while it was taken back: it is not made again.
    let (mut m, patch) = patched();
    m.host().take_back_all();
    write(&m, 0x9006, &[2]);
    let there = at_9000(&m);
    m.host().make_all_again();
    assert_eq!(at_9000(&m), there);
    assert!(!m.host().make_again(patch.id));
    assert!(patches(&m).is_empty());
}

#[test]
fn a_patch_without_which_the_guest_has_run_is_not_made_again() {
    let (mut m, patch) = patched();
    m.host().take_back(patch.id);
    m.vm.counters.entries.count();
    m.host().make_all_again();
    assert!(!m.host().make_again(patch.id));
    assert_eq!(at_9000(&m), [1; 16]);
    assert!(patches(&m).is_empty(), "the site may be patched anew");
    let (mut m, patch) = patched();
    m.host().take_back_all();
    m.vm.counters.entries.count();
    m.host().make_all_again();
    assert_eq!(at_9000(&m), [1; 16]);
    assert!(!m.host().make_again(patch.id));
}

#[test]
fn patches_do_not_overlap_even_when_taken_back() {
    let (mut m, first) = patched();
    for at in [0x8FFE, 0x9004, 0x900A] {
        assert!(patch(&mut m, at).is_none(), "{at:#x}");
    }
    m.host().take_back(first.id);
    assert!(patch(&mut m, 0x900A).is_none());
    assert_eq!(at_9000(&m), [1; 16]);
    // Beside it, there is room; and where the Guest has written.
    assert!(patch(&mut m, 0x8FFD).is_some());
    write(&m, 0x9008, &[7]);
    assert!(patch(&mut m, 0x900A).is_some());
    assert_eq!(patches(&m).len(), 2);
}

#[test]
fn one_that_was_taken_back_alone_stays_so() {
    let (mut m, first) = patched();
    m.host().take_back(first.id);
    m.host().take_back_all();
    m.host().make_all_again();
    assert_eq!(at_9000(&m), [1; 16]);
    assert_eq!(patches(&m)[0].taken_back, TAKEN_BACK);
    m.host().take_back_all();
    m.host().make_again(first.id);
    assert_eq!(at_9000(&m), [1; 16], "all are taken back");
    m.host().make_all_again();
    assert_eq!(at_9000(&m)[4..11], [0xAA; 7]);
}

#[test]
fn a_full_ledger_makes_no_more_patches() {
    let mut m = Machine::new();
    let mut made = 0;
    while patch(&mut m, 0x9000 + 8 * made).is_some() {
        made += 1;
    }
    assert!((64..MAX_IN_MEMORY).contains(&(made as usize)), "{made}");
    // A hypercall without room goes on trapping.
    let mut code = std::vec![0x90; 37];
    code.extend([0xBA, 0, 0, 0, 0, 0xCD, 0x1F, 0xC3]);
    write(&m, CODE - KERNEL, &code);
    m.vm.regs.eip.set(CODE + 42);
    m.vm.regs.eax.set(7);
    let before = bytes(&m);
    m.host().patch_hypercall();
    assert!(m.world.trampolines.is_empty(), "none is made in vain");
    assert!(bytes(&m) == before);
    // One that the Guest has overwritten makes room.
    write(&m, 0x9000 + 8 * 5, &[1; 7]);
    m.vm.regs.eip.set(CODE + 42);
    m.vm.patches.refused_count.set(0);
    m.vm.patches.refused[0].set(0);
    m.host().patch_hypercall();
    assert_eq!(m.world.trampolines.len(), 1);
}

#[test]
fn a_copy_without_room_has_no_more_int3() {
    let mut m = copies::machine();
    copies::trap(&mut m, copies::SITE, 2, Event::SystemCall);
    let host = m.host();
    let free = (0x100..).take_while(|&at| {
        let place = Place::Copy(0, at);
        host.write_int3(place, copies::SITE.plus(at))
    });
    assert_eq!(free.count(), MAX_PER_COPY - 1);
    copies::trap(&mut m, copies::SITE.plus(0x10), 2, Event::SystemCall);
    let copy = bytes(&m).1;
    assert_eq!(copy[0x20..0x22], [0xCD, 0x80], "it goes on trapping");
    assert_eq!(m.vm.regs.eip.get(), copies::SYSCALL);
}

#[test]
fn the_end_of_a_copy_is_the_end_of_its_patches() {
    let mut m = copies::machine();
    copies::trap(&mut m, copies::SITE, 2, Event::SystemCall);
    assert_eq!(kinds(&m), [PatchKind::Int3]);
    m.host().forget_copy(0).unwrap();
    assert!(kinds(&m).is_empty());
}

#[test]
fn a_debugger_sees_what_stood_there() {
    let (m, _) = patched();
    let ledger = &m.vm.ledger;
    for from in 0..16 {
        for to in from..16 {
            let mut seen = at_9000(&m);
            let place = Place::Memory(GuestPhys(0x9000 + from));
            ledger.undo(place, &mut seen[from as usize..to as usize]);
            let original = [1; 16];
            let mut expected = at_9000(&m);
            let range = from as usize..to as usize;
            expected[range.clone()].copy_from_slice(&original[range]);
            assert_eq!(seen, expected);
        }
    }
}

#[test]
fn a_kernel_goes_on_behind_the_padding() {
    // mov $5,%eax; mov %esi,%edx; mov %esi,%ecx; int $0x1f
    let mut code = std::vec![0x90; 32];
    code.extend([0xB8, 5, 0, 0, 0, 0x89, 0xF2, 0x89, 0xF1]);
    code.extend([0xCD, 0x1F, 0xC3]);
    let mut m = standing_at(&code, 41);
    m.vm.regs.eax.set(5);
    m.host().patch_hypercall();
    assert_eq!(m.world.paddings, [4]);
    // The trampoline puts that into eip.
    m.vm.regs.eip.set(4);
    m.vm.regs.esp.set(KERNEL + 0x7FF8);
    write(&m, 0x7FF8, &(CODE + 39).to_le_bytes());
    m.host()
        .run_guest(Event::Trampoline(TrampolineKind::Hypercall))
        .unwrap();
    assert_eq!(m.vm.regs.eip.get(), CODE + 43);
}
