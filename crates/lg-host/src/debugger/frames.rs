//! Where programs are whose page directories are not loaded.
//!
//! A debugger shows each page directory as a thread. When the Guest loads
//! another one, its kernel runs, and on the kernel's stack is what the trap has
//! pushed by which the program entered the kernel. These words are noted then,
//! because a kernel may use the same stack for the next program. All other
//! registers are where only the kernel knows.
//!
//! Nothing is noted before a debugger has come.

use crate::address::GuestVirt;
use crate::host::Host;
use core::cell::Cell;
use lg_abi::page::LINEAR;
use lg_wire::debug::{Frame, Outcome};
use lg_wire::state::MAX_VIEWS;

/// The words that a trap pushes in user mode, an error code left out.
const WORDS: u32 = 5;

/// What was noted. All zero is right at the beginning.
#[derive(Default)]
#[repr(C)]
pub(super) struct Frames {
    /// 1 = a debugger has come.
    noted: Cell<u32>,
    /// Where the kernel's stack was when it was set, or when the page directory
    /// was loaded, and what was there: another program may have entered the
    /// kernel by that.
    old: Cell<(u32, Frame)>,
    all: [Noted; MAX_VIEWS],
}

/// The frame of a program.
#[derive(Default)]
#[repr(C)]
struct Noted {
    /// Its page directory.
    directory: Cell<u32>,
    /// All zero = it is not known.
    frame: Cell<Frame>,
}

impl Frames {
    /// The debugger has gone.
    pub(super) fn end(&self) {
        self.noted.set(0);
        for noted in &self.all {
            noted.frame.set(Frame::default());
        }
    }

    fn of(&self, directory: u32) -> Option<&Noted> {
        let mut all = self.all.iter();
        all.find(|noted| {
            noted.directory.get() == directory
                && noted.frame.get() != Frame::default()
        })
    }
}

impl Host<'_> {
    /// A debugger has given an order.
    pub(super) fn begin_noting_frames(&self) {
        let frames = &self.vm.debugger.frames;
        if frames.noted.replace(1) == 0 {
            frames.old.set(self.top_of_stack());
        }
    }

    /// The Guest has another stack for its kernel: what is there is old.
    #[inline]
    pub(crate) fn note_stack_set(&self) {
        let frames = &self.vm.debugger.frames;
        if frames.noted.get() != 0 {
            frames.old.set(self.top_of_stack());
        }
    }

    /// The Guest is about to load another page directory. If a debugger is
    /// there, notes where the program of this one is.
    #[inline]
    pub(crate) fn note_directory_left(&self) {
        if self.vm.debugger.frames.noted.get() != 0 {
            self.note_frame();
        }
    }

    #[cold]
    fn note_frame(&self) {
        let frames = &self.vm.debugger.frames;
        let directory = self.vm.cr3.get();
        let now = self.top_of_stack();
        let is_new = frames.old.replace(now) != now;
        let (_, frame) = now;
        if directory == LINEAR || !is_new || !is_of_program(&frame) {
            return;
        }
        let free = || {
            let used =
                |noted: &Noted| self.view_of(noted.directory.get()).is_some();
            frames.all.iter().find(|noted| !used(noted))
        };
        if let Some(noted) = frames.of(directory).or_else(free) {
            noted.directory.set(directory);
            noted.frame.set(frame);
        }
    }

    /// Where the kernel's stack begins, and what the last trap from user mode
    /// has pushed there.
    fn top_of_stack(&self) -> (u32, Frame) {
        let top = self.vm.esp1.get();
        let mut frame = Frame::default();
        for (n, word) in (1..=WORDS).rev().zip(&mut frame) {
            let at = GuestVirt(top.wrapping_sub(4 * n));
            *word = self.read_virtual(at).unwrap_or(0);
        }
        (top, frame)
    }

    /// Puts the frame of the program of `directory` into the text.
    pub(super) fn show_frame(&self, directory: u32) -> Outcome {
        let Some(noted) = self.vm.debugger.frames.of(directory) else {
            return Outcome::NoSuch;
        };
        let mut text = [0; WORDS as usize * 4];
        for (to, word) in text.chunks_exact_mut(4).zip(noted.frame.get()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.vm.wire.mailbox.write_text(&text);
        Outcome::Done
    }
}

/// Whether a trap from user mode can have pushed this. A stack that was never
/// used has something else there.
fn is_of_program(&[_, cs, _, _, ss]: &Frame) -> bool {
    const USER: u32 = 3;
    cs & ss & USER == USER
}

const _: () = assert!(size_of::<Frame>() == WORDS as usize * 4);
