//! Leftovers: what the kernel mapped at a program's start, unmapped by halves.
//!
//! One munmap would do, but since Linux 6.16 a kernel may seal its own mappings
//! (the vDSO and its data). Then a munmap of any stretch that holds one fails
//! with EPERM and unmaps nothing, not even the stack with its auxiliary vector.
//! Where the mappings are is not known, because there may be no `/proc`. So a
//! stretch that cannot be unmapped is halved until single pages are left, and
//! those are counted.

use crate::syscall::errno;
use lg_abi::page::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;

/// Bytes that may be sealed. The vDSO and its data have 32 KiB in Linux 6.18.
const MOST: usize = 64 * PAGE;

/// Unmaps all pages from `from` to `to` but for those that are sealed. Answers
/// how many bytes are left.
///
/// # Errors
///
/// Any other error of `unmap`, which is given a start and a length; and EPERM
/// if more is sealed than a kernel has reason to seal.
pub(crate) fn unmap_all(
    from: usize,
    to: usize,
    unmap: &mut impl FnMut(usize, usize) -> Result<(), i32>,
) -> Result<usize, i32> {
    let (mut at, mut left) = (from, 0);
    // What is tried next: less after a failure, more after a success.
    let mut length = to - from;
    while at < to {
        length = length.min(to - at);
        match unmap(at, length) {
            Ok(()) => {
                at += length;
                length = length.saturating_mul(2);
            }
            Err(errno::EPERM) if length > PAGE => {
                length = length.div_ceil(2 * PAGE) * PAGE;
            }
            Err(errno::EPERM) if left < MOST => {
                left += PAGE;
                at += PAGE;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests;
