//! Messages as bytes: numbers in little-endian order, and texts with a length.
//!
//! A [`Reader`] never reads beyond its bytes. A name that could mean another
//! file than one in the folder it is looked for in is no name.

use super::protocol::{ERROR, Errno, Qid};

/// The most bytes of a file's name.
const LONGEST_NAME: usize = 255;

/// The rest of a message.
pub(super) struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    pub(super) fn new(bytes: &'m [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Errno> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Errno> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'m [u8], Errno> {
        let len = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(text)
    }

    /// The name of a file in a folder: a single component.
    pub(super) fn name(&mut self) -> Result<&'m [u8], Errno> {
        let name = self.text()?;
        if name.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        if is_name(name) {
            Ok(name)
        } else {
            Err(Errno::INVAL)
        }
    }
}

/// Whether this can be the name of a file in a folder.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name != b"."
        && name != b".."
        && name.iter().all(|&byte| byte != b'/' && byte != 0)
}

/// The body of an answer.
pub(super) struct Writer {
    bytes: Vec<u8>,
    error: bool,
}

/// Bytes before the body.
const HEADER: usize = super::protocol::HEADER as usize;

impl Writer {
    pub(super) fn new() -> Self {
        let bytes = vec![0; HEADER];
        Self {
            bytes,
            error: false,
        }
    }

    /// An answer that says `error`.
    pub(super) fn error(error: Errno) -> Self {
        let mut answer = Self::new();
        answer.u32(error.raw_os_error().unsigned_abs());
        answer.error = true;
        answer
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u32s(&mut self, values: &[u32]) {
        values.iter().for_each(|&value| self.u32(value));
    }

    pub(super) fn u64s(&mut self, values: &[u64]) {
        values.iter().for_each(|&value| self.u64(value));
    }

    /// A text. What is too long for one is cut.
    pub(super) fn text(&mut self, text: &[u8]) {
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.bytes.extend(&text[..len.into()]);
    }

    pub(super) fn qid(&mut self, qid: Qid) {
        self.u8(qid.kind);
        self.u32(qid.version);
        self.u64(qid.path);
    }

    /// Sets the first word, which was put there before.
    pub(super) fn set_first(&mut self, value: u32) {
        let first = &mut self.bytes[HEADER..HEADER + 4];
        first.copy_from_slice(&value.to_le_bytes());
    }

    /// Bytes of the message so far.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// The message that answers a request of this kind with this tag.
    pub(super) fn finish(mut self, kind: u8, tag: u16) -> Vec<u8> {
        let size = self.size();
        let kind = if self.error {
            ERROR
        } else {
            kind.wrapping_add(1)
        };
        let header = header(size, kind, tag);
        self.bytes[..HEADER].copy_from_slice(&header);
        self.bytes
    }
}

/// The first bytes of a message.
pub(super) fn header(size: u32, kind: u8, tag: u16) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&size.to_le_bytes());
    header[4] = kind;
    header[5..].copy_from_slice(&tag.to_le_bytes());
    header
}
