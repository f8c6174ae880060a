//! Threads: the Guest's processor, and its page directories.
//!
//! Thread 1 is the processor, with the page directory that is loaded. It alone
//! runs, and every stop is its. Each page directory that has a view is a thread
//! as well, whose memory is seen by its own tables, whether it is loaded or
//! not. The program of one that is not loaded is where it was when it entered
//! the kernel; its other registers are not known.
//!
//! The processor has a thread of its own because one function of a kernel may
//! run with several page directories, one after the other. GDB awaits the end
//! of a `next` or `finish` in the thread that has begun it.

use super::monitor::state;
use super::registers::Registers;
use super::target::{Debugged, Gone};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::thread_extra_info::{
    ThreadExtraInfo, ThreadExtraInfoOps,
};
use gdbstub::target::{TargetError, TargetResult};
use lg_abi::page::LINEAR;
use lg_wire::debug::{Order, Outcome, Space, Word};

/// The thread that runs.
pub(super) const PROCESSOR: Tid = Tid::MIN;

/// Page directories by the numbers of their threads, which they keep as long as
/// they have a view.
#[derive(Default)]
pub(super) struct Threads {
    known: Vec<(Tid, u32)>,
    /// The last number that was given, if one was.
    last: Option<Tid>,
    /// The processor is to carry out one instruction.
    steps: bool,
}

impl Threads {
    /// There are these page directories now.
    fn update(&mut self, directories: &[u32]) {
        self.known.retain(|(_, known)| directories.contains(known));
        for &directory in directories {
            if self.known.iter().all(|&(_, known)| known != directory) {
                let next = self.last.unwrap_or(PROCESSOR).saturating_add(1);
                self.last = Some(next);
                self.known.push((next, directory));
            }
        }
    }

    fn directory(&self, tid: Tid) -> Option<u32> {
        let mut known = self.known.iter();
        known.find(|&&(of, _)| of == tid).map(|&(_, at)| at)
    }
}

/// What a thread is.
#[derive(Clone, Copy)]
enum Thread {
    Processor,
    /// A page directory that is loaded.
    Loaded,
    /// One that is not.
    Other(u32),
}

impl Thread {
    /// How its memory is read and written.
    fn orders(self) -> [(Order, u32); 2] {
        match self {
            Self::Processor | Self::Loaded => [Order::Read, Order::Write]
                .map(|order| (order, Space::Virtual as u32)),
            Self::Other(directory) => {
                [Order::ReadIn, Order::WriteIn].map(|order| (order, directory))
            }
        }
    }
}

impl Debugged {
    /// The page directories that have a view.
    pub(super) fn known_directories(&self) -> Result<Vec<u32>, Gone> {
        let told = self.ask(Order::Directories, [0; 3])?;
        let (words, _) = told.bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn thread(&self, tid: Tid) -> TargetResult<Thread, Self> {
        if tid == PROCESSOR {
            return Ok(Thread::Processor);
        }
        let directory = self.threads.directory(tid);
        let directory = directory.ok_or(TargetError::NonFatal)?;
        let words = self.words().map_err(TargetError::Fatal)?;
        Ok(match words[Word::Cr3 as usize] == directory {
            true => Thread::Loaded,
            false => Thread::Other(directory),
        })
    }

    /// The registers of a program whose page directory is not loaded.
    fn registers_of(&self, directory: u32) -> Result<Registers, Gone> {
        let told = self.ask(Order::ReadFrame, [directory, 0, 0])?;
        let (words, _) = told.bytes.as_chunks::<4>();
        let frame = words.first_chunk::<5>();
        let frame = frame.filter(|_| told.outcome == Outcome::Done);
        let frame = frame.map(|words| words.map(u32::from_le_bytes));
        Ok(Registers::of_program(directory, frame))
    }
}

impl MultiThreadBase for Debugged {
    fn read_registers(
        &mut self,
        registers: &mut Registers,
        tid: Tid,
    ) -> TargetResult<(), Self> {
        *registers = match self.thread(tid)? {
            Thread::Processor | Thread::Loaded => {
                let words = self.words().map_err(TargetError::Fatal)?;
                let fpu = self.fpu().map_err(TargetError::Fatal)?;
                Registers::new(&words, &fpu)
            }
            Thread::Other(directory) => {
                self.registers_of(directory).map_err(TargetError::Fatal)?
            }
        };
        Ok(())
    }

    fn write_registers(
        &mut self,
        registers: &Registers,
        tid: Tid,
    ) -> TargetResult<(), Self> {
        match self.thread(tid)? {
            Thread::Processor | Thread::Loaded => self.set_registers(registers),
            // They are the kernel's to load.
            Thread::Other(_) => Err(TargetError::NonFatal),
        }
    }

    fn read_addrs(
        &mut self,
        start: u32,
        bytes: &mut [u8],
        tid: Tid,
    ) -> TargetResult<usize, Self> {
        let [order, _] = self.thread(tid)?.orders();
        let read = self.look(order, start, bytes);
        match read.map_err(TargetError::Fatal)? {
            0 if !bytes.is_empty() => Err(TargetError::NonFatal),
            read => Ok(read),
        }
    }

    fn write_addrs(
        &mut self,
        start: u32,
        bytes: &[u8],
        tid: Tid,
    ) -> TargetResult<(), Self> {
        let [_, order] = self.thread(tid)?.orders();
        self.change(order, start, bytes)
    }

    fn list_active_threads(
        &mut self,
        thread_is_active: &mut dyn FnMut(Tid),
    ) -> Result<(), Gone> {
        let mut directories = self.known_directories()?;
        // Without paging there is nothing but the processor.
        directories.retain(|&directory| directory != LINEAR);
        self.threads.update(&directories);
        thread_is_active(PROCESSOR);
        for &(tid, _) in &self.threads.known {
            thread_is_active(tid);
        }
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(
        &mut self,
    ) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Debugged {
    fn thread_extra_info(
        &self,
        tid: Tid,
        buffer: &mut [u8],
    ) -> Result<usize, Gone> {
        let words = self.words()?;
        let loaded = words[Word::Cr3 as usize];
        let text = match self.threads.directory(tid) {
            Some(directory) if directory == loaded => {
                format!("page directory {directory:#010x}, loaded")
            }
            Some(directory) => format!("page directory {directory:#010x}"),
            None if tid == PROCESSOR => format!("processor: {}", state(&words)),
            None => "gone".into(),
        };
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl MultiThreadResume for Debugged {
    fn resume(&mut self) -> Result<(), Gone> {
        self.go_on(self.threads.steps)
    }

    fn clear_resume_actions(&mut self) -> Result<(), Gone> {
        self.threads.steps = false;
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        _: Tid,
        _: Option<Signal>,
    ) -> Result<(), Gone> {
        Ok(())
    }

    fn support_single_step(
        &mut self,
    ) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(
        &mut self,
    ) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debugged {
    /// Whatever thread is meant, only the processor can do it.
    fn set_resume_action_step(
        &mut self,
        _: Tid,
        _: Option<Signal>,
    ) -> Result<(), Gone> {
        self.threads.steps = true;
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debugged {
    /// Nothing but the processor runs anyway.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Gone> {
        Ok(())
    }
}
