//! The name of a machine, which is also the name of its folder.
//!
//! A name is checked once, where it comes from: a command line, a file, or the
//! list of folders.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest name. The path of a machine's socket contains it, and such paths
/// have 107 bytes at most.
const LONGEST: usize = 48;

/// A name that is safe as the name of a folder and on a terminal.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    /// What a machine without a name is called where it needs one.
    fn default() -> Self {
        Self("guest".into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric();
        let may = |c: char| plain(c) || "-_.".contains(c);
        let good = text.starts_with(plain)
            && text.chars().all(may)
            && !text.contains("..")
            && text.len() <= LONGEST;
        if good {
            return Ok(Self(text));
        }
        Err(format!(
            "a name has up to {LONGEST} of the characters a-z, A-Z, 0-9, '-', \
             '_' and '.', begins with a letter or a digit, and has no two \
             dots in a row"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_names_of_folders() {
        for good in ["web", "a", "7", "web-2.example_x", &"x".repeat(48)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "x".repeat(49);
        let bad = [
            "", ".", "..", "a/b", "/", "-a", ".a", "a..b", "a b", "a\n",
            "\u{e4}", "a\0", &long,
        ];
        for bad in bad {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
