//! Tests of lesson 7. Each runs in a guest of its own.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use lesson07::{Answer, answer};
use lg_guest::boot::boot;

fn text(words: &[&str]) -> Option<String> {
    match answer(boot(), words) {
        Answer::Text(text) => Some(text),
        _ => None,
    }
}

lg_guest::tests! {
    fn commands_are_answered() {
        assert_eq!(text(&["echo", "a", "b"]).as_deref(), Some("a b"));
        assert!(text(&["mem"]).is_some_and(|t| t.starts_with("32 MiB;")));
        assert!(text(&["help"]).is_some_and(|t| t.contains("uptime")));
        assert!(text(&["uptime"]).is_some_and(|t| t.ends_with(" ms")));
    }

    fn a_line_may_be_empty_or_wrong() {
        assert_eq!(answer(boot(), &[]), Answer::Nothing);
        assert!(text(&["go"]).is_some_and(|t| t.starts_with("go: there is no")));
        assert!(text(&["sleep", "x"]).is_some_and(|t| t.starts_with("x: ")));
    }

    fn some_commands_are_no_text() {
        assert_eq!(answer(boot(), &["exit"]), Answer::Leave);
        let two = Answer::Sleep(2_000_000_000);
        assert_eq!(answer(boot(), &["sleep", "2"]), two);
    }
}
