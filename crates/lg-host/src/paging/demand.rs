//! A page fault: whose is it?
//!
//! It is ours if the Guest's tables allow the access. Then we map the page and
//! set the bits that a processor would have set, and the Guest does not see the
//! fault. Otherwise it is the Guest's own.

use super::mapping::Mapped;
use crate::address::GuestVirt;
use crate::host::Host;
use crate::kill::Kill;
use crate::world::Access;
use lg_abi::page::Pte;

/// Whose a page fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ours, and it has been taken care of.
    Mapped,
    /// The Guest's.
    Guests,
    /// The Guest's tables allow it, but this machine maps nothing there: page 0
    /// (`vm.mmap_min_addr`).
    Unmappable,
}

/// The most faults in a row at a page that is mapped as it should be. After
/// that the Host gives up.
const MAX_SPURIOUS: u32 = 16;

impl Host<'_> {
    /// Maps the page of `va`, if the Guest's tables allow the access.
    ///
    /// # Errors
    ///
    /// A [`Kill`] for tables with impossible entries.
    pub(crate) fn demand_page(
        &mut self,
        va: GuestVirt,
        write: bool,
        user: bool,
    ) -> Result<Fault, Kill> {
        self.shadow.set_last_fault(va);
        let demand = |host: &mut Self| host.demand_here(va, write, user);
        let fault = if user {
            self.in_user_process(demand)
        } else {
            None
        };
        fault.unwrap_or_else(|| self.demand_here(va, write, user))
    }

    /// The same in the address space that is being worked on.
    fn demand_here(
        &mut self,
        va: GuestVirt,
        write: bool,
        user: bool,
    ) -> Result<Fault, Kill> {
        if va.is_switchers() {
            return Ok(Fault::Guests);
        }
        let Some(entry) = self.own_tables().walk(va)? else {
            return Ok(Fault::Guests);
        };
        let mut pte = entry.pte;
        if write && !pte.has(Pte::WRITE) || user && !pte.has(Pte::USER) {
            return Ok(Fault::Guests);
        }
        let used = if write {
            Pte::ACCESSED | Pte::DIRTY
        } else {
            Pte::ACCESSED
        };
        if !pte.has(used) {
            pte.0 |= used;
            let whole = self.memory.word(entry.at)?;
            self.store(entry.at, whole | used)?;
        }
        // A user process has no pieces: it gets the pages that the tables give
        // to user code, one by one.
        let linear =
            va.0 >= self.vm.page_offset.get() && !self.shadow.in_user_process();
        if linear && (self.write_linear(va, write)? || self.map_linear(va)?) {
            return Ok(Fault::Mapped);
        }
        let wanted = self.or_copy(va, self.shadow.wanted(pte), write);
        let read_only = linear && wanted.access() == Access::Read;
        if read_only && self.map_read_only_run(va)? {
            return Ok(Fault::Mapped);
        }
        if self.shadow.shadow(va) == wanted {
            self.vm.counters.spurious_faults.count();
            if self.shadow.count_spurious() > MAX_SPURIOUS {
                if user {
                    // User code may have made these faults up: its kernel
                    // deals with it.
                    return Ok(Fault::Guests);
                }
                let eip = self.vm.regs.eip.get();
                return Err(Kill::FaultLoop { va: va.0, eip });
            }
            // The record may be wrong. To map the page once more puts both
            // right.
        }
        match self.map_page(va, wanted)? {
            Mapped::Yes => Ok(Fault::Mapped),
            Mapped::Forbidden => Ok(Fault::Unmappable),
        }
    }
}
