//! A client speaks 9P to a server, without a Guest: use, and abuse.

use super::*;
use crate::memory::Section;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where requests and answers are, and the room for an answer.
const REQUEST: u32 = 0;
const ANSWER: u32 = 0x10_0000;
const ROOM: u32 = 0x9_0000;
const MEMORY: u32 = 0x20_0000;

/// Kinds of requests that nothing but a test names.
const XATTRWALK: u8 = 30;
const AUTH: u8 = 102;

/// What a folder outside contains. No answer ever has it.
const SECRET: &str = "a secret that no guest may read";

/// A folder to share, beside one with a secret. Removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lguest-share-{}-{number}", std::process::id());
        let place = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(place.0.join("shared/folder")).unwrap();
        fs::create_dir(place.0.join("outside")).unwrap();
        fs::write(place.outside("secret"), SECRET).unwrap();
        fs::write(place.path("file"), "in the file").unwrap();
        fs::write(place.path("folder/inner"), "inner").unwrap();
        symlink("../outside/secret", place.path("out")).unwrap();
        symlink("../outside", place.path("outdir")).unwrap();
        symlink("file", place.path("link")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("shared").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.0.join("outside").join(name)
    }

    /// Checks that nothing outside has changed.
    #[track_caller]
    fn is_whole(&self) {
        assert_eq!(list(&self.0), ["outside", "shared"]);
        assert_eq!(list(&self.0.join("outside")), ["secret"]);
        let secret = fs::read_to_string(self.outside("secret")).unwrap();
        assert_eq!(secret, SECRET);
        let outside = fs::metadata(self.outside("secret")).unwrap();
        assert_eq!((outside.nlink(), outside.mode() & 0o7022), (1, 0));
    }

    fn client(&self) -> Client {
        self.connect(false)
    }

    fn connect(&self, read_only: bool) -> Client {
        let folder = fs::File::open(self.path("")).unwrap();
        let server = Server::new(folder.into(), read_only).unwrap();
        let memory = GuestMemory::new(MEMORY, 0).unwrap();
        let mut client = Client { server, memory };
        let version = [&MOST_BYTES.to_le_bytes()[..], &text("9P2000.L")];
        client.ask(p::VERSION, &version.concat()).unwrap();
        client.attach(0).unwrap();
        client
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn list(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> =
        names.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

use crate::memory::GuestMemory;

/// A text as it is in a message.
fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let len = u16::try_from(text.len()).unwrap().to_le_bytes();
    [&len, text].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

struct Client {
    server: Server,
    memory: GuestMemory,
}

type Bytes = Result<Vec<u8>, Errno>;

const NO_FID: u32 = 0xFFFF_FFFF;

impl Client {
    /// Serves these sections. Returns the answer.
    fn serve(&mut self, readable: &[Section], writable: &[Section]) -> Vec<u8> {
        let memory = self.memory.clone();
        let payload = Payload {
            memory: &memory,
            readable,
            writable,
        };
        let len = self.server.serve(&payload);
        let room = crate::memory::total(writable);
        assert!(len <= room, "{len} bytes into {room}");
        let first = crate::memory::truncated(writable, len);
        crate::memory::gather(memory.region(), &first).unwrap()
    }

    /// Sends a message as it is, and returns the answer as it is.
    fn raw(&mut self, message: &[u8], room: u32) -> Vec<u8> {
        self.memory.write(REQUEST, message).unwrap();
        let len = u32::try_from(message.len()).unwrap();
        let readable = self.memory.section(REQUEST, len).unwrap();
        let writable = self.memory.section(ANSWER, room).unwrap();
        self.serve(&[readable], &[writable])
    }

    /// Sends a request, and returns the body of its answer.
    fn ask(&mut self, kind: u8, body: &[u8]) -> Bytes {
        let size = u32::try_from(7 + body.len()).unwrap();
        let tag = 0x1234;
        let message = [&words::header(size, kind, tag)[..], body].concat();
        let answer = self.raw(&message, ROOM);
        let size = u32::try_from(answer.len()).unwrap();
        let header = |kind| words::header(size, kind, tag);
        if answer[..7] == header(p::ERROR) {
            let number: [u8; 4] = answer[7..].try_into().unwrap();
            let number = i32::from_le_bytes(number);
            return Err(Errno::from_raw_os_error(number));
        }
        assert_eq!(answer[..7], header(kind + 1));
        Ok(answer[7..].to_vec())
    }

    fn attach(&mut self, fid: u32) -> Bytes {
        let body = [words(&[fid, NO_FID]), text("root"), text("")].concat();
        self.ask(p::ATTACH, &[body, words(&[0])].concat())
    }

    fn walk(&mut self, fid: u32, new: u32, names: &[&str]) -> Bytes {
        let mut body = words(&[fid, new]);
        body.extend(u16::try_from(names.len()).unwrap().to_le_bytes());
        names.iter().for_each(|name| body.extend(text(name)));
        self.ask(p::WALK, &body)
    }

    fn open(&mut self, fid: u32, flags: u32) -> Bytes {
        self.ask(p::LOPEN, &words(&[fid, flags]))
    }

    /// Opens a file by its path, for reading and writing.
    fn open_at(&mut self, fid: u32, names: &[&str]) {
        self.walk(0, fid, names).unwrap();
        self.open(fid, 2).unwrap();
    }

    fn create(&mut self, fid: u32, name: &str, flags: u32, mode: u32) -> Bytes {
        let body = [words(&[fid]), text(name), words(&[flags, mode, 0])];
        self.ask(p::LCREATE, &body.concat())
    }

    fn clunk(&mut self, fid: u32) -> Bytes {
        self.ask(p::CLUNK, &words(&[fid]))
    }

    fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Bytes {
        let mut body = words(&[fid]);
        body.extend(offset.to_le_bytes());
        body.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        body.extend(data);
        self.ask(p::WRITE, &body)
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Bytes {
        let mut body = words(&[fid]);
        body.extend(offset.to_le_bytes());
        body.extend(count.to_le_bytes());
        let answer = self.ask(p::READ, &body)?;
        let (len, data) = answer.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_le_bytes(*len) as usize, data.len());
        Ok(data.to_vec())
    }

    fn unlink(&mut self, fid: u32, name: &str, flags: u32) -> Bytes {
        let body = [words(&[fid]), text(name), words(&[flags])].concat();
        self.ask(p::UNLINKAT, &body)
    }

    fn rename(&mut self, from: u32, old: &str, to: u32, new: &str) -> Bytes {
        let from = [words(&[from]), text(old)].concat();
        let to = [words(&[to]), text(new)].concat();
        self.ask(p::RENAMEAT, &[from, to].concat())
    }

    fn mknod(&mut self, name: &str, mode: u32) -> Bytes {
        let body = [words(&[0]), text(name), words(&[mode, 1, 3, 0])];
        self.ask(p::MKNOD, &body.concat())
    }

    /// A request that sets attributes.
    fn set(&mut self, fid: u32, about: u32, mode: u32, size: u64) -> Bytes {
        let mut body = words(&[fid, about, mode, 0, 0]);
        body.extend(size.to_le_bytes());
        body.extend([0; 32]);
        self.ask(p::SETATTR, &body)
    }

    /// All requests that change something and name a file, with this name.
    fn changes(&mut self, name: &str) -> Vec<(&'static str, Bytes)> {
        let named =
            |more: &[u32]| [words(&[0]), text(name), words(more)].concat();
        let target = [words(&[0]), text(name), text("target"), words(&[0])];
        self.walk(0, 90, &["file"]).unwrap();
        self.walk(0, 91, &[]).unwrap();
        let link = [words(&[0, 90]), text(name)].concat();
        let results = vec![
            ("create", self.create(91, name, 2, 0o644)),
            ("mkdir", self.ask(p::MKDIR, &named(&[0o755, 0]))),
            ("symlink", self.ask(p::SYMLINK, &target.concat())),
            ("mknod", self.mknod(name, 0o644)),
            ("link", self.ask(p::LINK, &link)),
            ("rename from", self.rename(0, name, 0, "renamed")),
            ("rename to", self.rename(0, "file", 0, name)),
            ("unlink", self.unlink(0, name, 0)),
            ("rmdir", self.unlink(0, name, 0x200)),
        ];
        let _ = (self.clunk(90), self.clunk(91));
        results
    }

    /// The names in a folder that is open, asked for in steps of `count`
    /// bytes, with their places.
    fn names(&mut self, fid: u32, mut from: u64, count: u32) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let mut body = words(&[fid]);
            body.extend(from.to_le_bytes());
            body.extend(count.to_le_bytes());
            let answer = self.ask(p::READDIR, &body).unwrap();
            let mut rest = Reader::new(&answer);
            let bytes = rest.u32().unwrap() as usize;
            assert!(bytes == answer.len() - 4 && bytes <= count as usize);
            let before = names.len();
            while rest.u8().is_ok() {
                let _ = (rest.u32().unwrap(), rest.u64().unwrap());
                from = rest.u64().unwrap();
                assert!(u32::try_from(from).is_ok(), "{from:#x}");
                let _ = rest.u8().unwrap();
                let name = rest.text().unwrap().to_vec();
                names.push(String::from_utf8(name).unwrap());
            }
            if names.len() == before {
                return names;
            }
        }
    }
}

/// Names that are none, and names that would lead elsewhere.
const BAD_NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "a/b",
    "/etc",
    "../outside/secret",
    "folder/inner",
    "..\0",
    "file\0x",
    "./file",
    "folder/..",
    "outdir/secret",
];

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let place = Place::new();
    let mut client = place.client();
    let long = "x".repeat(256);
    for name in BAD_NAMES.iter().copied().chain([&long[..]]) {
        let expected = match name.len() {
            256 => Errno::NAMETOOLONG,
            _ => Errno::INVAL,
        };
        assert_eq!(client.walk(0, 1, &[name]), Err(expected), "{name:?}");
        for (what, result) in client.changes(name) {
            assert_eq!(result, Err(expected), "{what} {name:?}");
        }
        // Behind a good one, the walk ends there, and binds nothing.
        let two = client.walk(0, 1, &["folder", name]).unwrap();
        assert_eq!(two[..2], [1, 0], "{name:?}");
        assert_eq!(client.clunk(1), Err(Errno::BADF));
    }
    place.is_whole();
    assert_eq!(
        list(&place.path("")),
        ["file", "folder", "link", "out", "outdir"]
    );
}

#[test]
fn a_link_is_not_followed() {
    let place = Place::new();
    let mut client = place.client();
    for name in ["out", "outdir", "link"] {
        let answer = client.walk(0, 1, &[name]).unwrap();
        assert_eq!(answer[..3], [1, 0, p::QID_LINK], "{name}");
        for flags in [0, 1, 2, 0o1000, 0o20_0000] {
            assert_eq!(client.open(1, flags), Err(Errno::LOOP), "{name}");
        }
        let shorter = client.set(1, 8, 0, 0);
        assert_eq!(shorter, Err(Errno::LOOP), "{name}");
        assert!(client.set(1, 1, 0o777, 0).is_err(), "{name}");
        // Without exclusive use, a file that exists is opened; not this one.
        client.walk(0, 2, &[]).unwrap();
        assert_eq!(client.create(2, name, 2, 0o666), Err(Errno::LOOP));
        assert_eq!(client.create(1, "new", 2, 0o666), Err(Errno::NOTDIR));
        let _ = (client.clunk(1), client.clunk(2));
        let through = client.walk(0, 1, &[name, "secret"]).unwrap();
        assert_eq!(through[..2], [1, 0], "{name}");
    }
    client.walk(0, 1, &["out"]).unwrap();
    let told = client.ask(p::READLINK, &words(&[1])).unwrap();
    assert_eq!(told, text("../outside/secret"));
    place.is_whole();
}

/// A Guest may make any link. It is text, and leads nowhere here.
#[test]
fn a_link_of_the_guest_leads_nowhere() {
    let place = Place::new();
    let mut client = place.client();
    for (name, target) in [
        ("a", "../outside"),
        ("b", "/etc"),
        ("c", "/proc/self/root"),
        ("d", "/proc/self/fd/0"),
    ] {
        let body = [words(&[0]), text(name), text(target), words(&[0])];
        client.ask(p::SYMLINK, &body.concat()).unwrap();
        let through = client.walk(0, 1, &[name, "passwd"]).unwrap();
        assert_eq!(through[..2], [1, 0], "{name}");
        let is = fs::read_link(place.path(name)).unwrap();
        assert_eq!(is, Path::new(target));
    }
    let long = [words(&[0]), text("e"), text([b'x'; 5000]), words(&[0])];
    let long = client.ask(p::SYMLINK, &long.concat());
    assert_eq!(long, Err(Errno::NAMETOOLONG));
    place.is_whole();
}

#[test]
fn nothing_changes_in_a_folder_that_is_shared_read_only() {
    let place = Place::new();
    let mut client = place.connect(true);
    for name in ["file", "new", "folder"] {
        for (what, result) in client.changes(name) {
            assert_eq!(result, Err(Errno::ROFS), "{what} {name}");
        }
    }
    client.walk(0, 1, &["file"]).unwrap();
    for about in [1, 8, 16, 32, 2, 4] {
        assert_eq!(client.set(1, about, 0o600, 0), Err(Errno::ROFS));
    }
    for flags in [1, 2, 0o1000, 0o2001] {
        assert_eq!(client.open(1, flags), Err(Errno::ROFS), "{flags:o}");
    }
    client.open(1, 0).unwrap();
    assert_eq!(client.write(1, 0, b"x"), Err(Errno::ROFS));
    assert_eq!(client.read(1, 0, 100).unwrap(), b"in the file");
    let remove = client.ask(p::REMOVE, &words(&[1]));
    assert_eq!(remove, Err(Errno::ROFS));
    assert_eq!(client.clunk(1), Err(Errno::BADF), "the fid is unbound");
    let file = fs::read_to_string(place.path("file")).unwrap();
    assert_eq!(file, "in the file");
}

#[test]
fn no_device_and_no_program_with_rights_is_made() {
    const SET_IDS: [u32; 3] = [0o4755, 0o2755, 0o6777];
    let place = Place::new();
    let mut client = place.client();
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let made = client.mknod("device", kind | 0o666);
        assert_eq!(made, Err(Errno::PERM));
    }
    for kind in [libc::S_IFDIR, libc::S_IFLNK] {
        assert_eq!(client.mknod("other", kind), Err(Errno::PERM));
    }
    client.mknod("pipe", libc::S_IFIFO | 0o6644).unwrap();
    client.mknod("socket", libc::S_IFSOCK | 0o644).unwrap();
    client.walk(0, 1, &["file"]).unwrap();
    for mode in SET_IDS {
        assert_eq!(client.set(1, 1, mode, 0), Err(Errno::PERM));
        client.walk(0, 2, &[]).unwrap();
        let name = format!("program{mode:o}");
        client.create(2, &name, 0o202, mode).unwrap();
        client.clunk(2).unwrap();
        let folder = [words(&[0]), text(format!("d{mode:o}")), words(&[mode])];
        let folder = [folder.concat(), words(&[0])].concat();
        client.ask(p::MKDIR, &folder).unwrap();
    }
    for name in list(&place.path("")) {
        let is = fs::symlink_metadata(place.path(&name)).unwrap();
        assert_eq!(is.mode() & 0o6000, 0, "{name}");
        let kind = is.file_type();
        assert!(!kind.is_char_device() && !kind.is_block_device(), "{name}");
    }
    // Opening one would wait for its other end, or reach a process.
    for name in ["pipe", "socket"] {
        client.walk(0, 3, &[name]).unwrap();
        assert_eq!(client.open(3, 0), Err(Errno::ACCESS), "{name}");
        client.clunk(3).unwrap();
        client.walk(0, 3, &[]).unwrap();
        let made = client.create(3, name, 1, 0o644);
        assert_eq!(made, Err(Errno::ACCESS), "{name}");
        client.clunk(3).unwrap();
    }
}

#[test]
fn fids_are_bounded_and_used_once() {
    let place = Place::new();
    let mut client = place.client();
    assert_eq!(client.attach(0), Err(Errno::BADF), "it is in use");
    assert_eq!(client.walk(0, 0, &[]).unwrap(), [0, 0]);
    for fid in 1..u32::try_from(MOST_FIDS).unwrap() {
        client.walk(0, fid, &[]).unwrap();
    }
    assert_eq!(client.walk(0, NO_FID - 1, &[]), Err(Errno::NFILE));
    assert_eq!(client.attach(NO_FID - 1), Err(Errno::NFILE));
    client.clunk(7).unwrap();
    client.walk(0, NO_FID - 1, &["file"]).unwrap();
    client.open(NO_FID - 1, 0).unwrap();
    assert_eq!(client.open(NO_FID - 1, 0), Err(Errno::BUSY));
    // A new session has none.
    let version = [words(&[8192]), text("9P2000.L")].concat();
    let answer = client.ask(p::VERSION, &version).unwrap();
    assert_eq!(answer, version);
    assert_eq!(client.clunk(0), Err(Errno::BADF));
}

/// A machine may allow few open files. Then the Guest gets an error.
#[test]
fn requests_about_fids_that_are_not_bound_are_errors() {
    let place = Place::new();
    let mut client = place.client();
    client.walk(0, 1, &["file"]).unwrap();
    for kind in 0..=255_u8 {
        if matches!(kind, p::VERSION | p::FLUSH | p::ATTACH) {
            continue;
        }
        for fid in [77, 1] {
            let mut body = words(&[fid, 78]);
            body.extend(text("name"));
            body.extend([0; 64]);
            let _ = client.ask(kind, &body);
            let short = client.ask(kind, &words(&[fid])[..3]);
            assert!(short.is_err(), "{kind}");
        }
    }
    let own = [XATTRWALK, p::XATTRCREATE, AUTH, p::RENAME, p::REMOVE];
    for kind in own {
        let answer = client.ask(kind, &[0; 100]);
        assert_eq!(answer, Err(Errno::OPNOTSUPP), "{kind}");
    }
    place.is_whole();
}

#[test]
fn a_request_that_lies_about_its_size_gets_an_error() {
    let place = Place::new();
    let mut client = place.client();
    client.open_at(1, &["file"]);
    let clunk = |size: u32| {
        let header = words::header(size, p::CLUNK, 9);
        [&header[..], &words(&[1])].concat()
    };
    for size in [0, 6, MOST_BYTES + 1, u32::MAX] {
        let answer = client.raw(&clunk(size), ROOM);
        assert_eq!(answer[4], p::ERROR, "{size}");
        assert_eq!(answer[5..7], [9, 0]);
    }
    // What cannot be answered, is not.
    for len in 0..7 {
        assert!(client.raw(&clunk(11)[..len], ROOM).is_empty());
    }
    for room in 0..7 {
        assert!(client.raw(&clunk(11), room).is_empty());
    }
    // The last one has unbound it; in no room of 7 bytes is an error.
    assert!(client.raw(&clunk(11), 10).is_empty());
    // Names whose length is beyond the message.
    let mut walk = words(&[0, 5]);
    walk.extend([1, 0, 0xFF, 0xFF, b'x']);
    assert_eq!(client.ask(p::WALK, &walk), Err(Errno::INVAL));
    let mut walk = words(&[0, 5]);
    walk.extend([0xFF, 0xFF]);
    assert_eq!(client.ask(p::WALK, &walk), Err(Errno::INVAL));
}

#[test]
fn reads_and_writes_keep_to_the_room_and_to_the_message() {
    let place = Place::new();
    let mut client = place.client();
    client.open_at(1, &["file"]);
    let read = |count: u32| {
        let mut message = words::header(23, p::READ, 1).to_vec();
        message.extend(words(&[1, 0, 0, count]));
        message
    };
    // In pieces, and with less room than was asked for.
    client.memory.write(REQUEST, &read(u32::MAX)).unwrap();
    let piece = |at, len| client.memory.section(at, len).unwrap();
    let readable = [piece(0, 5), piece(5, 0), piece(5, 18)];
    let writable = [piece(ANSWER, 9), piece(ANSWER + 50, 6)];
    let answer = client.serve(&readable, &writable);
    assert_eq!(answer[7..11], [4, 0, 0, 0]);
    assert_eq!(&answer[11..], b"in t");
    for room in [0, 7, 10] {
        assert!(client.raw(&read(4), room).is_empty(), "{room}");
    }
    assert_eq!(client.raw(&read(4), 11).len(), 11);
    // A write of more bytes than there are writes those that there are.
    let mut write = words::header(23, p::WRITE, 1).to_vec();
    write.extend(words(&[1, 0, 0, u32::MAX]));
    write.extend(b"IN");
    let answer = client.raw(&write, ROOM);
    assert_eq!(answer[7..], [2, 0, 0, 0]);
    let file = fs::read_to_string(place.path("file")).unwrap();
    assert_eq!(file, "IN the file");
    // A file has no place beyond 2^63.
    assert_eq!(client.write(1, u64::MAX - 3, b"x"), Err(Errno::INVAL));
    assert_eq!(client.read(1, u64::MAX, 1), Err(Errno::INVAL));
    assert_eq!(client.set(1, 8, 0, u64::MAX), Err(Errno::FBIG));
}

#[test]
fn a_file_may_have_more_than_four_gigabytes() {
    let place = Place::new();
    let mut client = place.client();
    client.open_at(1, &["file"]);
    let at = 5 << 30;
    client.write(1, at, b"far away").unwrap();
    assert_eq!(client.read(1, at + 4, 100).unwrap(), b"away");
    let size = fs::metadata(place.path("file")).unwrap().len();
    assert_eq!(size, at + 8);
    client.set(1, 8, 0, 3).unwrap();
    let file = fs::read_to_string(place.path("file")).unwrap();
    assert_eq!(file, "in ");
}

#[test]
fn a_folder_of_ten_thousand_is_listed_whole() {
    let place = Place::new();
    for n in 0..10_000 {
        fs::write(place.path(&format!("folder/{n:05}")), "").unwrap();
    }
    let mut client = place.client();
    client.walk(0, 1, &["folder"]).unwrap();
    client.open(1, 0).unwrap();
    let all = client.names(1, 0, 8000);
    assert_eq!(all.len(), 10_000 + 3);
    let names: HashSet<&String> = all.iter().collect();
    assert_eq!(names.len(), all.len(), "an entry is there twice");
    // From the middle, from the start, and from nowhere.
    assert_eq!(client.names(1, 5000, 500), all[5000..]);
    assert_eq!(client.names(1, 0, 60_000), all);
    for from in [10_004, u64::MAX] {
        let mut body = words(&[1]);
        body.extend(from.to_le_bytes());
        body.extend(words(&[500]));
        assert_eq!(client.ask(p::READDIR, &body), Err(Errno::INVAL));
    }
    assert_eq!(client.server.places, 10_003);
    // An empty list would be the end of the folder.
    let body = [words(&[1, 0, 0, 24])].concat();
    assert_eq!(client.ask(p::READDIR, &body), Err(Errno::INVAL));
    client.clunk(1).unwrap();
    assert_eq!(client.server.places, 0);
    // What is above the folder is not told.
    client.walk(0, 1, &[]).unwrap();
    client.open(1, 0).unwrap();
    let mut body = words(&[1]);
    body.extend([0; 8]);
    body.extend(words(&[5000]));
    let listed = client.ask(p::READDIR, &body).unwrap();
    let above = fs::metadata(&place.0).unwrap().ino().to_le_bytes();
    assert!(!listed.windows(8).any(|bytes| bytes == above));
}

#[test]
fn a_file_keeps_its_fid_when_it_is_renamed_and_removed() {
    let place = Place::new();
    let mut client = place.client();
    client.open_at(1, &["file"]);
    client.walk(0, 2, &["folder"]).unwrap();
    client.rename(0, "file", 2, "moved").unwrap();
    client.write(1, 0, b"moved").unwrap();
    let path = place.path("folder/moved");
    assert_eq!(fs::read_to_string(&path).unwrap(), "movede file");
    let link = [words(&[0, 1]), text("again")].concat();
    client.ask(p::LINK, &link).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    client.unlink(0, "again", 0).unwrap();
    client.unlink(2, "moved", 0).unwrap();
    assert_eq!(client.read(1, 0, 5).unwrap(), b"moved");
    assert_eq!(client.unlink(0, "folder", 0), Err(Errno::ISDIR));
    assert_eq!(client.unlink(0, "folder", 0x200), Err(Errno::NOTEMPTY));
    assert_eq!(client.unlink(0, "folder", 0x1000), Err(Errno::INVAL));
    client.unlink(2, "inner", 0).unwrap();
    client.unlink(0, "folder", 0x200).unwrap();
    // The folder is gone, and its fid leads nowhere.
    client.walk(2, 3, &[]).unwrap();
    assert_eq!(client.create(3, "new", 2, 0o644), Err(Errno::NOENT));
    let ask = client.ask(p::FLUSH, &[1, 0]).unwrap();
    assert!(ask.is_empty());
}

#[test]
fn owners_permissions_and_times_are_those_of_the_user() {
    let place = Place::new();
    let mut client = place.client();
    client.walk(0, 1, &[]).unwrap();
    client.create(1, "new", 0o202, 0o640).unwrap();
    let mut body = words(&[1]);
    body.extend(u64::MAX.to_le_bytes());
    let told = client.ask(p::GETATTR, &body).unwrap();
    let mode = libc::S_IFREG | 0o640;
    assert_eq!(told[21..33], words(&[mode, 0, 0]));
    let is = fs::metadata(place.path("new")).unwrap();
    assert_eq!(is.uid(), rustix::process::geteuid().as_raw());
    client.set(1, 1, 0o600, 0).unwrap();
    let is = fs::metadata(place.path("new")).unwrap();
    assert_eq!(is.permissions().mode() & 0o7777, 0o600);
    // Root's files are root's already, and nobody else gets one.
    client.set(1, 2 | 4, 0, 0).unwrap();
    let mut chown = words(&[1, 2, 0, 1000, 0]);
    chown.extend([0; 40]);
    assert_eq!(client.ask(p::SETATTR, &chown), Err(Errno::PERM));
    let mut times = words(&[1, 0x1B0, 0, 0, 0]);
    times.extend([0; 8]);
    for word in [1_000_000_000_u64, 5, 2_000_000_000, 6] {
        times.extend(word.to_le_bytes());
    }
    client.ask(p::SETATTR, &times).unwrap();
    let is = fs::metadata(place.path("new")).unwrap();
    assert_eq!((is.atime(), is.atime_nsec()), (1_000_000_000, 5));
    assert_eq!((is.mtime(), is.mtime_nsec()), (2_000_000_000, 6));
    let at = times.len() - 8;
    times[at..].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(client.ask(p::SETATTR, &times), Err(Errno::INVAL));
    for kind in [p::STATFS, p::FSYNC, p::LOCK] {
        client.ask(kind, &words(&[1, 0])).unwrap();
    }
}

#[test]
fn another_protocol_is_not_spoken() {
    let place = Place::new();
    let mut client = place.client();
    for version in ["9P2000", "9P2000.u", "9P2000.Lx", ""] {
        let body = [words(&[8192]), text(version)].concat();
        let answer = client.ask(p::VERSION, &body).unwrap();
        assert_eq!(answer, [words(&[8192]), text("unknown")].concat());
    }
    let small = [words(&[511]), text("9P2000.L")].concat();
    assert_eq!(client.ask(p::VERSION, &small), Err(Errno::INVAL));
    let large = [words(&[u32::MAX]), text("9P2000.L")].concat();
    let answer = client.ask(p::VERSION, &large).unwrap();
    assert_eq!(answer[..4], MOST_BYTES.to_le_bytes());
}

/// The entries for which there was room come first, and then the error.
#[test]
fn a_folder_without_room_for_all_its_places_is_listed_in_part() {
    let place = Place::new();
    let mut client = place.client();
    client.walk(0, 1, &["folder"]).unwrap();
    client.open(1, 0).unwrap();
    client.server.places = MOST_PLACES - 2;
    let list = |client: &mut Client, from| {
        client.ask(p::READDIR, &words(&[1, from, 0, 5000]))
    };
    let some = list(&mut client, 0).unwrap();
    // Two entries, and the third has no place.
    let mut rest = Reader::new(&some);
    let bytes = rest.u32().unwrap() as usize;
    assert!((50..3 * 25).contains(&bytes), "{bytes}");
    assert_eq!(client.server.places, MOST_PLACES);
    assert_eq!(list(&mut client, 2), Err(Errno::NOMEM));
}

impl Client {
    /// Another server of the folder goes on with what this one has told.
    fn moved(&self, place: &Place, text: &str) -> Result<Self, String> {
        let folder = fs::File::open(place.path("")).unwrap();
        let read_only = self.server.read_only;
        let mut server = Server::new(folder.into(), read_only).unwrap();
        server.go_on(text.as_bytes())?;
        let memory = self.memory.clone();
        Ok(Self { server, memory })
    }
}

#[test]
fn another_server_goes_on_with_what_is_open() {
    let place = Place::new();
    for n in 0..300 {
        fs::write(place.path(&format!("folder/{n:03}")), "x").unwrap();
    }
    fs::write(place.path("first"), "x").unwrap();
    fs::write(place.path("second"), "x").unwrap();
    let mut before = place.client();
    before.open_at(1, &["file"]);
    before.walk(0, 2, &["folder", "inner"]).unwrap();
    before.walk(0, 3, &["folder"]).unwrap();
    before.open(3, 0o20_0000).unwrap();
    let list = |client: &mut Client, from: u64| {
        let body = [words(&[3]), from.to_le_bytes().into(), words(&[4096])];
        client.ask(p::READDIR, &body.concat()).unwrap()
    };
    list(&mut before, 0);
    before.walk(0, 4, &["link"]).unwrap();
    before.walk(0, 5, &["first"]).unwrap();
    before.walk(0, 6, &["second"]).unwrap();
    before.walk(0, 7, &[]).unwrap();
    before.create(7, "made", 0o102, 0o600).unwrap();
    before.write(7, 0, b"made").unwrap();
    let attributes = |client: &mut Client, fid| {
        let mask = u64::MAX.to_le_bytes();
        client.ask(p::GETATTR, &[&words(&[fid])[..], &mask].concat())
    };
    let text = before.server.tell().unwrap();
    // One is removed, and one is another file now.
    fs::remove_file(place.path("first")).unwrap();
    fs::write(place.path("other"), "x").unwrap();
    fs::rename(place.path("other"), place.path("second")).unwrap();
    let mut after = before.moved(&place, &text).unwrap();
    for fid in [0, 1, 2, 3, 4, 7] {
        let known = attributes(&mut before, fid).unwrap();
        assert_eq!(attributes(&mut after, fid).unwrap(), known, "{fid}");
    }
    assert!(list(&mut after, 20) == list(&mut before, 20));
    assert_eq!(after.read(7, 0, 4).unwrap(), *b"made");
    after.write(1, 0, b"IN").unwrap();
    assert_eq!(after.read(1, 0, 11).unwrap(), *b"IN the file");
    assert_eq!(after.read(2, 0, 1), Err(Errno::BADF), "it is not open");
    for fid in [5, 6] {
        assert_eq!(attributes(&mut after, fid), Err(Errno::STALE));
        assert_eq!(after.walk(0, fid, &[]), Err(Errno::BADF));
    }
    // They stay stale until they are given back.
    let text = after.server.tell().unwrap();
    let mut again = after.moved(&place, &text).unwrap();
    assert_eq!(attributes(&mut again, 5), Err(Errno::STALE));
    again.clunk(5).unwrap();
    again.walk(0, 5, &["file"]).unwrap();
    place.is_whole();
}

#[test]
fn a_session_that_is_not_whole_is_not_told() {
    let place = Place::new();
    let mut client = place.client();
    client.open_at(1, &["file"]);
    client.walk(0, 2, &["folder"]).unwrap();
    fs::remove_file(place.path("file")).unwrap();
    let why = client.server.tell().unwrap_err();
    assert!(why.contains("a file open that was removed"), "{why}");
    client.clunk(1).unwrap();
    client.server.tell().unwrap();
    // Out of the folder, in place of one of the same name.
    fs::rename(place.path("folder"), place.outside("folder")).unwrap();
    let text = client.server.tell().unwrap();
    let mut after = client.moved(&place, &text).unwrap();
    assert_eq!(after.walk(2, 3, &[]), Err(Errno::STALE));
    fs::remove_dir_all(place.outside("folder")).unwrap();
}

#[test]
fn a_session_of_a_stranger_leads_nowhere_else() {
    let place = Place::new();
    let mut client = place.connect(true);
    client.walk(0, 1, &["file"]).unwrap();
    client.open(1, 0).unwrap();
    let good = client.server.tell().unwrap();
    let bytes = |path: &str| format!("{:?}", path.as_bytes()).replace(' ', "");
    let file = bytes("file");
    assert!(good.contains(&file), "{good}");
    let inode = |path: PathBuf| fs::symlink_metadata(path).unwrap().ino();
    let own = inode(place.path("file"));
    for (path, number) in [
        ("../outside/secret", inode(place.outside("secret"))),
        ("out", inode(place.outside("secret"))),
        ("outdir/secret", inode(place.outside("secret"))),
        ("/etc/passwd", own),
        ("file/", own),
        ("folder/../file", own),
    ] {
        let text = good.replace(&file, &bytes(path));
        let text = text.replace(&format!(":{own},"), &format!(":{number},"));
        let mut after = client.moved(&place, &text).unwrap();
        let read = after.read(1, 0, 100);
        assert_eq!(read, Err(Errno::STALE), "{path}");
    }
    // One that may only be read is not opened to be written.
    let text = good.replace("\"flags\":0", "\"flags\":2");
    assert_ne!(text, good);
    let mut after = client.moved(&place, &text).unwrap();
    assert_eq!(after.write(1, 0, b"x"), Err(Errno::ROFS));
    assert_eq!(after.read(1, 0, 1), Err(Errno::STALE));
    for bad in ["", "{}", &good[..good.len() - 1], "[1]"] {
        assert!(client.moved(&place, bad).is_err(), "{bad}");
    }
    let huge = good.replace("\"most\":524288", "\"most\":4000000000");
    assert_ne!(huge, good);
    assert!(client.moved(&place, &huge).is_err());
    place.is_whole();
}
