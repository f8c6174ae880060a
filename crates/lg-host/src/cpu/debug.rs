//! Debug registers: breakpoints and watchpoints of a Guest's programs.
//!
//! The real ones belong to the machine. So while one of the Guest's is on, user
//! code is single-stepped. Before each instruction its address and the memory
//! that it will touch are compared with the registers; after it comes the
//! Guest's trap 1, or the next step. That costs a trap for each instruction,
//! and nothing while all registers are off. Accesses of the kernel are not
//! watched.
//!
//! Linux sets the registers for a debugger (`PTRACE_POKEUSER`), and loads them
//! when it switches to the program. As a guest of lguest it does so by a
//! function that is empty. When a program asks for the first time, the Host
//! finds that function and makes it trap: in the kernel's table of operations
//! its address follows that of the function that reads the registers
//! ([`Host::look_for_setter`]). In later kernels that one returns 0 at once,
//! and is made to trap, too.

use crate::address::{GuestPhys, GuestVirt};
use crate::cpu::accesses::sized_accesses;
use crate::cpu::instruction::{HLT, MAX_INSTRUCTION, length, opcode};
use crate::cpu::registers::{EFLAGS_RF, EFLAGS_TF, general};
use crate::host::{Event, Host};
use crate::kill::Kill;
use core::cell::Cell;

/// DR6 with no condition set (Intel SDM volume 3, "Debug Registers").
const NOTHING: u32 = 0xFFFF_0FF0;

/// In DR6: a single step.
const SINGLE_STEP: u32 = 1 << 14;

/// The vector of debug exceptions.
const DEBUG_VECTOR: u8 = 1;

/// What is known of the debug registers. All zero is right at the beginning.
#[derive(Default)]
#[repr(C)]
pub struct Debug {
    /// DR0 to DR3.
    addresses: [Cell<u32>; 4],
    /// DR6, less what it has without any condition.
    status: Cell<u32>,
    /// DR7.
    control: Cell<u32>,
    /// The page directory for which Linux has set them, or 0: Linux leaves them
    /// on for the next program, and ignores what comes of it.
    cr3: Cell<u32>,
    /// Where Linux sets them, or [`NO_SETTER`]; 0 = not looked for yet.
    setter: Cell<u32>,
    /// Where Linux reads them, if that function does nothing by itself; else 0.
    reader: Cell<u32>,
    /// 1 while user code is stepped.
    stepping: Cell<u32>,
    /// The single-step flag that the Guest believes in, while it is.
    own_step: Cell<u32>,
    /// What the instruction that is stepped will have for DR6.
    earned: Cell<u32>,
    /// What that instruction does with the flags: [`FlagUse`].
    flag_use: Cell<u32>,
}

/// What functions do before they return: nothing; `xor %eax,%eax`; and `mov` of
/// a variable to eax.
const EMPTY: &[&[u8]] = &[&[]];
const ZERO: &[&[u8]] = &[&[0x31, 0xC0], &[0x33, 0xC0]];
const VARIABLE: &[&[u8]] = &[ANY];

/// The opcode of a `mov` to eax, behind which an address is.
const ANY: &[u8] = &[0xA1];

/// For [`Debug::setter`]: there is none.
const NO_SETTER: u32 = u32::MAX;

/// What an instruction does with the flags.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum FlagUse {
    None = 0,
    Pushes = 1,
    Pops = 2,
}

impl Debug {
    /// Whether any register is on.
    pub(crate) fn is_watching(&self) -> bool {
        self.control.get() & 0xFF != 0
    }

    /// Whether user code is stepped.
    pub(crate) fn is_stepping(&self) -> bool {
        self.stepping.get() != 0
    }

    fn is_on(&self, n: usize) -> bool {
        self.control.get() >> (2 * n) & 3 != 0
    }

    /// What register `n` waits for: 0 = execution, 1 = writes, 3 = reads and
    /// writes; and its first and last byte.
    fn watched(&self, n: usize) -> (u32, u32, u32) {
        let field = self.control.get() >> (16 + 4 * n);
        let mask = [0, 1, 7, 3][(field >> 2 & 3) as usize];
        let first = self.addresses[n].get() & !mask;
        (field & 3, first, first | mask)
    }

    /// The registers that `matches` what they wait for, a bit each.
    fn matching(&self, matches: impl Fn(u32, u32, u32) -> bool) -> u32 {
        (0..4)
            .filter(|&n| {
                let (kind, first, last) = self.watched(n);
                self.is_on(n) && matches(kind, first, last)
            })
            .map(|n| 1 << n)
            .sum()
    }

    /// Reads a register, as a kernel does.
    pub(crate) fn read(&self, register: u8) -> u32 {
        match register & 7 {
            n @ 0..=3 => self.addresses[usize::from(n)].get(),
            4 | 6 => NOTHING | self.status.get(),
            _ => self.control.get() | 1 << 10,
        }
    }

    /// Writes one; 0 for `cr3` means all page directories.
    pub(crate) fn write(&self, register: u8, value: u32, cr3: u32) {
        match register & 7 {
            n @ 0..=3 => self.addresses[usize::from(n)].set(value),
            4 | 6 => self.status.set(value & !NOTHING),
            _ => self.control.set(value),
        }
        self.cr3.set(cr3);
    }
}

impl Host<'_> {
    /// User code is about to go on: steps it if a register is on, or delivers
    /// the trap of a breakpoint at eip.
    pub(crate) fn arm_debug(&mut self) -> Result<(), Kill> {
        let (vm, debug) = (self.vm, &self.vm.debug);
        if !debug.is_watching() || ![0, vm.cr3.get()].contains(&debug.cr3.get())
        {
            return Ok(());
        }
        let regs = &vm.regs;
        let (eip, flags) = (regs.eip.get(), regs.eflags.get());
        let breakpoints =
            debug.matching(|kind, first, _| kind == 0 && first == eip);
        if breakpoints != 0 && flags & EFLAGS_RF == 0 {
            regs.eflags.set(flags | EFLAGS_RF);
            debug.status.set(breakpoints);
            return self.deliver_trap(DEBUG_VECTOR, None);
        }
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(eip), &mut code);
        let code = &code[..fetched];
        debug.earned.set(self.set_off_by(code));
        debug.flag_use.set(opcode(code).map_or(
            FlagUse::None as u32,
            |opcode| match opcode {
                0x9C => FlagUse::Pushes as u32,
                0x9D | 0xCF => FlagUse::Pops as u32,
                _ => FlagUse::None as u32,
            },
        ));
        debug.own_step.set(flags & EFLAGS_TF);
        debug.stepping.set(1);
        regs.eflags.set(flags | EFLAGS_TF);
        vm.counters.debug_steps.count();
        Ok(())
    }

    /// The registers that the instruction `code` sets off.
    fn set_off_by(&self, code: &[u8]) -> u32 {
        let accesses = sized_accesses(code, &self.vm.regs);
        self.vm.debug.matching(|kind, first, last| {
            accesses.iter().flatten().any(|&(access, size)| {
                let from = self.linear(access).0;
                let to = from.saturating_add(size - 1);
                let counts = kind == 3 || kind == 1 && access.write;
                counts && from <= last && first <= to
            })
        })
    }

    /// User code cannot go on yet: it has its own flags again.
    pub(crate) fn put_off_debug(&self) {
        let debug = &self.vm.debug;
        if debug.stepping.replace(0) != 0 {
            let flags = &self.vm.regs.eflags;
            flags.set(flags.get() & !EFLAGS_TF | debug.own_step.get());
        }
    }

    /// User code has trapped for `event`. Answers the event that is left for
    /// the Guest, and whether a register has been set off.
    pub(crate) fn end_debug(&mut self, event: Event) -> (Event, bool) {
        let (vm, debug) = (self.vm, &self.vm.debug);
        let is_debug = matches!(
            event,
            Event::Trap {
                vector: DEBUG_VECTOR,
                ..
            }
        );
        if debug.stepping.get() == 0 {
            if is_debug {
                debug.status.set(SINGLE_STEP);
            }
            return (event, false);
        }
        let own = debug.own_step.get();
        let flag_use = debug.flag_use.get();
        if is_debug && flag_use == FlagUse::Pops as u32 {
            // The instruction has loaded its own.
            debug.own_step.set(vm.regs.eflags.get() & EFLAGS_TF);
        }
        self.put_off_debug();
        if !is_debug {
            return (event, false);
        }
        if flag_use == FlagUse::Pushes as u32 {
            let top = GuestVirt(vm.regs.esp.get());
            if let Ok(pushed) = self.read_virtual(top) {
                // It was just written, so it can be.
                let _ = self.write_virtual(top, pushed & !EFLAGS_TF | own);
            }
        }
        let step = if own == 0 { 0 } else { SINGLE_STEP };
        let earned = debug.earned.get() | step;
        debug.status.set(earned);
        if earned == 0 {
            (Event::Kick, false)
        } else {
            (event, true)
        }
    }

    /// The Host has carried out an instruction at which the Guest has faulted.
    /// If the Guest steps itself, the trap of this step comes now, as behind an
    /// instruction that the processor carries out.
    pub(crate) fn end_instruction(&mut self) -> Result<(), Kill> {
        self.clear_resume_flag();
        if self.vm.regs.eflags.get() & EFLAGS_TF == 0 {
            return Ok(());
        }
        self.vm.debug.status.set(SINGLE_STEP);
        self.deliver_trap(DEBUG_VECTOR, None)
    }

    /// Sets or reads a debug register, if the kernel is at the function that
    /// does so: eax says which, edx to what. Answers whether it was.
    pub(crate) fn call_for_debug_register(
        &mut self,
        code: &[u8],
    ) -> Result<bool, Kill> {
        let vm = self.vm;
        let (regs, debug) = (&vm.regs, &vm.debug);
        if code.first() != Some(&HLT) {
            return Ok(false);
        }
        let [register, ..] = regs.eax.get().to_le_bytes();
        match regs.eip.get() {
            eip if eip == debug.setter.get() => {
                debug.write(register, regs.edx.get(), vm.cr3.get());
            }
            eip if eip == debug.reader.get() => {
                regs.eax.set(debug.read(register));
            }
            _ => return Ok(false),
        }
        let mut stack = regs.esp.get();
        regs.eip.set(self.pop(&mut stack)?);
        regs.esp.set(stack);
        Ok(true)
    }

    /// Carries out a move from or to a debug register.
    pub(crate) fn debug_register(&mut self, code: &[u8]) -> bool {
        let (regs, debug) = (&self.vm.regs, &self.vm.debug);
        let &[0x0F, direction @ (0x21 | 0x23), modrm, ..] = code else {
            return false;
        };
        let register = modrm >> 3 & 7;
        if direction == 0x21 {
            general(regs, modrm).set(debug.read(register));
        } else {
            debug.write(register, general(regs, modrm).get(), 0);
        }
        regs.eip.set(regs.eip.get().wrapping_add(3));
        true
    }

    /// A program makes a system call. If a debugger sets a debug register by
    /// it, looks for the function by which the kernel will do so.
    pub(crate) fn expect_debugger(&mut self) {
        /// `ptrace` of Linux for i386, and its request PTRACE_POKEUSER.
        const PTRACE: u32 = 26;
        const POKE_USER: u32 = 6;
        /// Where `struct user` has the debug registers.
        const REGISTERS: core::ops::RangeInclusive<u32> = 252..=280;
        let regs = &self.vm.regs;
        if regs.eax.get() == PTRACE
            && regs.ebx.get() == POKE_USER
            && REGISTERS.contains(&regs.edx.get())
            && self.vm.debug.setter.get() == 0
        {
            self.look_for_setter();
        }
    }

    /// Finds the empty function that sets debug registers, and makes it trap.
    /// The kernel's operations are in a table. The function that reads debug
    /// registers has real moves from them, or returns 0, and the next entry is
    /// the one that sets them.
    fn look_for_setter(&mut self) {
        /// How far the table is from `lguest_data` at the most. Both are data
        /// of the kernel, which may be anywhere in memory.
        const DISTANCE: u32 = 8 << 20;
        let vm = self.vm;
        let (data, limit) = (vm.lguest_data.get(), vm.limit.get());
        let first = data.saturating_sub(DISTANCE).next_multiple_of(4);
        let end = data.saturating_add(DISTANCE).min(limit);
        vm.debug.setter.set(NO_SETTER);
        let mut before = 0;
        for at in (first..end).step_by(4) {
            let word = self.memory.word(GuestPhys(at)).unwrap_or(0);
            let words = [before, word];
            before = word;
            let [Some(reader), Some(setter)] = words.map(|w| self.code_at(w))
            else {
                continue;
            };
            if !self.has_body(setter, EMPTY) {
                continue;
            }
            let reads = self.reads_debug_registers(reader);
            if !reads && !self.is_table_of_linux_4(reader, GuestPhys(at)) {
                continue;
            }
            vm.debug.setter.set(word);
            // They were just read, so they are there.
            let _ = self.memory.write(setter, &[HLT]);
            vm.counters.patches.count();
            if !reads {
                vm.debug.reader.set(words[0]);
                let _ = self.memory.write(reader, &[HLT]);
                vm.counters.patches.count();
            }
            return;
        }
    }

    /// The physical address of the code at `word`, if that is an address of the
    /// kernel's linear memory.
    fn code_at(&self, word: u32) -> Option<GuestPhys> {
        let at = word.wrapping_sub(self.vm.page_offset.get());
        (at < self.vm.limit.get()).then_some(GuestPhys(at))
    }

    /// Whether `table` is where Linux 4.x has the function that sets debug
    /// registers, with `reader` in front of it: `reader` returns 0, and so
    /// does, a few entries later, what reads CR4. Two entries before that one
    /// is what reads CR0: a variable, or 0 since Linux 4.10, which has one
    /// entry less in between (`clts`). Up to Linux 4.8 there is one more, which
    /// reads CR4 natively.
    fn is_table_of_linux_4(&self, reader: GuestPhys, table: GuestPhys) -> bool {
        let Ok(words) = self.memory.words::<6>(table) else {
            return false;
        };
        // The kernel's list of its symbols is sorted. It has all its functions,
        // and so runs of them that look like these.
        if words.is_sorted() {
            return false;
        }
        let next = words.map(|word| self.code_at(word));
        let has = |n: usize, bodies| {
            next[n].is_some_and(|at| at != reader && self.has_body(at, bodies))
        };
        let returns_0 = |n| has(n, ZERO);
        self.has_body(reader, ZERO)
            && (has(2, VARIABLE) && (returns_0(4) || returns_0(5))
                || (has(1, VARIABLE) || returns_0(1)) && returns_0(3))
    }

    /// Whether a function is one of `bodies`, perhaps with a frame pointer. In
    /// the place of [`ANY`] four bytes are not compared.
    fn has_body(&self, at: GuestPhys, bodies: &[&[u8]]) -> bool {
        const ENTER: &[u8] = &[0x55, 0x89, 0xE5];
        const LEAVE: &[u8] = &[0x5D];
        let mut code = [0; 16];
        if self.memory.read(at, &mut code).is_err() {
            return false;
        }
        let code = code.strip_prefix(ENTER).unwrap_or(&code);
        bodies.iter().any(|&body| {
            let Some(rest) = code.strip_prefix(body) else {
                return false;
            };
            let rest = match body {
                ANY => &rest[4..],
                _ => rest,
            };
            let rest = rest.strip_prefix(LEAVE).unwrap_or(rest);
            rest.starts_with(&[0xC3]) || rest.starts_with(&[0xF3, 0xC3])
        })
    }

    /// Whether a function has moves from debug registers: from DR0 and DR7, at
    /// the least. The first one comes before its end, because a short function
    /// may stand in front of the one that is looked for.
    fn reads_debug_registers(&self, at: GuestPhys) -> bool {
        const LENGTH: usize = 128;
        const MOVE: u16 = 0x0F21;
        /// Returns, and jumps to an address.
        const ENDS: [u16; 4] = [0xC2, 0xC3, 0xE9, 0xEB];
        let mut code = [0; LENGTH];
        if self.memory.read(at, &mut code).is_err() {
            return false;
        }
        let mut rest = &code[..];
        loop {
            match (opcode(rest), length(rest)) {
                (Some(MOVE), _) => break,
                (Some(other), Some(length)) if !ENDS.contains(&other) => {
                    rest = &rest[length..];
                }
                _ => return false,
            }
        }
        let has = |register: u8| {
            rest.windows(3).any(|bytes| {
                matches!(bytes, &[0x0F, 0x21, modrm] if modrm >> 3 & 7 == register)
            })
        };
        has(0) && has(7)
    }
}

#[cfg(test)]
mod tests;
