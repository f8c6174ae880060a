//! The guest's kernel under a debugger.

use crate::client::register::{EAX, EFLAGS, EIP, GS};
use crate::client::{Debuggee, TF, from_hex, to_hex, word};

/// Where the kernel is.
const KERNEL: u32 = 0xC000_0000;

/// A page that the kernel does not use, and maps.
const UNUSED: u32 = KERNEL + 0x800;

/// The address at which the guest goes on when it has waited for an interrupt:
/// a place in its kernel that it comes to again and again.
fn after_the_wait(gdb: &mut crate::client::Gdb) -> u32 {
    let eip = gdb.eip();
    assert!(eip > KERNEL, "{eip:#x}");
    eip
}

#[test]
fn a_debugger_comes_and_goes_at_any_time() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    after_the_wait(&mut gdb);
    assert_eq!(gdb.memory(KERNEL + 0x10_0000, 64).len(), 64);
    // It stands: what is typed is not answered before it goes on.
    guest.run.type_in(b"echo stood\n");
    assert!(!guest.run.printed().contains("\nstood"));
    gdb.order("D");
    guest.run.wait_for("\nstood");
    drop(gdb);
    for n in 0..3 {
        let mut gdb = crate::client::Gdb::connect(&guest.at);
        after_the_wait(&mut gdb);
        // The last one is gone without a word.
        drop(gdb);
        guest.run.type_in(format!("echo again {n}\n").as_bytes());
        guest.run.wait_for(&format!("\nagain {n}"));
    }
    guest.power_off();
}

#[test]
fn it_stands_at_its_first_instruction() {
    let (guest, mut gdb) = Debuggee::waiting(&[]);
    guest
        .run
        .wait_for_error("the guest waits for GDB: target remote");
    let first = gdb.eip();
    let code = gdb.memory(first, 5);
    assert_eq!(code[0], 0xE9, "the built-in guest begins with a jump");
    let distance = u32::from_le_bytes(code[1..].try_into().unwrap());
    gdb.step();
    assert_eq!(gdb.eip(), first.wrapping_add(5).wrapping_add(distance));
    assert_eq!(guest.run.printed(), "");
    gdb.order("D");
    guest.run.wait_for("lguest> ");
    drop(gdb);
    // Standard error has the sentence above.
    let mut guest = guest;
    guest.run.type_in(b"poweroff\n");
    assert_eq!(guest.run.finish().code(), 0);
}

#[test]
fn steps_are_single_instructions_and_the_guest_does_not_see_them() {
    let (guest, mut gdb) = Debuggee::waiting(&[]);
    let mut seen = 0;
    for _ in 0..600 {
        let before = gdb.registers();
        let eip = word(&before, EIP);
        let code = gdb.memory(eip, 16);
        gdb.step();
        let after = gdb.registers();
        assert_eq!(word(&after, EFLAGS) & TF, 0);
        let next = word(&after, EIP);
        // Instructions without a branch show where the next one begins.
        match code[..] {
            [0x50..=0x5F, ..] => assert_eq!(next, eip + 1),
            [0x9C, ..] => {
                let stack = word(&after, crate::client::register::ESP);
                let pushed = gdb.memory(stack, 4);
                let pushed = u32::from_le_bytes(pushed.try_into().unwrap());
                assert_eq!(pushed & TF, 0, "pushf at {eip:#x}");
            }
            [0xE8, a, b, c, d, ..] => {
                let distance = u32::from_le_bytes([a, b, c, d]);
                assert_eq!(next, eip.wrapping_add(5).wrapping_add(distance));
            }
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen > 100, "{seen}");
    gdb.order("D");
    guest.run.wait_for("lguest> ");
    drop(guest);
}

#[test]
fn a_breakpoint_stops_the_kernel_and_is_not_seen_by_the_debugger() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let place = after_the_wait(&mut gdb);
    let code = gdb.memory(place, 16);
    gdb.order(&format!("Z0,{place:x},1"));
    gdb.order(&format!("Z0,{place:x},1"));
    assert_eq!(gdb.memory(place, 16), code, "as the guest wrote it");
    // It stands in front of the breakpoint, and passes it once.
    gdb.send("c");
    guest.run.type_in(b"\n");
    gdb.stops("swbreak:");
    assert_eq!(gdb.eip(), place);
    assert_eq!(gdb.registers()[EFLAGS * 4 + 1] & 1, 0);
    // The same once more, past a step.
    gdb.step();
    assert_ne!(gdb.eip(), place);
    gdb.send("c");
    guest.run.type_in(b"\n");
    gdb.stops("swbreak:");
    gdb.order(&format!("z0,{place:x},1"));
    gdb.send("c");
    guest.run.type_in(b"echo on\n");
    guest.run.wait_for("\non");
    // The guest's own code reads the breakpoint as it is.
    gdb.interrupt();
    gdb.order(&format!("Z0,{:x},1", UNUSED));
    gdb.send("c");
    guest.run.type_in(format!("peek {UNUSED:#x}\n").as_bytes());
    let said = guest.run.wait_for_nth("lguest> ", 5);
    assert!(said.contains(": 0xcc"), "{said}");
    gdb.interrupt();
    gdb.order("D");
    guest.run.type_in(format!("peek {UNUSED:#x}\n").as_bytes());
    let said = guest.run.wait_for_nth("lguest> ", 6);
    assert_eq!(said.matches(": 0xcc").count(), 1, "{said}");
    guest.power_off();
}

#[test]
fn memory_is_read_and_written() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let bytes: Vec<u8> = (0..=255).map(|n: u8| n ^ 0x5A).collect();
    gdb.write(UNUSED, &bytes);
    assert_eq!(gdb.memory(UNUSED, 256), bytes);
    // Across the end of a page, and in pieces that are longer than the
    // mailbox's text.
    let long: Vec<u8> = (0..1500_u32).map(|n| (n % 251) as u8).collect();
    let at = KERNEL + 0x1F00;
    let before = gdb.memory(at, 1500);
    assert_eq!(before.len(), 1500);
    gdb.write(at, &long);
    assert_eq!(gdb.memory(at, 1500), long);
    gdb.write(at, &before);
    // Below a breakpoint.
    gdb.order(&format!("Z0,{:x},1", UNUSED + 1));
    gdb.write(UNUSED, &[0x90, 0x91, 0x92]);
    assert_eq!(gdb.memory(UNUSED, 3), [0x90, 0x91, 0x92]);
    gdb.order(&format!("z0,{:x},1", UNUSED + 1));
    assert_eq!(gdb.memory(UNUSED, 3), [0x90, 0x91, 0x92]);
    let physical = gdb.monitor("physical 0x800 2");
    assert!(physical.starts_with("0x00000800: "), "{physical}");
    assert!(physical.contains("929190 "), "{physical}");
    // Nothing is there, and nothing is written in part.
    assert!(gdb.memory(0x40, 4).is_empty());
    assert!(gdb.memory(0xFFFF_F000, 4).is_empty());
    assert!(gdb.ask("M40,1:00").starts_with('E'));
    gdb.order("D");
    guest.run.type_in(format!("peek {UNUSED:#x}\n").as_bytes());
    assert!(guest.run.wait_for_nth("lguest> ", 2).contains("90"));
    guest.power_off();
}

#[test]
fn registers_are_read_and_written() {
    let (guest, mut gdb) = Debuggee::waiting(&[]);
    let before = gdb.registers();
    let mut other = before.clone();
    other[EAX * 4..][..4].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    // st0 and xmm3, and a bit of MXCSR that no processor has.
    other[0x40..0x4A].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x88, 9, 0x40]);
    other[0xE0..0xF0].fill(0xA5);
    other[0x133] = 0xFF;
    gdb.order(&format!("G{}", to_hex(&other)));
    let after = gdb.registers();
    assert_eq!(word(&after, EAX), 0x1234_5678);
    assert_eq!(after[0x40..0x4A], other[0x40..0x4A]);
    assert_eq!(after[0xE0..0xF0], [0xA5; 16]);
    assert_eq!(after[0x133], 0);
    // The processor loads all of that.
    gdb.step();
    assert_eq!(gdb.registers()[0xE0..0xF0], [0xA5; 16]);
    // Segments are the guest's own to load.
    let mut wrong = gdb.registers();
    wrong[GS * 4] ^= 8;
    assert!(gdb.ask(&format!("G{}", to_hex(&wrong))).starts_with('E'));
    assert_ne!(from_hex(&gdb.ask("g"))[GS * 4], wrong[GS * 4]);
    let mut back = before;
    back[EIP * 4..][..4].copy_from_slice(&wrong[EIP * 4..][..4]);
    gdb.order(&format!("G{}", to_hex(&back)));
    gdb.order("D");
    guest.run.wait_for("lguest> ");
    guest_ends(guest);
}

/// Ends a guest that has said something on standard error.
fn guest_ends(mut guest: Debuggee) {
    guest.run.type_in(b"poweroff\n");
    assert_eq!(guest.run.finish().code(), 0);
}

#[test]
fn compared_breakpoints_leave_memory_as_it_is() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let place = after_the_wait(&mut gdb);
    gdb.order(&format!("Z1,{place:x},1"));
    gdb.send("c");
    guest.run.type_in(b"\n");
    gdb.stops("hwbreak:");
    assert_eq!(gdb.eip(), place);
    gdb.order(&format!("z1,{place:x},1"));
    // Something is pushed below the stack pointer before long.
    let stack = gdb.register(crate::client::register::ESP) - 4;
    gdb.order(&format!("Z2,{stack:x},4"));
    gdb.send("c");
    guest.run.type_in(b"\n");
    gdb.stops(&format!("watch:{stack:x};"));
    gdb.order(&format!("z2,{stack:x},4"));
    gdb.order("D");
    guest.run.type_in(b"echo on\n");
    guest.run.wait_for("\non");
    guest.power_off();
}

#[test]
fn monitor_answers_questions() {
    let (guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    assert!(gdb.monitor("help").contains("monitor tables"));
    assert!(gdb.monitor("what").contains("there is no 'monitor what'"));
    let tables = gdb.monitor("tables");
    assert!(tables.contains("(loaded)"), "{tables}");
    let walk = gdb.monitor("tables 0xc0100000");
    assert!(walk.contains("writable"), "{walk}");
    assert!(gdb.monitor("tables 0x40").contains("not present"));
    assert!(gdb.monitor("tables x").contains("no address"));
    assert!(gdb.monitor("physical 0xfffffff0").contains("no memory"));
    assert!(gdb.monitor("physical 0 257").contains("1 to 256"));
    assert_eq!(gdb.monitor("devices"), "console\n");
    assert!(gdb.monitor("stats").contains("entries "));
    gdb.order("D");
    guest.power_off();
}
