//! The Guest's buffers for frames.
//!
//! A frame has one buffer, or several where the Guest can put it together. What
//! the Guest takes over need not be done for it.

use super::offload::{Offload, Takes};
use crate::devices::{Filled, ReceiveBuffers, Violation};
use crate::memory::scatter;
use std::io;

/// Memory that the Guest offers for frames.
pub trait FrameBuffers: ReceiveBuffers {
    /// What the Guest takes over.
    fn takes(&self) -> Takes {
        Takes::default()
    }

    /// Copies `frame` into the next free buffer, or into several where the
    /// Guest can put it together. No more is left to do with it than
    /// [`Self::takes`] says. A frame that does not fit is not copied: then no
    /// byte was written.
    ///
    /// # Errors
    ///
    /// A [`Violation`], where a buffer breaks the rules.
    fn put(
        &mut self,
        frame: &[u8],
        _left: Offload,
    ) -> Result<Filled, Violation> {
        self.fill(&mut |into| {
            if (into.total() as usize) < frame.len() {
                return Ok(0);
            }
            let bytes = scatter(into.region, into.list, frame);
            let bytes = bytes.map_err(io::Error::other)?;
            Ok(u32::try_from(bytes).unwrap_or(0))
        })
    }
}
