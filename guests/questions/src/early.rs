//! Before LGUEST_INIT: a Guest that the Host does not know yet.
//!
//! Nothing of the kit works here, not even printing: most answers are the
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

/// Are privileged instructions that come before LGUEST_INIT in some kernels
/// carried out: reads of control registers, and model-specific registers, which
/// are zero? (Then the end is `hlt`, which is none of them.)
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
        "test %eax, %eax", // where the Launcher has put the tables
        "jz 1f",
        "hlt",
        "1: ud2"
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

/// A page that this Guest shares with the Host, and what it says in it about
/// the stretch without interrupts, and about interrupts.
fn init(noirq_start: u32, noirq_end: u32, irq_enabled: u32) {
    use lg_abi::shared::offset;
    memory::write(DATA + offset::HCALL_STATUS, &[0xFF; 64]);
    poke(DATA + offset::NOIRQ_START, noirq_start);
    poke(DATA + offset::NOIRQ_END, noirq_end);
    poke(DATA + offset::IRQ_ENABLED, irq_enabled);
    hypercall(Hypercall::Init, DATA, 0, 0);
}

/// Where that page is.
const DATA: u32 = FIRST + 0x1000;

/// Switches interrupts on, counts for some milliseconds, then stops; the timer
/// comes in the meantime. Before this code nothing may be delivered,
/// however long the machine takes to get here. Returns how far behind the
/// start it came.
fn interrupted() -> u32 {
    const {
        use lg_abi::shared::{IF, offset};
        // The numbers in the code below.
        assert!(memory::va(DATA + offset::IRQ_ENABLED) == 0xC002_1000);
        assert!(IF == 0x200);
    }
    trap::set_gate(32, trap::INTERRUPT_GATE);
    trap::handle(|_| trap::Next::GiveUp);
    hypercall(Hypercall::SetClockevent, 1_000_000, 0, 0);
    let seen = early_until_trap(code!(
        "movl $0x200, 0xC0021000",
        "mov $60000000, %ecx", // behind 10 bytes
        "1: dec %ecx",         // behind 15
        "jnz 1b",
        "2: jmp 2b" // behind 18
    ));
    seen.expect("the timer comes").eip() - memory::va(FIRST)
}

/// Does no interrupt come in the stretch that LGUEST_INIT has named, and one
/// right behind it?
pub(crate) fn noirq() {
    init(memory::va(FIRST), memory::va(FIRST) + 18, 0);
    println!("behind {} bytes", interrupted());
    power::off(0);
}

/// Does it come in the middle of the same code without that?
pub(crate) fn without_noirq() {
    init(0, 0, 0);
    println!("in the middle: {}", (10..18).contains(&interrupted()));
    power::off(0);
}

/// Is what LGUEST_INIT writes there before it comes back, and nothing else
/// changed?
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
    println!("behind it {:#x}", word(size_of::<LguestData>() as u32));
    power::off(0);
}
