//! Disks that are made of images: qcow2, and an overlay above a base.
//!
//! A base is opened to read only, and nothing ever writes to it. Changes go to
//! the overlay, which has a name, or to a file without a name that ends with
//! the Guest.

use super::backing::Backing;
use super::disk::{Disk, Opened};
use super::error::{DiskError, LayerError};
use super::format::{self, Format};
use super::image::{BaseName, Image, base_of};
use lg_abi::device::SECTOR_SIZE;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How the format is called.
const QCOW2: Format = Format::Image("qcow2");

/// The longest name of a base, in bytes.
const MOST_NAME: usize = 1023;

impl Disk {
    /// The disk whose tables are in the file, if it is a qcow2 image. Any other
    /// file stays a raw disk.
    ///
    /// # Errors
    ///
    /// [`DiskError`] says what is wrong with the image.
    pub fn by_its_format(self) -> Result<Self, DiskError> {
        match self.format() {
            Some(QCOW2) => self.into_image(),
            _ => Ok(self),
        }
    }

    fn into_image(self) -> Result<Self, DiskError> {
        let Self {
            backing: Backing::Raw(file),
            files,
            again,
            read_only,
            ..
        } = self
        else {
            return Ok(self);
        };
        if let Some(base) = base_of(&file)? {
            return Err(DiskError::NeedsBase(base));
        }
        let image = Image::open(file, again, !read_only, None)
            .map_err(DiskError::Tables)?;
        let bytes = image.size();
        let disk = Self::of(Backing::Image(image), bytes, read_only)?;
        Ok(disk.with_files(files))
    }

    /// A disk whose changes go to the qcow2 image at `path`, which is made if
    /// it does not exist. `self` is its base, from `base`, open to read.
    ///
    /// # Errors
    ///
    /// [`DiskError`] says what is wrong with the overlay.
    pub fn overlaid(
        mut self,
        base: &Path,
        path: &Path,
    ) -> Result<Self, DiskError> {
        let mut files = std::mem::take(&mut self.files);
        let laid = match Opened::open(path, false) {
            Ok(opened) => self.under(base, path, opened),
            Err(DiskError::Open(error))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                self.under_new(base, path)
            }
            Err(DiskError::InUse) => Err(LayerError::InUse),
            Err(error) => Err(LayerError::Open(Box::new(error))),
        };
        let (image, file) = laid.map_err(|error| DiskError::Overlay {
            path: path.to_owned(),
            error,
        })?;
        files.push(file);
        let bytes = image.size();
        let disk = Self::of(Backing::Image(image), bytes, false)?;
        Ok(disk.with_files(files))
    }

    /// This disk with the qcow2 image at `path` above it, open to read only.
    /// The name that the image has for its base does not count.
    ///
    /// # Errors
    ///
    /// [`DiskError`] says what is wrong with the image.
    pub fn under_layer(mut self, path: &Path) -> Result<Self, DiskError> {
        let failed = |error| DiskError::Overlay {
            path: path.to_owned(),
            error,
        };
        let mut files = std::mem::take(&mut self.files);
        let opened = Opened::open(path, true)
            .map_err(|error| failed(LayerError::Open(Box::new(error))))?;
        files.push(opened.handed().map_err(DiskError::Open)?);
        let Opened { file, again, .. } = opened;
        if format::of(&file) != Some(QCOW2) {
            return Err(failed(LayerError::NotAnImage));
        }
        base_of(&file)?;
        let base = self.into_base().map_err(DiskError::Tables)?;
        let image = Image::open(file, again, false, Some(base))
            .map_err(DiskError::Tables)?;
        let bytes = image.size();
        let disk = Self::of(Backing::Image(image), bytes, true)?;
        Ok(disk.with_files(files))
    }

    /// A disk whose changes end with the Guest. `self` is open to read.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if there is no place for them.
    pub fn thrown_away(self) -> Result<Self, DiskError> {
        let folder = std::env::temp_dir();
        let bytes = self.bytes();
        let made = nameless(&folder).and_then(|file| {
            Image::create(file, None, bytes, self.into_base()?, None)
        });
        let mut image =
            made.map_err(|error| DiskError::Temporary { folder, error })?;
        image.is_kept = false;
        Self::of(Backing::Image(image), bytes, false)
    }

    /// Bytes of its whole sectors.
    fn bytes(&self) -> u64 {
        u64::from(self.sectors) * u64::from(SECTOR_SIZE)
    }

    /// This disk as the base of an image.
    fn into_base(self) -> io::Result<Image> {
        match self.backing {
            Backing::Raw(file) => Image::raw(file, self.again),
            Backing::Image(image) => Ok(image),
        }
    }

    /// This disk from `base` under an overlay that exists.
    fn under(
        self,
        base: &Path,
        path: &Path,
        opened: Opened,
    ) -> Result<(Image, OwnedFd), LayerError> {
        let handed = opened.handed().map_err(LayerError::Make)?;
        let Opened { file, again, .. } = opened;
        if format::of(&file) != Some(QCOW2) {
            return Err(LayerError::NotAnImage);
        }
        let Some(name) = base_of(&file)? else {
            return Err(LayerError::OtherBase("nothing".into()));
        };
        // The name is looked at, and not opened.
        let named = folder(path).join(&name);
        if !is_same(&named, base) {
            return Err(LayerError::OtherBase(format!("{name:?}")));
        }
        let base = self.into_base().map_err(LayerError::Tables)?;
        let image = Image::open(file, again, true, Some(base));
        Ok((image.map_err(LayerError::Tables)?, handed))
    }

    /// This disk from `base` under an overlay that is made at `path`.
    fn under_new(
        self,
        base: &Path,
        path: &Path,
    ) -> Result<(Image, OwnedFd), LayerError> {
        let format = match &self.backing {
            Backing::Raw(_) => "raw",
            Backing::Image(_) => "qcow2",
        };
        let name = name_in(base, path).ok_or(LayerError::Name)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = rustix::fs::open(path, flags, mode)
            .map_err(|error| LayerError::Make(error.into()))?;
        let made = Opened::lock(file.into(), path, false)
            .map_err(|error| LayerError::Open(Box::new(error)))
            .and_then(|opened| {
                let handed = opened.handed().map_err(LayerError::Make)?;
                let Opened { file, again, .. } = opened;
                let name = Some(BaseName { name, format });
                let bytes = self.bytes();
                self.into_base()
                    .and_then(|b| Image::create(file, again, bytes, b, name))
                    .map(|image| (image, handed))
                    .map_err(LayerError::Make)
            });
        if made.is_err() {
            // Nothing was in it. The error is told, not this one.
            let _ = std::fs::remove_file(path);
        } else {
            // A flush is worth nothing without the name. Where it cannot be
            // made to last, the image is made all the same.
            let _ = File::open(folder(path)).and_then(|f| f.sync_all());
        }
        made
    }
}

/// The name that an image at `path` has for `base`: without a folder if both
/// are in one, so that they can be moved together.
fn name_in(base: &Path, path: &Path) -> Option<String> {
    let full = std::fs::canonicalize(base).ok()?;
    let together = is_same(&folder(path), full.parent()?);
    let name = if together {
        PathBuf::from(full.file_name()?)
    } else {
        full
    };
    let name = name.to_str()?;
    // A name with a colon would be taken for a protocol.
    let name = match together && name.contains(':') {
        true => format!("./{name}"),
        false => name.to_owned(),
    };
    (name.len() <= MOST_NAME).then_some(name)
}

/// The folder of the file at `path`.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    file(one).is_some() && file(one) == file(other)
}

/// A new file without a name, in `folder`.
fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::open(folder, flags, mode) {
        Ok(file) => Ok(file.into()),
        // Some file systems always want a name.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let name = format!("lguest-changes-{}", std::process::id());
            let path = folder.join(name);
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, mode)?;
            std::fs::remove_file(&path)?;
            Ok(file.into())
        }
        Err(error) => Err(error.into()),
    }
}
