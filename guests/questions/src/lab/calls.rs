//! Hypercalls with any number and any arguments.
//!
//! The kit checks its arguments. A question must be able to make any call.

#![expect(unsafe_code, reason = "the hypercall instruction")]

use core::arch::asm;
use lg_abi::call::CallName;
use lg_abi::dma::BindCount;
use lg_abi::gen1;
use lg_abi::hypercall::Hypercall;
use lg_guest::interface;

/// Any call with up to three arguments, in the registers of this Guest's
/// interface. Returns what is in eax afterwards.
pub(crate) fn call(number: u32, first: u32, second: u32, third: u32) -> u32 {
    let call = interface::registers(number, [first, second, third, 0]);
    let result;
    // SAFETY: the Host can only affect this Guest, which is intended. Memory
    // that it may write is accessed by address only.
    unsafe {
        asm!(
            "int $0x1F",
            inout("eax") call.eax => result,
            in("edx") call.edx,
            in("ebx") call.ebx,
            in("ecx") call.ecx,
        );
    }
    result
}

/// A call by its name.
pub(crate) fn named(name: CallName, first: u32, second: u32) -> u32 {
    call(number(name), first, second, 0)
}

/// The number of a call. This interface must have it.
pub(crate) fn number(name: CallName) -> u32 {
    interface::number(name).expect("a call of this interface")
}

/// A call of the interface of 2007. In later ones, the call that replaces it.
pub(crate) fn hypercall(
    call: Hypercall,
    first: u32,
    second: u32,
    third: u32,
) -> u32 {
    let name = gen1::INTERFACE.name(call as u32);
    let name = name.expect("a call of 2007");
    match (name, interface::number(name)) {
        (_, Some(number)) => self::call(number, first, second, third),
        (CallName::Crash, None) => named(CallName::Shutdown, first, 1),
        (CallName::SetPmd, None) => named(CallName::SetPgd, first, second),
        (name, None) => panic!("no {} here", name.text()),
    }
}

/// BIND_DMA; its result.
pub(crate) fn bind(key: u32, dmas: u32, count: u32, irq: u8) -> u32 {
    let bind = BindCount { count, irq };
    hypercall(Hypercall::BindDma, key, dmas, bind.word())
}

/// SEND_DMA.
pub(crate) fn send(key: u32, dma: u32) {
    hypercall(Hypercall::SendDma, key, dma, 0);
}
