//! The agent's place in an image.
//!
//! The agent is the program by which commands run in a guest. It is in the
//! image as a file, and starts when a guest's kernel is told so.

use super::archive::{ArchiveError, keep};
use super::contents::Contents;
use super::tree::{Kind, Meta, Tree};
use crate::agent::BINARY;

/// Where the agent is in an image.
pub(super) const PATH: &str = "/usr/lib/lguest/agent";

/// Folders that a kernel and the agent expect.
const FOLDERS: [(&str, u16); 6] = [
    ("/dev", 0o755),
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/root", 0o700),
];

/// Devices that are there before anything is mounted: name, major, minor.
const DEVICES: [(&str, u32, u32, u16); 2] =
    [("/dev/console", 5, 1, 0o600), ("/dev/null", 1, 3, 0o666)];

/// Puts the agent into `tree`, and what is missing there and needed to start.
/// Returns where the agent is.
///
/// # Errors
///
/// The tree has something else in a place of a folder.
pub(super) fn install(
    tree: &mut Tree,
    contents: &mut Contents,
) -> Result<String, ArchiveError> {
    let refused = |path: &str| {
        let path = path.to_owned();
        move |why| ArchiveError::Name(path, why)
    };
    for (path, mode) in FOLDERS {
        if tree.at(path.as_bytes()).is_none() {
            let put =
                tree.put(path.as_bytes(), Meta::root(mode), Kind::folder());
            put.map_err(refused(path))?;
        }
    }
    for (path, major, minor, mode) in DEVICES {
        if tree.at(path.as_bytes()).is_none() {
            let device = Kind::Device {
                block: false,
                major,
                minor,
            };
            let put = tree.put(path.as_bytes(), Meta::root(mode), device);
            put.map_err(refused(path))?;
        }
    }
    let bytes = BINARY.len() as u64;
    let kept = keep(contents, PATH.as_bytes(), BINARY, bytes)?;
    tree.put(PATH.as_bytes(), Meta::root(0o755), Kind::File(kept))
        .map_err(refused(PATH))?;
    Ok(PATH.into())
}
