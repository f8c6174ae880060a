//! Files that go in and out.

use super::each;
use super::machine::End;
use lg_exec::command::{Get, Put};
use lg_exec::report::Failure;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder for a test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let own = format!("lg-agent-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(own);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(&self.0).unwrap().flatten();
        all.map(|e| e.file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(path: &Path) -> Put {
    Put {
        version: lg_exec::VERSION,
        path: path.to_str().unwrap().as_bytes().to_vec(),
        mode: 0o640,
        ..Put::default()
    }
}

fn get(path: &Path) -> Get {
    Get {
        version: lg_exec::VERSION,
        path: path.to_str().unwrap().as_bytes().to_vec(),
        ..Get::default()
    }
}

#[test]
fn a_file_goes_in_and_comes_out() {
    each(|machine| {
        let folder = Folder::new("in-out");
        let path = folder.file("a/b/file");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let mut asked = put(&path);
        asked.parents = true;
        let stream = machine.put(asked);
        machine.stdin(stream, &bytes);
        machine.with(stream, |run, out| run.client.stdin_end(out));
        assert_eq!(machine.end(stream), End::Done(1_000_000));
        assert!(std::fs::read(&path).unwrap() == bytes);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);

        let stream = machine.get(get(&path));
        assert_eq!(machine.end(stream), End::Done(1_000_000));
        let run = &machine.runs[&stream];
        assert!(run.out == bytes);
        let facts = run.file.unwrap();
        assert_eq!((facts.size, facts.mode), (1_000_000, 0o640));
    });
}

#[test]
fn half_a_file_replaces_nothing() {
    each(|machine| {
        let folder = Folder::new("half");
        let path = folder.file("file");
        std::fs::write(&path, "old").unwrap();
        let stream = machine.put(put(&path));
        machine.stdin(stream, b"new");
        machine.with(stream, |run, out| run.client.hang_up(out));
        assert_eq!(machine.failure(stream), Failure::HangUp);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(folder.names(), ["file"]);
        // The same once more, to its end.
        let stream = machine.put(put(&path));
        machine.stdin(stream, b"new");
        machine.with(stream, |run, out| run.client.stdin_end(out));
        assert_eq!(machine.end(stream), End::Done(3));
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(folder.names(), ["file"]);
    });
}

#[test]
fn what_is_no_file_is_refused() {
    each(|machine| {
        let folder = Folder::new("refused");
        let stream = machine.put(put(&folder.0));
        assert_eq!(machine.failure(stream), Failure::NotAFile);
        let stream = machine.get(get(&folder.0));
        assert_eq!(machine.failure(stream), Failure::NotAFile);
        let stream = machine.get(get(Path::new("/dev/zero")));
        assert_eq!(machine.failure(stream), Failure::NotAFile);
        let stream = machine.get(get(&folder.file("none")));
        assert_eq!(machine.failure(stream), Failure::NotFound);
        let stream = machine.put(put(&folder.file("none/file")));
        assert_eq!(machine.failure(stream), Failure::NotFound);
        assert!(folder.names().is_empty());
    });
}
