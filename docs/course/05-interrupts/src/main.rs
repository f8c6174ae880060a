//! Lesson 5: a kernel that waits in two ways.
//!
//! Only one of them leaves the processor to others.

#![no_std]
#![no_main]

use lesson05::{duration, sleep, spin};
use lg_guest::boot::Boot;
use lg_guest::{irq, power, println};

lg_guest::entry!(main);

/// 50 ms.
const PAUSE: u32 = 50_000_000;

fn main(_: &'static Boot) {
    let asleep = duration(|| sleep(PAUSE)) / 1_000_000;
    println!("I have slept {asleep} ms.");
    let looks = spin(PAUSE);
    println!("Awake for as long, I have looked {looks} times.");
    let count = irq::count(irq::TIMER);
    println!("The timer has interrupted me {count} times.");
    power::off(0);
}
