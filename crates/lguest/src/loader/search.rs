//! A search for bytes in a kernel.
//!
//! A debug kernel has megabytes, and the search must take milliseconds.

/// The first place of `needle` in `haystack`, by Horspool's method: it compares
/// the last byte first, and mostly skips as many bytes as the needle has.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let last = needle.len().checked_sub(1)?;
    let mut skip = [needle.len(); 256];
    for (i, &byte) in needle[..last].iter().enumerate() {
        skip[usize::from(byte)] = last - i;
    }
    let mut at = 0;
    while let Some(window) = haystack.get(at..at + needle.len()) {
        if window == needle {
            return Some(at);
        }
        at += skip[usize::from(window[last])];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn find_agrees_with_the_obvious_search(
            haystack in proptest::collection::vec(0_u8..3, 0..80),
            needle in proptest::collection::vec(0_u8..3, 1..5),
        ) {
            let obvious = haystack
                .windows(needle.len())
                .position(|window| window == needle);
            prop_assert_eq!(find(&haystack, &needle), obvious);
        }
    }
}
