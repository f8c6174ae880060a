//! Jumps into the Host, the trampolines and other code that is not the Guest's.

use crate::arena::Arena;
use crate::script::{Long, Record};
use crate::sweep::{Sweep, stride};
use crate::target::view;
use lg_host::patch::crossing::CODE_SIZE;
use lg_host::patch::crossing::words::{CODE_ADDRESS, WORDS};
use lg_switcher::layout::TRAMPOLINES;
use lg_switcher::layout::TrampolinePages;

/// How many jumps into the Host's text are tried. Nearly each needs a boot.
const INTO_TEXT: u64 = 300;

/// How many into the trampolines, in each of the ways.
const INTO_TRAMPOLINES: u64 = 60;

/// How many into the code of crossings, in each of the ways.
const INTO_CROSSINGS: u64 = 60;

/// More words than crossings have.
const WORDS_OF_CROSSINGS: u32 = 48;

/// A value in every register: pointers into the Guest and into the Host.
fn registers(n: u64) -> Long {
    let image = view().image.start;
    Long {
        rax: n,
        args: [0x1000_0000_0000, 0xC010_0000, image, !0, n << 32, 4096],
        rbx: 0x3000_0000_0000,
        rcx: 16,
        rbp: 0x3100_0001_0000,
        r12: 0xC000_0000,
        ..Long::default()
    }
}

/// Every byte of the Host's code, by far jump.
#[test]
fn into_the_text_of_the_host() {
    let text = view().text.clone();
    let step = stride(text.end - text.start, INTO_TEXT);
    let script: Vec<Record> = text
        .step_by(step)
        .map(|rip| {
            let n = rip;
            Record::long_of_a_user(&Long {
                rip,
                ..registers(n)
            })
        })
        .collect();
    // Some of these jumps make the Host report a wrong reason.
    let host = Sweep {
        forges: true,
        ..Sweep::inside("jump into the Host's text", &script)
    };
    host.run(&Arena::new("text"));
}

/// The same for user code in a process of its own. There is no Host in it.
#[test]
fn into_the_text_of_a_user_process() {
    let text = view().text.clone();
    let step = stride(text.end - text.start, INTO_TEXT);
    let script: Vec<Record> = text
        .step_by(step)
        .map(|rip| {
            let registers = registers(rip);
            Record::long_of_a_user(&Long { rip, ..registers })
        })
        .collect();
    let user_process = Sweep {
        options: vec!["--isolation=user".into()],
        ..Sweep::inside("jump into a user process's text", &script)
    };
    user_process.run(&Arena::new("user-process-text"));
}

/// 64-bit code in a page of a user program's own.
fn user_code(long: &[u8]) -> Record {
    // ljmp $0x33, to what follows, where user code starts
    let mut code = vec![0xEA, 0x07, 0x80, 0x04, 0x08, 0x33, 0];
    code.extend(long);
    code.extend([0xCD, 0x80]);
    Record::code_of_a_user(&code)
}

/// Programs in processes of their own jump into all code there, and try all
/// memory that must not be there.
#[test]
fn by_an_isolated_program() {
    let mut script = Vec::new();
    // movabs ADDRESS, %rax: the kernel's memory, and what the Host keeps.
    let kept = [
        0xC000_0000,
        0xC010_0000,
        0xE000_0000,
        lg_switcher::layout::MEMORY as u64,
        lg_switcher::layout::MEMORY as u64 + 0x10_0000,
    ];
    for address in kept {
        let mut code = vec![0x48, 0xA1];
        code.extend(address.to_le_bytes());
        script.push(user_code(&code).shown());
    }
    let text = view().text.clone();
    let step = stride(text.end - text.start, 100);
    for rip in text.step_by(step).chain(view().sites.iter().copied()) {
        // movabs $rip, %rax; jmp *%rax
        let mut code = vec![0x48, 0xB8];
        code.extend(rip.to_le_bytes());
        code.extend([0xFF, 0xE0]);
        script.push(user_code(&code));
    }
    for nr in [0_u8, 1, 9, 11, 13, 15, 56, 57, 59, 62, 101, 105] {
        // mov $nr, %eax; syscall
        script.push(user_code(&[0xB8, nr, 0, 0, 0, 0x0F, 0x05]));
    }
    let sweep = Sweep {
        options: vec!["--isolation=user".into()],
        ..Sweep::inside("jumps by an isolated program", &script)
    };
    let ends = sweep.run(&Arena::new("isolated"));
    let reads: Vec<_> = ends.iter().flat_map(|end| end.results()).collect();
    assert_eq!(reads.len(), kept.len());
    for (n, result) in reads {
        // The read itself faulted, not the code after it.
        assert!(result.contains(" eip 8048007 "), "{n}: {result}");
    }
}

/// Every byte of the trampolines: as 64-bit code and as 32-bit code, by kernel
/// and user.
#[test]
fn into_the_trampolines() {
    let size = size_of::<TrampolinePages>() as u64;
    let trampolines = TRAMPOLINES as u64..TRAMPOLINES as u64 + size;
    let mut script = Vec::new();
    for at in trampolines.step_by(stride(size, INTO_TRAMPOLINES)) {
        let long = Long {
            rip: at,
            ..registers(at)
        };
        script.push(Record::long_of_a_user(&long));
        script.push(Record::long(&long));
        let [a, b, c, d, ..] = at.to_le_bytes();
        // A near jump, and a far jump.
        script.push(Record::code(&[0xB8, a, b, c, d, 0xFF, 0xE0]));
        script.push(Record::code(&[0xEA, a, b, c, d, 0x33, 0]));
        script.push(Record::code_of_a_user(&[0xEA, a, b, c, d, 0x33, 0]));
        // Those of near hypercalls are 32-bit code.
        script.push(Record::code_of_a_user(&[0xB8, a, b, c, d, 0xFF, 0xE0]));
    }
    Sweep::inside("jump into the trampolines", &script)
        .run(&Arena::new("trampolines"));
}

/// Every byte of the code of crossings, by kernel and user, also with the flat
/// stack that it expects.
#[test]
fn into_the_crossings() {
    let size = CODE_SIZE as u64;
    let code = u64::from(CODE_ADDRESS)..u64::from(CODE_ADDRESS) + size;
    let mut script = Vec::new();
    for at in code.step_by(stride(size, INTO_CROSSINGS)) {
        let [a, b, c, d, ..] = at.to_le_bytes();
        let near = [0xB8, a, b, c, d, 0xFF, 0xE0];
        script.push(Record::code(&near));
        script.push(Record::code_of_a_user(&near));
        // A far jump; and mov $0x2B,%ecx; mov %ecx,%ss; and the same.
        let far = [0xEA, a, b, c, d, 0x23, 0];
        script.push(Record::code_of_a_user(&far));
        let mut flat = vec![0xB9, 0x2B, 0, 0, 0, 0x8E, 0xD1];
        flat.extend(far);
        script.push(Record::code_of_a_user(&flat));
    }
    for options in [&[][..], &["--no-fast-path=crossing"]] {
        let sweep = Sweep {
            options: options.iter().map(|&o| o.into()).collect(),
            ..Sweep::inside("jump into the crossings", &script)
        };
        sweep.run(&Arena::new("crossings"));
    }
}

/// User code and kernel write each of the words by which crossings and the Host
/// know of each other. Then user code makes a system call.
#[test]
fn the_words_of_crossings() {
    let mut script = Vec::new();
    for word in (WORDS..WORDS + 4 * WORDS_OF_CROSSINGS).step_by(4) {
        for value in [0, 1, 0x2B, 0xC010_0000, u32::MAX] {
            // movl $value,word
            let mut store = vec![0xC7, 0x05];
            store.extend(word.to_le_bytes());
            store.extend(value.to_le_bytes());
            script.push(Record::code(&store));
            // mov $0x2B,%ecx; mov %ecx,%ds; the store; int $0x80
            let mut user = vec![0xB9, 0x2B, 0, 0, 0, 0x8E, 0xD9];
            user.extend(&store);
            user.extend([0xCD, 0x80]);
            script.push(Record::code_of_a_user(&user));
        }
    }
    Sweep::inside("words of crossings", &script).run(&Arena::new("words"));
}
