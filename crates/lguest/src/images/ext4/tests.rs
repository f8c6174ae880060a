//! Tests of the commands for `debugfs`. Whole file systems are tested where
//! the program is.

use super::*;
use crate::images::tree::Content;

/// The words of a line, as e2fsprogs takes them apart.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut at = line.iter().copied().peekable();
    while let Some(&byte) = at.peek() {
        if byte == b' ' {
            at.next();
            continue;
        }
        let (mut word, mut quoted) = (Vec::new(), false);
        while let Some(&byte) = at.peek() {
            match byte {
                b' ' if !quoted => break,
                b'"' => {
                    at.next();
                    if quoted && at.peek() == Some(&b'"') {
                        word.push(b'"');
                        at.next();
                    } else {
                        quoted = !quoted;
                    }
                    continue;
                }
                byte => word.push(byte),
            }
            at.next();
        }
        words.push(word);
    }
    words
}

fn script(tree: &Tree) -> Result<Vec<Vec<Vec<u8>>>, Ext4Error> {
    let mut script = Script::new(tree, Vec::new());
    script.all()?;
    let lines = script.to.split(|&byte| byte == b'\n');
    Ok(lines.map(words).filter(|line| !line.is_empty()).collect())
}

#[test]
fn a_name_is_one_word_and_never_a_command() {
    let hostile = [
        "a b",
        "\"",
        "\"\"",
        "x\" ; rm etc",
        "!reboot",
        "#comment",
        "<5>",
        "-f",
        "tab\there",
        "back\\slash",
    ];
    let mut tree = Tree::default();
    let content = Content {
        number: 7,
        bytes: 1,
    };
    for name in hostile {
        let path = format!("{name}/{name}");
        let meta = Meta::root(0o600);
        tree.put(path.as_bytes(), meta, Kind::File(content))
            .unwrap();
        let link = Kind::Link(name.as_bytes().to_vec());
        tree.put(format!("l{name}").as_bytes(), meta, link).unwrap();
    }
    let known = ["cd", "mkdir", "write", "symlink", "sif"];
    let all = script(&tree).unwrap();
    for line in &all {
        let command = String::from_utf8_lossy(&line[0]).into_owned();
        assert!(known.contains(&&*command), "{command}");
        let wanted = match &*command {
            "cd" | "mkdir" => 2,
            "write" | "symlink" => 3,
            _ => 4,
        };
        assert_eq!(line.len(), wanted, "{command}");
    }
    for name in hostile {
        let written = [b"write".to_vec(), b"7".to_vec(), name.into()];
        assert!(all.contains(&written.to_vec()), "{name}");
        let here = format!("./{name}").into_bytes();
        assert!(all.contains(&vec![b"mkdir".to_vec(), here]), "{name}");
    }
}

#[test]
fn a_path_that_makes_a_line_too_long_is_refused() {
    let mut tree = Tree::default();
    let part = "\"".repeat(250);
    let mut path = String::new();
    for _ in 0..14 {
        path.push_str(&part);
        path.push('/');
    }
    // Links lead to a longer path than a name may be.
    let target = Kind::Link(path.clone().into_bytes());
    tree.put(path.as_bytes(), Meta::root(0o755), Kind::folder())
        .unwrap();
    tree.put(b"far", Meta::root(0o777), target).unwrap();
    let deep = format!("far/{part}/{part}/{part}");
    tree.put(deep.as_bytes(), Meta::root(0o755), Kind::folder())
        .unwrap();
    let error = script(&tree).unwrap_err();
    assert!(matches!(error, Ext4Error::Path(_)), "{error}");
}

#[test]
fn a_hard_link_has_the_owner_of_its_file_and_counts() {
    let mut tree = Tree::default();
    let content = Content {
        number: 3,
        bytes: 1,
    };
    let meta = Meta {
        mode: 0o4755,
        user: 70_000,
        group: 8,
        time: 9,
    };
    tree.put(b"a", meta, Kind::File(content)).unwrap();
    tree.link(b"d/b", b"a").unwrap();
    let all = script(&tree).unwrap();
    let lines: Vec<_> = all
        .iter()
        .map(|line| String::from_utf8(line.join(&b' ')).unwrap())
        .collect();
    for line in [
        "write 3 a",
        "sif ./a mode 0104755",
        "sif ./a uid 70000",
        "sif ./a mtime @9",
        "sif ./a links_count 2",
        "ln /a ./b",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}: {lines:?}");
    }
}
