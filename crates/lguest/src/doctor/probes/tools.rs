//! Programs that developers use: a compiler, and what tests call.
//!
//! A program is looked for in `PATH` and where only root looks. Only the
//! compiler is run, to ask for its targets.

use super::super::finding::Finding;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Looks for the compiler as guests/toolchain.sh does.
pub(super) fn compiler() -> Finding {
    const TARGET: &str = "i686-unknown-linux-gnu";
    const CONSEQUENCE: &str =
        "guests cannot be built here; those in guests/built can be used";
    const CURE: &str = "`rustup target add i686-unknown-linux-gnu`, or \
                        LGUEST_I686_RUSTC";
    let named = std::env::var_os("LGUEST_I686_RUSTC").map(PathBuf::from);
    let rustc = named.or_else(|| find("rustc"));
    let has_target = |rustc: &Path| {
        let libraries = printed_by(Command::new(rustc).args([
            "--print",
            "target-libdir",
            "--target",
            TARGET,
        ]));
        let libraries = libraries.and_then(|l| fs::read_dir(l.trim()).ok());
        libraries.is_some_and(|mut files| {
            files.any(|file| {
                let name = file.map(|file| file.file_name());
                name.is_ok_and(|n| {
                    n.as_encoded_bytes().starts_with(b"libcore-")
                })
            })
        })
    };
    match rustc {
        Some(rustc) if has_target(&rustc) => {
            Finding::ok(rustc.display().to_string())
        }
        _ if find("apt-get").is_some() && find("dpkg-deb").is_some() => {
            Finding::degraded(
                "none, but apt-get",
                "guests/toolchain.sh fetches one, if it can reach Debian 12",
                CURE,
            )
        }
        _ => Finding::lacks("none", CONSEQUENCE, CURE),
    }
}

/// The output of another program. One that hangs, for example under a limit, is
/// ended.
fn printed_by(command: &mut Command) -> Option<String> {
    const PATIENCE: Timespec = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (mut printed, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let mut ready = [PollFd::new(&stdout, PollFlags::IN)];
        match poll(&mut ready, Some(&PATIENCE)) {
            Err(Errno::INTR) => continue,
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
        match stdout.read(&mut part) {
            Ok(n @ 1..) => printed.extend(&part[..n]),
            _ => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8(printed).ok()
}

pub(super) fn tool(
    name: &str,
    consequence: &'static str,
    cure: &'static str,
) -> Finding {
    match find(name) {
        Some(path) => Finding::ok(path.display().to_string()),
        None => Finding::lacks("not found", consequence, cure),
    }
}

/// The path of a program, from `PATH` and the folders that only root has there.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
