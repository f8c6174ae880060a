//! User code under a debugger.

use crate::client::register::{CS, ECX, EIP};
use crate::client::{Debuggee, TF, word};

/// A program that computes for a long time without a system call.
pub(crate) const SPINS: &[u8] = b"run primes 60000000\n";

/// Stops the guest while such a program runs.
pub(crate) fn in_user_code(gdb: &mut crate::client::Gdb) {
    loop {
        gdb.interrupt();
        let registers = gdb.registers();
        if word(&registers, CS) & 3 == 3 {
            assert!(word(&registers, EIP) < 0xC000_0000);
            return;
        }
        gdb.send("c");
    }
}

fn spins_and_is_stopped(options: &[&str]) {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(options);
    gdb.send("c");
    guest.run.type_in(SPINS);
    in_user_code(&mut gdb);
    // Steps stay in the program's loop.
    let mut places = std::collections::BTreeMap::new();
    for _ in 0..100 {
        gdb.step();
        let registers = gdb.registers();
        assert_eq!(word(&registers, CS) & 3, 3);
        *places.entry(word(&registers, EIP)).or_insert(0) += 1;
        assert_eq!(word(&registers, crate::client::register::EFLAGS) & TF, 0);
    }
    assert!((5..20).contains(&places.len()), "{places:x?}");
    // A breakpoint in the inner loop is met at each turn. The outer loop goes
    // round too seldom for a guest that is single-stepped.
    let inner = places.iter().max_by_key(|(_, times)| **times);
    let place = *inner.unwrap().0;
    let before = gdb.memory(place, 8);
    gdb.order(&format!("Z0,{place:x},1"));
    for _ in 0..5 {
        gdb.go_on_to("swbreak:");
        assert_eq!(gdb.eip(), place);
        assert_eq!(gdb.memory(place, 8), before);
    }
    gdb.order(&format!("z0,{place:x},1"));
    // The same by comparing.
    gdb.order(&format!("Z1,{place:x},1"));
    for _ in 0..5 {
        gdb.go_on_to("hwbreak:");
        assert_eq!(gdb.eip(), place);
    }
    gdb.order(&format!("z1,{place:x},1"));
    // It goes on where it was.
    let candidate = gdb.register(ECX);
    gdb.send("c");
    in_user_code(&mut gdb);
    assert!(gdb.register(ECX) >= candidate);
    gdb.send("k");
    assert_eq!(guest.run.finish().code(), 137);
}

#[test]
fn a_program_that_spins_is_stopped_and_stepped() {
    spins_and_is_stopped(&[]);
}

#[test]
fn so_is_one_in_a_process_of_its_own() {
    spins_and_is_stopped(&["--isolation=user"]);
}

#[test]
fn a_step_over_a_system_call_leads_into_the_kernel() {
    for options in [&[][..], &["--isolation=user"]] {
        let (mut guest, mut gdb) = Debuggee::at_its_prompt(options);
        // The loop of a program that makes system calls: the first one was
        // patched long ago.
        gdb.send("c");
        guest.run.type_in(b"run calls 100000000\n");
        in_user_code(&mut gdb);
        let mut calls = 0;
        for _ in 0..200 {
            let registers = gdb.registers();
            let eip = word(&registers, EIP);
            if gdb.memory(eip, 2) == [0xCD, 0x80] {
                gdb.step();
                let inside = gdb.registers();
                assert_eq!(word(&inside, CS) & 3, 1, "the kernel's level");
                assert!(word(&inside, EIP) >= 0xC000_0000);
                // Back behind the call.
                gdb.order(&format!("Z0,{:x},1", eip + 2));
                gdb.go_on_to("swbreak:");
                gdb.order(&format!("z0,{:x},1", eip + 2));
                assert_eq!(gdb.eip(), eip + 2);
                calls += 1;
            } else {
                gdb.step();
            }
        }
        assert!(calls > 5, "{calls}");
        gdb.send("k");
        assert_eq!(guest.run.finish().code(), 137);
    }
}

#[test]
fn what_a_program_writes_is_watched() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let place = gdb.eip();
    gdb.send("c");
    guest.run.type_in(SPINS);
    in_user_code(&mut gdb);
    // The program touches no memory, so this would go on for ever: its kernel
    // is stepped, too, until the interrupt comes.
    gdb.order("Z4,c0000800,4");
    gdb.send("c");
    gdb.interrupt();
    gdb.order("z4,c0000800,4");
    assert_ne!(gdb.eip(), place);
    gdb.send("k");
    assert_eq!(guest.run.finish().code(), 137);
}
