//! More page directories than views.
//!
//! A view that gets another directory keeps what both directories map. An
//! oracle looks at everything that is mapped, after each step of a Guest that
//! changes its tables and goes from one directory to the next.

use super::*;
use crate::host::Host;
use crate::outbox::Outboxes;
use crate::paging::{Shadow, ShadowMemory, UserSpace};
use crate::testing::{Pretended, SharedMapper, record};
use core::sync::atomic::Ordering;
use std::boxed::Box;

/// Page directories, and their tables for user addresses.
const DIRECTORIES: [u32; 5] = [Machine::CR3, 0x5000, 0x6000, 0x7000, 0x8000];
const TABLES: [u32; 5] = [Machine::USER_TABLE, 0xA000, 0xB000, 0xC000, 0xD000];

/// Tables for the kernel's first addresses.
const KERNEL_TABLES: [u32; 2] = [Machine::KERNEL_TABLE, 0xE000];

/// A machine with all of these directories, which share the first of the
/// kernel's tables. The other one says the same.
fn machine() -> Machine {
    let m = Machine::new();
    let set = |at, word| m.ram.memory().set_word(GuestPhys(at), word).unwrap();
    for (directory, table) in DIRECTORIES.into_iter().zip(TABLES) {
        set(directory, table | 0x67);
        set(directory + 0xC00, KERNEL_TABLES[0] | 0x67);
    }
    for page in 1..1024 {
        set(KERNEL_TABLES[1] + page * 4, page << 12 | 0x63);
    }
    m
}

/// Writes the entry of a user page of directory number `directory`.
fn set_user(m: &Machine, directory: usize, page: u32, pte: u32) {
    let at = GuestPhys(TABLES[directory] + page * 4);
    m.ram.memory().set_word(at, pte).unwrap();
}

/// The entry of directory number `directory` for the kernel's first table.
fn kernel(m: &Machine, directory: usize) -> u32 {
    let at = GuestPhys(DIRECTORIES[directory] + 0xC00);
    m.ram.memory().word(at).unwrap()
}

fn set_kernel(m: &Machine, directory: usize, pde: u32) {
    let at = GuestPhys(DIRECTORIES[directory] + 0xC00);
    m.ram.memory().set_word(at, pde).unwrap();
}

/// What belongs to one view.
struct Parts {
    record: Box<ShadowMemory>,
    user_record: Box<ShadowMemory>,
    mapper: SharedMapper,
    user_mapper: SharedMapper,
    world: Pretended,
}

/// The views of a machine.
struct Views<'a> {
    m: &'a Machine,
    hosts: Vec<Host<'a>>,
    /// What each maps, and what its user process maps.
    mappers: Vec<[SharedMapper; 2]>,
    current: usize,
}

/// Calls `play` with `count` views of `m`.
fn with_views<T>(
    m: &Machine,
    count: usize,
    user_processes: bool,
    play: impl FnOnce(&mut Views<'_>) -> T,
) -> T {
    let mapper = || SharedMapper::new(Machine::recording_mapper());
    let part = |_| Parts {
        record: record(),
        user_record: record(),
        mapper: mapper(),
        user_mapper: mapper(),
        world: Pretended {
            most_views: Some(count),
            ..Pretended::default()
        },
    };
    let mut parts: Vec<Parts> = (0..count).map(part).collect();
    let both = |p: &Parts| [p.mapper.clone(), p.user_mapper.clone()];
    let mappers = parts.iter().map(both).collect();
    let hosts = parts.iter_mut().enumerate().map(|(slot, parts)| {
        let cr3 = m.vm.views[slot].cr3.get();
        let mut shadow = Shadow::new(slot, cr3, &mut parts.record);
        if user_processes {
            let (record, mapper) =
                (&mut parts.user_record, &mut parts.user_mapper);
            shadow.put_user_process(UserSpace::new(record, mapper));
        }
        Host {
            vm: &m.vm,
            memory: m.ram.memory(),
            copies: m.copies.memory(),
            outboxes: Outboxes::new(Ram::new(0).memory(), &[]),
            shadow,
            mapper: &mut parts.mapper,
            world: &mut parts.world,
        }
    });
    play(&mut Views {
        m,
        hosts: hosts.collect(),
        mappers,
        current: 0,
    })
}

impl<'a> Views<'a> {
    fn host(&mut self) -> &mut Host<'a> {
        &mut self.hosts[self.current]
    }

    /// The Guest goes to directory number `n`, and to another process.
    fn switch(&mut self, n: usize) {
        self.m.vm.esp1.set(0xC010_2000 + (as_frame(n) << 13));
        self.exec(n);
    }

    /// The process that runs gets directory number `n`.
    fn exec(&mut self, n: usize) {
        self.m.vm.cr3.set(DIRECTORIES[n]);
        self.get_ready();
    }

    /// Everything that comes before the Guest's next instruction.
    fn get_ready(&mut self) {
        let mut result = self.host().get_ready();
        while result == Err(Kill::NoView) {
            let current = self.m.vm.wire.current.load(Ordering::SeqCst);
            self.current = current as usize;
            let host = self.host();
            result = host.catch_up().and_then(|()| host.get_ready());
        }
        result.unwrap();
        self.check();
    }

    /// Everything that is mapped in the view that runs is what the tables say.
    fn check(&self) {
        let [own, users] = &self.mappers[self.current];
        for (mapper, in_user_process) in [(own, false), (users, true)] {
            for mapped in &mapper.borrow().pages {
                assert!(
                    agrees(self.m, mapped, in_user_process),
                    "{mapped:x?} in the view of {:#x}",
                    self.m.vm.cr3.get()
                );
            }
        }
    }

    fn touch(&mut self, va: u32, write: bool, user: bool) -> bool {
        let va = GuestVirt(va);
        let fault = self.host().demand_page(va, write, user).unwrap();
        fault == Fault::Mapped
    }

    /// The Guest says that it has changed [`kernel`].
    fn say_kernel(&mut self, directory: usize) {
        let cr3 = DIRECTORIES[directory];
        self.host().set_pgd(cr3, 0x300).unwrap();
    }

    /// The frame at user page `page` in the view that runs, if it is mapped.
    fn frame(&self, page: u32) -> Option<u32> {
        let mapper = self.mappers[self.current][0].borrow();
        mapper.pages.get(&page).map(|&(frame, _)| frame)
    }
}

#[test]
fn a_view_keeps_what_its_next_directory_maps_too() {
    let m = machine();
    for directory in 0..3 {
        let own = (0x20 + as_frame(directory)) << 12;
        // Read by all; written by all, each its own; read by the first only;
        // read by all, but not used yet by the last.
        set_user(&m, directory, 5, 0x9025);
        set_user(&m, directory, 6, own | 0x67);
        set_user(&m, directory, 7, if directory == 0 { 0xA025 } else { 0 });
        let unused = if directory == 2 { 0x05 } else { 0x25 };
        set_user(&m, directory, 8, 0xB000 | unused);
    }
    with_views(&m, 2, false, |views| {
        for page in [5, 6, 7, 8] {
            assert!(views.touch(page << 12, page == 6, true));
        }
        views.switch(1);
        assert!(views.touch(0x5000, false, true));
        let maps = m.vm.counters.maps.get();
        // The first view is the only other one.
        views.switch(2);
        assert_eq!(views.current, 0);
        assert_eq!(m.vm.counters.views_reused.get(), 1);
        assert_eq!(m.vm.counters.maps.get(), maps);
        let frames = [5, 6, 7, 8].map(|page| views.frame(page));
        assert_eq!(frames, [Some(0x9000), None, None, None]);
        // What was only read is shown again.
        let shown = m.vm.counters.shown.get();
        assert!(views.touch(0x8000, false, true));
        assert_eq!(views.frame(8), Some(0xB000));
        assert_eq!(m.vm.counters.shown.get(), shown + 1);
        assert!(views.touch(0x6000, true, true));
        assert_eq!(views.frame(6), Some(0x2_2000));
    });
}

fn as_frame(directory: usize) -> u32 {
    u32::try_from(directory).unwrap()
}

#[test]
fn kernel_tables_that_all_have_are_compared_once() {
    const KERNELS: u32 = 0xC000_6000;
    let m = machine();
    // Another page of the kernel's, for the last directory alone.
    let pde = GuestPhys(DIRECTORIES[3] + 0xC00);
    m.ram
        .memory()
        .set_word(pde, KERNEL_TABLES[1] | 0x67)
        .unwrap();
    let entry = GuestPhys(KERNEL_TABLES[1] + 6 * 4);
    m.ram.memory().set_word(entry, 0x9063).unwrap();
    with_views(&m, 2, false, |views| {
        assert!(views.touch(KERNELS, true, false));
        let mut compared = |directory| {
            // By way of a view that maps nothing of it.
            views.switch(1);
            let before = m.vm.counters.comparisons.get();
            views.switch(directory);
            assert_eq!(views.current, 0);
            let frame = views.frame(KERNELS >> 12);
            (m.vm.counters.comparisons.get() - before, frame)
        };
        assert_eq!(compared(2), (1, Some(0x6000)), "not known yet");
        assert_eq!(compared(0), (0, Some(0x6000)));
        assert_eq!(compared(2), (0, Some(0x6000)));
        assert_eq!(compared(3), (1, Some(0x9000)));
        assert_eq!(compared(2), (1, Some(0x6000)));
    });
}

#[test]
fn a_new_program_gets_the_view_of_the_one_that_it_replaces() {
    for slow in [0, fast_path::TRADE] {
        let m = machine();
        m.vm.slow_paths.set(slow);
        for directory in 0..3 {
            set_user(&m, directory, 5, 0x9025);
            set_user(&m, directory, 6, (0x20 + as_frame(directory)) << 12 | 7);
        }
        with_views(&m, 3, false, |views| {
            views.switch(2);
            views.switch(1);
            assert_eq!(views.current, 2);
            assert!(views.touch(0x5000, false, true));
            assert!(views.touch(0x6000, true, true));
            views.exec(2);
            if slow != 0 {
                assert_eq!(views.current, 1);
                return;
            }
            assert_eq!((views.current, m.vm.counters.trades.get()), (2, 1));
            assert_eq!(views.frame(5), Some(0x9000), "both have it");
            assert_eq!(views.frame(6), None);
            assert!(views.touch(0x6000, true, true));
            assert_eq!(views.frame(6), Some(0x2_2000));
            // The old program goes on, in another process (vfork).
            m.vm.esp1.set(0xC011_2000);
            views.exec(1);
            assert_eq!(views.current, 1);
            assert!(views.touch(0x6000, true, true));
            assert_eq!(views.frame(6), Some(0x2_1000));
            views.switch(2);
            assert_eq!(views.current, 2);
        });
    }
}

#[test]
fn a_view_that_maps_much_and_a_program_that_is_not_new_do_not_trade() {
    for (pages, second_table) in [(60, false), (2, true)] {
        let m = machine();
        if second_table {
            let at = GuestPhys(DIRECTORIES[2] + 0x80 * 4);
            m.ram.memory().set_word(at, TABLES[2] | 0x67).unwrap();
        }
        for page in 0x10..0x10 + pages {
            set_user(&m, 1, page, 0x9025);
        }
        with_views(&m, 3, false, |views| {
            views.switch(2);
            views.switch(1);
            for page in 0x10..0x10 + pages {
                assert!(views.touch(page << 12, false, true));
            }
            views.exec(2);
            assert_eq!((views.current, m.vm.counters.trades.get()), (1, 0));
        });
    }
}

/// A Guest need not say that a directory leaves more rights to a table.
#[test]
fn rights_that_one_directory_gives_do_not_stay_in_another() {
    let m = machine();
    for directory in 0..DIRECTORIES.len() {
        set_kernel(&m, directory, KERNEL_TABLES[0] | 0x65);
    }
    with_views(&m, 2, false, |views| {
        assert!(views.touch(0xC000_6000, false, false));
        // From here on, it is on record with what table that is.
        views.switch(1);
        views.switch(2);
        assert_eq!(views.current, 0);
        set_kernel(&m, 2, KERNEL_TABLES[0] | 0x67);
        assert!(views.touch(0xC000_6000, true, false));
        views.switch(1);
        views.switch(3);
        assert_eq!(views.current, 0);
        assert!(!views.touch(0xC000_6000, true, false));
    });
}

/// No directory has the table while it changes, so the Guest need not tell of
/// the entry.
#[test]
fn a_kernel_table_that_is_made_anew_is_compared() {
    const KERNELS: u32 = 0xC000_6000;
    let m = machine();
    with_views(&m, 2, false, |views| {
        assert!(views.touch(KERNELS, true, false));
        // From here on, it is on record with what table that is.
        views.switch(1);
        views.switch(2);
        assert_eq!(views.frame(KERNELS >> 12), Some(0x6000));
        views.switch(1);
        let (table, page, pte) = (0, 6, 0x9063);
        play(views, Step::MakeAnew { table, page, pte });
        views.switch(3);
        assert_eq!(views.current, 0);
        assert_ne!(views.frame(KERNELS >> 12), Some(0x6000));
    });
}

/// The Guest goes around `ring`, and has fewer views. What part of the
/// hand-overs needs another directory in a view?
fn reused(m: &Machine, views: usize, ring: &[usize]) -> f64 {
    const ROUNDS: usize = 300;
    with_views(m, views, false, |views| {
        let counters = &m.vm.counters;
        let before = counters.views_reused.get();
        for _ in 0..ROUNDS {
            for &directory in ring {
                views.switch(directory);
            }
        }
        let reused = counters.views_reused.get() - before;
        reused as f64 / (ROUNDS * ring.len()) as f64
    })
}

#[test]
fn a_ring_that_is_larger_than_the_views_finds_some_of_them() {
    let part = reused(&machine(), 4, &[0, 1, 2, 3, 4]);
    assert!((0.1..0.7).contains(&part), "{part}");
}

#[test]
fn directories_that_are_not_used_any_more_lose_their_views() {
    let m = machine();
    // Two of four views have directories that are never used again.
    reused(&m, 4, &[0, 1]);
    let part = reused(&m, 4, &[2, 3, 4]);
    assert!(part < 0.05, "{part}");
}

#[test]
fn many_notes_of_a_program_leave_the_kernels_part_alone() {
    let m = machine();
    for (va, flush) in
        [(0x5000, Changes::USER), (0xC000_0001, Changes::EVERYTHING)]
    {
        with_views(&m, 2, false, |views| {
            views.switch(1);
            views.switch(0);
            let host = views.host();
            for _ in 0..MAX_CHANGES {
                host.set_pte(DIRECTORIES[1], GuestVirt(0x5000), [0, 0])
                    .unwrap();
            }
            assert_eq!(m.vm.views[1].flush.get(), 0);
            if va < 0xC000_0000 {
                host.set_pte(DIRECTORIES[1], GuestVirt(va), [0, 0]).unwrap();
            } else {
                host.set_pgd(DIRECTORIES[1], va >> 22).unwrap();
            }
            assert_eq!(m.vm.views[1].flush.get(), flush, "{va:#x}");
            views.switch(1);
            assert_eq!(m.vm.views[1].flush.get(), 0);
            for view in &m.vm.views {
                view.last_use.set(0);
            }
            m.vm.views[0].last_use.set(1);
            m.vm.cr3.set(DIRECTORIES[0]);
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The Guest goes to a directory.
    Switch(usize),
    /// The process that runs gets a directory.
    Exec(usize),
    /// It changes an entry of a program's, and says so.
    Set {
        directory: usize,
        page: u32,
        pte: u32,
    },
    /// It changes an entry of one of the kernel's tables, and says so.
    SetKernels { table: usize, page: u32, pte: u32 },
    /// A directory gets the other table for the kernel, and it says so.
    KernelTable { directory: usize, table: usize },
    /// A directory gives all rights to the kernel's table, and need not say so.
    AllRights { directory: usize },
    /// It withholds a right, and says so.
    FewerRights { directory: usize, right: u32 },
    /// The directories that have one of the kernel's tables give it up, and say
    /// so; it changes; and they get it again.
    MakeAnew { table: usize, page: u32, pte: u32 },
    /// It touches a page.
    Touch {
        kernels: bool,
        page: u32,
        write: bool,
        user: bool,
    },
    /// So many pages of a directory change.
    Many { directory: usize, count: usize },
}

fn a_step() -> impl Strategy<Value = Step> {
    let directory = || 0..DIRECTORIES.len();
    let page = || 0x10..0x18_u32;
    prop_oneof![
        4 => directory().prop_map(Step::Switch),
        2 => directory().prop_map(Step::Exec),
        4 => (directory(), page(), few_frames()).prop_map(
            |(directory, page, pte)| Step::Set { directory, page, pte }
        ),
        1 => (0..2_usize, page(), few_frames()).prop_map(
            |(table, page, pte)| Step::SetKernels { table, page, pte }
        ),
        1 => (directory(), 0..2_usize).prop_map(
            |(directory, table)| Step::KernelTable { directory, table }
        ),
        1 => directory().prop_map(|directory| Step::AllRights { directory }),
        1 => (directory(), prop_oneof![Just(Pte::WRITE), Just(Pte::USER)])
            .prop_map(|(directory, right)| {
                Step::FewerRights { directory, right }
            }),
        1 => (0..2_usize, page(), few_frames()).prop_map(
            |(table, page, pte)| Step::MakeAnew { table, page, pte }
        ),
        6 => (any::<(bool, bool, bool)>(), page()).prop_map(
            |((kernels, write, user), page)| {
                Step::Touch { kernels, page, write, user }
            }
        ),
        1 => (directory(), 200..300_usize).prop_map(
            |(directory, count)| Step::Many { directory, count }
        ),
    ]
}

/// An entry of a page that others have, too: mostly one that can be used.
fn few_frames() -> impl Strategy<Value = u32> {
    let flags = prop_oneof![
        4 => Just(0x25_u32), 4 => Just(0x67), 2 => Just(0x27), 1 => Just(0x05),
        1 => Just(0),
    ];
    (0x20..0x23_u32, flags).prop_map(|(frame, flags)| frame << 12 | flags)
}

fn play(views: &mut Views<'_>, step: Step) {
    let m = views.m;
    let memory = m.ram.memory();
    match step {
        Step::Switch(directory) => views.switch(directory),
        Step::Exec(directory) => views.exec(directory),
        Step::Set {
            directory,
            page,
            pte,
        } => {
            set_user(m, directory, page, pte);
            let (cr3, va) = (DIRECTORIES[directory], GuestVirt(page << 12));
            views.host().set_pte(cr3, va, [pte, 0]).unwrap();
        }
        Step::SetKernels { table, page, pte } => {
            let at = GuestPhys(KERNEL_TABLES[table] + page * 4);
            memory.set_word(at, pte).unwrap();
            let va = GuestVirt(0xC000_0000 | page << 12);
            let cr3 = m.vm.cr3.get();
            views.host().set_pte(cr3, va, [pte, 0]).unwrap();
        }
        Step::KernelTable { directory, table } => {
            set_kernel(m, directory, KERNEL_TABLES[table] | 0x67);
            views.say_kernel(directory);
        }
        Step::AllRights { directory } => {
            set_kernel(m, directory, kernel(m, directory) | 0x67);
        }
        Step::FewerRights { directory, right } => {
            set_kernel(m, directory, kernel(m, directory) & !right);
            views.say_kernel(directory);
        }
        Step::MakeAnew { table, page, pte } => {
            let table = KERNEL_TABLES[table];
            let had: Vec<_> = (0..DIRECTORIES.len())
                .map(|directory| (directory, kernel(m, directory)))
                .filter(|&(_, pde)| Pte(pde).frame() == table)
                .collect();
            for &(directory, _) in &had {
                set_kernel(m, directory, 0);
                views.say_kernel(directory);
            }
            memory.set_word(GuestPhys(table + page * 4), pte).unwrap();
            for &(directory, pde) in &had {
                set_kernel(m, directory, pde);
                views.say_kernel(directory);
            }
        }
        Step::Touch {
            kernels,
            page,
            write,
            user,
        } => {
            let page = page + u32::from(kernels) * 0xC_0000;
            let va = page << 12;
            let allowed = oracle(m, va, write, user).is_some();
            assert_eq!(views.touch(va, write, user), allowed, "{va:#x}");
        }
        Step::Many { directory, count } => {
            let cr3 = DIRECTORIES[directory];
            for _ in 0..count {
                let va = GuestVirt(0x30_0000);
                views.host().set_pte(cr3, va, [0, 0]).unwrap();
            }
        }
    }
    views.get_ready();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_view_maps_what_its_directory_says(
        steps in proptest::collection::vec(a_step(), 1..80),
        count in 1..4_usize,
        user_processes in any::<bool>(),
    ) {
        let m = machine();
        with_views(&m, count, user_processes, |views| {
            for step in steps {
                play(views, step);
            }
        });
    }
}
