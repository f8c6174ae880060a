//! `lguest image build`: from a folder or an archive to an image.
//!
//! All files are written into the hidden folder of the new image. It gets its
//! name when it is complete, and goes when a signal ends the command.

use super::agent;
use super::archive::{self, ArchiveError, Form};
use super::contents::{ContentError, Contents, copy};
use super::error::ImageError;
use super::ext4;
use super::files::{self, FilesError};
use super::oci::{self, Archive, Start};
use super::packed::unpacked;
use super::place::{DISK, KERNEL, New, Place, RECIPE};
use super::recipe::Recipe;
use super::shown::shown;
use super::tree::{Kind, Tree};
use crate::machine;
use crate::machines::Name;
use crate::thread;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// The folder of contents, while an image is built.
const CONTENTS: &str = "contents";
/// What the programs say, likewise.
const MESSAGES: &str = "messages";
/// An unpacked archive, likewise.
const UNPACKED: &str = "archive";
/// The most bytes of files where no size is given: a small archive can become
/// a large one.
const MOST_BYTES: u64 = 16 << 30;
/// Bytes by which an archive may be larger than its files, beside an eighth of
/// them: a header for each, and the end of the archive.
const HEADERS: u64 = 1 << 20;
/// Bytes that a guest can write beyond the image where no size is given.
const ROOM: u64 = 1 << 30;
/// The stack of the thread that waits for signals.
const STACK: usize = 64 << 10;
/// What stands for standard input.
const STDIN: &str = "-";

/// What an image is built of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The folder or archive; `-` is standard input.
    pub from: PathBuf,
    /// The kernel. Without it, one that is among the files.
    pub kernel: Option<PathBuf>,
    /// Bytes of the disk.
    pub size: Option<u64>,
    /// Whether it takes the place of an image with its name.
    pub replace: bool,
}

/// Builds the image `name`.
///
/// # Errors
///
/// [`ImageError`].
pub(super) fn build(
    source: &Source,
    name: &Name,
) -> Result<Recipe, ImageError> {
    ext4::has_programs().map_err(|error| ImageError::Disk {
        name: name.clone(),
        error,
    })?;
    let release = match &source.kernel {
        Some(kernel) => Some(release_of(kernel)?),
        None => None,
    };
    let place = Place::make()?;
    let new = New::begin(&place, name, source.replace)?;
    place.check_kept(name)?;
    remove_at_signals(new.path())?;
    let build = Build {
        source,
        name,
        folder: new.path(),
    };
    let recipe = build.all(release)?;
    // A run may have begun to keep changes meanwhile.
    place.check_kept(name)?;
    new.finish()?;
    Ok(recipe)
}

/// A build that is under way.
struct Build<'a> {
    source: &'a Source,
    name: &'a Name,
    folder: &'a Path,
}

impl Build<'_> {
    fn all(&self, release: Option<String>) -> Result<Recipe, ImageError> {
        let parts = self.folder.join(CONTENTS);
        std::fs::create_dir(&parts).map_err(|e| self.failed(&parts, e))?;
        let most = self.source.size.unwrap_or(MOST_BYTES);
        let mut contents = Contents::new(&parts, most);
        let mut tree = Tree::default();
        let start = self.read(&mut tree, &mut contents)?;
        if tree.is_empty() {
            return Err(ImageError::Empty(self.source.from.clone()));
        }
        let from = shown(self.source.from.as_os_str().as_bytes());
        let mut recipe = Recipe::new(&from, start);
        recipe.kernel = match release {
            Some(release) => release,
            None => self.kernel_inside(&tree, &parts)?,
        };
        let installed = agent::install(&mut tree, &mut contents);
        recipe.agent = installed.map_err(|error| self.refused(error))?;
        recipe.files = tree.len() as u64;
        recipe.bytes = contents.bytes();
        self.write(&tree, &contents, &parts)?;
        self.finish(&recipe)?;
        Ok(recipe)
    }

    /// Reads the files. Returns how a container is started.
    fn read(
        &self,
        tree: &mut Tree,
        contents: &mut Contents,
    ) -> Result<Start, ImageError> {
        let from = &self.source.from;
        if from.is_dir() {
            if oci::is_folder(from) {
                return Err(ImageError::OciFolder(from.clone()));
            }
            return match files::read(from, tree, contents) {
                Ok(()) => Ok(Start::default()),
                Err(FilesError::Read(path, error)) => {
                    Err(ImageError::Source { path, error })
                }
                Err(FilesError::Refused(error)) => Err(self.refused(error)),
            };
        }
        let mut file = self.archive()?;
        let refused = |error| ImageError::Oci {
            path: from.clone(),
            error,
        };
        let again = file.try_clone().map_err(|e| self.unread(e))?;
        if let Some(found) = Archive::open(again).map_err(refused)? {
            return found.read(tree, contents).map_err(refused);
        }
        file.rewind().map_err(|e| self.unread(e))?;
        let file = io::BufReader::new(file);
        archive::read(file, Form::Files, tree, contents)
            .map_err(|error| self.refused(error))?;
        Ok(Start::default())
    }

    /// The archive, as a file that is not packed.
    fn archive(&self) -> Result<File, ImageError> {
        let from = &self.source.from;
        let unread = |error| self.unread(error);
        let mut file = match from.as_os_str() == STDIN {
            true => {
                let input = rustix::io::dup(io::stdin());
                File::from(input.map_err(|e| unread(e.into()))?)
            }
            false => File::open(from).map_err(unread)?,
        };
        let is_file = file.metadata().map_err(unread)?.is_file();
        let mut head = [0; 8];
        if is_file {
            let got = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0);
            let head = &head[..got.map_err(unread)?];
            if crate::loader::Compression::of(head).is_none() {
                return Ok(file);
            }
        }
        let path = self.folder.join(UNPACKED);
        let failed = |error| self.failed(&path, error);
        let most = self.source.size.unwrap_or(MOST_BYTES);
        let most = most.saturating_add(most / 8).saturating_add(HEADERS);
        let mut plain = File::options();
        let plain = plain.read(true).write(true).create_new(true).open(&path);
        let mut plain = plain.map_err(failed)?;
        let bytes = unpacked(&mut file).map_err(unread)?;
        let bytes = copy(bytes, Some(&plain), most).map_err(|e| match e {
            ContentError::Write(error) => failed(error),
            ContentError::Read(error) => unread(error),
            other => unread(io::Error::other(other)),
        })?;
        if bytes == most {
            return Err(ImageError::Large(self.source.from.clone()));
        }
        plain.rewind().map_err(failed)?;
        Ok(plain)
    }

    /// Takes a kernel that is among the files. Returns its release.
    fn kernel_inside(
        &self,
        tree: &Tree,
        parts: &Path,
    ) -> Result<String, ImageError> {
        let none = || ImageError::NoKernel(self.source.from.clone());
        let boot = tree.at(b"/boot").ok_or_else(none)?;
        let Kind::Folder(files) = &tree.node(boot).kind else {
            return Err(none());
        };
        // The newest name first.
        for (name, &id) in files.iter().rev() {
            let is_kernel = [&b"vmlinu"[..], b"bzImage"];
            let is_kernel = is_kernel.iter().any(|n| name.starts_with(n));
            if let Kind::File(content) = &tree.node(id).kind
                && is_kernel
            {
                let path = parts.join(content.number.to_string());
                if let Ok(release) = release_of(&path) {
                    let to = self.folder.join(KERNEL);
                    let copied = std::fs::copy(&path, &to);
                    copied.map_err(|error| self.failed(&to, error))?;
                    return Ok(release);
                }
            }
        }
        Err(none())
    }

    fn write(
        &self,
        tree: &Tree,
        contents: &Contents,
        parts: &Path,
    ) -> Result<(), ImageError> {
        // Each file has a block that is not full, and some have one more.
        let blocks = contents.bytes() + 8192 * tree.len() as u64;
        let size = blocks + blocks / 8 + ROOM;
        let size = self.source.size.unwrap_or(size).next_multiple_of(1 << 20);
        let disk = self.folder.join(DISK);
        let messages = self.folder.join(MESSAGES);
        ext4::write(tree, parts, &disk, size, &messages).map_err(|error| {
            ImageError::Disk {
                name: self.name.clone(),
                error,
            }
        })
    }

    /// Writes what is left, and removes what was needed for the build.
    fn finish(&self, recipe: &Recipe) -> Result<(), ImageError> {
        let kernel = self.folder.join(KERNEL);
        if let Some(from) = &self.source.kernel {
            let copied = std::fs::copy(from, &kernel);
            copied.map_err(|error| self.failed(&kernel, error))?;
        }
        let path = self.folder.join(RECIPE);
        File::create_new(&path)
            .and_then(|mut file| {
                file.write_all(recipe.text().as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| self.failed(&path, error))?;
        // A snapshot notes when its disk was changed. Archives keep whole
        // seconds of that, and the snapshot can be used where one is unpacked.
        let built = UNIX_EPOCH + Duration::from_secs(recipe.built);
        for (file, mode) in [(DISK, 0o400), (KERNEL, 0o400), (RECIPE, 0o600)] {
            let path = self.folder.join(file);
            File::open(&path)
                .and_then(|file| {
                    file.set_permissions(Permissions::from_mode(mode))?;
                    file.set_modified(built)?;
                    file.sync_all()
                })
                .map_err(|error| self.failed(&path, error))?;
        }
        let parts = self.folder.join(CONTENTS);
        std::fs::remove_dir_all(&parts).map_err(|e| self.failed(&parts, e))?;
        for file in [MESSAGES, UNPACKED] {
            // The archive was perhaps not packed.
            let _ = std::fs::remove_file(self.folder.join(file));
        }
        Ok(())
    }

    fn refused(&self, error: ArchiveError) -> ImageError {
        ImageError::Archive {
            path: self.source.from.clone(),
            error,
        }
    }

    fn unread(&self, error: io::Error) -> ImageError {
        ImageError::Source {
            path: self.source.from.clone(),
            error,
        }
    }

    fn failed(&self, path: &Path, error: io::Error) -> ImageError {
        ImageError::File {
            path: path.into(),
            error,
        }
    }
}

/// The release of the kernel in the file at `path`, if it runs here.
fn release_of(path: &Path) -> Result<String, ImageError> {
    let wrong = |why| ImageError::Kernel {
        path: path.into(),
        why,
    };
    let found =
        machine::describe(path).map_err(|error| wrong(error.to_string()))?;
    match (found.runs, found.release) {
        (true, Some(release)) => Ok(release.to_string()),
        (true, None) => Ok(String::new()),
        (false, _) => Err(wrong(found.why_not.unwrap_or_default())),
    }
}

/// Removes `folder` when a signal ends the command.
fn remove_at_signals(folder: &Path) -> Result<(), ImageError> {
    let failed = |error| ImageError::Own("handle signals", error);
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(failed)?;
    let folder = folder.to_owned();
    let started = thread::start("signals", STACK, move || {
        if let Some(signal) = signals.forever().next() {
            // The main thread may still make files there.
            while folder.exists() {
                let _ = std::fs::remove_dir_all(&folder);
            }
            std::process::exit(128 + signal);
        }
    });
    started.map(|_| ()).map_err(failed)
}
