//! The records of attacks that the attacker reads.
//!
//! `guests/attacks/src/script.rs` has the same layout and numbers.

/// One step.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Record {
    op: u32,
    flags: u32,
    words: [u64; 15],
}

/// The result is shown.
const SHOW: u32 = 1;

/// It belongs to the case before. Nothing is printed for it.
const MORE: u32 = 2;

/// User code is a thread of its own.
const THREAD: u32 = 4;

/// Registers for a jump in 64-bit mode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Long {
    pub(crate) rip: u64,
    pub(crate) rax: u64,
    /// rdi, rsi, rdx, r10, r8, r9: the arguments of system calls.
    pub(crate) args: [u64; 6],
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbp: u64,
    pub(crate) r12: u64,
    pub(crate) flags: u64,
}

/// The attacker's own small pieces of 64-bit code, for [`Long::rip`].
#[allow(dead_code, reason = "no attack needs all of them")]
pub(crate) mod routine {
    /// `syscall`, from an address that is not allowed.
    pub(crate) const SYSCALL: u64 = 0;
    /// rax = the word at rdi.
    pub(crate) const PEEK: u64 = 1;
    /// The 32-bit word at rdi = esi.
    pub(crate) const POKE: u64 = 2;
    /// rcx bytes from rsi to rdi.
    pub(crate) const COPY: u64 = 3;
    /// rsp = rdi, and a jump to rsi.
    pub(crate) const STACK: u64 = 4;
    /// `int $0x80`.
    pub(crate) const INT80: u64 = 5;
    /// `sysenter`.
    pub(crate) const SYSENTER: u64 = 6;
    /// An endless loop.
    pub(crate) const SPIN: u64 = 7;
    /// Writes a word, and then loops for ever.
    pub(crate) const POKE_AND_SPIN: u64 = 8;
    /// rsi words of eax from rdi on.
    pub(crate) const FILL: u64 = 9;
    /// `int $0x1f`.
    pub(crate) const INT1F: u64 = 10;
    /// Flips the bits of esi in the word at rdi.
    pub(crate) const FLIP: u64 = 11;
    /// rdx random words, bits of r8 in them, into rdi .. rdi + rsi; rbx =
    /// seed.
    pub(crate) const SCRIBBLE: u64 = 12;
}

#[allow(dead_code, reason = "no attack needs all of them")]
impl Record {
    fn new(op: u32, first: &[u64]) -> Self {
        let mut words = [0; 15];
        words[..first.len()].copy_from_slice(first);
        Self {
            op,
            flags: 0,
            words,
        }
    }

    fn with_bytes(op: u32, first: &[u64], bytes: &[u8]) -> Self {
        let mut record = Self::new(op, first);
        let room = &mut record.words[first.len()..];
        assert!(bytes.len() <= size_of_val(room), "{bytes:?} is too long");
        for (word, bytes) in room.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        record
    }

    pub(crate) fn hypercall(eax: u32, [edx, ebx, ecx]: [u32; 3]) -> Self {
        Self::new(1, &[eax, edx, ebx, ecx].map(u64::from))
    }

    /// A jump in 64-bit mode, by the kernel.
    pub(crate) fn long(long: &Long) -> Self {
        Self::new(2, &long.words())
    }

    /// The same by a user program. The Guest may survive it.
    pub(crate) fn long_of_a_user(long: &Long) -> Self {
        Self::new(3, &long.words())
    }

    /// 32-bit code in kernel mode.
    pub(crate) fn code(code: &[u8]) -> Self {
        Self::with_bytes(4, &[code.len() as u64], code)
    }

    /// The same in user mode. It must end in a trap.
    pub(crate) fn code_of_a_user(code: &[u8]) -> Self {
        Self::with_bytes(5, &[code.len() as u64], code)
    }

    /// Bytes into physical memory.
    pub(crate) fn write(at: u32, bytes: &[u8]) -> Self {
        Self::with_bytes(6, &[at.into(), bytes.len() as u64], bytes)
    }

    /// Repeats the last `steps` steps `times` times.
    pub(crate) fn repeat(steps: u64, times: u64) -> Self {
        Self::new(7, &[steps, times])
    }

    pub(crate) fn sleep(nanoseconds: u32) -> Self {
        Self::new(8, &[nanoseconds.into()])
    }

    /// Words into physical memory, each `more` than the one before.
    pub(crate) fn fill(at: u32, count: u32, first: u32, more: u32) -> Self {
        Self::new(9, &[at, count, first, more].map(u64::from))
    }

    /// Waits until the word at a physical address is not `word` any more.
    pub(crate) fn wait_while(at: u32, word: u32) -> Self {
        Self::new(10, &[at, word].map(u64::from))
    }

    /// The result is shown.
    pub(crate) fn shown(mut self) -> Self {
        self.flags |= SHOW;
        self
    }

    /// User code runs as a thread of its own, by its kernel stack.
    pub(crate) fn in_a_thread(mut self) -> Self {
        self.flags |= THREAD;
        self
    }

    /// It is part of the case before.
    pub(crate) fn more(mut self) -> Self {
        self.flags |= MORE;
        self
    }

    /// Whether a case begins with it.
    pub(crate) fn begins(&self) -> bool {
        self.flags & MORE == 0
    }

    /// All steps as one case.
    pub(crate) fn case(steps: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut steps: Vec<Self> = steps.into_iter().collect();
        for step in steps.iter_mut().skip(1) {
            step.flags |= MORE;
        }
        steps
    }

    /// The bytes of a whole script.
    pub(crate) fn all_bytes(script: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of_val(script));
        for record in script {
            bytes.extend(record.op.to_le_bytes());
            bytes.extend(record.flags.to_le_bytes());
            for word in record.words {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes
    }
}

impl Long {
    fn words(&self) -> [u64; 13] {
        let [a, b, c, d, e, f] = self.args;
        [
            self.rip, self.rax, a, b, c, d, e, f, self.rbx, self.rcx, self.rbp,
            self.r12, self.flags,
        ]
    }
}
