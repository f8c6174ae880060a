//! User programs: code that may touch nothing but its own memory.
//!
//! A program has an address space, a page of code, and a stack to which zeroed
//! pages are added as it grows. The kernel runs it as a future. Each step
//! enters user mode and returns at the next trap: a system call, a page fault
//! or an interrupt. A system call that has to wait is an `await`. A program
//! that only computes is interrupted by the alarm, and its future then yields
//! to other tasks.
//!
//! Not saved: `fs` and `gs`. Programs here have no thread-local storage.

use crate::executor::yield_now;
use crate::frame::{self, Frame, Phys};
use crate::one_cpu::OneCpu;
use crate::paging::{AddressSpace, OutOfMemory, USER_READ, USER_WRITE};
use crate::trap::{self, Registers, UserState};
use crate::{hcall, irq, print, shared, task, time, word};
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::KERNEL_DS;
use lg_abi::shared::{PAGE_FAULT_VECTOR, SYSCALL_VECTOR};

/// Where a program's code begins, and with it the program.
pub const CODE: u32 = 0x0804_8000;

/// Just above the first word of its stack.
pub const STACK_TOP: u32 = 0xB000_0000;

/// How far the stack may grow.
pub const STACK_MAX: u32 = 4 << 20;

/// The most that [`call::WRITE`] prints at a time.
const WRITE_MAX: usize = 256;

/// System calls: number in eax, arguments in ebx and ecx, result in eax.
pub mod call {
    /// Ends the program; ebx = its result.
    pub const EXIT: u32 = 0;
    /// Prints; ebx = address, ecx = bytes. Result: bytes, or [`FAILED`].
    pub const WRITE: u32 = 1;
    /// Lets other tasks run.
    pub const YIELD: u32 = 2;
    /// Sleeps; ebx = microseconds.
    pub const SLEEP: u32 = 3;
    /// Does nothing.
    pub const NOTHING: u32 = 4;
    /// The result of an invalid call.
    pub const FAILED: u32 = u32::MAX;
}

/// A user program.
pub struct Process {
    space: AddressSpace,
    /// Holds a [`UserState`].
    state: Frame,
    counts: Counts,
}

/// Counts of what a program has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// System calls.
    pub calls: u32,
    /// Pages that it was given when it first touched them.
    pub faults: u32,
    /// Interrupts that came while it ran.
    pub interrupts: u32,
}

/// How a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By [`call::EXIT`], with a result.
    Exit(u32),
    /// By a trap that ends a program.
    Trap {
        /// Which one.
        vector: u32,
        /// Where.
        eip: u32,
        /// For a page fault: at which address.
        address: u32,
    },
    /// There was no memory for it.
    OutOfMemory,
}

/// Why user mode was left.
enum Stop {
    Call,
    PageFault(u32),
    Interrupt,
    Trap,
}

impl Process {
    /// A program made of `code`, at most a page of it, that finds `argument`
    /// in ebx. The code is copied, and has to run at [`CODE`].
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(code: &[u8], argument: u32) -> Result<Self, OutOfMemory> {
        let mut space = AddressSpace::new()?;
        let mut page = frame::alloc_zeroed().ok_or(OutOfMemory)?;
        page.bytes()[..code.len()].copy_from_slice(code);
        space.map(CODE, page, USER_READ)?;

        let state = frame::alloc_zeroed().ok_or(OutOfMemory)?;
        let mut process = Self {
            space,
            state,
            counts: Counts::default(),
        };
        *process.state() = UserState::new(CODE, STACK_TOP);
        process.registers().ebx = argument;
        Ok(process)
    }

    fn state(&mut self) -> &mut UserState {
        #[expect(unsafe_code, reason = "a frame as what is kept in it")]
        // SAFETY: the frame is ours, mapped, and was zeroed, which makes a
        // valid `UserState`; it begins at a multiple of any alignment. The
        // Host writes to it only inside `enter_user`.
        unsafe {
            &mut *self.state.phys().ptr::<UserState>()
        }
    }

    /// The program's registers.
    pub fn registers(&mut self) -> &mut Registers {
        &mut self.state().registers
    }

    /// Runs the program until its next trap.
    fn step(&mut self) -> Stop {
        time::limit_slice();
        irq::disable();
        self.take_traps();
        self.space.activate();
        #[expect(unsafe_code, reason = "enters user mode")]
        // SAFETY: `take_traps` and `activate` have just made stack and
        // address space this program's; interrupts are off.
        unsafe {
            trap::enter_user(self.state());
        }
        let vector = self.registers().vector;
        let stop = match vector {
            SYSCALL_VECTOR => Stop::Call,
            PAGE_FAULT_VECTOR => Stop::PageFault(shared::cr2()),
            _ => match trap::irq_of(vector) {
                Some(irq) => {
                    irq::arrived(irq);
                    Stop::Interrupt
                }
                None => Stop::Trap,
            },
        };
        irq::enable();
        stop
    }

    /// Tells the Host to push traps from user mode onto this program's state.
    /// No hypercall is needed if this program was also the last one to run.
    fn take_traps(&self) {
        static LAST: OneCpu<Phys> = OneCpu::new(Phys(0));
        let at = self.state.phys();
        if LAST.with(|last| core::mem::replace(last, at)) != at {
            let top = at.ptr::<u8>() as usize + UserState::STACK_TOP;
            hcall::set_stack(KERNEL_DS.into(), word(top), 1);
        }
    }

    /// Runs the program to its end.
    pub async fn run(mut self) -> (End, Counts) {
        loop {
            let end = match self.step() {
                Stop::Call => self.call().await,
                Stop::PageFault(address) => self.demand_zero(address),
                Stop::Interrupt => {
                    self.counts.interrupts += 1;
                    if task::others_ready() || time::fired() {
                        yield_now().await;
                    }
                    None
                }
                Stop::Trap => Some(self.trapped(0)),
            };
            if let Some(end) = end {
                return (end, self.counts);
            }
        }
    }

    fn trapped(&mut self, address: u32) -> End {
        let registers = self.registers();
        End::Trap {
            vector: registers.vector,
            eip: registers.eip,
            address,
        }
    }

    /// A page fault: inside the stack it is how the stack grows.
    fn demand_zero(&mut self, address: u32) -> Option<End> {
        /// In the error code: the page is present, and its rights forbid the
        /// access.
        const PROTECTION: u32 = 1;
        let in_stack = (STACK_TOP - STACK_MAX..STACK_TOP).contains(&address);
        if !in_stack || self.registers().error & PROTECTION != 0 {
            return Some(self.trapped(address));
        }
        let Some(page) = frame::alloc_zeroed() else {
            return Some(End::OutOfMemory);
        };
        self.counts.faults += 1;
        let va = address & !(PAGE_SIZE - 1);
        match self.space.map(va, page, USER_WRITE) {
            Ok(()) => None,
            Err(OutOfMemory) => Some(End::OutOfMemory),
        }
    }

    /// A system call.
    async fn call(&mut self) -> Option<End> {
        self.counts.calls += 1;
        let Registers { eax, ebx, ecx, .. } = *self.registers();
        let result = match eax {
            call::EXIT => return Some(End::Exit(ebx)),
            call::WRITE => self.write(ebx, ecx),
            call::YIELD => {
                yield_now().await;
                0
            }
            call::SLEEP => {
                time::sleep(u64::from(ebx) * 1_000).await;
                0
            }
            call::NOTHING => 0,
            _ => call::FAILED,
        };
        self.registers().eax = result;
        None
    }

    fn write(&self, address: u32, bytes: u32) -> u32 {
        let mut buffer = [0; WRITE_MAX];
        let length = (bytes as usize).min(WRITE_MAX);
        match self.space.read(address, &mut buffer[..length]) {
            Ok(()) => {
                print::print_bytes(&buffer[..length]);
                print::flush();
                word(length)
            }
            Err(_) => call::FAILED,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let state = core::mem::replace(&mut self.state, Frame::none());
        frame::release(state);
    }
}
