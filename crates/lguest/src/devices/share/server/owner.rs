//! Owners of files, as the Guest sees them.
//!
//! The server acts as the Launcher's user, with no more rights. In the Guest
//! that user's files are root's, because its root is who acts. All other owners
//! are shown as nobody.

use rustix::fs::Stat;

/// Root in the Guest, and every user and group but ours.
const ROOT: u32 = 0;
const NOBODY: u32 = 65534;

/// The user and the group that the server acts as.
pub(super) struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    pub(super) fn ours() -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        }
    }

    /// The owner and the group of a file as the Guest sees them.
    pub(super) fn shown(&self, stat: &Stat) -> (u32, u32) {
        let shown = |id, ours| if id == ours { ROOT } else { NOBODY };
        (
            shown(stat.st_uid, self.user),
            shown(stat.st_gid, self.group),
        )
    }
}
