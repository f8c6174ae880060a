//! Attacks by user code on its own kernel, with user processes and without.
//!
//! Each piece of code tries to read a word of the kernel's memory, puts it into
//! esp, and makes a system call. So the kernel sees what the program got. With
//! `--isolation=user` no program may get it. With `--isolation=guest` each gets
//! it, which shows that the attacks work.

use crate::arena::{Arena, Boot, Stop, count};
use crate::script::{Long, Record, routine};
use crate::target::view;
use lg_abi::hypercall::Hypercall;
use lg_abi::segment::{GDT_KERNEL_CS, GDT_PER_CPU};
use lg_host::state::ViewSlot;
use lg_switcher::layout::{
    COMMANDS, MEMORY, OWN, STACK, STACK_SIZE, STATE, State, TRACE, TRAMPOLINES,
    USER,
};
use lg_switcher::own::Own;
use lg_wire::state::MAX_VIEWS;
use lg_wire::trace::HEAD_SIZE;
use std::mem::offset_of;

/// Physical memory that is not used, and the word that the kernel puts there.
const PLACE: u32 = 0x1_F000;
const SECRET: u32 = 0x05EC_2E70;

/// The address at which user code starts.
const CODE: u32 = 0x0804_8000;

/// mov %eax,%esp; int $0x80: reports what it got.
const TELL: [u8; 4] = [0x89, 0xC4, 0xCD, 0x80];

/// 32-bit code that goes on as 64-bit code. The stack is mapped before,
/// because 64-bit code gets no page on demand.
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

/// Writes a word there, and reports 0x600D if that worked.
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

/// A flat data segment, which Linux has for all processes.
fn flat() -> Vec<u8> {
    // mov $0x2b,%eax; mov %eax,%ds; mov PLACE,%eax
    let mut code = vec![0xB8, 0x2B, 0, 0, 0, 0x8E, 0xD8, 0xA1];
    code.extend((0xC000_0000 + PLACE).to_le_bytes());
    code.extend(TELL);
    code
}

/// Reads the secret through the segment of a prefix.
fn through(prefix: u8) -> Vec<u8> {
    // mov SEGMENT:PLACE, %eax
    let mut code = vec![prefix, 0xA1];
    code.extend((0xC000_0000 + PLACE).to_le_bytes());
    code.extend(TELL);
    code
}

/// The prefix of the code segment.
const CS: u8 = 0x2E;

/// A wild offset in a thread-local segment of 4 GiB, as C libraries have one.
fn behind_gs() -> Vec<u8> {
    // mov $0x33,%eax; mov %eax,%gs; mov %gs:PLACE - BASE,%eax
    let mut code = vec![0xB8, 0x33, 0, 0, 0, 0x8E, 0xE8, 0x65, 0xA1];
    code.extend((0xC000_0000 + PLACE - BASE).to_le_bytes());
    code.extend(TELL);
    code
}

/// The kernel's own segment, which begins at the secret.
fn own_segment() -> Vec<u8> {
    // mov $0xdf,%eax; mov %eax,%fs; mov %fs:0,%eax
    let mut code = vec![0xB8, 0xDF, 0, 0, 0, 0x8E, 0xE0];
    code.extend([0x64, 0xA1, 0, 0, 0, 0]);
    code.extend(TELL);
    code
}

/// The kernel's part of it: a descriptor, which the kernel loads. The table is
/// of memory that is zero.
fn load_own_segment() -> [Record; 4] {
    const TABLE: u32 = 0x1_E100;
    let base = 0xC000_0000 + PLACE;
    let own = 0x008F_9200 | base >> 16 & 0xFF | base & 0xFF00_0000;
    let flat = [0x00CF_9A00, 0x00CF_9200, 0x00CF_FA00, 0x00CF_F200];
    let flat = flat.map(|high: u32| [0xFFFF, high].map(u32::to_le_bytes));
    let own = [base << 16 | 0xFFFF, own].map(u32::to_le_bytes);
    let at = |index: u32| TABLE + 8 * index;
    [
        Record::write(at(GDT_KERNEL_CS), flat.as_flattened().as_flattened()),
        Record::write(at(GDT_PER_CPU), own.as_flattened()),
        Record::hypercall(Hypercall::LoadGdt as u32, [TABLE, 32, 0]),
        // mov $0xd8,%eax; mov %eax,%fs; ud2
        Record::code(&[0xB8, 0xD8, 0, 0, 0, 0x8E, 0xE0, 0x0F, 0x0B]),
    ]
}

/// Where the thread-local segment begins.
const BASE: u32 = 0x0804_9000;

/// The kernel's part of [`behind_gs`]: three descriptors.
fn load_tls() -> [Record; 2] {
    const TABLE: u32 = 0x1_E000;
    let low = (BASE << 16 | 0xFFFF).to_le_bytes();
    let base = BASE >> 16 & 0xFF | BASE & 0xFF00_0000;
    let high = (0x00CF_F200 | base).to_le_bytes();
    let descriptor = [low, high].concat();
    [
        Record::write(TABLE, &descriptor.repeat(3)),
        Record::hypercall(Hypercall::LoadTls as u32, [TABLE, 0, 0]),
    ]
}

/// Ways to the secret that work without user processes.
fn ways() -> [(&'static str, Vec<u8>); 7] {
    [
        ("through the code segment", through(CS)),
        ("through the kernel's own segment", own_segment()),
        ("by an offset behind gs", behind_gs()),
        ("by a flat segment", flat()),
        ("in 64-bit mode", peek(u64::from(0xC000_0000 + PLACE))),
        (
            "in the window on all memory",
            peek(MEMORY as u64 + u64::from(PLACE)),
        ),
        ("by mapping it", map()),
    ]
}

/// The kernel's records of each piece of code.
fn seen(isolation: &str, attacks: &[Vec<u8>]) -> Vec<String> {
    let attacks = attacks.iter().map(|a| Record::code_of_a_user(a).shown());
    seen_of(isolation, attacks)
}

/// The words of each record that is shown.
fn seen_of(
    isolation: &str,
    attacks: impl IntoIterator<Item = Record>,
) -> Vec<String> {
    seen_with(&[&format!("--isolation={isolation}")], attacks)
}

/// The same with these options.
fn seen_with(
    options: &[&str],
    attacks: impl IntoIterator<Item = Record>,
) -> Vec<String> {
    let arena = Arena::new("users");
    let mut script = vec![Record::write(PLACE, &SECRET.to_le_bytes())];
    script.extend(load_own_segment());
    script.extend(load_tls());
    script.extend(attacks);
    let end = arena.boot(&Boot {
        options: options.iter().map(Into::into).collect(),
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
fn without_user_processes_each_attack_works() {
    let (names, attacks): (Vec<_>, Vec<_>) = ways().into_iter().unzip();
    for (name, seen) in names.iter().zip(seen("guest", &attacks)) {
        assert!(tells(&seen, SECRET), "{name}: {seen}");
    }
}

/// The segments stop accesses through them. The code segment does so if it has
/// a limit.
#[test]
fn without_user_processes_segments_stop_accidents() {
    const DS: u8 = 0x3E;
    const ES: u8 = 0x26;
    const SS: u8 = 0x36;
    let refused = "trap 14: error 5 ";
    for (options, prefixes) in [
        (&[][..], &[DS, ES, SS][..]),
        (&["--no-fast-path=flat-code"], &[DS, ES, SS, CS]),
    ] {
        let attacks = prefixes
            .iter()
            .map(|&p| Record::code_of_a_user(&through(p)).shown());
        for (prefix, seen) in prefixes.iter().zip(seen_with(options, attacks)) {
            assert!(seen.starts_with(refused), "{prefix:#x}: {seen}");
        }
    }
}

/// Nothing that views share is in a user process, and nothing in it can be used
/// against the mapper or the trampolines.
#[test]
fn user_code_finds_nothing_of_the_host() {
    let views = offset_of!(State, vm.views);
    let last = views + (MAX_VIEWS - 1) * size_of::<ViewSlot>();
    let attacks = [
        peek((STATE + views) as u64),
        peek((STATE + last) as u64),
        peek((STATE + offset_of!(State, trampolines)) as u64),
        peek(TRACE as u64),
        peek((TRACE + HEAD_SIZE) as u64),
        peek(USER as u64),
        // The trampolines of the kernel, and their code.
        peek((TRAMPOLINES + 0x1000) as u64),
        poke(COMMANDS),
        poke(COMMANDS + 0x1000),
        poke(TRAMPOLINES),
        poke(TRAMPOLINES + 0x1000),
        poke(usize::try_from(view().syscall).unwrap()),
    ];
    for (n, seen) in seen("user", &attacks).iter().enumerate() {
        assert!(seen.starts_with("trap 13:"), "attack {n}: {seen}");
        assert!(!tells(seen, 0x600D), "attack {n}: {seen}");
    }
}

/// User code may do anything to its user process, and its kernel gets the
/// processor back. A system call of any number is only a fault.
#[test]
fn user_code_that_owns_its_user_process_is_still_only_user_code() {
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
    // Its page, and its whole stack.
    let regs = (STATE + offset_of!(State, vm.regs)) as u64;
    for place in [STATE as u64, regs, regs + 0x180] {
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
    // An endless loop in our own code, where kicks are blocked.
    let spin = view().jump;
    script.extend([alarm, jump(spin, spin, [0; 6])]);
    // The waiting call itself, with events that did not happen: a double fault,
    // a hypercall, invalid ones. The kernel sees only events that user code can
    // cause.
    for kind in [1 | 8 << 8, 1 | 2 << 8, 5, 7, !0] {
        for stand in view().stands {
            script.push(jump(stand, 110, [kind, 0, 0, 0, 0, 0]));
        }
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
    count("user code that owns its user process", cases, 1, "");
}

/// As a processor does.
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

/// 64-bit code that fills all of a user process's own memory that can be
/// written, sets the stack and the flags, and jumps to `site` with the
/// registers of a waiting call that reports a system call.
fn park(site: u64, stack: u64, flags: u32) -> Vec<u8> {
    const SYSTEM_CALL: u32 = 2;
    let mut code = Vec::new();
    for (at, bytes) in [(OWN, size_of::<Own>()), (STACK, STACK_SIZE)] {
        code.extend([0x48, 0xBF]); // movabs $at,%rdi
        code.extend((at as u64).to_le_bytes());
        code.push(0xB9); // mov $words,%ecx
        code.extend(u32::try_from(bytes / 4).unwrap().to_le_bytes());
        code.extend([0xB8, 0xAD, 0xDE, 0, 0]); // mov $0xdead,%eax
        code.extend([0xF3, 0xAB]); // rep stos
    }
    code.extend([0x48, 0xBC]); // movabs $stack,%rsp
    code.extend((STACK as u64 + 0x8000).to_le_bytes());
    code.push(0x68); // push $flags; popfq
    code.extend(flags.to_le_bytes());
    code.extend([0x9D, 0x48, 0xBC]); // movabs $stack,%rsp
    code.extend(stack.to_le_bytes());
    code.extend([0x6A, 110, 0x58]); // push $getppid; pop %rax
    code.push(0xBF); // mov $SYSTEM_CALL,%edi
    code.extend(SYSTEM_CALL.to_le_bytes());
    code.extend([0x31, 0xF6, 0x31, 0xD2]); // xor %esi,%esi; xor %edx,%edx
    code.extend([0x49, 0xBF]); // movabs $site,%r15; jmp *%r15
    code.extend(site.to_le_bytes());
    code.extend([0x41, 0xFF, 0xE7]);
    long(&code)
}

/// Nothing that earlier programs leave in a user process makes the next program
/// start at another address than its kernel chose.
#[test]
fn user_code_leaves_nothing_behind_for_the_next_program() {
    /// DF, NT and AC.
    const FLAGS: u32 = 1 << 10 | 1 << 14 | 1 << 18;
    // int $0x80
    let innocent = vec![0xCD, 0x80];
    let mut attacks = Vec::new();
    let all = &view().stands;
    for &site in all.iter().chain([&view().syscall]) {
        for stack in [STACK as u64 + 0x2000, (STACK + STACK_SIZE) as u64] {
            for flags in [2, FLAGS] {
                attacks.push(park(site, stack, flags));
                attacks.push(innocent.clone());
            }
        }
    }
    let seen = seen("user", &attacks);
    let programs = seen.iter().skip(1).step_by(2);
    for (n, seen) in programs.enumerate() {
        let wanted = "trap 128: eip 8048002 ";
        assert!(seen.starts_with(wanted), "after attack {n}: {seen}");
    }
    let parked = seen.iter().filter(|seen| seen.starts_with("trap 128"));
    assert!(parked.count() > attacks.len() / 2, "no attack got so far");
}

/// 64-bit code that counts a word in all of a user process's own memory that
/// signals and trampolines write to, and reports the count.
fn search(word: u32) -> Vec<u8> {
    let stack = STACK + STACK_SIZE;
    let mut code = vec![0xB8]; // mov $!word,%eax; not %eax; xor %edx,%edx
    code.extend((!word).to_le_bytes());
    code.extend([0xF7, 0xD0, 0x31, 0xD2]);
    for (start, end) in [
        (stack - 0x8000, stack),
        (OWN, OWN + 0x1000),
        (STATE, STATE + 0x1000),
    ] {
        code.extend([0x48, 0xBE]); // movabs $start,%rsi
        code.extend((start as u64).to_le_bytes());
        code.push(0xB9); // mov $words,%ecx
        code.extend(u32::try_from((end - start) / 4).unwrap().to_le_bytes());
        code.extend([0x3B, 0x06, 0x75, 2]); // 1: cmp (%rsi),%eax; jne 2f
        code.extend([0xFF, 0xC2]); // inc %edx
        code.extend([0x48, 0x83, 0xC6, 4]); // 2: add $4,%rsi
        code.extend([0xFF, 0xC9, 0x75, 0xF2]); // dec %ecx; jnz 1b
    }
    code.extend([0x89, 0xD0]); // mov %edx,%eax
    code.extend(TELL);
    long(&code)
}

/// The next program does not find the registers of the last one in the memory
/// of its user process.
#[test]
fn user_code_finds_no_registers_of_the_last_program() {
    // Where its signals leave them, deeper than those of the next program.
    let mut code = vec![0xB8]; // mov $SECRET,%eax
    code.extend(SECRET.to_le_bytes());
    for at in [STACK + STACK_SIZE - 0x3000, OWN, OWN + 0x200] {
        code.extend([0x48, 0xBF]); // movabs $at,%rdi
        code.extend((at as u64).to_le_bytes());
        code.extend([0xB9, 16, 0, 0, 0, 0xF3, 0xAB]); // mov $16,%ecx; rep stos
    }
    code.extend([0x31, 0xC0]); // xor %eax,%eax
    code.extend(TELL);
    let secret = long(&code);
    let records = [
        Record::code_of_a_user(&secret).in_a_thread().shown(),
        Record::code_of_a_user(&search(SECRET)).shown(),
    ];
    let seen = seen_of("user", records);
    assert!(tells(&seen[1], 0), "{seen:?}");
}

/// 32-bit code that writes the register of protection keys.
fn write_keys(value: u32) -> Vec<u8> {
    let mut code = vec![0x31, 0xC9, 0x31, 0xD2, 0xB8]; // ecx, edx = 0; eax
    code.extend(value.to_le_bytes());
    code.extend([0x0F, 0x01, 0xEF]); // wrpkru
    code
}

/// Whether the machine's kernel delivers a signal while the stack's key is
/// locked (Linux 6.12). If it does not, a program that locks all keys ends its
/// process.
fn signals_unlock_keys() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (6, 12)
}

/// User code's value in the register of protection keys lasts at most until the
/// next trap. User code gets no fault by a key, and neither do the Host and the
/// next program.
#[test]
fn protection_keys_lock_no_code_out() {
    const OSPKE: u32 = 1 << 4;
    /// Key 0 without access, key 0 without writes, and all keys without access.
    const LOCKS: [u32; 3] = [1, 2, 0xFFFF_FFFF];
    let test = "protection_keys_lock_no_code_out";
    if std::arch::x86_64::__cpuid_count(7, 0).ecx & OSPKE == 0 {
        println!("SKIPPED {test}: the processor has no protection keys");
        return;
    }
    if !signals_unlock_keys() {
        println!("SKIPPED {test}: needs Linux 6.12");
        return;
    }
    // push %eax; pop %eax, so that the stack is there before
    let stack = [0x50, 0x58];
    // A trap, a read, a write, and a loop during which a timer fires.
    let spin = {
        let mut code = vec![0xB9]; // mov $n,%ecx; dec %ecx; jnz
        code.extend(30_000_000_u32.to_le_bytes());
        code.extend([0x49, 0x75, 0xFD]);
        code
    };
    let alarm =
        Record::hypercall(Hypercall::SetClockevent as u32, [1_000_000, 0, 0]);
    let read = [&[0xA1][..], &CODE.to_le_bytes()].concat();
    let ways: [&[u8]; 4] = [&[], &read, &[0x50, 0x58], &spin];
    for isolation in ["guest", "user"] {
        let mut attacks = Vec::new();
        for lock in LOCKS {
            for way in ways {
                let code = [&stack[..], &write_keys(lock), way].concat();
                attacks.push([&code[..], &[0xCD, 0x80]].concat());
                attacks.push(vec![0xCD, 0x80]);
            }
        }
        // And with keys locked while it waits in its call.
        if isolation == "user" {
            let keys = [&write_keys(1)[..], &park_at_once()].concat();
            attacks.extend([keys, vec![0xCD, 0x80]]);
        }
        let records = attacks
            .iter()
            .flat_map(|code| [alarm, Record::code_of_a_user(code).shown()]);
        let seen = seen_of(isolation, records);
        for (n, (seen, code)) in seen.iter().zip(&attacks).enumerate() {
            let end = CODE as usize + code.len();
            let wanted = format!("trap 128: eip {end:x} ");
            let parked = n == 24;
            assert!(parked || seen.starts_with(&wanted), "{n}: {seen}");
        }
    }
}

/// 32-bit code that jumps to the waiting call and uses no memory.
fn park_at_once() -> Vec<u8> {
    // ljmp 0x33, over the 12 bytes before and its own 7
    let mut code = vec![0xEA];
    code.extend((CODE + 12 + 7).to_le_bytes());
    code.extend([0x33, 0]);
    // mov $getppid,%eax; mov $2,%edi
    code.extend([0xB8, 110, 0, 0, 0, 0xBF, 2, 0, 0, 0]);
    code.extend([0x31, 0xF6, 0x31, 0xD2, 0x49, 0xBF]);
    code.extend(view().stands[1].to_le_bytes());
    code.extend([0x41, 0xFF, 0xE7]);
    code
}
