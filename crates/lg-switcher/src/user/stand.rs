//! The call in which a user process waits, and what follows it.
//!
//! The code here is written in assembly because it must not depend on anything
//! that user code can change. The program that called may have chosen every
//! register and every byte that this process can write, and the next program
//! may be another one.

#![expect(unsafe_code, reason = "assembly")]

use super::event::encode;
use crate::extended;
use crate::fpu;
use crate::layout::{OWN, STACK, STACK_SIZE, USER_PAGE, UserPage};
use crate::leave::leave_as;
use crate::notify::WAIT;
use crate::own::{Own, own};
use crate::shared::{registers, user_page};
use core::arch::global_asm;
use core::mem::offset_of;
use lg_host::cpu::selectors::REAL_USER_CS;
use lg_host::host::Event;

/// Tells the view that user code has stopped for `event`, and stands until it
/// answers.
pub(super) fn stand_for(event: Event) -> ! {
    let [kind, error, cr2] = encode(event);
    stand(kind, error, cr2)
}

/// The same, with the event as the arguments of the call.
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
pub(super) fn stand_site() -> u64 {
    if extended::has_keys() {
        &raw const lg_stand_with_keys_site as u64
    } else {
        &raw const lg_stand_site as u64
    }
}

// lg_stand: rdi, rsi, rdx = the event, for the view.
//
// The program that makes the call may have chosen every register, the stack and
// all memory that this process can write. The view may then let another program
// run. So from the call to `woken`, no register, no word of the stack and no
// writable memory is used. Where user code can have locked the pages of this
// program by protection keys, they are unlocked first. A signal on the way
// starts this code again (`interrupted`), because its handler must not return
// into the middle of it.
//
// After the call: rax < 0 = it was not answered, because of a signal, and the
// arguments are still in the registers.
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
/// that is between the waiting call and `woken`, starts this stretch again. The
/// interrupted code does not go on, whatever its registers are.
pub(super) fn interrupted(rip: u64, rax: u64, event: [u64; 3], kicked: bool) {
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
        let [kind, error, cr2] = event;
        // The event that the call reports is an answer to the kick, too.
        stand(kind, error, cr2);
    }
    // SAFETY: does not come back, and needs nothing.
    unsafe { wake(u32::from(kicked)) }
}

/// The view has answered: loads the registers in the page and runs user code.
/// All other memory that can be written is what the last program has left.
extern "C" fn woken() -> ! {
    let page = user_page();
    own().reset();
    if page.wipe.replace(0) != 0 {
        own().wipe();
    }
    extended::load(Some(&page.extended));
    fpu::take_fpu();
    leave_as(REAL_USER_CS, registers().ss.get())
}
