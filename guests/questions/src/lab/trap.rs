//! The Host's work at a trap, recorded word by word.
//!
//! Every vector has a gate to a stub here. The stack pointer shows how many
//! words were pushed.

#![expect(unsafe_code, reason = "trap stubs")]

use super::calls::hypercall;
use core::arch::global_asm;
use core::fmt;
use lg_abi::hypercall::Hypercall;
use lg_abi::segment::KERNEL_CS;
use lg_abi::shared::{
    FIRST_EXTERNAL_VECTOR, LGUEST_IRQS, PAGE_FAULT_VECTOR, SYSCALL_VECTOR,
};
use lg_guest::one_cpu::OneCpu;
use lg_guest::shared;

/// In the high word of a gate: an interrupt gate for the kernel's `int` only,
/// one for all levels, and the same as trap gates.
pub(crate) const INTERRUPT_GATE: u32 = 0xAE00;
pub(crate) const USER_INTERRUPT_GATE: u32 = 0xEE00;
pub(crate) const TRAP_GATE: u32 = 0xAF00;
pub(crate) const USER_TRAP_GATE: u32 = 0xEF00;

/// Bytes from one stub to the next.
const STUB_SIZE: u32 = 16;

/// Bytes of the stack for traps out of user mode.
const STACK_SIZE: u32 = 8192;

global_asm!(
    r#"
.text
.globl lab_stubs
.balign {stub_size}
lab_stubs:
.set lab_vector, 0
.rept 256
    .balign {stub_size}
    push $lab_vector
    jmp lab_trap
    .set lab_vector, lab_vector + 1
.endr

// esp: vector, and the words that the Host has pushed
lab_trap:
    pushf
    cld
    pusha
    push %ds
    push %es
    push %ss
    pop %ds
    push %ss
    pop %es
    fxsave lab_vectors
    fninit
    ldmxcsr lab_mxcsr
    mov %esp, %ebx
    and $-16, %esp
    sub $16, %esp
    mov %ebx, (%esp)
    call lab_trapped
    mov %ebx, %esp
    test %eax, %eax
    jz lab_given_up
    mov %eax, lab_skip
    fxrstor lab_vectors
    pop %es
    pop %ds
    popa
    lea 4(%esp), %esp
    add %ss:lab_skip, %esp
    // eip, cs, eflags, and for user mode esp, ss
    push %eax
    mov 12(%esp), %eax
    and $0x200, %eax
    jmp lguest_noirq_start

.section .rodata
.balign 4
lab_mxcsr:
    .long 0x1F80

.section .bss.lab, "aw", @nobits
.balign 4096
lab_stack:
    .skip {stack_size}
lab_stack_top:
.balign 16
lab_vectors:
    .skip 512
lab_start_vectors:
    .skip 512
lab_skip:
    .skip 4
lab_escape:
    .skip 4
.globl lab_escape, lab_stack_top, lab_vectors, lab_start_vectors
"#,
    stub_size = const STUB_SIZE,
    stack_size = const STACK_SIZE,
    options(att_syntax)
);

unsafe extern "C" {
    static lab_stubs: u8;
    static lab_stack_top: u8;
    static lab_escape: u32;
    static lab_vectors: [u8; 512];
}

/// The registers as the stub stores them.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Trapped {
    pub(crate) es: u32,
    pub(crate) ds: u32,
    pub(crate) edi: u32,
    pub(crate) esi: u32,
    pub(crate) ebp: u32,
    unused: u32,
    pub(crate) ebx: u32,
    pub(crate) edx: u32,
    pub(crate) ecx: u32,
    pub(crate) eax: u32,
    /// The flags with which the handler began.
    pub(crate) flags: u32,
    pub(crate) vector: u32,
    /// The words that the Host pushed, and those above them.
    pub(crate) pushed: [u32; 10],
}

/// A recorded trap.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    /// The registers at the trap.
    pub(crate) trapped: Trapped,
    /// How many words were pushed.
    words: u32,
    /// `irq_enabled` when the handler began.
    irq_enabled: bool,
    /// `cr2` then.
    pub(crate) cr2: u32,
}

/// What to do after a trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Return to the function that started the code.
    GiveUp,
    /// Continue the code.
    GoOn,
}

/// Decides what to do. It may change the registers before.
pub(crate) type Handler = fn(&mut Seen) -> Next;

/// How many traps are kept.
const LOG: usize = 128;

static SEEN: OneCpu<([Seen; LOG], usize)> = OneCpu::new((
    [Seen {
        trapped: Trapped {
            es: 0,
            ds: 0,
            edi: 0,
            esi: 0,
            ebp: 0,
            unused: 0,
            ebx: 0,
            edx: 0,
            ecx: 0,
            eax: 0,
            flags: 0,
            vector: 0,
            pushed: [0; 10],
        },
        words: 0,
        irq_enabled: false,
        cr2: 0,
    }; LOG],
    0,
));

/// The number of vectors.
const VECTORS: usize = 256;

static COUNTS: OneCpu<[usize; VECTORS]> = OneCpu::new([0; VECTORS]);

static HANDLER: OneCpu<Handler> = OneCpu::new(standard);

/// Interrupts are recorded. All other traps end the code.
fn standard(seen: &mut Seen) -> Next {
    let interrupts = FIRST_EXTERNAL_VECTOR..FIRST_EXTERNAL_VECTOR + LGUEST_IRQS;
    if interrupts.contains(&seen.trapped.vector) {
        Next::GoOn
    } else {
        Next::GiveUp
    }
}

/// Makes `handler` decide from now on.
pub(crate) fn handle(handler: Handler) {
    HANDLER.with(|current| *current = handler);
}

/// Makes gates for all vectors that may have one.
pub(super) fn open() {
    for vector in 0..FIRST_EXTERNAL_VECTOR + LGUEST_IRQS {
        set_gate(vector, INTERRUPT_GATE);
    }
    set_gate(SYSCALL_VECTOR, USER_INTERRUPT_GATE);
}

/// Loads the gate of `vector`: our stub, and these flags.
pub(crate) fn set_gate(vector: u32, flags: u32) {
    let stub = (&raw const lab_stubs as usize as u32) + vector * STUB_SIZE;
    let low = (u32::from(KERNEL_CS) << 16) | stub & 0xFFFF;
    let high = stub & 0xFFFF_0000 | flags;
    hypercall(Hypercall::LoadIdtEntry, vector, low, high);
}

/// Removes the gate of `vector`.
pub(crate) fn remove_gate(vector: u32) {
    hypercall(Hypercall::LoadIdtEntry, vector, 0, 0);
}

/// The top of the stack for traps out of user mode.
pub(super) fn stack() -> u32 {
    &raw const lab_stack_top as usize as u32
}

/// How many traps there have been.
pub(crate) fn count() -> usize {
    SEEN.with(|(_, count)| *count)
}

/// The last trap, if there were more than `before`.
pub(super) fn after(before: usize) -> Option<Seen> {
    SEEN.with(|(log, count)| (*count > before).then(|| log[(*count - 1) % LOG]))
}

/// How often `vector` was among them.
pub(crate) fn count_of(vector: u32) -> usize {
    COUNTS.with(|counts| counts[vector as usize % VECTORS])
}

/// Trap number `n`, counted from 0. It must be one of the last.
pub(crate) fn nth(n: usize) -> Seen {
    SEEN.with(|(log, _)| log[n % LOG])
}

/// The x87 and SSE registers at the last trap, as `fxsave` stores them.
pub(crate) fn vectors() -> &'static [u8; 512] {
    // SAFETY: only the stub writes it, and it does not run now.
    unsafe { &lab_vectors }
}

/// Called by the stub. Returns how many bytes are below the frame for `iret`,
/// from the vector on; 0 ends the code.
#[unsafe(export_name = "lab_trapped")]
extern "C" fn trapped(trapped: &mut Trapped) -> u32 {
    let pushed = &raw const trapped.pushed as usize as u32;
    let stack = stack();
    let from_user = (stack - STACK_SIZE..stack).contains(&pushed);
    let base = if from_user {
        stack
    } else {
        // SAFETY: written by `lab_run_*` before any code of theirs runs.
        let escape = unsafe { (&raw const lab_escape).read() };
        // The return address is there.
        escape - 4
    };
    let mut seen = Seen {
        trapped: *trapped,
        words: base.wrapping_sub(pushed) / 4,
        irq_enabled: shared::irq_enabled(),
        cr2: shared::cr2(),
    };
    SEEN.with(|(log, count)| {
        log[*count % LOG] = seen;
        *count += 1;
    });
    COUNTS.with(|counts| counts[trapped.vector as usize % VECTORS] += 1);
    let handler = HANDLER.with(|handler| *handler);
    match handler(&mut seen) {
        Next::GiveUp => 0,
        Next::GoOn => {
            *trapped = seen.trapped;
            if has_error_code(trapped.vector) { 8 } else { 4 }
        }
    }
}

const fn has_error_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

impl Seen {
    /// The words that `iret` would take: eip, cs, eflags, and perhaps esp and
    /// ss.
    fn frame(&self) -> usize {
        usize::from(has_error_code(self.trapped.vector))
    }

    /// How many words were pushed.
    pub(crate) fn words(&self) -> u32 {
        self.words
    }

    /// The address of the trap.
    pub(crate) fn eip(&self) -> u32 {
        self.trapped.pushed[self.frame()]
    }

    /// eip, cs, eflags, esp and ss of a trap that came out of user mode.
    pub(crate) fn user_frame(&self) -> [u32; 5] {
        let frame = self.frame();
        let mut words = [0; 5];
        words.copy_from_slice(&self.trapped.pushed[frame..frame + 5]);
        words
    }

    /// The flags that were pushed.
    pub(crate) fn eflags(&self) -> u32 {
        self.trapped.pushed[self.frame() + 2]
    }

    /// Changes the address at which the code continues.
    pub(crate) fn set_eip(&mut self, eip: u32) {
        let frame = self.frame();
        self.trapped.pushed[frame] = eip;
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trapped { vector, pushed, .. } = self.trapped;
        write!(f, "trap {vector}:")?;
        let names: &[&str] = match self.words {
            3 => &["eip", "cs", "eflags"],
            4 => &["error", "eip", "cs", "eflags"],
            5 => &["eip", "cs", "eflags", "esp", "ss"],
            6 => &["error", "eip", "cs", "eflags", "esp", "ss"],
            10 => &[
                "error", "eip", "cs", "eflags", "esp", "ss", "es", "ds", "fs",
                "gs",
            ],
            words => return write!(f, " {words} words on the stack"),
        };
        for (name, word) in names.iter().zip(pushed) {
            write!(f, " {name} {word:x}")?;
        }
        if vector == PAGE_FAULT_VECTOR {
            write!(f, ", cr2 {:x}", self.cr2)?;
        }
        if self.irq_enabled {
            f.write_str("; interrupts on")?;
        }
        Ok(())
    }
}
