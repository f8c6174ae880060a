//! Finds the PAGE_OFFSET of a kernel without headers.
//!
//! No header of a flat image has PAGE_OFFSET, but nearly every pointer in it
//! shows it: a kernel is full of absolute addresses of itself, and all of them
//! are between `PAGE_OFFSET + load address` and the end of the image. So every
//! four bytes of it, at every alignment, count as a vote for the PAGE_OFFSET
//! with which they would point into the image.
//!
//! The original looked at one instruction only, a load into eax from a fixed
//! address, and took the first top byte that it saw more than three times. That
//! is a sample of hundreds instead of hundreds of thousands, and any byte with
//! the value of that opcode in a table may decide it.

/// The splits that kernels are configured with (`CONFIG_VMSPLIT_*`), the most
/// common first.
pub(super) const CONVENTIONAL: [u32; 5] = [
    0xC000_0000,
    0x8000_0000,
    0x4000_0000,
    0xB000_0000,
    0x7800_0000,
];

/// Up to so many votes for an address may be chance: the original's threshold.
const CHANCE: usize = 3;

/// A vote for a conventional address counts this many times.
const HABIT: usize = 8;

/// The most likely virtual address of physical address 0 of a flat `image` that
/// lies at `load_at`; `None` if no address has enough votes.
pub(super) fn guess(image: &[u8], load_at: u32) -> Option<u32> {
    let votes = votes(image, load_at);
    (1..votes.len() - 1)
        .filter(|&top| votes[top] > CHANCE)
        .map(|top| (top, u32::try_from(top << 24).unwrap_or_default()))
        .max_by_key(|&(top, address)| {
            let conventional = CONVENTIONAL.contains(&address);
            votes[top] * if conventional { HABIT } else { 1 }
        })
        .map(|(_, address)| address)
}

/// For each top byte of an address, how many words of `image` point into it
/// if PAGE_OFFSET is that byte followed by zeroes.
fn votes(image: &[u8], load_at: u32) -> [usize; 256] {
    let mut votes = [0; 256];
    // One top byte covers sixteen megabytes.
    let len = u32::try_from(image.len()).unwrap_or(u32::MAX).min(1 << 24);
    for window in image.windows(4) {
        let word = [window[0], window[1], window[2], window[3]];
        let from_load = u32::from_le_bytes(word).wrapping_sub(load_at);
        if from_load & 0x00FF_FFFF < len {
            votes[(from_load >> 24) as usize] += 1;
        }
    }
    votes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD_AT: u32 = 0x10_0000;

    /// Text, small numbers and a few pointers, as in a small kernel.
    fn image(page_offset: u32, pointers: u32) -> Vec<u8> {
        let mut image = Vec::new();
        for i in 0..pointers {
            image.push(0xA1); // so that they have every alignment
            let pointer = page_offset + LOAD_AT + i * 16;
            image.extend_from_slice(&pointer.to_le_bytes());
            image.extend_from_slice(&[0x55, 0x89, 0xE5, 0x31, 0xC0]);
        }
        for i in 0..2000_u32 {
            image.extend_from_slice(&i.to_le_bytes());
            image.extend_from_slice(b"lguest: no memory x86 %08lx\n\0");
        }
        image
    }

    #[test]
    fn every_conventional_split_is_recognised() {
        for split in CONVENTIONAL {
            assert_eq!(guess(&image(split, 40), LOAD_AT), Some(split));
        }
    }

    #[test]
    fn an_unusual_split_wins_by_many_votes() {
        let image = image(0x9000_0000, 4000);
        assert_eq!(guess(&image, LOAD_AT), Some(0x9000_0000));
    }

    #[test]
    fn no_pointers_no_opinion() {
        assert_eq!(guess(&[0x90; 4096], LOAD_AT), None);
        assert_eq!(guess(&[], LOAD_AT), None);
        assert_eq!(guess(&[1, 2, 3], LOAD_AT), None);
    }
}
