//! Exercise 7: words with blanks in them.
//!
//! A shell splits a line at blanks. Inside quotation marks a blank is part of
//! the word, as in `echo "two words" three`.

use alloc::string::String;
use alloc::vec::Vec;

/// The words of a line. A quotation mark begins or ends a part in which blanks
/// do not separate words. The marks themselves are left out. `""` is a word
/// without a character.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
