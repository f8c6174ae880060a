//! The folders of images, and the place where they are.
//!
//! The place is `lguest/images` below `$XDG_DATA_HOME`, or below
//! `~/.local/share` where that is not set. Only its owner gets into it. An
//! image's folder has its name, and these files:
//!
//! - `disk.img`: the disk, which is never written to again;
//! - `kernel`;
//! - `image.toml`: the [`Recipe`];
//! - `kept-NAME.qcow2`: changes that a run has kept, above the disk;
//! - `warm`: a snapshot of a guest that waits for a command.
//!
//! An image is built in a hidden folder, which gets the name when it is
//! complete. A folder that is being filled is locked. A hidden folder without a
//! lock was left by a command that was killed. The next command removes it.

use super::error::ImageError;
use super::recipe::Recipe;
use crate::machines::Name;
use crate::replace::{replace, settle};
use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with,
};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The disk.
pub(super) const DISK: &str = "disk.img";
/// The kernel.
pub(super) const KERNEL: &str = "kernel";
/// The recipe.
pub(super) const RECIPE: &str = "image.toml";
/// The snapshot.
const WARM: &str = "warm";
/// How the name of a file of kept changes begins and ends.
const KEPT: (&str, &str) = ("kept-", ".qcow2");
/// How the name of a folder that is being filled ends.
const NEW: &str = ".new";
/// How the name of a folder that is being removed ends.
const OLD: &str = ".old";
/// How the name of a folder that is being replaced ends.
const ASIDE: &str = ".aside";
/// The most bytes of a recipe.
const MOST_RECIPE: u64 = 4 << 20;

/// The place where images are.
pub struct Place {
    path: PathBuf,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: Name,
    /// Its folder.
    pub path: PathBuf,
    /// How its guests are started.
    pub recipe: Recipe,
}

impl Stored {
    /// The image with this name.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuch`], and errors of its files.
    pub fn find(name: &Name) -> Result<Self, ImageError> {
        // Nothing is swept: this is a part of each `lguest exec`.
        let place = Place::found()?;
        let place = place.ok_or_else(|| ImageError::NoSuch(name.clone()))?;
        place.find(name)
    }

    /// The disk. It is only read.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.path.join(KERNEL)
    }

    /// The folder of the snapshot of a guest that waits for a command. It may
    /// not be there.
    #[must_use]
    pub fn warm(&self) -> PathBuf {
        self.path.join(WARM)
    }

    /// This image, if it has an agent.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoAgent`].
    pub fn with_agent(self) -> Result<Self, ImageError> {
        match self.recipe.agent.is_empty() {
            true => Err(ImageError::NoAgent(self.name)),
            false => Ok(self),
        }
    }

    /// The words of a command line that boots the image with the agent as its
    /// first process.
    #[must_use]
    pub fn boot_words(&self) -> Vec<OsString> {
        let init = format!("quiet init={}", self.recipe.agent);
        let words = ["run", "--agent", "--image", self.name.as_str()];
        let words = words.into_iter().chain(["--append", &init]);
        words.map(OsString::from).collect()
    }

    /// The file of the changes that are kept by this name.
    #[must_use]
    pub fn kept(&self, name: &Name) -> PathBuf {
        self.path.join(format!("{}{name}{}", KEPT.0, KEPT.1))
    }

    /// The names of changes that are kept.
    ///
    /// # Errors
    ///
    /// Its folder cannot be listed.
    pub fn all_kept(&self) -> Result<Vec<Name>, ImageError> {
        kept_in(&self.path)
    }

    /// Bytes that its files have on the disk of this machine.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        fn below(path: &Path, depth: u8) -> u64 {
            let Ok(found) = path.symlink_metadata() else {
                return 0;
            };
            let mut bytes = found.blocks() * 512;
            if found.is_dir()
                && depth > 0
                && let Ok(files) = std::fs::read_dir(path)
            {
                let files = files.flatten().map(|file| file.path());
                bytes += files.map(|path| below(&path, depth - 1)).sum::<u64>();
            }
            bytes
        }
        below(&self.path, 2)
    }
}

/// The names of changes that are kept in the folder of an image.
fn kept_in(path: &Path) -> Result<Vec<Name>, ImageError> {
    let failed = |error| ImageError::Place {
        path: path.into(),
        error,
    };
    let mut names = Vec::new();
    for file in std::fs::read_dir(path).map_err(failed)? {
        let file = file.map_err(failed)?.file_name();
        let name = file
            .to_str()
            .and_then(|file| file.strip_prefix(KEPT.0)?.strip_suffix(KEPT.1));
        names.extend(name.and_then(|name| name.parse().ok()));
    }
    names.sort();
    Ok(names)
}

/// Where the place is.
fn path() -> Result<PathBuf, ImageError> {
    let set = |name: &str| {
        let value = PathBuf::from(std::env::var_os(name)?);
        value.is_absolute().then_some(value)
    };
    let data = set("XDG_DATA_HOME");
    let data = data.or_else(|| Some(set("HOME")?.join(".local/share")));
    Ok(data.ok_or(ImageError::NoHome)?.join("lguest/images"))
}

impl Place {
    /// The place, if there is one, without what killed commands have left.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotOurs`], [`ImageError::Place`].
    pub fn existing() -> Result<Option<Self>, ImageError> {
        let place = Self::found()?;
        if let Some(place) = &place {
            place.sweep();
        }
        Ok(place)
    }

    /// The place as it is, if there is one.
    fn found() -> Result<Option<Self>, ImageError> {
        let path = path()?;
        match check(&path) {
            Err(ImageError::Place { error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(Some(Self { path })),
        }
    }

    /// The place, which is made if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::existing`].
    pub fn make() -> Result<Self, ImageError> {
        let path = path()?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| ImageError::Place {
            path: path.clone(),
            error,
        })?;
        check(&path)?;
        let place = Self { path };
        place.sweep();
        Ok(place)
    }

    /// The image with this name.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuch`], and errors of its files.
    pub fn find(&self, name: &Name) -> Result<Stored, ImageError> {
        let found = self.read(name)?;
        found.ok_or_else(|| ImageError::NoSuch(name.clone()))
    }

    /// Reads the image with this name, if there is one.
    fn read(&self, name: &Name) -> Result<Option<Stored>, ImageError> {
        let path = self.path.join(name.as_str());
        if !self.settle(name) {
            return Ok(None);
        }
        check(&path)?;
        let file = path.join(RECIPE);
        let wrong = |why| ImageError::Recipe {
            path: file.clone(),
            why,
        };
        let mut text = String::new();
        File::open(&file)
            .and_then(|file| file.take(MOST_RECIPE).read_to_string(&mut text))
            .map_err(|error| wrong(error.to_string()))?;
        let recipe = Recipe::parse(&text).map_err(wrong)?;
        Ok(Some(Stored {
            name: name.clone(),
            path,
            recipe,
        }))
    }

    /// The names of all images, sorted.
    ///
    /// # Errors
    ///
    /// The place cannot be listed.
    pub fn names(&self) -> Result<Vec<Name>, ImageError> {
        let failed = |error| ImageError::Place {
            path: self.path.clone(),
            error,
        };
        let mut names = Vec::new();
        for file in std::fs::read_dir(&self.path).map_err(failed)? {
            let file = file.map_err(failed)?.file_name();
            let name = file.to_str().and_then(|name| name.parse().ok());
            names.extend(name);
        }
        names.sort();
        Ok(names)
    }

    /// Removes an image, also one whose recipe is damaged. Changes that are
    /// kept above it are removed only with `force`. Guests that run have its
    /// files open.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuch`], [`ImageError::Kept`], [`ImageError::Place`].
    pub fn remove(&self, name: &Name, force: bool) -> Result<(), ImageError> {
        let path = self.path.join(name.as_str());
        let failed = |error| ImageError::Place {
            path: path.clone(),
            error,
        };
        if path.symlink_metadata().is_err() {
            return Err(ImageError::NoSuch(name.clone()));
        }
        check(&path)?;
        if !force {
            self.check_kept(name)?;
        }
        let number = std::process::id();
        let old = self.path.join(format!(".{name}.{number}{OLD}"));
        std::fs::rename(&path, &old).map_err(failed)?;
        match std::fs::remove_dir_all(&old) {
            // A sweep of another command was faster.
            Err(_) if old.symlink_metadata().is_err() => Ok(()),
            removed => removed.map_err(failed),
        }
    }

    /// Checks that no changes are kept above an image. There may be no such
    /// image, and its recipe may be damaged.
    ///
    /// # Errors
    ///
    /// [`ImageError::Kept`], [`ImageError::Place`].
    pub(super) fn check_kept(&self, name: &Name) -> Result<(), ImageError> {
        let path = self.path.join(name.as_str());
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let kept = kept_in(&path)?;
        if kept.is_empty() {
            return Ok(());
        }
        let kept: Vec<_> = kept.iter().map(Name::as_str).collect();
        Err(ImageError::Kept(name.clone(), kept.join(", ")))
    }

    /// Whether there is a folder with this name. One that a killed command has
    /// moved aside comes back.
    fn settle(&self, name: &Name) -> bool {
        let place = self.path.join(name.as_str());
        settle(&place, &self.hidden(name, NEW), &self.hidden(name, ASIDE))
    }

    fn hidden(&self, name: &Name, end: &str) -> PathBuf {
        self.path.join(format!(".{name}{end}"))
    }

    /// Removes folders that were left by commands that were killed.
    fn sweep(&self) {
        let Ok(files) = std::fs::read_dir(&self.path) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = file.path();
            let aside = name.strip_prefix('.');
            let aside = aside.and_then(|name| name.strip_suffix(ASIDE));
            if let Some(name) = aside.and_then(|name| name.parse().ok()) {
                // It comes back if nothing has taken its place.
                if self.settle(&name) {
                    let _ = std::fs::remove_dir_all(&path);
                }
                continue;
            }
            let left = name.ends_with(NEW) || name.ends_with(OLD);
            if name.starts_with('.')
                && left
                && let Ok(Some(lock)) = try_lock(&path)
            {
                // Another command may be faster.
                let _ = std::fs::remove_dir_all(&path);
                drop(lock);
            }
        }
    }
}

/// Checks that the folder at `path` is this user's alone.
fn check(path: &Path) -> Result<(), ImageError> {
    let found = path.symlink_metadata();
    let found = found.map_err(|error| ImageError::Place {
        path: path.into(),
        error,
    })?;
    let wrong = |why| ImageError::NotOurs {
        path: path.into(),
        why,
    };
    if !found.is_dir() {
        return Err(wrong("it is no folder"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong("it belongs to another user"));
    }
    match found.mode() & 0o077 {
        0 => Ok(()),
        _ => Err(wrong("other users may enter it")),
    }
}

/// Locks a folder, unless another command has locked it or it has gone.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let lock = match open(path, flags | OFlags::CLOEXEC, Mode::empty()) {
        Ok(lock) => File::from(lock),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Another command may have moved or removed it meanwhile.
    let number = |found: std::fs::Metadata| (found.dev(), found.ino());
    let here = path.symlink_metadata().map(number).ok();
    let same = here == lock.metadata().map(number).ok();
    Ok(same.then_some(lock))
}

/// A folder that is being filled.
pub(super) struct New {
    name: Name,
    place: PathBuf,
    /// Where the old image may be for a moment while this one replaces it.
    aside: PathBuf,
    /// Where it is. `None` when it is in its place.
    path: Option<PathBuf>,
    replace: bool,
    /// Locked by the command that fills it.
    _lock: File,
}

impl New {
    /// Makes an empty folder for an image.
    ///
    /// # Errors
    ///
    /// [`ImageError::Exists`], [`ImageError::Busy`], [`ImageError::Place`].
    pub(super) fn begin(
        place: &Place,
        name: &Name,
        replace: bool,
    ) -> Result<Self, ImageError> {
        let there = place.path.join(name.as_str());
        if !replace && there.symlink_metadata().is_ok() {
            return Err(ImageError::Exists(name.clone()));
        }
        let path = place.hidden(name, NEW);
        let failed = |error| ImageError::Place {
            path: path.clone(),
            error,
        };
        let lock = loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(error));
                }
                _ => {}
            }
            if let Some(lock) = try_lock(&path).map_err(failed)? {
                break lock;
            }
            // A sweep has removed it, or another build has finished.
            if path.symlink_metadata().is_ok() {
                return Err(ImageError::Busy(name.clone()));
            }
        };
        // A command may have been killed here since the last sweep.
        empty(&path).map_err(failed)?;
        Ok(Self {
            name: name.clone(),
            place: there,
            aside: place.hidden(name, ASIDE),
            path: Some(path),
            replace,
            _lock: lock,
        })
    }

    /// Where the folder is now.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(&self.place)
    }

    /// The folder is complete, and takes its place.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(super) fn finish(mut self) -> Result<(), ImageError> {
        let Some(path) = self.path.take() else {
            return Ok(());
        };
        let moved = match self.replace && self.place.exists() {
            true => replace(&path, &self.place, &self.aside),
            false => self.put(&path),
        };
        match moved {
            Ok(()) => Ok(()),
            Err(error) => {
                self.path = Some(path);
                Err(match error.kind() {
                    io::ErrorKind::AlreadyExists
                    | io::ErrorKind::DirectoryNotEmpty => {
                        ImageError::Exists(self.name.clone())
                    }
                    _ => ImageError::Place {
                        path: self.place.clone(),
                        error,
                    },
                })
            }
        }
    }

    /// Takes a place where nothing is.
    fn put(&self, path: &Path) -> io::Result<()> {
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(CWD, path, CWD, &self.place, flags) {
            // Some file systems do not support the flag. A folder with files in
            // it is not replaced without it either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::rename(path, &self.place)
            }
            moved => Ok(moved?),
        }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The caller reports the error that has led to this.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Removes everything in a folder.
fn empty(folder: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        match file.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(file.path())?,
            false => std::fs::remove_file(file.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Place {
        let name = format!("lguest-images-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Place { path }
    }

    fn fill(place: &Place, name: &Name, replace: bool) -> New {
        let new = New::begin(place, name, replace).unwrap();
        let recipe = Recipe::new("test", Default::default()).text();
        std::fs::write(new.path().join(RECIPE), recipe).unwrap();
        std::fs::create_dir(new.path().join("contents")).unwrap();
        new
    }

    fn files(place: &Place) -> usize {
        std::fs::read_dir(&place.path).unwrap().count()
    }

    #[test]
    fn an_image_takes_its_place_whole_or_not_at_all() {
        let place = scratch("whole");
        let name: Name = "web".parse().unwrap();
        drop(fill(&place, &name, false));
        assert_eq!(files(&place), 0);
        fill(&place, &name, false).finish().unwrap();
        assert!(place.read(&name).unwrap().is_some());
        let again = New::begin(&place, &name, false).err().unwrap();
        assert!(matches!(again, ImageError::Exists(_)), "{again}");
        fill(&place, &name, true).finish().unwrap();
        assert_eq!(files(&place), 1);
        place.remove(&name, false).unwrap();
        assert_eq!(files(&place), 0);
        std::fs::remove_dir_all(&place.path).unwrap();
    }

    #[test]
    fn of_two_builds_of_one_name_one_is_told_to_wait() {
        let place = scratch("two");
        let name: Name = "web".parse().unwrap();
        let first = fill(&place, &name, false);
        let second = New::begin(&place, &name, true).err().unwrap();
        assert!(matches!(second, ImageError::Busy(_)), "{second}");
        // A build that is under way is not swept away.
        place.sweep();
        first.finish().unwrap();
        std::fs::remove_dir_all(&place.path).unwrap();
    }

    #[test]
    fn what_a_killed_build_has_left_is_removed() {
        let place = scratch("killed");
        let left = place.path.join(".web.new");
        std::fs::create_dir_all(left.join("contents")).unwrap();
        std::fs::write(left.join("contents/0"), "x").unwrap();
        std::fs::create_dir(place.path.join(".web.1.old")).unwrap();
        place.sweep();
        assert_eq!(files(&place), 0);
        std::fs::remove_dir_all(&place.path).unwrap();
    }

    #[test]
    fn an_image_that_a_killed_build_has_moved_aside_comes_back() {
        let place = scratch("aside");
        let name: Name = "web".parse().unwrap();
        let image = place.path.join("web");
        let aside = place.hidden(&name, ASIDE);
        fill(&place, &name, false).finish().unwrap();
        for look in [true, false] {
            std::fs::create_dir(place.hidden(&name, NEW)).unwrap();
            std::fs::rename(&image, &aside).unwrap();
            // By a command that sweeps first, and by one that only looks.
            match look {
                true => assert!(place.read(&name).unwrap().is_some()),
                false => place.sweep(),
            }
            assert!(image.join(RECIPE).exists() && !aside.exists());
            place.sweep();
            assert_eq!(files(&place), 1);
        }
        // The command was killed later: the new image has the place.
        std::fs::create_dir(&aside).unwrap();
        place.sweep();
        assert_eq!(files(&place), 1);
        std::fs::remove_dir_all(&place.path).unwrap();
    }

    #[test]
    fn an_image_under_kept_changes_is_removed_only_by_force() {
        let place = scratch("kept");
        let name: Name = "web".parse().unwrap();
        fill(&place, &name, false).finish().unwrap();
        let image = place.read(&name).unwrap().unwrap();
        std::fs::write(image.kept(&"work".parse().unwrap()), "").unwrap();
        let refused = place.remove(&name, false).unwrap_err();
        assert!(refused.to_string().contains("work"), "{refused}");
        // Nor does a damaged recipe count as force.
        std::fs::write(image.path.join(RECIPE), "memory").unwrap();
        let refused = place.remove(&name, false).unwrap_err();
        assert!(matches!(refused, ImageError::Kept(..)), "{refused}");
        place.remove(&name, true).unwrap();
        assert_eq!(files(&place), 0);
        std::fs::remove_dir_all(&place.path).unwrap();
    }

    #[test]
    fn a_place_that_others_may_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let place = scratch("open");
        let open = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(&place.path, open).unwrap();
        let error = check(&place.path).unwrap_err();
        assert!(error.to_string().contains("chmod"), "{error}");
        std::fs::remove_dir_all(&place.path).unwrap();
    }
}
