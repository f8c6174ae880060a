//! Prose: comments in sources, and documents.
//!
//! A paragraph is a run of lines that belong together. Code between backticks
//! and quotations are blanked out.

/// A paragraph, and the number of its first line.
pub(super) struct Paragraph {
    pub(super) line: usize,
    /// As many lines as in the file.
    pub(super) text: String,
}

/// The paragraphs of a file. Its name decides how it is read.
pub(super) fn paragraphs(path: &str, text: &str) -> Vec<Paragraph> {
    let mut all = Paragraphs::default();
    if path.ends_with(".rs") {
        let mut code = false;
        for (n, line) in text.lines().enumerate() {
            let words = comment(line);
            let fence = words.is_some_and(|line| line.starts_with("```"));
            code = words.is_some() && code != fence;
            all.add(n + 1, words.filter(|_| !code && !fence));
        }
    } else {
        let mut code = false;
        for (n, line) in text.lines().enumerate() {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            let skip = code || fence || line.starts_with("    ");
            let heading = line.starts_with('#');
            all.add(n + 1, (!skip && !heading).then_some(line));
        }
    }
    all.end();
    all.done
}

/// The text of a line that holds only a comment.
fn comment(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.trim_start_matches(['/', '!']).trim_start())
}

#[derive(Default)]
struct Paragraphs {
    done: Vec<Paragraph>,
    first: usize,
    open: Vec<String>,
}

impl Paragraphs {
    fn add(&mut self, number: usize, line: Option<&str>) {
        let line = line.unwrap_or_default().trim();
        if line.is_empty() || line.starts_with(['|', '-', '*', '#']) {
            self.end();
        }
        if line.starts_with('|') {
            for cell in line.split('|').filter(|cell| !cell.is_empty()) {
                self.push(number, cell.trim());
                self.end();
            }
        } else if !line.is_empty() {
            self.push(number, line);
        }
    }

    fn push(&mut self, number: usize, line: &str) {
        if self.open.is_empty() {
            self.first = number;
        }
        self.open.push(line.to_owned());
    }

    fn end(&mut self) {
        if !self.open.is_empty() {
            let text = self.open.join("\n");
            self.open.clear();
            self.done.push(Paragraph {
                line: self.first,
                text: blanked(&text),
            });
        }
    }
}

/// The text with the parts between backticks or quotation marks blanked. The
/// number of lines stays the same.
fn blanked(text: &str) -> String {
    let mut inside = None;
    let blank = |c: char| if c == '\n' { c } else { '`' };
    text.chars()
        .map(|c| match inside {
            Some(quote) => {
                if c == quote {
                    inside = None;
                }
                blank(c)
            }
            None if c == '`' || c == '"' => {
                inside = Some(c);
                blank(c)
            }
            None => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, text: &str) -> Vec<(usize, String)> {
        let all = paragraphs(path, text).into_iter();
        all.map(|p| (p.line, p.text)).collect()
    }

    #[test]
    fn comments_are_joined_and_code_is_left_out() {
        let text = "//! One `Two`\n//! \"Three\" four.\n//!\n//! Five.\n\
                    let x = 1; // six\n    /// Seven.\n";
        let found = read("a.rs", text);
        let one = "One `````\n``````` four.".to_owned();
        assert_eq!(
            found,
            [(1, one), (4, "Five.".into()), (6, "Seven.".into())]
        );
    }

    #[test]
    fn documents_have_cells_items_and_blocks_of_code() {
        let text = "# Title\nOne\ntwo.\n- three\n\n```\nfour\n```\n\
                    | five | six |\n";
        let found = read("a.md", text);
        let texts: Vec<_> = found.iter().map(|(_, t)| t.as_str()).collect();
        assert_eq!(texts, ["One\ntwo.", "- three", "five", "six"]);
        let lines: Vec<_> = found.iter().map(|(n, _)| *n).collect();
        assert_eq!(lines, [2, 4, 9, 9]);
    }
}
