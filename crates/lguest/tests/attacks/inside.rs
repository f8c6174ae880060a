//! Inside the Host: its stack, its state, its mailbox, other entries.
//!
//! Code in 64-bit mode can write all of it. The Host may fail in any way. The
//! Launcher, which reads some of it, must not be affected.

use crate::arena::Arena;
use crate::script::{Long, Record, routine};
use crate::support::Scratch;
use crate::sweep::{Sweep, all, stride};
use crate::target::{EMPTY, EMPTY_VA, view};
use lg_switcher::layout::TrampolinePages;
use lg_switcher::layout::{
    MEMORY, RECORD, RECORD_SIZE, STACK, STACK_SIZE, STATE, State, TRACE,
};
use lg_wire::mailbox::Mailbox;
use lg_wire::state::{STATE_SIZE, ViewSetup};
use std::ffi::OsString;
use std::mem::offset_of;

/// Flips the bits of `mask` in the word at `at`.
fn flip(at: u64, mask: u64) -> Record {
    long(routine::FLIP, at, mask)
}

fn long(rip: u64, rdi: u64, rsi: u64) -> Record {
    Record::long(&Long {
        rip,
        args: [rdi, rsi, 0, 0, 0, 0],
        ..Long::default()
    })
}

/// Random words, with bits of `mask` only, into a range whose size is a power
/// of two.
fn scribble(at: u64, size: u64, count: u64, mask: u64, seed: u64) -> Record {
    Record::long(&Long {
        rip: routine::SCRIBBLE,
        args: [at, size, count, 0, mask, 0],
        rbx: (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        ..Long::default()
    })
}

/// Makes the Host do a little of everything.
fn provoke() -> [Record; 5] {
    [
        Record::hypercall(5, [1, 0, 0]),
        Record::code(&[0x0F, 0x0B]),
        Record::code_of_a_user(&[0xA1, 0, 0, 0, 0x40]),
        Record::hypercall(12, [0x1000, 0x2000, 0x101]),
        Record::hypercall(13, [0x1000, EMPTY, 0]),
    ]
}

fn sweep(name: &'static str, script: &[Record]) {
    Sweep::inside(name, script).run(&Arena::new("inside"));
}

/// The same for attackers that write into the mailbox.
fn sweep_forging(name: &'static str, script: &[Record]) {
    let sweep = Sweep {
        forges: true,
        ..Sweep::inside(name, script)
    };
    sweep.run(&Arena::new("forging"));
}

/// Every word of the state, one at a time.
#[test]
fn every_word_of_the_state() {
    // First come single words, each of which has a meaning.
    let scalars = 0..offset_of!(State, vm.gdt) as u64;
    let outside = offset_of!(State, vm.wire.current) as u64;
    let outside = outside..outside + 20;
    let rest = stride(STATE_SIZE as u64 / 4, 120);
    let words = scalars
        .step_by(if all() { 4 } else { 12 })
        .chain(outside.step_by(4))
        .chain((0..STATE_SIZE as u64).step_by(4 * rest));
    let mut script = Vec::new();
    for (n, word) in words.enumerate() {
        let masks = [1, u64::from(u32::MAX), 0x8000_1000];
        let mask = masks[n % masks.len()];
        let flip = flip(STATE as u64 + word, mask);
        let mut steps = vec![flip];
        steps.extend(provoke());
        steps.push(flip);
        script.extend(Record::case(steps));
    }
    sweep_forging("words of the state", &script);
}

/// Random words into state, mailbox, stack, record and trampolines.
#[test]
fn at_random() {
    let mailbox = (STATE + offset_of!(State, vm.wire.mailbox)) as u64;
    let trampolines = (STATE + offset_of!(State, trampolines)) as u64;
    let places = [
        (STATE as u64, (STATE_SIZE as u64).next_power_of_two() / 2),
        (
            mailbox,
            (size_of::<Mailbox>() as u64).next_power_of_two() / 2,
        ),
        (trampolines, size_of::<TrampolinePages>() as u64),
        (STATE as u64 + offset_of!(State, vm.crossing) as u64, 8192),
        (STACK as u64, STACK_SIZE as u64),
        (RECORD as u64, (RECORD_SIZE as u64).next_power_of_two() / 2),
    ];
    let seeds = if all() { 2000 } else { 25 };
    let mut script = Vec::new();
    for seed in 0..seeds {
        for (at, size) in places {
            let count = 1 << (seed % 8);
            let mut steps = vec![scribble(at, size, count, u64::MAX, seed)];
            steps.extend(provoke());
            script.extend(Record::case(steps));
        }
    }
    sweep_forging("random words in the Host", &script);
}

/// The same, without end, while the Launcher reads them.
#[test]
fn while_the_launcher_reads() {
    let mailbox = (STATE + offset_of!(State, vm.wire.mailbox)) as u64;
    let outside = (STATE + offset_of!(State, vm.wire.current)) as u64;
    let seeds = if all() { 500 } else { 20 };
    let mut script = Vec::new();
    for seed in 0..seeds {
        // Turn and request, with their arguments, and the words outside.
        for (at, size, mask) in [
            (mailbox, 8, 7),
            (mailbox, 32, 0x1007),
            (mailbox, 256, 0x100_1007),
            (outside, 16, 0x1F),
        ] {
            script.push(scribble(at, size, 3_000_000, mask, seed));
        }
    }
    sweep_forging("words that the Launcher reads", &script);
}

/// Every request, and numbers of no request, with arguments on boundaries.
#[test]
fn requests_of_its_own() {
    let mailbox = (STATE + offset_of!(State, vm.wire.mailbox)) as u64;
    let at = |offset: usize| mailbox + offset as u64;
    let poke = |at, word: u32| long(routine::POKE, at, word.into());
    let values = [0, 1, 4, 31, 32, 0x100_1000, 0x100_2000, u32::MAX];
    let mut script = Vec::new();
    for request in (0..=10).chain([u32::MAX]) {
        for (n, first) in values.into_iter().enumerate() {
            let arguments = [first, values[(n + 3) % 8], values[(n + 5) % 8]];
            let mut steps =
                vec![poke(at(offset_of!(Mailbox, request)), request)];
            for (n, argument) in arguments.into_iter().enumerate() {
                let at = at(offset_of!(Mailbox, arguments) + 4 * n);
                steps.push(poke(at, argument));
            }
            steps.push(poke(at(offset_of!(Mailbox, text_len)), first));
            steps.push(poke(at(offset_of!(Mailbox, turn)), 1));
            // futex(FUTEX_WAKE), and on without waiting for the answer.
            steps.push(Record::long(&Long {
                rip: view().syscall,
                rax: 202,
                args: [at(offset_of!(Mailbox, turn)), 1, 9, 0, 0, 0],
                ..Long::default()
            }));
            steps.push(Record::sleep(200_000));
            script.extend(Record::case(steps));
        }
    }
    sweep_forging("requests of its own", &script);
}

/// Changes the words that views get from the Launcher, before one more view is
/// started. The new view must check them.
#[test]
fn forged_words_for_a_new_view() {
    /// The attacker's page directory, and where there will be another.
    const DIRECTORY: u32 = 0x2_0000;
    let memory = |at: u32| MEMORY as u64 + u64::from(at);
    let setup = (STATE + offset_of!(State, vm.wire.setup)) as u64;
    let words = size_of::<ViewSetup>() as u64 / 4;
    let lie = |word| long(routine::POKE, setup + 4 * word, u32::MAX.into());
    let mut steps: Vec<Record> = (0..words).map(lie).collect();
    steps.extend([
        Record::long(&Long {
            rip: routine::COPY,
            args: [memory(EMPTY), memory(DIRECTORY), 0, 0, 0, 0],
            rcx: 4096,
            ..Long::default()
        }),
        Record::hypercall(4, [EMPTY, 0, 0]),
        Record::code_of_a_user(&[0xA1, 0, 0, 0, 0x40]),
        Record::hypercall(4, [DIRECTORY, 0, 0]),
    ]);
    let script = Record::case(steps);
    let arena = Arena::new("newborn");
    let ends = Sweep::inside(
        "forged words for a new \
                              view",
        &script,
    )
    .run(&arena);
    assert_eq!(ends[0].survived(), Some(1), "{ends:?}");
}

/// Anything in the ring of the trace, its head among it, and in the words that
/// say what is traced. The Launcher writes a file of it at the end.
#[test]
fn a_forged_trace() {
    let traced = (STATE + offset_of!(State, vm.wire.traced)) as u64;
    let mut script = Vec::new();
    let masks = [u64::MAX, 0xFF, 0xFFFF_0000];
    for (seed, mask) in (0..12).zip(masks.into_iter().cycle()) {
        let mut steps = vec![
            scribble(traced, 8, 1, mask, seed),
            scribble(TRACE as u64, 0x40, 5, mask, seed),
            scribble(TRACE as u64 + 0x1000, 0x2000, 900, mask, seed + 99),
        ];
        steps.extend(provoke());
        script.extend(Record::case(steps));
    }
    let scratch = Scratch::new("forged-trace");
    let file = scratch.path("trace");
    let sweep = Sweep {
        options: ["--trace-records=256", "--trace"]
            .map(OsString::from)
            .into_iter()
            .chain([file.clone().into()])
            .collect(),
        ..Sweep::inside("a forged trace", &script)
    };
    sweep.run(&Arena::new("forging-traces"));
    let bytes = std::fs::read(file).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.len() < 400, "{}", events.len());
}

/// A stack that is changed or taken away while the Host uses it.
#[test]
fn stacks() {
    let places = [
        0,
        8,
        0x1000,
        0xFFFE_0000,
        0xFFFF_FFFF,
        1 << 47,
        u64::MAX,
        STATE as u64,
        RECORD as u64,
        view().image.start,
        view().image.end - 8,
        STACK as u64,
        STACK as u64 + 64,
        STACK as u64 + 0xA000,
        STACK as u64 + 0xA020,
        (STACK + STACK_SIZE) as u64 - 8,
        (STACK + STACK_SIZE) as u64,
    ];
    let mut script = Vec::new();
    for place in places {
        for next in [EMPTY_VA, view().syscall, view().text.start, 0xFFFE_0000] {
            let jump = Long {
                rip: routine::STACK,
                args: [place, next, 0, 0, 0, 0],
                ..Long::default()
            };
            script.push(Record::long_of_a_user(&jump));
            script.push(Record::long(&jump));
        }
        // And 32-bit code with the same below 4 GiB.
        let [a, b, c, d, ..] = place.to_le_bytes();
        for entry in [[0xCD, 0x1F], [0xCD, 0x80], [0x0F, 0x0B]] {
            let mut code = vec![0xBC, a, b, c, d];
            code.extend(entry);
            script.push(Record::code(&code));
            script.push(Record::code_of_a_user(&code));
        }
    }
    sweep("stacks", &script);
}

/// Other entries of the machine's kernel, and the addresses at which it maps
/// something into each process.
#[test]
fn other_entries() {
    let mut script = Vec::new();
    for code in [
        &[0x0F, 0x34][..],                     // sysenter
        &[0x0F, 0x05],                         // syscall
        &[0x0F, 0x35],                         // sysexit
        &[0x0F, 0x07],                         // sysret
        &[0x0F, 0x01, 0xC1],                   // vmcall
        &[0x0F, 0x01, 0xD9],                   // vmmcall
        &[0x0F, 0x01, 0xF8],                   // swapgs
        &[0x0F, 0x30],                         // wrmsr
        &[0x0F, 0x32],                         // rdmsr
        &[0x0F, 0x22, 0xD8],                   // mov %eax, %cr3
        &[0x0F, 0x20, 0xC0],                   // mov %cr0, %eax
        &[0x0F, 0x01, 0x18],                   // lidt
        &[0x0F, 0x00, 0xD0],                   // lldt
        &[0x0F, 0x00, 0xD8],                   // ltr
        &[0xF1],                               // icebp
        &[0xF4],                               // hlt
        &[0xFA],                               // cli
        &[0xCD, 0x03],                         // int $3
        &[0xCD, 0x20],                         // int $0x20
        &[0xCD, 0xFF],                         // int $0xff
        &[0x9A, 0, 0, 0, 0, 0x07, 0],          // a call trampoline in the LDT
        &[0x0F, 0xAA],                         // rsm
        &[0xF0, 0x0F, 0xC7, 0xC8],             // lock cmpxchg8b %eax
        &[0x0F, 0xC7, 0xF8],                   // rdseed
        &[0xF3, 0x0F, 0x1E, 0xFB],             // endbr32
        &[0x0F, 0x01, 0xEF],                   // wrpkru
        &[0x62, 0xF1, 0x7C, 0x48, 0x28, 0xC1], // AVX-512
    ] {
        let mut user = code.to_vec();
        script.push(Record::code(code));
        user.extend([0xCD, 0x80]);
        script.push(Record::code_of_a_user(&user));
    }
    for nr in [0, 1, 2] {
        // The vsyscall page: time, gettimeofday, getcpu.
        let page = 0xFFFF_FFFF_FF60_0000 + nr * 0x400;
        for rip in [page, page + 1, page + 0x300] {
            script.push(Record::long_of_a_user(&Long {
                rip,
                rax: 96,
                ..Long::default()
            }));
        }
    }
    for rip in [routine::SYSENTER, routine::INT80, routine::INT1F] {
        for nr in [1, 20, 39, 252] {
            script.push(Record::long_of_a_user(&Long {
                rip,
                rax: nr,
                ..Long::default()
            }));
        }
    }
    sweep("other entries", &script);
}
