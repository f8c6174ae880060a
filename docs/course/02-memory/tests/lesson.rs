//! Tests of lesson 2. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson02::{command_line, map, memory};

lg_guest::tests! {
    fn the_memory_is_as_large_as_the_kit_says() {
        assert_eq!(memory(), lg_guest::boot::boot().memory);
        assert_eq!(map().count(), 1);
        assert_eq!(map().next().map(|range| range.start), Some(0));
    }

    fn the_command_line_names_this_test() {
        let name = "the_command_line_names_this_test";
        assert_eq!(command_line(), lg_guest::boot::boot().arguments.text());
        assert!(command_line().contains(name));
    }
}
