//! A guest that says hello.
#![no_std]
#![no_main]

use lg_guest::boot::Boot;
use lg_guest::{power, println};

lg_guest::entry!(main);

fn main(boot: &'static Boot) {
    println!("Hello from a kernel with {} MiB of memory!", boot.memory >> 20);
    power::off(0);
}
