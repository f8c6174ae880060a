//! A kernel with two programs, each in an address space of its own.
#![no_std]
#![no_main]

use LIBRARY::Scheduler;
use lg_guest::boot::Boot;
use lg_guest::{power, println, program, task, user::Process};

lg_guest::entry!(main);

fn main(_: &'static Boot) {
    task::spawn("programs", run()).expect("there is room for a task");
}

async fn run() {
    let mut programs = Scheduler::default();
    for (name, image, argument) in [
        ("primes", program!("primes"), 100_000),
        ("ticks", program!("ticks"), 5),
    ] {
        let process = Process::load(image, argument);
        programs.add(name, process.expect("there is memory for it"));
    }
    while let Some((program, end)) = programs.run().await {
        let (name, preempted) = (program.name, program.preempted);
        println!("{name}: {end:?}; the timer has ended {preempted} turns");
    }
    power::off(0);
}
