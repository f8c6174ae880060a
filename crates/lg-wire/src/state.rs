//! The head of the state: the memory that Launcher and views share.
//!
//! All views map one file, the *state*. Most of it is the Host's own and is
//! laid out in `lg_host::state`. It begins with the [`Head`], and the Launcher
//! maps nothing else of it. Before anything runs, the Launcher writes the
//! [`ViewSetup`]; the view spawner keeps a copy of it and fills in the rest.
//! From then on the Guest may write any of these words, so the Launcher checks
//! each one.
//!
//! Every field starts as zero.

use crate::counters::Counters;
use crate::disk::{DiskWords, MAX_DISKS};
use crate::last::Last;
use crate::mailbox::Mailbox;
use crate::moved::Moved;
use crate::spawn::MAX_SHARED_PAGES;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64};
use lg_abi::gen3::pci::MAX_DEVICES;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};

/// The number of this layout. It changes when a field is added, moved or gets
/// another meaning; a test compares the layout with it.
pub const VERSION: u32 = 20;

/// Page directories that can have a view of their own at the same time.
pub const MAX_VIEWS: usize = 32;

/// How many views a Guest with `limit` bytes of memory may have. A view costs
/// the machine page tables and mappings, so a small Guest has fewer of them.
#[must_use]
pub const fn max_views(limit: u32) -> usize {
    /// Bytes of memory for which there is a view.
    const MEMORY_FOR_A_VIEW: u32 = 2 << 20;
    /// Enough for a kernel and the programs of a short pipe to have a view
    /// each.
    const MIN_VIEWS: usize = 4;
    let views = (limit / MEMORY_FOR_A_VIEW) as usize;
    if views < MIN_VIEWS {
        MIN_VIEWS
    } else if views > MAX_VIEWS {
        MAX_VIEWS
    } else {
        views
    }
}

/// Pages that can have a patched copy at the same time.
pub const MAX_COPIES: usize = 32;

/// Bytes of the patched copies.
pub const COPIES_SIZE: usize = MAX_COPIES * PAGE_SIZE as usize;

/// Bytes of the state's file, which is sparse. The Switcher asserts that its
/// state fits.
pub const STATE_SIZE: usize = 0x5_4000;

/// Bytes of address space that a view has beside the Guest's memory, its
/// patched copies, its outboxes and the state: records, stack and program. The
/// Switcher asserts that these are enough.
pub const PROCESS_SIZE: usize = 0xC4_0000;

/// The bit that stands for the page at `addr` in a filter of pages: its number
/// modulo 64.
#[must_use]
pub const fn page_bit(addr: u32) -> u64 {
    1 << ((addr >> PAGE_SHIFT) % u64::BITS)
}

/// The same for all pages of `len` bytes from `addr`.
#[must_use]
pub fn page_bits(addr: u32, len: u32) -> u64 {
    let offset = addr % PAGE_SIZE;
    let pages =
        (u64::from(offset) + u64::from(len)).div_ceil(u64::from(PAGE_SIZE));
    match u32::try_from(pages) {
        _ if len == 0 => 0,
        Ok(pages @ 0..u64::BITS) => {
            let first = (1_u64 << pages) - 1;
            first.rotate_left(addr >> PAGE_SHIFT)
        }
        _ => u64::MAX,
    }
}

/// Bits of [`Wire::input_waits`].
pub mod input {
    /// Tell when the Guest has nothing to do.
    pub const WHEN_IDLE: u32 = 1 << 0;
    /// Tell when the Guest has slept, before it goes on.
    pub const WHEN_WOKEN: u32 = 1 << 1;
}

/// The Launcher's settings for the view spawner.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ViewSetup {
    /// Bytes of the memory file: the Guest's memory, devices' pages included.
    pub limit: u32,
    /// How many of `shared_pfns` are in use.
    pub shared_pages: u32,
    /// Of how many disks views have the file, to read.
    pub disks: u32,
    /// Page numbers that lie in files of their own.
    pub shared_pfns: [u32; MAX_SHARED_PAGES],
    /// 1 = the state is that of a Guest that has run before, from
    /// [`HOSTS_PART`] on.
    pub resumed: u32,
    /// How the clocks of such a Guest differ from those here.
    pub moved: Moved,
    /// 1 = user code runs in user processes.
    pub user_processes: u32,
    /// Paths that must not be taken: bits of [`fast_path`](crate::fast_path).
    pub slow_paths: u32,
    /// The value of `guestid`.
    pub guestid: u32,
    /// Where the kernel maps physical address 0.
    pub page_offset: u32,
    /// The first page directory, or [`LINEAR`](lg_abi::page::LINEAR).
    pub pgdir: u32,
    /// The number of the Guest's interface
    /// ([`Known`](lg_abi::known::Known)).
    pub interface: u32,
    /// The number of the format of its page tables
    /// ([`Format`](lg_abi::page::Format)).
    pub paging: u32,
    /// The value of esi when the Guest starts: the address of its boot
    /// parameters, for generations that use it.
    pub boot_parameters: u32,
    /// The address of the Guest's first instruction.
    pub start: u32,
    /// How many of `devices` are in use.
    pub device_count: u32,
    /// The devices on its PCI bus
    /// ([`Device`](lg_abi::gen3::pci::Device)), from slot 1 on.
    pub devices: [u32; MAX_DEVICES],
    /// How many records the [ring](crate::trace) of a trace has, which is
    /// behind the state in its file.
    pub trace_records: u32,
}

/// The words that the Launcher shares with the views.
#[repr(C)]
pub struct Wire {
    /// The [`VERSION`] with which the view program was built. The view spawner
    /// writes it, and the Launcher compares.
    pub version: AtomicU32,
    /// Written by the Launcher before anything runs. The view spawner keeps a
    /// copy for all views. Nothing reads this one afterwards: a Guest that has
    /// broken into a view can write it.
    pub setup: Cell<ViewSetup>,
    /// The value of `tsc_khz`. The Launcher writes it last, because measuring
    /// it takes time.
    pub tsc_khz: AtomicU32,
    /// The requests of the Host and the Launcher's answers.
    pub mailbox: Mailbox,
    /// The slot of the view that holds the run token.
    pub current: AtomicU32,
    /// Interrupts that wait to be delivered, a bit each.
    pub irqs: AtomicU32,
    /// Devices on a PCI bus whose registers have changed since the Guest read
    /// why they interrupt: the bits of their interrupts. The Launcher sets them
    /// before it raises the interrupt.
    pub config_changes: AtomicU32,
    /// Goes up at each event from outside. A futex.
    pub kick: AtomicU32,
    /// 1 while the current view sleeps on `kick`.
    pub asleep: AtomicU32,
    /// 1 = stop at the next clean point and tell the Launcher.
    pub break_wanted: AtomicU32,
    /// When to tell the Launcher that a buffer may be free, for input that
    /// waits for one: bits of [`input`]. The Launcher sets them, the Host
    /// clears them when it tells.
    pub input_waits: AtomicU32,
    /// 1 = the Guest has run for a while: is this still the best processor? The
    /// Host sets it and wakes the Launcher, and does not wait for an answer.
    pub balance_wanted: AtomicU32,
    /// What is traced: [groups](crate::trace::group). The Launcher sets them.
    pub traced: AtomicU32,
    /// Nanoseconds from one sample of a profile to the next. The Launcher sets
    /// them.
    pub sample_every: AtomicU32,
    /// Pages that the Launcher has written to since the Host last checked: bits
    /// as [`page_bit`] has them. The Launcher sets them after it has written
    /// the bytes, and before it kicks or answers.
    pub written_pages: AtomicU64,
    /// For each view: 1 = the run token is passed to it. Futexes.
    pub run_tokens: [AtomicU32; MAX_VIEWS],
    /// Disks whose reads the Host may answer.
    pub disks: [DiskWords; MAX_DISKS],
    /// What the Guest did last.
    pub last: Last,
}

/// The beginning of the state: all that the Launcher maps.
#[repr(C)]
pub struct Head {
    /// The words.
    pub wire: Wire,
    /// Counts of events.
    pub counters: Counters,
}

/// Where in the state the Host's own part begins, with the counters. A snapshot
/// has all from here on. Of the words before it, it has those that the Guest
/// relies on: interrupts that wait, changed registers, and written pages.
pub const HOSTS_PART: usize = core::mem::offset_of!(Head, counters);

/// Bytes that the Launcher maps.
pub const HEAD_SIZE: usize =
    size_of::<Head>().next_multiple_of(PAGE_SIZE as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Mailbox;
    use core::mem::offset_of;

    #[test]
    fn views_follow_the_memory_within_bounds() {
        assert_eq!(max_views(1 << 20), 4);
        assert_eq!(max_views(16 << 20), 8);
        assert_eq!(max_views(64 << 20), MAX_VIEWS);
        assert_eq!(max_views(u32::MAX), MAX_VIEWS);
    }

    #[test]
    fn a_filter_has_the_pages_of_a_piece_and_no_others() {
        for first in [0, 1, 62, 63, 64, 1000, 0xF_FFFF - 200] {
            for pages in [1, 2, 3, 63, 64, 65, 130] {
                for (offset, less) in [(0, 0), (1, 1), (4095, 4095), (7, 2000)]
                {
                    let addr = first << 12 | offset;
                    let len = (pages << 12) - less;
                    let last = u64::from(addr) + u64::from(len) - 1;
                    let last = u32::try_from(last >> 12).unwrap();
                    let each = (first..=last).map(|page| page_bit(page << 12));
                    let all = each.fold(0, |all, bit| all | bit);
                    assert_eq!(page_bits(addr, len), all, "{addr:x} {len:x}");
                }
            }
        }
        assert_eq!(page_bits(0x1004, 0), 0);
        assert_eq!(page_bits(0xFFFF_F000, u32::MAX), u64::MAX);
    }

    /// Where each field is in this version. A changed layout needs a new
    /// version.
    #[test]
    fn the_layout_is_that_of_the_version() {
        let layout = [
            ("version", offset_of!(Wire, version)),
            ("setup", offset_of!(Wire, setup)),
            (
                "setup: user_processes",
                offset_of!(ViewSetup, user_processes),
            ),
            ("setup: disks", offset_of!(ViewSetup, disks)),
            ("setup: resumed", offset_of!(ViewSetup, resumed)),
            ("setup: moved", offset_of!(ViewSetup, moved)),
            ("setup: start", offset_of!(ViewSetup, start)),
            ("setup: devices", offset_of!(ViewSetup, devices)),
            ("setup: trace_records", offset_of!(ViewSetup, trace_records)),
            ("tsc_khz", offset_of!(Wire, tsc_khz)),
            ("mailbox", offset_of!(Wire, mailbox)),
            ("mailbox.text", offset_of!(Wire, mailbox.text)),
            ("current", offset_of!(Wire, current)),
            ("irqs", offset_of!(Wire, irqs)),
            ("config_changes", offset_of!(Wire, config_changes)),
            ("kick", offset_of!(Wire, kick)),
            ("asleep", offset_of!(Wire, asleep)),
            ("break_wanted", offset_of!(Wire, break_wanted)),
            ("input_waits", offset_of!(Wire, input_waits)),
            ("traced", offset_of!(Wire, traced)),
            ("sample_every", offset_of!(Wire, sample_every)),
            ("written_pages", offset_of!(Wire, written_pages)),
            ("run_tokens", offset_of!(Wire, run_tokens)),
            ("disks", offset_of!(Wire, disks)),
            ("last", offset_of!(Wire, last)),
            ("last.calls", offset_of!(Wire, last.calls)),
            ("counters", offset_of!(Head, counters)),
            ("the size of a disk's words", size_of::<DiskWords>()),
            ("the mailbox's size", size_of::<Mailbox>()),
            ("the head's size", size_of::<Head>()),
        ];
        let written = std::format!("version {VERSION}\n{layout:#?}\n");
        let golden = include_str!("state/layout.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let file =
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/state/layout.txt");
            std::fs::write(file, &written).unwrap();
            return;
        }
        assert_eq!(
            written, golden,
            "a new layout needs a new VERSION; then UPDATE_EXPECT=1"
        );
    }
}
