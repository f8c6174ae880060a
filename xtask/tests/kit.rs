//! The guest kit's own tests, so that `cargo test --workspace` runs them, too.
//!
//! The kit is in the workspace of the guests, which are built for i686. Its
//! tests run on the building machine. Their output is printed here, and CI
//! counts each of them.

use std::path::Path;
use std::process::Command;
use xtask::program;

#[test]
fn the_tests_of_the_guest_kit_pass() {
    const TEST: &str = "the_tests_of_the_guest_kit_pass";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !program::cargo_runs() {
        return program::skip(TEST, "this user has no cargo that runs");
    }
    let built = root.join("target/kit");
    let writable = std::fs::create_dir_all(&built)
        .and_then(|()| std::fs::write(built.join("writable"), ""));
    if writable.is_err() {
        return program::skip(TEST, "this user may not write to target/kit");
    }
    let mut tests = Command::new("cargo");
    tests
        .args(["test", "--manifest-path", "guests/Cargo.toml", "--locked"])
        .args(["-p", "lg-guest", "-p", "lg-user"])
        .args(["--features", "lg-user/build", "--target-dir", "target/kit"])
        .args(["--no-fail-fast", "--", "--show-output"])
        .current_dir(root);
    let ended = tests.output().expect("cargo can be started");
    let output = String::from_utf8_lossy(&ended.stdout);
    let errors = String::from_utf8_lossy(&ended.stderr);
    println!("{output}");
    assert!(ended.status.success(), "{errors}");
    assert!(output.contains("test result: ok. "), "no tests: {errors}");
}
