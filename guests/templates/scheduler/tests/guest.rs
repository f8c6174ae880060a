//! Tests that run in a guest, each in one of its own: `cargo test`.
#![no_std]
#![no_main]

use LIBRARY::Scheduler;
use lg_guest::user::{End, Event, LoadError, Process};
use lg_guest::{program, time};

fn primes(limit: u32) -> Process {
    Process::load(program!("primes"), limit).unwrap()
}

lg_guest::tests! {
    fn an_endless_program_leaves_time_to_another() {
        let mut programs = Scheduler::default();
        programs.add("primes", primes(u32::MAX));
        let ticks = Process::load(program!("ticks"), 3).unwrap();
        programs.add("ticks", ticks);
        let (ended, end) = programs.run().await.unwrap();
        assert_eq!((ended.name, end), ("ticks", End::Exit(3)));
    }

    fn a_program_that_computes_is_interrupted_by_the_timer() {
        let mut programs = Scheduler::default();
        programs.add("primes", primes(100_000));
        let (ended, end) = programs.run().await.unwrap();
        assert_eq!(end, End::Exit(0));
        assert!(ended.preempted > 0);
    }

    fn a_turn_that_is_over_ends_at_once() {
        let mut process = primes(u32::MAX);
        let over = time::now();
        let event = loop {
            match process.step(over) {
                Event::PageFault(address) => {
                    process.grow_stack(address).unwrap()
                }
                event => break event,
            }
        };
        // Its first system call is milliseconds away.
        assert!(matches!(event, Event::Interrupt));
    }

    fn what_is_no_program_is_refused() {
        let refused = Process::load(b"no program", 0);
        assert!(matches!(refused, Err(LoadError::NoProgram)));
    }
}
