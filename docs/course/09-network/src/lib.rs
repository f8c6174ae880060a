//! Lesson 9: frames.
//!
//! A network moves frames of bytes. The first 14 bytes are the receiver's
//! address, the sender's address, and the kind of the frame.

#![no_std]

extern crate alloc;

pub mod exercise;

use alloc::vec::Vec;
pub use lg_guest::drivers::net::Mac;

/// The address that means all machines.
pub const ALL: Mac = [0xFF; 6];

/// The kind of our frames: a number that is kept for experiments.
pub const KIND: u16 = 0x88B5;

/// Bytes before the text.
const HEADER: usize = 14;

/// The shortest frame. A shorter one is filled up with zeros.
const SHORTEST: usize = 60;

/// The longest one.
const LONGEST: usize = 1514;

/// A frame of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The address of its receiver.
    pub to: Mac,
    /// The address of its sender.
    pub from: Mac,
    /// What it says.
    pub text: &'a str,
}

impl<'a> Message<'a> {
    /// The message in a frame, if it is one of ours.
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (to, rest) = frame.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (kind, text) = rest.split_first_chunk()?;
        if u16::from_be_bytes(*kind) != KIND {
            return None;
        }
        let text = core::str::from_utf8(text).ok()?;
        Some(Self {
            to: *to,
            from: *from,
            text: text.trim_end_matches('\0'),
        })
    }

    /// The frame of a message. A text that is too long is cut off.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend(KIND.to_be_bytes());
        let room = LONGEST - HEADER;
        frame.extend(self.text.bytes().take(room));
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        frame
    }
}
