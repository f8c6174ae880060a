//! Builds the view program, which the Launcher carries inside itself.
//!
//! The view is a program of its own, without std, linked to a fixed address far
//! above the Guest's 4 GiB. Cargo builds it in a folder of its own, from
//! sources only. It downloads nothing that the Launcher does not need, too.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the view is linked to: `lg_switcher::layout::IMAGE`.
const IMAGE: u64 = 0x4000_0000_0000;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let parts = [
        "lg-abi",
        "lg-memory",
        "lg-seccomp",
        "lg-wire",
        "lg-host",
        "lg-switcher",
        "lg-view",
    ];
    for part in parts {
        println!("cargo:rerun-if-changed={}", crates.join(part).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let kit = kit(&crates);
    std::fs::write(out.join("kit.rs"), kit).expect("OUT_DIR is there");
    let course = course(&crates);
    std::fs::write(out.join("course.rs"), course).expect("OUT_DIR is there");
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        // A fuzzer starts no processes, so it does not need the program.
        std::fs::write(out.join("lg-view"), []).expect("OUT_DIR is there");
        return;
    }
    let target_dir = out.join("view");
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let mut command = Command::new(cargo);
    command
        .current_dir(crates.join("lg-view"))
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&crates).join("\x1f"));
    // Variables that cargo sets for this build must not reach the other.
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    for wrapper in ["RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        command.env_remove(wrapper);
    }
    let status = command.status().expect("cargo can be started");
    assert!(
        status.success(),
        "the view program does not build: see above"
    );
    let view = target_dir.join(TARGET).join("release/lg-view");
    std::fs::copy(&view, out.join("lg-view")).expect("cargo has built it");
}

/// The files of the guest kit as an array of Rust: names and texts. `lguest
/// new` writes them into a crate that has another workspace.
fn kit(crates: &Path) -> String {
    let mut files = Vec::new();
    for part in ["lg-abi", "lg-guest", "lg-user"] {
        println!("cargo:rerun-if-changed={}", crates.join(part).display());
        files_below(&crates.join(part), &mut files);
    }
    list(crates, files, |text| {
        let lines = text.lines();
        let kept = lines.filter(|line| !line.starts_with("workspace ="));
        kept.map(|line| format!("{line}\n")).collect()
    })
}

/// The files of the course's guests in the same form. The pages of text are
/// left out, because their links lead into the tree.
fn course(crates: &Path) -> String {
    let folder = crates.join("../docs/course");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    files_below(&folder, &mut files);
    files.retain(|file| file.extension().is_none_or(|end| end != "md"));
    list(&folder, files, |text| text.replace("../../crates/", "kit/"))
}

/// Files below `folder` as an array of Rust: names and texts, as `change`
/// returns them.
fn list(
    folder: &Path,
    mut files: Vec<PathBuf>,
    change: impl Fn(&str) -> String,
) -> String {
    files.sort();
    let mut list = "&[\n".to_owned();
    for file in files {
        let name = file.strip_prefix(folder).expect("it is below");
        let text = std::fs::read_to_string(&file).expect("it is text");
        let text = change(&text);
        list += &format!("({:?}, {text:?}),\n", name.display().to_string());
    }
    list + "]\n"
}

/// Collects the files in `folder`, except what cargo has made there.
fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() && !path.ends_with("target") {
            files_below(&path, files);
        } else if path.is_file() {
            files.push(path);
        }
    }
}

/// The flags of the compiler for the view program.
fn flags(crates: &Path) -> Vec<String> {
    // A panic names its file. The name must be relative to the sources, and not
    // hold the folder in which this was built.
    let root = crates.join("..").canonicalize().expect("we are in it");
    let cargo_home =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
            let home = env::var_os("HOME")?;
            Some(Path::new(&home).join(".cargo"))
        });
    let cargo_home = cargo_home.unwrap_or_else(|| "/.cargo".into());
    vec![
        format!("--remap-path-prefix={}=cargo", cargo_home.display()),
        format!("--remap-path-prefix={}=", root.display()),
        "--remap-path-prefix=src=crates/lg-view/src".to_owned(),
        "-Crelocation-model=pic".to_owned(),
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-args=-nostartfiles -nodefaultlibs -static -no-pie".to_owned(),
        format!("-Clink-args=-Wl,--image-base={IMAGE:#x}"),
        "-Clink-args=-Wl,--build-id=none -Wl,--gc-sections".to_owned(),
        // Position-independent code, linked to one address. That address is too
        // high for code of the usual kind.
        "-Cstrip=symbols".to_owned(),
    ]
}
