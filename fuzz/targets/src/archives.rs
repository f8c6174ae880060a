//! Archives that images are built of.
//!
//! Archives of files, layers, and archives of images are whole, damaged, or
//! invented. What is read becomes commands for the tool that writes a file
//! system: each must be one line that begins with a command of ours.

use crate::guest::file;
use crate::input::Input;
use lguest::images::archive::{self, Form};
use lguest::images::oci::Archive;
use lguest::images::{Contents, Tree, ext4, unpacked};

/// The most bytes of contents.
const MOST: u64 = 1 << 20;
/// The longest line that the tool reads whole.
const LONGEST: usize = 8000;
/// The commands that are known.
const COMMANDS: [&[u8]; 9] = [
    b"cd ",
    b"mkdir ",
    b"write ",
    b"symlink ",
    b"mknod ",
    b"sif ",
    b"rm ",
    b"ln ",
    b"ea_set ",
];

/// Builds from one archive.
///
/// # Panics
///
/// If a name of the archive becomes a command.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut tree = Tree::default();
    let mut contents = Contents::nowhere(MOST);
    match input.byte() % 4 {
        0 => {
            let packed = unpacked(input.rest());
            let Ok(plain) = packed else { return };
            let _ = archive::read(plain, Form::Layer, &mut tree, &mut contents);
        }
        1 => {
            let found = Archive::open(file(input.rest()));
            let Ok(Some(image)) = found else { return };
            let _ = image.read(&mut tree, &mut contents);
        }
        form => {
            let form = [Form::Files, Form::Layer][usize::from(form & 1)];
            for _ in 0..2 {
                tree.begin_layer();
                let archive = invented(&mut input);
                let _ = archive::read(
                    archive.as_slice(),
                    form,
                    &mut tree,
                    &mut contents,
                );
            }
        }
    }
    let mut commands = Vec::new();
    if ext4::commands(&tree, &mut commands).is_err() {
        return;
    }
    assert!(contents.bytes() <= MOST, "more than there is room for");
    for line in commands.split(|&byte| byte == b'\n') {
        let ours = COMMANDS.iter().any(|begin| line.starts_with(begin));
        let known = line.is_empty() || (ours && line.len() <= LONGEST);
        assert!(known, "{:?}", String::from_utf8_lossy(line));
        let quotes = line.iter().filter(|&&byte| byte == b'"').count();
        assert!(quotes % 2 == 0 && !line.contains(&b'\r'));
    }
}

/// Parts of names: those that mean something, and those that are in the way.
const PARTS: [&[u8]; 16] = [
    b"a",
    b"b",
    b"/",
    b"..",
    b".",
    b".wh.",
    b".wh..wh..opq",
    b"\"",
    b" ",
    b"\n",
    b"<2>",
    b"lost+found",
    b"a/b",
    b"../",
    b"#",
    b"!",
];

fn name(input: &mut Input) -> Vec<u8> {
    let parts = input.byte() % 6;
    let mut name = Vec::new();
    for _ in 0..parts {
        let part = usize::from(input.byte());
        name.extend(PARTS[part % PARTS.len()]);
    }
    name.truncate(100);
    name
}

/// An archive whose headers have the right checksum.
fn invented(input: &mut Input) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entries = input.byte() % 16;
    for _ in 0..entries {
        let kinds = b"0000555512223467LKxgS\0";
        let kind = kinds[usize::from(input.byte()) % kinds.len()];
        let (name, target) = (name(input), name(input));
        let data = {
            let len = usize::from(input.byte());
            input.bytes(len)
        };
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(&name);
        header[157..157 + target.len()].copy_from_slice(&target);
        for at in [100, 108, 116, 136, 329, 337] {
            header[at..at + 7].copy_from_slice(b"0000644");
        }
        let size = match input.byte() {
            0 => u64::from(input.word()),
            _ => data.len() as u64,
        };
        let size = format!("{size:011o}");
        header[124..135].copy_from_slice(size.as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        header[148..156].copy_from_slice(sum.as_bytes());
        bytes.extend(header);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}
