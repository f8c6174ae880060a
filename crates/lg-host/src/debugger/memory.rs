//! Memory as a debugger sees it: by the Guest's tables, and without patches.
//!
//! Nothing is set in the tables on the way, and the rights of user code do not
//! matter. Where we have patched, what stood there is shown. Registers of
//! devices are not read, because that would change what the Guest sees.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;
use crate::patch::ledger::table::Place;
use lg_abi::page::{Format, LINEAR, PAGE_SIZE, Pte};
use lg_wire::debug::{Outcome, Space};
use lg_wire::mailbox::MAX_TEXT;

/// What an address of the debugger means.
#[derive(Clone, Copy)]
pub(super) enum Addresses {
    /// It is looked up in the tables of this page directory.
    Of(u32),
    /// It is one of the Guest's memory.
    Physical,
}

impl Host<'_> {
    /// Where `va` is, whoever may use it.
    pub(crate) fn place_of(&self, va: GuestVirt) -> Option<GuestPhys> {
        self.place_in(self.loaded(), va.0)
    }

    /// The addresses of the page directory that is loaded.
    pub(super) fn loaded(&self) -> Addresses {
        Addresses::Of(self.vm.cr3.get())
    }

    /// The addresses that an order means.
    pub(super) fn addresses(&self, space: Space) -> Addresses {
        match space {
            Space::Virtual => self.loaded(),
            Space::Physical => Addresses::Physical,
        }
    }

    fn place_in(&self, space: Addresses, at: u32) -> Option<GuestPhys> {
        let va = GuestVirt(at);
        match space {
            Addresses::Of(_) if va.is_switchers() => None,
            Addresses::Of(directory) => {
                let entry = self.tables(directory).walk(va).ok()??;
                Some(GuestPhys(entry.pte.frame()).plus(va.page_offset()))
            }
            Addresses::Physical => Some(GuestPhys(at)),
        }
    }

    /// Puts memory into the text, up to where it ends.
    pub(super) fn show_memory(
        &self,
        space: Addresses,
        at: u32,
        length: u32,
    ) -> Outcome {
        let mut bytes = [0; MAX_TEXT];
        let length = (length as usize).min(MAX_TEXT);
        let read = self.look(space, at, &mut bytes[..length]);
        self.vm.wire.mailbox.write_text(&bytes[..read]);
        if read == 0 && length != 0 {
            return Outcome::NoSuch;
        }
        Outcome::Done
    }

    /// Copies memory out, up to where it ends. Answers how many bytes.
    pub(super) fn look(
        &self,
        space: Addresses,
        at: u32,
        bytes: &mut [u8],
    ) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = at.wrapping_add(as_word(done));
            let Some(place) = self.place_in(space, at) else {
                break;
            };
            let end = bytes.len().min(done + left_in_page(at));
            let piece = &mut bytes[done..end];
            if self.memory.read(place, piece).is_err() {
                break;
            }
            self.vm.ledger.undo(Place::Memory(place), piece);
            done = end;
        }
        done
    }

    /// Puts into the text, for each entry of the Guest's tables by which `va`
    /// is found, where it is and its low word. Answers how many there are.
    pub(super) fn show_walk(&self, va: GuestVirt) -> (Outcome, u32) {
        let (format, cr3) = (self.format(), self.vm.cr3.get());
        let offsets: &[u32] = match format {
            Format::TwoLevels => {
                &[format.directory_offset(va.0), format.table_offset(va.0)]
            }
            Format::Pae => &[
                Format::pointer_offset(va.0),
                format.directory_offset(va.0),
                format.table_offset(va.0),
            ],
        };
        let mut text = [0; MAX_TEXT];
        let mut count = 0;
        // A pointer table of PAE need not begin a page.
        let mut table = GuestPhys(cr3);
        for (to, &offset) in text.chunks_exact_mut(8).zip(offsets) {
            let at = table.plus(offset);
            let Some(entry) = self.memory.word(at).ok().map(Pte) else {
                break;
            };
            if cr3 == LINEAR {
                break;
            }
            to[..4].copy_from_slice(&at.0.to_le_bytes());
            to[4..].copy_from_slice(&entry.0.to_le_bytes());
            count += 1;
            if !entry.has(Pte::PRESENT) {
                break;
            }
            table = GuestPhys(entry.frame());
        }
        self.vm.wire.mailbox.write_text(&text[..count * 8]);
        (Outcome::Done, as_word(count))
    }

    /// Writes the text to memory, all of it or nothing.
    pub(super) fn change_memory(&self, space: Addresses, at: u32) -> Outcome {
        let (text, length) = self.vm.wire.mailbox.read_text();
        let text = &text[..length];
        let mut there = [0; MAX_TEXT];
        if self.look(space, at, &mut there[..length]) != length {
            return Outcome::NoSuch;
        }
        let mut done = 0;
        while done < length {
            let at = at.wrapping_add(as_word(done));
            let end = length.min(done + left_in_page(at));
            if let Some(place) = self.place_in(space, at) {
                self.write_below_patches(place, &text[done..end]);
            }
            done = end;
        }
        Outcome::Done
    }
}

/// How many bytes from `at` on are in the same page.
fn left_in_page(at: u32) -> usize {
    (PAGE_SIZE - at % PAGE_SIZE) as usize
}
