//! Bytes as a sequence of decisions.
//!
//! The beginning of an input decides what happens first. So a fuzzer can change
//! later steps without changing earlier ones. After its end, an input returns
//! zeros, and [`Input::is_empty`] is true.

/// The rest of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether the input is used up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All the rest.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Yes or no.
    pub fn bit(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A word.
    pub fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let taken = self.bytes(word.len());
        word[..taken.len()].copy_from_slice(taken);
        u32::from_le_bytes(word)
    }

    /// A half-word.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        let wide = if limit <= 256 {
            u32::from(self.byte())
        } else {
            self.word()
        };
        wide % limit
    }

    /// One of `choices`, a number near it, or any word. Bugs are often near
    /// numbers that have a meaning.
    pub fn one_of(&mut self, choices: &[u32]) -> u32 {
        let at = usize::from(self.byte());
        let Some(&choice) = choices.get(at % (choices.len() + 1)) else {
            return self.word();
        };
        match at / (choices.len() + 1) % 8 {
            0 => choice.wrapping_add(u32::from(self.byte())),
            1 => choice.wrapping_sub(u32::from(self.byte())),
            _ => choice,
        }
    }
}
