//! The address space that user code has to itself.
//!
//! With `--isolation=user` a view has a second address space, that of the user
//! process, and user code runs there. Only pages that the tables give to user
//! code are ever mapped in it. It follows the tables as the view's own does, by
//! the same code: the two change places while the Host works on the user
//! process ([`Host::in_user_process`]). When the Guest takes pages back, they
//! need not be unmapped at once, because user code runs only when the Host lets
//! it. So changes are collected, and carried out when the Guest goes to user
//! mode ([`Host::settle_user_process`]).

use super::compare::Others;
use super::shadow::UserSpace;
use crate::address::GuestVirt;
use crate::host::Host;
use crate::kill::Kill;
use lg_abi::page::SWITCHER_INDEX;

impl<'a> Host<'a> {
    /// Does `work` on the user process instead of the view's own address space.
    /// `None` where there is no user process.
    pub(crate) fn in_user_process<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let mut user_process = self.shadow.take_user_process()?;
        self.change_places(&mut user_process);
        let result = work(self);
        self.change_places(&mut user_process);
        self.shadow.put_user_process(user_process);
        Some(result)
    }

    fn change_places(&mut self, user_process: &mut UserSpace<'a>) {
        self.shadow.change_places(user_process);
        core::mem::swap(&mut self.mapper, &mut user_process.mapper);
    }

    /// Compares one user page with the tables, in both address spaces. It is
    /// mapped at once in the one where user code runs.
    pub(super) fn recheck_user(&mut self, va: GuestVirt) -> Result<(), Kill> {
        match self.in_user_process(|host| host.recheck_page(va, true)) {
            Some(done) => {
                done?;
                self.recheck_page(va, false)
            }
            None => self.recheck_page(va, true),
        }
    }

    /// The tables are those of another directory: unmaps the user part, except
    /// what they have, too. Programs that were forked have most pages that
    /// are only read in common.
    pub(super) fn change_user(&mut self) -> Result<(), Kill> {
        let kernel = self.kernel_index();
        if self.shadow.hides_enough() {
            // Most of it will never be shown again.
            self.drop_everything(0, kernel)?;
        }
        self.compare_and(Others::Awaited, 0, kernel)
    }

    /// User code is about to run: carries out the collected changes. If there
    /// is no room for them, the user process is emptied, and fills again by
    /// faults.
    pub(crate) fn settle_user_process(&mut self) -> Result<(), Kill> {
        let settle = |host: &mut Self| {
            if host.mapper.flush().is_ok() {
                return Ok(());
            }
            host.vm.counters.overflows.count();
            host.drop_everything(0, SWITCHER_INDEX)?;
            host.mapper.flush().map_err(|_| Kill::OutOfMappings)
        };
        self.in_user_process(settle).unwrap_or(Ok(()))
    }
}
