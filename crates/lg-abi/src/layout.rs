//! Where the fields of `lguest_data` are, which depends on the release.
//!
//! `lguest_data` is the memory that a Guest's kernel shares with the Host. A
//! [`Layout`] has a [`Field`] for each of its fields; those that not every
//! release has are optional.

/// The place of a field: its offset in `lguest_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u16);

impl Field {
    /// The field at `offset`.
    #[must_use]
    pub const fn at(offset: u16) -> Self {
        Self(offset)
    }

    /// Bytes from the start of `lguest_data`.
    #[must_use]
    #[inline]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// Where a Guest must not be interrupted between a store to `irq_enabled` and
/// the `iret` that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIrq {
    /// Two fields with virtual addresses: from the first up to, and not
    /// including, the second.
    Range(Field, Field),
    /// A field with the virtual address of the `iret`.
    Iret(Field),
}

/// The fields of `lguest_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Both: 512 = interrupts are on, 0 = off.
    pub irq_enabled: Field,
    /// Guest: a bit for each interrupt that must not be delivered.
    pub blocked_interrupts: Field,
    /// Host: the faulting address of the last page fault.
    pub cr2: Field,
    /// Host: wall-clock seconds.
    pub time_sec: Field,
    /// Host: wall-clock nanoseconds.
    pub time_nsec: Field,
    /// Host: 512 = an interrupt waits that could not be delivered.
    pub irq_pending: Option<Field>,
    /// Both: a byte for each entry of the ring.
    pub hcall_status: Field,
    /// Guest: the ring.
    pub hcalls: Field,
    /// Host: bytes at the top of the address space that are not the Guest's.
    pub reserve_mem: Field,
    /// Host: the number of this Guest (two bytes).
    pub guestid: Option<Field>,
    /// Host: the rate of the time-stamp counter; 0 = it cannot be used.
    pub tsc_khz: Field,
    /// Host: physical address of the first page directory.
    pub pgdir: Option<Field>,
    /// Guest: where it must not be interrupted.
    pub noirq: NoIrq,
    /// Guest: the virtual address of physical address 0.
    pub kernel_address: Option<Field>,
    /// Guest: the vector of a system call.
    pub syscall_vec: Option<Field>,
    /// Bytes of `lguest_data`.
    pub size: u32,
}
