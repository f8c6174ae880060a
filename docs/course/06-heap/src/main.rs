//! Lesson 6: a kernel that counts primes, and panics if you like.
//!
//! `cargo run -- 10` prints the tenth prime. `cargo run -- 1000` asks for one
//! that is not there.

#![no_std]
#![no_main]

use lesson06::{nth_prime, primes};
use lg_guest::boot::Boot;
use lg_guest::{heap, power, println};

lg_guest::entry!(main);

fn main(boot: &'static Boot) {
    let (used, free) = heap::usage();
    println!("The heap has {} KiB, {used} bytes in use.", free >> 10);
    let found = primes(1_000_000);
    let (used, _) = heap::usage();
    println!("{} primes: {} KiB in use.", found.len(), used >> 10);
    drop(found);
    println!("Now {} bytes are in use.", heap::usage().0);
    if let Ok(place) = boot.arguments.text().parse::<usize>() {
        println!("Prime {place} is {}.", nth_prime(place - 1));
    }
    power::off(0);
}
