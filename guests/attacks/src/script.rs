//! Attacks as data: a script of small steps in the initial ram disk.
//!
//! Each step has a record of fixed size: its kind, flags, and words. Before
//! each step its number is printed, unless the command line has `quiet`. So a
//! reader knows which step ended the Guest. A flag says that the result of a
//! step is printed.

#![expect(unsafe_code, reason = "records are read in place")]

use crate::lab::memory::{self, page};
use crate::lab::run::{User, put_user};
use crate::lab::space::{USER_DATA, USER_PAGE, first};
use crate::lab::{self, call, hypercall};
use crate::long::Long;
use lg_abi::hypercall::Hypercall;
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::KERNEL_DS;
use lg_guest::boot::Boot;
use lg_guest::println;

/// Words of a record, after its two small ones.
const WORDS: usize = 15;

/// One step. The test that writes them has the same.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Record {
    op: u32,
    flags: u32,
    words: [u64; WORDS],
}

/// The result is printed.
const SHOW: u32 = 1;

/// It belongs to the last case. Nothing is printed for it, because printing is
/// a request to the Launcher, too.
const MORE: u32 = 2;

/// User code is a thread of its own, by its kernel stack.
const THREAD: u32 = 4;

/// The address in user mode of the block of registers for a long jump.
const USER_BLOCK: u32 = USER_DATA + 0x1000;

pub(crate) fn run(boot: &'static Boot) {
    let Some(bytes) = boot.initrd_bytes() else {
        panic!("a script is needed");
    };
    let count = bytes.len() / size_of::<Record>();
    // SAFETY: the initial ram disk is on a page boundary, any bytes are valid
    // records, and nothing writes there.
    let records = unsafe {
        core::slice::from_raw_parts(bytes.as_ptr().cast::<Record>(), count)
    };
    let quiet = boot.arguments.has("quiet");
    let player = Player::new();
    let from = crate::number(boot.arguments, "from").unwrap_or(0) as usize;
    let mut cases = 0;
    for (n, record) in records.iter().enumerate().skip(from) {
        if record.flags & MORE == 0 {
            cases += 1;
            if !quiet {
                println!("@{n}");
            }
        }
        if record.op == REPEAT {
            let [before, times, ..] = record.words.map(|word| word as usize);
            for _ in 0..times {
                for record in &records[n - before..n] {
                    player.play(n, record);
                }
            }
            continue;
        }
        player.play(n, record);
    }
    crate::survived(cases);
}

/// A hypercall: eax, edx, ebx, ecx.
const HYPERCALL: u32 = 1;
/// A jump in 64-bit mode: the registers of [`Long`] in their order.
const LONG: u32 = 2;
/// The same by a user program.
const LONG_OF_A_USER: u32 = 3;
/// 32-bit code in kernel mode: its length and its bytes.
const CODE: u32 = 4;
/// The same in user mode.
const CODE_OF_A_USER: u32 = 5;
/// Bytes into physical memory: address, length, and bytes.
const WRITE: u32 = 6;
/// Repeats so many steps before this one, so many times.
const REPEAT: u32 = 7;
/// Sleeps for so many nanoseconds.
const SLEEP: u32 = 8;
/// Words into physical memory: address, number, the first word, and the
/// difference between two.
const FILL: u32 = 9;
/// Waits while the word at a physical address is this one.
const AWAIT: u32 = 10;

struct Player {
    block: memory::Page,
}

impl Player {
    fn new() -> Self {
        let block = page();
        first().set(USER_BLOCK, block | USER_PAGE);
        Self { block }
    }

    fn play(&self, n: usize, record: &Record) {
        let words = &record.words;
        let low = |at: usize| words[at] as u32;
        let show = record.flags & SHOW != 0;
        match record.op {
            HYPERCALL => {
                let result = call(low(0), low(1), low(2), low(3));
                if show {
                    println!("={n} {result:x}");
                }
            }
            LONG => {
                let (rax, rdx) = long(words).call();
                if show {
                    println!("={n} {rax:x} {rdx:x}");
                }
            }
            LONG_OF_A_USER => {
                let long = long(words);
                let vector = long.call_as_user(self.block, USER_BLOCK);
                if show {
                    println!("={n} {vector}");
                }
            }
            CODE | CODE_OF_A_USER => {
                let code = bytes(&words[1..], low(0));
                let seen = if record.op == CODE {
                    lab::kernel(code)
                } else if record.flags & THREAD != 0 {
                    put_user(code);
                    let stack = memory::va(page()) + PAGE_SIZE;
                    let ss = u32::from(KERNEL_DS);
                    hypercall(Hypercall::SetStack, ss, stack, 1);
                    Some(User::new().run())
                } else {
                    Some(lab::user(code))
                };
                match seen {
                    Some(seen) if show => println!("={n} {seen}"),
                    None if show => println!("={n} no trap"),
                    _ => {}
                }
            }
            WRITE => memory::write(low(0), bytes(&words[2..], low(1))),
            SLEEP => {
                hypercall(Hypercall::SetClockevent, low(0), 0, 0);
                hypercall(Hypercall::Halt, 0, 0, 0);
                lg_guest::irq::disable();
            }
            FILL => {
                let mut word = low(2);
                for n in 0..low(1) {
                    memory::poke(low(0) + 4 * n, word);
                    word = word.wrapping_add(low(3));
                }
            }
            AWAIT => {
                while memory::peek(low(0)) == low(1) {}
                if show {
                    println!("={n} {:x}", memory::peek(low(0)));
                }
            }
            op => panic!("no such step: {op}"),
        }
    }
}

fn long(words: &[u64; WORDS]) -> Long {
    let &[
        rip,
        rax,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        rbx,
        rcx,
        rbp,
        r12,
        flags,
        ..,
    ] = words;
    Long {
        rip,
        rax,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        rbx,
        rcx,
        rbp,
        r12,
        flags: flags | 2,
        user: 0,
    }
}

/// The first `len` bytes of some words.
fn bytes(words: &[u64], len: u32) -> &[u8] {
    let len = (len as usize).min(size_of_val(words));
    // SAFETY: the bytes of numbers.
    unsafe { core::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len) }
}
