//! The test of exercise 4. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson04::exercise::physical;
use lesson04::{WINDOW, directory, init, read, store};

/// A directory at 0x1000 with a table at 0x2000 for the second 4 MiB. It maps
/// 0x0040_3000 to 0x9000.
fn memory(at: u32) -> u32 {
    match at {
        0x1004 => 0x2003,
        0x1008 => 0x2002, // not present
        0x200C => 0x9067,
        _ => 0,
    }
}

lg_guest::tests! {
    fn an_address_is_found_in_two_steps() {
        assert_eq!(physical(memory, 0x1000, 0x0040_3123), Some(0x9123));
    }

    fn where_nothing_is_there_is_nothing() {
        assert_eq!(physical(memory, 0x1000, 0x0040_4000), None);
        assert_eq!(physical(memory, 0x1000, 0x0080_3000), None);
        assert_eq!(physical(memory, 0x1000, 0), None);
        // Not everything is nothing.
        assert!(physical(memory, 0x1000, 0x0040_3000).is_some());
    }

    fn the_window_lies_in_physical_memory() {
        init();
        store(0x5008, 0x1234_5678);
        let found = physical(read, directory(), WINDOW + 0x5008);
        assert_eq!(found.map(read), Some(0x1234_5678));
        assert_eq!(physical(read, directory(), WINDOW + 0x6000), None);
    }
}
