//! A folder that is complete takes the place of another.
//!
//! Both are exchanged in one step. Some file systems cannot do that: there the
//! old folder is moved aside first. A command that is killed between the two
//! steps leaves nothing in the place, and [`settle`] moves the old folder back.
//! A command that is killed after them leaves the old folder aside, and the
//! next replacement removes it. The new folder is locked by the command that
//! fills it, so that others know whether that command still runs.

use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with,
};
use rustix::io::Errno;
use std::fs::{File, rename};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How often, and after which pause, a place is looked at that has nothing for
/// a moment.
const LOOKS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// Puts the folder `new`, which the caller has locked, in the place of the
/// folder `place`, and removes the old one. Where it is moved aside, it is
/// `aside` for a moment.
pub(crate) fn replace(
    new: &Path,
    place: &Path,
    aside: &Path,
) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => {
            // It is of no use any more.
            let _ = std::fs::remove_dir_all(new);
            Ok(())
        }
        // Some file systems do not support it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            in_two_steps(new, place, aside)
        }
        Err(error) => Err(error.into()),
    }
}

fn in_two_steps(new: &Path, place: &Path, aside: &Path) -> io::Result<()> {
    // A killed command may have left a folder there. rename(2) does not replace
    // a folder that has files. The lock keeps other commands out.
    if is_ours(aside) {
        std::fs::remove_dir_all(aside)?;
    }
    rename(place, aside)?;
    if let Err(error) = rename(new, place) {
        // If this fails, too, the next command does it.
        let _ = rename(aside, place);
        return Err(error);
    }
    let _ = std::fs::remove_dir_all(aside);
    Ok(())
}

/// Whether there is something at `place`. If a command was killed while it
/// replaced that by the folder `new`, the old folder `aside` is moved back. If
/// a command replaces it now, this waits for a moment.
pub(crate) fn settle(place: &Path, new: &Path, aside: &Path) -> bool {
    settle_in(LOOKS, place, new, aside)
}

/// [`settle`], with so many looks.
fn settle_in(looks: u32, place: &Path, new: &Path, aside: &Path) -> bool {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    for _ in 0..looks {
        if is_there(place) {
            return true;
        }
        if !is_ours(aside) {
            // The command may have finished between the two looks.
            return is_there(place);
        }
        if !is_locked(new) {
            // This fails if another command was faster.
            let _ = rename(aside, place);
            return is_there(place);
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// Whether `path` is a folder of this user. Others may make files beside it.
fn is_ours(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    path.symlink_metadata()
        .is_ok_and(|found| found.is_dir() && found.uid() == user)
}

/// Whether a command has locked the folder at `path`.
fn is_locked(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Ok(folder) = open(path, flags | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let folder = File::from(folder);
    let locked = flock(&folder, FlockOperation::NonBlockingLockShared);
    locked == Err(Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// The folders `new`, `place` and `aside` of a test, and that around them.
    struct Folders([PathBuf; 3], PathBuf);

    impl Folders {
        fn new(name: &str) -> Self {
            let name = format!("lguest-replace-{name}-{}", std::process::id());
            let around = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&around);
            let all = ["new", "place", "aside"].map(|name| around.join(name));
            for folder in &all[..2] {
                std::fs::create_dir_all(folder).unwrap();
                let text = folder.file_name().unwrap().as_encoded_bytes();
                std::fs::write(folder.join("text"), text).unwrap();
            }
            Self(all, around)
        }

        fn settle(&self) -> bool {
            let [new, place, aside] = &self.0;
            settle(place, new, aside)
        }

        /// Moves the old folder aside, as a command that still runs does.
        fn begin(&self) -> File {
            let [new, place, aside] = &self.0;
            let lock = File::open(new).unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            rename(place, aside).unwrap();
            lock
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.0[1].join("text")).unwrap_or_default()
        }
    }

    impl Drop for Folders {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }

    #[test]
    fn a_folder_is_replaced_in_one_step_and_in_two() {
        for step in [replace, in_two_steps] {
            let folders = Folders::new("steps");
            let [new, place, aside] = &folders.0;
            step(new, place, aside).unwrap();
            assert_eq!(folders.text(), "new");
            assert!(!new.exists() && !aside.exists());
        }
    }

    #[test]
    fn the_old_folder_comes_back_if_the_new_one_cannot_be_moved() {
        let folders = Folders::new("fails");
        let [new, place, aside] = &folders.0;
        std::fs::remove_dir_all(new).unwrap();
        assert!(in_two_steps(new, place, aside).is_err());
        assert_eq!(folders.text(), "place");
        assert!(!aside.exists());
    }

    #[test]
    fn the_old_folder_comes_back_after_a_killed_command() {
        let folders = Folders::new("killed");
        let [new, place, aside] = &folders.0;
        rename(place, aside).unwrap();
        assert!(folders.settle());
        assert_eq!(folders.text(), "place");
        // Nothing is made of nothing, or of a file of that name.
        std::fs::remove_dir_all(place).unwrap();
        assert!(!folders.settle());
        std::fs::write(aside, "").unwrap();
        assert!(!folders.settle());
        assert!(new.exists());
    }

    #[test]
    fn an_old_folder_that_a_killed_command_has_left_is_removed() {
        let folders = Folders::new("left");
        let [new, place, aside] = &folders.0;
        std::fs::create_dir_all(aside.join("more")).unwrap();
        std::fs::write(aside.join("text"), "left").unwrap();
        in_two_steps(new, place, aside).unwrap();
        assert_eq!(folders.text(), "new");
        assert!(!new.exists() && !aside.exists());
        // But nothing else that has this name.
        std::fs::create_dir(new).unwrap();
        std::fs::write(aside, "mine").unwrap();
        assert!(in_two_steps(new, place, aside).is_err());
        assert_eq!(folders.text(), "new");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "mine");
    }

    #[test]
    fn a_reader_waits_for_a_command_that_is_between_two_steps() {
        let folders = Folders::new("waits");
        let [new, place, aside] = &folders.0;
        let _lock = folders.begin();
        std::thread::scope(|scope| {
            // It does not give up, however long this thread has no processor.
            let reader = scope.spawn(|| settle_in(u32::MAX, place, new, aside));
            std::thread::sleep(20 * PAUSE);
            assert!(!reader.is_finished());
            rename(new, place).unwrap();
            assert!(reader.join().unwrap());
        });
        assert_eq!(folders.text(), "new");
    }

    #[test]
    fn a_reader_does_not_wait_for_ever() {
        let folders = Folders::new("for-ever");
        let [new, place, aside] = &folders.0;
        let _lock = folders.begin();
        assert!(!settle_in(3, place, new, aside));
        assert!(!place.exists() && aside.exists());
    }
}
