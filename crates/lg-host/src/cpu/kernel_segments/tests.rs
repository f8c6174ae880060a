//! Tests of the kernel's own segments.

use super::*;
use crate::address::GuestPhys;
use crate::cpu::selectors::{REAL_KERNEL_DS, REAL_USER_DS};
use crate::fast_path;
use crate::host::Event;
use crate::state::Gate;
use crate::testing::Machine;
use lg_abi::segment::{
    GDT_STACK_CANARY, GDT_USER_CS, GDT_USER_DS, USER_CS, USER_DS,
};
use std::vec::Vec;

/// Where the kernel's code is.
const CODE: u32 = 0xC001_0000;
/// Where its handler of general protection faults is.
const HANDLER: u32 = 0xC000_7000;
/// Its per-cpu data.
const PER_CPU: u32 = 0xC034_5000;
/// Our selectors.
const FS: u32 = 0xDF;
const GS: u32 = 0xE7;

/// Data of level 1 with this base, as Linux describes its per-cpu data.
fn per_cpu(base: u32) -> Descriptor {
    Descriptor {
        low: base << 16 | 0xFFFF,
        high: 0x008F_B200 | base >> 16 & 0xFF | base & 0xFF00_0000,
    }
}

/// 24 bytes of level 1 that cannot be written, as it describes its canary.
fn canary(base: u32) -> Descriptor {
    Descriptor {
        low: base << 16 | 0x18,
        high: 0x0040_B000 | base >> 16 & 0xFF | base & 0xFF00_0000,
    }
}

/// A kernel that has described both, and stands at `code`.
fn kernel(code: &[u8]) -> Machine {
    let m = Machine::new();
    let at = GuestPhys(CODE - 0xC000_0000);
    m.ram.memory().write(at, code).unwrap();
    m.vm.gdt[GDT_PER_CPU as usize].set(per_cpu(PER_CPU));
    m.vm.gdt[GDT_STACK_CANARY as usize].set(canary(0x1234));
    m.vm.gdt[GDT_USER_CS as usize].set(Descriptor::flat_code(3));
    m.vm.gdt[GDT_USER_DS as usize].set(Descriptor::flat_data(3));
    m.vm.idt[13].set(Gate {
        handler: HANDLER,
        flags: Gate::PRESENT,
    });
    m.vm.regs.eip.set(CODE);
    m
}

/// The processor has refused `selector`.
fn refused(selector: u32) -> Event {
    Event::Trap {
        vector: 13,
        error: selector & 0xFFFC,
        cr2: 0,
    }
}

/// mov %eax,%fs; mov %eax,%gs
const LOAD_FS: [u8; 2] = [0x8E, 0xE0];
const LOAD_GS: [u8; 2] = [0x8E, 0xE8];

/// The kernel loads `selector` from eax by `code`: the machine after it.
fn load(code: &[u8], selector: u32) -> Machine {
    let mut m = kernel(code);
    m.vm.regs.eax.set(selector);
    m.host().run_guest(refused(selector)).unwrap();
    m
}

#[test]
fn a_table_gets_data_of_level_3_or_nothing() {
    // Every type, level and presence; the bits 64-bit code and "free" are set.
    for bits in 0..0x100 {
        let from = Descriptor {
            low: 0x5678_9ABC,
            high: 0x12FD_0034 | bits << 8,
        };
        let is_data = bits & 0x98 == 0x90;
        let entry = entry_for(from);
        if !is_data {
            assert_eq!(entry, Descriptor::default(), "{bits:x}");
            continue;
        }
        assert_eq!(entry.low, from.low);
        assert_eq!(entry.base(), from.base());
        assert_eq!(entry.dpl(), 3);
        // Granularity, size and limit; presence and type, accessed.
        assert_eq!(entry.high & 0x00FF_0000, 0x00CD_0000);
        assert_eq!(entry.high >> 8 & 0x9F, bits & 0x9F | 1);
        assert_eq!(entry_for(entry), entry, "it stays what it is");
    }
}

#[test]
fn a_kernel_loads_its_segments() {
    let m = load(&LOAD_FS, 0xD8);
    let regs = &m.vm.regs;
    assert_eq!((regs.fs.get(), regs.fs_base.get()), (FS, PER_CPU));
    assert_eq!(regs.eip.get(), CODE + 2);
    assert_eq!(m.world.renewed, 1, "the view's table had none");
    // Both are there now.
    let (entries, _) = m.vm.kernel_segments.read();
    assert_eq!(entries[0], entry_for(per_cpu(PER_CPU)));
    assert_eq!(entries[1], entry_for(canary(0x1234)));

    let m = load(&LOAD_GS, 0xE0);
    let regs = &m.vm.regs;
    assert_eq!((regs.gs.get(), regs.gs_base.get()), (GS, 0x1234));
    assert_eq!(m.world.renewed, 1);

    // pop %fs, of what it has pushed before, and of a level that counts.
    for selector in [FS, 0xD9] {
        let mut m = kernel(&[0x0F, 0xA1]);
        let stack = m.vm.regs.esp.get();
        let at = GuestPhys(stack - 0xC000_0000);
        m.ram.memory().set_word(at, selector).unwrap();
        m.host().run_guest(refused(selector)).unwrap();
        assert_eq!(m.vm.regs.fs.get(), FS);
        assert_eq!(m.vm.regs.esp.get(), stack + 4);
    }
}

#[test]
fn what_no_processor_loads_is_the_kernels_fault() {
    // mov %eax,%ds; %es; %ss
    for code in [[0x8E, 0xD8], [0x8E, 0xC0], [0x8E, 0xD0]] {
        let m = load(&code, 0xD8);
        assert_eq!(m.vm.regs.eip.get(), HANDLER);
        assert_eq!(m.world.renewed, 0);
    }
    // The selector asks for user level, the descriptor is the kernel's.
    for selector in [0xDA, 0xDB] {
        assert_eq!(load(&LOAD_FS, selector).vm.regs.eip.get(), HANDLER);
    }
    // Code, and a system segment.
    for high in [0x00CF_BA00, 0x0000_A200] {
        let mut m = kernel(&LOAD_FS);
        m.vm.gdt[GDT_PER_CPU as usize].set(Descriptor { low: 0xFFFF, high });
        m.vm.regs.eax.set(0xD8);
        m.host().run_guest(refused(0xD8)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER);
    }
    // A descriptor that is not present has a vector of its own.
    let mut m = kernel(&LOAD_FS);
    m.vm.gdt[GDT_PER_CPU as usize].set(Descriptor {
        high: per_cpu(0).high & !Descriptor::PRESENT,
        ..per_cpu(0)
    });
    m.vm.idt[11].set(Gate {
        handler: HANDLER + 11,
        flags: Gate::PRESENT,
    });
    m.vm.regs.eax.set(0xD8);
    m.host().run_guest(refused(0xD8)).unwrap();
    assert_eq!(m.vm.regs.eip.get(), HANDLER + 11);
}

#[test]
fn user_code_loads_none_of_them() {
    for selector in [0xD8, 0xDB, FS, GS] {
        let mut m = kernel(&[]);
        m.set_user_pte(1, lg_abi::page::Pte(0x5067));
        m.ram.memory().write(GuestPhys(0x5000), &LOAD_GS).unwrap();
        m.vm.user.set(1);
        m.vm.ss.set(USER_DS.into());
        m.vm.regs.eip.set(0x1000);
        m.vm.regs.eax.set(selector);
        m.host().run_guest(refused(selector)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER, "{selector:x}");
        assert_eq!(m.vm.regs.gs.get(), 0);
    }
}

#[test]
fn a_view_is_made_anew_when_they_change() {
    let mut m = kernel(&LOAD_FS);
    m.vm.regs.eax.set(0xD8);
    let mut host = m.host();
    // Nothing has loaded them yet, so they do not matter.
    host.vm.gdt[GDT_PER_CPU as usize].set(per_cpu(0x1000));
    host.note_descriptors();
    host.run_guest(Event::Kick).unwrap();
    assert_eq!(host.vm.counters.views_renewed.get(), 0);
    host.run_guest(refused(0xD8)).unwrap();
    assert_eq!(host.vm.counters.views_renewed.get(), 1);
    // The same again.
    host.note_descriptors();
    host.run_guest(Event::Kick).unwrap();
    assert_eq!(host.vm.counters.views_renewed.get(), 1);
    // Another base, before the Guest's next instruction.
    host.vm.gdt[GDT_PER_CPU as usize].set(per_cpu(0x2000));
    host.note_descriptors();
    host.run_guest(Event::Kick).unwrap();
    assert_eq!(host.vm.counters.views_renewed.get(), 2);
    let (entries, version) = host.vm.kernel_segments.read();
    assert_eq!(entries[0].base(), 0x2000);
    assert_eq!(host.shadow.segments_version(), version);
    // One that is taken away.
    host.vm.gdt[GDT_PER_CPU as usize].set(Descriptor::default());
    host.note_descriptors();
    host.run_guest(Event::Kick).unwrap();
    assert_eq!(host.vm.counters.views_renewed.get(), 3);
    let (entries, _) = host.vm.kernel_segments.read();
    assert_eq!(entries[0], Descriptor::default());
}

#[test]
fn what_is_made_up_in_the_state_gets_into_no_table() {
    let segments = KernelSegments::default();
    segments.entries[0].set(Descriptor::flat_code(3));
    segments.entries[1].set(per_cpu(7));
    let (entries, _) = segments.read();
    assert_eq!(entries, [Descriptor::default(), entry_for(per_cpu(7))]);
}

#[test]
fn a_processor_takes_them_away_on_the_way_to_user_code() {
    let mut m = kernel(&[0xCF]); // iret
    let frame = m.vm.regs.esp.get() - 0xC000_0000;
    let words = [0x1000, USER_CS.into(), 0x202, 0x1FF0, USER_DS.into()];
    for (n, word) in (0..).zip(words) {
        let at = GuestPhys(frame + 4 * n);
        m.ram.memory().set_word(at, word).unwrap();
    }
    let regs = &m.vm.regs;
    for (register, selector) in [
        (&regs.ds, FS),
        (&regs.es, GS),
        (&regs.fs, FS),
        (&regs.gs, GS),
    ] {
        register.set(selector);
    }
    regs.gs_base.set(PER_CPU);
    m.host().run_guest(refused(0)).unwrap();
    assert!(m.vm.in_user_mode());
    let regs = &m.vm.regs;
    let all = [&regs.ds, &regs.es, &regs.fs, &regs.gs, &regs.gs_base];
    assert_eq!(all.map(Cell::get), [0; 5]);
    // The kernel keeps what it has.
    m.vm.user.set(0);
    m.vm.regs.fs.set(FS);
    m.vm.regs.ds.set(REAL_KERNEL_DS);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.regs.fs.get(), FS);
    assert_ne!(m.vm.regs.ds.get(), REAL_USER_DS);
}

/// `code` with a load of fs at `at`, after the processor has refused 0xD8
/// there.
fn patched(code: &[u8], at: u32, prepare: impl FnOnce(&Machine)) -> Vec<u8> {
    let mut m = kernel(code);
    for register in [&m.vm.regs.eax, &m.vm.regs.ecx, &m.vm.regs.edx] {
        register.set(0xD8);
    }
    m.vm.regs.eip.set(CODE + at);
    prepare(&m);
    m.host().run_guest(refused(0xD8)).unwrap();
    assert_eq!(m.vm.regs.fs.get(), FS);
    let mut now = std::vec![0; code.len()];
    let place = GuestPhys(CODE - 0xC000_0000);
    m.ram.memory().read(place, &mut now).unwrap();
    now
}

/// mov $0xd8,%edx; mov %edx,%fs
const SAVE_ALL: [u8; 7] = [0xBA, 0xD8, 0, 0, 0, 0x8E, 0xE2];
/// The same, through ecx.
const ERROR_CODE: [u8; 7] = [0xB9, 0xD8, 0, 0, 0, 0x8E, 0xE1];

#[test]
fn the_constant_in_front_of_a_load_becomes_ours() {
    for code in [SAVE_ALL, ERROR_CODE] {
        let mut right = code;
        right[1] = 0xDF;
        assert_eq!(patched(&code, 5, |_| {}), right);
    }
}

#[test]
fn other_code_stays_as_it_is() {
    for (code, at) in [
        // Another register, another constant, an instruction in between.
        (&[0xB9, 0xD8, 0, 0, 0, 0x8E, 0xE2][..], 5),
        (&[0xBA, 0xD8, 0, 0, 1, 0x8E, 0xE2], 5),
        (&[0xBA, 0xD8, 0, 0, 0, 0x90, 0x8E, 0xE2], 6),
        // A prefix: the load does not stand at eip.
        (&[0xBA, 0xD8, 0, 0, 0, 0x66, 0x8E, 0xE2], 5),
    ] {
        assert_eq!(patched(code, at, |_| {}), code);
    }
    // The slow path, which loads the same.
    let slow = |m: &Machine| m.vm.slow_paths.set(fast_path::SEGMENTS);
    assert_eq!(patched(&SAVE_ALL, 5, slow), SAVE_ALL);
}
