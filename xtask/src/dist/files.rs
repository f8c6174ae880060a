//! Files, folders and archives that say nothing about this machine.
//!
//! Entries of an archive have no time and no owner, and come in one order.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Whether `program`, an ELF file of 64 bits, is started by another program:
/// the dynamic linker.
pub(super) fn has_interpreter(program: &[u8]) -> bool {
    /// What a header of a segment has then as its type.
    const PT_INTERP: &[u8] = &3_u32.to_le_bytes();
    let number = |at: usize, bytes: usize| {
        let bytes = program.get(at..at + bytes).unwrap_or_default();
        let mut number = [0; 8];
        number[..bytes.len()].copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|n| {
        let header = program.get(headers.saturating_add(n * size)..);
        header.is_some_and(|header| header.starts_with(PT_INTERP))
    })
}

/// Copies a file, or a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in sorted(from)? {
        let name = entry.file_name().unwrap_or_default();
        copy(&entry, &to.join(name))?;
    }
    Ok(())
}

pub(super) fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

/// Writes the folder `from` as an archive to `to`, where it is called `name`.
pub(super) fn tarred<W: io::Write>(
    from: &Path,
    name: &str,
    to: W,
) -> io::Result<W> {
    let mut archive = tar::Builder::new(to);
    add(&mut archive, from, name)?;
    archive.into_inner()
}

fn add<W: io::Write>(
    archive: &mut tar::Builder<W>,
    from: &Path,
    name: &str,
) -> io::Result<()> {
    if from.is_dir() {
        entry(archive, &format!("{name}/"), 0o755, &[])?;
        for path in sorted(from)? {
            let last = path.file_name().unwrap_or_default();
            let name = format!("{name}/{}", last.to_string_lossy());
            add(archive, &path, &name)?;
        }
        return Ok(());
    }
    let is_program = from.file_name().is_some_and(|name| name == "lguest");
    let mode = if is_program { 0o755 } else { 0o644 };
    entry(archive, name, mode, &fs::read(from)?)
}

/// Adds an entry that says nothing about the machine it was made on. A name
/// that ends in a slash is that of a folder.
pub(super) fn entry<W: io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(match name.ends_with('/') {
        true => tar::EntryType::Directory,
        false => tar::EntryType::Regular,
    });
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, name, bytes)
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub(super) fn sum(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_each_time() {
        let name = format!("xtask-archive-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("man")).unwrap();
        fs::write(folder.join("lguest"), "program").unwrap();
        fs::write(folder.join("man/lguest.1"), "page").unwrap();
        let first = tarred(&folder, "x", Vec::new()).unwrap();
        fs::write(folder.join("man/lguest.1"), "page").unwrap();
        let second = tarred(&folder, "x", Vec::new()).unwrap();
        fs::remove_dir_all(folder).unwrap();
        assert!(first == second);
        let mut archive = tar::Archive::new(&first[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap())
        });
        let expected = [
            ("x/", 0o755),
            ("x/lguest", 0o755),
            ("x/man/", 0o755),
            ("x/man/lguest.1", 0o644),
        ];
        let expected = expected.map(|(name, mode)| (name.to_owned(), mode));
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_program_with_an_interpreter_is_known() {
        let mut program = vec![0; 64 + 3 * 56];
        program[32] = 64;
        program[54] = 56;
        program[56] = 3;
        program[64] = 1;
        assert!(!has_interpreter(&program));
        program[64 + 2 * 56] = 3;
        assert!(has_interpreter(&program));
        // One that is cut off, or lies.
        for length in 0..program.len() - 56 {
            assert!(!has_interpreter(&program[..length]));
        }
        program[32..40].fill(0xff);
        assert!(!has_interpreter(&program));
    }

    #[test]
    fn sums_are_those_of_sha256() {
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb924\
                          27ae41e4649b934ca495991b7852b855";
        assert_eq!(sum(b""), of_nothing);
    }
}
