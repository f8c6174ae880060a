//! A scheduler: programs take turns, and the timer ends each turn.
#![no_std]

extern crate alloc;

use alloc::collections::VecDeque;
use lg_guest::time::{self, MILLISECOND};
use lg_guest::user::{End, Event, Process, call};

/// How long a turn is, in nanoseconds.
const TURN: u64 = 2 * MILLISECOND;

/// A program, and when it wants to run again.
pub struct Program {
    pub name: &'static str,
    process: Process,
    wakes: u64,
    /// How many of its turns the timer has ended.
    pub preempted: u32,
}

/// The programs that have not ended, in the order of their turns.
#[derive(Default)]
pub struct Scheduler(VecDeque<Program>);

impl Scheduler {
    /// Adds a program, which was made from its file.
    pub fn add(&mut self, name: &'static str, process: Process) {
        let (wakes, preempted) = (0, 0);
        self.0.push_back(Program {
            name,
            process,
            wakes,
            preempted,
        });
    }

    /// Runs programs until one has ended. `None` if there are none.
    pub async fn run(&mut self) -> Option<(Program, End)> {
        loop {
            time::until(self.0.iter().map(|p| p.wakes).min()?).await;
            let now = time::now();
            let next =
                self.0.iter().position(|program| program.wakes <= now)?;
            let mut program = self.0.remove(next)?;
            if let Err(end) = program.turn() {
                return Some((program, end));
            }
            self.0.push_back(program);
        }
    }
}

impl Program {
    /// Runs until its turn is over, or it has ended.
    fn turn(&mut self) -> Result<(), End> {
        let over = time::now() + TURN;
        loop {
            let result = match self.process.step(over) {
                Event::Interrupt if time::now() < over => continue, // a device's
                Event::Interrupt => {
                    self.preempted += 1;
                    return Ok(());
                }
                Event::PageFault(address) => {
                    self.process.grow_stack(address)?;
                    continue;
                }
                Event::Trap(end) => return Err(end),
                Event::Call(call::EXIT, [code, ..]) => {
                    return Err(End::Exit(code));
                }
                Event::Call(call::SLEEP, [microseconds, ..]) => {
                    self.wakes = time::now() + u64::from(microseconds) * 1_000;
                    self.process.answer(0);
                    return Ok(());
                }
                Event::Call(call::WRITE, [at, bytes, _]) => {
                    self.process.print(at, bytes)
                }
                Event::Call(..) => call::FAILED,
            };
            self.process.answer(result);
        }
    }
}
