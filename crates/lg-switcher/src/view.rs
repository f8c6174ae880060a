//! How a view begins.
//!
//! The Launcher starts one process, the view spawner, from this program. It
//! maps what all views have in common, makes segments, installs signal
//! handlers, and unmaps everything else, such as the kernel's stack and vDSO.
//! It never runs the Guest. Whenever the Launcher asks, it forks. The child is
//! a child of the Launcher; it makes a timer, installs its filter, and waits
//! for the run token.

#![expect(unsafe_code, reason = "sets the process up by system calls")]

use crate::ask;
use crate::clock::make_timer;
use crate::confine::{self, Facts, UserFacts, install};
use crate::cpuid;
use crate::disks;
use crate::entry;
use crate::extended;
use crate::layout::{
    BEYOND, COPIES, MEMORY, OUTBOXES, OWN, RECORD, RECORD_SIZE, STACK,
    STACK_SIZE, STATE, State, TASK_SIZE, TRACE, TRAMPOLINES, TrampolinePages,
    USER_RECORD,
};
use crate::leftovers;
use crate::mapper::Mmap;
use crate::notify;
use crate::own::Own;
use crate::process::{
    self, CLONE_PARENT, MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE,
    MAP_SHARED_FIXED, close, die_with_parent, map,
};
use crate::role;
use crate::segments;
use crate::shared::{keep_setup, setup, state};
use crate::signals;
use crate::syscall::{call, call_site, errno, exit, nr, return_site};
use crate::trampolines;
use crate::trial;
use crate::user_driver::{self, UserMapper};
use crate::vdso;
use crate::world::Outside;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_host::address::as_word;
use lg_host::host::Host;
use lg_host::memory::{Memory, Region};
use lg_host::outbox::Outboxes;
use lg_host::paging::{Shadow, ShadowMemory, UserSpace};
use lg_host::patch::crossing;
use lg_host::patch::crossing::words::{CODE_ADDRESS, WORDS};
use lg_host::pci::Pci;
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::processor;
use lg_wire::spawn::{
    self, Answer, CLOSE_DISK, COMMAND_FD, COPIES_FD, MEMORY_FD, SETUP_FAILED,
    SHARED_PAGE_FD, STATE_FD, Step, outbox_fd, read_progress,
};
use lg_wire::state::{COPIES_SIZE, STATE_SIZE, VERSION};
use lg_wire::trace;

/// The view spawner cannot be set up: step `step` failed with `error`.
fn give_up(step: Step, error: i32) -> ! {
    let (step, detail) = (step.number(), progress()[1]);
    answer(&[-error, step, detail]);
    exit(SETUP_FAILED + step);
}

/// A view cannot be set up.
fn view_gives_up(step: Step, error: i32) -> ! {
    answer(&[0, -error, step.number()]);
    exit(SETUP_FAILED + step.number());
}

/// Writes down where the view spawner is, for the case that a filter kills it.
fn note_progress(step: Step, detail: u32) {
    let word = spawn::progress(step, detail);
    state().vm.wire.mailbox.reply.store(word, Ordering::SeqCst);
}

static MAPPED: AtomicBool = AtomicBool::new(false);

/// The number of the view spawner's step, and the index of the call that it
/// tries.
fn progress() -> [i32; 2] {
    if !MAPPED.load(Ordering::Relaxed) {
        return [Step::Map.number(), 0];
    }
    read_progress(state().vm.wire.mailbox.reply.load(Ordering::SeqCst))
}

/// Maps the stack on which everything else happens. The caller changes to it.
pub fn map_stack() {
    let flags = MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE;
    if let Err(error) = map(STACK, STACK_SIZE, -1, flags) {
        give_up(Step::Map, error);
    }
}

/// The view spawner. The stack is the one of [`map_stack`].
pub fn main() -> ! {
    type Take = fn() -> Result<(), i32>;
    const SETUP: [(Step, Take); 9] = [
        (Step::Map, map_everything),
        (Step::Forget, forget_the_rest),
        (Step::CodeSegment, find_segments),
        (Step::Segments, segments::fill),
        (Step::Rights, deny),
        (Step::WriteExecute, write_and_execute),
        (Step::Calls, try_calls),
        (Step::Calls32, trial::call_of_32_bits),
        // Last, because until then a filter's SIGSYS has to kill.
        (Step::Signals, signals::listen),
    ];
    role::choose(&entry::VIEW);
    for (step, take) in SETUP {
        if MAPPED.load(Ordering::Relaxed) {
            note_progress(step, 0);
        }
        if let Err(error) = take() {
            give_up(step, error);
        }
    }
    state().vm.wire.mailbox.reply.store(0, Ordering::SeqCst);
    extended::find();
    cpuid::hide();
    let launcher = process::parent();
    loop {
        let mut slot = 0_u32;
        let at = &raw mut slot as usize;
        let fd = COMMAND_FD.cast_unsigned() as usize;
        // SAFETY: the kernel writes `slot`.
        match unsafe { call(nr::READ, [fd, at, 4, 0, 0, 0]) } {
            Ok(4) => {}
            Err(errno::EINTR) => continue,
            // The Launcher has ended, or has closed its end.
            _ => exit(0),
        }
        if slot >= CLOSE_DISK {
            disks::close_for_good(slot - CLOSE_DISK);
            continue;
        }
        let view = match process::fork(CLONE_PARENT) {
            Ok(0) => become_view(slot as usize, launcher),
            Ok(pid) => i32::try_from(pid).unwrap_or(i32::MIN),
            Err(error) => -error,
        };
        answer(&[view, 0, 0]);
    }
}

/// Answers the Launcher.
fn answer(words: &Answer) {
    let (at, size) = (words.as_ptr() as usize, size_of_val(words));
    let fd = COMMAND_FD.cast_unsigned() as usize;
    // SAFETY: the kernel reads `words`.
    let _ = unsafe { call(nr::WRITE, [fd, at, size, 0, 0, 0]) };
}

fn map_everything() -> Result<(), i32> {
    map(STATE, STATE_SIZE, STATE_FD, MAP_SHARED_FIXED)?;
    MAPPED.store(true, Ordering::Relaxed);
    map_trampolines()?;
    trampolines::set_up();
    keep_setup();
    let setup = setup();
    if setup.user_processes == 0 {
        map_crossings()?;
    }
    map_trace(setup.trace_records)?;
    close(STATE_FD);
    let vm = &state().vm;
    if setup.resumed == 0 {
        vm.begin(setup);
    } else {
        vm.resume(setup);
    }
    vm.wire.version.store(VERSION, Ordering::SeqCst);
    map(MEMORY, setup.limit as usize, MEMORY_FD, MAP_SHARED_FIXED)?;
    map(COPIES, COPIES_SIZE, COPIES_FD, MAP_SHARED_FIXED)?;
    let pfns = &setup.shared_pfns[..setup.shared_pages as usize];
    for (fd, &pfn) in (SHARED_PAGE_FD..).zip(pfns) {
        let at = MEMORY + ((pfn as usize) << PAGE_SHIFT);
        map(at, PAGE_SIZE as usize, fd, MAP_SHARED_FIXED)?;
    }
    for index in 0..pfns.len() {
        let fd = outbox_fd(pfns.len(), index);
        let at = OUTBOXES + index * OUTBOX_SIZE as usize;
        map(at, OUTBOX_SIZE as usize, fd, MAP_SHARED_FIXED)?;
        close(fd);
    }
    map(
        RECORD,
        RECORD_SIZE,
        -1,
        MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE,
    )?;
    map(
        OWN,
        size_of::<Own>(),
        -1,
        MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE,
    )?;
    map(
        USER_RECORD,
        RECORD_SIZE,
        -1,
        MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE,
    )
}

/// The trampolines, once more, where the Guest can jump to them but not write.
fn map_trampolines() -> Result<(), i32> {
    const PROT_READ_EXEC: usize = 5;
    let arguments = [
        TRAMPOLINES,
        size_of::<TrampolinePages>(),
        PROT_READ_EXEC,
        MAP_SHARED_FIXED,
        STATE_FD.cast_unsigned() as usize,
        offset_of!(State, trampolines),
    ];
    // SAFETY: the top of the low 4 GiB is ours.
    unsafe { call(nr::MMAP, arguments) }.map(drop)
}

/// The ring of the trace, which is behind the state in its file.
fn map_trace(records: u32) -> Result<(), i32> {
    const PROT_READ_WRITE: usize = 3;
    if !records.is_power_of_two() || records > trace::MOST {
        return Err(errno::ENOMEM);
    }
    let arguments = [
        TRACE,
        trace::ring_size(records),
        PROT_READ_WRITE,
        MAP_SHARED_FIXED,
        STATE_FD.cast_unsigned() as usize,
        STATE_SIZE,
    ];
    // SAFETY: the place is kept free for this.
    unsafe { call(nr::MMAP, arguments) }.map(drop)
}

/// The code of crossings, where the Guest can jump to it, and their words,
/// which that code writes.
fn map_crossings() -> Result<(), i32> {
    const PROT_READ_EXEC: usize = 5;
    const PROT_READ_WRITE: usize = 3;
    for (to, &byte) in state().crossing.0.iter().zip(crossing::code()) {
        to.set(byte);
    }
    for (at, rights, offset) in [
        (CODE_ADDRESS, PROT_READ_EXEC, offset_of!(State, crossing)),
        (WORDS, PROT_READ_WRITE, offset_of!(State, vm.crossing.words)),
    ] {
        let arguments = [
            at as usize,
            PAGE_SIZE as usize,
            rights,
            MAP_SHARED_FIXED,
            STATE_FD.cast_unsigned() as usize,
            offset,
        ];
        // SAFETY: the top of the low 4 GiB is ours.
        unsafe { call(nr::MMAP, arguments) }?;
    }
    Ok(())
}

/// Unmaps the stack that the kernel made, with what it wrote there, and
/// its vDSO: a view is to hold nothing but the Guest.
///
/// What the kernel has sealed stays: code and data that are the same for every
/// process.
fn forget_the_rest() -> Result<(), i32> {
    vdso::move_away();
    leftovers::unmap_all(BEYOND, TASK_SIZE, &mut |at, length| {
        // SAFETY: we are on a stack of our own and use nothing up there.
        unsafe { call(nr::MUNMAP, [at, length, 0, 0, 0, 0]) }.map(drop)
    })
    .map(drop)
}

/// Looks whether there is a segment to run a Guest's kernel on. A processor
/// answers by LAR, which fails for what may not be loaded.
fn find_segments() -> Result<(), i32> {
    let mut rights = 0_u32;
    // SAFETY: reads a descriptor; where there is none, nothing is written.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}",
            rights = inout(reg) rights,
            selector = in(reg) processor::KERNEL_CODE,
            options(nomem, nostack),
        );
    };
    if processor::is_32_bit_code(rights) {
        Ok(())
    } else {
        Err(errno::ENOMEM)
    }
}

/// Gives up what no descendant of this process needs.
fn deny() -> Result<(), i32> {
    const PR_SET_DUMPABLE: usize = 4;
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const PR_SET_TSC: usize = 26;
    const PR_TSC_SIGSEGV: usize = 2;
    die_with_parent()?;
    // SAFETY: switches of this process.
    unsafe { call(nr::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]) }?;
    // SAFETY: as above.
    unsafe { call(nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]) }?;
    if setup().moved.tsc_khz != 0 {
        // From here on, the Guest's `rdtsc` faults. That of a view would fault,
        // too, so a view has none (`clock::ticks`).
        // SAFETY: as above.
        unsafe { call(nr::PRCTL, [PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0, 0]) }?;
    }
    Ok(())
}

/// Maps a page of the Guest's memory as a Guest's pages are mapped: written and
/// executed. Some machines forbid that (`PR_SET_MDWE`, systemd's
/// MemoryDenyWriteExecute, SELinux's execmem).
fn write_and_execute() -> Result<(), i32> {
    /// Above all that is never mapped, and nothing lies there yet.
    const SOMEWHERE: usize = 0x1000_0000;
    const PROT_ALL: usize = 7;
    let (size, fd) = (PAGE_SIZE as usize, MEMORY_FD.cast_unsigned() as usize);
    let map = [SOMEWHERE, size, PROT_ALL, MAP_SHARED_FIXED, fd, 0];
    // SAFETY: the low 4 GiB are the Guest's, and it does not run yet.
    unsafe { call(nr::MMAP, map) }?;
    // SAFETY: as above.
    unsafe { call(nr::MUNMAP, [SOMEWHERE, size, 0, 0, 0, 0]) }.map(drop)
}

/// Tries the calls that views and user processes need.
fn try_calls() -> Result<(), i32> {
    trial::calls(setup().user_processes != 0, |n| {
        note_progress(Step::Calls, n)
    })
}

/// What the Host refers to. It does not move, and stays until the process ends.
struct Parts {
    mapper: Mmap,
    user_mapper: Option<UserMapper>,
    world: Outside,
}

struct TheParts(UnsafeCell<Option<Parts>>);

// SAFETY: there is one thread.
unsafe impl Sync for TheParts {}

static PARTS: TheParts = TheParts(UnsafeCell::new(None));

/// Turns a fresh copy of the view spawner into a view, and runs it.
fn become_view(slot: usize, launcher: Result<usize, i32>) -> ! {
    // If the Launcher ended before this, another process is the parent now.
    let parent = process::parent();
    if let Err(error) = die_with_parent() {
        view_gives_up(Step::Parent, error);
    }
    if parent != launcher {
        exit(SETUP_FAILED + Step::Parent.number());
    }
    // Before another descriptor can get the number of one that is closed.
    disks::close_removed();
    let timer = match make_timer() {
        Ok(timer) => timer,
        Err(error) => view_gives_up(Step::Timer, error),
    };
    let state = state();
    let (user_mapper, user_process) = make_user_process(launcher, timer);
    close(COMMAND_FD);
    // A user process is to have none of these, so it was made before.
    let (entries, segments_version) = state.vm.kernel_segments.read();
    if segments::fill_kernels(entries).is_err() {
        exit(SETUP_FAILED + Step::Segments.number());
    }
    let parts = Parts {
        mapper: Mmap::new(setup()),
        user_mapper,
        world: Outside { slot, timer },
    };
    // SAFETY: the only use, and the process has one thread.
    let parts = unsafe { (*PARTS.0.get()).insert(parts) };
    // SAFETY: the view spawner has mapped the memory, and it stays mapped.
    let memory = unsafe { memory_at(MEMORY, setup().limit) };
    let memory = memory.with_devices_up_to(Pci::end(setup()));
    // SAFETY: as above.
    let copies = unsafe { memory_at(COPIES, as_word(COPIES_SIZE)) };
    let pages = setup().shared_pages;
    // SAFETY: as above.
    let outboxes = unsafe { memory_at(OUTBOXES, pages * OUTBOX_SIZE) };
    let pages = &setup().shared_pfns[..pages as usize];
    // SAFETY: a private mapping, all zero, with no other use.
    let record = unsafe { &mut *(RECORD as *mut ShadowMemory) };
    let cr3 = state.vm.views[slot].cr3.get();
    let mut shadow = Shadow::new(slot, cr3, record);
    shadow.set_segments_version(segments_version);
    if let Some(mapper) = &mut parts.user_mapper {
        // SAFETY: as above.
        let record = unsafe { &mut *(USER_RECORD as *mut ShadowMemory) };
        shadow.put_user_process(UserSpace::new(record, mapper));
    }
    entry::set_host(Host {
        vm: &state.vm,
        memory,
        copies,
        outboxes: Outboxes::new(outboxes, pages),
        shadow,
        mapper: &mut parts.mapper,
        world: &mut parts.world,
    });
    if confine(timer, setup().shared_pages, user_process).is_err() {
        exit(SETUP_FAILED + Step::Filter.number());
    }
    ask::wait_for_run_token(slot);
    ask::wait_for_turn();
    entry::begin()
}

/// The `size` bytes that are mapped at `address`, which is not 0.
///
/// # Safety
///
/// They are mapped, readable and writable, for as long as this process lives.
unsafe fn memory_at(address: usize, size: u32) -> Memory {
    let base = NonNull::new(address as *mut u8).expect("it is not 0");
    // SAFETY: the caller vouches for the mapping.
    Memory::new(unsafe { Region::new(base, size) })
}

/// Makes a user process, if there is to be one. Reports to the Launcher that
/// the view is ready.
fn make_user_process(
    launcher: Result<usize, i32>,
    timer: u32,
) -> (Option<UserMapper>, Option<UserFacts>) {
    if setup().user_processes == 0 {
        answer(&[0; 3]);
        return (None, None);
    }
    let made = match user_driver::start(launcher, timer) {
        Ok(made) => made,
        Err(error) => {
            answer(&[0, -error, -user_driver::half_made()]);
            exit(SETUP_FAILED + Step::UserProcess.number());
        }
    };
    let [user_process, mapper] = made.processes.map(u32::cast_signed);
    answer(&[0, user_process, mapper]);
    let facts = UserFacts {
        listeners: made.listeners,
        process: made.processes[0],
        wait_site: notify::wait_site(),
    };
    (Some(made.mapper), Some(facts))
}

/// Installs the filter of a view.
fn confine(
    timer: u32,
    shared_pages: u32,
    user_process: Option<UserFacts>,
) -> Result<(), i32> {
    let filter = confine::filter(&Facts {
        call_site: call_site(),
        cpuid_faults: cpuid::faults(),
        return_site: return_site(),
        timer,
        shared_pages,
        disks: setup().disks,
        user_process,
    });
    install(&filter, 0).map(drop)
}
