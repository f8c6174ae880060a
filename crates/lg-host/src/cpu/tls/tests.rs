//! Thread-local segments: which register takes which, and what it costs.

use super::*;
use crate::address::GuestPhys;
use crate::cpu::selectors::{REAL_USER_DS, REAL_WIDE_DS};
use crate::host::Event;
use crate::state::{Gate, Registers};
use crate::testing::Machine;
use lg_abi::page::Pte;
use std::vec::Vec;

const HANDLER: u32 = 0xC000_7000;
const CODE: u32 = 0x1000;
const BASE: u32 = 0x1234_5678;

/// A descriptor of all the address space from `base` on, its kind changed by
/// `change`.
fn segment(base: u32, change: impl FnOnce(&mut Descriptor)) -> Descriptor {
    let mut d = Descriptor::flat_data(3);
    d.low |= base << 16;
    d.high |= base >> 16 & 0xFF | base & 0xFF00_0000;
    change(&mut d);
    d
}

fn usual(base: u32) -> Descriptor {
    segment(base, |_| ())
}

fn read_only(d: &mut Descriptor) {
    d.high &= !Descriptor::WRITABLE;
}

fn absent(d: &mut Descriptor) {
    d.high &= !Descriptor::PRESENT;
}

/// A program with `code`, and these descriptors from the first one on.
fn program(code: &[u8], descriptors: &[Descriptor]) -> Machine {
    let m = Machine::new();
    let frame = 0x5000;
    m.set_user_pte(CODE >> 12, Pte(frame | 0x67));
    m.ram.memory().write(GuestPhys(frame), code).unwrap();
    for vector in [11, 12, 13, 14, 0x80] {
        m.vm.idt[vector].set(Gate {
            handler: HANDLER + as_u32(vector),
            flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
        });
    }
    for (n, &d) in descriptors.iter().enumerate() {
        m.vm.gdt[GDT_TLS_MIN as usize + n].set(d);
    }
    m.vm.user.set(1);
    m.vm.ss.set(USER_DS.into());
    m.vm.regs.eip.set(CODE);
    m.vm.regs.esp.set(0x1FF0);
    for register in data(&m.vm.regs) {
        register.set(REAL_USER_DS);
    }
    m.vm.regs.ss.set(REAL_USER_DS);
    m
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

fn data(regs: &Registers) -> [&Cell<u32>; 4] {
    [&regs.ds, &regs.es, &regs.fs, &regs.gs]
}

fn general_protection(error: u32) -> Event {
    Event::Trap {
        vector: 13,
        error,
        cr2: 0,
    }
}

fn page_fault(cr2: u32) -> Event {
    Event::Trap {
        vector: 14,
        error: 4,
        cr2,
    }
}

/// `mov %eax, SEGMENT` with eax = 0x3b, the second one.
fn load(modrm: u8, second: Descriptor) -> Machine {
    let m = &mut program(&[0x8E, modrm], &[usual(0), second]);
    m.vm.regs.eax.set(0x3B);
    m.host().run_guest(general_protection(0x38)).unwrap();
    core::mem::take(m)
}

const ES: u8 = 0xC0;
const SS: u8 = 0xD0;
const DS: u8 = 0xD8;
const GS: u8 = 0xE8;

#[test]
fn every_register_takes_a_thread_local_segment_with_its_base() {
    for (modrm, of) in [
        (ES, (|r: &Registers| r.es.get()) as fn(&Registers) -> u32),
        (SS, |r| r.ss.get()),
        (DS, |r| r.ds.get()),
        (GS, |r| r.gs.get()),
    ] {
        let m = load(modrm, usual(BASE));
        assert_eq!(m.vm.regs.eip.get(), CODE + 2, "{modrm:#x}");
        assert_eq!(of(&m.vm.regs), 0x3F, "{modrm:#x}");
        assert_eq!(m.mapper.segments, [(7, usual(BASE))]);
        assert_eq!(m.vm.regs.reload.get(), 1);
    }
}

#[test]
fn a_register_refuses_what_the_processor_would_refuse() {
    let not_big = |d: &mut Descriptor| d.high &= !Descriptor::BIG;
    let code = |d: &mut Descriptor| d.high |= Descriptor::CODE;
    let system = |d: &mut Descriptor| d.high &= !Descriptor::NOT_SYSTEM;
    let level_1 = |d: &mut Descriptor| d.high &= !(2 << 13);
    let unreadable = |d: &mut Descriptor| {
        code(d);
        read_only(d);
    };
    let nothing = Descriptor::default();
    for (modrm, descriptor, vector) in [
        (SS, segment(0, read_only), 13),
        (SS, segment(0, not_big), 13),
        (SS, segment(0, code), 13),
        (SS, segment(0, absent), 12),
        (ES, segment(0, absent), 11),
        (GS, segment(0, absent), 11),
        (DS, segment(0, unreadable), 13),
        (DS, segment(0, system), 13),
        (ES, segment(0, level_1), 13),
        (GS, nothing, 13),
    ] {
        let m = load(modrm, descriptor);
        let eip = m.vm.regs.eip.get();
        assert_eq!(eip, HANDLER + vector, "{modrm:#x} {descriptor:x?}");
        let esp = GuestPhys(m.vm.regs.esp.get() - 0xC000_0000);
        assert_eq!(m.ram.memory().word(esp), Ok(0x38), "the error code");
    }
    for descriptor in [segment(0, read_only), segment(0, not_big)] {
        let m = load(ES, descriptor);
        assert_eq!(m.vm.regs.es.get(), 0x3F, "{descriptor:x?}");
    }
}

#[test]
fn what_c_libraries_use_costs_no_call() {
    let mut m = program(&[0x90], &[usual(BASE)]);
    m.vm.regs.gs.set(0x33);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.regs.gs.get(), 0x37);
    assert_eq!(m.vm.regs.gs_base.get(), BASE);
    assert_eq!(m.mapper.segments, []);
    assert_eq!(m.vm.regs.reload.get(), 0);
}

#[test]
fn limits_and_types_behind_gs_are_the_guests() {
    let short = |d: &mut Descriptor| {
        d.low = d.low & !0xFFFF | 99;
        d.high &= !0x008F_0000;
    };
    // The same bit: this data expands down.
    let down = |d: &mut Descriptor| d.high |= Descriptor::CONFORMING;
    let kinds: [fn(&mut Descriptor); 3] = [short, read_only, down];
    for kind in kinds {
        let descriptor = segment(BASE, kind);
        let mut m = program(&[0x90], &[descriptor]);
        m.vm.regs.gs.set(0x33);
        m.host().run_guest(Event::Kick).unwrap();
        assert_eq!(m.mapper.segments, [(6, descriptor)]);
        assert_eq!(m.vm.regs.gs_base.get(), BASE);
        // An access that it does not allow is a fault, once and for all.
        let event = general_protection(0);
        let mut host = m.host();
        host.run_guest(Event::Kick).unwrap();
        host.run_guest(event).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER + 13);
    }
}

#[test]
fn the_machines_own_selector_is_put_right_at_the_first_fault() {
    // mov %es:64, %eax
    let code = [0x26, 0xA1, 64, 0, 0, 0];
    let mut m = program(&code, &[usual(BASE)]);
    m.vm.regs.es.set(0x33);
    m.vm.regs.gs.set(0x37);
    let mut host = m.host();
    host.run_guest(page_fault(64)).unwrap();
    assert_eq!(m.vm.regs.es.get(), 0x37);
    assert_eq!(m.vm.regs.gs_base.get(), BASE);
    assert_eq!(m.mapper.segments, [(6, usual(BASE))]);
    assert_eq!(m.vm.regs.eip.get(), CODE, "it is tried again");
    // And so is one that the program has copied from gs.
    let mut m = program(&code, &[usual(BASE)]);
    m.vm.regs.es.set(0x37);
    m.vm.regs.gs.set(0x37);
    m.vm.regs.gs_base.set(BASE);
    m.host().run_guest(page_fault(64)).unwrap();
    assert_eq!(m.mapper.segments, [(6, usual(BASE))]);
    assert_eq!(m.vm.regs.eip.get(), CODE);
}

#[test]
fn threads_pay_for_what_they_use() {
    let mut m = program(&[0x90], &[usual(BASE), usual(1)]);
    m.vm.regs.es.set(0x3F);
    m.vm.regs.gs.set(0x37);
    let first = m.vm.gdt.as_ptr() as usize;
    let mut host = m.host();
    for _ in 0..3 {
        host.run_guest(Event::Kick).unwrap();
    }
    // Another thread, with nothing but the usual.
    let set = |host: &Host<'_>, n: usize, d| {
        host.vm.gdt[GDT_TLS_MIN as usize + n].set(d);
    };
    set(&host, 0, usual(2));
    set(&host, 1, Descriptor::default());
    host.vm.regs.es.set(REAL_USER_DS);
    for _ in 0..3 {
        host.run_guest(Event::Kick).unwrap();
    }
    assert_eq!(host.vm.regs.gs_base.get(), 2);
    // And the first one again.
    set(&host, 0, usual(BASE));
    set(&host, 1, usual(1));
    host.vm.regs.es.set(0x3F);
    host.run_guest(Event::Kick).unwrap();
    assert_eq!(first, m.vm.gdt.as_ptr() as usize);
    assert_eq!(m.mapper.segments, [(7, usual(1))]);
}

#[test]
fn a_user_process_gets_its_descriptors_and_its_view_keeps_flat_ones() {
    let mut m = program(&[0x90], &[usual(0), usual(BASE)]).with_user_process();
    m.vm.regs.es.set(0x3B);
    m.host().run_guest(Event::Kick).unwrap();
    let of_user_process = &m.user_process.as_ref().unwrap().1.segments;
    assert_eq!(*of_user_process, [(7, usual(BASE))]);
    assert_eq!(m.mapper.segments, []);
}

#[test]
fn a_stack_segment_that_was_loaded_without_a_trap_is_believed() {
    let mut m = program(&[0x90], &[usual(0), usual(BASE)]);
    m.vm.ss.set(0x3B);
    m.vm.regs.ss.set(0x3F);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!((m.vm.ss.get(), m.vm.regs.ss.get()), (0x3B, 0x3F));
    for loaded in [REAL_USER_DS, REAL_WIDE_DS, 0x2B] {
        m.vm.ss.set(0x3B);
        m.vm.regs.ss.set(loaded);
        m.host().run_guest(Event::Kick).unwrap();
        assert_eq!(m.vm.ss.get(), u32::from(USER_DS));
        assert_eq!(m.vm.regs.ss.get(), REAL_USER_DS);
    }
    m.vm.regs.ss.set(0x3F);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!((m.vm.ss.get(), m.vm.regs.ss.get()), (0x3B, 0x3F));
}

#[test]
fn descriptors_without_a_meaning_are_not_loaded() {
    let mut m = program(&[0x90], &[Descriptor::default(); 3]);
    m.vm.regs.es.set(0x33);
    m.vm.ss.set(0x3B);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.regs.es.get(), 0);
    assert_eq!(m.vm.regs.ss.get(), REAL_USER_DS);
    assert_eq!(m.mapper.segments, []);
    let none: Vec<usize> = [0x2B, 0x4B, 0x7F, 0]
        .into_iter()
        .filter_map(tls_number)
        .collect();
    assert_eq!(none, []);
}

/// Linux's own load of such a selector would fault, and give the register 0.
/// Ours is still in the table, and does not fault.
#[test]
fn a_descriptor_that_was_taken_away_is_in_no_register() {
    for gone in [Descriptor::default(), segment(BASE, absent)] {
        let mut m = program(&[0x90], &[usual(BASE), gone]);
        let host = &mut m.host();
        host.note_descriptors();
        let regs = &host.vm.regs;
        for register in data(regs) {
            register.set(0x3F);
        }
        regs.gs_base.set(BASE);
        host.settle_segments();
        let regs = &host.vm.regs;
        assert_eq!(data(regs).map(Cell::get), [0; 4], "{gone:x?}");
        assert_eq!(regs.gs_base.get(), 0);
    }
}

/// The short way to user code is taken only where the long one would change
/// nothing.
#[test]
fn what_is_usual_needs_nothing() {
    let kinds = [
        Descriptor::default(),
        usual(BASE),
        segment(BASE, read_only),
        segment(BASE, absent),
    ];
    let selectors = [0, 0x33, 0x37, 0x3F, REAL_USER_DS];
    let mut short = 0;
    for (first, second) in kinds
        .iter()
        .flat_map(|&a| kinds.iter().map(move |&b| (a, b)))
    {
        let mut m = program(&[0x90], &[first, second]);
        let host = &mut m.host();
        host.note_descriptors();
        for n in 0..selectors.len().pow(4) {
            let digit = |at: u32| {
                selectors[n / selectors.len().pow(at) % selectors.len()]
            };
            let regs = &host.vm.regs;
            regs.ds.set(digit(0));
            regs.es.set(digit(1));
            regs.fs.set(digit(2));
            regs.gs.set(digit(3));
            regs.gs_base.set(if n % 2 == 0 { BASE } else { 0 });
            if host.has_usual_segments() {
                short += 1;
                assert!(!host.fix_data_segments());
                assert!(!host.fix_tls(), "{first:x?} {second:x?} {n}");
                assert_eq!(host.tls_stack(), None);
            }
        }
    }
    assert!(short > 0);
}
