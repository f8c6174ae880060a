//! A request and the room for its answer, in the Guest's memory.
//!
//! The Guest may change both at any time. A request is copied before it is
//! looked at. The bytes of files go between the files and the Guest's memory
//! without a copy.

use super::protocol::{self as p, READ_HEADER, WRITE_HEADER};
use super::words::header;
use crate::memory::{
    BadAddress, GuestMemory, Section, behind, gather, scatter, total, truncated,
};
use std::fs::File;
use std::io;

/// Where a request and its answer are.
pub struct Payload<'m> {
    /// The memory.
    pub memory: &'m GuestMemory,
    /// The request.
    pub readable: &'m [Section],
    /// The room for the answer.
    pub writable: &'m [Section],
}

impl Payload<'_> {
    /// A copy of the request, up to `most` bytes.
    pub(super) fn request(&self, most: u32) -> Result<Vec<u8>, BadAddress> {
        let first = truncated(self.readable, most);
        gather(self.memory.region(), &first)
    }

    /// Bytes of the room for the answer.
    pub(super) fn room(&self) -> u32 {
        total(self.writable)
    }

    /// Puts an answer there, if there is room. Returns its bytes.
    pub(super) fn put(&self, answer: &[u8]) -> u32 {
        let size = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        if size > self.room() {
            return 0;
        }
        let region = self.memory.region();
        scatter(region, self.writable, answer).map_or(0, |_| size)
    }

    /// Reads from `file` into the place of an answer's data.
    pub(super) fn read(
        &self,
        file: &File,
        offset: u64,
        most: u32,
    ) -> io::Result<u32> {
        let into = behind(self.writable, READ_HEADER);
        let into = pieces(truncated(&into, most));
        self.memory.read_file(file, offset, &into)
    }

    /// Writes the data of the request to `file`.
    pub(super) fn write(
        &self,
        file: &File,
        offset: u64,
        most: u32,
    ) -> io::Result<u32> {
        let from = behind(self.readable, WRITE_HEADER);
        let from = pieces(truncated(&from, most));
        self.memory.write_file(file, offset, &from)
    }

    /// The answer to a READ of `count` bytes, which are there already.
    pub(super) fn finish_read(&self, tag: u16, count: u32) -> u32 {
        let size = READ_HEADER + count;
        let mut first = header(size, p::READ + 1, tag).to_vec();
        first.extend(count.to_le_bytes());
        match self.put(&first) {
            0 => 0,
            _ => size,
        }
    }
}

/// Sections that are not empty.
fn pieces(mut sections: Vec<Section>) -> Vec<Section> {
    sections.retain(|section| !section.is_empty());
    sections
}
