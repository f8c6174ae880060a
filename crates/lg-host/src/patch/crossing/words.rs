//! The words by which crossings and the Host know of each other.
//!
//! They are in a page of the state that is mapped below 4 GiB, too, because
//! 32-bit code writes there. The Guest's kernel can write them by accident, as
//! it can write all of its memory, and a program by intent, as it can write all
//! of the view's. The Host reads each of them once, and none is an address of
//! the Host's.

use crate::address::as_word;
use crate::cpu::selectors::{
    REAL_KERNEL_DS, REAL_LONG_CS, REAL_USER_CS, REAL_USER_DS,
};
use core::cell::Cell;
use lg_abi::page::PAGE_SIZE;

/// Where the Guest's code sees the code of crossings.
pub const CODE_ADDRESS: u32 = 0xFFFE_3000;

/// Where it sees the words: in the page behind.
pub const WORDS: u32 = CODE_ADDRESS + PAGE_SIZE;

/// What the word is whose place the probe of gs computes.
pub(super) const MAGIC: u32 = 0x6C67_7567;

/// The page. All zero: no crossing is possible.
#[repr(C, align(4096))]
pub struct Words {
    // For the way in.
    /// Which way it goes: the fast one, or the slow one.
    pub(super) way_in: Cell<u32>,
    /// The trampoline for the slow one, as a far jump takes it.
    pub(super) entry_trampoline: Cell<u32>,
    /// Its code segment.
    entry_trampoline_cs: Cell<u32>,
    /// The kernel's stack, as `lss` takes it.
    pub(super) kernel_esp: Cell<u32>,
    /// Its segment.
    kernel_ss: Cell<u32>,
    /// Where the gate stores 0: `irq_enabled`, or `nothing`.
    pub(super) cleared_at: Cell<u32>,
    /// A word that nobody reads.
    pub(super) nothing: Cell<u32>,
    /// The handler of system calls.
    pub(super) handler: Cell<u32>,
    /// From behind the far call to behind the `int $0x80`.
    pub(super) to_back: Cell<u32>,
    /// How many there were.
    pub(super) ins: Cell<u32>,

    /// 1 = the Guest is in user mode.
    pub(super) user: Cell<u32>,

    // For the way out.
    /// 0 = not now.
    pub(super) may_leave: Cell<u32>,
    /// Where user code ends.
    pub(super) user_end: Cell<u32>,
    /// Where the kernel sees `irq_enabled`.
    pub(super) irq_enabled_at: Cell<u32>,
    /// The one selector that gs may have beside 0.
    pub(super) gs: Cell<u32>,
    /// Where `magic` is behind that selector, if its base is right.
    pub(super) probe: Cell<u32>,
    /// A word for that.
    pub(super) magic: Cell<u32>,
    /// The trampoline that does the same by the Host, as a far jump takes it.
    pub(super) trampoline: Cell<u32>,
    /// Its code segment.
    trampoline_cs: Cell<u32>,
    /// The program's eip, as a far jump takes it.
    pub(super) eip: Cell<u32>,
    /// Its code segment.
    cs: Cell<u32>,
    /// Its stack pointer, as `lss` takes it.
    pub(super) esp: Cell<u32>,
    /// Its stack segment.
    ss: Cell<u32>,
    /// Its flags.
    pub(super) eflags: Cell<u32>,
    /// Its eax.
    pub(super) eax: Cell<u32>,
    /// How many there were.
    pub(super) outs: Cell<u32>,

    // For the way of a kernel back to itself, which has `eip`, `esp`, `eflags`
    // and `eax`, too.
    /// 0 = not now.
    pub(super) may_go_back: Cell<u32>,
    /// How many there were.
    pub(super) backs: Cell<u32>,

    // For hypercalls.
    /// 0 = not now.
    pub(super) may_answer: Cell<u32>,
    /// Where a trampoline goes on with a hypercall.
    pub(in crate::patch) near: Cell<u32>,
    /// Where the kernel sees the next byte of `hcall_status` that counts.
    pub(super) status_at: Cell<u32>,
    /// The number of the call that says TS.
    pub(super) ts_number: Cell<u32>,
    /// The number of the call that asks for nothing but an empty ring.
    pub(super) flush_number: Cell<u32>,
    /// CR0.TS of the Guest's.
    pub(super) ts: Cell<u32>,
    /// Bits of `ts` with which no program may go on: all, or none if the Guest
    /// has no gate for that.
    pub(super) ts_mask: Cell<u32>,
    /// How many calls said TS.
    pub(super) ts_calls: Cell<u32>,
    /// How many calls had nothing to ask for.
    pub(super) flushes: Cell<u32>,
    /// The trampoline for all other calls, as a far jump takes it.
    pub(super) near_trampoline: Cell<u32>,
    /// Its code segment.
    near_trampoline_cs: Cell<u32>,
}

impl Words {
    /// Fills in what never changes.
    pub(super) fn begin(&self, user_end: u32) {
        self.user_end.set(user_end);
        self.magic.set(MAGIC);
        self.kernel_ss.set(REAL_KERNEL_DS);
        self.entry_trampoline_cs.set(REAL_LONG_CS);
        self.trampoline_cs.set(REAL_LONG_CS);
        self.near_trampoline_cs.set(REAL_LONG_CS);
        self.cs.set(REAL_USER_CS);
        self.ss.set(REAL_USER_DS);
    }
}

/// What the Host keeps of crossings, beside the page of words.
#[repr(C)]
pub struct Crossing {
    /// 1 = there is a patch that leads to one.
    pub(super) engaged: Cell<u32>,
    /// 1 = what belongs to the thread in user mode was loaded for the last
    /// program, and the kernel has not said since that another one runs.
    pub(super) settled: Cell<u32>,
    /// What was counted so far.
    pub(super) ins: Cell<u32>,
    pub(super) outs: Cell<u32>,
    pub(super) backs: Cell<u32>,
    pub(super) ts_calls: Cell<u32>,
    pub(super) flushes: Cell<u32>,
    /// For so many returns to programs by the Host the way out stays closed,
    /// because gs did not have its base there.
    pub(super) pause: Cell<u32>,
    /// How long the last such pause was, ...
    pub(super) last_pause: Cell<u32>,
    /// ... and how many crossings there were when it began.
    pub(super) outs_at_pause: Cell<u32>,
    /// The base that gs lost on the last way out by the Host, ...
    lost_base: Cell<u32>,
    /// ... and how often it was the same, one after the other.
    times_lost: Cell<u32>,
    /// The words.
    pub words: Words,
}

/// The shortest pause and the longest, in returns to programs. A base that is
/// lost costs a signal, which is some ten returns by the Host.
const PAUSES: [u32; 2] = [16, 4096];

impl Crossing {
    /// The kernel has said something by which another thread may go on in user
    /// mode, or the same with other segments.
    pub(crate) fn unsettle(&self) {
        self.settled.set(0);
    }

    /// The kernel has loaded gs again, and so `base` was lost. Answers whether
    /// that has happened `often` times, one after the other.
    pub(crate) fn is_often(&self, base: u32, often: u32) -> bool {
        let is_same = self.lost_base.replace(base) == base;
        let before = if is_same { self.times_lost.get() } else { 0 };
        let is_often = before + 1 >= often;
        self.times_lost.set(if is_often { 0 } else { before + 1 });
        is_often
    }

    /// Gs did not have its base on the way out. A fault found that, so the way
    /// stays closed for a while, and longer if it was open in vain.
    pub(super) fn note_lost_base(&self) {
        let [shortest, longest] = PAUSES;
        let outs = self.outs.get();
        let crossed = outs.wrapping_sub(self.outs_at_pause.replace(outs));
        let last = self.last_pause.get();
        let pause = match crossed > last {
            true => shortest,
            false => (2 * last).clamp(shortest, longest),
        };
        self.last_pause.set(pause);
        self.pause.set(pause);
    }
}

#[cfg(test)]
impl Words {
    /// All of them, in their order.
    pub(super) fn all(&self) -> [&Cell<u32>; 39] {
        [
            &self.way_in,
            &self.entry_trampoline,
            &self.entry_trampoline_cs,
            &self.kernel_esp,
            &self.kernel_ss,
            &self.cleared_at,
            &self.nothing,
            &self.handler,
            &self.to_back,
            &self.ins,
            &self.user,
            &self.may_leave,
            &self.user_end,
            &self.irq_enabled_at,
            &self.gs,
            &self.probe,
            &self.magic,
            &self.trampoline,
            &self.trampoline_cs,
            &self.eip,
            &self.cs,
            &self.esp,
            &self.ss,
            &self.eflags,
            &self.eax,
            &self.outs,
            &self.may_go_back,
            &self.backs,
            &self.may_answer,
            &self.near,
            &self.status_at,
            &self.ts_number,
            &self.flush_number,
            &self.ts,
            &self.ts_mask,
            &self.ts_calls,
            &self.flushes,
            &self.near_trampoline,
            &self.near_trampoline_cs,
        ]
    }
}

/// Where the Guest's code sees the word at `offset`.
pub(in crate::patch) const fn word(offset: usize) -> u32 {
    WORDS + as_word(offset)
}

const _: () = assert!(size_of::<Words>() == PAGE_SIZE as usize);
