//! Trampolines: a few instructions of 64-bit code where the Guest can jump to.
//!
//! The Guest's code far-jumps to a trampoline in the Switcher's part of its
//! address space, and the far jump switches the processor to 64-bit mode. The
//! trampoline executes the instructions that the patch has displaced, saves
//! eax, loads its own kind, and goes on in the common code below. That code
//! saves the other registers and calls the Host. All of that costs less than
//! the kernel needs to find out which signal to send.
//!
//! A 32-bit program cannot see r8 to r15, so they are free from the first
//! instruction on. Everything else is the Guest's, xmm0 to xmm7 among it. The
//! Host's code uses these, so they are saved before it is called and loaded
//! again on the way out. The Host does not touch the rest of the floating-point
//! unit.
//!
//! Trampolines are part of a Guest's state: its memory has jumps to them. So
//! they contain no address of this program, which another build has elsewhere.
//! Such addresses are in a [`TrampolineTable`] at the beginning of the pages,
//! which the view spawner writes when it starts.

#![expect(unsafe_code, reason = "assembly")]

use crate::fpu;
use crate::layout::{
    FIRST_DIRECT, FIRST_TRAMPOLINE, MAX_TRAMPOLINES, OWN, STACK, STACK_SIZE,
    STATE, State, TRAMPOLINE_SIZE, TRAMPOLINES, TrampolineTable,
    USER_TRAMPOLINES,
};
use crate::leave;
use crate::own::{Own, XmmArea, own};
use crate::role::role;
use crate::shared::{registers, state};
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_host::address::as_word;
use lg_host::cpu::registers::EFLAGS_TF;
use lg_host::cpu::selectors::REAL_LONG_CS;
use lg_host::host::Event;
use lg_host::patch::TrampolineKind;
use lg_host::patch::limits::MAX_DISPLACED;
use lg_host::state::Registers;

/// Where the general registers are kept.
const REGS: usize = STATE + offset_of!(State, vm.regs);

/// Flags of the Guest's with which our code must not run: TF, DF, NT and AC.
const UNCLEAN: u32 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18;

// In: r15 = the Guest's registers, eax saved there already; r14 = the kind of
// trampoline. The stack is the Guest's until ours is loaded.
global_asm!(
    ".globl lg_trampoline",
    "lg_trampoline:",
    "    mov [r15 + {ebx}], ebx",
    "    mov [r15 + {ecx}], ecx",
    "    mov [r15 + {edx}], edx",
    "    mov [r15 + {esi}], esi",
    "    mov [r15 + {edi}], edi",
    "    mov [r15 + {ebp}], ebp",
    "    mov [r15 + {esp}], esp",
    "    movabs rsp, {stack}",
    "    pushfq",
    "    pop rax",
    "    mov [r15 + {eflags}], eax",
    // Our code must not run with these flags. popfq is slow, so it is skipped
    // when none of them is set.
    "    test eax, {unclean}",
    "    jz 2f",
    "    push 2",
    "    popfq",
    "2:",
    "    movabs rdi, {xmm}",
    "    movaps [rdi], xmm0",
    "    movaps [rdi + 16], xmm1",
    "    movaps [rdi + 32], xmm2",
    "    movaps [rdi + 48], xmm3",
    "    movaps [rdi + 64], xmm4",
    "    movaps [rdi + 80], xmm5",
    "    movaps [rdi + 96], xmm6",
    "    movaps [rdi + 112], xmm7",
    "    mov esi, r14d",
    "    call {entered}",
    "    ud2",
    ebx = const offset_of!(Registers, ebx),
    ecx = const offset_of!(Registers, ecx),
    edx = const offset_of!(Registers, edx),
    esi = const offset_of!(Registers, esi),
    edi = const offset_of!(Registers, edi),
    ebp = const offset_of!(Registers, ebp),
    esp = const offset_of!(Registers, esp),
    eflags = const offset_of!(Registers, eflags),
    unclean = const UNCLEAN,
    xmm = const OWN + offset_of!(Own, xmm),
    stack = const STACK + STACK_SIZE,
    entered = sym entered,
);

unsafe extern "C" {
    fn lg_trampoline();
}

/// The Guest has come through a trampoline.
extern "C" fn entered(xmm: *mut XmmArea, kind: u32) -> ! {
    let regs = registers();
    leave::save_segments(regs, stack_segment());
    if own().stepped.load(Ordering::Relaxed) {
        own().stepped.store(false, Ordering::Relaxed);
        regs.eflags.set(regs.eflags.get() | EFLAGS_TF);
    }
    fpu::set_xmm(xmm);
    let event = TrampolineKind::from_number(kind).map(Event::Trampoline);
    // Only a jump into the middle of a trampoline comes with another number.
    let event = event.unwrap_or(Event::LongMode);
    role().stopped(event, false)
}

/// What is in ss: a far jump leaves it as it is.
fn stack_segment() -> u32 {
    let ss: u32;
    // SAFETY: reads a register.
    unsafe {
        asm!(
            "mov {ss:e}, ss",
            ss = out(reg) ss,
            options(nomem, nostack, preserves_flags),
        );
    };
    ss
}

/// Tells the trampolines where this program is.
pub(crate) fn set_up() {
    let table = &state().trampolines.table;
    table.common.set(lg_trampoline as *const () as u64);
    table.registers.set(REGS as u64);
}

/// Makes a trampoline, or finds one that does the same; answers where the Guest
/// finds it.
///
/// A trampoline contains nothing of its site, so all sites with the same code
/// share one, and a site that is patched again gets its old one. None is taken
/// away when its patch is dropped: the Guest may stand in it.
pub(crate) fn make(
    kind: TrampolineKind,
    displaced: &[u8],
    padding: u32,
) -> Option<u32> {
    let patches = &state().vm.patches;
    let (made, numbers) = match kind {
        TrampolineKind::EntryPage => {
            (&patches.user_trampolines, FIRST_TRAMPOLINE..FIRST_DIRECT)
        }
        TrampolineKind::DirectCall => return None, // see `make_for_call`
        TrampolineKind::Iret
        | TrampolineKind::Hypercall
        | TrampolineKind::HypercallAfterStore
        | TrampolineKind::Enabling
        | TrampolineKind::Accessor
        | TrampolineKind::NearHypercall => {
            (&patches.trampolines, USER_TRAMPOLINES..MAX_TRAMPOLINES)
        }
    };
    let count = made.get() as usize;
    for number in numbers.clone().take(count) {
        if Code::of(number, kind, displaced, padding)?.is_in(place(number)) {
            return Some(address(number));
        }
    }
    let number = numbers.clone().nth(count)?;
    Code::of(number, kind, displaced, padding)?.write();
    made.set(made.get() + 1);
    Some(address(number))
}

/// The bytes of a trampoline.
fn place(number: usize) -> &'static [Cell<u8>; TRAMPOLINE_SIZE] {
    &state().trampolines.trampolines[number - FIRST_TRAMPOLINE]
}

/// Makes a trampoline for a direct call ([`lg_host::patch::direct`]); answers
/// where the Guest finds it. The Guest does not stand in the trampoline that
/// had this slot before: it is put back from its first instruction, and it is
/// not interrupted at the others.
pub(crate) fn make_for_call(slot: usize, back: u32) -> u32 {
    let number = FIRST_DIRECT + slot;
    Code::of_call(number, back).write();
    address(number)
}

/// Where the Guest finds a trampoline.
const fn address(number: usize) -> u32 {
    as_word(TRAMPOLINES + number * TRAMPOLINE_SIZE)
}

/// Bytes of a far jump.
const FAR_JUMP: usize = 7;

/// Where eax and eip are among the registers.
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const EAX: u8 = offset_of!(Registers, eax) as u8;
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const EIP: u8 = offset_of!(Registers, eip) as u8;

/// The code of a trampoline.
#[derive(Debug, PartialEq)]
struct Code {
    number: usize,
    bytes: [u8; TRAMPOLINE_SIZE],
    len: usize,
}

impl Code {
    /// The code of a trampoline that does what `displaced` does, and behind
    /// whose far call there is `padding`.
    fn of(
        number: usize,
        kind: TrampolineKind,
        displaced: &[u8],
        padding: u32,
    ) -> Option<Self> {
        let mut code = Self::empty(number);
        code.push(displaced.get(..displaced.len().min(MAX_DISPLACED))?);
        code.save_eax();
        if kind == TrampolineKind::Hypercall {
            code.set_eip(padding);
        }
        code.go(kind);
        Some(code)
    }

    /// The code of a trampoline for a direct call, which 32-bit code enters.
    fn of_call(number: usize, back: u32) -> Self {
        let mut code = Self::empty(number);
        let [a, b, c, d] = (address(number) + as_word(FAR_JUMP)).to_le_bytes();
        // ljmp $long_cs,$behind
        code.push(&[0xEA, a, b, c, d]);
        code.push(&REAL_LONG_CS.to_le_bytes()[..2]);
        code.save_eax();
        code.set_eip(back);
        code.go(TrampolineKind::DirectCall);
        code
    }

    fn empty(number: usize) -> Self {
        Self {
            number,
            bytes: [0; TRAMPOLINE_SIZE],
            len: 0,
        }
    }

    /// mov registers(%rip),%r15; mov %eax,eax(%r15)
    fn save_eax(&mut self) {
        self.push(&[0x4C, 0x8B, 0x3D]);
        self.push_way_to(offset_of!(TrampolineTable, registers));
        self.push(&[0x41, 0x89, 0x47, EAX]);
    }

    /// movl $word,eip(%r15)
    fn set_eip(&mut self, word: u32) {
        self.push(&[0x41, 0xC7, 0x47, EIP]);
        self.push(&word.to_le_bytes());
    }

    /// mov $kind,%r14d; jmp *common(%rip)
    fn go(&mut self, kind: TrampolineKind) {
        self.push(&[0x41, 0xBE]);
        self.push(&(kind as u32).to_le_bytes());
        self.push(&[0xFF, 0x25]);
        self.push_way_to(offset_of!(TrampolineTable, common));
    }

    /// How far it is from behind these bytes, which end an instruction, to
    /// `place` in the table.
    fn push_way_to(&mut self, place: usize) {
        let behind = address(self.number) + as_word(self.len) + 4;
        let place = as_word(TRAMPOLINES + place);
        self.push(&place.wrapping_sub(behind).to_le_bytes());
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    /// Whether `place` contains it.
    fn is_in(&self, place: &[Cell<u8>; TRAMPOLINE_SIZE]) -> bool {
        let there = place.iter().map(Cell::get);
        there
            .take(self.len)
            .eq(self.bytes[..self.len].iter().copied())
    }

    /// Writes it where the Guest finds it.
    fn write(&self) {
        let place = place(self.number);
        for (to, &byte) in place.iter().zip(&self.bytes[..self.len]) {
            to.set(byte);
        }
    }
}

/// Instructions of ours in a trampoline, with `set_eip` and without what it has
/// displaced.
const OWN_SIZE: usize = 7 + 4 + 8 + 6 + 6;

const _: () = {
    assert!(OWN_SIZE + MAX_DISPLACED <= TRAMPOLINE_SIZE);
    assert!(OWN_SIZE + FAR_JUMP <= TRAMPOLINE_SIZE);
    assert!(size_of::<TrampolineTable>() == FIRST_TRAMPOLINE * TRAMPOLINE_SIZE);
    assert!(offset_of!(Registers, eax) < 0x80);
    assert!(offset_of!(Registers, eip) < 0x80);
};

#[cfg(test)]
mod tests {
    //! The bytes of trampolines, of which another build must be able to use
    //! those that it finds in a Guest's state. A change here is a change of
    //! that state's layout.

    use super::*;

    fn code(code: &Code) -> &[u8] {
        &code.bytes[..code.len]
    }

    /// mov registers(%rip),%r15, which lies at `at`.
    fn load_registers(at: u32) -> [u8; 7] {
        let [a, b, c, d] = 0xFFFE_0008_u32.wrapping_sub(at + 7).to_le_bytes();
        [0x4C, 0x8B, 0x3D, a, b, c, d]
    }

    /// mov $kind,%r14d; jmp *common(%rip), which lies at `at`.
    fn go(kind: u8, at: u32) -> [u8; 12] {
        let [a, b, c, d] = 0xFFFE_0000_u32.wrapping_sub(at + 12).to_le_bytes();
        [0x41, 0xBE, kind, 0, 0, 0, 0xFF, 0x25, a, b, c, d]
    }

    #[test]
    fn a_trampoline_contains_no_address_of_this_build() {
        for (kind, nr) in [
            (TrampolineKind::Iret, 1),
            (TrampolineKind::EntryPage, 3),
            (TrampolineKind::HypercallAfterStore, 4),
            (TrampolineKind::Enabling, 5),
            (TrampolineKind::Accessor, 7),
            (TrampolineKind::NearHypercall, 8),
        ] {
            let made = Code::of(64, kind, &[], 3).unwrap();
            let mut expected = load_registers(0xFFFE_1000).to_vec();
            expected.extend([0x41, 0x89, 0x47, 0]);
            expected.extend(go(nr, 0xFFFE_1000 + 11));
            assert_eq!(code(&made), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_hypercalls_trampoline_contains_what_it_displaced_and_its_padding() {
        let displaced = [0xB8, 5, 0, 0, 0, 0x31, 0xD2];
        let kind = TrampolineKind::Hypercall;
        let made = Code::of(70, kind, &displaced, 2).unwrap();
        let mut expected = displaced.to_vec();
        let at = 0xFFFE_0000 + 70 * 64;
        expected.extend(load_registers(at + 7));
        expected.extend([0x41, 0x89, 0x47, 0]);
        expected.extend([0x41, 0xC7, 0x47, 32, 2, 0, 0, 0]);
        expected.extend(go(2, at + 26));
        assert_eq!(code(&made), expected);
        let longest = Code::of(70, kind, &[0x90; MAX_DISPLACED], 2).unwrap();
        assert_eq!(longest.len, OWN_SIZE + MAX_DISPLACED);
    }

    #[test]
    fn a_trampoline_serves_only_what_it_does_itself() {
        let kind = TrampolineKind::Hypercall;
        let made = Code::of(70, kind, &[0x31, 0xD2], 2).unwrap();
        let place = made.bytes.map(Cell::new);
        let serves = |kind, displaced: &[u8], padding| {
            Code::of(70, kind, displaced, padding)
                .unwrap()
                .is_in(&place)
        };
        assert!(serves(kind, &[0x31, 0xD2], 2));
        assert!(!serves(kind, &[0x31, 0xD2], 3), "another padding");
        assert!(!serves(kind, &[0x31, 0xC0], 2), "other code");
        assert!(!serves(kind, &[], 2), "no code");
        let after_store = TrampolineKind::HypercallAfterStore;
        assert!(!serves(after_store, &[0x31, 0xD2], 2), "another kind");
    }

    #[test]
    fn a_direct_calls_trampoline_begins_in_32_bit_code() {
        let made = Code::of_call(FIRST_DIRECT, 0x0804_8012);
        let mut expected = std::vec![0xEA, 7, 4, 0xFE, 0xFF, 0x33, 0];
        expected.extend(load_registers(0xFFFE_0407));
        expected.extend([0x41, 0x89, 0x47, 0]);
        expected.extend([0x41, 0xC7, 0x47, 32, 0x12, 0x80, 4, 8]);
        expected.extend(go(6, 0xFFFE_041A));
        assert_eq!(code(&made), expected);
    }

    #[test]
    fn the_kinds_of_trampolines_have_fixed_numbers() {
        let numbers = TrampolineKind::ALL.map(|kind| kind as u32);
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
