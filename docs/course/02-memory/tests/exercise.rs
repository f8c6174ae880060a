//! The test of exercise 2. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson02::exercise::option;

lg_guest::tests! {
    fn options_have_values() {
        let line = "quiet root=/dev/lgba  run=\"a=b\" empty=";
        assert_eq!(option(line, "root"), Some("/dev/lgba"));
        assert_eq!(option(line, "run"), Some("\"a=b\""));
        assert_eq!(option(line, "empty"), Some(""));
        assert_eq!(option(line, "quiet"), None);
        assert_eq!(option(line, "roo"), None);
        assert_eq!(option(line, "oot"), None);
    }

    fn the_last_one_counts() {
        assert_eq!(option("n=1 n=2 m=3", "n"), Some("2"));
    }

    fn the_name_of_this_test_is_an_option() {
        let name = "the_name_of_this_test_is_an_option";
        assert_eq!(option(lesson02::command_line(), "test"), Some(name));
    }
}
