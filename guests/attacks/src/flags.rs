//! Every combination of flags at every kind of entry, and so at every exit.
//!
//! Flags of a kernel or its programs must not stay set in the Host, and must
//! not keep it from returning to the Guest. The only check here is that the
//! code went on.

#![expect(unsafe_code, reason = "code that becomes trampolines")]

use crate::lab::memory::{self, va};
use crate::lab::run::User;
use crate::lab::space::{USER_DATA, USER_PAGE, first};
use crate::lab::trap::{self, Next, Seen};
use crate::lab::{hypercall, kernel, page, run};
use core::arch::global_asm;
use lg_abi::hypercall::Hypercall;
use lg_abi::page::Pte;
use lg_guest::boot::Boot;
use lg_guest::println;

/// CF, TF, DF, IOPL, NT, RF, AC, ID: all flags that can have an effect.
const FLAGS: [u32; 8] = [
    1,
    1 << 8,
    1 << 10,
    3 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 21,
];

/// Ways to leave Guest code. Each is followed by more code, in case the
/// processor goes on.
const ENTRIES: [&[u8]; 11] = [
    &[0x90],                   // none but a single step
    &[0xCC],                   // int3
    &[0xCE],                   // into
    &[0xCD, 0x80],             // system call
    &[0xCD, 0x1F],             // hypercall (FLUSH_ASYNC: eax is 0)
    &[0xA1, 0, 0x10, 0, 0],    // page fault
    &[0xA1, 1, 0x90, 4, 8],    // unaligned
    &[0x0F, 0x0B],             // ud2
    &[0xEC],                   // in %dx, %al
    &[0xF4],                   // hlt
    &[0x31, 0xC9, 0xF7, 0xF1], // division by zero
];

global_asm!(
    r#"
.text
// Hypercalls at fixed addresses, so that the Host can patch them, and an iret,
// which is patched at the first trap.
.globl flags_hypercall, flags_iret
.balign 64
    .skip 32, 0x90
flags_hypercall:
    mov $0, %eax
    int $0x1f
    ret
flags_iret: // as after a trap in the kernel: eax on top of eip, cs, flags
    pop %edx
    pushf
    push $0x61
    push %edx
    push $0
    mov $0, %eax
    jmp lguest_noirq_start
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static flags_hypercall: u8;
    static flags_iret: u8;
}

/// The address of an entry page as Linux makes one.
const ENTRY_PAGE: u32 = 0xB100_0000;

/// The offset of the entry in it.
const ENTRY: u32 = 0x400;

/// Makes the page: an ELF header whose entry is a system call.
fn make_entry_page() {
    let entry_page = page();
    memory::write(entry_page, b"\x7fELF");
    memory::poke(entry_page + 24, ENTRY_PAGE + ENTRY);
    memory::write(entry_page + ENTRY, &[0xCD, 0x80, 0xC3]);
    memory::write(entry_page + ENTRY + 32, &[0x58, 0xB8, 0x77, 0, 0, 0]);
    first().set(ENTRY_PAGE, entry_page | USER_PAGE & !Pte::WRITE);
}

/// A call of the code at `address`.
const fn call(address: u32) -> [u8; 7] {
    let [a, b, c, d] = address.to_le_bytes();
    [0xB8, a, b, c, d, 0xFF, 0xD0]
}

/// How often each is done, so that the Host patches the code.
const ROUNDS: u32 = 3;

/// Steps through the code, but not for ever.
fn stepping(seen: &mut Seen) -> Next {
    let interrupts = 32..64;
    match seen.trapped.vector {
        1 if trap::count() % 16 != 0 => Next::GoOn,
        vector if interrupts.contains(&vector) => Next::GoOn,
        _ => Next::GiveUp,
    }
}

pub(crate) fn run(boot: &'static Boot) {
    let from = crate::number(boot.arguments, "from").unwrap_or(0);
    let trampolines = [
        call(&raw const flags_hypercall as usize as u32),
        call(&raw const flags_iret as usize as u32),
    ];
    let entry_page = [call(ENTRY_PAGE + ENTRY)];
    make_entry_page();
    let mut cases = 0;
    for combination in from..(1 << FLAGS.len()) {
        println!("@{combination}");
        let mut flags = 2;
        for (bit, flag) in FLAGS.into_iter().enumerate() {
            if (combination >> bit) & 1 != 0 {
                flags |= flag;
            }
        }
        let [a, b, c, d] = flags.to_le_bytes();
        let trampolines = trampolines.iter().chain(&entry_page).map(|g| &g[..]);
        for entry in ENTRIES.into_iter().chain(trampolines) {
            let mut code = [0x90; 24];
            code[..6].copy_from_slice(&[0x68, a, b, c, d, 0x9D]); // push; popf
            code[6..6 + entry.len()].copy_from_slice(entry);
            let end = 6 + entry.len() + 2;
            for _ in 0..ROUNDS {
                trap::handle(stepping);
                kernel(&code[..end]);
                code[end..end + 2].copy_from_slice(&[0xCD, 0x80]);
                run::put_user(&code[..end + 2]);
                // By popf, and by the iret that starts it.
                for eflags in [2, flags] {
                    User {
                        eflags,
                        esi: USER_DATA,
                        ..User::new()
                    }
                    .run();
                    cases += 1;
                }
                cases += 1;
            }
        }
        // An interrupt during the code.
        hypercall(Hypercall::SetClockevent, 1000, 0, 0);
        let [e, f, g, h] = va(0x1000).to_le_bytes();
        let spin = [
            0x68, a, b, c, d, 0x9D, // push; popf
            0xB9, 0, 0x20, 0, 0, // mov $0x2000, %ecx
            0xA1, e, f, g, h, // mov somewhere, %eax
            0xE2, 0xF9, // loop
        ];
        lg_guest::irq::enable();
        kernel(&spin);
        lg_guest::irq::disable();
        cases += 1;
    }
    crate::survived(cases);
}
