//! The processes of each view, by slot.
//!
//! A slot has the process of a view, and with user processes two more: the user
//! process and its mapper. They are put there when they are ready, and taken
//! out only when the view is made anew.

use super::child::{Child, has_ended};
use crate::lock::lock;
use lg_wire::state::MAX_VIEWS;
use rustix::process::Pid;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// The processes of one slot: its view first.
type Processes = Vec<Child>;

/// All slots.
pub(super) struct Slots([Mutex<Processes>; MAX_VIEWS]);

impl Slots {
    pub(super) fn new() -> Self {
        Self([const { Mutex::new(Vec::new()) }; MAX_VIEWS])
    }

    /// Whether this slot has no process.
    pub(super) fn is_empty(&self, slot: u32) -> bool {
        self.with(slot, |processes| processes.is_empty())
            .unwrap_or(false)
    }

    /// Puts one more process into a slot.
    pub(super) fn put(&self, slot: u32, process: Child) {
        self.with(slot, |processes| processes.push(process));
    }

    /// Takes all processes out of a slot.
    pub(super) fn take(&self, slot: u32) -> Processes {
        self.with(slot, std::mem::take).unwrap_or_default()
    }

    /// Calls `act` with the descriptor of a view, if there is one.
    pub(super) fn with_view<T>(
        &self,
        slot: u32,
        act: impl FnOnce(&OwnedFd) -> T,
    ) -> Option<T> {
        self.with(slot, |processes| {
            processes.first().map(|view| act(&view.descriptor))
        })?
    }

    /// Calls `act` with the first process beside a view that has ended, if
    /// there is one.
    pub(super) fn with_ended_user_process<T>(
        &self,
        slot: u32,
        act: impl FnOnce(&OwnedFd) -> T,
    ) -> Option<T> {
        self.with(slot, |processes| {
            let others = processes.iter().skip(1).map(|p| &p.descriptor);
            others.into_iter().find(has_ended).map(act)
        })?
    }

    /// Calls `act` with each process.
    pub(super) fn each(&self, mut act: impl FnMut(&OwnedFd)) {
        for slot in &self.0 {
            for process in lock(slot).iter() {
                act(&process.descriptor);
            }
        }
    }

    /// The numbers of all processes.
    pub(super) fn pids(&self) -> Vec<Pid> {
        let of = |slot: &Mutex<Processes>| -> Vec<Pid> {
            lock(slot).iter().map(|process| process.pid).collect()
        };
        self.0.iter().flat_map(of).collect()
    }

    fn with<T>(
        &self,
        slot: u32,
        act: impl FnOnce(&mut Processes) -> T,
    ) -> Option<T> {
        let slot = self.0.get(slot as usize)?;
        Some(act(&mut lock(slot)))
    }
}
