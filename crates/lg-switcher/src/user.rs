//! A user process: user code runs in it, and it can do little.
//!
//! Under `--isolation=user` every view has one. It holds the pages of user
//! code, this program, and one page for the registers; no state, no memory
//! file, no descriptor. User code may reach 64-bit mode here, too, and then it
//! owns the process: so nothing that the process says is believed, and it can
//! do nothing but wait. It waits in a system call that never happens: the
//! filter hands it to the view, and the user process stands still until the
//! view answers. So the Guest's kernel runs only while the user process is
//! known to stand, and no user code watches it at work.
//!
//! Pages are mapped by the *mapper*, a task that shares the user process's
//! memory and nothing else. It lives in registers alone and runs from memory
//! that cannot be written, reads its orders from a page that the user process
//! cannot write, and asks for more of them by a call of the same kind: what it
//! says, nobody can say in its place.

#![expect(unsafe_code, reason = "sets a process up, and assembly")]

use crate::confine::{self, Facts, close_door};
use crate::extended;
use crate::fpu;
use crate::layout::{
    COMMANDS, COPIES, Command, Commands, MEMORY, OUTBOXES, OWN, RECORD,
    RECORD_SIZE, STACK, STACK_SIZE, STATE, TRAMPOLINES, TrampolinePages, USER,
    USER_PAGE, USER_RECORD, USER_TRAMPOLINES_SIZE, UserPage, UserPages,
};
use crate::leave::leave_as;
use crate::notify::WAIT;
use crate::own::{Own, own};
use crate::process::{
    self, CLONE_FILES, CLONE_PARENT, die_with_parent, forget,
};
use crate::role::{self, Role};
use crate::segments;
use crate::shared::{registers, setup};
use crate::signals;
use crate::syscall::{call, call_site, errno, exit, nr};
use core::arch::global_asm;
use core::fmt::Display;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_abi::page::PAGE_SIZE;
use lg_host::cpu::segments::REAL_USER_CS;
use lg_host::patch::TrampolineKind;
use lg_host::run::Event;
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::state::{COPIES_SIZE, STATE_SIZE};

// How an event is told: three arguments of the waiting call.
const TRAP: u64 = 1;
const SYSTEM_CALL: u64 = 2;
const STRAY_SYSTEM_CALL: u64 = 3;
const LONG_MODE: u64 = 4;
const ENTRY_PAGE: u64 = 5;
const KICK: u64 = 6;

/// The vectors of traps that user code can cause on a real processor.
const VECTORS: u32 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 16
    | 1 << 17
    | 1 << 19;

fn encode(event: Event) -> [u64; 3] {
    match event {
        Event::Trap { vector, error, cr2 } => {
            let kind = TRAP | u64::from(vector) << 8;
            [kind, u64::from(error), u64::from(cr2)]
        }
        Event::SystemCall => [SYSTEM_CALL, 0, 0],
        Event::StraySystemCall => [STRAY_SYSTEM_CALL, 0, 0],
        Event::Trampoline(TrampolineKind::EntryPage) => [ENTRY_PAGE, 0, 0],
        Event::Kick => [KICK, 0, 0],
        Event::Trampoline(_) | Event::LongMode => [LONG_MODE, 0, 0],
    }
}

/// What a user process says has happened. Whatever it says, it is something
/// that user code can bring about.
#[expect(clippy::cast_possible_truncation, reason = "what is cut is a lie")]
pub(crate) fn decode([kind, error, cr2]: [u64; 3]) -> Event {
    let vector = (kind >> 8) as u8;
    match kind & 0xFF {
        TRAP if vector < 32 && VECTORS >> vector & 1 != 0 => Event::Trap {
            vector,
            error: error as u32 & 0xFFFF,
            cr2: cr2 as u32,
        },
        SYSTEM_CALL => Event::SystemCall,
        STRAY_SYSTEM_CALL => Event::StraySystemCall,
        ENTRY_PAGE => Event::Trampoline(TrampolineKind::EntryPage),
        KICK => Event::Kick,
        _ => Event::LongMode,
    }
}

/// The role of a user process.
struct UserProcess;

/// See [`UserProcess`].
static USER_PROCESS: UserProcess = UserProcess;

impl Role for UserProcess {
    fn stopped(&self, event: Event, _kicked: bool) -> ! {
        hand_in(event)
    }

    fn look_again(&self) -> ! {
        hand_in(Event::Kick)
    }

    fn count_kick(&self) {}

    fn interrupted(&self, rip: u64, rax: u64, told: [u64; 3], kicked: bool) {
        interrupted(rip, rax, told, kicked);
    }

    fn may_return(&self) -> bool {
        false
    }

    fn faulted(&self, _fault: &dyn Display) {}
}

/// User code stopped for `event`; its general registers lie in the page. Puts
/// the others there, too, and waits. What goes on when the view has answered
/// may be another program.
fn hand_in(event: Event) -> ! {
    fpu::put_fpu_away();
    extended::save(&page_at(USER_PAGE).extended);
    let [kind, error, cr2] = encode(event);
    stand(kind, error, cr2)
}

/// Tells the view what has happened, and stands until it answers.
fn stand(kind: u64, error: u64, cr2: u64) -> ! {
    let site = if extended::has_keys() {
        lg_stand_with_keys
    } else {
        lg_stand
    };
    // SAFETY: does not come back; everything that counts is in the page.
    unsafe { site(kind, error, cr2) }
}

/// The address behind the call in which this user process stands: the only one
/// from which its filter lets it wait.
fn stand_site() -> u64 {
    if extended::has_keys() {
        &raw const lg_stand_with_keys_site as u64
    } else {
        &raw const lg_stand_site as u64
    }
}

// lg_stand: rdi, rsi, rdx = what to tell the view.
//
// What stands in the call may be a program that has chosen every register, the
// stack and all memory of the user process that can be written; what comes out
// of it may be to run another program. So from the call to `woken`, nothing is
// believed but the code: no register, no word of the stack, no static. Where
// user code can have locked the pages of this program by protection keys, that
// ends first. A signal on the way starts it again (`interrupted`), for its
// handler may return to none of this.
//
// After the call: rax < 0 = it was not answered, because of a signal, and the
// arguments still lie in the registers.
macro_rules! stand {
    ($name:literal, $set_keys:literal) => {
        concat!(
            ".globl ",
            $name,
            ", ",
            $name,
            "_site, ",
            $name,
            "_answered, ",
            $name,
            "_end\n",
            $name,
            ":\n",
            "2:  movabs rsp, {stack}\n",
            "    mov eax, {wait}\n",
            "    syscall\n",
            $name,
            "_site:\n",
            "    test rax, rax\n",
            "    js 2b\n",
            $name,
            "_answered:\n",
            "    xor r12d, r12d\n",
            $name,
            "_woken:\n",
            $set_keys,
            "    movabs rsp, {stack}\n",
            "    push 2\n",
            "    popfq\n",
            "    movabs r8, {wipe}\n",
            "    cmp dword ptr [r8], 0\n",
            "    je 3f\n",
            "    movabs rdi, {wiped}\n",
            "    mov ecx, {wiped_bytes}\n",
            "    xor eax, eax\n",
            "    rep stosb\n",
            "3:  movabs r8, {kicked}\n",
            "    mov [r8], r12d\n",
            $name,
            "_end:\n",
            "    call {woken}\n",
            "    ud2\n",
        )
    };
}

global_asm!(
    stand!("lg_stand", ""),
    stand!(
        "lg_stand_with_keys",
        "    xor ecx, ecx\n    xor edx, edx\n    mov eax, {keys}\n    wrpkru\n"
    ),
    // rdi = 1 if there was a kick.
    ".globl lg_wake, lg_wake_with_keys",
    "lg_wake:",
    "    mov r12d, edi",
    "    jmp lg_stand_woken",
    "lg_wake_with_keys:",
    "    mov r12d, edi",
    "    jmp lg_stand_with_keys_woken",
    stack = const STACK + STACK_SIZE,
    wait = const WAIT,
    wipe = const USER_PAGE + offset_of!(UserPage, wipe),
    wiped = const STACK + STACK_SIZE - WIPED,
    wiped_bytes = const WIPED,
    kicked = const OWN + offset_of!(Own, kicked),
    keys = const KEYS_OF_LINUX,
    woken = sym woken,
);

/// Bytes of the stack that are wiped for another thread: two frames of signals,
/// with all registers in them, and what their handlers use.
const WIPED: usize = 0x4000;

/// What Linux has in PKRU when a process begins: key 0, which all pages have,
/// is free.
const KEYS_OF_LINUX: u32 = 0x5555_5554;

/// Starts again behind the call; with 1 if there was a kick.
type Wake = unsafe extern "C" fn(u32) -> !;

unsafe extern "C" {
    fn lg_stand(kind: u64, error: u64, cr2: u64) -> !;
    fn lg_stand_with_keys(kind: u64, error: u64, cr2: u64) -> !;
    fn lg_wake(kicked: u32) -> !;
    fn lg_wake_with_keys(kicked: u32) -> !;
    static lg_stand_site: u8;
    static lg_stand_answered: u8;
    static lg_stand_end: u8;
    static lg_stand_with_keys_site: u8;
    static lg_stand_with_keys_answered: u8;
    static lg_stand_with_keys_end: u8;
}

/// A signal has come at `rip`, with these values in rax, rdi, rsi and rdx. If
/// that is between the waiting call and `woken`, starts it again; the
/// interrupted code is not gone on with, whatever its registers are.
fn interrupted(rip: u64, rax: u64, told: [u64; 3], kicked: bool) {
    let at = |symbol: *const u8| symbol as u64;
    let (site, answered, stop, wake): (_, _, _, Wake) = if extended::has_keys()
    {
        (
            at(&raw const lg_stand_with_keys_site),
            at(&raw const lg_stand_with_keys_answered),
            at(&raw const lg_stand_with_keys_end),
            lg_wake_with_keys,
        )
    } else {
        (
            at(&raw const lg_stand_site),
            at(&raw const lg_stand_answered),
            at(&raw const lg_stand_end),
            lg_wake,
        )
    };
    if !(site..stop).contains(&rip) {
        return;
    }
    if rip < answered && rax.cast_signed() < 0 {
        let [kind, error, cr2] = told;
        // What comes now was said before the kick, and is its answer.
        stand(kind, error, cr2);
    }
    // SAFETY: does not come back, and needs nothing.
    unsafe { wake(u32::from(kicked)) }
}

/// The view has answered: user code runs, with what is in the page. All else
/// that can be written is what the last program has left.
extern "C" fn woken() -> ! {
    let page = page_at(USER_PAGE);
    own().reset();
    if page.wipe.replace(0) != 0 {
        own().wipe();
    }
    extended::load(Some(&page.extended));
    fpu::take_fpu();
    leave_as(REAL_USER_CS, registers().ss.get())
}

fn page_at(at: usize) -> &'static UserPage {
    // SAFETY: it is mapped there, and all of it are user processes and atomics.
    unsafe { &*(at as *const UserPage) }
}

/// The life of a user process, in a fresh copy of the view, from its birth to
/// the first instruction of user code.
pub(crate) fn live(launcher: Result<usize, i32>) -> ! {
    role::choose(&USER_PROCESS);
    if let Err(error) = settle(launcher) {
        let page = page_at(USER);
        page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
        exit(1);
    }
    stand(LONG_MODE, 0, 0)
}

/// Throws away everything that user code is not to see, and what is left of
/// its rights.
fn settle(launcher: Result<usize, i32>) -> Result<(), i32> {
    const PROT_READ: usize = 1;
    const MAYMOVE_FIXED: usize = 3;
    die_with_parent()?;
    if process::parent() != launcher {
        exit(1);
    }
    segments::fill_for_user_process()?;
    let setup = setup();
    let (limit, shared_pages) = (setup.limit as usize, setup.shared_pages);
    for (at, size) in [
        (STATE, STATE_SIZE),
        (MEMORY, limit),
        (COPIES, COPIES_SIZE),
        (RECORD, RECORD_SIZE),
        (USER_RECORD, RECORD_SIZE),
        (
            TRAMPOLINES + USER_TRAMPOLINES_SIZE,
            size_of::<TrampolinePages>() - USER_TRAMPOLINES_SIZE,
        ),
    ] {
        forget(at, size)?;
    }
    if shared_pages > 0 {
        forget(OUTBOXES, (shared_pages * OUTBOX_SIZE) as usize)?;
    }
    let orders = size_of::<Commands>();
    // SAFETY: the view's copy stays as it is.
    unsafe { call(nr::MPROTECT, [COMMANDS, orders, PROT_READ, 0, 0, 0]) }?;
    signals::listen_in_user_process()?;
    let page = page_at(USER);
    let mapper = start_mapper(shared_pages)?;
    page.processes[1].store(mapper, Ordering::SeqCst);
    listener(page, 1)?;
    let size = size_of::<UserPage>();
    let arguments = [USER, size, size, MAYMOVE_FIXED, USER_PAGE, 0];
    let filter = confine::user_process(call_site(), stand_site());
    // SAFETY: the page moves; nobody has a reference to it.
    unsafe { call(nr::MREMAP, arguments) }?;
    protect_statics()?;
    let fd = close_door(&filter, confine::HEARD);
    let page = page_at(USER_PAGE);
    match fd {
        Ok(fd) => page.listeners[0].store(as_word(fd) + 1, Ordering::SeqCst),
        Err(error) => {
            page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
            exit(1);
        }
    }
    // From here on without descriptors. The filter lets this pass.
    // SAFETY: nobody in here uses any.
    unsafe { call(nr::CLOSE_RANGE, confine::CLOSE_ALL) }.map(drop)
}

/// From here on no static of this program can be written, whoever runs here.
fn protect_statics() -> Result<(), i32> {
    const PROT_READ: usize = 1;
    let page = PAGE_SIZE as usize;
    let start = (&raw const etext as usize).next_multiple_of(page);
    let stop = (&raw const end as usize).next_multiple_of(page);
    let arguments = [start, stop - start, PROT_READ, 0, 0, 0];
    // SAFETY: what is left to do in a user process writes none.
    unsafe { call(nr::MPROTECT, arguments) }.map(drop)
}

unsafe extern "C" {
    /// Where the linker says that code ends, and where everything does.
    static etext: u8;
    static end: u8;
}

/// The descriptor on which the user process (0) or its mapper (1) is heard,
/// once it has closed its door. That takes but a moment, and from behind it
/// nobody can wake us.
pub(crate) fn listener(page: &UserPage, n: usize) -> Result<u32, i32> {
    const PATIENCE: u32 = 1_000_000;
    for _ in 0..PATIENCE {
        let failed = page.failed.load(Ordering::SeqCst);
        if failed != 0 {
            return Err(failed.cast_signed());
        }
        let listener = page.listeners[n].load(Ordering::SeqCst);
        if listener != 0 {
            return Ok(listener - 1);
        }
        // SAFETY: gives the processor away.
        let _ = unsafe { call(nr::SCHED_YIELD, [0; 6]) };
    }
    Err(errno::ETIMEDOUT)
}

/// A descriptor or process number, which is small.
fn as_word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// Starts the mapper of this user process.
fn start_mapper(shared_pages: u32) -> Result<u32, i32> {
    /// Its stack for the time that it takes to get ready: the lower end of
    /// ours, which is far away.
    const STACK_TOP: usize = STACK + 0x8000;
    const CLONE_VM: usize = 0x100;
    let flags = CLONE_PARENT | CLONE_FILES | CLONE_VM;
    // SAFETY: the new task uses a stack of its own, and nothing else of ours.
    let pid = unsafe { lg_start_mapper(flags, STACK_TOP, shared_pages) };
    match usize::try_from(pid) {
        Ok(pid) => Ok(as_word(pid)),
        Err(_) => Err(i32::try_from(-pid).unwrap_or(i32::MAX)),
    }
}

/// Gets the mapper ready.
extern "C" fn mapper(shared_pages: u32) {
    const SIG_BLOCK: usize = 0;
    let all = u64::MAX;
    let at = &raw const all as usize;
    let page = page_at(USER);
    let ready = || {
        die_with_parent()?;
        // SAFETY: the kernel reads `all`.
        unsafe { call(nr::RT_SIGPROCMASK, [SIG_BLOCK, at, 0, 8, 0, 0]) }?;
        let facts = Facts {
            call_site: &raw const lg_mapper_site as u64,
            shared_pages,
            ..Facts::default()
        };
        close_door(&confine::mapper(&facts), confine::HEARD)
    };
    match ready() {
        Ok(fd) => page.listeners[1].store(as_word(fd) + 1, Ordering::SeqCst),
        Err(error) => {
            page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
        }
    }
}

// lg_start_mapper: rdi = flags, rsi = stack, rdx = shared pages.
// lg_mapper: no stack. Live: r12 = the first order, r13 = how many there are,
// rbx = how many are done, rbp = what the last one said if it failed,
// r14 = 0 while it asks for orders.
global_asm!(
    ".globl lg_start_mapper, lg_mapper_site",
    "lg_start_mapper:",
    "    mov r12d, edx",
    "    mov eax, {clone}",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    xor r8d, r8d",
    "    syscall",
    "    test rax, rax",
    "    jz 2f",
    "    ret",
    "2:  mov edi, r12d",
    "    call {mapper}",
    "lg_mapper:",
    "    movabs r12, {orders}",
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    "2:  xor r14d, r14d",
    "    mov eax, {wait}",
    "    mov rdi, rbx",
    "    mov rsi, rbp",
    "    jmp 4f",
    "3:  mov r14d, 1",
    "    imul r15, rbx, {order_size}",
    "    add r15, r12",
    "    mov rax, [r15]",
    "    mov rdi, [r15 + 8]",
    "    mov rsi, [r15 + 16]",
    "    mov rdx, [r15 + 24]",
    "    mov r10, [r15 + 32]",
    "    mov r8, [r15 + 40]",
    "    mov r9, [r15 + 48]",
    "4:  syscall",
    "lg_mapper_site:",
    "    test r14d, r14d",
    "    jnz 5f",
    "    test rax, rax",
    "    jle 2b",
    "    mov r13, rax",
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    "    jmp 3b",
    "5:  test rax, rax",
    "    js 6f",
    "    inc rbx",
    "    cmp rbx, r13",
    "    jb 3b",
    "    jmp 2b",
    "6:  mov rbp, rax",
    "    jmp 2b",
    clone = const nr::CLONE,
    wait = const WAIT,
    mapper = sym mapper,
    orders = const COMMANDS,
    order_size = const size_of::<Command>(),
);

unsafe extern "C" {
    fn lg_start_mapper(flags: usize, stack: usize, pages: u32) -> isize;
    static lg_mapper_site: u8;
}

const _: () = assert!(size_of::<UserPages>() < 1 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_user_code_arrives() {
        let (error, cr2) = (6, 0xBFFF_FFFC);
        for event in [
            Event::SystemCall,
            Event::StraySystemCall,
            Event::LongMode,
            Event::Kick,
            Event::Trampoline(TrampolineKind::EntryPage),
            Event::Trap {
                vector: 14,
                error,
                cr2,
            },
        ] {
            assert_eq!(decode(encode(event)), event);
        }
    }

    #[test]
    fn a_user_process_cannot_make_up_what_no_user_code_can_cause() {
        for vector in [2, 7, 8, 9, 15, 18, 32, 255] {
            let kind = TRAP | vector << 8;
            assert_eq!(decode([kind, 0, 0]), Event::LongMode, "{vector}");
        }
        for trampoline in [
            TrampolineKind::Iret,
            TrampolineKind::Hypercall,
            TrampolineKind::HypercallAfterStore,
            TrampolineKind::Enabling,
        ] {
            assert_eq!(
                decode(encode(Event::Trampoline(trampoline))),
                Event::LongMode
            );
        }
        assert_eq!(decode([!0, !0, !0]), Event::LongMode);
        assert_eq!(decode([0, 0, 0]), Event::LongMode);
    }
}
