//! A program as a future, with the system calls that the kit has ready.
//!
//! Each turn takes [`SLICE`] at most if other tasks are ready.

use super::{Counts, End, Event, Process, SLICE, call};
use crate::executor::yield_now;
use crate::{task, time};

impl Process {
    /// Runs the program to its end.
    pub async fn run(mut self) -> (End, Counts) {
        loop {
            let end = match self.step(time::now() + SLICE) {
                Event::Call(number, arguments) => {
                    self.call(number, arguments).await
                }
                Event::PageFault(address) => self.grow_stack(address).err(),
                Event::Interrupt => {
                    if task::others_ready() {
                        yield_now().await;
                    }
                    None
                }
                Event::Trap(end) => Some(end),
            };
            if let Some(end) = end {
                return (end, self.counts());
            }
        }
    }

    /// A system call.
    async fn call(&mut self, number: u32, arguments: [u32; 3]) -> Option<End> {
        let [first, second, _] = arguments;
        let result = match number {
            call::EXIT => return Some(End::Exit(first)),
            call::WRITE => self.print(first, second),
            call::YIELD => {
                yield_now().await;
                0
            }
            call::SLEEP => {
                time::sleep(u64::from(first) * 1_000).await;
                0
            }
            call::NOTHING => 0,
            _ => call::FAILED,
        };
        self.answer(result);
        None
    }
}
