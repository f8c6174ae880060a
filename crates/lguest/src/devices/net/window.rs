//! A Guest's memory as frames see it: mapped whole, copied by sections.
//!
//! A frame goes from the memory of one Guest straight into that of another,
//! whose Launcher has handed us its memory file. That Launcher may lie, so a
//! file becomes a [`Window`] only if it is ordinary memory that nobody can
//! ever make shorter: then a mapped byte stays a mapped byte. Everything
//! inside is written by Guests, and copied; nothing is borrowed.

#![expect(unsafe_code, reason = "memory shared with hostile processes")]

use lg_abi::dma::{Dma, LGUEST_MAX_DMA_SECTIONS};
use lg_abi::page::PAGE_SIZE;
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use zerocopy::{FromZeros, IntoBytes};

use crate::memory::BadAddress;

/// A memory file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum WindowError {
    /// Not on tmpfs: touching it could wait for a disk, a program, a network.
    #[error("the file is not ordinary memory")]
    NotMemory,
    /// It could be made shorter under our hands.
    #[error("the memory file is not sealed against shrinking")]
    NotSealed,
    /// Nothing a 32-bit Guest could have.
    #[error("a memory file of {0} bytes")]
    Size(u64),
    /// What the kernel says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for WindowError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A list of sections that no transfer may follow: its owner dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "bad dma section {addr:#x}+{len:#x}: it must lie inside one page below \
     {limit:#x}"
)]
pub(super) struct BadSection {
    addr: u32,
    len: u16,
    limit: u32,
}

/// A memory file, mapped.
///
/// # Invariants
///
/// 1. `base .. base + limit` is mapped readable and writable, shared, until
///    this is dropped; nobody but this module knows the address.
/// 2. The bytes below it cannot go away: the file is memory and is sealed
///    against shrinking, or is the network's page (see `share_page`).
/// 3. `limit` is a whole number of pages.
pub(super) struct Window {
    base: NonNull<u8>,
    limit: u32,
}

// SAFETY: the mapping is plain memory that belongs to no thread (invariant 1),
// and every access to it is a copy by raw pointer.
unsafe impl Send for Window {}
// SAFETY: as above; copies that race with each other race with the Guest too.
unsafe impl Sync for Window {}

impl Window {
    /// Maps all of `file`.
    pub(super) fn open(file: BorrowedFd<'_>) -> Result<Self, WindowError> {
        let size = Self::size(file)?;
        let limit = u32::try_from(size).map_err(|_| WindowError::Size(size))?;
        Self::map(file, 0, limit)
    }

    /// Maps `len` bytes from `offset` of a `file` that has exactly `size`. All
    /// three are whole pages of our own choice.
    pub(super) fn open_part(
        file: BorrowedFd<'_>,
        size: u32,
        offset: u32,
        len: u32,
    ) -> Result<Self, WindowError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= size));
        match Self::size(file)? {
            right if right == u64::from(size) => Self::map(file, offset, len),
            wrong => Err(WindowError::Size(wrong)),
        }
    }

    /// The size of `file`, which cannot become less and is not zero.
    fn size(file: BorrowedFd<'_>) -> Result<u64, WindowError> {
        // In this order: only what is memory has seals, and to ask for them
        // never blocks. `fstatfs` could, on a file of another kind.
        match rustix::fs::fcntl_get_seals(file) {
            Err(_) => return Err(WindowError::NotMemory),
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            Ok(_) => return Err(WindowError::NotSealed),
        }
        // Large pages can be lacking when they are touched.
        if rustix::fs::fstatfs(file)?.f_type != libc::TMPFS_MAGIC {
            return Err(WindowError::NotMemory);
        }
        // The size after the seal: from here on it cannot become less.
        let size = rustix::fs::fstat(file)?.st_size.unsigned_abs();
        if size == 0 || size % u64::from(PAGE_SIZE) != 0 {
            return Err(WindowError::Size(size));
        }
        Ok(size)
    }

    fn map(
        file: BorrowedFd<'_>,
        offset: u32,
        limit: u32,
    ) -> Result<Self, WindowError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice
        // touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                limit as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset.into(),
            )
        }?;
        let base = NonNull::new(base.cast()).expect("mmap never answers null");
        Ok(Self { base, limit })
    }

    /// Puts the network's own page where the Guest sees it: a frame may lie
    /// there like anywhere else.
    pub(super) fn share_page(
        &mut self,
        page: u32,
        file: impl AsFd,
    ) -> Result<(), WindowError> {
        if !page.is_multiple_of(PAGE_SIZE) || page > self.limit - PAGE_SIZE {
            return Err(WindowError::Size(page.into()));
        }
        // SAFETY: the page lies inside our mapping (just checked), and stays
        // mapped readable, writable and shared (invariant 1).
        unsafe {
            rustix::mm::mmap(
                self.base.as_ptr().wrapping_add(page as usize).cast(),
                PAGE_SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        }?;
        Ok(())
    }

    /// Bytes.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The address of the first byte: for [`super::port`], which keeps words
    /// of its own in a window of its own.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Copies the `lguest_dma` at `addr`.
    pub(super) fn dma(&self, addr: u32) -> Result<Dma, BadAddress> {
        let from = self.pointer(addr, Dma::SIZE)?;
        let mut dma = Dma::new_zeroed();
        let bytes = dma.as_mut_bytes();
        // SAFETY: `pointer` has checked the range (invariant 1); the struct
        // is ours, so the two cannot overlap.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(dma)
    }

    /// The word at `addr`, freshly read.
    pub(super) fn word(&self, addr: u32) -> Result<u32, BadAddress> {
        let from = self.pointer(addr, 4)?;
        fence(Ordering::SeqCst);
        // SAFETY: as in `dma`.
        Ok(unsafe { from.cast::<u32>().read_unaligned() })
    }

    /// Stores a word once everything before it can be seen.
    pub(super) fn write_last(
        &self,
        addr: u32,
        word: u32,
    ) -> Result<(), BadAddress> {
        let to = self.pointer(addr, 4)?;
        fence(Ordering::SeqCst);
        // SAFETY: as in `dma`.
        unsafe { to.cast::<u32>().write_unaligned(word) };
        Ok(())
    }

    /// The word at `offset`, for those who share more than frames by it.
    ///
    /// # Panics
    ///
    /// When there is no such word: offsets are of our own choice.
    pub(super) fn atomic(&self, offset: u32) -> &AtomicU32 {
        let word = self.pointer(offset, 4).expect("it lies in the window");
        let word = word.cast::<u32>();
        assert!(word.is_aligned(), "windows begin with a page");
        // SAFETY: it lies inside our mapping (invariant 1) for as long as
        // `self` lives; an atomic may be written by anybody at any time.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// One piece, anywhere in the window.
    pub(super) fn piece(
        &self,
        addr: u32,
        len: u32,
    ) -> Result<Sections<'_>, BadAddress> {
        self.pointer(addr, len)?;
        let mut list = [(0, 0); LGUEST_MAX_DMA_SECTIONS];
        list[0] = (addr, len);
        Ok(Sections {
            window: self,
            list,
            count: 1,
        })
    }

    /// Checks every section of `dma`: inside one page, below the limit.
    pub(super) fn sections(
        &self,
        dma: &Dma,
    ) -> Result<Sections<'_>, BadSection> {
        let mut list = [(0, 0); LGUEST_MAX_DMA_SECTIONS];
        let mut count = 0;
        for (slot, (addr, len)) in list.iter_mut().zip(dma.sections()) {
            let bytes = u32::from(len);
            let in_page = addr % PAGE_SIZE + bytes <= PAGE_SIZE;
            if !in_page || self.pointer(addr, bytes).is_err() {
                let limit = self.limit;
                return Err(BadSection { addr, len, limit });
            }
            *slot = (addr, bytes);
            count += 1;
        }
        Ok(Sections {
            window: self,
            list,
            count,
        })
    }

    /// The address of `len` bytes from `addr`, once checked.
    fn pointer(&self, addr: u32, len: u32) -> Result<*mut u8, BadAddress> {
        match addr.checked_add(len) {
            Some(end) if end <= self.limit => {
                Ok(self.base.as_ptr().wrapping_add(addr as usize))
            }
            _ => Err(BadAddress {
                addr,
                len,
                limit: self.limit,
            }),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: nobody knows the address any more (invariant 1).
        let unmapped = unsafe {
            rustix::mm::munmap(self.base.as_ptr().cast(), self.limit as usize)
        };
        debug_assert!(unmapped.is_ok(), "we mapped it ourselves");
    }
}

/// A list of sections that have been checked.
///
/// # Invariants
///
/// 1. `list[..count]` are (address, bytes), each inside `window`.
pub(super) struct Sections<'w> {
    window: &'w Window,
    list: [(u32, u32); LGUEST_MAX_DMA_SECTIONS],
    count: usize,
}

impl Sections<'_> {
    /// Bytes in all of them.
    pub(super) fn total(&self) -> u32 {
        self.list[..self.count].iter().map(|(_, len)| len).sum()
    }

    /// Copies these sections into those `to`, until either are exhausted.
    /// Answers the bytes.
    pub(super) fn copy(&self, to: &Sections<'_>) -> u32 {
        let (mut target, mut room) = (0, 0);
        let mut rest = to.list[..to.count].iter();
        let mut total = 0;
        for &(mut source, mut left) in &self.list[..self.count] {
            while left > 0 {
                if room == 0 {
                    let Some(&next) = rest.next() else {
                        return total;
                    };
                    (target, room) = next;
                }
                let step = left.min(room);
                let from = self.window.base.as_ptr();
                let into = to.window.base.as_ptr();
                // SAFETY: both pieces lie inside sections that lie inside
                // their windows (invariant 1), which are mappings apart.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        from.wrapping_add(source as usize),
                        into.wrapping_add(target as usize),
                        step as usize,
                    );
                };
                (source, left) = (source + step, left - step);
                (target, room) = (target + step, room - step);
                total += step;
            }
        }
        total
    }

    /// One readv of `file` into these sections: one frame of a tap.
    pub(super) fn read_from(&self, file: impl AsFd) -> io::Result<u32> {
        self.call(|iov, count| {
            // SAFETY: every vector lies inside the window (`call`), where
            // the kernel may write while the Guest looks on.
            unsafe { libc::readv(file.as_fd().as_raw_fd(), iov, count) }
        })
    }

    /// One writev of these sections to `file`: one frame for a tap.
    pub(super) fn write_to(&self, file: impl AsFd) -> io::Result<u32> {
        self.call(|iov, count| {
            // SAFETY: every vector lies inside the window (`call`).
            unsafe { libc::writev(file.as_fd().as_raw_fd(), iov, count) }
        })
    }

    /// One system call with all sections. Interruptions are retried.
    fn call(
        &self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<u32> {
        let base = self.window.base.as_ptr();
        let iov = self.list.map(|(addr, len)| libc::iovec {
            iov_base: base.wrapping_add(addr as usize).cast(),
            iov_len: len as usize,
        });
        let count = libc::c_int::try_from(self.count)
            .expect("no more than LGUEST_MAX_DMA_SECTIONS");
        loop {
            match u32::try_from(call(iov.as_ptr(), count)) {
                Ok(done) => return Ok(done),
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;
    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;
    use std::os::fd::OwnedFd;

    const PAGES: u32 = 8;
    const BYTES: u32 = PAGES * PAGE_SIZE;

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    fn dma(list: &[(u32, u16)]) -> Dma {
        let mut dma = Dma::default();
        for (i, &(addr, len)) in list.iter().enumerate() {
            (dma.addr[i], dma.len[i]) = (addr, len);
        }
        dma
    }

    #[test]
    fn only_memory_that_cannot_shrink_becomes_a_window() {
        let open = |fd: &OwnedFd| Window::open(fd.as_fd());
        assert!(open(&memfd(4096, SealFlags::SHRINK)).is_ok());
        assert!(matches!(
            open(&memfd(4096, SealFlags::GROW)),
            Err(WindowError::NotSealed)
        ));
        assert!(matches!(
            open(&memfd(0, SealFlags::SHRINK)),
            Err(WindowError::Size(0))
        ));
        assert!(matches!(
            open(&memfd(5000, SealFlags::SHRINK)),
            Err(WindowError::Size(5000))
        ));
        assert!(matches!(
            open(&memfd(1 << 32, SealFlags::SHRINK)),
            Err(WindowError::Size(_))
        ));
        let proc = std::fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(
            Window::open(proc.as_fd()),
            Err(WindowError::NotMemory)
        ));
    }

    #[test]
    fn a_section_may_end_with_its_page_but_not_cross_it() {
        let memory = GuestMemory::new(BYTES, 0).unwrap();
        let window = Window::open(memory.file()).unwrap();
        let check = |addr, len| window.sections(&dma(&[(addr, len)])).is_ok();
        assert!(check(BYTES - 1, 1));
        assert!(check(4095, 1) && check(0, 4096));
        assert!(!check(4095, 2) && !check(0, 4097));
        assert!(!check(BYTES, 1) && !check(u32::MAX, 1));
        assert!(window.dma(BYTES - Dma::SIZE).is_ok());
        assert!(window.dma(BYTES - Dma::SIZE + 1).is_err());
        assert!(window.word(u32::MAX - 3).is_err());
    }

    #[test]
    fn every_pair_of_boundaries_is_checked_as_wide_numbers_say() {
        let memory = GuestMemory::new(BYTES, 0).unwrap();
        let window = Window::open(memory.file()).unwrap();
        let addresses = [2, PAGE_SIZE, BYTES - PAGE_SIZE, BYTES, 1 << 31]
            .into_iter()
            .flat_map(|at| at - 2..=at + 2)
            .chain(u32::MAX - 4..=u32::MAX);
        let lengths = [3, 0x7FFF, 4096].into_iter().flat_map(|n| n - 2..=n + 2);
        let lengths: Vec<u16> = lengths.chain([u16::MAX]).collect();
        for addr in addresses {
            for &len in &lengths {
                let (at, bytes) = (u128::from(addr), u128::from(len));
                let page = u128::from(PAGE_SIZE);
                let good = at % page + bytes <= page
                    && at + bytes <= u128::from(BYTES);
                let found = window.sections(&dma(&[(addr, len)]));
                assert_eq!(found.is_ok(), good, "{addr:#x} {len:#x}");
            }
        }
    }

    /// Sections that may lie anywhere inside a page, also on each other.
    fn lists() -> impl Strategy<Value = Vec<(u32, u16)>> {
        let section = (0..PAGES, 0..PAGE_SIZE, 1..=PAGE_SIZE).prop_map(
            |(page, offset, len)| {
                let len = len.min(PAGE_SIZE - offset);
                let len = u16::try_from(len).unwrap();
                (page * PAGE_SIZE + offset, len)
            },
        );
        prop::collection::vec(section, 0..=LGUEST_MAX_DMA_SECTIONS)
    }

    /// What a transfer means, a byte at a time.
    fn oracle(
        from: &[u8],
        source: &[(u32, u16)],
        into: &mut [u8],
        target: &[(u32, u16)],
    ) -> u32 {
        let each = |list: &[(u32, u16)]| {
            list.iter()
                .flat_map(|&(addr, len)| addr..addr + u32::from(len))
                .collect::<Vec<_>>()
        };
        let mut total = 0;
        for (s, t) in each(source).into_iter().zip(each(target)) {
            into[t as usize] = from[s as usize];
            total += 1;
        }
        total
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_copy_is_what_the_oracle_says(
            source in lists(),
            target in lists(),
            seed in any::<u8>(),
        ) {
            let (a, b) = (
                GuestMemory::new(BYTES, 0).unwrap(),
                GuestMemory::new(BYTES, 0).unwrap(),
            );
            // No two pages alike, as 251 is prime.
            let from: Vec<u8> = (0..251)
                .cycle()
                .map(|i: u8| i ^ seed)
                .take(BYTES as usize)
                .collect();
            a.write(0, &from).unwrap();
            let mut want = vec![0; BYTES as usize];
            let total = oracle(&from, &source, &mut want, &target);
            let (wa, wb) = (
                Window::open(a.file()).unwrap(),
                Window::open(b.file()).unwrap(),
            );
            let source = wa.sections(&dma(&source)).unwrap();
            let target = wb.sections(&dma(&target)).unwrap();
            prop_assert_eq!(source.copy(&target), total);
            let mut got = vec![0; BYTES as usize];
            b.read(0, &mut got).unwrap();
            prop_assert!(got == want, "bytes differ");
        }
    }
}
