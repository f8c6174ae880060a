//! The Guest as gdbstub sees it: registers, memory, breakpoints.
//!
//! Its threads are in [`super::threads`]. Everything here is asked of the
//! Guest's Host, and so is only as true as the Host is. All sizes are checked,
//! and what has a wrong size is an error for GDB.

use super::inbox::{Inbox, News};
use super::registers::{AREA, I386, Registers};
// circle: the Guest of a session has its threads, and they ask the Guest.
use super::threads::{PROCESSOR, Threads};
use crate::engine::debug::{Ask, Stopped, Told};
use crate::engine::{Engine, Hold};
use gdbstub::common::Signal;
use gdbstub::stub::{BaseStopReason, MultiThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint,
    HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::{Target, TargetError, TargetResult};
use lg_wire::debug::{Kind, Order, Outcome, Stop, WORDS, Words};
use lg_wire::mailbox::MAX_TEXT;
use std::sync::Arc;

/// The Guest is dead.
#[derive(Debug)]
pub(super) struct Gone;

/// The Guest of a session.
pub(super) struct Debugged {
    pub(super) guest: Arc<dyn Engine>,
    pub(super) inbox: Arc<Inbox>,
    /// The Guest stands as long as there is one.
    pub(super) hold: Option<Hold>,
    /// What `monitor devices` shows.
    pub(super) devices: Arc<[String]>,
    /// Its page directories, as threads.
    pub(super) threads: Threads,
}

impl Debugged {
    /// Stops the Guest, wherever it is. Answers why it has stopped by itself
    /// meanwhile, if it has.
    pub(super) fn stop(&mut self) -> Result<Option<Stopped>, Gone> {
        if self.hold.is_none() {
            let hold = self.guest.hold().map_err(|_| Gone)?;
            hold.wait().map_err(|_| Gone)?;
            self.hold = Some(hold);
        }
        match self.inbox.news() {
            Some(News::Stopped(stopped, _)) => Ok(Some(stopped)),
            Some(News::Ended(_)) => Err(Gone),
            None => Ok(None),
        }
    }

    /// Lets the Guest go on as if there were no debugger.
    pub(super) fn detach(&mut self) {
        // A dead Guest has nothing left.
        if self.stop().is_ok() {
            let _ = self.ask(Order::Detach, [0; 3]);
        }
        self.inbox.set_attached(false);
        self.hold = None;
    }

    pub(super) fn ask(
        &self,
        order: Order,
        arguments: [u32; 3],
    ) -> Result<Told, Gone> {
        self.guest
            .debug(Ask::new(order, arguments))
            .map_err(|_| Gone)
    }

    /// Gives an order that has no answer but whether it was carried out.
    pub(super) fn tell(&self, ask: Ask) -> TargetResult<(), Self> {
        let told = self.guest.debug(ask);
        match told.map_err(|_| TargetError::Fatal(Gone))?.outcome {
            Outcome::Done => Ok(()),
            _ => Err(TargetError::NonFatal),
        }
    }

    /// The words of the registers.
    pub(super) fn words(&self) -> Result<Words, Gone> {
        let told = self.ask(Order::ReadRegisters, [0; 3])?;
        let mut words = [0; WORDS];
        for (to, from) in words.iter_mut().zip(told.bytes.chunks_exact(4)) {
            *to = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
        Ok(words)
    }

    pub(super) fn fpu(&self) -> Result<[u8; AREA], Gone> {
        let mut fpu = [0; AREA];
        for (half, to) in (0..).zip(fpu.chunks_exact_mut(AREA / 2)) {
            let told = self.ask(Order::ReadFpu, [half, 0, 0])?;
            for (to, &from) in to.iter_mut().zip(&told.bytes) {
                *to = from;
            }
        }
        Ok(fpu)
    }

    /// Reads memory by `order`, up to where it ends; `whose` says of which
    /// space, or of which page directory. Answers how many bytes.
    pub(super) fn look(
        &self,
        (order, whose): (Order, u32),
        at: u32,
        bytes: &mut [u8],
    ) -> Result<usize, Gone> {
        let mut done = 0;
        for piece in bytes.chunks_mut(MAX_TEXT) {
            let size = word(piece.len());
            let at = at.wrapping_add(word(done));
            let told = self.ask(order, [at, size, whose])?;
            let read = told.bytes.len().min(piece.len());
            piece[..read].copy_from_slice(&told.bytes[..read]);
            done += read;
            if read < piece.len() {
                break;
            }
        }
        Ok(done)
    }

    fn breakpoint(
        &self,
        order: Order,
        arguments: [u32; 3],
    ) -> TargetResult<bool, Self> {
        let told = self.ask(order, arguments).map_err(TargetError::Fatal)?;
        Ok(told.outcome == Outcome::Done)
    }

    /// Writes memory by `order`.
    pub(super) fn change(
        &self,
        (order, whose): (Order, u32),
        at: u32,
        bytes: &[u8],
    ) -> TargetResult<(), Self> {
        for (n, piece) in bytes.chunks(MAX_TEXT).enumerate() {
            let at = at.wrapping_add(word(n * MAX_TEXT));
            self.tell(Ask {
                bytes: piece.to_vec(),
                ..Ask::new(order, [at, 0, whose])
            })?;
        }
        Ok(())
    }

    /// Takes the registers of the processor.
    pub(super) fn set_registers(
        &self,
        registers: &Registers,
    ) -> TargetResult<(), Self> {
        let words = self.words().map_err(TargetError::Fatal)?;
        let before = self.fpu().map_err(TargetError::Fatal)?;
        if Registers::new(&words, &before).fixed() != registers.fixed() {
            // Segments and the page directory are the Guest's to load.
            return Err(TargetError::NonFatal);
        }
        let mut fpu = before;
        registers.put_into(&mut fpu);
        if fpu != before {
            for (half, bytes) in (0..).zip(fpu.chunks_exact(AREA / 2)) {
                self.tell(Ask {
                    bytes: bytes.to_vec(),
                    ..Ask::new(Order::WriteFpu, [half, 0, 0])
                })?;
            }
        }
        self.tell(Ask {
            bytes: registers.writable(),
            ..Ask::new(Order::WriteRegisters, [0; 3])
        })
    }

    pub(super) fn go_on(&mut self, step: bool) -> Result<(), Gone> {
        self.ask(Order::Prepare, [u32::from(step), 0, 0])?;
        self.hold = None;
        Ok(())
    }
}

/// What GDB is told when the Guest has stopped.
pub(super) fn reason(stopped: Stopped) -> MultiThreadStopReason<u32> {
    let (tid, addr) = (PROCESSOR, stopped.value);
    let watch = |kind| BaseStopReason::Watch { tid, kind, addr };
    let signal = |signal| BaseStopReason::SignalWithThread { tid, signal };
    match stopped.stop {
        Stop::Told => signal(Signal::SIGINT),
        Stop::Step => signal(Signal::SIGTRAP),
        Stop::Breakpoint => BaseStopReason::SwBreak(tid),
        Stop::Execution => BaseStopReason::HwBreak(tid),
        Stop::Write => watch(WatchKind::Write),
        Stop::Read => watch(WatchKind::Read),
        Stop::Access => watch(WatchKind::ReadWrite),
    }
}

/// A length as a Guest's word; no length here is too large for one.
fn word(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Target for Debugged {
    type Arch = I386;
    type Error = Gone;

    fn base_ops(&mut self) -> BaseOps<'_, I386, Gone> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl Breakpoints for Debugged {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged {
    fn add_sw_breakpoint(
        &mut self,
        at: u32,
        _: usize,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Plant, [at, 1, Kind::Software as u32])
    }

    fn remove_sw_breakpoint(
        &mut self,
        at: u32,
        _: usize,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Remove, [at, 1, Kind::Software as u32])
    }
}

impl HwBreakpoint for Debugged {
    fn add_hw_breakpoint(
        &mut self,
        at: u32,
        _: usize,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Plant, [at, 1, Kind::Execution as u32])
    }

    fn remove_hw_breakpoint(
        &mut self,
        at: u32,
        _: usize,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Remove, [at, 1, Kind::Execution as u32])
    }
}

/// The kind of breakpoint that a watchpoint of GDB's is.
fn kind(kind: WatchKind) -> u32 {
    let kind = match kind {
        WatchKind::Write => Kind::Write,
        WatchKind::Read => Kind::Read,
        WatchKind::ReadWrite => Kind::Access,
    };
    kind as u32
}

impl HwWatchpoint for Debugged {
    fn add_hw_watchpoint(
        &mut self,
        at: u32,
        length: u32,
        watched: WatchKind,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Plant, [at, length, kind(watched)])
    }

    fn remove_hw_watchpoint(
        &mut self,
        at: u32,
        length: u32,
        watched: WatchKind,
    ) -> TargetResult<bool, Self> {
        self.breakpoint(Order::Remove, [at, length, kind(watched)])
    }
}
