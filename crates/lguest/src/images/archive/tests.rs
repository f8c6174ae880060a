//! Tests of the reader of archives: good ones, and a stranger's.

use super::*;
use crate::images::tree::Content;
use std::path::{Path, PathBuf};

/// A folder that goes at the end of a test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("lguest-archive-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An archive that is written entry by entry, checked by nobody.
#[derive(Default)]
struct Written(Vec<u8>);

impl Written {
    fn add(&mut self, kind: u8, name: &[u8], target: &[u8], data: &[u8]) {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..target.len()].copy_from_slice(target);
        old.linkflag = [kind];
        header.set_mode(0o4751);
        header.set_uid(1234);
        header.set_gid(70_000);
        header.set_mtime(99);
        header.set_device_major(5).unwrap();
        header.set_device_minor(300).unwrap();
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        let whole = self.0.len().next_multiple_of(512);
        self.0.resize(whole, 0);
    }

    fn file(mut self, name: &str) -> Self {
        self.add(b'0', name.as_bytes(), b"", b"text");
        self
    }

    fn with(mut self, kind: u8, name: &str, target: &str, data: &str) -> Self {
        self.add(kind, name.as_bytes(), target.as_bytes(), data.as_bytes());
        self
    }
}

/// Reads an archive into the folder of a test.
fn read_into(
    bytes: &[u8],
    form: Form,
    folder: &Path,
    most: u64,
) -> Result<Tree, ArchiveError> {
    let mut tree = Tree::default();
    let mut contents = Contents::new(folder, most);
    read(bytes, form, &mut tree, &mut contents).map(|()| tree)
}

fn read_all(name: &str, archive: &Written) -> Result<Tree, ArchiveError> {
    let scratch = Scratch::new(name);
    read_into(&archive.0, Form::Files, &scratch.0, 1 << 20)
}

fn record_text(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut bytes = rest.len() + 1;
    while bytes.to_string().len() + rest.len() != bytes {
        bytes += 1;
    }
    format!("{bytes}{rest}")
}

#[test]
fn every_kind_of_file_is_taken_over_with_owner_and_mode() {
    let long = format!("long/{}", "n".repeat(120));
    let pax = record_text("path", "by-pax")
        + &record_text("uid", "4000000000")
        + &record_text("mtime", "7.25")
        + &record_text("SCHILY.xattr.security.capability", "a\nb")
        + &record_text("SCHILY.xattr.trusted.overlay.opaque", "y");
    let archive = Written::default()
        .with(b'5', "dir/", "", "")
        .file("dir/file")
        .with(b'1', "dir/same", "dir/file", "")
        .with(b'2', "dir/link", "../else", "")
        .with(b'3', "dir/char", "", "")
        .with(b'4', "dir/block", "", "")
        .with(b'6', "dir/pipe", "", "")
        .with(b'L', "././@LongLink", "", &format!("{long}\0"))
        .file("short")
        .with(b'x', "pax", "", &pax)
        .file("other")
        .with(b'g', "global", "", &record_text("comment", "c"))
        .with(b'0', "old-folder/", "", "");
    let tree = read_all("kinds", &archive).unwrap();
    let node = |path: &str| tree.node(tree.at(path.as_bytes()).unwrap());
    let meta = Meta {
        mode: 0o4751,
        user: 1234,
        group: 70_000,
        time: 99,
    };
    assert_eq!(node("dir/file").meta, meta);
    assert!(matches!(node("dir").kind, Kind::Folder(_)));
    assert!(matches!(node("old-folder").kind, Kind::Folder(_)));
    let content = Content {
        number: 0,
        bytes: 4,
    };
    assert_eq!(node("dir/file").kind, Kind::File(content));
    assert_eq!(tree.at(b"dir/file"), tree.at(b"dir/same"));
    let Kind::Folder(files) = &node("dir").kind else {
        panic!("no folder")
    };
    let link = tree.node(files[&b"link"[..]]);
    assert_eq!(link.kind, Kind::Link(b"../else".to_vec()));
    let device = |block| Kind::Device {
        block,
        major: 5,
        minor: 300,
    };
    assert_eq!(node("dir/char").kind, device(false));
    assert_eq!(node("dir/block").kind, device(true));
    assert_eq!(node("dir/pipe").kind, Kind::Pipe);
    assert!(matches!(node(&long).kind, Kind::File(_)));
    let by_pax = node("by-pax");
    assert_eq!((by_pax.meta.user, by_pax.meta.time), (4_000_000_000, 7));
    let names: Vec<_> = by_pax.attributes.iter().map(|a| &a.0).collect();
    assert_eq!(names, ["security.capability"]);
    assert_eq!(by_pax.attributes[0].1.bytes, 3);
}

#[test]
fn a_stranger_s_entries_are_refused_with_their_names() {
    let big = "9".repeat(5) + " path=x\n";
    let cases = [
        ("out", Written::default().file("../../out")),
        ("out", Written::default().with(b'2', "d/../../out", "x", "")),
        ("line\\n", Written::default().file("line\nrm")),
        ("to", Written::default().with(b'1', "to", "/absent", "")),
        ("to", Written::default().with(b'1', "to", "../host", "")),
        ("in/x", Written::default().file("in").file("in/x")),
        ("kind", Written::default().with(b'Z', "kind", "", "")),
        ("sparse", Written::default().with(b'S', "s", "", "")),
        (
            "pax",
            Written::default().with(b'x', "pax", "", &big).file("f"),
        ),
        (
            "two sizes",
            Written::default()
                .with(b'x', "p", "", &record_text("size", "5"))
                .file("f"),
        ),
        (
            "owner",
            Written::default()
                .with(b'x', "p", "", &record_text("uid", "4294967296"))
                .file("f"),
        ),
        ("device", {
            let mut archive = Written::default().with(b'3', "device", "", "");
            archive.0[329..336].copy_from_slice(b"7777777");
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&archive.0[..512]);
            header.set_cksum();
            archive.0[..512].copy_from_slice(header.as_bytes());
            archive
        }),
    ];
    for (part, archive) in cases {
        let error = read_all("refused", &archive).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_long_name_is_not_read_into_memory() {
    let mut archive = Written::default();
    archive.add(b'L', b"l", b"", &vec![b'x'; (1 << 20) + 1]);
    let error = read_all("long", &archive.file("f")).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn damaged_and_endless_archives_are_refused() {
    let good = Written::default().file("one").file("two");
    let scratch = Scratch::new("damaged");
    let all = |bytes: &[u8], most| {
        let _ = std::fs::remove_dir_all(&scratch.0);
        std::fs::create_dir(&scratch.0).unwrap();
        read_into(bytes, Form::Files, &scratch.0, most)
    };
    assert!(all(&good.0, 8).is_ok());
    // Room for one of two files.
    let full = all(&good.0, 7).unwrap_err();
    assert!(matches!(full, ArchiveError::Content(_, ContentError::Full)));
    for cut in [100, 513, 515, 1030] {
        assert!(all(&good.0[..cut], 8).is_err(), "{cut}");
    }
    let mut flipped = good.0.clone();
    flipped[0] ^= 1;
    assert!(all(&flipped, 8).is_err());
}

#[test]
fn whiteouts_count_in_layers_only() {
    let archive = Written::default()
        .file("d/.wh.gone")
        .file("d/.wh..wh..opq")
        .file(".wh..wh.plnk/1")
        .file(".wh..wh.aufs");
    let scratch = Scratch::new("whiteouts");
    let files =
        read_into(&archive.0, Form::Files, &scratch.0, 1 << 20).unwrap();
    assert!(files.at(b"d/.wh.gone").is_some());
    let layer = read_into(&archive.0, Form::Layer, &Scratch::new("w2").0, 99);
    let layer = layer.unwrap();
    assert!(layer.at(b"d/.wh.gone").is_none());
    assert!(layer.at(b".wh..wh.aufs").is_none());
}

#[test]
fn a_damaged_header_cannot_act_on_a_terminal() {
    let mut archive = Written::default().file("\u{1b}[2J");
    archive.0[148..156].copy_from_slice(b"zzzzzzzz");
    let error = read_all("terminal", &archive).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ArchiveError::Damaged(_)), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}
