//! A disk: one request at a time, in sectors.
//!
//! Data pass through pages of the driver's own: the Host accesses them long
//! after the call, when the caller may have dropped its request.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::drivers::disk::{Disk, DiskError};
//!
//! /// Copies the first sector to the second.
//! async fn copy(disk: &Disk) -> Result<(), DiskError> {
//!     let mut sector = [0; 512];
//!     disk.read(0, &mut sector).await?;
//!     disk.write(1, &sector).await?;
//!     disk.flush().await
//! }
//! ```

use super::{keys, virtio};
use crate::bus::{Device, DeviceError};
use crate::interface::has_virtio;
use crate::irq;
use alloc::boxed::Box;
use core::cell::Cell;
use lg_abi::device::SECTOR_SIZE;
use lg_abi::dma::LGUEST_MAX_DMA_SECTIONS;
use lg_abi::page::PAGE_SIZE;

/// Pages, and bytes, that one request can move.
pub(super) const PAGES: u32 = crate::word(LGUEST_MAX_DMA_SECTIONS);
/// The most that one request can move.
pub const REQUEST_MAX: usize = (PAGES * PAGE_SIZE) as usize;

/// A disk.
pub struct Disk {
    device: Device,
    requests: Box<dyn Requests>,
    /// A task is using the disk; others wait for their turn.
    taken: Cell<bool>,
    /// A request is under way; its task may have dropped it.
    under_way: Cell<bool>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Sectors are read.
    Read,
    /// Sectors are written.
    Write,
    /// What was written before must survive a loss of power.
    Flush,
}

/// How one request after the other reaches the disk.
pub(super) trait Requests {
    /// Sectors on the disk.
    fn sectors(&self) -> u32;

    /// Whether it refuses writes, as far as it says so.
    fn is_read_only(&self) -> bool;

    /// Whether it has [`Request::Flush`].
    fn has_flush(&self) -> bool;

    /// Copies what will be written.
    fn put(&self, from: &[u8]);

    /// Starts a request. The disk must be idle.
    fn start(&self, request: Request, sector: u32, bytes: usize);

    /// Whether the request that was started has ended.
    fn has_ended(&self) -> bool;

    /// How it has ended.
    fn outcome(&self) -> Result<(), DiskError>;

    /// Copies what was read.
    fn get(&self, into: &mut [u8]) -> Result<(), DiskError>;
}

/// Why a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// Not whole sectors.
    Unaligned,
    /// Beyond the end of the disk.
    OutOfRange,
    /// The Launcher reported an error.
    Refused,
    /// Another task is in the middle of a request.
    Busy,
    /// The disk itself.
    Device(DeviceError),
}

impl core::fmt::Display for DiskError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unaligned => f.write_str("not whole sectors"),
            Self::OutOfRange => f.write_str("beyond the end of the disk"),
            Self::Refused => f.write_str("the disk could not do it"),
            Self::Busy => f.write_str("the disk is busy"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl From<DeviceError> for DiskError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl Disk {
    /// The driver for `device`.
    ///
    /// # Errors
    ///
    /// There is no memory, or the Host refuses the buffer.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        let requests: Box<dyn Requests> = if has_virtio() {
            Box::new(virtio::disk::Disk::new(device)?)
        } else {
            Box::new(keys::disk::Disk::new(device)?)
        };
        Ok(Self {
            device,
            requests,
            taken: Cell::new(false),
            under_way: Cell::new(false),
        })
    }

    /// Sectors on the disk.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.requests.sectors()
    }

    /// Whether it refuses writes, as far as it says so: a disk of 2007 does not
    /// say.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.requests.is_read_only()
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Whether no request is under way any more.
    fn is_idle(&self) -> bool {
        if self.under_way.get() && self.requests.has_ended() {
            self.under_way.set(false);
        }
        !self.under_way.get()
    }

    fn submit(&self, request: Request, sector: u32, bytes: usize) {
        debug_assert!(self.is_idle());
        self.under_way.set(true);
        self.requests.start(request, sector, bytes);
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub async fn read(
        &self,
        sector: u32,
        into: &mut [u8],
    ) -> Result<(), DiskError> {
        self.check_range(sector, into.len())?;
        let _turn = self.turn().await?;
        let mut at = sector;
        for piece in into.chunks_mut(REQUEST_MAX) {
            self.submit(Request::Read, at, piece.len());
            self.idle().await?;
            self.requests.get(piece)?;
            at += sectors_in(piece.len());
        }
        Ok(())
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub async fn write(
        &self,
        sector: u32,
        from: &[u8],
    ) -> Result<(), DiskError> {
        self.check_range(sector, from.len())?;
        let _turn = self.turn().await?;
        let mut at = sector;
        for piece in from.chunks(REQUEST_MAX) {
            self.requests.put(piece);
            self.submit(Request::Write, at, piece.len());
            self.idle().await?;
            self.requests.outcome()?;
            at += sectors_in(piece.len());
        }
        Ok(())
    }

    /// Waits until all that was written survives a loss of power. A disk of
    /// 2007 cannot do that, and nothing happens.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub async fn flush(&self) -> Result<(), DiskError> {
        self.device.check()?;
        let _turn = self.turn().await?;
        if self.requests.has_flush() {
            self.submit(Request::Flush, 0, 0);
            self.idle().await?;
            self.requests.outcome()?;
        }
        Ok(())
    }

    /// Reads whole sectors. No other task runs meanwhile. This is for code that
    /// cannot `await`.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub fn read_blocking(
        &self,
        sector: u32,
        into: &mut [u8],
    ) -> Result<(), DiskError> {
        self.check_range(sector, into.len())?;
        if self.taken.get() {
            return Err(DiskError::Busy);
        }
        irq::block_until(|| self.is_idle());
        let mut at = sector;
        for piece in into.chunks_mut(REQUEST_MAX) {
            self.submit(Request::Read, at, piece.len());
            irq::block_until(|| self.is_idle() || self.device.check().is_err());
            self.device.check()?;
            self.requests.get(piece)?;
            at += sectors_in(piece.len());
        }
        Ok(())
    }

    fn check_range(&self, sector: u32, bytes: usize) -> Result<(), DiskError> {
        self.device.check()?;
        if bytes % SECTOR_SIZE as usize != 0 {
            return Err(DiskError::Unaligned);
        }
        match sector.checked_add(sectors_in(bytes)) {
            Some(end) if end <= self.sectors() => Ok(()),
            _ => Err(DiskError::OutOfRange),
        }
    }

    /// Waits until the disk is ours.
    async fn turn(&self) -> Result<Turn<'_>, DiskError> {
        while self.taken.get() {
            // Rare and short: an interrupt ends the request of the other task.
            crate::executor::yield_now().await;
        }
        self.taken.set(true);
        let turn = Turn(self);
        self.idle().await?;
        Ok(turn)
    }

    /// Waits until the request under way is done.
    async fn idle(&self) -> Result<(), DiskError> {
        loop {
            let seen = irq::count(self.device.irq());
            self.device.check()?;
            if self.is_idle() {
                return Ok(());
            }
            irq::after(self.device.irq(), seen).await;
        }
    }
}

fn sectors_in(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX) / SECTOR_SIZE
}

/// The right to use a disk, until it is dropped.
struct Turn<'a>(&'a Disk);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
    }
}
