//! Questions before LGUEST_INIT.
//!
//! The kit does not work here, not even printing. So most answers are the
//! reason for which the Guest ends. The other questions call LGUEST_INIT
//! themselves.

use crate::lab::memory::{self, FIRST, poke};
use crate::lab::run::{early, early_until_trap};
use crate::lab::{call, code, hypercall, trap};
use lg_abi::hypercall::Hypercall;
use lg_abi::shared::LguestData;
use lg_guest::{power, println};

/// Does CRASH before LGUEST_INIT end the Guest with its message?
pub(crate) fn crash_before_init() {
    memory::write(FIRST, b"never heard\0");
    hypercall(Hypercall::Crash, FIRST, 0, 0);
}

/// Does HALT before LGUEST_INIT end the Guest, by the call's name?
pub(crate) fn halt_before_init() {
    hypercall(Hypercall::Halt, 0, 0, 0);
}

/// Does a call end the Guest that would empty the ring before LGUEST_INIT?
pub(crate) fn ring_before_init() {
    hypercall(Hypercall::FlushAsync, 0, 0, 0);
}

/// What is the reason for an unknown call number before LGUEST_INIT?
pub(crate) fn number_11_before_init() {
    call(11, 0, 0, 0);
}

/// What is the reason for the greatest call number before LGUEST_INIT?
pub(crate) fn number_max_before_init() {
    call(u32::MAX, 0, 0, 0);
}

/// Does a trap before LGUEST_INIT end the Guest?
pub(crate) fn trap_before_init() {
    early(code!("ud2"));
}

/// Does the message of a page fault before LGUEST_INIT have the address?
pub(crate) fn fault_before_init() {
    early(code!("mov 0x12345678, %eax"));
}

/// Does `out` do nothing and `in` read ones before LGUEST_INIT, as later?
pub(crate) fn ports_before_init() {
    early(code!(
        "out %al, $0x80",
        "xor %eax, %eax",
        "in $0x71, %eax",
        "inc %eax", // all ones become zero
        "jz 1f",
        "ud2",
        "1: hlt" // another address than in the other case
    ));
}

/// Are privileged instructions of some kernels before LGUEST_INIT carried out:
/// reads of control registers, and accesses to model-specific registers, which
/// are zero? (Then `hlt` ends the Guest, because it is not among them.)
pub(crate) fn privileged_before_init() {
    early(code!(
        "mov $1, %eax",
        "mov $1, %edx",
        "mov $0x1b, %ecx",
        "rdmsr",
        "or %edx, %eax",
        "jnz 1f",
        "wrmsr",
        "mov %cr4, %eax",
        "test %eax, %eax",
        "jnz 1f",
        "mov %cr0, %eax",
        "cmp $0x11, %eax",
        "jne 1f",
        "mov %cr3, %eax",
        "test %eax, %eax", // the address of the Launcher's tables
        "jz 1f",
        "hlt",
        "1: ud2"
    ));
}

/// May the shared page be above all memory?
pub(crate) fn init_outside_memory() {
    hypercall(Hypercall::Init, 0x4000_0000, 0, 0);
}

/// May the shared page be at physical address 0, which means "none"?
pub(crate) fn init_at_zero() {
    hypercall(Hypercall::Init, 0, 0, 0);
}

/// May the shared page end one byte beyond memory?
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

/// Are calls carried out at once that are in the ring at LGUEST_INIT, because
/// the page was never cleared?
pub(crate) fn init_with_a_ring_in_use() {
    // All status bytes are zero: "pending". The first entry is FLUSH_ASYNC;
    // the second is no call at all.
    let hcalls = lg_abi::shared::offset::HCALLS;
    poke(FIRST + hcalls + 16, 11);
    hypercall(Hypercall::Init, FIRST, 0, 0);
    hypercall(Hypercall::FlushAsync, 0, 0, 0);
}

/// Calls LGUEST_INIT with a shared page that has these values for the range
/// without interrupts and for interrupts.
fn init(noirq_start: u32, noirq_end: u32, irq_enabled: u32) {
    use lg_abi::shared::offset;
    memory::write(DATA + offset::HCALL_STATUS, &[0xFF; 64]);
    poke(DATA + offset::NOIRQ_START, noirq_start);
    poke(DATA + offset::NOIRQ_END, noirq_end);
    poke(DATA + offset::IRQ_ENABLED, irq_enabled);
    hypercall(Hypercall::Init, DATA, 0, 0);
}

/// The address of that page.
const DATA: u32 = FIRST + 0x1000;

/// Switches interrupts on, counts for some milliseconds, then stops. The timer
/// interrupt comes in the meantime. It cannot come before this code, however
/// slow the machine is. Returns its distance from the start of the code.
fn interrupted() -> u32 {
    const {
        use lg_abi::shared::{IF, offset};
        // These numbers are in the code below.
        assert!(memory::va(DATA + offset::IRQ_ENABLED) == 0xC002_1000);
        assert!(IF == 0x200);
    }
    trap::set_gate(32, trap::INTERRUPT_GATE);
    trap::handle(|_| trap::Next::GiveUp);
    hypercall(Hypercall::SetClockevent, 1_000_000, 0, 0);
    let seen = early_until_trap(code!(
        "movl $0x200, 0xC0021000",
        "mov $60000000, %ecx", // after 10 bytes
        "1: dec %ecx",         // after 15
        "jnz 1b",
        "2: jmp 2b" // after 18
    ));
    seen.expect("the timer comes").eip() - memory::va(FIRST)
}

/// Does no interrupt come in the range of LGUEST_INIT without interrupts, and
/// one right after it?
pub(crate) fn noirq() {
    init(memory::va(FIRST), memory::va(FIRST) + 18, 0);
    println!("after {} bytes", interrupted());
    power::off(0);
}

/// Does the interrupt come in the middle of the same code without that range?
pub(crate) fn without_noirq() {
    init(0, 0, 0);
    println!("in the middle: {}", (10..18).contains(&interrupted()));
    power::off(0);
}

/// Are the fields that LGUEST_INIT writes set when it returns, and the others
/// unchanged?
pub(crate) fn init_writes() {
    use lg_abi::shared::offset;
    poke(DATA + offset::CR2, 0x1111);
    poke(DATA + offset::BLOCKED_INTERRUPTS, 0x2222);
    init(0x3333, 0x4444, lg_abi::shared::IF);
    let word = |at| memory::peek(DATA + at);
    println!("irq_enabled {:#x}", word(offset::IRQ_ENABLED));
    println!("blocked {:#x}", word(offset::BLOCKED_INTERRUPTS));
    println!("cr2 {:#x}", word(offset::CR2));
    println!("time is set: {}", word(offset::TIME_SEC) > 1_577_836_800);
    println!("ring {:#x}", word(offset::HCALL_STATUS));
    println!("reserve_mem {:#x}", word(offset::RESERVE_MEM));
    println!("noirq {:#x}", word(offset::NOIRQ_START));
    println!("noirq {:#x}", word(offset::NOIRQ_END));
    println!("after it {:#x}", word(size_of::<LguestData>() as u32));
    power::off(0);
}
