//! User programs: a few lines of assembly each, in address spaces of their own.
//!
//! They cause page faults, traps and system calls, and have results that can be
//! checked. Each is copied into a page at [`lg_guest::user::CODE`], and starts
//! with a number in ebx and an empty stack that grows on demand. It must work
//! at any address.

#![expect(unsafe_code, reason = "the programs' code, and its end")]

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::cell::RefCell;
use lg_abi::page::{DEFAULT_PAGE_OFFSET, PAGE_SIZE};
use lg_abi::shared::{PAGE_FAULT_VECTOR, SYSCALL_VECTOR};
use lg_guest::executor::yield_now;
use lg_guest::user::{Counts, End, Process, call};
use lg_guest::{task, time};

/// Bytes without effect at the beginning of programs that make many system
/// calls. Each program begins a page, and a Host that patches such calls must
/// be sure that no instruction of the page before covers them.
const LEAD_IN: usize = 32;

global_asm!(
    r#"
.section .rodata.programs, "a"
.globl program_primes, program_stack, program_calls, program_yields
.globl program_sleeper, program_talker, program_trespasser, programs_end

// ebx = n: how many primes there are below it, by trial division.
program_primes:
    xor %esi, %esi          // esi = primes so far
    mov $2, %ecx            // ecx = candidate
1:  cmp %ebx, %ecx
    jae 4f
    mov $2, %edi            // edi = divisor
2:  mov %edi, %eax
    imul %edi, %eax
    cmp %ecx, %eax
    ja 3f                   // none up to the root
    mov %ecx, %eax
    xor %edx, %edx
    div %edi
    inc %edi
    test %edx, %edx
    jnz 2b
    dec %esi                // divisible: no prime
3:  inc %esi
    inc %ecx
    jmp 1b
4:  mov %esi, %ebx
    mov ${exit}, %eax
    int ${syscall}

// ebx = n: writes to n pages of stack, top down, and reads them back: n again.
program_stack:
    mov %esp, %edi
    mov %ebx, %ecx
1:  sub ${page}, %edi
    mov %ecx, (%edi)
    dec %ecx
    jnz 1b
    mov %esp, %edi
    mov %ebx, %ecx
    xor %esi, %esi          // esi = pages with the right contents
2:  sub ${page}, %edi
    cmp %ecx, (%edi)
    jne 3f
    cmpl $0, 4(%edi)        // never written: zero
    jne 3f
    inc %esi
3:  dec %ecx
    jnz 2b
    mov %esi, %ebx
    mov ${exit}, %eax
    int ${syscall}

// ebx = n: n system calls that do nothing.
program_calls:
    .skip {lead_in}, 0x90
    mov %ebx, %esi
1:  mov ${nothing}, %eax
    int ${syscall}
    dec %esi
    jnz 1b
    xor %ebx, %ebx
    mov ${exit}, %eax
    int ${syscall}

// ebx = n: yields n times.
program_yields:
    .skip {lead_in}, 0x90
    mov %ebx, %esi
1:  mov ${yield}, %eax
    int ${syscall}
    dec %esi
    jnz 1b
    xor %ebx, %ebx
    mov ${exit}, %eax
    int ${syscall}

// ebx = n: sleeps that many microseconds.
program_sleeper:
    .skip {lead_in}, 0x90
    mov ${sleep}, %eax
    int ${syscall}
    xor %ebx, %ebx
    mov ${exit}, %eax
    int ${syscall}

// Prints a line. The result is the number of bytes.
program_talker:
    call 1f
    .ascii "a user program says hello\n"
1:  pop %ebx                // address of the text
    mov $26, %ecx
    mov ${write}, %eax
    int ${syscall}
    mov %eax, %ebx
    mov ${exit}, %eax
    int ${syscall}

// Reads memory of the kernel, at ebx. It must not get a result.
program_trespasser:
    mov (%ebx), %ebx
    mov ${exit}, %eax
    int ${syscall}
programs_end:
"#,
    lead_in = const LEAD_IN,
    exit = const call::EXIT,
    write = const call::WRITE,
    yield = const call::YIELD,
    sleep = const call::SLEEP,
    nothing = const call::NOTHING,
    syscall = const SYSCALL_VECTOR,
    page = const PAGE_SIZE,
    options(att_syntax)
);

unsafe extern "C" {
    static program_primes: u8;
    static program_stack: u8;
    static program_calls: u8;
    static program_yields: u8;
    static program_sleeper: u8;
    static program_talker: u8;
    static program_trespasser: u8;
    static programs_end: u8;
}

/// The programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Primes,
    Stack,
    Calls,
    Yields,
    Sleeper,
    Talker,
    Trespasser,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Primes => "primes",
            Self::Stack => "stack",
            Self::Calls => "calls",
            Self::Yields => "yields",
            Self::Sleeper => "sleeper",
            Self::Talker => "talker",
            Self::Trespasser => "trespasser",
        }
    }

    /// Its code, in the order of the assembly.
    fn code(self) -> &'static [u8] {
        let (start, end) = match self {
            Self::Primes => {
                (&raw const program_primes, &raw const program_stack)
            }
            Self::Stack => (&raw const program_stack, &raw const program_calls),
            Self::Calls => {
                (&raw const program_calls, &raw const program_yields)
            }
            Self::Yields => {
                (&raw const program_yields, &raw const program_sleeper)
            }
            Self::Sleeper => {
                (&raw const program_sleeper, &raw const program_talker)
            }
            Self::Talker => {
                (&raw const program_talker, &raw const program_trespasser)
            }
            Self::Trespasser => {
                (&raw const program_trespasser, &raw const programs_end)
            }
        };
        let length = end as usize - start as usize;
        // SAFETY: from one label of the block above to the next one.
        unsafe { core::slice::from_raw_parts(start, length) }
    }
}

/// The result of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Result {
    pub(crate) end: End,
    pub(crate) counts: Counts,
    /// From its start to its end, with the turns of other programs.
    pub(crate) nanoseconds: u64,
}

/// A running program.
#[derive(Clone)]
pub(crate) struct Running(Rc<RefCell<(Option<Result>, u32)>>);

/// Runs a program as part of the calling task. If the task is dropped, the
/// program is, too.
pub(crate) async fn run(program: Program, argument: u32) -> Result {
    let started = time::now();
    let (end, counts) = match Process::new(program.code(), argument) {
        Ok(process) => process.run().await,
        Err(_) => (End::OutOfMemory, Counts::default()),
    };
    Result {
        end,
        counts,
        nanoseconds: time::now() - started,
    }
}

/// Starts a program as a task of its own.
pub(crate) fn start(program: Program, argument: u32) -> Running {
    let running = Running(Rc::new(RefCell::new((None, 0))));
    let report = running.clone();
    let spawned = task::spawn(program.name(), async move {
        report.finish(run(program, argument).await);
    });
    if spawned.is_err() {
        running.finish(Result {
            end: End::OutOfMemory,
            counts: Counts::default(),
            nanoseconds: 0,
        });
    }
    running
}

impl Running {
    fn finish(&self, result: Result) {
        let mut state = self.0.borrow_mut();
        state.0 = Some(result);
        task::wake(state.1);
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Result {
        core::future::poll_fn(|_| {
            let mut state = self.0.borrow_mut();
            state.1 |= task::current();
            match state.0 {
                Some(result) => core::task::Poll::Ready(result),
                None => core::task::Poll::Pending,
            }
        })
        .await
    }
}

/// Runs one of each kind, all at the same time, and reports the results.
pub(crate) async fn demonstrate() -> String {
    let started = time::now();
    let jobs = [
        (Program::Primes, 1_000, End::Exit(168)),
        (Program::Stack, 16, End::Exit(16)),
        (Program::Yields, 8, End::Exit(0)),
        (Program::Calls, 8, End::Exit(0)),
    ];
    let running: Vec<_> = jobs
        .iter()
        .map(|&(program, argument, _)| start(program, argument))
        .collect();
    yield_now().await;

    let mut total = Counts::default();
    let mut wrong = String::new();
    for ((program, _, expected), running) in jobs.into_iter().zip(running) {
        let result = running.end().await;
        total.calls += result.counts.calls;
        total.faults += result.counts.faults;
        if result.end != expected {
            wrong += &format!(", {} WRONG: {:?}", program.name(), result.end);
        }
    }
    let trespasser = start(Program::Trespasser, DEFAULT_PAGE_OFFSET);
    let trespass = match trespasser.end().await.end {
        End::Trap {
            vector, address, ..
        } if vector == PAGE_FAULT_VECTOR && address == DEFAULT_PAGE_OFFSET => {
            "kept out of the kernel"
        }
        End::Exit(_) => "NOT kept out of the kernel",
        _ => "stopped in another way",
    };
    format!(
        "{} programs, {} system calls, {} pages on demand, one {trespass}, \
         {} us{wrong}",
        jobs.len() + 1,
        total.calls,
        total.faults,
        (time::now() - started) / 1_000
    )
}
