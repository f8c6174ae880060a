//! A share on the bus of virtio: one queue of requests.
//!
//! A request of 9P is a chain: the request, and room for the answer. The server
//! of the share answers in its own time. Requests that it cannot take yet stay
//! in the ring.

use super::device::{Features, VirtioDevice};
use super::queue::{Queue, Taken};
use crate::devices::share::server::{HEADER, failure};
use crate::devices::share::{Received, Share};
use crate::devices::{Readiness, RestoreError, Violation};
use crate::memory::{gather, scatter, total, truncated};
use crate::transport::{BusDevice, Detached, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::{SHARE_TAG, TYPE_9P};
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

/// The most requests that the server has at a time. As many fit into its
/// socket.
const MOST_ASKED: usize = 16;

/// A share on the bus.
pub struct VirtioShare {
    share: Share,
    queue: Option<Queue>,
    /// What the server was asked, by number.
    asked: HashMap<u64, Taken>,
    /// A request that its socket had no room for.
    held: Option<Taken>,
    next: u64,
}

impl VirtioShare {
    /// `share`, to be put on a bus.
    #[must_use]
    pub fn new(share: Share) -> Self {
        Self {
            share,
            queue: None,
            asked: HashMap::new(),
            held: None,
            next: 0,
        }
    }

    /// Hands requests to the server, as many as it takes.
    fn pump(&mut self, queue: &Queue) -> Result<(), Violation> {
        while self.asked.len() < MOST_ASKED {
            let held = self.held.take();
            let taken = match held {
                Some(taken) => Some(taken),
                None => queue.take()?,
            };
            let Some(taken) = taken else { break };
            let chain = &taken.chain;
            if total(&chain.readable) < HEADER {
                let text = "a request to a share without a header";
                return Err(Violation(text.into()));
            }
            let number = self.next;
            let asked =
                self.share.ask(number, &chain.readable, &chain.writable);
            match asked {
                Ok(true) => {
                    self.next += 1;
                    self.asked.insert(number, taken);
                }
                Err(_) if !self.asked.is_empty() => {
                    self.held = Some(taken);
                    break;
                }
                Ok(false) | Err(_) => {
                    self.fail_all(queue)?;
                    self.fail(queue, &taken)?;
                }
            }
        }
        Ok(())
    }

    /// Answers what the server has answered. Returns whether it goes on.
    fn collect(&mut self, queue: &Queue) -> Result<bool, Violation> {
        loop {
            match self.share.receive() {
                Received::Answer(number, bytes) => {
                    let taken = self.asked.remove(&number);
                    let room = |taken: &Taken| total(&taken.chain.writable);
                    match taken {
                        Some(taken) if bytes <= room(&taken) => {
                            queue.answer(&taken, bytes)?;
                        }
                        other => {
                            self.share.end();
                            self.asked.extend(other.map(|t| (number, t)));
                        }
                    }
                }
                Received::Nothing => return Ok(true),
                Received::Ended => {
                    self.fail_all(queue)?;
                    return Ok(false);
                }
            }
        }
    }

    /// What the server has yet to answer comes as input.
    fn watch(&mut self) {
        if !self.asked.is_empty() {
            self.share.watch();
        }
    }

    /// The server will answer nothing more.
    fn fail_all(&mut self, queue: &Queue) -> Result<(), Violation> {
        let asked = std::mem::take(&mut self.asked);
        let held = self.held.take();
        for taken in asked.into_values().chain(held) {
            self.fail(queue, &taken)?;
        }
        Ok(())
    }

    /// Answers a request with an error.
    fn fail(&mut self, queue: &Queue, taken: &Taken) -> Result<(), Violation> {
        self.share.count_error();
        let region = queue.guest().memory().region();
        let header = truncated(&taken.chain.readable, HEADER);
        let header = gather(region, &header).map_err(Violation::of)?;
        let put = scatter(region, &taken.chain.writable, &failure(&header));
        let put = u32::try_from(put.map_err(Violation::of)?);
        queue.answer(taken, put.unwrap_or(0))
    }
}

impl BusDevice for VirtioShare {
    fn device(&mut self) -> &mut dyn Device {
        self
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(queue) = self.queue.clone() else {
            return Ok(Readiness::Wait);
        };
        let goes_on = self.collect(&queue)?;
        self.pump(&queue)?;
        self.watch();
        Ok(match goes_on {
            true => Readiness::Wait,
            false => Readiness::Closed,
        })
    }
}

impl Device for VirtioShare {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.share.input())
    }

    fn finish(&mut self) {
        self.share.finish();
    }

    fn detach(&mut self) -> Detached {
        self.share.close();
        if let Some(queue) = self.queue.clone() {
            // A rule that is broken here is reported at the next request.
            let _ = self.fail_all(&queue);
        }
        Detached::Stays
    }

    fn counters(&self) -> crate::devices::NamedCounts {
        self.share.counters()
    }

    fn state(&mut self) -> DeviceState {
        // A rule that is broken here is reported at the next request.
        if let Some(queue) = self.queue.clone() {
            while !self.asked.is_empty() {
                self.share.wait();
                if !matches!(self.collect(&queue), Ok(true)) {
                    break;
                }
                // A request that is held has room now.
                if self.held.is_some() && self.pump(&queue).is_err() {
                    break;
                }
            }
        }
        DeviceState::Share(self.share.state())
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Share(state) => self.share.restore(state),
            other => Err(other.is_not_of("share")),
        }
    }
}

impl VirtioDevice for VirtioShare {
    fn kind(&self) -> u8 {
        TYPE_9P
    }

    fn queues(&self) -> u8 {
        1
    }

    fn features(&self) -> Features {
        1 << SHARE_TAG
    }

    fn obstacle(&self) -> Option<String> {
        self.share.obstacle()
    }

    /// The tag, after the number of its bytes.
    fn config(&self) -> Vec<u8> {
        let tag = self.share.tag().as_bytes();
        let len = u16::try_from(tag.len()).unwrap_or(0);
        [&len.to_le_bytes(), tag].concat()
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queue = queues.into_iter().next();
        match &self.queue {
            Some(queue) => self.share.connect(queue.guest().memory()),
            None => Ok(()),
        }
    }

    /// The server writes its answers to the Guest's memory itself. So this
    /// waits for them, or has a server killed that takes too long.
    fn reset(&mut self) {
        self.held = None;
        if self.asked.is_empty() {
            return;
        }
        let end = self.share.begin_reset();
        while !self.asked.is_empty() {
            self.share.wait_until(end);
            let queue = self.queue.clone();
            // A rule that is broken here is reported at the next request.
            if !queue.is_some_and(|q| matches!(self.collect(&q), Ok(true))) {
                self.asked.clear();
            }
        }
        self.share.watch();
    }

    fn notify(&mut self, _: usize) -> Result<Option<SlowOutput>, Violation> {
        if let Some(queue) = self.queue.clone() {
            self.pump(&queue)?;
            // With several requests the server works while the Guest runs on.
            if self.asked.len() == 1 && self.share.wait_a_moment() {
                self.collect(&queue)?;
                // A request that is held has room now. If nothing is asked, no
                // answer comes as input, and nothing else would hand it over.
                self.pump(&queue)?;
            }
            self.watch();
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
