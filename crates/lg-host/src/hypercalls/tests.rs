//! Calls of Linux 3.1 to 3.19, and a Guest without page tables.

use super::*;
use crate::paging::walk::walk;
use crate::testing::Machine;
use lg_abi::gen2::LINUX_3_1;
use lg_abi::page::{LINEAR, Pte};

/// A Guest of this generation that has not called LGUEST_INIT.
fn machine() -> Machine {
    let m = Machine::new();
    m.vm.interface.set(Known::Linux3_1 as u32);
    m.vm.lguest_data.set(0);
    let layout = &LINUX_3_1.layout;
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
    for va in [0, 0x5123, Machine::RAM - 1] {
        let entry = walk(&memory, LINEAR, GuestVirt(va)).unwrap().unwrap();
        assert_eq!(entry.pte.frame(), va & !0xFFF);
        assert!(entry.pte.has(Pte::WRITE | Pte::ACCESSED | Pte::DIRTY));
        assert!(!entry.pte.has(Pte::USER));
    }
    for va in [Machine::RAM, 0xC000_0000] {
        assert_eq!(walk(&memory, LINEAR, GuestVirt(va)), Ok(None));
    }
}
