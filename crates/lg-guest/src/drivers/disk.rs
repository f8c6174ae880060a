//! A disk: one request at a time, in sectors.
//!
//! The request is written into the device's page, and a SEND_DMA to that page
//! starts it. A write sends its data. A read sends nothing, and its data arrive
//! in the buffer that is bound there. An interrupt reports the end, and the
//! page holds the result.
//!
//! Data pass through pages of the driver's own: the Host accesses them long
//! after the call, when the caller may have dropped its request.

#![expect(unsafe_code, reason = "the request page is the Host's, too")]

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError};
use crate::{hcall, irq};
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering, fence};
use lg_abi::device::{
    BLOCK_DONE, BLOCK_PENDING, BLOCK_READ, BLOCK_WRITE, BlockPage, SECTOR_SIZE,
};
use lg_abi::dma::LGUEST_MAX_DMA_SECTIONS;
use lg_abi::page::PAGE_SIZE;

/// Pages, and bytes, that one request can move.
const PAGES: u32 = crate::word(LGUEST_MAX_DMA_SECTIONS);
/// The most that one request can move.
pub const REQUEST_MAX: usize = (PAGES * PAGE_SIZE) as usize;

/// A disk.
pub struct Disk {
    device: Device,
    page: *mut BlockPage,
    /// Bound at the page: where what is read arrives.
    incoming: RefCell<Buffers>,
    outgoing: RefCell<Buffers>,
    /// A task is using the disk; others wait for their turn.
    taken: Cell<bool>,
    /// A request is under way; its task may have dropped it.
    under_way: Cell<bool>,
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
        let page = device.map()?.cast();
        let section = u16::try_from(PAGE_SIZE).unwrap_or(0);
        let incoming = Buffers::new(1, PAGES, section)?;
        incoming.bind(device.phys(), device.irq())?;
        Ok(Self {
            device,
            page,
            incoming: RefCell::new(incoming),
            outgoing: RefCell::new(Buffers::new(1, PAGES, section)?),
            taken: Cell::new(false),
            under_way: Cell::new(false),
        })
    }

    /// Sectors on the disk.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        // SAFETY: the address of a field of the mapped page.
        let field = unsafe { &raw const (*self.page).num_sectors };
        // SAFETY: aligned, and valid for good; the Host may write it.
        unsafe { field.read_volatile() }
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    fn result(&self) -> u32 {
        // SAFETY: the address of a field of the mapped page.
        let field = unsafe { &raw mut (*self.page).result };
        // SAFETY: aligned, and valid for good; the Host writes it.
        unsafe { AtomicU32::from_ptr(field) }.load(Ordering::Acquire)
    }

    /// Whether no request is under way any more.
    fn is_idle(&self) -> bool {
        if self.under_way.get() && self.result() != BLOCK_PENDING {
            self.under_way.set(false);
        }
        !self.under_way.get()
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
            self.submit(BLOCK_READ, at, piece.len());
            self.idle().await?;
            self.finish_read(piece)?;
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
            self.outgoing
                .borrow_mut()
                .data_mut(0, piece.len())
                .copy_from_slice(piece);
            self.submit(BLOCK_WRITE, at, piece.len());
            self.idle().await?;
            self.outcome()?;
            at += sectors_in(piece.len());
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
            self.submit(BLOCK_READ, at, piece.len());
            irq::block_until(|| self.is_idle() || self.device.check().is_err());
            self.device.check()?;
            self.finish_read(piece)?;
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

    /// Starts a request. The disk must be idle.
    fn submit(&self, kind: u32, sector: u32, bytes: usize) {
        debug_assert!(self.is_idle());
        let request = BlockPage {
            kind,
            sector,
            bytes: u32::try_from(bytes).unwrap_or(0),
            result: BLOCK_PENDING,
            num_sectors: self.sectors(),
        };
        // A read fills the bound buffer to its end, so the buffer gets the
        // length of the request. A write does not use it.
        self.incoming.borrow_mut().give_only(0, bytes);
        // SAFETY: the page is mapped, and the Host reads it only when told,
        // with no request under way.
        unsafe { self.page.write_volatile(request) };
        fence(Ordering::SeqCst);
        self.under_way.set(true);
        let mut dma = match kind {
            BLOCK_WRITE => self.outgoing.borrow().sections(0, bytes),
            _ => lg_abi::dma::Dma::default(),
        };
        hcall::send_dma(self.device.phys(), &mut dma);
    }

    fn outcome(&self) -> Result<(), DiskError> {
        match self.result() {
            BLOCK_DONE => Ok(()),
            _ => Err(DiskError::Refused),
        }
    }

    fn finish_read(&self, into: &mut [u8]) -> Result<(), DiskError> {
        self.outcome()?;
        let incoming = self.incoming.borrow();
        if incoming.filled(0) != Some(into.len()) {
            return Err(DiskError::Refused);
        }
        into.copy_from_slice(incoming.data(0, into.len()));
        Ok(())
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
