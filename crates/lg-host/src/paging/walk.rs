//! Walking the Guest's page tables, as its processor would.
//!
//! The tables have one of two formats: two levels, or three with PAE. Nothing
//! is cached. The entry that a walk finds has the rights that the directory
//! leaves to it. The high word of an entry of 8 bytes must be 0: no Guest has
//! memory above 4 GiB, and none may use the bit for pages without code (NX).

use super::record::TableWords;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;
use crate::kill::Kill;
use crate::memory::Memory;
use crate::world::Access;
use lg_abi::page::{
    DIRECTORY_SHIFT, Format, LINEAR, PAGE_SHIFT, PAGE_SIZE, Pte,
};

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Physical address of the page-table entry.
    pub at: GuestPhys,
    /// Its value, less the rights that the directory withholds.
    pub pte: Pte,
}

/// The tables of one address space.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    memory: &'a Memory,
    format: Format,
    cr3: u32,
}

impl<'a> Tables<'a> {
    /// The tables at `cr3`, which may be [`LINEAR`].
    #[must_use]
    #[inline]
    pub const fn new(memory: &'a Memory, format: Format, cr3: u32) -> Self {
        Self {
            memory,
            format,
            cr3,
        }
    }

    /// The page-table entry for `va`, or `None` where the tables say "not
    /// present", or name a device.
    ///
    /// # Errors
    ///
    /// [`Kill::BadPageDirectoryEntry`], [`Kill::BadPageTableEntry`] and
    /// [`Kill::BadHighWord`] for entries that cannot be (docs/abi.md, section
    /// 6), and [`Kill::BadAddress`] for a directory beyond memory.
    pub fn walk(self, va: GuestVirt) -> Result<Option<Entry>, Kill> {
        let entry = self.find(va)?;
        Ok(entry.filter(|entry| !is_device(self.memory, entry.pte)))
    }

    /// The same, also where the tables name a device.
    fn find(self, va: GuestVirt) -> Result<Option<Entry>, Kill> {
        match self.format {
            Format::TwoLevels => self.walk_as(Format::TwoLevels, va),
            Format::Pae => self.walk_pae(va),
        }
    }

    /// Apart from the other format: the Host then has fewer pages of code that
    /// a Guest needs.
    #[inline(never)]
    fn walk_pae(self, va: GuestVirt) -> Result<Option<Entry>, Kill> {
        self.walk_as(Format::Pae, va)
    }

    #[inline(always)]
    fn walk_as(
        self,
        format: Format,
        va: GuestVirt,
    ) -> Result<Option<Entry>, Kill> {
        if self.cr3 == LINEAR {
            return Ok(linear(self.memory, va));
        }
        let Some(table) = self.table_as(format, va)? else {
            return Ok(None);
        };
        let at = entry_address(format, table, va);
        let pte = entry(self.memory, format, at)?;
        if !pte.has(Pte::PRESENT) {
            return Ok(None);
        }
        check_pte(self.memory, pte)?;
        Ok(Some(Entry {
            at,
            pte: limit_rights(pte, table),
        }))
    }

    /// The directory entry for `va`, checked, or `None` where it is not
    /// present.
    ///
    /// # Errors
    ///
    /// As for [`Self::walk`].
    pub fn table(self, va: GuestVirt) -> Result<Option<Pte>, Kill> {
        match self.format {
            Format::TwoLevels => self.table_as(Format::TwoLevels, va),
            Format::Pae => self.table_pae(va),
        }
    }

    #[inline(never)]
    fn table_pae(self, va: GuestVirt) -> Result<Option<Pte>, Kill> {
        self.table_as(Format::Pae, va)
    }

    #[inline(always)]
    fn table_as(
        self,
        format: Format,
        va: GuestVirt,
    ) -> Result<Option<Pte>, Kill> {
        if self.cr3 == LINEAR {
            return Ok(None);
        }
        let directory = match format {
            Format::TwoLevels => GuestPhys(self.cr3),
            Format::Pae => match self.directory(va)? {
                Some(directory) => directory,
                None => return Ok(None),
            },
        };
        let at = directory.plus(format.directory_offset(va.0));
        let pde = entry(self.memory, format, at)?;
        if !pde.has(Pte::PRESENT) {
            return Ok(None);
        }
        check_directory_entry(self.memory, pde, Pte::DIRECTORY_FLAGS)?;
        Ok(Some(pde))
    }

    /// With PAE, the physical address of the page directory for `va`.
    #[inline]
    fn directory(self, va: GuestVirt) -> Result<Option<GuestPhys>, Kill> {
        let at = GuestPhys(self.cr3).plus(Format::pointer_offset(va.0));
        let pointer = entry(self.memory, Format::Pae, at)?;
        if !pointer.has(Pte::PRESENT) {
            return Ok(None);
        }
        check_directory_entry(self.memory, pointer, Pte::PRESENT)?;
        Ok(Some(GuestPhys(pointer.frame())))
    }

    /// Where the GiBs begin that the page directory at `directory` maps. With
    /// PAE only.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn places_of(
        self,
        directory: u32,
    ) -> Result<impl Iterator<Item = GuestVirt> + use<>, Kill> {
        let words: [u32; 8] = match self.cr3 {
            LINEAR => [0; 8],
            cr3 => self.memory.words(GuestPhys(cr3))?,
        };
        let starts = (0..=3).map(|gib| GuestVirt(gib << Format::POINTER_SHIFT));
        let pointers = words.into_iter().step_by(2).map(Pte).zip(starts);
        Ok(pointers.filter_map(move |(pointer, start)| {
            let names = pointer.frame() == directory & !(PAGE_SIZE - 1);
            (pointer.has(Pte::PRESENT) && names).then_some(start)
        }))
    }

    /// The page tables of 4 MiB piece `index`.
    ///
    /// # Errors
    ///
    /// As for [`Self::walk`].
    #[inline]
    pub fn piece(self, index: u32) -> Result<Piece, Kill> {
        let start = GuestVirt(index << DIRECTORY_SHIFT);
        let first = self.table(start)?;
        let second = match self.format {
            Format::TwoLevels => first,
            Format::Pae => self.table(start.plus(HALF))?,
        };
        Ok(Piece([first, second]))
    }

    /// Whether there are page tables for one piece of 4 MiB below directory
    /// index `end`, as in the directory of a program that has only got its
    /// arguments.
    pub(super) fn are_new(self, end: u32) -> bool {
        if self.cr3 == LINEAR {
            return false;
        }
        let mut tables = (0..end).filter(|&index| {
            self.words(index)
                .is_some_and(|[low, high]| (low | high) & Pte::PRESENT != 0)
        });
        tables.next().is_some() && tables.next().is_none()
    }

    /// The directory entries of piece `index` as they are in memory, unchecked;
    /// `None` where there is no directory.
    pub(super) fn words(self, index: u32) -> Option<TableWords> {
        let va = index << DIRECTORY_SHIFT;
        if self.cr3 == LINEAR {
            return None;
        }
        if self.format == Format::TwoLevels {
            let at = GuestPhys(self.cr3).plus(index * 4);
            return Some([self.memory.word(at).ok()?, 0]);
        }
        let directory = self.directory(GuestVirt(va)).ok()??;
        let at = directory.plus(Format::Pae.directory_offset(va));
        let [first, _, second, _] = self.memory.words(at).ok()?;
        Some([first, second])
    }
}

/// Half a piece: what one page table of PAE covers.
const HALF: u32 = Format::Pae.table_span();

/// The page tables of a piece of 4 MiB: two with PAE, and otherwise one, which
/// is at both places here.
#[derive(Clone, Copy)]
pub struct Piece([Option<Pte>; 2]);

impl Piece {
    /// Whether there is no page table for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [None; 2]
    }

    /// The entry for `va`, which lies in this piece, in tables of `format`.
    /// Where there is no table, and where it names a device, it is empty.
    ///
    /// # Errors
    ///
    /// As for [`Tables::walk`].
    #[inline(always)]
    pub fn entry(
        &self,
        memory: &Memory,
        format: Format,
        va: GuestVirt,
    ) -> Result<Pte, Kill> {
        let table = match format {
            Format::TwoLevels => self.0[0],
            Format::Pae => self.0[(va.0 / HALF % 2) as usize],
        };
        let Some(table) = table else {
            return Ok(Pte(0));
        };
        let at = entry_address(format, table, va);
        let pte = entry(memory, format, at)?;
        if pte.has(Pte::PRESENT) {
            check_pte(memory, pte)?;
            if is_device(memory, pte) {
                return Ok(Pte(0));
            }
        }
        Ok(limit_rights(pte, table))
    }
}

/// Where the entry for `va` is in the page table that `table` names.
#[inline]
fn entry_address(format: Format, table: Pte, va: GuestVirt) -> GuestPhys {
    GuestPhys(table.frame()).plus(format.table_offset(va.0))
}

/// The entry at `at`. If it is present, its high word is 0.
#[inline(always)]
fn entry(memory: &Memory, format: Format, at: GuestPhys) -> Result<Pte, Kill> {
    if format == Format::TwoLevels {
        return memory.word(at).map(Pte);
    }
    let [low, high] = memory.words(at)?;
    check_high_word(Pte(low), high)?;
    Ok(Pte(low))
}

/// Refuses an entry of 8 bytes that is present and whose `high` word is not 0.
/// Linux keeps the places of swapped pages in entries that are not present.
///
/// # Errors
///
/// [`Kill::BadHighWord`].
#[inline]
pub fn check_high_word(pte: Pte, high: u32) -> Result<(), Kill> {
    if high != 0 && pte.has(Pte::PRESENT) {
        return Err(Kill::BadHighWord { low: pte.0, high });
    }
    Ok(())
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

/// Refuses a directory entry or a pointer with flags that are not among
/// `flags`, or without a frame.
#[inline]
fn check_directory_entry(
    memory: &Memory,
    pde: Pte,
    flags: u32,
) -> Result<(), Kill> {
    let bad_flags = pde.flags() & !flags != 0;
    if bad_flags || pde.pfn() >= memory.limit() >> PAGE_SHIFT {
        return Err(Kill::BadPageDirectoryEntry(pde.0));
    }
    Ok(())
}

/// Refuses page-table entries that cannot be.
///
/// # Errors
///
/// [`Kill::BadPageTableEntry`].
pub fn check_pte(memory: &Memory, pte: Pte) -> Result<(), Kill> {
    // Kernels with a PCI bus choose how memory is cached, which has no effect.
    let has_pci = memory.device_limit() != memory.limit();
    let cache = if has_pci { 0 } else { Pte::WRITE_THROUGH };
    let bad_flags = pte.flags() & (cache | Pte::SIZE) != 0;
    if bad_flags || pte.pfn() >= memory.device_limit() >> PAGE_SHIFT {
        return Err(Kill::BadPageTableEntry(pte.0));
    }
    Ok(())
}

/// Whether a checked entry names a page of a device on the PCI bus. Nothing is
/// mapped there, and every access is carried out
/// ([`device_access`](crate::cpu::device_access)).
#[must_use]
#[inline]
pub fn is_device(memory: &Memory, pte: Pte) -> bool {
    pte.pfn() >= memory.limit() >> PAGE_SHIFT
}

/// What is left of a page's rights under its directory entry.
#[must_use]
pub fn limit_rights(pte: Pte, pde: Pte) -> Pte {
    let withheld = !pde.0 & (Pte::WRITE | Pte::USER);
    Pte(pte.0 & !withheld)
}

impl Host<'_> {
    /// The format of the Guest's page tables.
    #[inline]
    pub(crate) fn format(&self) -> Format {
        Format::by_number(self.vm.paging.get())
    }

    /// The Guest's tables at `cr3`.
    #[inline]
    pub(crate) fn tables(&self, cr3: u32) -> Tables<'_> {
        Tables::new(&self.memory, self.format(), cr3)
    }

    /// The tables that this view maps.
    #[inline]
    pub(super) fn own_tables(&self) -> Tables<'_> {
        self.tables(self.shadow.cr3())
    }

    /// Where on the PCI bus `va` leads, if the Guest's tables allow the access.
    pub(crate) fn device_address(
        &self,
        va: GuestVirt,
        write: bool,
    ) -> Option<GuestPhys> {
        let (cr3, user) = (self.vm.cr3.get(), self.vm.in_user_mode());
        if va.is_switchers() {
            return None;
        }
        if cr3 == LINEAR {
            let devices = self.memory.limit()..self.memory.device_limit();
            return devices.contains(&va.0).then_some(GuestPhys(va.0));
        }
        let pte = self.tables(cr3).find(va).ok()??.pte;
        let allowed = (!write || pte.has(Pte::WRITE))
            && (!user || pte.has(Pte::USER))
            && is_device(&self.memory, pte);
        allowed.then(|| GuestPhys(pte.frame()).plus(va.page_offset()))
    }

    /// Whether the Guest's tables map `va` at all: bit 0 of the error code of
    /// a page fault. A table with an impossible entry counts as not mapping it;
    /// an access by it ends the Guest.
    pub(crate) fn is_present(&self, va: GuestVirt) -> bool {
        !va.is_switchers()
            && matches!(self.tables(self.vm.cr3.get()).walk(va), Ok(Some(_)))
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
        let entry = self.tables(self.vm.cr3.get()).walk(va).ok()??;
        let allowed = !self.vm.in_user_mode() || entry.pte.has(Pte::USER);
        allowed.then_some(entry)
    }
}
