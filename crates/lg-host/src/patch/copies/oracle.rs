//! An oracle: what user code executes is what its page says.
//!
//! Several views of one Guest map, write and execute a few pages, in any order
//! and by every way there is. After each step, no view that runs maps a patched
//! copy that differs from its page, and none can write to a page that has a
//! patched copy.

use super::tests::{BREAKPOINT, SYSCALL, int3, machine, told_eip};
use super::*;
use crate::fast_path;
use crate::host::Event;
use crate::outbox::Outboxes;
use crate::paging::{Fault, Shadow};
use crate::patch::TrampolineKind;
use crate::testing::{Machine, Pretended, Ram, SharedMapper, record};
use core::sync::atomic::Ordering;
use lg_abi::page::Pte;
use proptest::prelude::*;
use std::vec::Vec;

const VIEWS: usize = 3;

/// Page directories and their tables for user addresses: one more than there
/// can be views.
const DIRECTORIES: [u32; VIEWS + 1] = [Machine::CR3, 0x5000, 0x6000, 0x7000];
const TABLES: [u32; VIEWS + 1] = [Machine::USER_TABLE, 0xA000, 0xB000, 0xC000];

const PAGE_OFFSET: u32 = 0xC000_0000;

/// The first user page, and how many there are in each directory.
const FIRST: u32 = 0x100;
const PAGES: u32 = 4;

/// The frames that they map.
const FRAMES: [u32; 3] = [0x20_0000, 0x20_1000, 0x24_0000];

/// Where in a page there is code.
const PLACES: [u32; 2] = [0x100, 0x300];

/// What may stand there: a system call, nothing, a breakpoint.
const CODES: [[u8; 2]; 3] = [INT80, [0x90; 2], [INT3, 0x90]];

/// One step. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The Guest maps a frame at a page of a directory, and says so.
    Map {
        directory: u8,
        page: u8,
        frame: u8,
        writable: bool,
        tell: u8,
    },
    /// It goes to another directory.
    Switch(u8),
    /// A program stores code at a page, if it may.
    Store { page: u8, place: u8, code: u8 },
    /// The kernel stores code in a frame, by its own mapping.
    KernelStores { frame: u8, place: u8, code: u8 },
    /// A device stores code in a frame.
    DeviceStores { frame: u8, place: u8, code: u8 },
    /// The Host stores code in a frame, on the Guest's behalf.
    HostStores { frame: u8, place: u8, code: u8 },
    /// A program executes, some times.
    Execute { page: u8, place: u8, times: u8 },
    /// The kernel changes this many of its pages.
    KernelChanges(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let map = (any::<(u8, u8, u8, bool, u8)>()).prop_map(
        |(directory, page, frame, writable, tell)| Step::Map {
            directory,
            page,
            frame,
            writable,
            tell,
        },
    );
    let three = any::<(u8, u8, u8)>();
    prop_oneof![
        4 => map,
        4 => any::<u8>().prop_map(Step::Switch),
        4 => three.prop_map(|(page, place, code)| {
            Step::Store { page, place, code }
        }),
        2 => three.prop_map(|(frame, place, code)| {
            Step::KernelStores { frame, place, code }
        }),
        2 => three.prop_map(|(frame, place, code)| {
            Step::DeviceStores { frame, place, code }
        }),
        2 => three.prop_map(|(frame, place, code)| {
            Step::HostStores { frame, place, code }
        }),
        8 => (any::<(u8, u8)>(), 1_u8..20).prop_map(|((page, place), times)| {
            Step::Execute { page, place, times }
        }),
        1 => (1_u16..1200).prop_map(Step::KernelChanges),
    ]
}

/// One of `all`.
fn one<T: Copy>(all: &[T], n: u8) -> T {
    all[usize::from(n) % all.len()]
}

fn page_of(n: u8) -> GuestVirt {
    GuestVirt((FIRST + u32::from(n) % PAGES) << PAGE_SHIFT)
}

/// The machine, as its views see it.
struct Several<'a> {
    machine: &'a Machine,
    hosts: Vec<Host<'a>>,
    mappers: Vec<SharedMapper>,
    current: usize,
}

/// Plays these steps.
fn play(linear: bool, slow_paths: u32, steps: &[Step]) -> Counted {
    let machine = machine();
    set_up(&machine, linear);
    machine.vm.slow_paths.set(slow_paths);
    let mut records: Vec<_> = (0..VIEWS).map(|_| record()).collect();
    let mapper = |_| SharedMapper::new(Machine::recording_mapper());
    let mappers: Vec<SharedMapper> = (0..VIEWS).map(mapper).collect();
    let mut views_mappers = mappers.clone();
    let world = || Pretended {
        most_views: Some(VIEWS),
        ..Pretended::default()
    };
    let mut worlds: Vec<_> = (0..VIEWS).map(|_| world()).collect();
    let parts = records.iter_mut().zip(&mut views_mappers).zip(&mut worlds);
    let hosts = parts.enumerate().map(|(slot, ((record, mapper), world))| {
        let cr3 = machine.vm.views[slot].cr3.get();
        Host {
            vm: &machine.vm,
            memory: machine.ram.memory(),
            copies: machine.copies.memory(),
            outboxes: Outboxes::new(Ram::new(0).memory(), &[]),
            shadow: Shadow::new(slot, cr3, record),
            mapper,
            world,
        }
    });
    let mut several = Several {
        machine: &machine,
        hosts: hosts.collect(),
        mappers,
        current: 0,
    };
    for &step in steps {
        several.step(step);
    }
    let counters = &machine.vm.counters;
    Counted {
        made: machine.vm.patches.copy_count.get(),
        calls: counters.copy_calls.get() + counters.direct_calls.get(),
    }
}

/// Copies that were made, and calls that came by them.
struct Counted {
    made: u32,
    calls: u64,
}

fn set_up(machine: &Machine, linear: bool) {
    let memory = machine.ram.memory();
    let set = |at, word| memory.set_word(GuestPhys(at), word).unwrap();
    for (directory, table) in DIRECTORIES.into_iter().zip(TABLES) {
        set(directory, table | 0x67);
        set(directory + 0xC00, Machine::KERNEL_TABLE | 0x67);
    }
    // Without page 0, the kernel's memory is mapped page by page.
    set(Machine::KERNEL_TABLE, u32::from(linear) * 0x63);
    machine.set_user_pte(FIRST, Pte(0));
    for frame in FRAMES {
        let nops = [0x90; PAGE_SIZE as usize];
        memory.write(GuestPhys(frame), &nops).unwrap();
        for place in PLACES {
            memory.write(GuestPhys(frame + place), &INT80).unwrap();
        }
        // A trampoline slot for direct calls.
        let slot = [0x8D, 0xB4, 0x26, 0, 0, 0, 0];
        memory.write(GuestPhys(frame + 0x120), &slot).unwrap();
    }
}

impl Several<'_> {
    fn step(&mut self, step: Step) {
        let memory = self.machine.ram.memory();
        match step {
            Step::Map { .. } => self.map(step),
            Step::Switch(n) => {
                self.machine.vm.cr3.set(one(&DIRECTORIES, n));
            }
            Step::Store { page, place, code } => {
                let va = page_of(page).plus(one(&PLACES, place));
                self.store(va, true, one(&CODES, code));
            }
            Step::KernelStores { frame, place, code } => {
                let frame = one(&FRAMES, frame);
                let va = PAGE_OFFSET + frame + one(&PLACES, place);
                self.store(GuestVirt(va), false, one(&CODES, code));
            }
            Step::DeviceStores { frame, place, code } => {
                let at = one(&FRAMES, frame) + one(&PLACES, place);
                memory.write(GuestPhys(at), &one(&CODES, code)).unwrap();
                let written = &self.machine.vm.wire.written_pages;
                written.fetch_or(page_bit(at), Ordering::SeqCst);
            }
            Step::HostStores { frame, place, code } => {
                let at = one(&FRAMES, frame) + one(&PLACES, place);
                let host = &self.hosts[self.current];
                host.store_bytes(GuestPhys(at), &one(&CODES, code)).unwrap();
            }
            Step::Execute { page, place, times } => {
                let va = page_of(page).plus(one(&PLACES, place));
                for _ in 0..times {
                    self.execute(va);
                }
            }
            Step::KernelChanges(times) => {
                for _ in 0..times {
                    let host = &mut self.hosts[self.current];
                    let cr3 = host.vm.cr3.get();
                    host.set_pte(cr3, GuestVirt(0xC00F_0000), [0xF_0063, 0])
                        .unwrap();
                }
            }
        }
        self.get_ready();
    }

    fn map(&mut self, step: Step) {
        let Step::Map {
            directory,
            page,
            frame,
            writable,
            tell,
        } = step
        else {
            return;
        };
        let cr3 = one(&DIRECTORIES, directory);
        let va = page_of(page);
        // Writable and dirty, writable, or neither.
        let rights = match (writable, tell & 4 != 0) {
            (true, true) => 0x67,
            (true, false) => 0x27,
            (false, _) => 0x25,
        };
        let pte = one(&FRAMES, frame) | rights;
        let at = one(&TABLES, directory) + va.page_number() * 4;
        let memory = self.machine.ram.memory();
        memory.set_word(GuestPhys(at), pte).unwrap();
        let host = &mut self.hosts[self.current];
        let told = match tell % 3 {
            0 => host.set_pte(cr3, va, [pte, 0]),
            1 if cr3 == host.vm.cr3.get() => host.flush_user(),
            _ => host.flush_everything(),
        };
        told.unwrap();
    }

    /// Everything that comes before the Guest's next instruction, in whatever
    /// view.
    fn get_ready(&mut self) {
        let mut result = self.hosts[self.current].get_ready();
        while result == Err(Kill::NoView) {
            let current = self.machine.vm.wire.current.load(Ordering::SeqCst);
            self.current = current as usize;
            let host = &mut self.hosts[self.current];
            result = host.catch_up().and_then(|()| host.get_ready());
        }
        result.unwrap();
        self.check();
    }

    /// What the tables say of `va`.
    fn told(&self, va: GuestVirt) -> Pte {
        let cr3 = self.machine.vm.cr3.get();
        let n = DIRECTORIES.iter().position(|&d| d == cr3).unwrap();
        let at = GuestPhys(TABLES[n]).plus(va.page_number() * 4);
        Pte(self.machine.ram.memory().word(at).unwrap())
    }

    fn check(&self) {
        let host = &self.hosts[self.current];
        for (&page, &(frame, access)) in
            &self.mappers[self.current].borrow().pages
        {
            let va = GuestVirt(page << PAGE_SHIFT);
            let frame = GuestPhys(frame);
            if let Some(number) = host.number(frame) {
                let original = host.original(number);
                let told = GuestPhys(self.told(va).frame());
                assert_eq!(original, Some(told), "{va:?}");
                assert!(host.is_true(number), "{va:?} has a stale copy");
                assert_eq!(access, Access::Read);
            }
            let has_copy = host.copy_of(frame).is_some();
            assert!(
                access == Access::Read || !has_copy,
                "{va:?} can be written to, and {frame:?} has a copy"
            );
        }
    }

    /// What is mapped at `va`, after as many page faults as it takes; `None`
    /// if the tables forbid it.
    fn reach(
        &mut self,
        va: GuestVirt,
        write: bool,
        user: bool,
    ) -> Option<GuestPhys> {
        self.machine.vm.user.set(user.into());
        if user {
            self.machine.vm.regs.eip.set(va.0);
        }
        for _ in 0..4 {
            let mapper = self.mappers[self.current].borrow();
            let there = mapper.pages.get(&va.page_number()).copied();
            drop(mapper);
            match there {
                Some((frame, access)) if !write || access == Access::Write => {
                    return Some(GuestPhys(frame).plus(va.page_offset()));
                }
                _ => {}
            }
            let host = &mut self.hosts[self.current];
            if host.demand_page(va, write, user).unwrap() == Fault::Guests {
                return None;
            }
            self.get_ready();
        }
        panic!("{va:?} faults for ever");
    }

    fn store(&mut self, va: GuestVirt, user: bool, code: [u8; 2]) {
        if let Some(at) = self.reach(va, true, user) {
            self.machine.ram.memory().write(at, &code).unwrap();
        }
    }

    fn execute(&mut self, va: GuestVirt) {
        let Some(at) = self.reach(va, false, true) else {
            return;
        };
        let host = &mut self.hosts[self.current];
        let (mut code, mut mapped) = ([0; 2], [0; 2]);
        match host.number(at) {
            Some(number) => {
                let at = copy(number).plus(va.page_offset());
                host.copies.read(at, &mut mapped).unwrap();
            }
            None => host.memory.read(at, &mut mapped).unwrap(),
        }
        let told = GuestPhys(self.told(va).frame()).plus(va.page_offset());
        let host = &mut self.hosts[self.current];
        host.memory.read(told, &mut code).unwrap();
        let (event, length) = match (code, mapped) {
            (INT80, INT80) => (Event::SystemCall, 2),
            (INT80, [INT3, 0x80]) => (int3(), 1),
            // The trampoline says where to go on.
            (INT80, [0xEB, 0x20]) => {
                (Event::Trampoline(TrampolineKind::DirectCall), 2)
            }
            (code, mapped) => {
                assert_eq!(code, mapped, "{va:?}");
                if code[0] != INT3 {
                    return;
                }
                (int3(), 1)
            }
        };
        host.vm.regs.eip.set(va.0 + length);
        host.run_guest(event).unwrap();
        let expected = match code {
            INT80 => (SYSCALL, va.0 + 2),
            _ => (BREAKPOINT, va.0 + 1),
        };
        let eip = self.machine.vm.regs.eip.get();
        assert_eq!((eip, told_eip(self.machine)), expected);
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_executes_is_what_the_page_says(
        linear: bool,
        eager: bool,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let slow_paths = if eager { 0 } else { fast_path::EAGER };
        play(linear, slow_paths, &steps);
    }
}

#[test]
fn the_steps_reach_copies() {
    let executed = |page| Step::Execute {
        page,
        place: 0,
        times: 20,
    };
    let mapped = |directory, page, writable| Step::Map {
        directory,
        page,
        frame: 0,
        writable,
        tell: 0,
    };
    let store = |page| Step::Store {
        page,
        place: 1,
        code: 1,
    };
    let steps = [
        mapped(0, 0, false),
        mapped(0, 1, true),
        mapped(1, 0, true),
        executed(0),
        store(1),
        executed(0),
        Step::Switch(1),
        store(0),
        Step::Switch(0),
        executed(0),
    ];
    for linear in [false, true] {
        let counted = play(linear, 0, &steps);
        assert_eq!(counted.made, 3);
        assert!(counted.calls >= 3 * 19);
    }
}
