//! Initial ram disks: reading one, and adding to it.
//!
//! The kernel unpacks several archives in a row, packed or not. So our archive
//! is appended to the ram disk, at a multiple of four.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
const END: &str = "TRAILER!!!";

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive with a program, and the console that it needs.
pub(super) fn with_program(name: &str, program: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry(&mut bytes, "dev", FOLDER, (0, 0), &[]);
    entry(&mut bytes, "dev/console", CONSOLE, (5, 1), &[]);
    entry(&mut bytes, name, PROGRAM, (0, 0), program);
    entry(&mut bytes, END, 0, (0, 0), &[]);
    bytes
}

fn entry(
    bytes: &mut Vec<u8>,
    name: &str,
    mode: u32,
    device: (u32, u32),
    contents: &[u8],
) {
    bytes.extend_from_slice(MAGIC);
    // inode, mode, owner, group, links, time, size, device of the file, device
    // number, length of the name, and a checksum that is not checked.
    let inode = bytes.len();
    let name_len = name.len() + 1;
    let (major, minor) = device;
    let size = contents.len();
    let fields = format!(
        "{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
         {0:08x}{0:08x}{major:08x}{minor:08x}{name_len:08x}{0:08x}",
        0, 1
    );
    bytes.extend_from_slice(fields.as_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(contents);
    pad(bytes);
}

/// Fills up to a multiple of four.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The contents of a file in an archive that is not packed.
pub(super) fn find<'a>(archive: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    while rest.starts_with(MAGIC) {
        let field = |n: usize| {
            let at = MAGIC.len() + n * 8;
            let text = std::str::from_utf8(rest.get(at..at + 8)?).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (size, name_len) = (field(6)?, field(11)?);
        let name = rest.get(HEADER..HEADER + name_len.checked_sub(1)?)?;
        let name = std::str::from_utf8(name).ok()?;
        let start = (HEADER + name_len).next_multiple_of(4);
        let name = name.trim_start_matches(['.', '/']);
        if name == wanted && size != 0 {
            return rest.get(start..start + size);
        }
        if name == END {
            return None;
        }
        rest = rest.get((start + size).next_multiple_of(4)..)?;
    }
    None
}

/// Reads an archive, packed by gzip or not at all.
pub(super) fn unpacked(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(failed)?;
    if bytes.starts_with(MAGIC) {
        return Ok(bytes);
    }
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("gzip: {error}"))?;
    let mut stdin = gzip.stdin.take().ok_or("gzip has no input")?;
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let out = gzip.wait_with_output().map_err(failed)?;
    let written = writer.join().is_ok_and(|result| result.is_ok());
    match written && out.status.success() {
        true => Ok(out.stdout),
        false => Err(format!("{}: gzip cannot read it", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_put_in_is_found() {
        let archive = with_program("tool", b"contents");
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(find(&archive, "tool"), Some(&b"contents"[..]));
        assert_eq!(find(&archive, "dev"), None);
        assert_eq!(find(&archive[..archive.len() - 60], "other"), None);
        assert_eq!(find(b"070701", "tool"), None);
    }
}
