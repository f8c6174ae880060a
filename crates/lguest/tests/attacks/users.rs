//! Attacks by user code on its own kernel, with the wall and without.
//!
//! Each piece of code goes for a word in the kernel's memory, puts it into
//! esp, and makes a system call; so what it got stands in what the kernel saw.
//! Under `--isolation=user` nobody may get it. Under `--isolation=guest`
//! everybody does: that is the difference, and it shows that the attacks are
//! some.

use crate::arena::{Arena, Boot, Stop, count};
use crate::script::{Long, Record, routine};
use crate::target::view;
use lg_abi::hypercall::Hypercall;
use lg_host::state::{MAX_VIEWS, ViewSlot, Vm};
use lg_switcher::layout::{CELL, COMMANDS, GATES, MEMORY, STATE, State};
use std::mem::offset_of;

/// Physical memory that nobody uses, and what the kernel puts there.
const PLACE: u32 = 0x1_F000;
const SECRET: u32 = 0x05EC_2E70;

/// Where user code starts.
const CODE: u32 = 0x0804_8000;

/// mov %eax,%esp; int $0x80: tells what it got.
const TELL: [u8; 4] = [0x89, 0xC4, 0xCD, 0x80];

/// 32-bit code that goes on as 64-bit code. The stack is there by then, for
/// 64-bit code gets no page on demand.
fn long(code: &[u8]) -> Vec<u8> {
    let mut all = vec![0x50, 0x58, 0xEA]; // push %eax; pop %eax; ljmp
    all.extend((CODE + 9).to_le_bytes());
    all.extend([0x33, 0]);
    all.extend(code);
    all
}

/// The word at a 64-bit address.
fn peek(at: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xBF]; // movabs $at,%rdi
    code.extend(at.to_le_bytes());
    code.extend([0x8B, 0x07]); // mov (%rdi),%eax
    code.extend(TELL);
    long(&code)
}

/// A word written there; tells 0x600D if it could.
fn poke(at: usize) -> Vec<u8> {
    let mut code = vec![0x48, 0xBF];
    code.extend((at as u64).to_le_bytes());
    code.extend([0x89, 0x07]); // mov %eax,(%rdi)
    code.extend([0xB8, 0x0D, 0x60, 0, 0]); // mov $0x600d,%eax
    code.extend(TELL);
    long(&code)
}

/// mmap, from the one place where it is allowed, of the page with the secret.
fn map() -> Vec<u8> {
    const AT: u32 = 0x1000_0000;
    let mut code = Vec::new();
    for (opcode, value) in [
        (&[0xBF][..], AT),
        (&[0xBE], 0x1000),
        (&[0xBA], 7),
        (&[0x41, 0xBA], 0x11),
        (&[0x41, 0xB8], 3),
        (&[0x41, 0xB9], PLACE),
        (&[0xB8], 9),
    ] {
        code.extend(opcode); // mov $value,%register
        code.extend(value.to_le_bytes());
    }
    code.extend([0x48, 0xBB]); // movabs $syscall,%rbx; call *%rbx
    code.extend(view().syscall.to_le_bytes());
    code.extend([0xFF, 0xD3, 0xBF]); // mov $AT,%edi; mov (%rdi),%eax
    code.extend(AT.to_le_bytes());
    code.extend([0x8B, 0x07]);
    code.extend(TELL);
    long(&code)
}

/// A flat data segment, which Linux has for everybody.
fn flat() -> Vec<u8> {
    // mov $0x2b,%eax; mov %eax,%ds; mov PLACE,%eax
    let mut code = vec![0xB8, 0x2B, 0, 0, 0, 0x8E, 0xD8, 0xA1];
    code.extend((0xC000_0000 + PLACE).to_le_bytes());
    code.extend(TELL);
    code
}

/// Ways to the secret that are open where there is no wall.
fn ways() -> [(&'static str, Vec<u8>); 4] {
    [
        ("by a flat segment", flat()),
        ("in 64-bit mode", peek(u64::from(0xC000_0000 + PLACE))),
        (
            "in the window on all memory",
            peek(MEMORY as u64 + u64::from(PLACE)),
        ),
        ("by mapping it", map()),
    ]
}

/// What the kernel sees of each piece of code.
fn seen(isolation: &str, attacks: &[Vec<u8>]) -> Vec<String> {
    let arena = Arena::new(&format!("users-{isolation}"));
    let mut script = vec![Record::write(PLACE, &SECRET.to_le_bytes())];
    script.extend(attacks.iter().map(|a| Record::code_of_a_user(a).shown()));
    let end = arena.boot(&Boot {
        options: vec![format!("--isolation={isolation}").into()],
        line: "attack=script".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert_eq!(end.survived(), Some(script.len() as u64), "{end:?}");
    let seen = end.results().map(|(_, seen)| seen.to_owned()).collect();
    count("user code on its kernel", script.len() as u64, 1, "");
    seen
}

fn tells(seen: &str, word: u32) -> bool {
    seen.contains(&format!(" esp {word:x} "))
}

#[test]
fn user_code_gets_nothing_of_its_kernels() {
    let (names, attacks): (Vec<_>, Vec<_>) = ways().into_iter().unzip();
    for (name, seen) in names.iter().zip(seen("user", &attacks)) {
        assert!(!tells(&seen, SECRET), "{name}: {seen}");
        assert!(
            seen.starts_with("trap 13:") || seen.starts_with("trap 14:"),
            "{name}: {seen}"
        );
    }
}

#[test]
fn without_the_wall_it_gets_everything() {
    let (names, attacks): (Vec<_>, Vec<_>) = ways().into_iter().unzip();
    for (name, seen) in names.iter().zip(seen("guest", &attacks)) {
        assert!(tells(&seen, SECRET), "{name}: {seen}");
    }
}

/// Nothing of what views share is in a cell, and nothing of what there is can
/// be turned against the mapper or the gates.
#[test]
fn user_code_finds_nothing_worth_having() {
    let views = offset_of!(State, vm) + offset_of!(Vm, views);
    let last = views + (MAX_VIEWS - 1) * size_of::<ViewSlot>();
    let attacks = [
        peek((STATE + views) as u64),
        peek((STATE + last) as u64),
        peek((STATE + offset_of!(State, gates)) as u64),
        peek(CELL as u64),
        // The gates of the kernel, whose code is in them.
        peek((GATES + 0x1000) as u64),
        poke(COMMANDS),
        poke(COMMANDS + 0x1000),
        poke(GATES),
        poke(GATES + 0x1000),
        poke(usize::try_from(view().syscall).unwrap()),
    ];
    for (n, seen) in seen("user", &attacks).iter().enumerate() {
        assert!(seen.starts_with("trap 13:"), "attack {n}: {seen}");
        assert!(!tells(seen, 0x600D), "attack {n}: {seen}");
    }
}

/// Whatever user code does to its cell, its kernel gets the processor back;
/// system calls of any number are no more than a fault.
#[test]
fn user_code_that_owns_its_cell_is_still_only_user_code() {
    let arena = Arena::new("users-own");
    let alarm =
        Record::hypercall(Hypercall::SetClockevent as u32, [3_000_000, 0, 0]);
    let jump = |rip: u64, rax: u64, args: [u64; 6]| {
        Record::long_of_a_user(&Long {
            rip,
            rax,
            args,
            ..Long::default()
        })
        .shown()
    };
    let mut script = vec![alarm, jump(routine::SPIN, 0, [0; 6])];
    // Its page, and its stack with all that lies on it.
    for place in [STATE as u64, STATE as u64 + 0x180] {
        let words = 0x100;
        script.push(jump(
            routine::FILL,
            0xFFFF_FFFF,
            [place, words, 0, 0, 0, 0],
        ));
    }
    script.extend([alarm, jump(routine::SPIN, 0, [0; 6])]);
    for nr in (0..460).filter(|&nr| nr != 110) {
        script.push(jump(view().syscall, nr, [0, 0, 0, 0, 0, 0]));
        script.push(jump(routine::SYSCALL, nr, [0, 0, 0, 0, 0, 0]));
    }
    script.push(jump(view().restorer, 0, [0; 6]));
    // For ever in our own code, where kicks are held back.
    let spin = view().jump;
    script.extend([alarm, jump(spin, spin, [0; 6])]);
    // The waiting call itself, with events that did not happen: a double
    // fault, a hypercall, nonsense. The kernel sees what user code can do.
    for kind in [1 | 8 << 8, 1 | 2 << 8, 5, 7, !0] {
        script.push(jump(view().syscall, 110, [kind, 0, 0, 0, 0, 0]));
    }
    let end = arena.boot(&Boot {
        options: vec!["--isolation=user".into()],
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert_eq!(end.survived(), Some(script.len() as u64), "{end:?}");
    for (n, seen) in end.results() {
        let known = ["12", "13", "14", "128"].contains(&seen);
        assert!(known, "step {n}: trap {seen}");
    }
    let cases = script.len() as u64;
    count("user code that owns its cell", cases, 1, "");
}

/// As a processor has it.
#[test]
fn a_null_stack_segment_is_refused_and_null_data_is_not() {
    // xor %eax,%eax; mov %eax,%SEGMENT; int $0x80
    let load = |modrm| vec![0x31, 0xC0, 0x8E, modrm, 0xCD, 0x80];
    let attacks = [0xD0, 0xC0, 0xD8, 0xE0, 0xE8].map(load);
    for isolation in ["guest", "user"] {
        let seen = seen(isolation, &attacks);
        let (stack, data) = seen.split_first().unwrap();
        let refused = "trap 13: error 0 eip 8048002 ";
        assert!(stack.starts_with(refused), "{isolation}: {stack}");
        for seen in data {
            let loaded = "trap 128: eip 8048006 ";
            assert!(seen.starts_with(loaded), "{isolation}: {seen}");
        }
    }
}
