//! Frames that wait for buffers of the Guest.
//!
//! A frame for a Guest that does not take over segmentation becomes several.
//! There may be buffers for the first ones only.

use super::FrameBuffers;
use super::offload::{Offload, Takes};
use crate::devices::{Filled, Violation};
use std::collections::VecDeque;

/// A frame that has come, in as many parts as the Guest needs.
#[derive(Default)]
pub struct Waiting(VecDeque<(Vec<u8>, Offload)>);

impl Waiting {
    /// Adds `frame`, with which `left` is left to do, for a Guest of `takes`.
    pub fn add(&mut self, mut frame: Vec<u8>, left: Offload, takes: Takes) {
        if let Some(left) = left.as_it_is(takes) {
            self.0.push_back((frame, left));
            return;
        }
        left.fit(&mut frame, takes, &mut |part, left| {
            self.0.push_back((part.to_vec(), left));
        });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies the first part into `buffers`. `None`: nothing waits. The part
    /// stays until [`Self::drop_first`].
    ///
    /// # Errors
    ///
    /// A [`Violation`], where a buffer breaks the rules.
    pub fn put_first(
        &self,
        buffers: &mut dyn FrameBuffers,
    ) -> Result<Option<Filled>, Violation> {
        let first = self.0.front();
        first
            .map(|(part, left)| buffers.put(part, *left))
            .transpose()
    }

    /// Drops the first part.
    pub fn drop_first(&mut self) {
        self.0.pop_front();
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
