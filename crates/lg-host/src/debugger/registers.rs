//! The registers of the Guest that stands.
//!
//! cs and ss are those that the Guest believes in, and the interrupt flag is
//! the one that a trap would push. The other selectors are what the Guest's
//! code reads from the registers.

use crate::address::as_word;
use crate::cpu::registers::{EFLAGS_FIXED, EFLAGS_USABLE};
use crate::host::Host;
use lg_abi::shared::IF;
use lg_wire::debug::{Outcome, WORDS, WRITABLE, Word, Words};
use lg_wire::mailbox::MAX_TEXT;

/// Bytes of half of the floating-point registers.
const HALF: usize = 256;

const _: () = assert!(HALF <= MAX_TEXT && WORDS * 4 <= MAX_TEXT);

impl Host<'_> {
    pub(super) fn show_registers(&self) -> Outcome {
        let mut text = [0; WORDS * 4];
        for (to, word) in text.chunks_exact_mut(4).zip(self.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.vm.wire.mailbox.write_text(&text);
        Outcome::Done
    }

    /// The Guest is about to end: keeps its registers for an explanation, and
    /// the address that was the reason, if it was one.
    pub fn leave_last_words(&self, address: Option<u32>) {
        self.vm.wire.last.note_end(&self.words(), address);
    }

    fn words(&self) -> Words {
        let (vm, regs) = (self.vm, &self.vm.regs);
        let flags = self.interrupted().map_or(regs.eflags.get(), |[.., f]| f);
        let mut words = [0; WORDS];
        for (word, value) in [
            (Word::Eax, regs.eax.get()),
            (Word::Ecx, regs.ecx.get()),
            (Word::Edx, regs.edx.get()),
            (Word::Ebx, regs.ebx.get()),
            (Word::Esp, regs.esp.get()),
            (Word::Ebp, regs.ebp.get()),
            (Word::Esi, regs.esi.get()),
            (Word::Edi, regs.edi.get()),
            (Word::Eip, regs.eip.get()),
            (Word::Eflags, if vm.is_initialised() { flags } else { 2 }),
            (Word::Cs, vm.cs.get()),
            (Word::Ss, vm.ss.get()),
            (Word::Ds, regs.ds.get()),
            (Word::Es, regs.es.get()),
            (Word::Fs, regs.fs.get()),
            (Word::Gs, regs.gs.get()),
            (Word::FsBase, regs.fs_base.get()),
            (Word::GsBase, regs.gs_base.get()),
            (Word::Cr3, vm.cr3.get()),
            (Word::User, vm.user.get()),
            (Word::Halted, vm.halted.get()),
        ] {
            words[word as usize] = value;
        }
        words
    }

    /// Takes the general registers. Of the flags, those count that a program
    /// can set, and in the kernel the Guest's interrupt flag. A program has it
    /// always: without it, the kernel would never interrupt it again.
    pub(super) fn set_registers(&mut self) -> Outcome {
        let (text, length) = self.vm.wire.mailbox.read_text();
        if length < WRITABLE * 4 {
            return Outcome::Refused;
        }
        let (vm, regs) = (self.vm, &self.vm.regs);
        let word = |word: Word| {
            let at = word as usize * 4;
            let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| text[at + n]);
            u32::from_le_bytes([a, b, c, d])
        };
        for (register, value) in [
            (&regs.eax, Word::Eax),
            (&regs.ecx, Word::Ecx),
            (&regs.edx, Word::Edx),
            (&regs.ebx, Word::Ebx),
            (&regs.esp, Word::Esp),
            (&regs.ebp, Word::Ebp),
            (&regs.esi, Word::Esi),
            (&regs.edi, Word::Edi),
        ] {
            register.set(word(value));
        }
        if regs.eip.replace(word(Word::Eip)) != word(Word::Eip) {
            // It does not wait any more, but works elsewhere.
            vm.halted.set(0);
        }
        let flags = word(Word::Eflags);
        regs.eflags.set(flags & EFLAGS_USABLE | EFLAGS_FIXED);
        let enabled = self.takes_interrupts() == Ok(true);
        let is_kernel = vm.is_initialised() && vm.user.get() == 0;
        if is_kernel && enabled != (flags & IF != 0) {
            // The shared page was just read, so it is there.
            let _ = self.set_irq_enabled(flags & IF);
        }
        Outcome::Done
    }

    pub(super) fn show_fpu(&self, half: u32) -> Outcome {
        let fpu = self.vm.fpu.0.get();
        let from = half.min(1) as usize * HALF;
        self.vm.wire.mailbox.write_text(&fpu[from..from + HALF]);
        Outcome::Done
    }

    /// Takes half of the floating-point registers. The processor refuses bits
    /// of MXCSR that it does not have; FXSAVE has said which there are.
    pub(super) fn set_fpu(&self, half: u32) -> Outcome {
        /// Where MXCSR and its mask are, and the mask where it says nothing.
        const MXCSR: usize = 24;
        const MASK: usize = 28;
        const USUAL_MASK: u32 = 0xFFBF;
        let (text, length) = self.vm.wire.mailbox.read_text();
        if length < HALF {
            return Outcome::Refused;
        }
        let mut fpu = self.vm.fpu.0.get();
        let read = |bytes: &[u8; 512], at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| bytes[at + n]);
            u32::from_le_bytes([a, b, c, d])
        };
        let mask = match read(&fpu, MASK) {
            0 => USUAL_MASK,
            mask => mask & USUAL_MASK,
        };
        let from = half.min(1) as usize * HALF;
        fpu[from..from + HALF].copy_from_slice(&text[..HALF]);
        let mxcsr = (read(&fpu, MXCSR) & mask).to_le_bytes();
        fpu[MXCSR..MXCSR + as_word(mxcsr.len()) as usize]
            .copy_from_slice(&mxcsr);
        self.vm.fpu.0.set(fpu);
        Outcome::Done
    }
}
