//! The 32-bit code of crossings, and what each of its instructions has done.
//!
//! The code is the same for every Guest and has no address in it but those of
//! its own two pages. A signal can stop it in front of any instruction. So each
//! instruction stands with its *phase*: what has to be undone there, or what is
//! left to do ([`super`]).
//!
//! On the way in no register is free, and the stack's segment ends where the
//! Guest's kernel begins. Two words below the stack pointer serve, where the
//! far call of the entry page has just written two others. `lss` loads the
//! kernel's stack by the code segment, which is flat. On the way out the stack
//! is the kernel's, and data segments are the program's already. So all
//! accesses are by the stack's segment or by the code's.

use super::words::{MAGIC, Words, word};
use crate::address::as_word;
use crate::cpu::registers::{
    EFLAGS_AC, EFLAGS_FIXED, EFLAGS_NT, EFLAGS_TF, EFLAGS_USABLE, EFLAGS_VM,
};
use crate::cpu::selectors::REAL_USER_DS;
use core::mem::offset_of;
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::{KERNEL_CS, USER_CS, USER_DS};
use lg_abi::shared::{HCALL_DONE, IF};

/// What has happened in front of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of ours is here.
    None,
    /// In: `eax` and `ebx` say how many words were pushed on the program's
    /// stack, and which of the two registers has another value now.
    Pushing {
        pushed: u32,
        is_ebx_lost: bool,
        is_eax_lost: bool,
    },
    /// In: the kernel's stack is loaded. `eax` is this much below the
    /// program's stack pointer, `ebx` its stack segment. Where the program's
    /// flags are above `esp`, if they are there yet.
    Switched { below: u32, flags: Option<u32> },
    /// In: the same, `ebx` has another value, and the stack segment was found
    /// to be the usual one.
    Checked { flags: u32 },
    /// In: all registers are the program's again, and the frame is complete.
    Framed,
    /// In: the Guest is in its kernel, at the gate's handler. `pushed`: `ebx`
    /// is at the top of the stack. `counted`: the crossing is.
    Entered { pushed: bool, counted: bool },
    /// Out: the value of `eax` is this far above `esp`, if it is lost, and so
    /// many bytes were pushed.
    Leaving { eax: Option<u32>, pushed: u32 },
    /// Out: the Guest is in the program, whose registers are in the words.
    Left { counted: bool },
    /// Back: the kernel is where it was interrupted, its registers are in the
    /// words.
    Back { counted: bool },
    /// A hypercall: how many words of ours are on the stack, and whether `ecx`
    /// is the first of them.
    Asking { pushed: u32, is_ecx_lost: bool },
    /// A hypercall: it is answered.
    Answered(Answered),
}

/// What is left to do behind a hypercall that is answered, from the top of the
/// stack on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// `ecx`, flags, padding, and the way back without it.
    All,
    /// The same; the padding was added to the way back.
    Added,
    /// Flags, padding, and the way back.
    Flags,
    /// Padding, and the way back.
    Padding,
    /// The way back.
    Return,
}

/// The code, and the phase at the first byte of each instruction.
pub(super) struct Code {
    pub(super) bytes: [u8; CODE_SIZE],
    pub(super) phases: [Phase; CODE_SIZE],
    len: usize,
    /// Where the entry page's far call leads.
    pub(super) way_in: usize,
    /// Where that jumps to: the fast way, and the slow one.
    pub(super) fast_way_in: usize,
    pub(super) slow_way_in: usize,
    /// Where the kernel's `iret` leads, up to Linux 4.0.
    pub(super) way_out: usize,
    /// And since 4.1.
    pub(super) later_way_out: usize,
    /// The instruction of the way out that looks whether gs has its base, in
    /// both.
    pub(super) probes: [usize; 2],
    /// Where the trampolines of hypercalls lead, in generation 1.
    pub(super) near: usize,
    /// And in later ones.
    pub(super) later_near: usize,
}

/// Bytes of it.
pub const CODE_SIZE: usize = 1600;

/// The code.
pub(super) static CODE: Code = Code::new();

/// Flags with which the kernel is not entered by this way: a gate clears them.
const UNCLEAN: u32 = EFLAGS_TF | EFLAGS_NT | EFLAGS_AC;

/// Flags with which a program is not entered by this way.
const UNUSUAL: u32 = UNCLEAN | EFLAGS_VM;

/// `ptrace` of Linux for i386, and its request PTRACE_POKEUSER, at which the
/// Host looks ([`crate::cpu::debug`]).
const PTRACE: u8 = 26;
const POKE_USER: u8 = 6;

#[expect(clippy::cast_possible_truncation, reason = "they are small")]
const fn byte(selector: u32) -> u8 {
    assert!(selector < 0x80);
    selector as u8
}

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            bytes: [0xCC; CODE_SIZE],
            phases: [Phase::None; CODE_SIZE],
            len: 0,
            way_in: 0,
            fast_way_in: 0,
            slow_way_in: 0,
            way_out: 0,
            later_way_out: 0,
            probes: [0; 2],
            near: 0,
            later_near: 0,
        };
        code.push_way_in();
        code.push_way_out(false);
        code.push_way_out(true);
        code.near = code.push_near(false);
        code.later_near = code.push_near(true);
        assert!(code.len <= PAGE_SIZE as usize);
        code
    }

    const fn push_way_in(&mut self) {
        let usual = byte(REAL_USER_DS);
        // A trap takes the way in back: ud2.
        let refuse = self.len;
        self.op(SEEN, &[0x0F, 0x0B]);
        self.slow_way_in = self.len;
        // ljmp *%cs:entry_trampoline
        let trampoline = word(offset_of!(Words, entry_trampoline));
        let begun = pushing(0, false, false);
        self.op_word(begun, &[0x2E, 0xFF, 0x2D], trampoline, &[]);
        self.way_in = self.len;
        // jmp *%cs:way_in
        let way_in = word(offset_of!(Words, way_in));
        self.op_word(begun, &[0x2E, 0xFF, 0x25], way_in, &[]);
        self.fast_way_in = self.len;
        // push %eax; push %ebx; mov %ss,%ebx; mov %esp,%eax
        self.op(pushing(0, false, false), &[0x50]);
        self.op(pushing(1, false, false), &[0x53]);
        self.op(pushing(2, false, false), &[0x8C, 0xD3]);
        self.op(pushing(2, true, false), &[0x89, 0xE0]);
        // lss %cs:kernel_stack,%esp
        let stack = word(offset_of!(Words, kernel_esp));
        let both = pushing(2, true, true);
        self.op_word(both, &[0x2E, 0x0F, 0xB2, 0x25], stack, &[]);
        // push $USER_DS; lea 16(%eax),%eax; push %eax; pushf; push $USER_CS
        let ss = byte(USER_DS as u32);
        let at_words = Phase::Switched {
            below: 16,
            flags: None,
        };
        self.op(at_words, &[0x6A, ss]);
        self.op(at_words, &[0x8D, 0x40, 16]);
        let at_stack = Phase::Switched {
            below: 0,
            flags: None,
        };
        self.op(at_stack, &[0x50]);
        self.op(at_stack, &[0x9C]);
        let at_flags = Phase::Switched {
            below: 0,
            flags: Some(0),
        };
        self.op(at_flags, &[0x6A, byte(USER_CS as u32)]);
        // cmp $REAL_USER_DS,%ebx; testl $UNCLEAN,4(%esp)
        self.op(SEEN, &[0x83, 0xFB, usual]);
        self.jump(SEEN, NOT_EQUAL, refuse);
        self.op_word(SEEN, &[0xF7, 0x44, 0x24, 4], UNCLEAN, &[]);
        self.jump(SEEN, NOT_EQUAL, refuse);
        // cmpl $PTRACE,%ss:-12(%eax); jne; cmpl $POKE_USER,%ss:-16(%eax)
        self.op(SEEN, &[0x36, 0x83, 0x78, 0xF4, PTRACE]);
        self.op(SEEN, &[0x75, 5 + 6]);
        self.op(SEEN, &[0x36, 0x83, 0x78, 0xF0, POKE_USER]);
        self.jump(SEEN, EQUAL, refuse);
        // mov %ss:-8(%eax),%ebx; add %ss:to_back,%ebx; push %ebx
        self.op(SEEN, &[0x36, 0x8B, 0x58, 0xF8]);
        let checked = Phase::Checked { flags: 4 };
        let to_back = word(offset_of!(Words, to_back));
        self.op_word(checked, &[0x36, 0x03, 0x1D], to_back, &[]);
        self.op(checked, &[0x53]);
        // mov %ss:-16(%eax),%ebx; mov %ss:-12(%eax),%eax
        let checked = Phase::Checked { flags: 8 };
        self.op(checked, &[0x36, 0x8B, 0x58, 0xF0]);
        self.op(checked, &[0x36, 0x8B, 0x40, 0xF4]);
        // movl $0,%ss:user: from here on it is the kernel
        let user = word(offset_of!(Words, user));
        self.op_word(Phase::Framed, &[0x36, 0xC7, 0x05], user, &[0; 4]);
        // push %ebx; mov %ss:cleared_at,%ebx; movl $0,%ss:(%ebx); pop %ebx
        let cleared = word(offset_of!(Words, cleared_at));
        self.op(entered(false, false), &[0x53]);
        let pushed = entered(true, false);
        self.op_word(pushed, &[0x36, 0x8B, 0x1D], cleared, &[]);
        self.op_word(pushed, &[0x36, 0xC7, 0x03], 0, &[]);
        self.op(pushed, &[0x5B]);
        // incl %ss:ins; jmp *%ss:handler
        let ins = word(offset_of!(Words, ins));
        self.op_word(entered(false, false), &[0x36, 0xFF, 0x05], ins, &[]);
        let handler = word(offset_of!(Words, handler));
        self.op_word(entered(false, true), &[0x36, 0xFF, 0x25], handler, &[]);
    }

    const fn push_way_out(&mut self, is_later: bool) {
        let slow = self.push_slow_way_out(is_later);
        // What is to be stored, eax, eip, cs, flags, esp, ss: the same on both
        // ways, once all is pushed.
        let base = saved(is_later, 0);
        let back = self.push_way_back(base, slow, is_later);
        let begun = leaving(None, 0);
        if is_later {
            self.later_way_out = self.len;
            // push %eax; push 12(%esp)
            self.op(begun, &[0x50]);
            self.op(leaving(None, 4), &[0xFF, 0x74, 0x24, 12]);
        } else {
            self.way_out = self.len;
            // push %eax
            self.op(begun, &[0x50]);
        }
        // cmpl $USER_CS,12(%esp)
        let cs = byte(USER_CS as u32);
        self.op(base, &[0x83, 0x7C, 0x24, 12, cs]);
        self.jump(base, NOT_EQUAL, back);
        self.push_checks(base, slow);
        self.push_probe(base, slow, is_later);
        // mov 20(%esp),%eax
        self.push_saving(base, is_later, &[0x8B, 0x44, 0x24, 20]);
        // movl $1,%ss:user: from here on it is the program
        let user = word(offset_of!(Words, user));
        self.op_word(base, &[0x36, 0xC7, 0x05], user, &[1, 0, 0, 0]);
        // incl %ss:outs
        let outs = word(offset_of!(Words, outs));
        let left = Phase::Left { counted: false };
        self.op_word(left, &[0x36, 0xFF, 0x05], outs, &[]);
        // push %ss:eflags; popf; mov %ss:eax,%eax
        let left = Phase::Left { counted: true };
        let eflags = word(offset_of!(Words, eflags));
        self.op_word(left, &[0x36, 0xFF, 0x35], eflags, &[]);
        self.op(left, &[0x9D]);
        self.load(left, word(offset_of!(Words, eax)));
        // lss %cs:esp,%esp; ljmp *%cs:eip
        let esp = word(offset_of!(Words, esp));
        self.op_word(left, &[0x2E, 0x0F, 0xB2, 0x25], esp, &[]);
        let eip = word(offset_of!(Words, eip));
        self.op_word(left, &[0x2E, 0xFF, 0x2D], eip, &[]);
    }

    /// The way of a kernel back to itself. Answers where it is.
    const fn push_way_back(
        &mut self,
        base: Phase,
        slow: usize,
        is_later: bool,
    ) -> usize {
        let back = self.len;
        // cmpl $0,%ss:may_go_back
        let may_go_back = word(offset_of!(Words, may_go_back));
        self.op_word(base, &[0x36, 0x83, 0x3D], may_go_back, &[0]);
        self.jump(base, EQUAL, slow);
        // cmpl $KERNEL_CS,12(%esp)
        let cs = byte(KERNEL_CS as u32);
        self.op(base, &[0x83, 0x7C, 0x24, 12, cs]);
        self.jump(base, NOT_EQUAL, slow);
        self.push_check_of_flags(base, slow);
        // mov 8(%esp),%eax; cmp %ss:user_end,%eax
        self.op(base, &[0x8B, 0x44, 0x24, 8]);
        let user_end = word(offset_of!(Words, user_end));
        self.op_word(base, &[0x36, 0x3B, 0x05], user_end, &[]);
        self.jump(base, BELOW, slow);
        // lea 20(%esp),%eax: such a frame has no stack pointer
        self.push_saving(base, is_later, &[0x8D, 0x44, 0x24, 20]);
        // incl %ss:backs: from here on it is where it was interrupted
        let backs = word(offset_of!(Words, backs));
        let gone = Phase::Back { counted: false };
        self.op_word(gone, &[0x36, 0xFF, 0x05], backs, &[]);
        // push %ss:eflags; popf; mov %ss:eax,%eax
        let gone = Phase::Back { counted: true };
        let eflags = word(offset_of!(Words, eflags));
        self.op_word(gone, &[0x36, 0xFF, 0x35], eflags, &[]);
        self.op(gone, &[0x9D]);
        self.load(gone, word(offset_of!(Words, eax)));
        // mov %ss:esp,%esp; jmp *%ss:eip
        let esp = word(offset_of!(Words, esp));
        self.op_word(gone, &[0x36, 0x8B, 0x25], esp, &[]);
        let eip = word(offset_of!(Words, eip));
        self.op_word(gone, &[0x36, 0xFF, 0x25], eip, &[]);
        back
    }

    /// Stores `irq_enabled`, and puts the registers into the words. `to_esp`
    /// computes the stack pointer.
    const fn push_saving(
        &mut self,
        base: Phase,
        is_later: bool,
        to_esp: &[u8],
    ) {
        // mov %ss:irq_enabled_at,%eax; push (%esp); pop %ss:(%eax)
        self.load(base, word(offset_of!(Words, irq_enabled_at)));
        self.op(base, &[0xFF, 0x34, 0x24]);
        self.op(saved(is_later, 4), &[0x36, 0x8F, 0x00]);
        // mov %eax,%ss:esp; and so on
        self.op(base, to_esp);
        self.store(base, word(offset_of!(Words, esp)));
        self.op(base, &[0x8B, 0x44, 0x24, 8]);
        self.store(base, word(offset_of!(Words, eip)));
        self.op(base, &[0x8B, 0x44, 0x24, 16]);
        self.op_word(base, &[0x25], EFLAGS_USABLE, &[]);
        self.op_word(base, &[0x0D], EFLAGS_FIXED, &[]);
        self.store(base, word(offset_of!(Words, eflags)));
        self.op(base, &[0x8B, 0x44, 0x24, 4]);
        self.store(base, word(offset_of!(Words, eax)));
    }

    /// What undoes the way out, and goes to the trampoline instead. Answers
    /// where it is.
    const fn push_slow_way_out(&mut self, is_later: bool) -> usize {
        let slow = self.len;
        if is_later {
            // lea 4(%esp),%esp
            self.op(saved(true, 0), &[0x8D, 0x64, 0x24, 4]);
            self.op(leaving(Some(0), 4), &[0x58]);
        } else {
            // pop %eax
            self.op(saved(false, 0), &[0x58]);
        }
        // ljmp *%cs:trampoline
        let trampoline = word(offset_of!(Words, trampoline));
        let begun = leaving(None, 0);
        self.op_word(begun, &[0x2E, 0xFF, 0x2D], trampoline, &[]);
        slow
    }

    /// Whether the frame and the segments are the usual ones.
    const fn push_checks(&mut self, at: Phase, slow: usize) {
        // cmpl $0,%ss:may_leave
        let may_leave = word(offset_of!(Words, may_leave));
        self.op_word(at, &[0x36, 0x83, 0x3D], may_leave, &[0]);
        self.jump(at, EQUAL, slow);
        // mov %ss:ts,%eax; test %eax,%ss:ts_mask
        self.load(at, word(offset_of!(Words, ts)));
        let ts_mask = word(offset_of!(Words, ts_mask));
        self.op_word(at, &[0x36, 0x85, 0x05], ts_mask, &[]);
        self.jump(at, NOT_EQUAL, slow);
        self.push_check_of_flags(at, slow);
        // cmpl $USER_DS,24(%esp)
        let ss = byte(USER_DS as u32);
        self.op(at, &[0x83, 0x7C, 0x24, 24, ss]);
        self.jump(at, NOT_EQUAL, slow);
        // mov 8(%esp),%eax; cmp %ss:user_end,%eax
        self.op(at, &[0x8B, 0x44, 0x24, 8]);
        let user_end = word(offset_of!(Words, user_end));
        self.op_word(at, &[0x36, 0x3B, 0x05], user_end, &[]);
        self.jump(at, NOT_BELOW, slow);
        // mov %ds,%eax; cmp; mov %es,%eax; cmp; mov %fs,%eax; test
        let usual = byte(REAL_USER_DS);
        self.op(at, &[0x8C, 0xD8]);
        self.op(at, &[0x83, 0xF8, usual]);
        self.jump(at, NOT_EQUAL, slow);
        self.op(at, &[0x8C, 0xC0]);
        self.op(at, &[0x83, 0xF8, usual]);
        self.jump(at, NOT_EQUAL, slow);
        self.op(at, &[0x8C, 0xE0]);
        self.op(at, &[0x85, 0xC0]);
        self.jump(at, NOT_EQUAL, slow);
    }

    /// Whether the flags are those that are to be stored, with interrupts on.
    const fn push_check_of_flags(&mut self, at: Phase, slow: usize) {
        // mov 16(%esp),%eax; cmp %eax,(%esp)
        self.op(at, &[0x8B, 0x44, 0x24, 16]);
        self.op(at, &[0x39, 0x04, 0x24]);
        self.jump(at, NOT_EQUAL, slow);
        // and $(UNUSUAL | IF),%eax; cmp $IF,%eax
        self.op_word(at, &[0x25], UNUSUAL | IF, &[]);
        self.op_word(at, &[0x3D], IF, &[]);
        self.jump(at, NOT_EQUAL, slow);
    }

    /// Whether gs is null, or is the usual selector with its base: a kernel
    /// that loads the selector loses the base.
    const fn push_probe(&mut self, at: Phase, slow: usize, is_later: bool) {
        // mov %gs,%eax; test %eax,%eax; je behind all this
        self.op(at, &[0x8C, 0xE8]);
        self.op(at, &[0x85, 0xC0]);
        self.op(at, &[0x74, 7 + 6 + 6 + 7 + 6]);
        // cmp %ss:gs,%eax
        let gs = word(offset_of!(Words, gs));
        self.op_word(at, &[0x36, 0x3B, 0x05], gs, &[]);
        self.jump(at, NOT_EQUAL, slow);
        // mov %ss:probe,%eax; cmpl $MAGIC,%gs:(%eax)
        self.load(at, word(offset_of!(Words, probe)));
        self.probes[is_later as usize] = self.len;
        self.op_word(at, &[0x65, 0x81, 0x38], MAGIC, &[]);
        self.jump(at, NOT_EQUAL, slow);
    }

    /// A hypercall, whose registers are loaded. On the stack are the number of
    /// bytes of padding behind the near call, and the way back without it.
    /// Answers where it begins.
    const fn push_near(&mut self, is_later: bool) -> usize {
        let flags = asking(1, false);
        let both = asking(2, true);
        // pop %ecx
        let slow = self.len;
        self.op(both, &[0x59]);
        // popf; ljmp *%cs:near_trampoline
        let closed = self.len;
        self.op(flags, &[0x9D]);
        let trampoline = word(offset_of!(Words, near_trampoline));
        let begun = asking(0, false);
        self.op_word(begun, &[0x2E, 0xFF, 0x2D], trampoline, &[]);
        // mov 8(%esp),%ecx; add %ecx,12(%esp); pop %ecx; popf
        let done = self.len;
        self.op(Phase::Answered(Answered::All), &[0x8B, 0x4C, 0x24, 8]);
        self.op(Phase::Answered(Answered::All), &[0x01, 0x4C, 0x24, 12]);
        self.op(Phase::Answered(Answered::Added), &[0x59]);
        self.op(Phase::Answered(Answered::Flags), &[0x9D]);
        // lea 4(%esp),%esp; ret
        self.op(Phase::Answered(Answered::Padding), &[0x8D, 0x64, 0x24, 4]);
        self.op(Phase::Answered(Answered::Return), &[0xC3]);
        // mov %edx,%ss:ts, or %ebx; incl %ss:ts_calls; jmp done
        let says_ts = self.len;
        let argument = if is_later { 0x1D } else { 0x15 };
        let ts = word(offset_of!(Words, ts));
        self.op_word(both, &[0x36, 0x89, argument], ts, &[]);
        let ts_calls = word(offset_of!(Words, ts_calls));
        self.op_word(both, &[0x36, 0xFF, 0x05], ts_calls, &[]);
        self.jump_always(Phase::Answered(Answered::All), done);
        let near = self.len;
        // pushf; cmpl $0,%ss:may_answer
        self.op(begun, &[0x9C]);
        let may_answer = word(offset_of!(Words, may_answer));
        self.op_word(flags, &[0x36, 0x83, 0x3D], may_answer, &[0]);
        self.jump(flags, EQUAL, closed);
        // push %ecx; mov %ss:status_at,%ecx; cmpb $HCALL_DONE,%ss:(%ecx)
        self.op(flags, &[0x51]);
        let status_at = word(offset_of!(Words, status_at));
        self.op_word(both, &[0x36, 0x8B, 0x0D], status_at, &[]);
        self.op(both, &[0x36, 0x80, 0x39, HCALL_DONE]);
        self.jump(both, NOT_EQUAL, slow);
        // cmp %ss:ts_number,%eax; cmp %ss:flush_number,%eax
        let ts_number = word(offset_of!(Words, ts_number));
        self.op_word(both, &[0x36, 0x3B, 0x05], ts_number, &[]);
        self.jump(both, EQUAL, says_ts);
        let flush_number = word(offset_of!(Words, flush_number));
        self.op_word(both, &[0x36, 0x3B, 0x05], flush_number, &[]);
        self.jump(both, NOT_EQUAL, slow);
        // incl %ss:flushes; jmp done
        let flushes = word(offset_of!(Words, flushes));
        self.op_word(both, &[0x36, 0xFF, 0x05], flushes, &[]);
        self.jump_always(Phase::Answered(Answered::All), done);
        near
    }

    /// mov %ss:at,%eax
    const fn load(&mut self, phase: Phase, at: u32) {
        self.op_word(phase, &[0x36, 0xA1], at, &[]);
    }

    /// mov %eax,%ss:at
    const fn store(&mut self, phase: Phase, at: u32) {
        self.op_word(phase, &[0x36, 0xA3], at, &[]);
    }

    /// An instruction.
    const fn op(&mut self, phase: Phase, bytes: &[u8]) {
        self.phases[self.len] = phase;
        self.push(bytes);
    }

    /// One that contains a word.
    const fn op_word(
        &mut self,
        phase: Phase,
        bytes: &[u8],
        word: u32,
        rest: &[u8],
    ) {
        self.op(phase, bytes);
        self.push(&word.to_le_bytes());
        self.push(rest);
    }

    /// A conditional jump back to `target`.
    const fn jump(&mut self, phase: Phase, condition: u8, target: usize) {
        let end = as_word(self.len + 6);
        let way = as_word(target).wrapping_sub(end);
        self.op_word(phase, &[0x0F, 0x80 | condition], way, &[]);
    }

    /// A jump back to `target`.
    const fn jump_always(&mut self, phase: Phase, target: usize) {
        let end = as_word(self.len + 5);
        let way = as_word(target).wrapping_sub(end);
        self.op_word(phase, &[0xE9], way, &[]);
    }

    const fn push(&mut self, bytes: &[u8]) {
        let mut n = 0;
        while n < bytes.len() {
            self.bytes[self.len] = bytes[n];
            self.len += 1;
            n += 1;
        }
    }
}

/// Conditions of jumps.
const BELOW: u8 = 2;
const NOT_BELOW: u8 = 3;
const EQUAL: u8 = 4;
const NOT_EQUAL: u8 = 5;

/// The frame is complete but for eip, and nothing was found to be wrong yet.
const SEEN: Phase = Phase::Switched {
    below: 0,
    flags: Some(4),
};

const fn pushing(pushed: u32, is_ebx_lost: bool, is_eax_lost: bool) -> Phase {
    Phase::Pushing {
        pushed,
        is_ebx_lost,
        is_eax_lost,
    }
}

const fn entered(pushed: bool, counted: bool) -> Phase {
    Phase::Entered { pushed, counted }
}

const fn asking(pushed: u32, is_ecx_lost: bool) -> Phase {
    Phase::Asking {
        pushed,
        is_ecx_lost,
    }
}

const fn leaving(eax: Option<u32>, pushed: u32) -> Phase {
    Phase::Leaving { eax, pushed }
}

/// On the way out, with all words pushed and `more` bytes.
const fn saved(is_later: bool, more: u32) -> Phase {
    if is_later {
        leaving(Some(4 + more), 8 + more)
    } else {
        leaving(Some(more), 4 + more)
    }
}
