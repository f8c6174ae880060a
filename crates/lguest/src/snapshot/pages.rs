//! An image of memory in a file.
//!
//! The file has the pages that are not zero, one behind the other. Runs of
//! pages say where they belong. The checksum is of all bytes in the file.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use twox_hash::XxHash3_64;

/// Bytes of a page.
pub const PAGE: usize = lg_abi::page::PAGE_SIZE as usize;

/// How much is moved at once. A buffer of this size stays in the heap and in
/// the processor's cache. A larger one would be mapped anew for each image, and
/// each of its pages would fault.
const CHUNK: usize = 16 * PAGE;

const ZERO: &[u8; PAGE] = &[0; PAGE];

/// The most bytes of an image: all that 32 bits can address.
const MOST: u64 = 1 << 32;

/// Pages that follow each other: the number of the first, and how many.
pub type Run = (u32, u32);

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Bytes of the memory.
    pub bytes: u64,
    /// The pages in the file, in order.
    pub runs: Vec<Run>,
    /// The checksum of the file.
    pub sum: u64,
}

impl Pages {
    /// Writes the pages of `memory`, a memory file of `bytes` bytes, to `to`.
    ///
    /// # Errors
    ///
    /// What reading or writing says.
    pub fn pack(
        memory: impl AsFd,
        bytes: u64,
        to: &mut impl Write,
    ) -> io::Result<Self> {
        let mut packed = Packed {
            runs: Vec::new(),
            hasher: XxHash3_64::with_seed(0),
        };
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while let Some(data) = next_data(&memory, at, bytes)? {
            at = data;
            let len = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            let read = rustix::io::pread(&memory, &mut chunk[..len], at)?;
            let read = read / PAGE * PAGE;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            packed.add(at, &chunk[..read], to)?;
            at += read as u64;
        }
        Ok(Self {
            bytes,
            runs: packed.runs,
            sum: packed.hasher.finish(),
        })
    }

    /// Reads the pages from `from` and hands them to `put`, with where they
    /// belong. They may be wrong until this returns well.
    ///
    /// # Errors
    ///
    /// What reading or `put` says; `InvalidData` if the checksum is another.
    pub fn unpack(
        &self,
        from: &mut File,
        mut put: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut hasher = XxHash3_64::with_seed(0);
        let mut chunk = vec![0; CHUNK];
        let mut there = 0..0;
        for &(first, count) in &self.runs {
            let mut at = u64::from(first) * PAGE as u64;
            let mut left = count as usize * PAGE;
            while left > 0 {
                if there.is_empty() {
                    let read = read_some(from, &mut chunk)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    hasher.write(&chunk[..read]);
                    there = 0..read;
                }
                let len = left.min(there.len());
                let piece = there.start..there.start + len;
                put(at, &chunk[piece])?;
                there.start += len;
                left -= len;
                at += len as u64;
            }
        }
        if hasher.finish() != self.sum {
            let why = "its checksum is wrong";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(())
    }

    /// Bytes of the file.
    #[must_use]
    pub fn in_file(&self) -> u64 {
        let pages = self.runs.iter().map(|&(_, count)| u64::from(count));
        pages.sum::<u64>() * PAGE as u64
    }

    /// Whether it can be an image of `bytes` bytes.
    #[must_use]
    pub fn is_of(&self, bytes: u64) -> bool {
        let mut next = 0;
        let in_order = self.runs.iter().all(|&(first, count)| {
            let good = count > 0 && u64::from(first) >= next;
            next = u64::from(first) + u64::from(count);
            good
        });
        let whole = bytes.is_multiple_of(PAGE as u64) && bytes <= MOST;
        in_order && whole && self.bytes == bytes && next <= bytes / PAGE as u64
    }
}

/// Pages while they are written.
struct Packed {
    runs: Vec<Run>,
    hasher: XxHash3_64,
}

impl Packed {
    /// Adds those pages of `chunk` that are not zero; it is from `at`.
    fn add(
        &mut self,
        at: u64,
        chunk: &[u8],
        to: &mut impl Write,
    ) -> io::Result<()> {
        let page = u32::try_from(at / PAGE as u64).unwrap_or(u32::MAX);
        // Pages that follow each other are written at once.
        let mut begun = 0..0;
        for (n, bytes) in chunk.chunks(PAGE).enumerate() {
            if bytes == &ZERO[..bytes.len()] {
                continue;
            }
            let here = n * PAGE..n * PAGE + bytes.len();
            if begun.end == here.start {
                begun.end = here.end;
            } else {
                self.write(&chunk[begun], to)?;
                begun = here;
            }
            let number = page + u32::try_from(n).unwrap_or(u32::MAX);
            match self.runs.last_mut() {
                Some((first, count)) if *first + *count == number => {
                    *count += 1
                }
                _ => self.runs.push((number, 1)),
            }
        }
        self.write(&chunk[begun], to)
    }

    fn write(&mut self, bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
        self.hasher.write(bytes);
        to.write_all(bytes)
    }
}

/// Where from `at` on something is in a memory file of `bytes` bytes.
fn next_data(
    memory: impl AsFd,
    at: u64,
    bytes: u64,
) -> io::Result<Option<u64>> {
    if at >= bytes {
        return Ok(None);
    }
    match rustix::fs::seek(memory, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) if data >= bytes => Ok(None),
        Ok(data) => Ok(Some(data / PAGE as u64 * PAGE as u64)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Fills `chunk` as far as the file goes, in whole pages.
fn read_some(from: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < chunk.len() {
        match from.read(&mut chunk[read..])? {
            0 => break,
            n => read += n,
        }
    }
    Ok(read / PAGE * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::FileExt;

    fn file(bytes: u64) -> File {
        let file = memfd_create("pages", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(bytes).unwrap();
        file
    }

    /// A memory with some pages, one of which is written and zero, and what it
    /// is packed as.
    fn packed() -> (File, Pages, File) {
        let memory = file(200 * PAGE as u64);
        for (page, byte) in [(0, 1), (1, 2), (3, 0), (70, 3), (199, 4)] {
            let at = page * PAGE as u64;
            memory.write_at(&[byte; PAGE], at).unwrap();
        }
        let mut to = file(0);
        let pages = Pages::pack(&memory, 200 * PAGE as u64, &mut to).unwrap();
        to.seek(SeekFrom::Start(0)).unwrap();
        (memory, pages, to)
    }

    #[test]
    fn memory_comes_back_without_its_zero_pages() {
        let (memory, pages, mut packed) = packed();
        assert_eq!(pages.runs, [(0, 2), (70, 1), (199, 1)]);
        assert_eq!(packed.metadata().unwrap().len(), pages.in_file());
        assert!(pages.is_of(200 * PAGE as u64));
        let back = file(pages.bytes);
        let put = |at, bytes: &[u8]| back.write_all_at(bytes, at);
        pages.unpack(&mut packed, put).unwrap();
        let mut all = [vec![0; 200 * PAGE], vec![1; 200 * PAGE]];
        memory.read_exact_at(&mut all[0], 0).unwrap();
        back.read_exact_at(&mut all[1], 0).unwrap();
        assert!(all[0] == all[1]);
    }

    /// How long each write was, in pages.
    struct Writes(Vec<usize>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len() / PAGE);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pages_that_follow_each_other_are_written_at_once() {
        let memory = file(200 * PAGE as u64);
        let at = 2 * PAGE as u64;
        memory.write_all_at(&[1; 100 * PAGE], at).unwrap();
        memory.write_all_at(&[0; PAGE], 5 * PAGE as u64).unwrap();
        let mut writes = Writes(Vec::new());
        let pages = Pages::pack(&memory, 200 * PAGE as u64, &mut writes);
        assert_eq!(pages.unwrap().runs, [(2, 3), (6, 96)]);
        let written: Vec<_> =
            writes.0.into_iter().filter(|&pages| pages > 0).collect();
        assert_eq!(written.iter().sum::<usize>(), 99);
        assert!(written.len() <= 8, "{written:?}");
    }

    #[test]
    fn a_changed_byte_and_a_cut_file_are_found() {
        let (_, pages, mut packed) = packed();
        packed.write_at(&[9], 5).unwrap();
        let error = pages.unpack(&mut packed, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        packed.seek(SeekFrom::Start(0)).unwrap();
        packed.set_len(pages.in_file() - 1).unwrap();
        let error = pages.unpack(&mut packed, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let bytes = 10 * PAGE as u64;
        let of = |runs: &[Run]| Pages {
            bytes,
            runs: runs.to_vec(),
            sum: 0,
        };
        assert!(of(&[(0, 1), (1, 9)]).is_of(bytes));
        assert!(!of(&[(0, 1)]).is_of(bytes + 1));
        assert!(!of(&[(0, 0)]).is_of(bytes));
        assert!(!of(&[(1, 1), (0, 1)]).is_of(bytes));
        assert!(!of(&[(0, 2), (1, 1)]).is_of(bytes));
        assert!(!of(&[(9, 2)]).is_of(bytes));
        assert!(!of(&[(u32::MAX, u32::MAX)]).is_of(bytes));
    }
}
