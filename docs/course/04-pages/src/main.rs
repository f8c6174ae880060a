//! Lesson 4: a kernel that gets memory by touching it.
//!
//! It writes to pages that are not there.

#![no_std]
#![no_main]

use lesson04::{WINDOW, faults, load, store};
use lg_guest::boot::Boot;
use lg_guest::{power, println};

lg_guest::entry!(main);

fn main(_: &'static Boot) {
    lesson04::init();
    println!("{WINDOW:#x} has no memory: {} page faults.", faults());
    store(0, 2007);
    println!("It holds {} now: {} page faults.", load(0), faults());
    for page in 0..100 {
        store(page * 4096, page);
    }
    println!("100 pages are written to: {} page faults.", faults());
    power::off(0);
}
