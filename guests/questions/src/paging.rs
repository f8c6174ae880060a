//! Questions about page tables: their effect, and the bits in them.
//!
//! They are in the Guest's memory. The Host maps by a shadow record of its own,
//! and the Guest reports changes. The Guest must never see a difference.

use crate::lab::memory::{load, peek, poke, store};
use crate::lab::run::{User, put_user};
use crate::lab::space::{
    KERNEL_DATA, KERNEL_PAGE, Space, USER_DATA, USER_PAGE, first,
};
use crate::lab::{code, hypercall, kernel, page, user};
use lg_abi::hypercall::Hypercall;
use lg_abi::page::{PAGE_SIZE, Pte, table_index};
use lg_guest::println;

const P: u32 = Pte::PRESENT;
const W: u32 = Pte::WRITE;
const U: u32 = Pte::USER;
const A: u32 = Pte::ACCESSED;
const D: u32 = Pte::DIRTY;

/// The flags of the entry for `va` of the first space, as letters.
fn flags(va: u32) -> &'static str {
    let entry = peek(first().pte(va));
    match (entry & A != 0, entry & D != 0) {
        (false, false) => "--",
        (true, false) => "A-",
        (false, true) => "-D",
        (true, true) => "AD",
    }
}

/// Are Accessed and Dirty of a kernel page set by a read and by a write, and
/// not before?
pub(crate) fn accessed_and_dirty() {
    first().set_pte(KERNEL_DATA, page() | P | W);
    println!("before any use: {}", flags(KERNEL_DATA));
    println!("reads {:#x}: {}", load(KERNEL_DATA), flags(KERNEL_DATA));
    store(KERNEL_DATA, 7);
    println!("writes: {}", flags(KERNEL_DATA));
    println!("reads {:#x}: {}", load(KERNEL_DATA), flags(KERNEL_DATA));
}

/// Are Accessed and Dirty of a user page set by a read and by a write, and not
/// before?
pub(crate) fn accessed_and_dirty_of_a_user() {
    let at = USER_DATA + PAGE_SIZE;
    first().set_pte(at, page() | P | W | U);
    println!("before any use: {}", flags(at));
    println!("{}", user(code!("mov 0x804a000, %eax", "int $0x80")));
    println!("after a read: {}", flags(at));
    println!("{}", user(code!("movl $7, 0x804a000", "int $0x80")));
    println!("after a write: {}", flags(at));
    println!("{:#x}", load(at));
}

/// Does a first write set Accessed and Dirty at once?
pub(crate) fn accessed_and_dirty_by_a_write() {
    first().set_pte(KERNEL_DATA, page() | P | W);
    store(KERNEL_DATA, 7);
    println!("after a write: {}", flags(KERNEL_DATA));
}

/// Is Dirty set again after the kernel has cleared and reported it?
pub(crate) fn dirty_again() {
    let frame = page();
    first().set_pte(KERNEL_DATA, frame | KERNEL_PAGE);
    store(KERNEL_DATA, 1);
    first().set_pte(KERNEL_DATA, frame | P | W | A);
    println!("cleaned: {}", flags(KERNEL_DATA));
    println!("reads {}: {}", load(KERNEL_DATA), flags(KERNEL_DATA));
    store(KERNEL_DATA, 2);
    println!("writes: {}", flags(KERNEL_DATA));
    first().set_pte(KERNEL_DATA, frame | P | W | D);
    println!("forgotten: {}", flags(KERNEL_DATA));
    println!("reads {}: {}", load(KERNEL_DATA), flags(KERNEL_DATA));
}

/// Do a read of a read-only page, and a write that faults, leave it clean?
pub(crate) fn read_only_stays_clean() {
    first().set_pte(KERNEL_DATA, page() | P);
    println!(
        "{}",
        kernel(code!("movl $7, 0xE0001000")).expect("it faults")
    );
    println!("after the fault: {}", flags(KERNEL_DATA));
    println!("reads {}: {}", load(KERNEL_DATA), flags(KERNEL_DATA));
}

/// Which error codes do the kernel's page faults have: not present and
/// read-only, read and write?
pub(crate) fn kernel_faults() {
    let show = |code| println!("{}", kernel(code).expect("it faults"));
    show(code!("mov 0xE0001000, %eax"));
    show(code!("movl $7, 0xE0001000"));
    first().set_pte(KERNEL_DATA, page() | P);
    show(code!("movl $7, 0xE0001ffc"));
    // A directory without rights takes them from the page.
    let fresh = 0xE040_0000;
    first().set(fresh, page() | P | W);
    poke(first().pde(fresh), peek(first().pde(fresh)) & !W);
    hypercall(Hypercall::FlushTlb, 1, 0, 0);
    show(code!("movl $7, 0xE0400000"));
    show(code!("mov $0xE0800000, %eax", "jmp *%eax"));
}

/// Which error codes do user mode's page faults have: not present, read-only,
/// the kernel's?
pub(crate) fn user_faults() {
    let show = |code| println!("{}", user(code));
    let at = USER_DATA + PAGE_SIZE;
    show(code!("mov 0x804a000, %eax"));
    show(code!("movl $7, 0x804a000"));
    first().set_pte(at, page() | P | U);
    show(code!("movl $7, 0x804a004"));
    first().set_pte(at, page() | P | W);
    show(code!("mov 0x804a008, %eax"));
    show(code!("movl $7, 0x804a00c"));
    show(code!("mov $0x804a000, %eax", "jmp *%eax"));
    show(code!("mov $0x20000000, %eax", "jmp *%eax"));
}

/// May the kernel read and write pages that are the user's?
pub(crate) fn kernel_uses_user_pages() {
    store(USER_DATA, 0x1234);
    println!("{:#x}", load(USER_DATA));
    println!(
        "{}",
        kernel(code!("movl $7, 0x8048000")).expect("read-only")
    );
}

/// Is memory from the kernel's first address on out of user mode's reach, for
/// each kind of access, with the error code of a present page?
pub(crate) fn user_accesses_the_kernel() {
    let show = |code| println!("{}", user(code));
    show(code!("mov 0xC0100000, %eax"));
    show(code!("movb $7, 0xC0100001"));
    show(code!("mov $0xC0100004, %ebx", "incl (%ebx)"));
    show(code!(
        "mov $0xC0100000, %ebx",
        "mov $2, %ecx",
        "cmp 8(%ebx,%ecx,4), %eax"
    ));
    show(code!("mov $0xC0100000, %esi", "lodsb"));
    show(code!("mov $0xC0100000, %edi", "stosl"));
    show(code!(
        "mov $0x8049000, %esi",
        "mov $0xC0100000, %edi",
        "movsl"
    ));
    show(code!("mov $0xC0100100, %esp", "push %eax"));
    show(code!("mov $0xC0100100, %esp", "pop %eax"));
    show(code!("mov $0xC0100000, %eax", "jmp *%eax"));
    show(code!("mov $0xC0100000, %eax", "call *%eax"));
    show(code!("call *0xC0100000"));
    show(code!("push 0xC0100000"));
    show(code!("fld1", "fstl 0xC0100000"));
    show(code!("movups 0xC0100000, %xmm0"));
    show(code!("movups %xmm0, 0xC0100010"));
    show(code!("lock; cmpxchg %ecx, 0xC0100000"));
    show(code!("bts %eax, 0xC0100000"));
}

/// What is the fault of user mode at an unmapped address above the kernel's
/// first address?
pub(crate) fn user_accesses_an_unmapped_page() {
    let show = |code| println!("{}", user(code));
    show(code!("mov 0xD0000000, %eax"));
    show(code!("movl $1, 0xD0000000"));
    show(code!("mov $0xD0000000, %eax", "jmp *%eax"));
}

/// Does an access that begins below the kernel and ends in it fault at the
/// kernel's first byte?
pub(crate) fn user_straddles() {
    let last = 0xBFFF_F000;
    first().set_pte(last, page() | USER_PAGE);
    println!("{}", user(code!("mov 0xBFFFFFFC, %eax", "int $0x80")));
    println!("{}", user(code!("mov 0xBFFFFFFE, %eax", "int $0x80")));
    println!("{}", user(code!("movl $1, 0xBFFFFFFD", "int $0x80")));
}

/// Is an access to the Switcher's addresses an ordinary fault for user mode?
pub(crate) fn user_touches_the_switcher() {
    println!("{}", user(code!("mov 0xFFC00000, %eax")));
    println!("{}", user(code!("movl $1, 0xFFFFFFFC")));
    println!("{}", user(code!("mov $0xFFC00000, %eax", "jmp *%eax")));
}

/// Does a read of the Switcher's addresses end a kernel?
pub(crate) fn kernel_touches_the_switcher() {
    kernel(code!("nop", "mov 0xFFC00000, %eax"));
}

/// Does a write to the last word of the addresses end a kernel?
pub(crate) fn kernel_writes_to_the_switcher() {
    kernel(code!("nop", "movl $1, 0xFFFFFFFC"));
}

/// Does a jump to the Switcher's addresses end a kernel?
pub(crate) fn kernel_jumps_to_the_switcher() {
    kernel(code!("mov $0xFFC00010, %eax", "jmp *%eax"));
}

/// Does mapping the Switcher's addresses end a kernel?
pub(crate) fn kernel_maps_the_switcher() {
    kernel(code!(
        "mov $14, %eax", // SET_PTE
        "mov $0x20000, %edx",
        "mov $0xFFC00000, %ebx",
        "mov $0x50063, %ecx",
        "int $0x1f"
    ));
}

/// May a kernel report that nothing is mapped at the Switcher's addresses, or
/// that their directory entry has changed?
pub(crate) fn kernel_unmaps_the_switcher() {
    let cr3 = first().directory;
    hypercall(Hypercall::SetPte, cr3, 0xFFC0_0000, 0);
    hypercall(Hypercall::SetPmd, cr3, 1023, 0);
    hypercall(Hypercall::SetPmd, cr3, 1024, 0);
    hypercall(Hypercall::SetPmd, cr3, u32::MAX, 0);
    println!("still here");
}

/// May the page directory's last entry have any value, as long as it is not
/// used?
pub(crate) fn last_directory_entry() {
    poke(first().directory + 1023 * 4, u32::MAX);
    hypercall(Hypercall::FlushTlb, 1, 0, 0);
    println!("still here");
}

/// Does SET_PTE make a new entry take effect: another page, read-only, none,
/// and the first again?
pub(crate) fn set_pte() {
    let (one, two) = (page(), page());
    poke(one, 1);
    poke(two, 2);
    first().set_pte(KERNEL_DATA, one | KERNEL_PAGE);
    println!("{}", load(KERNEL_DATA));
    first().set_pte(KERNEL_DATA, two | KERNEL_PAGE);
    println!("{}", load(KERNEL_DATA));
    first().set_pte(KERNEL_DATA, two | KERNEL_PAGE & !W);
    println!(
        "{}",
        kernel(code!("movl $7, 0xE0001000")).expect("read-only")
    );
    first().set_pte(KERNEL_DATA, 0);
    println!("{}", kernel(code!("mov 0xE0001000, %eax")).expect("gone"));
    first().set_pte(KERNEL_DATA, one | KERNEL_PAGE);
    println!("{}", load(KERNEL_DATA));
}

/// Does SET_PTE for a user's address make a new entry take effect?
pub(crate) fn set_pte_of_a_user() {
    let (one, two) = (page(), page());
    poke(one, 1);
    poke(two, 2);
    let look = code!("mov 0x804a000, %eax", "int $0x80");
    let at = USER_DATA + PAGE_SIZE;
    for entry in [one | USER_PAGE, two | USER_PAGE, 0, one | USER_PAGE] {
        first().set_pte(at, entry);
        let seen = user(look);
        println!("eax {}, trap {}", seen.trapped.eax, seen.trapped.vector);
    }
}

/// Does SET_PMD make a new table, and no table, take effect?
pub(crate) fn set_pmd() {
    let at = 0x1000_0000;
    let index = at >> 22;
    let space = first();
    let tables = [page(), page()];
    for (n, table) in tables.iter().enumerate() {
        let frame = page();
        poke(frame, n as u32 + 1);
        poke(*table, frame | USER_PAGE);
    }
    let look = code!("mov 0x10000000, %eax", "int $0x80");
    for entry in [tables[0] | USER_PAGE, tables[1] | USER_PAGE, 0] {
        poke(space.pde(at), entry);
        hypercall(Hypercall::SetPmd, space.directory, index, 0);
        let seen = user(look);
        println!("eax {}, trap {}", seen.trapped.eax, seen.trapped.vector);
    }
}

/// Does FLUSH_TLB(0) make changes in the user's part take effect?
pub(crate) fn flush_user() {
    flush(
        0,
        USER_DATA + PAGE_SIZE,
        code!("mov 0x804a000, %eax", "int $0x80"),
    );
}

/// Does FLUSH_TLB(1) make changes in the user's part take effect?
pub(crate) fn flush_all() {
    flush(
        1,
        USER_DATA + PAGE_SIZE,
        code!("mov 0x804a000, %eax", "int $0x80"),
    );
}

/// Does FLUSH_TLB(1) make changes in the kernel's part take effect?
pub(crate) fn flush_all_of_the_kernel() {
    for n in 1..=3 {
        let frame = page();
        poke(frame, n);
        first().set(KERNEL_DATA, frame | KERNEL_PAGE);
        hypercall(Hypercall::FlushTlb, 1, 0, 0);
        println!("{}", load(KERNEL_DATA));
    }
}

fn flush(how: u32, at: u32, look: &[u8]) {
    let (one, two) = (page(), page());
    poke(one, 1);
    poke(two, 2);
    for entry in [one | USER_PAGE, two | USER_PAGE, 0, one | USER_PAGE] {
        first().set(at, entry);
        hypercall(Hypercall::FlushTlb, how, 0, 0);
        let seen = user(look);
        println!("eax {}, trap {}", seen.trapped.eax, seen.trapped.vector);
    }
}

/// Does FLUSH_TLB(1) also concern page directories that are not the current
/// one?
pub(crate) fn flush_all_elsewhere() {
    let (here, there) = (first(), Space::new());
    let at = USER_DATA + PAGE_SIZE;
    let look = code!("mov 0x804a000, %eax", "int $0x80");
    for n in 1..=3 {
        let frame = page();
        poke(frame, n);
        there.set(at, frame | USER_PAGE);
        hypercall(Hypercall::FlushTlb, 1, 0, 0);
        there.activate();
        println!("eax {}", user(look).trapped.eax);
        here.activate();
    }
}

/// Does SET_PTE for another page directory change that one, and not the current
/// one?
pub(crate) fn set_pte_elsewhere() {
    let (here, there) = (first(), Space::new());
    let at = USER_DATA + PAGE_SIZE;
    let look = code!("mov 0x804a000, %eax", "int $0x80");
    let mine = page();
    poke(mine, 100);
    here.set_pte(at, mine | USER_PAGE);
    for n in 1..=3 {
        let frame = page();
        poke(frame, n);
        there.set_pte(at, frame | USER_PAGE);
        println!("here {}", user(look).trapped.eax);
        there.activate();
        println!("there {}", user(look).trapped.eax);
        here.activate();
    }
}

/// Does SET_PTE for a kernel address change all page directories, with any of
/// them as argument?
pub(crate) fn set_pte_of_the_kernel_elsewhere() {
    let spaces = [first(), Space::new(), Space::new()];
    for (n, named) in spaces.iter().enumerate() {
        let frame = page();
        poke(frame, n as u32 + 1);
        named.set_pte(KERNEL_DATA, frame | KERNEL_PAGE);
        for space in spaces {
            space.activate();
            println!("{}", load(KERNEL_DATA));
        }
    }
}

/// Does each of two page directories have its own memory at the same address?
pub(crate) fn two_directories() {
    let spaces = [first(), Space::new()];
    for round in 1..=3 {
        for (n, space) in (1..).zip(spaces) {
            space.activate();
            store(USER_DATA, load(USER_DATA) + 10 * round + n);
        }
    }
    for space in spaces {
        space.activate();
        println!("{}", load(USER_DATA));
    }
}

/// Does each of forty page directories, more than there are views, have its own
/// memory?
pub(crate) fn forty_directories() {
    let spaces = [0; 40].map(|_| small_space());
    let count = code!("incl 0x8049000", "mov 0x8049000, %eax", "int $0x80");
    for (n, space) in (0..).zip(&spaces) {
        space.activate();
        store(USER_DATA, n * 100);
    }
    let mut wrong = 0;
    for round in 1..=3 {
        for (n, space) in (0..).zip(&spaces) {
            space.activate();
            wrong += u32::from(user(count).trapped.eax != n * 100 + round);
        }
    }
    println!("wrong: {wrong}");
}

/// A space with code and data in one table: two pages and the directory.
fn small_space() -> Space {
    let space = Space { directory: page() };
    for at in (768 * 4..1024 * 4).step_by(4) {
        poke(space.directory + at, peek(first().directory + at));
    }
    space.set(USER_DATA, page() | USER_PAGE);
    let code = peek(first().pte(crate::lab::space::USER_CODE));
    space.set(crate::lab::space::USER_CODE, code);
    space
}

/// Does a page directory show its new contents if it was used, emptied, filled
/// again, and only switched to?
pub(crate) fn directory_used_again() {
    let space = Space::new();
    space.activate();
    store(USER_DATA, 5);
    first().activate();
    let frame = page();
    poke(frame, 6);
    space.set(USER_DATA, frame | USER_PAGE);
    hypercall(Hypercall::SetPmd, space.directory, USER_DATA >> 22, 0);
    space.activate();
    println!("{}", load(USER_DATA));
}

/// Does an access to page 0 fault in both modes if nothing is mapped there?
pub(crate) fn null_pointer() {
    println!("{}", user(code!("mov 0, %eax")));
    println!("{}", kernel(code!("movl $1, 0")).expect("nothing there"));
}

/// Is page 0 an ordinary page if it is mapped, or a general protection fault in
/// both modes on a machine that does not map it? A page fault would repeat for
/// ever.
pub(crate) fn page_zero() {
    let frame = page();
    poke(frame + 8, 42);
    first().set_pte(0, frame | USER_PAGE);
    let seen = user(code!("mov 8, %eax", "int $0x80"));
    let there = seen.trapped.vector == 128 && seen.trapped.eax == 42;
    let refused = seen.trapped.vector == 13 && seen.words() == 6;
    println!("{}", there || refused);
    let refused = match kernel(code!("mov 8, %eax")) {
        Some(seen) => seen.trapped.vector == 13 && seen.words() == 4,
        None => false,
    };
    println!("{}", there != refused);
}

/// Does the use of a page-table entry with PSE end the Guest?
pub(crate) fn pte_with_pse() {
    first().set(KERNEL_DATA, 0x5_0000 | KERNEL_PAGE | Pte::SIZE);
    load(KERNEL_DATA);
}

/// Does the use of a page-table entry with PWT end the Guest?
pub(crate) fn pte_with_pwt() {
    first().set(KERNEL_DATA, 0x5_0000 | KERNEL_PAGE | Pte::WRITE_THROUGH);
    load(KERNEL_DATA);
}

/// Does SET_PTE of an entry with PWT end the Guest?
pub(crate) fn set_pte_with_pwt() {
    let entry = 0x5_0000 | KERNEL_PAGE | Pte::WRITE_THROUGH;
    first().set_pte(KERNEL_DATA, entry);
}

/// Has PWT in an entry no effect?
pub(crate) fn pte_with_pwt_since_4_0() {
    set_pte_with_pwt();
    println!("{:#x}", load(KERNEL_DATA));
    pte_with_pwt();
}

/// Are PCD, Global and the three bits for the kernel allowed in an entry?
pub(crate) fn pte_flags_allowed() {
    let frame = page();
    poke(frame, 9);
    first().set_pte(
        KERNEL_DATA,
        frame | KERNEL_PAGE | Pte::CACHE_DISABLE | Pte::GLOBAL | 0xE00,
    );
    println!("{}", load(KERNEL_DATA));
    println!("{:#x}", peek(first().pte(KERNEL_DATA)) & 0xFFF);
}

/// Does the use of an entry for a page beyond memory end the Guest?
pub(crate) fn pte_beyond_memory() {
    first().set(KERNEL_DATA, crate::hypercalls::END | KERNEL_PAGE);
    load(KERNEL_DATA);
}

/// May an entry name the last page of memory?
pub(crate) fn pte_of_the_last_page() {
    let last = crate::hypercalls::END - PAGE_SIZE;
    first().set_pte(KERNEL_DATA, last | KERNEL_PAGE);
    println!("type of the first device: {}", load(KERNEL_DATA) & 0xFFFF);
}

/// May an entry that is not present have any other bits?
pub(crate) fn pte_not_present() {
    first().set_pte(KERNEL_DATA, u32::MAX & !P);
    println!(
        "{}",
        kernel(code!("mov 0xE0001000, %eax")).expect("not there")
    );
}

/// Does the use of a directory entry with PSE end the Guest?
pub(crate) fn pde_with_pse() {
    poke(first().pde(0xE040_0000), KERNEL_PAGE | Pte::SIZE);
    load(0xE040_0000);
}

/// Does the use of a directory entry for a table beyond memory end the Guest?
pub(crate) fn pde_beyond_memory() {
    poke(
        first().pde(0xE040_0000),
        crate::hypercalls::END | KERNEL_PAGE,
    );
    load(0xE040_0000);
}

/// Does the use of a directory entry with Global end the Guest?
pub(crate) fn pde_with_global() {
    poke(first().pde(0xE040_0000), page() | KERNEL_PAGE | Pte::GLOBAL);
    load(0xE040_0000);
}

/// Does the use of a directory entry with PSE by user mode end the Guest?
pub(crate) fn pde_with_pse_of_a_user() {
    poke(first().pde(0x1000_0000), USER_PAGE | Pte::SIZE);
    user(code!("mov 0x10000000, %eax"));
}

/// Is Accessed set in a directory entry when it is used? The original does not
/// set it.
pub(crate) fn pde_accessed() {
    let at = 0xE040_0000;
    first().set(at, page() | KERNEL_PAGE);
    poke(first().pde(at), peek(first().pde(at)) & !(A | D));
    hypercall(Hypercall::FlushTlb, 1, 0, 0);
    println!("reads {}", load(at));
    println!("{:#x}", peek(first().pde(at)) & 0xFFF);
}

/// Do changes take effect that are made through a table that maps itself?
pub(crate) fn table_in_its_own_space() {
    let table = first().pte(KERNEL_DATA) & !(PAGE_SIZE - 1);
    let (one, two) = (page(), page());
    poke(one, 1);
    poke(two, 2);
    // The table of this 4 MiB is mapped in it, two pages above.
    let window = KERNEL_DATA + PAGE_SIZE;
    first().set_pte(window, table | KERNEL_PAGE);
    let entry = window + table_index(KERNEL_DATA) * 4;
    store(entry, one | KERNEL_PAGE);
    hypercall(
        Hypercall::SetPte,
        first().directory,
        KERNEL_DATA,
        load(entry),
    );
    println!("{}", load(KERNEL_DATA));
    store(entry, two | KERNEL_PAGE);
    hypercall(
        Hypercall::SetPte,
        first().directory,
        KERNEL_DATA,
        load(entry),
    );
    println!("{}", load(KERNEL_DATA));
}

/// Is one page at several addresses the same memory, in both modes?
pub(crate) fn one_page_twice() {
    let frame = page();
    let at = USER_DATA + PAGE_SIZE;
    first().set_pte(KERNEL_DATA, frame | KERNEL_PAGE);
    first().set_pte(at, frame | USER_PAGE);
    poke(frame, 1);
    println!("{} {}", load(KERNEL_DATA), load(at));
    put_user(code!("movl $2, 0x804a000", "int $0x80"));
    User::new().run();
    println!("{} {}", load(KERNEL_DATA), peek(frame));
    store(KERNEL_DATA, 3);
    println!("{} {}", load(at), peek(frame));
}

/// Does code run that the kernel has just written?
pub(crate) fn code_just_written() {
    for value in 1..=3_u8 {
        let code = [0xB8, value, 0, 0, 0, 0xCD, 0x80]; // mov $value, %eax
        println!("{}", user(&code).trapped.eax);
    }
    for value in 1..=3_u8 {
        let code = [0xB8, value, 0, 0, 0, 0x0F, 0x0B];
        println!("{}", kernel(&code).expect("ud2 traps").trapped.eax);
    }
}

/// Does the linear mapping of the kernel's memory change with one of its
/// entries?
pub(crate) fn linear_with_a_hole() {
    let at = 0xC000_0000 + 0x5_0000;
    let entry = peek(first().pte(at));
    let frame = page();
    poke(frame, 77);
    poke(0x5_0000, 11);
    println!("{}", load(at));
    first().set_pte(at, frame | KERNEL_PAGE);
    println!("{}", load(at));
    first().set_pte(at, 0);
    println!("{}", kernel(code!("mov 0xC0050000, %eax")).expect("a hole"));
    first().set_pte(at, entry);
    println!("{}", load(at));
}
