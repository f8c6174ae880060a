//! Before LGUEST_INIT: a Guest that the Host has not heard of.
//!
//! There is no shared page yet and no way to take a trap, so whatever goes
//! wrong here is the end; the questions ask which end.

use crate::lab::memory::{self, FIRST, poke};
use crate::lab::run::early;
use crate::lab::{call, code, hypercall};
use lg_abi::hypercall::Hypercall;
use lg_abi::shared::LguestData;

/// Does CRASH before LGUEST_INIT end the Guest with its message?
pub(crate) fn crash_before_init() {
    memory::write(FIRST, b"never heard\0");
    hypercall(Hypercall::Crash, FIRST, 0, 0);
}

/// Does HALT before LGUEST_INIT end the Guest, by the call's name?
pub(crate) fn halt_before_init() {
    hypercall(Hypercall::Halt, 0, 0, 0);
}

/// Does even the emptying of a ring that nobody knows end the Guest?
pub(crate) fn ring_before_init() {
    hypercall(Hypercall::FlushAsync, 0, 0, 0);
}

/// What is the reason when a number that never existed comes too early?
pub(crate) fn number_11_before_init() {
    call(11, 0, 0, 0);
}

/// And the greatest number of all?
pub(crate) fn number_max_before_init() {
    call(u32::MAX, 0, 0, 0);
}

/// Is a trap before LGUEST_INIT deadly, whatever it is?
pub(crate) fn trap_before_init() {
    early(code!("ud2"));
}

/// Does a page fault before LGUEST_INIT say which address it was about?
pub(crate) fn fault_before_init() {
    early(code!("mov 0x12345678, %eax"));
}

/// Does `out` before LGUEST_INIT do nothing, and `in` read ones, as it does
/// later?
pub(crate) fn ports_before_init() {
    early(code!(
        "out %al, $0x80",
        "xor %eax, %eax",
        "in $0x71, %eax",
        "inc %eax", // all ones become zero
        "jz 1f",
        "ud2",
        "1: hlt" // the end either way, but at another place
    ));
}

/// May the shared page lie above all memory?
pub(crate) fn init_outside_memory() {
    hypercall(Hypercall::Init, 0x4000_0000, 0, 0);
}

/// May it lie at physical 0, which means "none"?
pub(crate) fn init_at_zero() {
    hypercall(Hypercall::Init, 0, 0, 0);
}

/// May it end one byte beyond the last page that there is?
pub(crate) fn init_at_the_end_of_memory() {
    // The memory is RAM, the descriptor page, and no other: see the command.
    let end = (16 << 20) + 4096;
    hypercall(
        Hypercall::Init,
        end - size_of::<LguestData>() as u32 + 1,
        0,
        0,
    );
}

/// Is what the Guest has left in the ring, as the page it names was never
/// cleared, carried out at once?
pub(crate) fn init_with_a_ring_in_use() {
    // All status bytes are zero: "pending". The first entry is FLUSH_ASYNC;
    // the second is no call at all.
    let hcalls = lg_abi::shared::offset::HCALLS;
    poke(FIRST + hcalls + 16, 11);
    hypercall(Hypercall::Init, FIRST, 0, 0);
    hypercall(Hypercall::FlushAsync, 0, 0, 0);
}
