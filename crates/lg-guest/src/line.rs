//! The line editor: keys in, a line out, and what the terminal has to show.
//!
//! The console gives raw bytes and echoes nothing. This is the small part of a
//! terminal's work that a shell needs: echo, erasing, moving the cursor, and
//! the lines typed before. It uses no device: each key returns the output, so
//! tests need no terminal. Text is UTF-8: a character may be several keys, and
//! it is erased and stepped over as one.
//!
//! ```no_run
//! # #![cfg_attr(target_arch = "x86", no_std)]
//! # #![cfg_attr(target_arch = "x86", no_main)]
//! extern crate alloc;
//!
//! use lg_guest::line::{Editor, Outcome};
//!
//! fn main() {
//!     let mut editor = Editor::new();
//!     let mut show = alloc::vec::Vec::new();
//!     for key in *b"lx\x7Fs" {
//!         assert_eq!(editor.key(key, &mut show), Outcome::More);
//!     }
//!     let line = editor.key(b'\r', &mut show);
//!     assert_eq!(line, Outcome::Line("ls".into()));
//! }
//! ```

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Lines that are remembered.
const HISTORY: usize = 32;

/// The longest line; more keys are ignored.
const LONGEST: usize = 1024;

/// The result of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on typing.
    More,
    /// A line is complete.
    Line(String),
    /// ^C: the line is dropped.
    Interrupt,
    /// ^D on an empty line.
    End,
}

/// Where in an escape sequence we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// ESC was typed.
    Begun,
    /// And `[` or `O` after it; with the digits that followed.
    Sequence(u8),
}

/// A line being typed.
#[derive(Debug)]
pub struct Editor {
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// Which line of the history is shown, counted from the newest; 0 = none.
    shown: usize,
    escape: Escape,
    after_return: bool,
    /// The bytes of a character that is not complete yet.
    begun: Vec<u8>,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            shown: 0,
            escape: Escape::None,
            after_return: false,
            begun: Vec::new(),
        }
    }

    /// Takes one key. Output for the terminal is appended to `show`.
    pub fn key(&mut self, key: u8, show: &mut Vec<u8>) -> Outcome {
        match self.escape {
            Escape::None => {}
            Escape::Begun => {
                self.escape = match key {
                    b'[' | b'O' => Escape::Sequence(0),
                    _ => Escape::None,
                };
                return Outcome::More;
            }
            Escape::Sequence(_) if key.is_ascii_digit() => {
                self.escape = Escape::Sequence(key);
                return Outcome::More;
            }
            Escape::Sequence(digit) => {
                self.escape = Escape::None;
                self.special(digit, key, show);
                return Outcome::More;
            }
        }
        if key >= 0x80 {
            self.part_of_character(key, show);
            return Outcome::More;
        }
        self.begun.clear();
        // A terminal sends a return, a file a line feed, some both.
        if key == b'\n' && core::mem::take(&mut self.after_return) {
            return Outcome::More;
        }
        self.after_return = key == b'\r';

        const fn control(letter: u8) -> u8 {
            letter & 0x1F
        }
        const BACKSPACE: u8 = control(b'H');
        const DELETE: u8 = 0x7F;
        const ESCAPE: u8 = 0x1B;
        const A: u8 = control(b'A');
        const B: u8 = control(b'B');
        const C: u8 = control(b'C');
        const D: u8 = control(b'D');
        const E: u8 = control(b'E');
        const F: u8 = control(b'F');
        const K: u8 = control(b'K');
        const N: u8 = control(b'N');
        const P: u8 = control(b'P');
        const U: u8 = control(b'U');
        const W: u8 = control(b'W');

        match key {
            b'\r' | b'\n' => {
                show.extend(b"\n");
                return Outcome::Line(self.take_line());
            }
            C => {
                show.extend(b"^C\n");
                self.line.clear();
                (self.cursor, self.shown) = (0, 0);
                return Outcome::Interrupt;
            }
            D if self.line.is_empty() => {
                show.extend(b"\n");
                return Outcome::End;
            }
            D => self.erase(self.cursor, self.after_cursor(), show),
            BACKSPACE | DELETE => {
                self.erase(self.before_cursor(), self.cursor, show);
            }
            A => self.move_to(0, show),
            E => self.move_to(self.line.len(), show),
            B => self.special(0, b'D', show),
            F => self.special(0, b'C', show),
            P => self.special(0, b'A', show),
            N => self.special(0, b'B', show),
            K => self.erase(self.cursor, self.line.len(), show),
            U => self.erase(0, self.cursor, show),
            W => self.erase(self.word_start(), self.cursor, show),
            ESCAPE => self.escape = Escape::Begun,
            b' '..=b'~' => self.insert(&[key], show),
            _ => {}
        }
        Outcome::More
    }

    /// The line as it is, to be shown again after other output. The cursor ends
    /// up where it was.
    pub fn redraw(&self, show: &mut Vec<u8>) {
        show.extend(&self.line);
        back(columns(&self.line[self.cursor..]), show);
    }

    /// Ends the line. The history keeps it unless it is empty or repeated.
    fn take_line(&mut self) -> String {
        let line = core::mem::take(&mut self.line);
        (self.cursor, self.shown) = (0, 0);
        let text = String::from_utf8_lossy(&line).into_owned();
        if !line.is_empty() && self.history.front() != Some(&line) {
            self.history.push_front(line);
            self.history.truncate(HISTORY);
        }
        text
    }

    /// A key that sends an escape sequence: ESC `[` digit letter.
    fn special(&mut self, digit: u8, letter: u8, show: &mut Vec<u8>) {
        let end = self.line.len();
        let (before, after) = (self.before_cursor(), self.after_cursor());
        match (digit, letter) {
            (_, b'A') => self.recall(self.shown + 1, show),
            (_, b'B') if self.shown > 0 => self.recall(self.shown - 1, show),
            (_, b'C') => self.move_to(after, show),
            (_, b'D') => self.move_to(before, show),
            (_, b'H') | (b'1' | b'7', b'~') => self.move_to(0, show),
            (_, b'F') | (b'4' | b'8', b'~') => self.move_to(end, show),
            (b'3', b'~') => self.erase(self.cursor, after, show),
            _ => {}
        }
    }

    /// A byte of a character that is not ASCII. Invalid bytes are dropped.
    fn part_of_character(&mut self, byte: u8, show: &mut Vec<u8>) {
        if !goes_on(byte) {
            self.begun.clear();
        }
        self.begun.push(byte);
        match core::str::from_utf8(&self.begun) {
            Ok(_) => {
                let whole = core::mem::take(&mut self.begun);
                self.insert(&whole, show);
            }
            Err(error) if error.error_len().is_some() => self.begun.clear(),
            Err(_) => {}
        }
    }

    /// Where the character in front of the cursor begins.
    fn before_cursor(&self) -> usize {
        let before = &self.line[..self.cursor];
        before.iter().rposition(|&byte| !goes_on(byte)).unwrap_or(0)
    }

    /// Where the character at the cursor ends.
    fn after_cursor(&self) -> usize {
        let mut after = self.line.iter().skip(self.cursor + 1);
        let len = after.position(|&byte| !goes_on(byte));
        len.map_or(self.line.len(), |len| self.cursor + 1 + len)
    }

    fn word_start(&self) -> usize {
        let before = &self.line[..self.cursor];
        let word = before.iter().rposition(|&c| c != b' ').unwrap_or(0);
        let gap = before[..word].iter().rposition(|&c| c == b' ');
        gap.map_or(0, |gap| gap + 1)
    }

    fn move_to(&mut self, cursor: usize, show: &mut Vec<u8>) {
        if cursor < self.cursor {
            back(columns(&self.line[cursor..self.cursor]), show);
        } else {
            show.extend(&self.line[self.cursor..cursor]);
        }
        self.cursor = cursor;
    }

    /// Inserts a character.
    fn insert(&mut self, bytes: &[u8], show: &mut Vec<u8>) {
        if self.line.len() + bytes.len() <= LONGEST {
            let at = self.cursor;
            self.line.splice(at..at, bytes.iter().copied());
            show.extend(&self.line[at..]);
            self.cursor += bytes.len();
            back(columns(&self.line[self.cursor..]), show);
        }
    }

    fn erase(&mut self, from: usize, to: usize, show: &mut Vec<u8>) {
        let to = to.min(self.line.len());
        if from >= to {
            return;
        }
        self.move_to(from, show);
        let gone = columns(&self.line[from..to]);
        self.line.drain(from..to);
        show.extend(&self.line[from..]);
        show.extend(core::iter::repeat_n(b' ', gone));
        back(columns(&self.line[from..]) + gone, show);
    }

    /// Shows line `shown` of the history, or an empty one for 0.
    fn recall(&mut self, shown: usize, show: &mut Vec<u8>) {
        let line = match shown.checked_sub(1) {
            None => Vec::new(),
            Some(index) => match self.history.get(index) {
                Some(line) => line.clone(),
                None => return,
            },
        };
        self.move_to(0, show);
        self.erase(0, self.line.len(), show);
        show.extend(&line);
        self.cursor = line.len();
        (self.line, self.shown) = (line, shown);
    }
}

/// Whether this byte continues a character of UTF-8.
fn goes_on(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// How many columns of a terminal `text` takes.
fn columns(text: &[u8]) -> usize {
    let text = core::str::from_utf8(text).unwrap_or_default();
    text.chars().map(width).sum()
}

/// How many columns `c` takes: characters of East Asian scripts and pictures
/// take two, accents that combine with the character before take none.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x2_0000..=0x3_FFFD => 2,
        _ => 1,
    }
}

/// Moves the terminal's cursor back.
fn back(columns: usize, show: &mut Vec<u8>) {
    show.extend(core::iter::repeat_n(b'\x08', columns));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types `keys`. Returns the result of the last one, and what the screen
    /// shows.
    fn type_in(editor: &mut Editor, keys: &[u8]) -> (Outcome, String) {
        let mut show = Vec::new();
        let mut last = Outcome::More;
        for &key in keys {
            last = editor.key(key, &mut show);
        }
        (last, screen(&show))
    }

    /// The line that a terminal would show, up to the last line feed.
    fn screen(bytes: &[u8]) -> String {
        let (mut line, mut at) = (Vec::new(), 0);
        for c in core::str::from_utf8(bytes).unwrap().chars() {
            match c {
                '\x08' => at -= 1,
                '\n' => {}
                _ => {
                    // The second column of a wide one is empty.
                    let end = at + width(c);
                    line.resize(line.len().max(end), ' ');
                    line[at..end].fill('\0');
                    line[at] = c;
                    at = end;
                }
            }
        }
        let line: String = line.into_iter().filter(|&c| c != '\0').collect();
        line.trim_end().into()
    }

    fn line(keys: &[u8]) -> String {
        let (outcome, shown) = type_in(&mut Editor::new(), keys);
        let Outcome::Line(line) = outcome else {
            panic!("no line: {outcome:?}")
        };
        assert_eq!(line.trim_end(), shown, "the screen shows what is typed");
        line
    }

    #[test]
    fn keys_are_shown_and_returned() {
        assert_eq!(line(b"help\r"), "help");
        assert_eq!(line(b"help\n"), "help");
    }

    #[test]
    fn return_and_line_feed_together_end_one_line() {
        let mut editor = Editor::new();
        type_in(&mut editor, b"a\r");
        assert_eq!(type_in(&mut editor, b"\n").0, Outcome::More);
        let two = type_in(&mut editor, b"\n").0;
        assert_eq!(two, Outcome::Line(String::new()));
    }

    #[test]
    fn erasing_takes_characters_words_and_lines() {
        assert_eq!(line(b"lx\x7fs\r"), "ls");
        assert_eq!(line(b"cat  a b \x17c\r"), "cat  a c");
        assert_eq!(line(b"rubbish\x15ls\r"), "ls");
        assert_eq!(line(b"\x7f\x7f\x15\x17ls\r"), "ls");
    }

    #[test]
    fn keys_go_in_where_the_cursor_is() {
        assert_eq!(line(b"ac\x1b[Db\r"), "abc");
        assert_eq!(line(b"bc\x01a\x05d\r"), "abcd");
        assert_eq!(line(b"abxc\x1b[D\x1b[D\x1b[3~\r"), "abc");
        assert_eq!(line(b"abcdef\x1bOH\x1b[C\x0b\r"), "a");
        assert_eq!(line(b"ab\x1b[D\x1b[D\x1b[D\x1b[C\x1b[C\x1b[Cc\r"), "abc");
    }

    #[test]
    fn the_arrows_find_older_lines_and_come_back() {
        let mut editor = Editor::new();
        type_in(&mut editor, b"one\rtwo\rtwo\r");
        let (outcome, shown) = type_in(&mut editor, b"xyz\x1b[A\x1b[A\r");
        assert_eq!(outcome, Outcome::Line("one".into()));
        assert_eq!(shown, "one");
        let (outcome, _) = type_in(&mut editor, b"\x1b[A\x1b[A\x1b[B\r");
        assert_eq!(outcome, Outcome::Line("one".into()));
        let (outcome, _) = type_in(&mut editor, b"\x1b[A\x1b[Bnew\r");
        assert_eq!(outcome, Outcome::Line("new".into()));
    }

    #[test]
    fn control_c_forgets_the_line_and_control_d_ends() {
        let mut editor = Editor::new();
        let (outcome, shown) = type_in(&mut editor, b"oops\x03");
        assert_eq!((outcome, &*shown), (Outcome::Interrupt, "oops^C"));
        assert_eq!(type_in(&mut editor, b"\x1b[A\r").0, {
            Outcome::Line(String::new())
        });
        let keys = b"a\x04\x7f\x04";
        assert_eq!(type_in(&mut editor, &keys[..2]).0, Outcome::More);
        let outcomes = type_in(&mut Editor::new(), keys);
        assert_eq!(outcomes.0, Outcome::End);
    }

    #[test]
    fn an_endless_line_stops_growing() {
        let keys = [b'x'; 3 * LONGEST];
        let mut editor = Editor::new();
        type_in(&mut editor, &keys);
        let (outcome, _) = type_in(&mut editor, b"\r");
        assert_eq!(outcome, Outcome::Line("x".repeat(LONGEST)));
    }

    #[test]
    fn characters_of_several_bytes_are_one() {
        assert_eq!(line("gr\u{fc}\u{df}e\r".as_bytes()), "gr\u{fc}\u{df}e");
        assert_eq!(line("\u{fc}\u{20ac}\x7f\x7fa\r".as_bytes()), "a");
        assert_eq!(line("a\u{20ac}c\x1b[D\x1b[Db\r".as_bytes()), "ab\u{20ac}c");
        assert_eq!(line("\u{e4}\u{f6}\x01\x1b[3~x\r".as_bytes()), "x\u{f6}");
        assert_eq!(line("\u{e4} \u{f6}\u{fc}\x17z\r".as_bytes()), "\u{e4} z");
        // Two columns each, and back over both of them.
        let wide = "\u{6f22}\u{5b57}\x1b[D\x7fx\r";
        assert_eq!(line(wide.as_bytes()), "x\u{5b57}");
        assert_eq!(line("\u{1f600}\u{e9}\x01\x04\r".as_bytes()), "\u{e9}");
    }

    #[test]
    fn half_a_character_is_none() {
        assert_eq!(line(b"a\xe2\x82b\r"), "ab");
        assert_eq!(line(b"\x80\xc3\xc3\xa9\xf8\xc0\xaf\r"), "\u{e9}");
    }

    #[test]
    fn unknown_bytes_do_nothing() {
        assert_eq!(line(b"a\x00\x1b[5~\x1bz\xff\xc3b\r"), "ab");
    }
}
