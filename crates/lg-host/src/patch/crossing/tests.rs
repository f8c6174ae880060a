//! Crossings, instruction by instruction, against the slow way.
//!
//! A few lines of interpreter ([`cpu`]) execute the code as the processor does.
//! A crossing is interrupted in front of each of its instructions, and the
//! Guest must then be where the trampoline would have led it.

mod answers;
mod cpu;

use super::code::{CODE, Phase};
use super::{CODE_ADDRESS, TrampolineKind};
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::cpu::registers::{EFLAGS_AC, EFLAGS_NT, EFLAGS_TF};
use crate::cpu::selectors::{REAL_KERNEL_DS, REAL_USER_DS, ldt};
use crate::fast_path;
use crate::host::{Event, Host};
use crate::state::{Gate, Registers};
use crate::testing::Machine;
use core::cell::Cell;
use cpu::{End, run};
use lg_abi::page::Pte;
use lg_abi::segment::{
    Descriptor, GDT_KERNEL_CS, GDT_STACK_CANARY, GDT_TLS_MIN, GDT_USER_CS,
    GDT_USER_DS, GUEST_PL, USER_CS, USER_DS, USER_PL,
};
use lg_abi::shared::{IF, SYSCALL_VECTOR, offset};
use std::vec::Vec;

/// The handler of system calls.
const HANDLER: u32 = 0xC001_0000;
/// Where the kernel's `iret` is.
const IRET: u32 = 0xC001_2000;
/// Where the entry page's far call returns to, and the program beyond.
const BACK: u32 = 0x1017;
/// From there to behind the `int $0x80`.
const TO_BACK: u32 = 0u32.wrapping_sub(21);
/// The program's stack, and the kernel's.
const USER_STACK: u32 = 0x1F00;
const KERNEL_STACK: u32 = 0xC000_9000;
/// The trampolines of the entry page and at the kernel's `iret`.
const ENTRY_TRAMPOLINE: u32 = 0xFFFE_0040;
const TRAMPOLINE: u32 = 0xFFFE_1000;
/// The trampoline of hypercalls that are not answered in 32-bit code.
const NEAR_TRAMPOLINE: u32 = 0xFFFE_1040;
/// Arithmetic flags, which a crossing changes in the kernel.
const ARITHMETIC: u32 = 0x8D5;

/// What a test changes of a machine.
type Change = fn(&mut Machine);

/// What the crossing is: the way in, the way out of kernels up to 4.0 or since
/// 4.1, or their way back to themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
    LaterOut,
    Back,
    LaterBack,
}

impl Way {
    fn trampoline(self) -> TrampolineKind {
        match self {
            Self::In => TrampolineKind::EntryPage,
            _ => TrampolineKind::Iret,
        }
    }

    /// Whether the kernel pops nothing in front of its `iret`.
    fn is_later(self) -> bool {
        matches!(self, Self::LaterOut | Self::LaterBack)
    }

    fn is_back(self) -> bool {
        matches!(self, Self::Back | Self::LaterBack)
    }
}

const WAYS: [Way; 5] =
    [Way::In, Way::Out, Way::LaterOut, Way::Back, Way::LaterBack];

/// Where the kernel is interrupted, with what flags, and where its stack is.
const INTERRUPTED: u32 = 0xC001_6000;
const FLAGS_BACK: u32 = 0xAC7;
const STACK_BACK: u32 = KERNEL_STACK - 0x40;

fn irq_enabled() -> GuestPhys {
    GuestPhys(Machine::DATA + offset::IRQ_ENABLED)
}

/// A Guest whose program has stopped once, and whose patches lead to crossings.
fn machine(way: Way) -> Machine {
    let mut m = Machine::new();
    m.set_user_pte(1, Pte(0x5000 | 0x67));
    m.vm.idt[SYSCALL_VECTOR as usize].set(Gate {
        handler: HANDLER,
        flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
    });
    for vector in [7, 13, 14, 33] {
        m.vm.idt[vector].set(Gate {
            handler: 0xC001_4000,
            flags: Gate::PRESENT,
        });
    }
    m.vm.gdt[GDT_KERNEL_CS as usize].set(Descriptor::flat_code(GUEST_PL));
    m.vm.gdt[GDT_USER_CS as usize].set(Descriptor::flat_code(USER_PL));
    m.vm.gdt[GDT_USER_DS as usize].set(Descriptor::flat_data(USER_PL));
    let mut thread = Descriptor::flat_data(USER_PL);
    thread.low |= 0x2000_0000;
    thread.high |= 0x12;
    m.vm.gdt[GDT_TLS_MIN as usize].set(thread);
    m.ram.memory().set_word(irq_enabled(), IF).unwrap();
    m.vm.noirq_end.set(IRET + 1);
    let noirq = if way.is_later() { 0 } else { 7 };
    m.vm.noirq_start.set(IRET - noirq);
    let regs = &m.vm.regs;
    for (register, value) in general(regs).into_iter().zip(0x1111_0001..) {
        register.set(value);
    }
    regs.eip.set(0x1100);
    regs.esp.set(USER_STACK);
    regs.eflags.set(0x246);
    regs.gs.set(ldt(GDT_TLS_MIN));
    regs.ds.set(REAL_USER_DS);
    regs.es.set(REAL_USER_DS);
    m.vm.user.set(1);
    m.vm.cs.set(USER_CS.into());
    m.vm.ss.set(USER_DS.into());
    m.vm.regs.ss.set(REAL_USER_DS);
    let mut host = m.host();
    host.note_descriptors();
    let way_in = host.engage_way_in(ENTRY_TRAMPOLINE, TO_BACK);
    let variable = GuestVirt(0xC000_0000 + irq_enabled().0);
    let way_out = host.engage_way_out(TRAMPOLINE, variable, way.is_later());
    host.run_guest(Event::Kick).unwrap();
    match way {
        Way::In => {
            // The far call has pushed.
            let esp = USER_STACK - 8;
            push(&m, esp, &[BACK, 0x77]);
            m.vm.regs.esp.set(esp);
            m.vm.regs.eip.set(way_in);
        }
        Way::Out | Way::LaterOut => enter_and_return(&mut m, way, way_out),
        Way::Back | Way::LaterBack => interrupt(&mut m, way, way_out),
    }
    m
}

/// The program makes a call by the slow way, and its kernel comes to its
/// `iret`.
fn enter_and_return(m: &mut Machine, way: Way, way_out: u32) {
    m.host().run_guest(Event::SystemCall).unwrap();
    let regs = &m.vm.regs;
    assert_eq!(regs.esp.get(), KERNEL_STACK - 20);
    // The kernel has popped all other registers.
    regs.eflags.set(0x2D7);
    if way == Way::Out {
        let esp = KERNEL_STACK - 24;
        push(m, esp, &[0x1111_0077]);
        regs.esp.set(esp);
        regs.eax.set(word(m, KERNEL_STACK - 12));
    }
    regs.eip.set(way_out);
}

/// The program makes a call by the slow way, its kernel is interrupted, and
/// comes to its `iret`.
fn interrupt(m: &mut Machine, way: Way, way_out: u32) {
    m.host().run_guest(Event::SystemCall).unwrap();
    let regs = &m.vm.regs;
    regs.eip.set(INTERRUPTED);
    regs.esp.set(STACK_BACK);
    regs.eflags.set(FLAGS_BACK);
    m.vm.raise(1);
    m.host().run_guest(Event::Kick).unwrap();
    let regs = &m.vm.regs;
    assert_eq!(regs.eip.get(), 0xC001_4000);
    assert_eq!(regs.esp.get(), STACK_BACK - 12);
    regs.eflags.set(0x202);
    if way == Way::Back {
        push(m, STACK_BACK - 16, &[0x1111_0077]);
        regs.esp.set(STACK_BACK - 16);
        regs.eax.set(word(m, STACK_BACK - 4));
    }
    regs.eip.set(way_out);
}

fn general(regs: &Registers) -> [&Cell<u32>; 7] {
    [
        &regs.eax, &regs.ebx, &regs.ecx, &regs.edx, &regs.esi, &regs.edi,
        &regs.ebp,
    ]
}

/// The physical address of a place on one of the stacks.
fn place(va: u32) -> GuestPhys {
    GuestPhys(match va {
        0x1000..0x2000 => va + 0x4000,
        _ => va - 0xC000_0000,
    })
}

fn word(m: &Machine, va: u32) -> u32 {
    m.ram.memory().word(place(va)).unwrap()
}

fn byte(m: &Machine, va: u32) -> u8 {
    m.ram.memory().byte(place(va)).unwrap()
}

fn push(m: &Machine, va: u32, words: &[u32]) {
    for (at, &word) in (va..).step_by(4).zip(words) {
        m.ram.memory().set_word(place(at), word).unwrap();
    }
}

/// All that a Guest can see of where it is. The flags of arithmetic are left
/// out where its kernel was entered.
fn state(m: &Machine, way: Way) -> Vec<u32> {
    let (vm, regs) = (&m.vm, &m.vm.regs);
    let user = vm.user.get() != 0;
    let mut all: Vec<u32> = general(regs).iter().map(|r| r.get()).collect();
    let flags =
        regs.eflags.get() & if way == Way::In { !ARITHMETIC } else { !0 };
    all.extend([flags, regs.eip.get(), regs.esp.get(), regs.ss.get()]);
    all.extend([regs.ds.get(), regs.es.get(), regs.gs_base.get()]);
    all.extend([vm.user.get(), vm.cs.get(), vm.ss.get()]);
    if !user {
        let esp = regs.esp.get();
        all.extend((esp..KERNEL_STACK).step_by(4).map(|at| word(m, at)));
    }
    // Whatever it says, it says that they are on.
    let irqs = m.ram.memory().word(irq_enabled()).unwrap();
    all.push(irqs & IF);
    all
}

/// Where the trampoline leads that a crossing stands for.
fn slowly(mut m: Machine, way: Way) -> Vec<u32> {
    let kind = way.trampoline();
    m.host().run_guest(Event::Trampoline(kind)).unwrap();
    state(&m, way)
}

/// Where the Guest is if the crossing runs `steps` instructions and is then
/// interrupted. `None` if it was over before.
fn ended(m: &mut Machine, way: Way, steps: usize) -> Option<Vec<u32>> {
    match run(m, steps) {
        End::Steps => m.host().run_guest(Event::Crossing).unwrap(),
        End::Refused => {
            m.host().run_guest(Event::Crossing).unwrap();
            return None;
        }
        End::Slow => {
            let kind = way.trampoline();
            m.host().run_guest(Event::Trampoline(kind)).unwrap();
            return None;
        }
        End::Crossed => {
            m.host().run_guest(Event::Kick).unwrap();
            return None;
        }
    }
    Some(state(m, way))
}

/// A crossing of `prepare`d machines, interrupted everywhere. Answers whether
/// it went by the fast way if it was not interrupted.
fn crosses(way: Way, prepare: impl Fn(&mut Machine)) -> bool {
    let make = || {
        let mut m = machine(way);
        prepare(&mut m);
        m
    };
    let wanted = slowly(make(), way);
    for steps in 0.. {
        let mut m = make();
        let interrupted = ended(&mut m, way, steps);
        let is_over = interrupted.is_none();
        let found = interrupted.unwrap_or_else(|| state(&m, way));
        assert_eq!(found, wanted, "{way:x?}, {steps} instructions");
        let counters = &m.vm.counters;
        let ins = counters.crossings_in.get();
        let outs = counters.crossings_out.get();
        let backs = counters.crossings_back.get();
        let calls = counters.system_calls.get();
        let all = ins + outs + backs;
        assert!(all <= 1 && calls <= 1, "{ins} {outs} {backs} {calls}");
        assert_eq!(calls, 1, "{steps}");
        if is_over {
            assert_eq!(backs, if way.is_back() { all } else { 0 });
            return all == 1;
        }
    }
    false
}

#[test]
fn a_crossing_may_be_interrupted_anywhere() {
    for way in WAYS {
        assert!(crosses(way, |_| {}), "{way:?}");
    }
}

/// Linux 4.x has an interrupt gate for system calls.
#[test]
fn an_interrupt_gate_switches_interrupts_off() {
    let prepare = |m: &mut Machine| {
        let gate = &m.vm.idt[SYSCALL_VECTOR as usize];
        gate.set(Gate {
            flags: gate.get().flags | Gate::INTERRUPT,
            ..gate.get()
        });
        let regs = &m.vm.regs;
        let (eip, esp) = (regs.eip.get(), regs.esp.get());
        // The Host sees it at its next visit.
        regs.eip.set(0x1100);
        m.host().run_guest(Event::Kick).unwrap();
        m.vm.regs.eip.set(eip);
        m.vm.regs.esp.set(esp);
    };
    assert!(crosses(Way::In, prepare));
    let mut m = machine(Way::In);
    prepare(&mut m);
    assert_eq!(run(&m, CODE.bytes.len()), End::Crossed);
    assert_eq!(m.ram.memory().word(irq_enabled()), Ok(0));
    assert_ne!(word(&m, KERNEL_STACK - 12) & IF, 0);
}

#[test]
fn unusual_programs_enter_the_kernel_the_slow_way() {
    let odd: [(&str, Change); 6] = [
        ("TF", |m| m.vm.regs.eflags.set(0x246 | EFLAGS_TF)),
        ("NT", |m| m.vm.regs.eflags.set(0x246 | EFLAGS_NT)),
        ("AC", |m| m.vm.regs.eflags.set(0x246 | EFLAGS_AC)),
        ("another stack", |m| m.vm.regs.ss.set(REAL_KERNEL_DS)),
        ("a debug register", |m| {
            m.vm.regs.eax.set(26);
            m.vm.regs.ebx.set(6);
        }),
        ("not now", |m| {
            let slow = CODE_ADDRESS + as_word(CODE.slow_way_in);
            m.vm.crossing.words.way_in.set(slow);
        }),
    ];
    for (why, prepare) in odd {
        assert!(!crosses(Way::In, prepare), "{why}");
    }
    assert!(crosses(Way::In, |m| m.vm.regs.eax.set(26)), "ptrace");
    assert!(crosses(Way::In, |m| m.vm.regs.ebx.set(6)), "no ptrace");
    // Direction and arithmetic are nothing special.
    assert!(crosses(Way::In, |m| m.vm.regs.eflags.set(0xED7)));
}

#[test]
fn unusual_frames_go_the_slow_way() {
    let frame = |n: u32, value: u32| {
        move |m: &mut Machine| push(m, KERNEL_STACK - 20 + 4 * n, &[value])
    };
    for way in [Way::Out, Way::LaterOut] {
        for (n, value) in [
            (0, 0xC000_0000),
            (0, 0xFFFF_F000),
            (1, 0x61),
            (1, 0x77),
            (4, 0x7F),
        ] {
            assert!(!crosses(way, frame(n, value)), "{n} {value:x}");
        }
        for flags in [EFLAGS_TF, EFLAGS_NT, EFLAGS_AC] {
            let flags = move |m: &mut Machine| {
                frame(2, 0x246 | flags)(m);
                if way == Way::Out {
                    m.vm.regs.eax.set(0x246 | flags);
                }
            };
            assert!(!crosses(way, flags));
        }
        for (n, value) in [(0, 0xBFFF_FFFF), (3, 7), (4, 0x7B)] {
            assert!(crosses(way, frame(n, value)), "{n} {value:x}");
        }
        assert!(!crosses(way, |m| m.vm.regs.ds.set(0x7B)));
        assert!(!crosses(way, |m| m.vm.regs.es.set(0)));
        assert!(!crosses(way, |m| m.vm.regs.fs.set(ldt(GDT_TLS_MIN))));
        assert!(!crosses(way, |m| m.vm.regs.gs.set(3)));
        assert!(crosses(way, |m| m.vm.regs.gs.set(0)));
        // The kernel has loaded gs again.
        assert!(!crosses(way, |m| m.vm.regs.gs_base.set(0)));
    }
}

#[test]
fn the_host_says_when_the_way_out_is_open() {
    let is_open = |change: Change| {
        let mut m = machine(Way::Out);
        change(&mut m);
        m.host().run_guest(Event::Kick).unwrap();
        m.vm.crossing.words.may_leave.get() != 0
    };
    assert!(is_open(|_| {}));
    for (why, change) in [
        (
            "an interrupt",
            (|m| {
                m.ram.memory().set_word(irq_enabled(), 0).unwrap();
                m.vm.raise(1);
            }) as Change,
        ),
        ("another thread", |m| m.vm.crossing.unsettle()),
        ("another stack", |m| m.vm.esp1.set(0xC000_A000)),
        ("no user code", |m| {
            m.vm.gdt[GDT_USER_CS as usize].set(Descriptor::default());
        }),
        ("no stack", |m| {
            m.vm.gdt[GDT_USER_DS as usize].set(Descriptor::default());
        }),
        ("a canary", |m| {
            m.vm.gdt[GDT_STACK_CANARY as usize].set(Descriptor::flat_data(0));
        }),
        ("a slow path", |m| m.vm.slow_paths.set(fast_path::CROSSING)),
        ("lost bases", |m| m.vm.crossing.note_lost_base()),
    ] {
        assert!(!is_open(change), "{why}");
    }
    // The code itself looks at TS.
    for way in [Way::Out, Way::LaterOut] {
        for ts in [1, 8] {
            assert!(!crosses(way, |m| {
                m.vm.ts.set(ts);
                m.vm.crossing.words.ts.set(ts);
            }));
        }
        assert!(crosses(way, |m| {
            m.vm.idt[7].set(Gate::default());
            m.vm.ts.set(1);
            m.vm.crossing.words.ts.set(1);
            m.vm.crossing.words.ts_mask.set(0);
        }));
    }
}

/// A kernel with a stack protector loads gs again at each way out. It gets the
/// base from the table, once the Host has set it often enough.
#[test]
fn a_kernel_that_loads_gs_finds_the_base_in_the_table() {
    let put_thread = |host: &Host<'_>, base: u32| {
        let mut thread = Descriptor::flat_data(USER_PL);
        thread.low |= base << 16;
        thread.high |= base >> 16;
        host.vm.gdt[GDT_TLS_MIN as usize].set(thread);
        host.note_descriptors();
    };
    let returns_until_open = |host: &mut Host<'_>| {
        (1..100).find(|_| {
            host.run_guest(Event::Kick).unwrap();
            host.vm.crossing.words.may_leave.get() != 0
        })
    };
    let mut m = machine(Way::In);
    m.vm.regs.eip.set(0x1100);
    let mut host = m.host();
    assert_eq!(returns_until_open(&mut host), Some(1));
    let canary = &host.vm.gdt[GDT_STACK_CANARY as usize];
    canary.set(Descriptor::flat_data(GUEST_PL));
    for base in [0x12_2000, 0x13_2000] {
        put_thread(&host, base);
        assert_eq!(returns_until_open(&mut host), Some(16));
        put_thread(&host, base);
        assert_eq!(returns_until_open(&mut host), Some(1));
    }
    // Threads in turns.
    for turn in 0..100 {
        put_thread(&host, 0x14_2000 + turn % 2);
        host.run_guest(Event::Kick).unwrap();
        assert_eq!(host.vm.crossing.words.may_leave.get(), 0);
    }
    assert_eq!(host.vm.counters.descriptors.get(), 2);
    // One without a pointer of its own.
    host.vm.regs.gs.set(0);
    host.vm.gdt[GDT_TLS_MIN as usize].set(Descriptor::default());
    host.note_descriptors();
    assert_eq!(returns_until_open(&mut host), Some(1));
}

#[test]
fn unusual_frames_of_the_kernel_go_back_the_slow_way() {
    let frame = |n: u32, value: u32| {
        move |m: &mut Machine| push(m, STACK_BACK - 12 + 4 * n, &[value])
    };
    for way in [Way::Back, Way::LaterBack] {
        for (n, value) in [(0, 0xBFFF_F000), (1, 0x73), (1, 0x0001_0061)] {
            assert!(!crosses(way, frame(n, value)), "{n} {value:x}");
        }
        let flags = |flags: u32| {
            crosses(way, move |m| {
                frame(2, flags)(m);
                if way == Way::Back {
                    m.vm.regs.eax.set(flags);
                }
            })
        };
        for odd in [EFLAGS_TF, EFLAGS_NT, EFLAGS_AC] {
            assert!(!flags(0x246 | odd), "{odd:x}");
        }
        assert!(!flags(0x46), "interrupts are off");
        assert!(flags(0x202) && flags(0xED7));
        assert!(crosses(way, frame(0, 0xC000_0000)));
        // Its segments are its own affair.
        assert!(crosses(way, |m| m.vm.regs.ds.set(0x2B)));
        assert!(crosses(way, |m| m.vm.regs.gs_base.set(0)));
    }
    // Other flags than those that it stores.
    assert!(!crosses(Way::Back, |m| m.vm.regs.eax.set(0x202)));
}

#[test]
fn the_host_says_when_the_way_back_is_open() {
    let is_open = |change: Change| {
        let mut m = machine(Way::Back);
        change(&mut m);
        m.host().run_guest(Event::Kick).unwrap();
        m.vm.crossing.words.may_go_back.get() != 0
    };
    assert!(is_open(|_| {}));
    // What belongs to programs does not close it.
    assert!(is_open(|m| m.vm.ts.set(1)));
    assert!(is_open(|m| m.vm.crossing.unsettle()));
    for (why, change) in [
        (
            "an interrupt",
            (|m| {
                m.ram.memory().set_word(irq_enabled(), 0).unwrap();
                m.vm.raise(1);
            }) as Change,
        ),
        ("a blocked interrupt", |m| {
            let blocked = Machine::DATA + offset::BLOCKED_INTERRUPTS;
            m.ram.memory().set_word(GuestPhys(blocked), 2).unwrap();
            m.vm.raise(1);
        }),
        ("another code segment", |m| m.vm.cs.set(0x69)),
        ("no such code", |m| {
            m.vm.gdt[GDT_KERNEL_CS as usize].set(Descriptor::default());
        }),
        ("a slow path", |m| m.vm.slow_paths.set(fast_path::BACK)),
        ("crossings", |m| m.vm.slow_paths.set(fast_path::CROSSING)),
    ] {
        assert!(!is_open(change), "{why}");
    }
    let mut m = machine(Way::In);
    m.vm.regs.eip.set(0x1100);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.crossing.words.may_go_back.get(), 0, "a program");
}

/// It jumps into the middle of the way back, with words that it has written.
#[test]
fn no_program_becomes_its_kernel_by_the_way_back() {
    let phases = CODE.phases.iter().enumerate();
    let back = phases.filter(|(_, p)| matches!(p, Phase::Back { .. }));
    let mut tried = 0;
    for (at, _) in back {
        let mut m = machine(Way::In);
        m.vm.crossing.words.eip.set(INTERRUPTED);
        m.vm.crossing.words.esp.set(KERNEL_STACK);
        m.vm.regs.eip.set(CODE_ADDRESS + as_word(at));
        m.host().run_guest(Event::Crossing).unwrap();
        // A protection fault of the program's.
        assert_eq!(m.vm.regs.eip.get(), 0xC001_4000);
        assert_eq!(word(&m, KERNEL_STACK - 16), u32::from(USER_CS));
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
}

#[test]
fn the_host_says_when_the_way_in_is_open() {
    let fast = CODE_ADDRESS + as_word(CODE.fast_way_in);
    let is_open = |change: Change| {
        let mut m = machine(Way::In);
        m.vm.regs.eip.set(0x1100);
        m.vm.regs.esp.set(USER_STACK);
        change(&mut m);
        m.host().run_guest(Event::Kick).unwrap();
        m.vm.crossing.words.way_in.get() == fast
    };
    fn gate(m: &Machine, flags: u32) {
        let gate = &m.vm.idt[SYSCALL_VECTOR as usize];
        gate.set(Gate {
            flags,
            ..gate.get()
        });
    }
    assert!(is_open(|_| {}));
    for (why, change) in [
        ("no gate", (|m| gate(m, 3 << Gate::DPL_SHIFT)) as Change),
        ("not for programs", |m| gate(m, Gate::PRESENT)),
        ("interrupts off", |m| {
            m.ram.memory().set_word(irq_enabled(), 0).unwrap();
        }),
        ("a slow path", |m| m.vm.slow_paths.set(fast_path::CROSSING)),
    ] {
        assert!(!is_open(change), "{why}");
    }
}

/// A kernel that loads gs without a word to the Host loses its base. That is
/// found, and costs a fault less and less often.
#[test]
fn the_way_out_is_closed_for_a_while_when_a_base_was_lost() {
    let mut m = machine(Way::Out);
    m.vm.regs.gs_base.set(0);
    assert_eq!(run(&m, CODE.bytes.len()), End::Refused);
    m.host().run_guest(Event::Crossing).unwrap();
    assert_eq!(m.vm.user.get(), 1, "by the slow way");
    let pause = m.vm.crossing.pause.get();
    assert!(pause > 0);
    for left in (0..pause).rev() {
        assert_eq!(m.vm.crossing.words.may_leave.get(), 0, "{left}");
        m.host().run_guest(Event::Kick).unwrap();
    }
    assert_eq!(m.vm.crossing.words.may_leave.get(), 1);
    for at in CODE.probes {
        let mut m = machine(Way::Out);
        m.vm.regs.eip.set(CODE_ADDRESS + as_word(at));
        m.host().run_guest(Event::Crossing).unwrap();
        assert_ne!(m.vm.crossing.pause.get(), 0);
    }
    let crossing = &m.vm.crossing;
    crossing.note_lost_base();
    let longer = crossing.pause.get();
    assert!(longer > pause);
    crossing.outs.set(crossing.outs.get() + longer + 1);
    crossing.note_lost_base();
    assert!(crossing.pause.get() < longer);
}

/// A signal's return loads gs, which the Host expects.
#[test]
fn a_return_from_a_signal_goes_the_slow_way() {
    for (call, open) in [(119, 0), (173, 0), (20, 1)] {
        let mut m = machine(Way::In);
        m.vm.regs.eip.set(0x1100);
        m.vm.regs.eax.set(call);
        m.host().run_guest(Event::SystemCall).unwrap();
        assert_eq!(m.vm.crossing.words.may_leave.get(), open, "{call}");
    }
}

/// User code and kernels may jump to any byte with any registers.
#[test]
fn a_jump_into_a_crossing_is_a_fault_or_a_crossing() {
    for way in [Way::In, Way::Out] {
        for at in 0..as_word(CODE.bytes.len()) {
            for value in [0, !0, USER_STACK, KERNEL_STACK - 4] {
                let mut m = machine(way);
                let regs = &m.vm.regs;
                for register in general(regs) {
                    register.set(value);
                }
                regs.eip.set(CODE_ADDRESS + at);
                regs.esp.set(value);
                // Whatever it is, it is the Guest's.
                let _ = m.host().run_guest(Event::Crossing);
                assert!(m.vm.user.get() <= 1);
            }
        }
    }
}
