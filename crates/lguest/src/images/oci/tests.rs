//! Tests of archives of images, whole ones and broken ones.

use super::*;
use std::io::Write;
use std::path::PathBuf;

/// A folder that goes at the end of a test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("lguest-oci-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("contents")).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An archive with these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, name, *data).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), level);
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Two frames of zstd, with one to be skipped between them.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let (one, two) = bytes.split_at(bytes.len() / 2);
    let frame = |bytes: &[u8]| {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(bytes, level)
    };
    let skipped = b"\x50\x2A\x4D\x18\x03\0\0\0abc".to_vec();
    [frame(one), skipped, frame(two)].concat()
}

fn name_of(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

const CONFIG: &str = r#"{"architecture":"386","os":"linux","config":{
    "Env":["PATH=/bin","bad"],"Entrypoint":["/init"],"Cmd":["a","b"],
    "WorkingDir":"/srv","User":"app:5"},"rootfs":{"type":"layers"}}"#;

/// The layers of a test: the second one removes a file of the first.
fn layers() -> [Vec<u8>; 2] {
    [
        tar_of(&[("etc/old", b"old"), ("etc/kept", b"kept")]),
        tar_of(&[("etc/.wh.old", b""), ("bin/sh", b"new")]),
    ]
}

/// An OCI archive for `platform`, with a list in a list.
fn oci(config: &str, platform: &str) -> Vec<u8> {
    let [one, two] = layers();
    let blobs = [gzip(&one), zstd(&two), config.into()];
    let manifest = format!(
        r#"{{"config":{{"digest":"sha256:{}"}},"layers":[
            {{"digest":"sha256:{}"}},{{"digest":"sha256:{}"}}]}}"#,
        name_of(&blobs[2]),
        name_of(&blobs[0]),
        name_of(&blobs[1]),
    );
    let inner = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","platform":
            {{"os":"linux","architecture":"{platform}"}}}}]}}"#,
        name_of(manifest.as_bytes()),
    );
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","mediaType":
            "application/vnd.oci.image.index.v1+json"}}]}}"#,
        name_of(inner.as_bytes()),
    );
    let name = |bytes: &[u8]| format!("blobs/sha256/{}", name_of(bytes));
    let [a, b, c] = &blobs;
    tar_of(&[
        (&name(a), a),
        (&name(b), b),
        (&name(c), c),
        (&name(manifest.as_bytes()), manifest.as_bytes()),
        (&name(inner.as_bytes()), inner.as_bytes()),
        ("index.json", index.as_bytes()),
        ("oci-layout", b"{}"),
    ])
}

/// An archive of older releases of `docker save`.
fn saved(config: &str) -> Vec<u8> {
    let [one, two] = layers();
    let list = r#"[{"Config":"c.json","RepoTags":null,
        "Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]"#;
    let mut archive = tar::Builder::new(Vec::new());
    let bytes = tar_of(&[
        ("1/layer.tar", &one),
        ("2/layer.tar", &two),
        ("c.json", config.as_bytes()),
        ("manifest.json", list.as_bytes()),
    ]);
    let mut all = tar::Archive::new(bytes.as_slice());
    for entry in all.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header().clone();
        archive.append(&header, entry).unwrap();
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let target = "../2/layer.tar";
    archive
        .append_link(&mut link, "3/layer.tar", target)
        .unwrap();
    archive.into_inner().unwrap()
}

fn open(scratch: &Scratch, bytes: &[u8]) -> Option<Archive> {
    let path = scratch.0.join("archive");
    std::fs::write(&path, bytes).unwrap();
    Archive::open(File::open(&path).unwrap()).unwrap()
}

fn read(name: &str, bytes: &[u8]) -> Result<(Tree, Start), OciError> {
    let scratch = Scratch::new(name);
    let archive = open(&scratch, bytes).expect("an archive of an image");
    let mut tree = Tree::default();
    let mut contents = Contents::new(&scratch.0.join("contents"), 1 << 20);
    let start = archive.read(&mut tree, &mut contents)?;
    Ok((tree, start))
}

#[test]
fn both_forms_are_read_layer_by_layer() {
    for (name, bytes) in [("oci", oci(CONFIG, "386")), ("saved", saved(CONFIG))]
    {
        let (tree, start) = read(name, &bytes).unwrap();
        assert!(tree.at(b"etc/kept").is_some(), "{name}");
        assert!(tree.at(b"etc/old").is_none(), "{name}");
        assert!(tree.at(b"bin/sh").is_some(), "{name}");
        assert_eq!(start.command, ["/init", "a", "b"], "{name}");
        assert_eq!(start.environment, ["PATH=/bin"], "{name}");
        assert_eq!((&*start.user, &*start.folder), ("app:5", "/srv"));
    }
}

#[test]
fn an_archive_of_files_is_none_of_an_image() {
    let scratch = Scratch::new("files");
    for files in [
        &[("etc/passwd", &b"x"[..])][..],
        &[("manifest.json", b"{}")],
        &[("index.json", b"{}")],
    ] {
        assert!(open(&scratch, &tar_of(files)).is_none());
    }
    assert!(open(&scratch, b"no archive").is_none());
}

#[test]
fn other_machines_and_several_images_are_refused() {
    let other = CONFIG.replace("386", "amd64");
    for bytes in [oci(CONFIG, "amd64"), oci(&other, "386"), saved(&other)] {
        let error = read("other", &bytes).err().unwrap().to_string();
        assert!(error.contains("linux/amd64"), "{error}");
        assert!(error.contains("--platform linux/386"), "{error}");
    }
    let two = r#"[{"Config":"c","Layers":[]},{"Config":"c","Layers":[]}]"#;
    let bytes = tar_of(&[("manifest.json", two.as_bytes())]);
    let error = read("two", &bytes).err().unwrap();
    assert!(matches!(error, OciError::Several(2)), "{error}");
}

#[test]
fn a_damaged_archive_of_an_image_is_refused() {
    let good = oci(CONFIG, "386");
    // A byte of the first layer, behind its header of 512 bytes.
    let mut flipped = good.clone();
    flipped[512 + 20] ^= 1;
    assert!(read("flipped", &flipped).is_err());
    for (name, list) in [
        (
            "missing",
            r#"[{"Config":"c.json","Layers":["../../etc/x"]}]"#,
        ),
        ("config", r#"[{"Config":"/etc/passwd","Layers":[]}]"#),
    ] {
        let bytes = tar_of(&[
            ("manifest.json", list.as_bytes()),
            ("c.json", CONFIG.as_bytes()),
        ]);
        let error = read(name, &bytes).err().unwrap();
        assert!(matches!(error, OciError::Missing(_)), "{name}: {error}");
    }
    for digest in ["sha256:../../x", "sha512:00", ""] {
        let index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
        let bytes =
            tar_of(&[("oci-layout", b"{}"), ("index.json", index.as_bytes())]);
        assert!(read("digest", &bytes).is_err(), "{digest}");
    }
    let deep = "[".repeat(100_000);
    let bytes =
        tar_of(&[("oci-layout", b"{}"), ("index.json", deep.as_bytes())]);
    let error = read("deep", &bytes).err().unwrap();
    assert!(matches!(error, OciError::Json(..)), "{error}");
}

#[test]
fn lists_in_a_circle_end() {
    // An index cannot have its own checksum, but many can name one another.
    let inner = br#"{"manifests":[]}"#;
    let entry = format!(
        r#"{{"digest":"sha256:{}","mediaType":"x.index"}}"#,
        name_of(inner)
    );
    let many = vec![entry; 1000].join(",");
    let index = format!(r#"{{"manifests":[{many}]}}"#);
    let bytes = tar_of(&[
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
        (&format!("blobs/sha256/{}", name_of(inner)), inner),
    ]);
    let error = read("circle", &bytes).err().unwrap();
    assert!(matches!(error, OciError::Many(_)), "{error}");
}

#[test]
fn a_small_layer_does_not_become_a_large_one() {
    let zeros = vec![0; 2 << 20];
    let layer = gzip(&tar_of(&[("bomb", &zeros)]));
    let list = r#"[{"Config":"c.json","Layers":["l"]}]"#;
    let bytes = tar_of(&[
        ("l", &layer),
        ("c.json", CONFIG.as_bytes()),
        ("manifest.json", list.as_bytes()),
    ]);
    let error = read("bomb", &bytes).err().unwrap().to_string();
    assert!(error.contains("no room"), "{error}");
}

#[test]
fn words_that_image_toml_has_no_room_for_are_refused() {
    // One byte in JSON, and six in TOML.
    let word = "\u{7f}".repeat(100 << 10);
    for (words, fits) in [(5, true), (6, false)] {
        let words = vec![word.as_str(); words];
        let text = serde_json::to_string(&words).unwrap();
        let text = format!(
            r#"{{"architecture":"386","os":"linux","config":{{"Cmd":{text}}}}}"#
        );
        let found: Configuration = serde_json::from_str(&text).unwrap();
        let start = found.start();
        assert_eq!(start.is_ok(), fits, "{}", words.len());
    }
}

#[test]
fn an_archive_without_images_says_so() {
    let list = br#"{"manifests":[]}"#;
    let tar = tar_of(&[("oci-layout", b"{}"), ("index.json", list)]);
    let error = read("none", &tar).unwrap_err();
    assert!(matches!(error, OciError::Missing(_)), "{error}");
}
