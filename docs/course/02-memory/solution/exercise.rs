//! Exercise 2: options on the command line.
//!
//! A kernel learns by its command line what a person wants of it: words like
//! `quiet`, and options like `root=/dev/lgba`.

/// The value of the option `name` on a command line: the text after `name=`, up
/// to the next blank. The last one counts, if there are several.
pub fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    line.split_ascii_whitespace().filter_map(value).last()
}
