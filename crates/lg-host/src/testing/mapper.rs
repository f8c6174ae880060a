//! A mapper that maps nothing and records what it was told to map.
//!
//! A call that the Host must never make panics. A call that a real machine may
//! refuse at any time returns [`MapError`].

use crate::address::{GuestPhys, GuestVirt};
use crate::world::{Access, MapError, Mapper};
use lg_abi::page::{ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_ADDR};
use lg_abi::segment::{Descriptor, GDT_TLS_ENTRIES, GDT_TLS_MIN};
use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

/// What is mapped in one address space.
pub struct RecordingMapper {
    /// Bytes of the Guest's memory.
    limit: u32,
    /// Bytes of patched copies, which lie behind it.
    copies: u32,
    /// What is mapped: page number to frame and access.
    pub pages: BTreeMap<u32, (u32, Access)>,
    /// What is hidden: page number to frame.
    pub hidden: BTreeMap<u32, u32>,
    /// How many pages may be mapped before there is no room.
    pub room: Option<usize>,
    /// The descriptors that were set, in their order.
    pub segments: Vec<(u32, Descriptor)>,
}

impl RecordingMapper {
    /// One that maps nothing, for a Guest with `limit` bytes of memory and
    /// `copies` bytes of patched copies.
    #[must_use]
    pub fn new(limit: u32, copies: u32) -> Self {
        Self {
            limit,
            copies,
            pages: BTreeMap::new(),
            hidden: BTreeMap::new(),
            room: None,
            segments: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.room.is_some_and(|room| self.pages.len() >= room)
    }

    /// Panics unless `pages` pages from `va` are the Guest's.
    fn check_virtual(va: GuestVirt, pages: u32) {
        let bytes = u64::from(pages) * u64::from(PAGE_SIZE);
        assert!(va.page_offset() == 0 && pages > 0, "{va:?}+{pages}");
        let end = u64::from(va.0) + bytes;
        assert!(end <= u64::from(SWITCHER_ADDR), "{va:?}+{pages}");
    }

    /// Panics unless `pages` pages from `pa` exist. A patched copy is mapped
    /// on its own and for reading.
    fn check_physical(&self, pa: GuestPhys, pages: u32, access: Access) {
        assert!(pa.0.is_multiple_of(PAGE_SIZE), "{pa:?}");
        let copy = pa.0 >= self.limit && access == Access::Read && pages == 1;
        let copies = if copy { self.copies } else { 0 };
        let limit = u64::from(self.limit) + u64::from(copies);
        let bytes = u64::from(pages) * u64::from(PAGE_SIZE);
        assert!(u64::from(pa.0) + bytes <= limit, "{pa:?}+{pages}");
    }
}

impl Mapper for RecordingMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        Self::check_virtual(va, pages);
        self.check_physical(pa, pages, access);
        let first = va.page_number();
        if first == 0 {
            return Err(MapError::Forbidden);
        }
        if self.is_full() {
            // A real mapper may have removed the old mapping before it runs
            // out of room. This one always removes it.
            self.pages.remove(&first);
            self.hidden.remove(&first);
            return Err(MapError::NoRoom);
        }
        for i in 0..pages {
            let frame = pa.0 + (i << PAGE_SHIFT);
            self.pages.insert(first + i, (frame, access));
            self.hidden.remove(&(first + i));
        }
        Ok(())
    }

    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        Self::check_virtual(va, 1);
        let page = va.page_number();
        let mapped = self.pages.get(&page).map(|&(frame, _)| frame);
        let there = mapped.or_else(|| self.hidden.remove(&page));
        assert_eq!(there, Some(pa.0), "another page is at {va:?}");
        self.pages.insert(page, (pa.0, access));
        Ok(())
    }

    fn hides(&self) -> bool {
        true
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        Self::check_virtual(va, pages);
        if self.is_full() {
            return Err(MapError::NoRoom);
        }
        let first = va.page_number();
        for page in first..first + pages {
            if let Some((frame, _)) = self.pages.remove(&page) {
                self.hidden.insert(page, frame);
            }
            let there = self.hidden.contains_key(&page);
            assert!(there, "nothing is at page {page:#x}");
        }
        Ok(())
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        Self::check_virtual(va, pages);
        let first = va.page_number();
        let range = first..first + pages;
        let mapped = self.pages.range(range.clone());
        let inside: Vec<u32> = mapped.map(|(&page, _)| page).collect();
        // To unmap a few pages may split a mapping.
        let splits = pages < ENTRIES && !inside.is_empty();
        if splits && self.is_full() {
            return Err(MapError::NoRoom);
        }
        for page in inside {
            self.pages.remove(&page);
        }
        self.hidden.retain(|page, _| !range.contains(page));
        Ok(())
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        let tls = GDT_TLS_MIN..GDT_TLS_MIN + GDT_TLS_ENTRIES;
        assert!(tls.contains(&index), "{index}");
        // The Guest's descriptor may be anything. The Host must pass on only
        // what user code can load.
        assert!(descriptor.is_present() && descriptor.dpl() == 3);
        self.segments.push((index, descriptor));
        Ok(())
    }
}

/// A recording mapper that a Host changes and a test reads meanwhile.
#[derive(Clone)]
pub struct SharedMapper(Rc<RefCell<RecordingMapper>>);

impl SharedMapper {
    /// Shares `mapper`.
    #[must_use]
    pub fn new(mapper: RecordingMapper) -> Self {
        Self(Rc::new(RefCell::new(mapper)))
    }

    /// To read it.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, RecordingMapper> {
        self.0.borrow()
    }

    /// To change it.
    #[must_use]
    pub fn borrow_mut(&self) -> RefMut<'_, RecordingMapper> {
        self.0.borrow_mut()
    }
}

impl Mapper for SharedMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().map(va, pa, pages, access)
    }

    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().protect(va, pa, access)
    }

    fn hides(&self) -> bool {
        self.0.borrow().hides()
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        self.0.borrow_mut().hide(va, pages)
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        self.0.borrow_mut().unmap(va, pages)
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        self.0.borrow_mut().set_segment(index, descriptor)
    }
}
