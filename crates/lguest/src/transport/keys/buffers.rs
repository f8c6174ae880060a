//! The lists that a Guest has bound to a key, as a device fills them.
//!
//! A bound list is free while its `used_len` is 0. The engine finds the next
//! free one.

use super::dma::{DmaSections, answer};
use crate::devices::net::FrameBuffers;
use crate::devices::{Filled, ReceiveBuffers, Violation};
use crate::engine::Requests;
use crate::memory::SectionsIn;
use std::io;

/// The lists bound to one key.
pub struct BoundBuffers<'r> {
    /// What finds a free one.
    pub guest: &'r dyn Requests,
    /// The key.
    pub key: u32,
}

impl FrameBuffers for BoundBuffers<'_> {}

impl ReceiveBuffers for BoundBuffers<'_> {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        let bound = match self.guest.get_dma(self.key) {
            Ok(Some(bound)) => bound,
            Ok(None) => return Ok(Filled::NoneFree),
            Err(_) => return Ok(Filled::Ended),
        };
        let memory = self.guest.memory();
        let into = DmaSections::read(memory.region(), bound.addr);
        let into = into.map_err(Violation::of)?;
        let filled = fill(into.sections());
        memory.note(into.list());
        let bytes = match filled {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Filled::Failed(error)),
        };
        if bytes > 0 {
            answer(memory, bound.addr, bytes).map_err(Violation::of)?;
            // A Guest that has died meanwhile needs no interrupt.
            let _ = self.guest.irq(bound.irq);
        }
        Ok(Filled::Bytes(bytes))
    }

    fn are_any(&self) -> bool {
        let bindings = self.guest.bindings_in(self.key);
        bindings.iter().any(|binding| binding.key == self.key)
    }
}
