//! The test of exercise 7. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson07::exercise::words;

lg_guest::tests! {
    fn blanks_separate_words() {
        assert_eq!(words("echo a  b "), ["echo", "a", "b"]);
        assert!(words("   ").is_empty());
    }

    fn blanks_between_quotation_marks_do_not() {
        assert_eq!(words("echo \"a  b\" c"), ["echo", "a  b", "c"]);
        assert_eq!(words("a\" b\"c"), ["a bc"]);
        assert_eq!(words("\"\" x"), ["", "x"]);
    }

    fn an_open_quotation_ends_with_the_line() {
        assert_eq!(words("\"a b"), ["a b"]);
    }
}
