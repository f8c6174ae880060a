//! User programs: code that may touch nothing but its own memory.
//!
//! A program has an address space, the pages of its file, and a stack to which
//! zeroed pages are added as it grows. The kernel enters user mode by
//! [`Process::step`], which returns at the next [`Event`]: a system call, a
//! page fault, an interrupt. Who runs when is up to the kernel: a scheduler
//! calls `step` of one program after the other.
//!
//! A kernel without wishes of its own awaits [`Process::run`], which answers
//! the system calls of [`call`]. One that has to wait is an `await`. A program
//! that only computes is interrupted by the alarm, and its future then yields
//! to other tasks.
//!
//! Programs are written with the crate `lg-user`.
//!
//! Not saved: `fs` and `gs`. Programs here have no thread-local storage.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::time::{self, MILLISECOND};
//! use lg_guest::user::{End, Event, LoadError, Process, call};
//!
//! /// Runs the program in the ELF file `image`, which may only print and end.
//! fn run(image: &[u8]) -> Result<End, LoadError> {
//!     let mut program = Process::load(image, 0)?;
//!     loop {
//!         match program.step(time::now() + 10 * MILLISECOND) {
//!             Event::Call(call::EXIT, [code, ..]) => {
//!                 return Ok(End::Exit(code));
//!             }
//!             Event::Call(call::WRITE, [at, bytes, _]) => {
//!                 let printed = program.print(at, bytes);
//!                 program.answer(printed);
//!             }
//!             Event::Call(..) => program.answer(call::FAILED),
//!             Event::PageFault(address) => {
//!                 if let Err(end) = program.grow_stack(address) {
//!                     return Ok(end);
//!                 }
//!             }
//!             Event::Interrupt => {} // another program could run now
//!             Event::Trap(end) => return Ok(end),
//!         }
//!     }
//! }
//! ```

mod load;
pub use load::LoadError;

mod run;

use crate::frame::{self, Frame, Phys};
use crate::one_cpu::OneCpu;
use crate::paging::{AddressSpace, OutOfMemory, USER_READ, USER_WRITE};
use crate::trap::{self, Registers, UserState};
use crate::{hcall, irq, print, shared, time, word};
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::KERNEL_DS;
use lg_abi::shared::{PAGE_FAULT_VECTOR, SYSCALL_VECTOR};
pub use lg_user::call;

/// Where the code of [`Process::new`] begins, and with it the program.
pub const CODE: u32 = 0x0804_8000;

/// Just above the first word of its stack.
pub const STACK_TOP: u32 = 0xB000_0000;

/// How far the stack may grow.
pub const STACK_MAX: u32 = 4 << 20;

/// How long [`Process::run`] lets a program run while others wait, in
/// nanoseconds.
pub const SLICE: u64 = 4 * time::MILLISECOND;

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

/// The file of a program that the build script has compiled
/// (`lg_user::programs::build`), as `&'static [u8]`.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        &include_bytes!(concat!(env!("OUT_DIR"), "/", $name))[..]
    };
}

/// Why user mode was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A system call: its number, of [`call`] or the kernel's own, and its
    /// arguments. [`Process::answer`] gives the result.
    Call(u32, [u32; 3]),
    /// A page fault at this address: [`Process::grow_stack`] may be the cure.
    PageFault(u32),
    /// An interrupt, for example the alarm that ends the program's turn.
    Interrupt,
    /// Another trap, which ends the program.
    Trap(End),
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
        Self::start(space, CODE, argument)
    }

    /// A program that starts at `entry` in `space`.
    fn start(
        space: AddressSpace,
        entry: u32,
        argument: u32,
    ) -> Result<Self, OutOfMemory> {
        let state = frame::alloc_zeroed().ok_or(OutOfMemory)?;
        let mut process = Self {
            space,
            state,
            counts: Counts::default(),
        };
        *process.state() = UserState::new(entry, STACK_TOP);
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

    /// What the program has done so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Runs the program until its next event. The alarm interrupts it at the
    /// moment `until` at the latest ([`time::now`] has the same zero).
    /// Interrupts are on again when this returns.
    pub fn step(&mut self, until: u64) -> Event {
        // In this order: an alarm that went off in the kernel would not end the
        // program's time. It stays pending until the program is entered.
        irq::disable();
        time::alarm_by(until);
        self.take_traps();
        self.space.activate();
        #[expect(unsafe_code, reason = "enters user mode")]
        // SAFETY: `take_traps` and `activate` have just made stack and
        // address space this program's; interrupts are off.
        unsafe {
            trap::enter_user(self.state());
        }
        let event = self.event();
        irq::enable();
        event
    }

    /// What has just ended user mode. Interrupts are off.
    fn event(&mut self) -> Event {
        let registers = *self.registers();
        match registers.vector {
            SYSCALL_VECTOR => {
                self.counts.calls += 1;
                let Registers { ebx, ecx, edx, .. } = registers;
                Event::Call(registers.eax, [ebx, ecx, edx])
            }
            PAGE_FAULT_VECTOR => Event::PageFault(shared::cr2()),
            vector => match trap::irq_of(vector) {
                Some(irq) => {
                    irq::arrived(irq);
                    self.counts.interrupts += 1;
                    Event::Interrupt
                }
                None => Event::Trap(self.trapped(0)),
            },
        }
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

    fn trapped(&mut self, address: u32) -> End {
        let registers = self.registers();
        End::Trap {
            vector: registers.vector,
            eip: registers.eip,
            address,
        }
    }

    /// Gives the program the result of its system call.
    pub fn answer(&mut self, result: u32) {
        self.registers().eax = result;
    }

    /// After a page fault at `address`: gives the program a zeroed page there
    /// if that is how its stack grows.
    ///
    /// # Errors
    ///
    /// How the program ends, if it is not, or there is no memory.
    pub fn grow_stack(&mut self, address: u32) -> Result<(), End> {
        /// In the error code: the page is present, and its rights forbid the
        /// access.
        const PROTECTION: u32 = 1;
        let in_stack = (STACK_TOP - STACK_MAX..STACK_TOP).contains(&address);
        if !in_stack || self.registers().error & PROTECTION != 0 {
            return Err(self.trapped(address));
        }
        let page = frame::alloc_zeroed().ok_or(End::OutOfMemory)?;
        self.counts.faults += 1;
        let va = address & !(PAGE_SIZE - 1);
        let mapped = self.space.map(va, page, USER_WRITE);
        mapped.map_err(|OutOfMemory| End::OutOfMemory)
    }

    /// Prints memory of the program, at most [`call::WRITE_MAX`] bytes. Returns
    /// the result of [`call::WRITE`].
    #[must_use]
    pub fn print(&self, address: u32, bytes: u32) -> u32 {
        let mut buffer = [0; call::WRITE_MAX];
        let length = (bytes as usize).min(call::WRITE_MAX);
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
