//! Calls of Linux 3.1 to 3.19, and a Guest without page tables.

use super::*;
use crate::paging::walk::Tables;
use crate::testing::Machine;
use lg_abi::gen2::LINUX_3_1;
use lg_abi::page::{Format, LINEAR, Pte};

/// A Guest of this generation that has not called LGUEST_INIT.
fn machine() -> Machine {
    machine_of(Known::Linux3_1)
}

fn machine_of(known: Known) -> Machine {
    let m = Machine::new();
    m.vm.interface.set(known as u32);
    m.vm.lguest_data.set(0);
    let layout = &known.interface().layout;
    let put = |field: Option<Field>, word| {
        let at = GuestPhys(Machine::DATA + field.unwrap().offset());
        m.ram.memory().set_word(at, word).unwrap();
    };
    put(layout.kernel_address, 0xC000_0000);
    put(layout.syscall_vec, 0x80);
    m
}

/// Makes a call with these words in eax, ebx, ecx and edx.
fn call(m: &mut Machine, words: [u32; 4]) -> Result<(), Kill> {
    let regs = &m.vm.regs;
    regs.eax.set(words[0]);
    regs.ebx.set(words[1]);
    regs.ecx.set(words[2]);
    regs.edx.set(words[3]);
    m.host().do_hypercall()
}

fn initialised() -> Machine {
    let mut m = machine();
    call(&mut m, [1, Machine::DATA, 0, 0]).unwrap();
    m
}

#[test]
fn init_names_the_memory_that_is_shared() {
    let m = initialised();
    assert_eq!(m.vm.lguest_data.get(), Machine::DATA);
    let field =
        GuestPhys(Machine::DATA + LINUX_3_1.layout.reserve_mem.offset());
    assert_eq!(m.ram.memory().word(field), Ok(0x40_0000));
}

/// Earlier releases are told where the page directory is that was made for
/// them, and each has its registers and its ring.
#[test]
fn earlier_releases_call_in_their_own_ways() {
    for known in [
        Known::Linux2_6_24,
        Known::Linux2_6_25,
        Known::Linux2_6_30,
        Known::Linux2_6_31,
    ] {
        let mut m = machine_of(known);
        let arguments = match known {
            Known::Linux2_6_24 | Known::Linux2_6_25 => [1, 0, 0, Machine::DATA],
            _ => [1, Machine::DATA, 0, 0],
        };
        call(&mut m, arguments).unwrap();
        let memory = m.ram.memory();
        let data = |offset| GuestPhys(Machine::DATA + offset);
        let layout = &known.interface().layout;
        let pgdir = layout.pgdir.unwrap().offset();
        assert_eq!(memory.word(data(pgdir)), Ok(Machine::CR3));
        // A call by the ring: LOAD_IDT_ENTRY of vector 3 with two words.
        let status = data(layout.hcall_status.offset());
        memory.write(status, &[HCALL_DONE; 64]).unwrap();
        let words: &[u32] = match known {
            Known::Linux2_6_24 | Known::Linux2_6_25 => {
                &[6, 0x60_1234, 0xC010_EE00, 3]
            }
            Known::Linux2_6_30 => &[6, 3, 0x60_1234, 0xC010_EE00],
            _ => &[6, 3, 0x60_1234, 0xC010_EE00, 0],
        };
        for entry in [0, 1] {
            let ring = data(layout.hcalls.offset())
                .plus(entry * as_word(words.len()) * 4);
            for (at, &word) in (0..).zip(words) {
                memory.set_word(ring.plus(at * 4), word).unwrap();
            }
            memory.write(status.plus(entry), &[0]).unwrap();
            m.vm.idt[3].set(Gate::default());
            m.host().do_async_hcalls().unwrap();
            let gate = m.vm.idt[3].get();
            assert_eq!(gate.handler, 0xC010_1234, "{known:?} {entry}");
        }
    }
}

/// Where no hypervisor answers, `vmcall` is an illegal instruction.
#[test]
fn a_call_by_vmcall_is_carried_out_in_releases_that_have_it() {
    const CODE: u32 = 0x7000;
    for (known, vector, has_it) in [
        (Known::Linux2_6_25, 6, false),
        (Known::Linux2_6_30, 6, true),
        (Known::Linux2_6_31, 6, true),
        (Known::Linux2_6_31, 13, true),
        (Known::Linux3_1, 6, false),
    ] {
        let mut m = machine_of(known);
        m.vm.lguest_data.set(Machine::DATA);
        let status = known.interface().layout.hcall_status.offset();
        let at = GuestPhys(Machine::DATA + status);
        m.ram.memory().write(at, &[HCALL_DONE; 64]).unwrap();
        let code = [0x0F, 0x01, 0xC1, 0x90];
        m.ram.memory().write(GuestPhys(CODE), &code).unwrap();
        let handler = 0xC000_6000;
        for vector in [6, 13] {
            m.vm.idt[vector].set(Gate {
                handler,
                flags: Gate::PRESENT,
            });
        }
        m.vm.regs.eip.set(0xC000_0000 + CODE);
        m.vm.regs.eax.set(8);
        m.vm.regs.ebx.set(8);
        m.host().trap(vector, 0, 0).unwrap();
        let (eip, ts) = (m.vm.regs.eip.get(), m.vm.ts.get());
        if has_it {
            assert_eq!((eip, ts), (0xC000_7003, 8), "{known:?} {vector}");
        } else {
            assert_eq!((eip, ts), (handler, 0), "{known:?} {vector}");
        }
    }
}

#[test]
fn init_of_another_kernel_than_the_image_is_refused() {
    let layout = &LINUX_3_1.layout;
    for (field, word, kill) in [
        (
            layout.kernel_address,
            0x8000_0000,
            Kill::BadKernelAddress(0x8000_0000),
        ),
        (layout.syscall_vec, 0x40, Kill::BadSystemCallVector(0x40)),
    ] {
        let mut m = machine();
        let at = GuestPhys(Machine::DATA + field.unwrap().offset());
        m.ram.memory().set_word(at, word).unwrap();
        let result = call(&mut m, [1, Machine::DATA, 0, 0]);
        assert_eq!(result, Err(kill));
    }
}

#[test]
fn descriptors_come_one_by_one() {
    let mut m = initialised();
    call(&mut m, [18, 14, 0xFFFF, 0x00CF_9A00]).unwrap();
    // The kernel's level is 1, and no processor sets the accessed bit.
    let entry = m.vm.gdt[14].get();
    assert_eq!((entry.low, entry.high), (0xFFFF, 0x00CF_BB00));
    let kept = m.vm.gdt[10].get();
    call(&mut m, [18, 10, 1, 2]).unwrap();
    assert_eq!(m.vm.gdt[10].get(), kept);
    let result = call(&mut m, [18, 32, 0, 0]);
    assert_eq!(result, Err(Kill::TooManyGdtEntries(33)));
}

#[test]
fn notify_tells_the_launcher_an_address_that_exists() {
    let mut m = initialised();
    call(&mut m, [17, 0x5000, 0, 0]).unwrap();
    assert_eq!(m.world.notified, [0x5000]);
    let result = call(&mut m, [17, Machine::RAM, 0, 0]);
    assert!(matches!(result, Err(Kill::BadAddress { .. })), "{result:?}");
    assert_eq!(m.world.notified, [0x5000]);
}

#[test]
fn shutdown_tells_its_message() {
    let mut m = initialised();
    m.ram
        .memory()
        .write(GuestPhys(0x6000), b"Power down\0")
        .unwrap();
    call(&mut m, [2, 0x6000, 1, 0]).unwrap();
    assert_eq!(m.world.crashed.as_deref(), Some("Power down"));
}

#[test]
fn a_restart_is_told_whatever_its_message_is() {
    for message in [0x4000_0000, 0, 0x6000] {
        let mut m = initialised();
        call(&mut m, [2, message, 2, 0]).unwrap();
        assert_eq!(m.world.crashed.as_deref(), Some("Restarting system"));
    }
}

#[test]
fn calls_of_2007_do_not_exist() {
    let mut m = initialised();
    for number in [3, 11, 12] {
        let result = call(&mut m, [number, 0, 0, 0]);
        assert_eq!(result, Err(Kill::BadHypercall(number)));
    }
}

#[test]
fn without_tables_addresses_are_physical() {
    let m = machine();
    let memory = m.ram.memory();
    let tables = Tables::new(&memory, Format::TwoLevels, LINEAR);
    for va in [0, 0x5123, Machine::RAM - 1] {
        let entry = tables.walk(GuestVirt(va)).unwrap().unwrap();
        assert_eq!(entry.pte.frame(), va & !0xFFF);
        assert!(entry.pte.has(Pte::WRITE | Pte::ACCESSED | Pte::DIRTY));
        assert!(!entry.pte.has(Pte::USER));
    }
    for va in [Machine::RAM, 0xC000_0000] {
        assert_eq!(tables.walk(GuestVirt(va)), Ok(None));
    }
}

#[test]
fn a_pointer_table_need_not_be_a_page() {
    let mut m = initialised();
    let last = Machine::RAM - Format::Pae.top_size();
    let call_with = |m: &mut Machine, at| call(m, [4, at, 0, 0]);
    let beyond = |addr, len| Err(Kill::BadAddress { addr, len });
    assert_eq!(call_with(&mut m, last), beyond(last, 4096));
    m.vm.paging.set(Format::Pae as u32);
    assert_eq!(call_with(&mut m, last), Ok(()));
    assert_eq!(m.vm.cr3.get(), last);
    assert_eq!(call_with(&mut m, last + 8), beyond(last + 8, 32));
}
