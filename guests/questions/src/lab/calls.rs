//! Hypercalls with any number and any arguments.
//!
//! The kit checks its arguments. A question must be able to make any call.

#![expect(unsafe_code, reason = "the hypercall instruction")]

use core::arch::asm;
use lg_abi::dma::BindCount;
use lg_abi::hypercall::Hypercall;

/// Any call. Returns what is in eax afterwards.
pub(crate) fn call(eax: u32, edx: u32, ebx: u32, ecx: u32) -> u32 {
    let result;
    // SAFETY: the Host can only affect this Guest, which is intended. Memory
    // that it may write is accessed by address only.
    unsafe {
        asm!(
            "int $0x1F",
            inout("eax") eax => result,
            in("edx") edx,
            in("ebx") ebx,
            in("ecx") ecx,
        );
    }
    result
}

/// A call of the interface.
pub(crate) fn hypercall(call: Hypercall, edx: u32, ebx: u32, ecx: u32) -> u32 {
    self::call(call as u32, edx, ebx, ecx)
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
