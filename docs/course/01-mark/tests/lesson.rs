//! Tests of lesson 1. Each runs in a guest of its own.
#![no_std]
#![no_main]

lg_guest::tests! {
    fn the_console_takes_every_byte() {
        assert_eq!(lesson01::print(b"Hello!\r\n"), 8);
        assert_eq!(lesson01::print(b""), 0);
    }

    fn a_text_may_lie_in_two_pages() {
        // Wherever it begins, one of its bytes is the last of a page.
        static TEXT: [u8; 4096] = [b'.'; 4096];
        assert_eq!(lesson01::print(&TEXT), 4096);
    }

    fn a_longer_text_is_cut_off() {
        static TEXT: [u8; 5000] = [b'.'; 5000];
        assert_eq!(lesson01::print(&TEXT), 4096);
    }

    fn memory_is_seen_at_page_offset() {
        static HERE: u8 = 0;
        let megabyte = 1 << 20;
        assert!(lesson01::physical(&HERE) >= megabyte);
        assert!(lesson01::physical(&HERE) < 32 * megabyte);
    }
}
