//! Frames: the pages of physical memory, and their addresses.
//!
//! All memory is mapped at `PAGE_OFFSET`, so an address in the kernel and its
//! physical one differ by a constant. [`Phys`] keeps the two apart. Memory
//! starts out zeroed, and it may be large. Frames are therefore taken from one
//! end as they are needed, and the rest is not touched. Only freed frames are
//! in a list; each holds the number of the next.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{frame, println};
//!
//! fn use_a_page() {
//!     let mut page = frame::alloc_zeroed().expect("there is memory");
//!     page.bytes()[..5].copy_from_slice(b"hello");
//!     println!("physical address {:#x}", page.phys().0);
//!     frame::release(page);
//!     println!("{} pages are free", frame::available());
//! }
//! ```

#![expect(unsafe_code, reason = "reaches memory by its physical address")]

use crate::one_cpu::OneCpu;
use lg_abi::page::{DEFAULT_PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE};

/// A physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Phys(pub u32);

impl Phys {
    /// The physical address of `at`, which is in the linear mapping.
    #[must_use]
    pub fn of<T: ?Sized>(at: *const T) -> Self {
        let va = crate::word(at.cast::<u8>() as usize);
        debug_assert!(va >= DEFAULT_PAGE_OFFSET);
        Self(va.wrapping_sub(DEFAULT_PAGE_OFFSET))
    }

    /// Where the kernel finds it.
    #[must_use]
    pub const fn ptr<T>(self) -> *mut T {
        (self.0.wrapping_add(DEFAULT_PAGE_OFFSET)) as usize as *mut T
    }
}

/// A page of physical memory, owned by this value.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(u32);

impl Frame {
    /// A placeholder for a frame that was moved out; never used.
    pub(crate) const fn none() -> Self {
        Self(0)
    }

    /// Its page number.
    #[must_use]
    pub const fn pfn(&self) -> u32 {
        self.0
    }

    /// Where it begins.
    #[must_use]
    pub const fn phys(&self) -> Phys {
        Phys(self.0 << PAGE_SHIFT)
    }

    /// Its contents, to be read and written as bytes.
    pub fn bytes(&mut self) -> &mut [u8; PAGE_SIZE as usize] {
        // SAFETY: the frame is ours alone (there is no second `Frame` with
        // its number), it is mapped (crate rule 2), and bytes may be anything.
        unsafe { &mut *self.phys().ptr() }
    }
}

/// The frames that are free.
struct Free {
    /// Never used and still zero: from here ...
    next: u32,
    /// ... up to here.
    end: u32,
    /// The list of freed frames: the number of the first one, or 0.
    list: u32,
    listed: u32,
}

static FREE: OneCpu<Free> = OneCpu::new(Free {
    next: 0,
    end: 0,
    list: 0,
    listed: 0,
});

/// Hands over the pages `start` to `end` (not included), all of them zero.
pub(crate) fn init(start: u32, end: u32) {
    FREE.with(|free| (free.next, free.end) = (start, end));
}

/// A frame with any contents, or `None` if none is free.
#[must_use]
pub fn alloc() -> Option<Frame> {
    FREE.with(|free| {
        if free.list != 0 {
            let frame = Frame(free.list);
            // SAFETY: a frame in the list holds the number of the next one,
            // written by `release`, and it was free since.
            free.list = unsafe { frame.phys().ptr::<u32>().read() };
            free.listed -= 1;
            return Some(frame);
        }
        take_fresh(free, 1)
    })
}

/// A frame full of zeros.
#[must_use]
pub fn alloc_zeroed() -> Option<Frame> {
    let fresh = FREE.with(|free| take_fresh(free, 1));
    fresh.or_else(|| {
        let mut frame = alloc()?;
        frame.bytes().fill(0);
        Some(frame)
    })
}

/// The first of `count` zeroed frames in a row. They are never freed.
pub(crate) fn alloc_row(count: u32) -> Option<Phys> {
    FREE.with(|free| take_fresh(free, count)).map(|f| f.phys())
}

fn take_fresh(free: &mut Free, count: u32) -> Option<Frame> {
    if free.end - free.next < count {
        return None;
    }
    let frame = Frame(free.next);
    free.next += count;
    Some(frame)
}

/// Gives a frame back. All mappings of it must be gone.
pub fn release(frame: Frame) {
    FREE.with(|free| {
        // SAFETY: the frame is ours and mapped; this call takes it over.
        unsafe { frame.phys().ptr::<u32>().write(free.list) };
        free.list = frame.pfn();
        free.listed += 1;
    });
}

/// How many frames are free.
pub fn available() -> u32 {
    FREE.with(|free| free.end - free.next + free.listed)
}
