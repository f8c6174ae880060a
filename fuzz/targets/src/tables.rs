//! Shadow paging, against an oracle that walks the tables naively.
//!
//! The Guest changes its tables in every allowed way, and reports each change.
//! It accesses pages, and switches between page directories. After each step,
//! the mappings must be those that the tables of the current directory allow,
//! with their rights. A fault at an allowed access must end in a mapping.

use crate::input::Input;
use crate::machine::{
    CODE, DIRECTORY, LIMIT, Machine, PAGE_OFFSET, STACK, USER_DIRECTORY,
    USER_TABLE, VIEWS, with_machine_of,
};
use lg_abi::call::CallName;
use lg_abi::page::{ENTRIES, Format, PAGE_SHIFT, PAGE_SIZE};
use lg_host::host::Event;
use lg_host::kill::Kill;
use lg_host::world::Access;

/// The address of user code.
const USER_CODE: u32 = 0x0804_8000;

/// Bits of an entry, by the processor's manual.
const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;
const ACCESSED: u32 = 0x20;
const DIRTY: u32 = 0x40;

/// Page directories of the Guest: one more than there are views.
const DIRECTORIES: u32 = 4;

/// Steps that one input may take.
const MAX_STEPS: u32 = 300;

/// Makes steps until the input ends or the Guest dies.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    let format = match input.bit() {
        false => Format::TwoLevels,
        true => Format::Pae,
    };
    with_machine_of(format, first & 1 != 0, |machine| {
        machine.vm.slow_paths.set(u32::from(first >> 1));
        // A handler for page faults.
        let gate = [14, 0x0061_1000, 0xC000_EF00, 0];
        if machine.say(CallName::LoadIdtEntry, gate, false).is_err() {
            return;
        }
        let mut repeats = [Repeats::default(); VIEWS];
        for _ in 0..MAX_STEPS {
            if input.is_empty()
                || step(machine, &mut input, &mut repeats).is_err()
            {
                return;
            }
            check(machine);
        }
    });
}

/// Page faults that no processor raises: at a page that is mapped as the tables
/// say.
#[derive(Clone, Copy, Default)]
struct Repeats {
    /// The address of the last page fault.
    va: u32,
    /// How many such faults there were in a row.
    count: u32,
}

/// So many in a row at one page are retried. User code may forge the next one,
/// so its kernel gets it.
const MAX_REPEATS: u32 = 16;

fn step(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    repeats: &mut [Repeats; VIEWS],
) -> Result<(), Kill> {
    let vm = machine.vm;
    vm.regs.esp.set(STACK);
    vm.user.set(0);
    let directory = DIRECTORY + input.below(DIRECTORIES) * PAGE_SIZE;
    match input.byte() % 9 {
        // An entry of a program's page changes, and the Guest reports it.
        0 | 1 => {
            let (page, entry) = (page(input), entry(input));
            let va = page << PAGE_SHIFT;
            machine.set_word(machine.entry_at(directory, va), entry);
            say(machine, input, CallName::SetPte, [directory, va, entry])
        }
        // An entry of the kernel's table changes.
        2 => change_kernel_page(machine, input, directory),
        // Several change at once, and the Guest reports only that there was a
        // change.
        3 => {
            let directory = vm.cr3.get();
            for _ in 0..=input.below(4) {
                let va = page(input) << PAGE_SHIFT;
                machine.set_word(machine.entry_at(directory, va), entry(input));
            }
            let all = u32::from(input.bit());
            say(machine, input, CallName::FlushTlb, [all, 0, 0])
        }
        4 => match machine.format() {
            Format::TwoLevels => change_directory(machine, input, directory),
            Format::Pae if input.bit() => {
                change_pointer(machine, input, directory)
            }
            Format::Pae => change_table(machine, input, directory),
        },
        5 => say(machine, input, CallName::NewPgtable, [directory, 0, 0]),
        8 => change_many(machine, input, directory),
        6 => {
            let room = usize::from(input.byte());
            let current = machine.current;
            machine.mappers[current].borrow_mut().room =
                input.bit().then_some(room);
            Ok(())
        }
        _ => touch(machine, input, repeats),
    }
}

/// Changes an entry of the kernel's table. The Guest reports it.
fn change_kernel_page(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    directory: u32,
) -> Result<(), Kill> {
    let (page, mut entry) = (page(input), entry(input));
    if page == 0xB || page == 0xD || page == 0xF {
        // The kernel needs these to go on.
        entry = page << PAGE_SHIFT | 0x63;
    }
    let va = PAGE_OFFSET + (page << PAGE_SHIFT);
    machine.set_word(machine.entry_at(directory, va), entry);
    say(machine, input, CallName::SetPte, [directory, va, entry])
}

/// With PAE, changes the pointer to a program's page directory: not present, or
/// present. In both cases the directory is its own.
fn change_pointer(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    directory: u32,
) -> Result<(), Kill> {
    let user_directory = directory - DIRECTORY + USER_DIRECTORY;
    machine.set_word(directory, user_directory | u32::from(input.bit()));
    say(machine, input, CallName::SetPgd, [directory, 0, 0])
}

/// With PAE, changes an entry of a program's page directory: not present, or
/// present, with fewer rights or without.
fn change_table(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    directory: u32,
) -> Result<(), Kill> {
    let user_directory = directory - DIRECTORY + USER_DIRECTORY;
    let index = u32::from(input.bit());
    let flags = [0, 0x61, 0x63, 0x65, 0x67][input.below(5) as usize];
    let table = machine.entry_at(directory, index << 21);
    let entry = if flags == 0 { 0 } else { table | flags };
    machine.set_word(user_directory + index * 8, entry);
    say(
        machine,
        input,
        CallName::SetPaePmd,
        [user_directory, index, 0],
    )
}

/// Changes an entry of the directory: not present, present, with fewer rights,
/// or the same table at another address, too.
fn change_directory(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    directory: u32,
) -> Result<(), Kill> {
    let user_table = directory - DIRECTORY + USER_TABLE;
    let index = [0, 1, 2, 0x2FF][input.below(4) as usize];
    let flags = [0, 0x61, 0x63, 0x65, 0x67][input.below(5) as usize];
    let entry = if flags == 0 { 0 } else { user_table | flags };
    machine.set_word(directory + index * 4, entry);
    say(machine, input, CallName::SetPmd, [directory, index, 0])?;
    // A table may be at two places of the directory now. The Guest would have
    // to name both whenever it changes an entry, and does not.
    let alias = [1, 2, 0x2FF].iter().any(|i| {
        let seen = machine.word(directory + i * 4);
        seen & PRESENT != 0
    });
    if alias { Err(Kill::NoView) } else { Ok(()) }
}

/// Changes more entries than the Host can note one by one.
fn change_many(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    directory: u32,
) -> Result<(), Kill> {
    let (first, entry) = (page(input), entry(input));
    // Downwards, so that pages in use are the last ones.
    for n in (0..input.below(8) * 64).rev() {
        let page = (first + n) % ENTRIES;
        let va = page << PAGE_SHIFT;
        machine.set_word(machine.entry_at(directory, va), entry);
        machine.say(CallName::SetPte, [directory, va, entry, 0], false)?;
    }
    Ok(())
}

/// A page below 4 MiB: mostly one of a few.
fn page(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        n @ 0..64 => u32::from(n) % 32,
        n @ 64..128 => u32::from(n) % 64,
        _ => input.below(ENTRIES),
    }
}

/// An entry of a page table: mostly a valid one.
fn entry(input: &mut Input<'_>) -> u32 {
    let frame = input.below((LIMIT >> PAGE_SHIFT) + 1) << PAGE_SHIFT;
    let flags = u32::from(input.byte());
    // PWT and PAT end the Guest, so they are rare.
    let deadly = if flags & 0x88 == 0x88 { 0xFF } else { 0x67 };
    frame | flags & deadly
}

/// A hypercall, by its instruction or by the ring.
fn say(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    call: CallName,
    [first, second, third]: [u32; 3],
) -> Result<(), Kill> {
    let by_ring = !input.bit();
    machine.say(call, [first, second, third, 0], by_ring)
}

/// An access to a page, which must have the result that the tables say.
fn touch(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
    repeats: &mut [Repeats; VIEWS],
) -> Result<(), Kill> {
    let kernel = input.bit();
    let base = if kernel { PAGE_OFFSET } else { 0 };
    let va = base + (page(input) << PAGE_SHIFT) + 0x123;
    let write = input.bit();
    let user = input.bit();
    machine.vm.user.set(u32::from(user));
    // User code in its kernel would fault there, not at `va`.
    let eip = if user { USER_CODE } else { PAGE_OFFSET + CODE };
    machine.vm.regs.eip.set(eip);
    let allowed = walk(machine, va).is_some_and(|entry| {
        (!write || entry & WRITE != 0) && (!user || entry & USER != 0)
    });
    let counters = &machine.vm.counters;
    let before = counters.guest_faults.get();
    let spurious = counters.spurious_faults.get();
    let repeats = &mut repeats[machine.current];
    machine.step(Event::Trap {
        vector: 14,
        error: 4 | u32::from(write) << 1,
        cr2: va,
    })?;
    if repeats.va != va {
        *repeats = Repeats { va, count: 0 };
    }
    if counters.spurious_faults.get() != spurious {
        repeats.count += 1;
    }
    let made_up = user && repeats.count > MAX_REPEATS;
    // If nothing can be mapped, the Guest gets the fault.
    let mappable = va >= PAGE_SIZE;
    let told = counters.guest_faults.get() != before;
    let ours = allowed && mappable && !made_up;
    assert_eq!(told, !ours, "{va:#x} {write} {user}");
    if !told {
        let mapper = machine.mappers[machine.current].borrow();
        let &(_, access) =
            mapper.pages.get(&(va >> PAGE_SHIFT)).expect("mapped");
        assert!(!write || access == Access::Write, "{va:#x}");
    }
    Ok(())
}

/// The entry for `va` in the current tables, with the directory's rights
/// applied.
pub(crate) fn walk(machine: &Machine<'_>, va: u32) -> Option<u32> {
    let top = machine.vm.cr3.get();
    let (directory, entry, shift) = match machine.format() {
        Format::TwoLevels => (top, 4, 22),
        Format::Pae => {
            let pointer = machine.word(top + (va >> 30) * 8);
            if pointer & PRESENT == 0 {
                return None;
            }
            (pointer & !0xFFF, 8, 21)
        }
    };
    let entries = PAGE_SIZE / entry;
    let pde = machine.word(directory + (va >> shift) % entries * entry);
    if pde & PRESENT == 0 {
        return None;
    }
    let pte = machine.word((pde & !0xFFF) + (va >> 12) % entries * entry);
    (pte & PRESENT != 0).then_some(pte & (pde | !(WRITE | USER)))
}

/// Checks that all mappings are allowed by the tables.
fn check(machine: &Machine<'_>) {
    let mapper = machine.mappers[machine.current].borrow();
    for (&page, &(frame, access)) in &mapper.pages {
        let va = page << PAGE_SHIFT;
        let entry = walk(machine, va).expect("mapped, but not present");
        assert_eq!(entry & !0xFFF, frame, "{va:#x} has another frame");
        assert_ne!(entry & ACCESSED, 0, "{va:#x} was never used");
        if access == Access::Write {
            let both = WRITE | DIRTY;
            assert_eq!(entry & both, both, "{va:#x} may not be written");
        }
    }
}
