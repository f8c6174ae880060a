//! Walking the Guest's page tables, as its processor would.
//!
//! There are two levels, and nothing is cached. The entry that a walk finds has
//! the rights that the directory leaves to it.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;
use crate::kill::Kill;
use crate::memory::Memory;
use crate::world::Access;
use lg_abi::page::{
    LINEAR, PAGE_SHIFT, PAGE_SIZE, Pte, directory_index, table_index,
};

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Physical address of the page-table entry.
    pub at: GuestPhys,
    /// Its value, less the rights that the directory withholds.
    pub pte: Pte,
}

/// The page-table entry for `va`, or `None` where the tables say "not
/// present".
///
/// # Errors
///
/// [`Kill::BadPageDirectoryEntry`] and [`Kill::BadPageTableEntry`] for entries
/// with flags or frames that cannot be (docs/abi.md, section 6), and
/// [`Kill::BadAddress`] for a directory beyond memory.
pub fn walk(
    memory: &Memory,
    cr3: u32,
    va: GuestVirt,
) -> Result<Option<Entry>, Kill> {
    if cr3 == LINEAR {
        return Ok(linear(memory, va));
    }
    let Some(table) = page_table(memory, cr3, directory_index(va.0))? else {
        return Ok(None);
    };
    let at = GuestPhys(table.frame()).plus(table_index(va.0) * 4);
    let pte = Pte(memory.word(at)?);
    if !pte.has(Pte::PRESENT) {
        return Ok(None);
    }
    check_pte(memory, pte)?;
    Ok(Some(Entry {
        at,
        pte: limit_rights(pte, table),
    }))
}

/// What maps `va` while there are no tables: the page at the same physical
/// address, for the kernel.
fn linear(memory: &Memory, va: GuestVirt) -> Option<Entry> {
    const RIGHTS: u32 = Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY;
    let exists = va.page_number() < memory.limit() >> PAGE_SHIFT;
    exists.then(|| Entry {
        // No bit of it is to be set, so nothing is written there.
        at: GuestPhys(0),
        pte: Pte::new(va.page_number(), RIGHTS),
    })
}

/// The directory entry with number `index`, checked, or `None` where it is not
/// present.
///
/// # Errors
///
/// As for [`walk`].
pub fn page_table(
    memory: &Memory,
    cr3: u32,
    index: u32,
) -> Result<Option<Pte>, Kill> {
    if cr3 == LINEAR {
        return Ok(None);
    }
    let pde = Pte(memory.word(GuestPhys(cr3).plus(index * 4))?);
    if !pde.has(Pte::PRESENT) {
        return Ok(None);
    }
    let bad_flags = pde.flags() & !Pte::DIRECTORY_FLAGS != 0;
    if bad_flags || pde.pfn() >= memory.limit() >> PAGE_SHIFT {
        return Err(Kill::BadPageDirectoryEntry(pde.0));
    }
    Ok(Some(pde))
}

/// Refuses page-table entries that cannot be.
///
/// # Errors
///
/// [`Kill::BadPageTableEntry`].
pub fn check_pte(memory: &Memory, pte: Pte) -> Result<(), Kill> {
    let bad_flags = pte.flags() & (Pte::WRITE_THROUGH | Pte::SIZE) != 0;
    if bad_flags || pte.pfn() >= memory.limit() >> PAGE_SHIFT {
        return Err(Kill::BadPageTableEntry(pte.0));
    }
    Ok(())
}

/// What is left of a page's rights under its directory entry.
#[must_use]
pub fn limit_rights(pte: Pte, pde: Pte) -> Pte {
    let withheld = !pde.0 & (Pte::WRITE | Pte::USER);
    Pte(pte.0 & !withheld)
}

impl Host<'_> {
    /// Whether the Guest's tables map `va` at all: bit 0 of the error code of
    /// a page fault. A table with an impossible entry counts as not mapping it;
    /// an access by it ends the Guest.
    pub(crate) fn is_present(&self, va: GuestVirt) -> bool {
        !va.is_switchers()
            && matches!(walk(&self.memory, self.vm.cr3.get(), va), Ok(Some(_)))
    }

    /// Copies code or data at `va` by the Guest's tables; stops where they
    /// end, and answers how many bytes there were. While the Guest runs user
    /// code, they end where user code has no right: it must not read or write
    /// through the Host what it could not by itself.
    pub(crate) fn fetch(&self, va: GuestVirt, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = va.plus(as_word(done));
            let Some(from) = self.locate(at) else { break };
            let in_page = (PAGE_SIZE - at.page_offset()) as usize;
            let end = bytes.len().min(done + in_page);
            if self.memory.read(from, &mut bytes[done..end]).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// The word at `va`, on the Guest's behalf: mostly its kernel's stack.
    ///
    /// # Errors
    ///
    /// [`Kill::BadVirtualAddress`] if its tables do not map it.
    pub(crate) fn read_virtual(&self, va: GuestVirt) -> Result<u32, Kill> {
        let bad = Kill::BadVirtualAddress(va.0);
        if va.page_offset() <= PAGE_SIZE - 4 {
            return self.memory.word(self.locate(va).ok_or(bad)?);
        }
        let mut bytes = [0; 4];
        if self.fetch(va, &mut bytes) != bytes.len() {
            return Err(bad);
        }
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores a word at `va`, on the Guest's behalf.
    ///
    /// # Errors
    ///
    /// [`Kill::BadVirtualAddress`] if its tables do not map it writable.
    pub(crate) fn write_virtual(
        &self,
        va: GuestVirt,
        word: u32,
    ) -> Result<(), Kill> {
        if va.page_offset() <= PAGE_SIZE - 4 {
            return self.store(self.locate_to_write(va)?, word);
        }
        let bytes = word.to_le_bytes();
        let in_page = (PAGE_SIZE - va.page_offset()) as usize;
        let (here, there) = bytes.split_at(in_page.min(bytes.len()));
        let next = va.plus(as_word(here.len()));
        self.store_bytes(self.locate_to_write(va)?, here)?;
        self.store_bytes(self.locate_to_write(next)?, there)
    }

    /// The `N` words from `va` on, on the Guest's behalf, one by one.
    ///
    /// # Errors
    ///
    /// [`Kill::BadVirtualAddress`] with the first that its tables do not map.
    #[cold]
    pub(crate) fn read_words<const N: usize>(
        &self,
        va: GuestVirt,
    ) -> Result<[u32; N], Kill> {
        let mut words = [0; N];
        for (n, word) in words.iter_mut().enumerate() {
            let at = va.0.wrapping_add(as_word(n) * 4);
            *word = self.read_virtual(GuestVirt(at))?;
        }
        Ok(words)
    }

    /// Stores `N` words that end before `end`, the last one first, as a
    /// processor pushes them.
    ///
    /// # Errors
    ///
    /// [`Kill::BadVirtualAddress`] with the first that its tables do not map
    /// writable.
    pub(crate) fn write_words_below<const N: usize>(
        &self,
        end: GuestVirt,
        words: [u32; N],
    ) -> Result<(), Kill> {
        let length = as_word(N) * 4;
        let start = GuestVirt(end.0.wrapping_sub(length));
        if start.page_offset() <= PAGE_SIZE - length
            && let Ok(place) = self.locate_to_write(start)
        {
            return self.store_words(place, words);
        }
        let mut at = end.0;
        for word in words.into_iter().rev() {
            at = at.wrapping_sub(4);
            self.write_virtual(GuestVirt(at), word)?;
        }
        Ok(())
    }

    /// Where `va` is, by what this view maps or else by the Guest's tables.
    pub(crate) fn locate(&self, va: GuestVirt) -> Option<GuestPhys> {
        self.mapped(va, Access::Read).or_else(|| {
            let frame = GuestPhys(self.entry(va)?.pte.frame());
            Some(frame.plus(va.page_offset()))
        })
    }

    /// The same for an address that the Guest's kernel may write to.
    fn locate_to_write(&self, va: GuestVirt) -> Result<GuestPhys, Kill> {
        if let Some(place) = self.mapped(va, Access::Write) {
            return Ok(place);
        }
        let bad = Kill::BadVirtualAddress(va.0);
        let entry = self.entry(va).ok_or(bad)?;
        if !entry.pte.has(Pte::WRITE) {
            return Err(bad);
        }
        // What a processor would do on the way.
        let used = Pte::ACCESSED | Pte::DIRTY;
        if !entry.pte.has(used) {
            let whole = self.memory.word(entry.at)?;
            self.store(entry.at, whole | used)?;
        }
        Ok(GuestPhys(entry.pte.frame()).plus(va.page_offset()))
    }

    /// Where `va` is by what this view maps, unless the Guest has just left
    /// for a page directory that is another view's. For its kernel only: what
    /// user code may use, the record does not say.
    fn mapped(&self, va: GuestVirt, access: Access) -> Option<GuestPhys> {
        if self.vm.cr3.get() != self.shadow.cr3() || self.vm.in_user_mode() {
            return None;
        }
        let place =
            self.shadow.translate(va, access, self.vm.page_offset.get());
        // A patched copy is no place to read from.
        place.filter(|place| place.0 < self.memory.limit())
    }

    /// The entry for `va`, if there is one that the Guest may use in the mode
    /// that it is in.
    pub(crate) fn entry(&self, va: GuestVirt) -> Option<Entry> {
        if va.is_switchers() {
            return None;
        }
        let entry = walk(&self.memory, self.vm.cr3.get(), va).ok()??;
        let allowed = !self.vm.in_user_mode() || entry.pte.has(Pte::USER);
        allowed.then_some(entry)
    }
}
