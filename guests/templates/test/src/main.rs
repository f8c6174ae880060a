//! A guest that uses the library beside it.
#![no_std]
#![no_main]

use lg_guest::boot::Boot;
use lg_guest::{power, println};

lg_guest::entry!(main);

fn main(_: &'static Boot) {
    println!("{}", LIBRARY::reversed("!olleH"));
    power::off(0);
}
