//! What all patch sites have in common.
//!
//! A site is patched only if its fast path may be taken and if it was not
//! refused before. Its code must lie in one page, so that one physical address
//! stands for all of it.

use super::limits::MAX_REFUSED;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;

impl Host<'_> {
    /// Whether the fast path with this bit ([`fast_path`](crate::fast_path))
    /// may be taken.
    pub(crate) fn may_take(&self, path: u32) -> bool {
        self.vm.slow_paths.get() & path == 0
    }

    /// Whether `site` was found to be one that gets no trampoline.
    pub(super) fn is_refused(&self, site: u32) -> bool {
        let refused = &self.vm.patches.refused;
        refused.iter().any(|refused| refused.get() == site)
    }

    /// Remembers that `site` gets no trampoline; the oldest such is forgotten.
    pub(super) fn refuse(&self, site: u32) {
        let patches = &self.vm.patches;
        let count = patches.refused_count.get();
        patches.refused[count as usize % MAX_REFUSED].set(site);
        patches.refused_count.set(count.wrapping_add(1));
    }

    /// Copies kernel or entry-page code at `va`, which must lie in one page;
    /// answers where it is.
    pub(super) fn code(
        &self,
        va: GuestVirt,
        code: &mut [u8],
    ) -> Option<GuestPhys> {
        let last = va.plus(as_word(code.len()) - 1);
        if va.page_number() != last.page_number() {
            return None;
        }
        let place = self.physical(va)?;
        self.memory.read(place, code).ok()?;
        Some(place)
    }

    /// Where `va` is in the Guest's memory.
    pub(super) fn physical(&self, va: GuestVirt) -> Option<GuestPhys> {
        let entry = self.entry(va)?;
        Some(GuestPhys(entry.pte.frame()).plus(va.page_offset()))
    }
}
