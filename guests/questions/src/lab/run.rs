//! Short pieces of code, run in kernel mode or user mode until they trap.
//!
//! Each starts with known registers and flags, at a fixed address. So the words
//! that a trap pushes can be in the transcript.

#![expect(unsafe_code, reason = "runs code that traps")]

use super::memory;
use super::space::{self, KERNEL_CODE, USER_CODE, USER_STACK};
use super::trap::{self, Seen};
use core::arch::global_asm;
use lg_abi::hypercall::Hypercall;
use lg_abi::segment::{KERNEL_DS, USER_CS, USER_DS};
use lg_abi::shared::IF;
use lg_guest::trap::VectorState;

/// The machine code of some lines of assembly, as bytes. They run at another
/// address than they were linked for.
macro_rules! code {
    ($($line:literal),+ $(,)?) => {{
        let (start, end): (u32, u32);
        #[allow(unsafe_code, reason = "the code is data here")]
        // SAFETY: takes two addresses.
        unsafe {
            core::arch::asm!(
                ".pushsection .rodata.code, \"a\"",
                "771:",
                $($line,)+
                "772:",
                ".popsection",
                "mov $771b, {start}",
                "mov $772b, {end}",
                start = out(reg) start,
                end = out(reg) end,
                options(att_syntax, nomem, nostack, pure),
            );
        };
        #[allow(unsafe_code, reason = "the code is data here")]
        // SAFETY: the bytes between the two labels, in read-only data.
        let code = unsafe {
            core::slice::from_raw_parts(
                start as usize as *const u8,
                (end - start) as usize,
            )
        };
        code
    }};
}
pub(crate) use code;

global_asm!(
    r#"
.text
// fn(code): calls it with known flags and registers. Returns when the code
// returns, or when a trap ends it.
.globl lab_run_kernel, lab_run_user, lab_given_up
lab_run_kernel:
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov %esp, lab_escape
    mov 20(%esp), %ecx
    xor %eax, %eax
    xor %ebx, %ebx
    xor %edx, %edx
    xor %esi, %esi
    xor %edi, %edi
    xor %ebp, %ebp
    push $0x202
    popf
    call *%ecx
    jmp lab_run_end
lab_given_up:
    mov lab_escape, %esp
lab_run_end:
    push $0x202
    popf
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret

// fn(frame): its first five words are for iret. Then come eax, ebx, ecx, edx,
// esi, edi, ebp, and four segments, which iret uses if the flags have VM.
// Returns when a trap ends it.
lab_run_user:
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov %esp, lab_escape
    mov 20(%esp), %eax
    push 60(%eax)
    push 56(%eax)
    push 52(%eax)
    push 48(%eax)
    push 16(%eax)
    push 12(%eax)
    push 8(%eax)
    push 4(%eax)
    push (%eax)
    mov 24(%eax), %ebx
    mov 28(%eax), %ecx
    mov 36(%eax), %esi
    mov 40(%eax), %edi
    mov 44(%eax), %ebp
    fxrstor lab_start_vectors
    push 20(%eax)
    mov 32(%eax), %edx
    mov ${user_ds}, %eax
    mov %eax, %ds
    mov %eax, %es
    mov 12(%esp), %eax // flags: eax, eip, cs come before
    and ${interrupts}, %eax
    jmp lguest_noirq_start // stores irq_enabled, pops eax, iret
"#,
    user_ds = const USER_DS,
    interrupts = const IF,
    options(att_syntax)
);

/// Makes user mode start with these x87 and SSE registers, as `fxsave` stores
/// them.
pub(crate) fn start_with(vectors: &[u8; 512]) {
    // SAFETY: read by `lab_run_user` only, which does not run now.
    unsafe { lab_start_vectors = *vectors };
}

/// The registers as they are before their first use.
pub(super) fn open() {
    start_with(&VectorState::new().0);
}

unsafe extern "C" {
    static mut lab_start_vectors: [u8; 512];
    fn lab_run_kernel(code: u32);
    fn lab_run_user(start: *const User);
}

/// The registers that user mode starts with.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct User {
    pub(crate) eip: u32,
    pub(crate) cs: u32,
    pub(crate) eflags: u32,
    pub(crate) esp: u32,
    pub(crate) ss: u32,
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
    pub(crate) esi: u32,
    pub(crate) edi: u32,
    pub(crate) ebp: u32,
    /// es, ds, fs and gs in virtual-8086 mode.
    pub(crate) vm86: [u32; 4],
}

impl User {
    /// A fresh start, interrupts off.
    pub(crate) const fn new() -> Self {
        Self {
            eip: USER_CODE,
            cs: USER_CS as u32,
            eflags: 2,
            esp: USER_STACK,
            ss: USER_DS as u32,
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
            esi: 0,
            edi: 0,
            ebp: 0,
            vm86: [0; 4],
        }
    }

    /// The registers that user mode had at the trap `seen`.
    pub(crate) fn after(seen: &Seen) -> Self {
        let r = &seen.trapped;
        let [eip, cs, eflags, esp, ss] = seen.user_frame();
        Self {
            eip,
            cs,
            eflags,
            esp,
            ss,
            eax: r.eax,
            ebx: r.ebx,
            ecx: r.ecx,
            edx: r.edx,
            esi: r.esi,
            edi: r.edi,
            ebp: r.ebp,
            vm86: [0; 4],
        }
    }

    /// Runs until a trap ends it. Returns the last trap.
    pub(crate) fn run(&self) -> Seen {
        let seen = trap::count();
        // SAFETY: returns by `lab_given_up`, with all registers that a function
        // must keep.
        unsafe { lab_run_user(self) };
        trap::after(seen).expect("user mode is left by a trap")
    }
}

/// Runs `code` in kernel mode. Returns the trap that ended it, if there was
/// one.
pub(crate) fn kernel(code: &[u8]) -> Option<Seen> {
    memory::write(space::kernel_code(), code);
    memory::write(space::kernel_code() + code.len() as u32, &[0xC3]);
    let seen = trap::count();
    // SAFETY: the code ends with a `ret`, or by a trap.
    unsafe { lab_run_kernel(KERNEL_CODE) };
    trap::after(seen)
}

/// Runs `code` in user mode until it traps.
pub(crate) fn user(code: &[u8]) -> Seen {
    put_user(code);
    User::new().run()
}

/// Writes `code` to the address at which user mode starts.
pub(crate) fn put_user(code: &[u8]) {
    memory::write(space::user_code(), code);
    let stack = trap::stack();
    super::hypercall(Hypercall::SetStack, KERNEL_DS.into(), stack, 2);
}

/// Runs `code` at the address that it was written to, before the lab is open:
/// at a fixed address in the linear mapping.
pub(crate) fn early(code: &[u8]) {
    early_until_trap(code);
}

/// The same, if there are gates already. Returns the trap that ended it.
pub(crate) fn early_until_trap(code: &[u8]) -> Option<Seen> {
    memory::write(memory::FIRST, code);
    memory::write(memory::FIRST + code.len() as u32, &[0xC3]);
    let seen = trap::count();
    // SAFETY: as in `kernel`.
    unsafe { lab_run_kernel(memory::va(memory::FIRST)) };
    trap::after(seen)
}
