//! What a Guest costs the machine beyond its memory, and limits on it.
//!
//! Only one view of an honest Guest runs at a time. A hostile Guest can make
//! all of them run, and each can map pages until the kernel refuses. So views
//! are bounded from outside. They are a session of their own, to which the
//! kernel's autogroups give one share of a processor. Their address space is
//! limited, and with it the number of mappings. A small Guest has fewer views
//! ([`lg_wire::state::max_views`]). SECURITY.md has the figures.

#![expect(unsafe_code, reason = "makes calls between fork and exec")]

use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::state::{COPIES_SIZE, PROCESS_SIZE, STATE_SIZE};

/// Bytes for which a view may map more than all memory twice, once for the
/// kernel's linear mapping and once for a program: pages that are shared.
const SHARED_MAPPINGS: u64 = 16 << 20;

/// Bytes for what the kernel maps into a new process.
const AT_EXEC: u64 = 1 << 20;

/// Bytes of address space that a view may have, for a Guest with `limit` bytes
/// of memory, `pages` pages that it shares with others, and a ring of `trace`
/// bytes. When the Host meets the limit, it drops its mappings and makes them
/// again as they are needed.
pub(super) fn address_space(limit: u32, pages: usize, trace: usize) -> u64 {
    let outboxes = pages * OUTBOX_SIZE as usize;
    let fixed = STATE_SIZE + trace + COPIES_SIZE + outboxes + PROCESS_SIZE;
    let memory = u64::from(limit);
    fixed as u64 + AT_EXEC + memory + 2 * memory + SHARED_MAPPINGS
}

/// Bounds this process and all that it forks, as far as the machine lets us.
/// Runs in the child, between fork and exec.
pub(super) fn bound(address_space: u64) {
    // A child that was just forked leads no group, so this cannot fail. The
    // session has no terminal, so a terminal's signals reach the Launcher
    // alone.
    // SAFETY: a system call without arguments.
    unsafe { libc::setsid() };
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes `limit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } < 0 {
        return;
    }
    limit.rlim_max = limit.rlim_max.min(address_space);
    limit.rlim_cur = limit.rlim_cur.min(address_space);
    // SAFETY: the kernel reads `limit`.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
}

/// Bytes that a process of a Guest costs the kernel beside the files that it
/// maps, when the Guest has used `memory` bytes of its memory: its stack, the
/// kernel's own structures, and page tables that map each page twice. This is
/// the cost of an honest Guest: 0.2 MB were measured with Linux in 64 MB.
/// SECURITY.md says what a hostile one costs.
pub(super) fn of_process(memory: u64) -> u64 {
    const FIXED: u64 = 128 << 10;
    /// Bytes of memory that one byte of a page table maps.
    const MAPPED: u64 = 512;
    FIXED + 2 * memory / MAPPED
}

#[cfg(test)]
mod tests {
    use super::{address_space, of_process};

    #[test]
    fn a_process_costs_more_where_it_can_map_more() {
        assert_eq!(of_process(0), 128 << 10);
        assert_eq!(of_process(64 << 20), (128 + 256) << 10);
    }

    #[test]
    fn a_view_can_map_all_memory_three_times() {
        for limit in [1 << 20, 16 << 20, u32::MAX] {
            assert!(address_space(limit, 0, 0) > 3 * u64::from(limit));
        }
    }
}
