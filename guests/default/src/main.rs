//! The default Guest.
#![no_std]
#![no_main]

lg_guest::entry!(main);

fn main(boot: &'static lg_guest::boot::Boot) {
    lg_guest::log!("hello {} {:?}", boot.memory, boot.arguments);
    lg_guest::power::off(0);
}
