//! A disk with a file system that mke2fs has made.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::path::PathBuf;
use support::{Scratch, is_here, lguest, run, skip, tool};

/// An ext2 image with two files and a folder, if mke2fs is here.
fn image(scratch: &Scratch, test: &str) -> Option<PathBuf> {
    if !is_here("mke2fs") {
        skip(test, "there is no mke2fs");
        return None;
    }
    let content = scratch.path("content");
    std::fs::create_dir_all(content.join("folder")).unwrap();
    std::fs::write(content.join("hello"), "hello from ext2\n").unwrap();
    // Long enough for indirect blocks, and for more than one request.
    let long: Vec<String> =
        (0..30_000).map(|n| format!("line {n}\n")).collect();
    std::fs::write(content.join("folder/long"), long.concat()).unwrap();
    let image = scratch.path("image");
    let made = tool("mke2fs")
        .args(["-q", "-t", "ext2", "-d"])
        .args([&content, &image])
        .arg("4096")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    Some(image)
}

#[test]
fn a_real_file_system_is_read_and_left_alone() {
    let scratch = Scratch::new("ext2");
    let test = "a_real_file_system_is_read_and_left_alone";
    let Some(image) = image(&scratch, test) else {
        return;
    };
    let before = std::fs::read(&image).unwrap();
    for options in ["", ",ro"] {
        let mut command = lguest();
        command.args(["run", "--append=quiet"]);
        command.arg(format!("--disk={}{options}", image.display()));
        let typed = b"ls\nls /folder\ncat /hello\ncat /folder/long\n\
                      cat /absent\npoweroff\n";
        let said = run(&mut command, typed).ends_well(0).stdout;
        let said = said.replace('\r', "");
        assert!(said.contains(" hello\n"), "{said}");
        assert!(said.contains("318890 long\n"), "{said}");
        assert!(said.contains("\nhello from ext2\n"), "{said}");
        let lines = said.lines().filter_map(|l| l.strip_prefix("line "));
        let numbers = lines.map(|n| n.parse::<u32>().unwrap());
        assert!(numbers.eq(0..30_000));
        assert!(said.contains("cat: "), "{said}");
        assert!(std::fs::read(&image).unwrap() == before, "it has changed");
    }
}

#[test]
fn a_read_only_disk_cannot_be_written() {
    let scratch = Scratch::new("ro");
    let disk = scratch.file("disk", &[7; 64 * 512]);
    let mut command = lguest();
    command.args(["run", "--append=quiet"]);
    command.arg(format!("--disk={},ro", disk.display()));
    let said = run(&mut command, b"dd 3 8 yes\npoweroff\n").ends_well(0);
    assert!(said.stdout.contains("could not do it"), "{said:?}");
    assert!(std::fs::read(&disk).unwrap() == [7; 64 * 512]);
}
