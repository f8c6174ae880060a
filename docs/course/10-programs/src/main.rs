//! Lesson 10: a kernel with three programs.
//!
//! They run at the same time, and one reads where it may not.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::rc::Rc;
use core::cell::Cell;
use lesson10::{run, spy, talk, work};
use lg_guest::boot::Boot;
use lg_guest::{power, println, task};

lg_guest::entry!(main);

fn main(_: &'static Boot) {
    let programs = [
        ("talk", talk(), 5),
        ("work", work(), 100),
        ("spy", spy(), 0),
    ];
    let running = Rc::new(Cell::new(programs.len()));
    for (name, code, argument) in programs {
        let running = running.clone();
        let program = async move {
            let (end, counts) = run(code, argument).await;
            println!("{name}: {end:x?}, {counts:?}");
            running.set(running.get() - 1);
            if running.get() == 0 {
                power::off(0);
            }
        };
        task::spawn(name, program).expect("there is room for a task");
    }
}
