//! Tests that run in a guest, each in one of its own: `cargo test`.
#![no_std]
#![no_main]

use LIBRARY::reversed;
use lg_guest::time;

lg_guest::tests! {
    fn text_is_reversed_by_characters() {
        assert_eq!(reversed("añb"), "bña");
        assert_eq!(reversed(""), "");
    }

    fn a_test_may_wait() {
        let before = time::now();
        time::sleep(1_000_000).await;
        assert!(time::now() - before >= 1_000_000);
    }

    #[should_panic]
    fn a_panic_ends_its_own_guest_only() {
        assert_eq!(reversed("abc"), "abc");
    }
}
