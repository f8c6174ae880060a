//! Descriptor tables, gates, and the traps that use them.
//!
//! The Guest loads its GDT, its thread-local segments and its interrupt table
//! from anywhere, names any stack, and then traps and is interrupted. An oracle
//! keeps both tables as the specification defines them. Every entry must equal
//! the oracle's. Every trap must reach its handler with the frame that a
//! processor pushes. No blocked interrupt may come.

use crate::input::Input;
use crate::machine::{
    CODE, DATA, LIMIT, Machine, PAGE_OFFSET, STACK, with_machine,
};
use lg_abi::hypercall::{Hypercall, RawCall};
use lg_abi::segment::{Descriptor, GDT_PER_CPU};
use lg_abi::shared::offset;
use lg_host::address::as_word;
use lg_host::cpu::kernel_segments::entry_for;
use lg_host::host::Event;
use lg_host::kill::Kill;
use lg_host::state::Gate;
use std::sync::atomic::Ordering;

/// Entries of the table that the Guest loads.
const ENTRIES: u32 = 32;

/// The first of two entries for segments that a kernel has for itself.
const OWN: usize = GDT_PER_CPU as usize;

/// The memory in which it builds tables. Nothing else is there.
const TABLE: u32 = 0x2_0000;

/// A second stack.
const OTHER_STACK: u32 = PAGE_OFFSET + 0x2_2000;

/// Steps that one input may take.
const MAX_STEPS: u32 = 200;

/// The right contents of the tables.
struct Oracle {
    gdt: [Descriptor; ENTRIES as usize],
    idt: [Gate; 256],
    stack: (u32, u32),
}

/// Makes steps until the input ends or the Guest dies.
///
/// # Panics
///
/// If a table has other contents, or a trap goes elsewhere.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let linear = input.bit();
    with_machine(linear, |machine| {
        let vm = machine.vm;
        let mut oracle = Oracle {
            gdt: std::array::from_fn(|at| vm.gdt[at].get()),
            idt: [Gate::default(); 256],
            stack: (vm.ss1.get(), vm.esp1.get()),
        };
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                return;
            }
            if oracle.step(machine, &mut input).is_err() {
                return;
            }
            for (at, entry) in oracle.gdt.iter().enumerate() {
                assert_eq!(vm.gdt[at].get(), *entry, "GDT entry {at}");
            }
            for (at, gate) in oracle.idt.iter().enumerate() {
                assert_eq!(vm.idt[at].get(), *gate, "vector {at}");
            }
            // Once the kernel has loaded one, tables have both as they are.
            let (entries, version) = vm.kernel_segments.read();
            for (entry, own) in entries.into_iter().zip(&oracle.gdt[OWN..]) {
                let wanted = if version == 0 {
                    Descriptor::default()
                } else {
                    entry_for(*own)
                };
                assert_eq!(entry, wanted, "version {version}");
            }
        }
    });
}

impl Oracle {
    fn step(
        &mut self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        machine.vm.user.set(0);
        machine.vm.cs.set(0x61);
        machine.vm.ss.set(0x69);
        machine.vm.regs.esp.set(STACK);
        match input.byte() % 9 {
            0 | 1 => self.load(machine, input),
            2 => {
                let at = table(machine, input, 3);
                let good = fits(at, 3);
                self.copy(machine, at, 6, 3);
                say(machine, input, Hypercall::LoadTls, [at, 0, 0], good)
            }
            3 | 4 => self.load_gate(machine, input),
            5 => self.set_stack(machine, input),
            6 => self.trap(machine, input),
            7 => self.interrupt(machine, input),
            _ => self.load_own_segment(machine, input),
        }
    }

    /// LOAD_GDT.
    fn load(
        &mut self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let count = input.one_of(&[1, 12, 16, 17, 31, 32, 33]);
        let at = table(machine, input, count);
        let good = count <= ENTRIES && fits(at, count);
        if good {
            self.copy(machine, at, 0, count);
        }
        say(machine, input, Hypercall::LoadGdt, [at, count, 0], good)
    }

    /// Copies `count` entries at `at` as the Host must. The first one is number
    /// `first`.
    fn copy(&mut self, machine: &Machine<'_>, at: u32, first: u32, count: u32) {
        if !fits(at, count) {
            return;
        }
        for n in 0..count {
            let index = first + n;
            if matches!(index, 10 | 11 | 16 | 31) {
                continue;
            }
            let low = machine.word(at + n * 8);
            let mut high = machine.word(at + n * 8 + 4);
            if high & 0x8000 != 0 {
                // A present entry is never at level 0, and is marked as used.
                if high & 0x6000 == 0 {
                    high |= 0x2000;
                }
                high |= 0x100;
            }
            self.gdt[index as usize] = Descriptor { low, high };
        }
    }

    /// LOAD_IDT_ENTRY.
    fn load_gate(
        &mut self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let vector =
            input.one_of(&[0, 1, 2, 6, 8, 14, 15, 31, 32, 35, 63, 64, 0x80]);
        let low = 0x0061_0000 | u32::from(input.half());
        let kind = match input.byte() {
            n @ 0..16 => u32::from(n),
            n if n % 2 == 0 => 0xE,
            _ => 0xF,
        };
        let present = u32::from(input.byte() < 0xE0) << 15;
        let level = input.below(4) << 13;
        let high = 0xC000_0000 | u32::from(input.byte()) << 16;
        let high = high | present | level | kind << 8;
        let known = match vector {
            2 | 8 | 15 | 31 => false,
            0..64 | 0x80 => true,
            _ => false,
        };
        let good = !known || present == 0 || matches!(kind, 0xE | 0xF);
        if known && present == 0 {
            self.idt[vector as usize] = Gate::default();
        } else if known && good {
            let off = if kind == 0xE { Gate::INTERRUPT } else { 0 };
            self.idt[vector as usize] = Gate {
                handler: high & 0xFFFF_0000 | low & 0xFFFF,
                flags: Gate::PRESENT | off | (level >> 13) << 8,
            };
        }
        let call = Hypercall::LoadIdtEntry;
        say(machine, input, call, [vector, low, high], good)
    }

    /// SET_STACK.
    fn set_stack(
        &mut self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let ss = input.one_of(&[0x69, 0x69, 0x69, 0x61, 0x68, 0x7B, 0]);
        // The last one does not exist.
        let esp = [STACK, OTHER_STACK, OTHER_STACK - 0x100, 0x40]
            [input.below(4) as usize];
        let pages = input.one_of(&[1, 2, 2, 2, 3]);
        let good = ss & 3 == 1 && pages <= 2;
        if good {
            self.stack = (ss, esp);
        }
        say(machine, input, Hypercall::SetStack, [ss, esp, pages], good)
    }

    /// The kernel loads a segment of its own, perhaps after its descriptor, and
    /// the processor refuses.
    fn load_own_segment(
        &mut self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let vm = machine.vm;
        // An interrupt that an earlier step has raised would come first.
        machine.set_word(DATA + offset::BLOCKED_INTERRUPTS, u32::MAX);
        let index = as_word(OWN) + input.below(2);
        if input.bit() {
            // Per-cpu data and a canary, as Linux has them; code; not present.
            let kind = input.one_of(&[0x92, 0x90, 0xB2, 0xF6, 0x9A, 0x32]);
            let high = input.word() & !0xFF00 | kind << 8;
            machine.set_word(TABLE + index * 8, input.word());
            machine.set_word(TABLE + index * 8 + 4, high);
            self.copy(machine, TABLE, 0, ENTRIES);
            let arguments = [TABLE, ENTRIES, 0];
            say(machine, input, Hypercall::LoadGdt, arguments, true)?;
        }
        let level = input.below(4);
        let by_gs = input.bit();
        // mov %eax,%fs or mov %eax,%gs
        machine.write(CODE, &[0x8E, 0xE0 | u8::from(by_gs) << 3]);
        let selector = index << 3 | level;
        let regs = &vm.regs;
        regs.eip.set(PAGE_OFFSET + CODE);
        regs.eax.set(selector);
        let error = selector & 0xFFFC;
        let before = Before {
            user: false,
            eip: regs.eip.get(),
            esp: STACK,
            flags: machine.word(DATA + offset::IRQ_ENABLED),
        };
        let result = machine.step(Event::Trap {
            vector: 13,
            error,
            cr2: 0,
        });
        let own = self.gdt[index as usize];
        let is_data = own.high & Descriptor::NOT_SYSTEM != 0 && !own.is_code();
        let refused: u8 = if !is_data || own.dpl() < level.max(1) {
            13
        } else if !own.is_present() {
            11
        } else {
            let (found, base) = if by_gs {
                (regs.gs.get(), regs.gs_base.get())
            } else {
                (regs.fs.get(), regs.fs_base.get())
            };
            assert_eq!(result, Ok(()));
            assert_eq!((found, base), (index << 3 | 7, own.base()));
            assert_eq!(regs.eip.get(), PAGE_OFFSET + CODE + 2);
            return result;
        };
        let gate = self.idt[usize::from(refused)];
        if gate.flags & Gate::PRESENT != 0 {
            return self.arrived(machine, &before, gate, Some(error), result);
        }
        let is_right = matches!(
            result,
            Err(Kill::UnhandledTrap { vector, .. }) if vector == refused
        );
        assert!(is_right, "{own:x?} {level}: {result:?}");
        result
    }

    /// A trap that the Host does not handle itself.
    fn trap(
        &self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let vector = [0, 1, 5, 6, 9, 10, 11, 16][input.below(8) as usize];
        let error = u32::from(input.half());
        let before = Before::prepare(machine, input);
        let gate = self.idt[usize::from(vector)];
        let cr2 = 0;
        let result = machine.step(Event::Trap { vector, error, cr2 });
        if gate.flags & Gate::PRESENT == 0 {
            assert!(
                matches!(result, Err(Kill::UnhandledTrap { .. })),
                "a trap did not reach a handler: {result:?}"
            );
            return result;
        }
        let error = matches!(vector, 10 | 11).then_some(error);
        self.arrived(machine, &before, gate, error, result)
    }

    /// Some interrupts are raised, some of them blocked.
    fn interrupt(
        &self,
        machine: &mut Machine<'_>,
        input: &mut Input<'_>,
    ) -> Result<(), Kill> {
        let vm = machine.vm;
        let before = Before::prepare(machine, input);
        let blocked = match input.byte() {
            n @ 0..64 => u32::from(n),
            n @ 64..128 => !(1 << (n % 32)),
            _ => input.word(),
        };
        machine.set_word(DATA + offset::BLOCKED_INTERRUPTS, blocked);
        let enabled =
            [0x200, 0x200, 0, 1, 0x246, 0x46][input.below(6) as usize];
        machine.set_word(DATA + offset::IRQ_ENABLED, enabled);
        let eip = vm.regs.eip.get();
        let start = eip.wrapping_sub(input.below(4)).wrapping_add(1);
        vm.noirq_start.set(start);
        vm.noirq_end.set(start.wrapping_add(input.below(4)));
        let in_noirq =
            vm.user.get() == 0 && (start..vm.noirq_end.get()).contains(&eip);
        let more = 1 << input.below(32) | 1 << input.below(32);
        let raised = vm.wire.irqs.fetch_or(more, Ordering::SeqCst) | more;
        let before = Before {
            flags: enabled,
            ..before
        };
        let result = machine.step(Event::Kick);
        let left = vm.wire.irqs.load(Ordering::SeqCst);
        // Any value means "on". In the flags it is one bit.
        let wanted = match enabled & 2 {
            0 => enabled != 0,
            _ => enabled & 0x200 != 0,
        };
        let pending = raised & !blocked;
        if pending == 0 || in_noirq || !wanted {
            assert_eq!(result, Ok(()), "the step failed");
            assert_eq!(left, raised, "interrupts were lost");
            assert_eq!(vm.regs.eip.get(), eip, "an interrupt too many");
            return result;
        }
        let irq = pending.trailing_zeros();
        assert_eq!(left, raised & !(1 << irq), "not the lowest one");
        let gate = self.idt[32 + irq as usize];
        if gate.flags & Gate::PRESENT == 0 {
            assert_eq!(result, Ok(()), "a dropped interrupt");
            assert_eq!(vm.regs.eip.get(), eip, "a dropped interrupt");
            return result;
        }
        self.arrived(machine, &before, gate, None, result)
    }

    /// Checks that the Guest is in the handler, on its stack, above this frame.
    fn arrived(
        &self,
        machine: &Machine<'_>,
        before: &Before,
        gate: Gate,
        error: Option<u32>,
        result: Result<(), Kill>,
    ) -> Result<(), Kill> {
        let vm = machine.vm;
        let (stack, mut frame) = if before.user {
            let ss_esp = vec![0x7B, before.esp];
            (self.stack.1, ss_esp)
        } else {
            (STACK, Vec::new())
        };
        if stack < PAGE_OFFSET {
            assert!(result.is_err(), "a frame on no stack");
            return result;
        }
        let cs = if before.user { 0x73 } else { 0x61 };
        frame.extend([before.flags & 0x200, cs, before.eip]);
        frame.extend(error);
        assert_eq!(result, Ok(()));
        assert_eq!(vm.regs.eip.get(), gate.handler, "another handler");
        assert_eq!(vm.user.get(), 0, "a handler in user mode");
        assert_eq!(vm.cs.get(), 0x61, "a handler in another segment");
        if before.user {
            assert_eq!(vm.ss.get(), self.stack.0, "another stack segment");
        }
        let mut at = stack;
        // Of the flags, only the Guest's interrupt flag.
        let flags = frame.len() - 3 - usize::from(error.is_some());
        for (n, expected) in frame.into_iter().enumerate() {
            at -= 4;
            let found = machine.word(at - PAGE_OFFSET);
            let seen = if n == flags { found & 0x200 } else { found };
            assert_eq!(seen, expected, "word {n} of the frame");
        }
        assert_eq!(vm.regs.esp.get(), at, "another stack pointer");
        if gate.flags & Gate::INTERRUPT != 0 {
            let enabled = machine.word(DATA + offset::IRQ_ENABLED);
            assert_eq!(enabled, 0, "interrupts are still on");
        }
        Ok(())
    }
}

/// The state of the Guest before the trap.
struct Before {
    user: bool,
    eip: u32,
    esp: u32,
    flags: u32,
}

impl Before {
    fn prepare(machine: &Machine<'_>, input: &mut Input<'_>) -> Self {
        let vm = machine.vm;
        let user = input.bit();
        let (eip, esp) = if user {
            vm.user.set(1);
            vm.cs.set(0x73);
            vm.ss.set(0x7B);
            (0x0804_8000 + input.below(16), 0xBFFF_0000)
        } else {
            (PAGE_OFFSET + CODE + 0x300 + input.below(16), STACK)
        };
        vm.regs.eip.set(eip);
        vm.regs.esp.set(esp);
        machine.set_word(DATA + offset::BLOCKED_INTERRUPTS, u32::MAX);
        let flags = [0, 0x200][input.below(2) as usize];
        machine.set_word(DATA + offset::IRQ_ENABLED, flags);
        Self {
            user,
            eip,
            esp,
            flags,
        }
    }
}

/// Writes a table of up to `count` entries, mostly to memory with enough room.
fn table(machine: &Machine<'_>, input: &mut Input<'_>, count: u32) -> u32 {
    let bytes = count.min(ENTRIES) * 8;
    let end = LIMIT - bytes;
    let at = match input.byte() {
        0..128 => TABLE,
        128..180 => end,
        n @ 180..240 => end + u32::from(n - 179),
        n => u32::MAX - 8 * u32::from(255 - n),
    };
    let entries = input.below(5);
    for _ in 0..entries {
        let entry = at.wrapping_add(input.below(33) * 8);
        if (TABLE..LIMIT).contains(&entry) {
            machine.write(entry, input.bytes(8));
        }
    }
    at
}

/// Whether there are `count` entries at `at`.
fn fits(at: u32, count: u32) -> bool {
    u64::from(at) + 8 * u64::from(count) <= u64::from(LIMIT)
}

/// A hypercall, by its instruction or in the ring, that must succeed or end the
/// Guest.
fn say(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    call: Hypercall,
    [edx, ebx, ecx]: [u32; 3],
    good: bool,
) -> Result<(), Kill> {
    let eax = call as u32;
    let call = RawCall { eax, edx, ebx, ecx };
    // No interrupt may come before the check.
    machine.set_word(DATA + offset::BLOCKED_INTERRUPTS, u32::MAX);
    let result = if input.bit() {
        machine.call(call)
    } else {
        machine.leave_in_ring(call);
        machine.step(Event::Kick)
    };
    assert_eq!(result.is_ok(), good, "{call:x?}: {result:?}");
    result
}
