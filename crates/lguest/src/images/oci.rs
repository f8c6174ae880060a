//! Archives of images: those of `docker save`, and OCI archives.
//!
//! Such an archive has layers, a configuration, and lists that name them. All
//! of it is a stranger's. Names are only looked up among the entries of the
//! archive. A file whose name is its checksum is checked.

use super::archive::{self, ArchiveError, Form};
use super::contents::Contents;
use super::packed::unpacked;
use super::shown::shown;
use super::tree::Tree;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The most bytes of a list or a configuration.
const MOST_JSON: u64 = 4 << 20;
/// The most entries of the archive itself.
const MOST_ENTRIES: usize = 1 << 16;
/// The most layers.
const MOST_LAYERS: usize = 512;
/// The most lists that are read.
const MOST_LISTS: usize = 64;
/// The most words of a command or an environment, and the most bytes of each.
const MOST_WORDS: usize = 1024;
const LONGEST_WORD: usize = 128 << 10;
/// The most bytes of all words: image.toml has up to six for one of them, and
/// is read up to 4 MiB.
const MOST_WORD_BYTES: usize = 512 << 10;
/// The files that an image of this form has.
const LAYOUT: [&str; 2] = ["oci-layout", "index.json"];
/// The machine that guests are.
const ARCHITECTURE: &str = "386";

/// Why an archive of an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A file that it names is not there.
    #[error("it names the file '{0}', which is not in it")]
    Missing(String),
    /// A list or a configuration is not understood.
    #[error("its file '{0}' is not understood: {1}")]
    Json(String, String),
    /// A file is not the one that was meant.
    #[error(
        "its file '{0}' is damaged: it has another checksum than its name says"
    )]
    Checksum(String),
    /// It is for other machines.
    #[error(
        "it is for {0}, and guests are linux/386: fetch it with 'docker pull \
         --platform linux/386', or 'skopeo copy --override-arch 386'"
    )]
    Platform(String),
    /// It has several images.
    #[error("it has {0} images: save one")]
    Several(usize),
    /// It is too large in some way.
    #[error("it has more {0} than any image needs")]
    Many(&'static str),
    /// A layer is refused.
    #[error("in its layer '{0}': {1}")]
    Layer(String, ArchiveError),
}

/// How a container of the image is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The command and its words.
    pub command: Vec<String>,
    /// The environment, as NAME=VALUE.
    pub environment: Vec<String>,
    /// The user and group, as a name or a number.
    pub user: String,
    /// The folder.
    pub folder: String,
}

/// An archive that was looked through.
pub struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

/// Where an entry's bytes are, or the entry that it is a link to.
enum Member {
    Bytes { at: u64, bytes: u64 },
    Link(Vec<u8>),
}

/// A list of what is in the archive.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    kind: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An image's list of layers.
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The same in an archive of `docker save`.
#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// The configuration of an image.
#[derive(Deserialize)]
struct Configuration {
    architecture: String,
    os: String,
    config: Option<Container>,
}

/// What it says about containers. Each may be missing or null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

/// Whether the folder is an OCI image that is not packed into an archive.
pub(super) fn is_folder(path: &Path) -> bool {
    LAYOUT.iter().all(|name| path.join(name).is_file())
}

impl Archive {
    /// Looks through the archive in `file`. `None` if it is no archive of an
    /// image, but perhaps one of files.
    ///
    /// # Errors
    ///
    /// [`OciError`].
    pub fn open(file: File) -> Result<Option<Self>, OciError> {
        let mut members = HashMap::new();
        let reader = BufReader::new(&file);
        let mut archive = tar::Archive::new(reader);
        let entries = archive.entries_with_seek()?.raw(true);
        for entry in entries {
            let Ok(entry) = entry else { break };
            let header = entry.header();
            let name = header.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
            let kind = header.entry_type();
            let member = match kind {
                tar::EntryType::Regular => Member::Bytes {
                    at: entry.raw_file_position(),
                    bytes: entry.size(),
                },
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = header.link_name_bytes().unwrap_or_default();
                    let place = match kind == tar::EntryType::Link {
                        true => &[][..],
                        false => name.as_slice(),
                    };
                    Member::Link(resolved(place, &target))
                }
                _ => continue,
            };
            members.insert(name, member);
            if members.len() > MOST_ENTRIES {
                break;
            }
        }
        drop(archive);
        let found = Self { file, members };
        let is_image = LAYOUT.iter().all(|name| found.has(name));
        let is_saved = found.has("manifest.json")
            && found.json::<Vec<Saved>>("manifest.json").is_ok();
        Ok((is_image || is_saved).then_some(found))
    }

    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    /// Puts the files of all layers into `tree`, and says how a container is
    /// started.
    ///
    /// # Errors
    ///
    /// [`OciError`].
    pub fn read(
        &self,
        tree: &mut Tree,
        contents: &mut Contents,
    ) -> Result<Start, OciError> {
        let (configuration, layers) = match self.has("index.json") {
            true => self.image()?,
            false => self.saved()?,
        };
        if layers.len() > MOST_LAYERS {
            return Err(OciError::Many("layers"));
        }
        for layer in layers {
            tree.begin_layer();
            let mut checked = self.open_member(&layer)?;
            let read = unpacked(&mut checked)
                .map_err(ArchiveError::Damaged)
                .and_then(|layer| {
                    archive::read(layer, Form::Layer, tree, contents)
                });
            read.map_err(|error| {
                OciError::Layer(shown(layer.as_bytes()), error)
            })?;
            checked.finish(&layer)?;
        }
        configuration.start()
    }

    /// The image of an OCI archive: its configuration, and names of layers.
    fn image(&self) -> Result<(Configuration, Vec<String>), OciError> {
        let mut others = Vec::new();
        let mut lists = vec!["index.json".to_owned()];
        let mut read = 0;
        while let Some(list) = lists.pop() {
            read += 1;
            let index: Index = self.json(&list)?;
            for found in index.manifests {
                if read + others.len() + lists.len() > MOST_LISTS {
                    return Err(OciError::Many("lists"));
                }
                let name = found.name()?;
                if found.kind.contains("index") || found.kind.contains("list") {
                    lists.push(name);
                    continue;
                }
                if let Some(platform) = &found.platform
                    && !is_ours(&platform.os, &platform.architecture)
                {
                    others.push(platform_text(
                        &platform.os,
                        &platform.architecture,
                    ));
                    continue;
                }
                let manifest: Manifest = self.json(&name)?;
                let config: Configuration =
                    self.json(&manifest.config.name()?)?;
                if !is_ours(&config.os, &config.architecture) {
                    others
                        .push(platform_text(&config.os, &config.architecture));
                    continue;
                }
                let layers = manifest.layers.iter().map(Descriptor::name);
                return Ok((config, layers.collect::<Result<_, _>>()?));
            }
        }
        if others.is_empty() {
            return Err(OciError::Missing("manifest".into()));
        }
        Err(OciError::Platform(others.join(", ")))
    }

    /// The image of an archive of `docker save`.
    fn saved(&self) -> Result<(Configuration, Vec<String>), OciError> {
        let mut saved: Vec<Saved> = self.json("manifest.json")?;
        let (Some(image), true) = (saved.pop(), saved.is_empty()) else {
            return Err(OciError::Several(saved.len() + 1));
        };
        let config: Configuration = self.json(&image.config)?;
        if !is_ours(&config.os, &config.architecture) {
            let text = platform_text(&config.os, &config.architecture);
            return Err(OciError::Platform(text));
        }
        Ok((config, image.layers))
    }

    /// Reads a list or a configuration.
    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, OciError> {
        let mut text = Vec::new();
        let mut member = self.open_member(name)?;
        if member.from.limit() > MOST_JSON {
            return Err(OciError::Many("bytes in a list"));
        }
        member.read_to_end(&mut text)?;
        member.finish(name)?;
        serde_json::from_slice(&text).map_err(|error| {
            OciError::Json(
                shown(name.as_bytes()),
                shown(error.to_string().as_bytes()),
            )
        })
    }

    /// Opens an entry. Links are followed: older archives have a layer only
    /// once, and links to it.
    fn open_member(&self, name: &str) -> Result<Checked<'_>, OciError> {
        let missing = || OciError::Missing(shown(name.as_bytes()));
        let mut at = self.members.get(name.as_bytes());
        for _ in 0..MOST_LISTS {
            match at.ok_or_else(missing)? {
                Member::Link(target) => at = self.members.get(target),
                Member::Bytes { at, bytes } => {
                    let mut file = &self.file;
                    file.seek(SeekFrom::Start(*at))?;
                    return Ok(Checked {
                        from: file.take(*bytes),
                        sum: Sha256::new(),
                    });
                }
            }
        }
        Err(missing())
    }
}

impl Descriptor {
    /// The name of the entry with these contents.
    fn name(&self) -> Result<String, OciError> {
        let is_hex = |text: &&str| {
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let sum = self.digest.strip_prefix("sha256:").filter(is_hex);
        let named = sum.map(|sum| format!("{SUMS}{sum}"));
        named.ok_or_else(|| OciError::Missing(shown(self.digest.as_bytes())))
    }
}

/// The folder in which names are checksums.
const SUMS: &str = "blobs/sha256/";

/// An entry that is read, and its checksum.
struct Checked<'a> {
    from: io::Take<&'a File>,
    sum: Sha256,
}

impl Read for Checked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(into)?;
        self.sum.update(&into[..got]);
        Ok(got)
    }
}

impl Checked<'_> {
    /// Reads the rest, and compares the checksum with the name.
    fn finish(mut self, name: &str) -> Result<(), OciError> {
        io::copy(&mut self, &mut io::sink())?;
        let Some(wanted) = name.strip_prefix(SUMS) else {
            return Ok(());
        };
        let sum = self.sum.finalize();
        let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        match sum.eq_ignore_ascii_case(wanted) {
            true => Ok(()),
            false => Err(OciError::Checksum(shown(name.as_bytes()))),
        }
    }
}

/// The name of an entry that a link at `place` leads to.
fn resolved(place: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = place.split(|&byte| byte == b'/').collect();
    names.pop();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

fn is_ours(os: &str, architecture: &str) -> bool {
    os == "linux" && architecture == ARCHITECTURE
}

fn platform_text(os: &str, architecture: &str) -> String {
    shown(format!("{os}/{architecture}").as_bytes())
}

impl Configuration {
    fn start(self) -> Result<Start, OciError> {
        let from = self.config.unwrap_or_default();
        let mut command = from.entrypoint.unwrap_or_default();
        command.extend(from.cmd.unwrap_or_default());
        let environment = from.env.unwrap_or_default();
        let user = from.user.unwrap_or_default();
        let folder = from.working_dir.unwrap_or_default();
        let words = command.iter().chain(&environment);
        let words: Vec<_> = words.chain([&user, &folder]).collect();
        let bytes: usize = words.iter().map(|word| word.len()).sum();
        let words_fit = command.len().max(environment.len()) <= MOST_WORDS;
        let fits =
            |word: &&String| word.len() <= LONGEST_WORD && !word.contains('\0');
        let all_fit = words.iter().all(fits);
        if !words_fit || !all_fit || bytes > MOST_WORD_BYTES {
            return Err(OciError::Many("words in its command"));
        }
        Ok(Start {
            command,
            environment: environment
                .into_iter()
                .filter(|variable| variable.contains('='))
                .collect(),
            user,
            folder,
        })
    }
}

#[cfg(test)]
mod tests;
