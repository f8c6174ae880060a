//! The address space that user code has to itself.
//!
//! Where user code is to be kept from its kernel, a view has a second address
//! space, the *cell*, and user code runs there: only pages that the tables
//! give to user code are ever mapped in it. It follows the tables as the
//! view's own does, by the same code: what works on a view works on the cell
//! while the two have changed places ([`Host::in_cell`]). The cell's pages
//! need not be gone at once when the Guest takes them back, for no user code
//! runs before the Host lets it; so changes are collected, and carried out
//! when the Guest goes to user mode ([`Host::settle_cell`]).

use super::view::ViewMemory;
use crate::address::GuestVirt;
use crate::kill::Kill;
use crate::run::Host;
use crate::world::Mapper;
use lg_abi::page::SWITCHER_INDEX;

/// The cell of a view.
pub struct Cell<'a> {
    pub(super) memory: &'a mut ViewMemory,
    mapper: &'a mut dyn Mapper,
}

impl<'a> Cell<'a> {
    /// A cell that maps nothing.
    #[must_use]
    pub fn new(memory: &'a mut ViewMemory, mapper: &'a mut dyn Mapper) -> Self {
        Self { memory, mapper }
    }
}

impl<'a> Host<'a> {
    /// Does `work` on the cell instead of the view's own address space.
    /// `None` where there is no cell.
    pub(crate) fn in_cell<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let mut cell = self.view.take_cell()?;
        self.change_places(&mut cell);
        let result = work(self);
        self.change_places(&mut cell);
        self.view.put_cell(cell);
        Some(result)
    }

    fn change_places(&mut self, cell: &mut Cell<'a>) {
        self.view.change_places(cell);
        core::mem::swap(&mut self.mapper, &mut cell.mapper);
    }

    /// Compares one user page with the tables, wherever it is mapped. It is
    /// mapped at once where user code will look for it.
    pub(super) fn recheck_user(&mut self, va: GuestVirt) -> Result<(), Kill> {
        match self.in_cell(|host| host.recheck_page(va, true)) {
            Some(done) => {
                done?;
                self.recheck_page(va, false)
            }
            None => self.recheck_page(va, true),
        }
    }

    /// Unmaps the whole user part, but for what is hidden.
    pub(super) fn forget_user(&mut self) -> Result<(), Kill> {
        let kernel = self.kernel_index();
        if self.view.hides_enough() {
            // Most of it will never be shown again.
            self.drop_everything(0, kernel)?;
        }
        self.view.set_mapped_twins(0);
        self.in_cell(|host| host.forget_directories(0, kernel))
            .unwrap_or(Ok(()))?;
        self.forget_directories(0, kernel)
    }

    /// User code is about to run: what was put off is done now. If the
    /// machine cannot, the cell is emptied, and fills again by faults.
    pub(crate) fn settle_cell(&mut self) -> Result<(), Kill> {
        let settle = |host: &mut Self| {
            if host.mapper.flush().is_ok() {
                return Ok(());
            }
            host.vm.counters.overflows.count();
            host.drop_everything(0, SWITCHER_INDEX)?;
            host.mapper.flush().map_err(|_| Kill::OutOfMappings)
        };
        self.in_cell(settle).unwrap_or(Ok(()))
    }
}
