//! Users by name: `/etc/passwd` and `/etc/group`, as Docker reads them.
//!
//! A user is a name or a number, and may have a group after a colon. A number
//! needs no line in the files. There is no C library, so nothing but these
//! files is asked.

use crate::files;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Files with more than this are not read.
const FILE_MOST: usize = 4 << 20;

/// A user, as the kernel knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The user's number.
    pub user: u32,
    /// The group's.
    pub group: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The folder of the user.
    pub home: Option<String>,
}

/// Looks up a user. `None`: there is no such user or group.
#[must_use]
pub fn find(words: &str) -> Option<Who> {
    let text = |path| {
        let bytes = files::read(path, FILE_MOST).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    look_up(words, &text(c"/etc/passwd"), &text(c"/etc/group"))
}

fn look_up(words: &str, passwd: &str, group: &str) -> Option<Who> {
    let (user, named) = match words.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (words, None),
    };
    let number = user.parse::<u32>().ok();
    let line = passwd.lines().find_map(|line| {
        let line = Line::of(line)?;
        let same = line.name == user || number == Some(line.number);
        same.then_some(line)
    });
    let mut who = match (&line, number) {
        (Some(line), _) => Who {
            user: line.number,
            group: line.rest.first()?.parse().ok()?,
            groups: Vec::new(),
            home: line.rest.get(2).map(ToString::to_string),
        },
        (None, Some(number)) => Who {
            user: number,
            ..Who::default()
        },
        (None, None) => return None,
    };
    match (named, line) {
        (Some(named), _) => {
            let number = named.parse().ok();
            let lines = group.lines().filter_map(Line::of);
            let found = lines.into_iter().find(|line| line.name == named);
            who.group = found.map(|line| line.number).or(number)?;
        }
        (None, Some(line)) => {
            let groups = group.lines().filter_map(Line::of).filter(|group| {
                let members = group.rest.first().copied().unwrap_or_default();
                members.split(',').any(|name| name == line.name)
            });
            who.groups = groups.map(|group| group.number).collect();
        }
        (None, None) => {}
    }
    Some(who)
}

/// A line of either file: a name, its number, and what comes after.
struct Line<'a> {
    name: &'a str,
    number: u32,
    rest: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        Some(Self {
            name,
            number: fields.next()?.parse().ok()?,
            rest: fields.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          broken\n\
                          me:x:1000:100:Me:/srv/me:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\n\
                         audio:x:29:you,me\nvideo:x:44:me\n";

    fn numbers(words: &str) -> Option<(u32, u32, Vec<u32>)> {
        let who = look_up(words, PASSWD, GROUP)?;
        Some((who.user, who.group, who.groups))
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(numbers("me"), Some((1000, 100, vec![29, 44])));
        assert_eq!(numbers("1000"), Some((1000, 100, vec![29, 44])));
        assert_eq!(numbers("me:audio"), Some((1000, 29, vec![])));
        assert_eq!(numbers("me:7"), Some((1000, 7, vec![])));
        assert_eq!(numbers("5"), Some((5, 0, vec![])));
        assert_eq!(numbers("5:6"), Some((5, 6, vec![])));
        let home = look_up("me", PASSWD, GROUP).unwrap().home;
        assert_eq!(home.as_deref(), Some("/srv/me"));
    }

    #[test]
    fn what_does_not_exist_is_not_found() {
        for words in ["you", "me:none", "", ":", "-1", "4294967296", "broken"] {
            assert_eq!(numbers(words), None, "{words}");
        }
        assert_eq!(look_up("root", "", ""), None);
    }
}
