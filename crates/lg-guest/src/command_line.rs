//! The command line: words, some of them `name=value`.
//!
//! The Launcher joins its arguments with blanks. A value that contains blanks
//! therefore stands in double quotes, as on Linux's command line:
//! `run="ping 10.0.0.2;poweroff" ip=10.0.0.1/24`. The quotes may be around the
//! value or around the whole word. A quote itself cannot be written.
//!
//! ```no_run
//! # #![cfg_attr(target_arch = "x86", no_std)]
//! # #![cfg_attr(target_arch = "x86", no_main)]
//! use lg_guest::command_line::CommandLine;
//!
//! fn main() {
//!     let line = CommandLine::new("run=\"ls;mem\" quiet");
//!     assert_eq!(line.value("run"), Some("ls;mem"));
//!     assert!(line.has("quiet"));
//! }
//! ```

/// A command line, not taken apart yet.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a>(&'a str);

impl<'a> CommandLine<'a> {
    /// The command line in `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// All of it, as it was given.
    #[must_use]
    pub const fn text(self) -> &'a str {
        self.0
    }

    /// The words: a name, and a value if there is a `=`.
    #[must_use]
    pub const fn words(self) -> Words<'a> {
        Words(self.0)
    }

    /// The value of `name`; the last one counts.
    #[must_use]
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.words()
            .filter(|&(word, _)| word == name)
            .filter_map(|(_, value)| value)
            .last()
    }

    /// Whether the bare word `name` is there.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.words().any(|word| word == (name, None))
    }
}

/// The words of a [`CommandLine`].
#[derive(Clone, Debug)]
pub struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_start();
        if text.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = text
            .find(|c: char| {
                quoted ^= c == '"';
                c.is_whitespace() && !quoted
            })
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;

        Some(match unquote(word).split_once('=') {
            Some((name, value)) => (name, Some(unquote(value))),
            None => (unquote(word), None),
        })
    }
}

/// `text` without the quotes around it, if it has them on both sides (or only
/// in front: a quote that is never closed reaches to the end).
fn unquote(text: &str) -> &str {
    match text.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => text,
    }
}

/// A number: decimal, or hexadecimal after `0x`.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_any_number_of_blanks() {
        let line = CommandLine::new("  quiet ip=10.0.0.1/24\t x=  y ");
        let words: Vec<_> = line.words().collect();
        assert_eq!(
            words,
            [
                ("quiet", None),
                ("ip", Some("10.0.0.1/24")),
                ("x", Some("")),
                ("y", None)
            ]
        );
        assert!(line.has("quiet") && !line.has("ip") && !line.has("q"));
    }

    #[test]
    fn a_quoted_value_keeps_its_blanks() {
        let line = CommandLine::new(r#"run="a b;c" "two=d  e" z"#);
        assert_eq!(line.value("run"), Some("a b;c"));
        assert_eq!(line.value("two"), Some("d  e"));
        assert!(line.has("z"));
    }

    #[test]
    fn a_quote_never_closed_reaches_to_the_end() {
        let line = CommandLine::new(r#"run="a b"#);
        assert_eq!(line.value("run"), Some("a b"));
    }

    #[test]
    fn the_last_value_counts_and_a_value_may_hold_equal_signs() {
        let line = CommandLine::new("a=1 a=2 b=x=y");
        assert_eq!(line.value("a"), Some("2"));
        assert_eq!(line.value("b"), Some("x=y"));
        assert_eq!(line.value("c"), None);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(CommandLine::new("").words().count(), 0);
        assert_eq!(CommandLine::new("   ").words().count(), 0);
    }

    #[test]
    fn numbers_are_decimal_or_behind_0x() {
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("0xFFFFFFFFFF"), Some(0xFF_FFFF_FFFF));
        assert_eq!(number("0x"), None);
        assert_eq!(number("1k"), None);
    }
}
