//! The imports and re-exports of a source file, as lists of path segments.
//!
//! This is no compiler. It leaves out comments, strings and the tests at the
//! end of a file. It splits `use` trees, and takes every other `a::b` as a
//! path.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

/// The beginning of the comment above a `use` that is left out. The reason
/// follows.
pub(super) const MARK: &str = "// circle: ";

/// The line above a file's tests.
const TESTS: &str = "#[cfg(test)]\n";

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    /// A comment that begins with [`MARK`].
    Excuse,
    Other(char),
}

/// What a file imports and re-exports.
#[derive(Default)]
pub(super) struct Uses {
    /// Paths to things that the file needs.
    pub(super) imports: Vec<Vec<String>>,
    /// Names that it re-exports (`*` for all of a module), and their paths.
    pub(super) exports: Vec<(String, Vec<String>)>,
}

/// The imports and re-exports of a file that is not a test.
///
/// A re-export is not an import, unless the file itself has the name elsewhere.
pub(super) fn uses(text: &str) -> Uses {
    let mut tokens = tokens(without_tests(text)).into_iter().peekable();
    let mut uses = Uses::default();
    let mut words = BTreeSet::new();
    let (mut excused, mut public) = (false, false);
    let mut inline = Inline::default();
    while let Some(token) = tokens.next() {
        match token {
            Token::Excuse => excused = true,
            Token::Word(word) if word == "pub" => {
                public = true;
                visibility(&mut tokens);
                continue;
            }
            Token::Word(word) if word == "use" => {
                let mut tree = Vec::new();
                use_tree(&mut tokens, &[], &mut tree);
                for (_, path) in &mut tree {
                    inline.leave(path);
                }
                if std::mem::take(&mut excused) {
                } else if public {
                    uses.exports.append(&mut tree);
                } else {
                    uses.imports.extend(tree.into_iter().map(|(_, p)| p));
                }
            }
            Token::Word(word) => {
                let mut path = vec![word];
                extend(&mut tokens, &mut path);
                words.extend(path.iter().cloned());
                if path == ["mod"] {
                    inline.enter(&mut tokens);
                } else if path.len() > 1 {
                    inline.leave(&mut path);
                    uses.imports.push(path);
                }
            }
            Token::Other(sign) => inline.count(sign),
            Token::Path => {}
        }
        public = false;
    }
    let needed = uses.exports.iter().filter(|(name, _)| words.contains(name));
    uses.imports.extend(needed.map(|(_, path)| path.clone()));
    uses
}

/// The text before the tests at the end of the file. They may have any
/// visibility.
fn without_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(at) = text[from..].find(TESTS) {
        let line = &text[from + at + TESTS.len()..];
        let line = line.lines().next().unwrap_or_default();
        if line.starts_with("mod ")
            || line.starts_with("pub") && line.contains(" mod ")
        {
            return &text[..from + at];
        }
        from += at + TESTS.len();
    }
    text
}

/// The modules within the file around the current token. There, `super` is the
/// file or another module in it.
#[derive(Default)]
struct Inline {
    braces: usize,
    /// How many braces were open when each of them began.
    modules: Vec<usize>,
}

impl Inline {
    /// After the word `mod`.
    fn enter(&mut self, tokens: &mut Peekable<IntoIter<Token>>) {
        tokens.next();
        if tokens.next_if_eq(&Token::Other('{')).is_some() {
            self.modules.push(self.braces);
            self.braces += 1;
        }
    }

    fn count(&mut self, sign: char) {
        match sign {
            '{' => self.braces += 1,
            '}' => {
                self.braces = self.braces.saturating_sub(1);
                self.modules.pop_if(|braces| *braces == self.braces);
            }
            _ => {}
        }
    }

    /// Takes a path as one that begins in the file's own module.
    fn leave(&self, path: &mut Vec<String>) {
        let supers = path.iter().take_while(|word| *word == "super").count();
        let inside = supers.min(self.modules.len());
        path.drain(..inside);
        if inside > 0 && inside == supers {
            path.insert(0, "self".into());
        }
    }
}

/// Skips the brackets after `pub`.
fn visibility(tokens: &mut Peekable<IntoIter<Token>>) {
    if tokens.next_if_eq(&Token::Other('(')).is_some() {
        for token in tokens.by_ref() {
            if token == Token::Other(')') {
                return;
            }
        }
    }
}

/// Adds the segments that follow.
fn extend(tokens: &mut Peekable<IntoIter<Token>>, path: &mut Vec<String>) {
    while tokens.next_if_eq(&Token::Path).is_some() {
        match tokens.peek() {
            Some(Token::Word(word)) => path.push(word.clone()),
            _ => return,
        }
        tokens.next();
    }
}

/// Splits one branch of a `use`, up to the comma or semicolon after it.
fn use_tree(
    tokens: &mut Peekable<IntoIter<Token>>,
    before: &[String],
    found: &mut Vec<(String, Vec<String>)>,
) {
    let mut path = before.to_vec();
    if let Some(Token::Word(word)) = tokens.peek() {
        path.push(word.clone());
        tokens.next();
        extend(tokens, &mut path);
    }
    if tokens.next_if_eq(&Token::Other('{')).is_some() {
        while tokens.next_if_eq(&Token::Other('}')).is_none() {
            use_tree(tokens, &path, found);
            tokens.next_if_eq(&Token::Other(','));
            if tokens.peek().is_none() {
                return;
            }
        }
        return;
    }
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let mut name = path.last().cloned().unwrap_or_default();
    let ends = [',', ';', '}'].map(Token::Other);
    while tokens.peek().is_some_and(|token| !ends.contains(token)) {
        match tokens.next() {
            Some(Token::Other('*')) => name = "*".into(),
            Some(Token::Word(word)) if word != "as" => name = word,
            _ => {}
        }
    }
    found.push((name, path));
}

/// The text as words and signs.
fn tokens(text: &str) -> Vec<Token> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            if rest.starts_with(MARK) {
                all.push(Token::Excuse);
            }
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            all.push(Token::Path);
            2
        } else if let Some(len) = raw_string(rest) {
            len
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character(rest)
        } else if is_part(first) {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            all.push(Token::Word(rest[..end].to_owned()));
            end
        } else {
            if !first.is_whitespace() {
                all.push(Token::Other(first));
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    all
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a raw string, if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let marks = text.strip_prefix('r')?;
    let count = marks.len() - marks.trim_start_matches('#').len();
    let inside = marks[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let head = 2 + count;
    Some(
        inside
            .find(&end)
            .map_or(text.len(), |at| head + at + end.len()),
    )
}

/// The length of a text between two such signs, both included.
fn quoted(text: &str, sign: char) -> usize {
    let mut escaped = true; // the first one opens
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == sign => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character, or of the sign of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let imports = uses(text).imports;
        imports.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_taken_apart() {
        let text = "use crate::{a, b::{self, C as D}, e::*};\nuse f;\n\
                    use super::g::H;\n";
        let expected = ["crate::a", "crate::b", "crate::b::C", "crate::e", "f"];
        let found = read(text);
        assert_eq!(found[..5], expected);
        assert_eq!(found[5..], ["super::g::H"]);
    }

    #[test]
    fn comments_strings_and_tests_have_no_paths() {
        let text = "// crate::a\nlet x = \"crate::b \\\" crate::c\";\n\
                    let y = r#\"crate::d\"#; let z = ('\"', '\\'', 'e');\n\
                    fn f<'a>() { crate::g::h(); i::<u8>(j::K) }\n\
                    #[cfg(test)]\nmod tests { use super::*; }\n";
        assert_eq!(read(text), ["crate::g::h", "j::K"]);
    }

    #[test]
    fn tests_of_any_visibility_are_left_out() {
        let text = "#[cfg(test)]\nuse a::b;\nuse c::d;\n\
                    #[cfg(test)]\npub(super) mod tests { use e::f; }\n";
        assert_eq!(read(text), ["a::b", "c::d"]);
    }

    #[test]
    fn modules_within_the_file_are_the_file() {
        let text = "mod a { use super::B; mod c { use super::super::super::D; }\n\
                    fn f() { if x {} } use super::super::E; }\nuse super::F;\n";
        let found = read(text);
        assert_eq!(found[..2], ["self::B", "super::D"]);
        assert_eq!(found[2..], ["super::E", "super::F"]);
    }

    #[test]
    fn a_use_with_an_excuse_is_left_out() {
        let text = "// circle: a reason\nuse super::a;\nuse super::b;\n";
        assert_eq!(read(text), ["super::b"]);
    }
}
