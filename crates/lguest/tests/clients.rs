//! The Python client and its example service, by their own tests.
//!
//! Those tests have a program in place of lguest. What the program prints is
//! what `lguest exec --json` prints.

mod support;

use std::path::Path;
use support::{is_here, skip, tool};

#[test]
fn the_python_client_passes_its_tests() {
    if !is_here("python3") {
        return skip("the_python_client", "there is no python3");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = tool("python3");
    python.args(["-B", "-m", "unittest", "-v", "test_clients"]);
    python.current_dir(folder.join("../../clients/python"));
    let ended = python.output().expect("python3 starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("\nOK"), "{said}");
}
