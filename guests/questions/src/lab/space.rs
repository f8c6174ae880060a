//! Address spaces, made entry by entry.
//!
//! The kernel's half uses the kit's tables. All other tables are made here, and
//! only the question reports them to the Host.

use super::memory::{Page, page, peek, poke};
use lg_abi::hypercall::Hypercall;
use lg_abi::page::{
    DEFAULT_PAGE_OFFSET, ENTRIES, PAGE_SIZE, Pte, directory_index, table_index,
};
use lg_guest::one_cpu::OneCpu;
use lg_guest::paging::AddressSpace;

/// Flags of a used page, for the kernel and for all levels.
pub(crate) const KERNEL_PAGE: u32 =
    Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY;
pub(crate) const USER_PAGE: u32 = KERNEL_PAGE | Pte::USER;

/// The address of the kernel's short pieces of code: far above its memory.
pub(crate) const KERNEL_CODE: u32 = 0xE000_0000;
/// The page after it, which a question may map in the kernel.
pub(crate) const KERNEL_DATA: u32 = 0xE000_1000;
/// The address of pieces of code for user mode.
pub(crate) const USER_CODE: u32 = 0x0804_8000;
/// A page that user mode may write.
pub(crate) const USER_DATA: u32 = 0x0804_9000;
/// The end of its stack.
pub(crate) const USER_STACK: u32 = 0xB000_0000;

/// A page directory.
#[derive(Clone, Copy)]
pub(crate) struct Space {
    /// Its physical address.
    pub(crate) directory: Page,
}

/// The space in which the lab itself runs.
static FIRST: OneCpu<Option<Space>> = OneCpu::new(None);

/// The pages for code, one for each mode.
static CODE: OneCpu<(Page, Page)> = OneCpu::new((0, 0));

/// Makes the first space: the kernel as in the kit, and a page for code.
pub(super) fn open() {
    let Ok(kits) = AddressSpace::new() else {
        panic!("no memory for the lab");
    };
    let space = Space { directory: page() };
    let first = directory_index(DEFAULT_PAGE_OFFSET);
    for at in (first * 4..ENTRIES * 4).step_by(4) {
        poke(space.directory + at, peek(kits.directory().0 + at));
    }
    let code = (page(), page());
    CODE.with(|pages| *pages = code);
    space.set(KERNEL_CODE, code.0 | KERNEL_PAGE);
    space.map_user();
    space.activate();
    FIRST.with(|first| *first = Some(space));
}

/// The first space of the lab.
pub(crate) fn first() -> Space {
    FIRST.with(|first| first.expect("the lab is open"))
}

/// The page for code in kernel mode.
pub(super) fn kernel_code() -> Page {
    CODE.with(|code| code.0)
}

/// The page for code in user mode.
pub(super) fn user_code() -> Page {
    CODE.with(|code| code.1)
}

impl Space {
    /// A copy of the first one's kernel, with code, data and a stack of its
    /// own for user mode.
    pub(crate) fn new() -> Self {
        let space = Self { directory: page() };
        let kernel = directory_index(DEFAULT_PAGE_OFFSET);
        for at in (kernel * 4..ENTRIES * 4).step_by(4) {
            poke(space.directory + at, peek(first().directory + at));
        }
        space.map_user();
        space
    }

    fn map_user(self) {
        self.set(USER_CODE, user_code() | USER_PAGE & !Pte::WRITE);
        self.set(USER_DATA, page() | USER_PAGE);
        self.set(USER_STACK - PAGE_SIZE, page() | USER_PAGE);
    }

    /// The address of the directory's entry for `at`.
    pub(crate) fn pde(self, at: u32) -> u32 {
        self.directory + directory_index(at) * 4
    }

    /// The address of the page-table entry for `at`. Makes a table if there is
    /// none.
    pub(crate) fn pte(self, at: u32) -> u32 {
        let pde = self.pde(at);
        if peek(pde) & Pte::PRESENT == 0 {
            poke(pde, page() | USER_PAGE);
        }
        Pte(peek(pde)).frame() + table_index(at) * 4
    }

    /// Writes the entry for `at`, and does not report it.
    pub(crate) fn set(self, at: u32, entry: u32) {
        poke(self.pte(at), entry);
    }

    /// Writes the entry for `at`, and reports it by SET_PTE.
    pub(crate) fn set_pte(self, at: u32, entry: u32) {
        self.set(at, entry);
        super::hypercall(Hypercall::SetPte, self.directory, at, entry);
    }

    /// Makes it the current one.
    pub(crate) fn activate(self) {
        super::hypercall(Hypercall::NewPgtable, self.directory, 0, 0);
    }
}
