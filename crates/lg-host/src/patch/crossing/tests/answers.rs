//! Hypercalls that are answered in 32-bit code, and those that are not.

use super::cpu::{End, run};
use super::*;
use crate::patch::TrampolineKind;
use lg_abi::call::CallName;
use lg_abi::known::Known;
use lg_abi::shared::HCALL_DONE;

/// Where the near call is, and how many bytes of padding are behind it.
const SITE: u32 = 0xC001_6000;
const PADDING: u32 = 7;
const RETURN: u32 = SITE + 5 + PADDING;

/// All flags of arithmetic and of direction.
const FLAGS: u32 = 0xED7;

/// A kernel that has come by a near call with the call `name`.
fn machine(name: CallName, argument: u32) -> Machine {
    let mut m = super::machine(Way::Out);
    m.vm.regs.eip.set(SITE);
    let mut host = m.host();
    host.engage_near(NEAR_TRAMPOLINE);
    host.run_guest(Event::Kick).unwrap();
    ask(&m, name, argument);
    m
}

/// Stands where the trampoline leads, with the registers of a call.
fn ask(m: &Machine, name: CallName, argument: u32) {
    let (vm, regs) = (&m.vm, &m.vm.regs);
    let interface = Known::by_number(vm.interface.get());
    let number = interface.number(name).unwrap();
    let registers = interface.registers(number, [argument, 0, 0, 0]);
    for (register, value) in [
        (&regs.eax, registers.eax),
        (&regs.ebx, registers.ebx),
        (&regs.edx, registers.edx),
        (&regs.ecx, 0x1111_00CC),
    ] {
        register.set(value);
    }
    regs.eflags.set(FLAGS);
    regs.esp.set(KERNEL_STACK - 64);
    push(m, KERNEL_STACK - 64, &[PADDING, SITE + 5]);
    regs.eip.set(vm.crossing.words.near.get());
}

/// What the call has left.
fn left(m: &Machine) -> (Vec<u32>, u32, u64, u64) {
    let regs = &m.vm.regs;
    let mut all: Vec<u32> = general(regs).iter().map(|r| r.get()).collect();
    all.extend([regs.eflags.get(), regs.eip.get(), regs.esp.get()]);
    let calls = &m.vm.counters.hypercalls;
    let count = |name: CallName| calls[name as usize].get();
    let (ts, flush) = (count(CallName::Ts), count(CallName::FlushAsync));
    (all, m.vm.ts.get(), ts, flush)
}

/// Does the call, interrupted in front of each instruction. Answers whether it
/// was answered without the Host if it was not interrupted.
fn is_answered(make: impl Fn() -> Machine) -> bool {
    let mut slow = make();
    let kind = TrampolineKind::NearHypercall;
    slow.host().run_guest(Event::Trampoline(kind)).unwrap();
    let wanted = left(&slow);
    assert_eq!(slow.vm.regs.eip.get(), RETURN);
    for steps in 0.. {
        let mut m = make();
        let end = run(&m, steps);
        let event = match end {
            End::Steps => Event::Crossing,
            End::Slow => Event::Trampoline(kind),
            End::Crossed => {
                // The padding is jumped over.
                assert_eq!(m.vm.regs.eip.get(), RETURN);
                Event::Kick
            }
            End::Refused => panic!("{steps}"),
        };
        m.host().run_guest(event).unwrap();
        assert_eq!(left(&m), wanted, "{steps} instructions");
        match end {
            End::Steps => {}
            End::Crossed => {
                assert_eq!(m.vm.counters.near_calls.get(), 1);
                return true;
            }
            _ => {
                assert_eq!(m.vm.counters.near_calls.get(), 0);
                return false;
            }
        }
    }
    false
}

#[test]
fn calls_that_ask_for_nothing_are_answered() {
    for (name, argument) in [
        (CallName::FlushAsync, 0),
        (CallName::Ts, 8),
        (CallName::Ts, 0),
    ] {
        assert!(is_answered(|| machine(name, argument)), "{name:?}");
    }
    let mut m = machine(CallName::Ts, 8);
    assert_eq!(run(&m, CODE.bytes.len()), End::Crossed);
    assert_eq!(m.vm.ts.get(), 0, "the Host has not looked yet");
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.ts.get(), 8);
}

#[test]
fn kernels_of_all_generations_have_answers() {
    let later = |known: Known| {
        let mut m = machine(CallName::FlushAsync, 0);
        m.vm.interface.set(known as u32);
        let layout = &known.interface().layout;
        let status = Machine::DATA + layout.hcall_status.offset();
        let ring = [HCALL_DONE; 64];
        m.ram.memory().write(GuestPhys(status), &ring).unwrap();
        let variable = Machine::DATA + layout.irq_enabled.offset();
        m.ram.memory().set_word(GuestPhys(variable), IF).unwrap();
        let words = &m.vm.crossing.words;
        words.irq_enabled_at.set(0xC000_0000 + variable);
        let mut host = m.host();
        host.engage_near(NEAR_TRAMPOLINE);
        host.run_guest(Event::Kick).unwrap();
        ask(&m, CallName::Ts, 8);
        m
    };
    assert_eq!(later(Known::Linux2_6_24).vm.regs.edx.get(), 8);
    assert_eq!(later(Known::Linux4_1).vm.regs.ebx.get(), 8);
    for known in [
        Known::Linux2_6_24,
        Known::Linux2_6_25,
        Known::Linux2_6_30,
        Known::Linux2_6_31,
        Known::Linux3_1,
        Known::Linux4_0,
        Known::Linux4_1,
    ] {
        assert!(is_answered(|| later(known)), "{known:?}");
    }
}

#[test]
fn all_other_calls_visit_the_host() {
    assert!(!is_answered(|| machine(CallName::FlushTlb, 0)));
    let odd: [(&str, Change); 5] = [
        ("a call in the ring", |m| {
            let status = Machine::DATA + offset::HCALL_STATUS;
            m.ram.memory().write(GuestPhys(status), &[0]).unwrap();
            let ring = GuestPhys(Machine::DATA + offset::HCALLS);
            let number = Known::by_number(m.vm.interface.get())
                .number(CallName::Ts)
                .unwrap();
            m.ram.memory().set_word(ring, number).unwrap();
        }),
        ("an interrupt", |m| {
            m.ram.memory().set_word(irq_enabled(), 0).unwrap();
            m.vm.raise(1);
        }),
        ("a trace", |m| {
            let traced = &m.vm.wire.traced;
            let calls = lg_wire::trace::group::HYPERCALLS;
            traced.store(calls, core::sync::atomic::Ordering::Relaxed);
        }),
        ("a slow path", |m| m.vm.slow_paths.set(fast_path::NEAR)),
        ("no crossings", |m| m.vm.slow_paths.set(fast_path::CROSSING)),
    ];
    for (why, change) in odd {
        let make = || {
            let mut m = machine(CallName::Ts, 1);
            change(&mut m);
            if why != "a call in the ring" {
                m.vm.regs.eip.set(SITE);
                m.host().run_guest(Event::Kick).unwrap();
                ask(&m, CallName::Ts, 1);
            }
            m
        };
        assert!(!is_answered(make), "{why}");
    }
}

/// The status byte is where the Host would look.
#[test]
fn the_ring_is_empty_if_the_hosts_next_entry_is() {
    let make = |busy: u32| {
        move || {
            let mut m = machine(CallName::FlushAsync, 0);
            m.vm.next_hcall.set(5);
            m.vm.regs.eip.set(SITE);
            m.host().run_guest(Event::Kick).unwrap();
            let status = Machine::DATA + offset::HCALL_STATUS;
            let at = GuestPhys(status + busy);
            m.ram.memory().write(at, &[0]).unwrap();
            ask(&m, CallName::FlushAsync, 0);
            m
        }
    };
    assert!(is_answered(make(4)));
    assert!(!is_answered(make(5)));
}

/// User code may jump there.
#[test]
fn no_program_makes_a_hypercall() {
    let phases = CODE.phases.iter().enumerate();
    let ours = phases.filter(|(_, phase)| {
        matches!(phase, Phase::Asking { .. } | Phase::Answered(_))
    });
    let mut tried = 0;
    for (at, _) in ours {
        let mut m = super::machine(Way::In);
        m.vm.regs.esp.set(USER_STACK);
        m.vm.regs.eip.set(CODE_ADDRESS + as_word(at));
        m.host().run_guest(Event::Crossing).unwrap();
        // A protection fault of the program's.
        assert_eq!(m.vm.regs.eip.get(), 0xC001_4000);
        tried += 1;
    }
    assert!(tried >= 40, "{tried}");
}
