//! What `mov` is, by another decoder; and what it does to a device.

use super::*;
use crate::address::GuestPhys;
use crate::host::Event;
use crate::pci::tests::{BAR, machine};
use crate::testing::Machine;
use iced_x86::{
    Decoder, DecoderOptions, MemorySize, Mnemonic, OpKind,
    Register as IcedRegister,
};

fn regs() -> Registers {
    let regs = Registers::default();
    for (n, number) in (0..8_u8).zip(1_u32..) {
        general(&regs, n).set(number.wrapping_mul(0x1234_5677));
    }
    regs
}

/// The opcodes of moves.
const MOVES: &[&[u8]] = &[
    &[0x88],
    &[0x89],
    &[0x8A],
    &[0x8B],
    &[0xA0],
    &[0xA1],
    &[0xA2],
    &[0xA3],
    &[0xC6],
    &[0xC7],
    &[0x0F, 0xB6],
    &[0x0F, 0xB7],
    &[0x0F, 0xBE],
    &[0x0F, 0xBF],
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(50_000))]

    /// A move is one for another decoder, too, with the same address and
    /// length.
    #[test]
    fn moves_are_those_of_another_decoder(
        prefix in proptest::option::of(proptest::sample::select(&[
            0x66_u8, 0x26, 0x36, 0x3E, 0x65,
        ][..])),
        opcode in proptest::sample::select(MOVES),
        rest: [u8; 12],
    ) {
        let mut code: std::vec::Vec<u8> = prefix.into_iter().collect();
        code.extend(opcode);
        code.extend(rest);
        code.truncate(15);
        let regs = regs();
        let other = Decoder::new(32, &code, DecoderOptions::NONE).decode();
        let Some(ours) = decode(&code, &regs) else {
            return Ok(());
        };
        proptest::prop_assert!(!other.is_invalid());
        proptest::prop_assert_eq!(ours.length as usize, other.len());
        let moves = [Mnemonic::Mov, Mnemonic::Movzx, Mnemonic::Movsx];
        proptest::prop_assert!(moves.contains(&other.mnemonic()));
        let value = |register: IcedRegister| match register {
            IcedRegister::None => 0,
            register => {
                let first = IcedRegister::EAX as usize;
                let number = u8::try_from(register as usize - first);
                general(&regs, number.unwrap()).get()
            }
        };
        let at = value(other.memory_base())
            .wrapping_add(
                value(other.memory_index())
                    .wrapping_mul(other.memory_index_scale()),
            )
            .wrapping_add(other.memory_displacement32());
        proptest::prop_assert_eq!(ours.at.0, at);
        let bytes = match other.memory_size() {
            MemorySize::UInt8 | MemorySize::Int8 => 1,
            MemorySize::UInt16 | MemorySize::Int16 => 2,
            MemorySize::UInt32 | MemorySize::Int32 => 4,
            _ => 0,
        };
        proptest::prop_assert_eq!(ours.bytes, bytes);
        let stores = other.op0_kind() == OpKind::Memory;
        let is_store = matches!(ours.what, What::Store(_));
        proptest::prop_assert_eq!(is_store, stores);
    }

    /// Compilers' moves are not refused.
    #[test]
    fn every_form_of_address_is_known(
        opcode in proptest::sample::select(&[0x88_u8, 0x89, 0x8A, 0x8B][..]),
        mod_rm in 0_u8..0xC0,
        rest: [u8; 9],
    ) {
        let mut code = [0; 11];
        code[0] = opcode;
        code[1] = mod_rm;
        code[2..].copy_from_slice(&rest);
        proptest::prop_assert!(decode(&code, &regs()).is_some());
    }
}

#[test]
fn parts_of_registers_are_read_and_written() {
    let regs = Registers::default();
    regs.eax.set(0x1122_3344);
    assert_eq!(get_register(&regs, 4, 1), 0x33); // ah
    assert_eq!(get_register(&regs, 0, 1), 0x44);
    assert_eq!(get_register(&regs, 0, 2), 0x3344);
    set_register(&regs, 4, 1, 0xFFAA);
    assert_eq!(regs.eax.get(), 0x1122_AA44);
    set_register(&regs, 0, 2, 0x8001);
    assert_eq!(regs.eax.get(), 0x1122_8001);
    assert_eq!(extended(0x80, 1, true), 0xFFFF_FF80);
    assert_eq!(extended(0x80, 1, false), 0x80);
    assert_eq!(extended(0x7FFF, 2, true), 0x7FFF);
}

#[test]
fn what_is_no_move_is_refused() {
    for code in [
        &[0x01, 0x00][..],   // add %eax,(%eax)
        &[0x89, 0xC0],       // mov %eax,%eax
        &[0xC7, 0x40],       // half an instruction
        &[0xC6, 0x48, 0, 0], // not a mov
        &[0x64, 0x8B, 0x00], // fs, which need not begin at 0
        &[0x67, 0x8B, 0x00], // 16-bit address
        &[0x0F, 0x6F, 0x00], // movq
    ] {
        assert_eq!(decode(code, &regs()), None, "{code:x?}");
    }
}

/// A virtual page of the kernel's that is the console's BAR.
const VA: u32 = 0xC030_0000;

/// What a kernel's instruction does to the console's BAR, which is at [`VA`];
/// edx has [`VA`], eax 0x1122_3344.
fn kernel(code: &[u8], pte_flags: u32) -> Machine {
    let mut m = machine();
    let memory = m.ram.memory();
    let entry = GuestPhys(Machine::KERNEL_TABLE + (VA >> 12 & 0x3FF) * 4);
    memory.set_word(entry, BAR | pte_flags).unwrap();
    let at = 0x20_0000;
    memory.write(GuestPhys(at), code).unwrap();
    m.vm.regs.eip.set(0xC000_0000 + at);
    m.vm.regs.eax.set(0x1122_3344);
    m.vm.regs.edx.set(VA);
    m.vm.idt[14].set(crate::state::Gate {
        handler: HANDLER,
        flags: crate::state::Gate::PRESENT,
    });
    m.vm.idt[13].set(crate::state::Gate {
        handler: PROTECTION,
        flags: crate::state::Gate::PRESENT,
    });
    m.world.device_value = 0x5566_7788;
    m
}

/// The handler of page faults, and that of protection faults.
const HANDLER: u32 = 0xC000_7000;
const PROTECTION: u32 = 0xC000_7100;

fn fault(va: u32, write: bool) -> Event {
    Event::Trap {
        vector: 14,
        error: u32::from(write) << 1,
        cr2: va,
    }
}

#[test]
fn a_move_reaches_the_device() {
    // mov %eax,0x14(%edx)
    let mut m = kernel(&[0x89, 0x42, 0x14], 0x13);
    m.host().run_guest(fault(VA + 0x14, true)).unwrap();
    assert_eq!(m.world.device_accesses, [(0, 0x14, 4, Some(0x1122_3344))]);
    assert_eq!(m.vm.regs.eip.get(), 0xC020_0003);
    // mov %ax,0x38(%edx)
    let mut m = kernel(&[0x66, 0x89, 0x42, 0x38], 0x13);
    m.host().run_guest(fault(VA + 0x38, true)).unwrap();
    assert_eq!(m.world.device_accesses, [(0, 0x38, 2, Some(0x3344))]);
    // mov 0x15(%edx),%ah
    let mut m = kernel(&[0x8A, 0x62, 0x15], 0x1B);
    m.host().run_guest(fault(VA + 0x15, false)).unwrap();
    assert_eq!(m.world.device_accesses, [(0, 0x15, 1, None)]);
    assert_eq!(m.vm.regs.eax.get(), 0x1122_8844);
}

#[test]
fn what_cannot_be_carried_out_is_the_kernels_fault() {
    for (code, flags, va, handler) in [
        // add %eax,0x14(%edx)
        (&[0x01, 0x42, 0x14][..], 0x13, VA + 0x14, PROTECTION),
        // mov %eax,0x14(%edx), read-only
        (&[0x89, 0x42, 0x14], 0x11, VA + 0x14, HANDLER),
        // mov %eax,0xFFE(%edx), across the end of the page
        (
            &[0x89, 0x82, 0xFE, 0x0F, 0, 0],
            0x13,
            VA + 0xFFE,
            PROTECTION,
        ),
        // The fault is elsewhere than the operand.
        (&[0x89, 0x42, 0x14], 0x13, VA + 0x18, PROTECTION),
    ] {
        let mut m = kernel(code, flags);
        m.host().run_guest(fault(va, true)).unwrap();
        assert_eq!(m.world.device_accesses, []);
        assert_eq!(m.vm.regs.eip.get(), handler, "{code:x?}");
    }
}

#[test]
fn a_page_of_a_device_is_not_mapped() {
    let mut m = kernel(&[0x8B, 0x42, 0x14], 0x73);
    let mut host = m.host();
    host.run_guest(fault(VA + 0x14, false)).unwrap();
    let va = crate::address::GuestVirt(VA);
    host.set_pte(Machine::CR3, va, [BAR | 0x73, 0]).unwrap();
    host.flush_everything().unwrap();
    assert!(!host.shadow.shadow(va).is_mapped());
    // An address that is no device's ends the Guest, as before.
    let beyond = Machine::RAM + (4 << 20);
    assert!(host.set_pte(Machine::CR3, va, [beyond | 0x73, 0]).is_err());
}
