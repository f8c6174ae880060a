//! Sleeps, and prints when it wakes.
#![no_std]
#![no_main]

lg_user::entry!(main);

fn main(ticks: u32) {
    for tick in 1..=ticks {
        lg_user::sleep(5_000);
        lg_user::println!("ticks: {tick} of {ticks}");
    }
    lg_user::exit(ticks);
}
