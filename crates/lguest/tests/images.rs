//! Disks that are qcow2 images, compared with what `qemu-img` says of them.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use lguest::devices::block::{
    Block, Completion, Disk, DiskError, DiskOperation, DiskOutcome,
    DiskRequest, LayerError,
};
use lguest::memory::{GuestMemory, Section};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use support::later::LATER;
use support::random::Random;
use support::{
    PATIENCE, Running, Scratch, built_in, is_here, lguest, run, skip, tool,
};

/// Sectors of the disks here, and bytes.
const SECTORS: u64 = 4096;
const BYTES: usize = 4096 << 9;

/// Whether a test can run.
fn has_qemu_img(test: &str) -> bool {
    let is_here = is_here("qemu-img");
    if !is_here {
        skip(test, "there is no qemu-img");
    }
    is_here
}

/// Runs qemu-img in `scratch`. Returns its exit status and its output.
fn qemu_img(scratch: &Scratch, words: &str) -> (i32, String) {
    let output = tool("qemu-img")
        .current_dir(scratch.path("."))
        .args(words.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), said)
}

#[track_caller]
fn qemu_img_agrees(scratch: &Scratch, words: &str) {
    let (code, said) = qemu_img(scratch, words);
    assert_eq!(code, 0, "qemu-img {words}: {said}");
}

/// What qemu-img reads in the image.
fn contents(scratch: &Scratch, image: &str) -> Vec<u8> {
    qemu_img_agrees(scratch, &format!("convert -O raw {image} contents"));
    std::fs::read(scratch.path("contents")).unwrap()
}

/// Bytes that are like none of their neighbours.
fn noise(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut state = 1 + random.below(1 << 30) as u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(next).collect()
}

/// A disk without a Guest, and what must be on it.
struct Used {
    block: Block,
    memory: GuestMemory,
    model: Vec<u8>,
}

/// Tells a test how its request has ended.
struct Ended(Sender<DiskOutcome>);

impl Completion for Ended {
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        self.0.send(outcome).unwrap();
    }
}

impl Used {
    fn new(disk: Disk, model: Vec<u8>) -> Self {
        Self {
            block: Block::new(disk),
            memory: GuestMemory::new(1 << 20, 1).unwrap(),
            model,
        }
    }

    fn ask(&mut self, operation: DiskOperation, sector: u64, bytes: u32) {
        let section = self.memory.section(0x1_0000, bytes).unwrap();
        let sections: Vec<Section> = match operation {
            DiskOperation::Flush => Vec::new(),
            _ => vec![section],
        };
        let (sender, ended) = channel();
        self.block.submit(DiskRequest {
            operation,
            sector,
            memory: self.memory.clone(),
            sections,
            stable: false,
            done: Box::new(Ended(sender)),
        });
        assert!(ended.recv().unwrap().is_done, "{operation:?} at {sector}");
    }

    /// Reads and writes at random places.
    fn use_it(&mut self, random: &mut Random, rounds: usize) {
        for _ in 0..rounds {
            let sectors = 1 + random.below(300);
            let sector = random.below(BYTES / 512 - sectors);
            let (at, bytes) = (sector << 9, sectors << 9);
            let (sector, len) = (sector as u64, u32::try_from(bytes).unwrap());
            if random.below(2) == 0 {
                let data = noise(random, bytes);
                self.memory.write(0x1_0000, &data).unwrap();
                self.ask(DiskOperation::Write, sector, len);
                self.model[at..at + bytes].copy_from_slice(&data);
            } else {
                self.ask(DiskOperation::Read, sector, len);
                let mut data = vec![0; bytes];
                self.memory.read(0x1_0000, &mut data).unwrap();
                assert!(data == self.model[at..at + bytes], "at {sector}");
            }
        }
        self.ask(DiskOperation::Flush, 0, 0);
    }
}

/// A raw file with noise in it, and holes.
fn raw(scratch: &Scratch, random: &mut Random) -> Vec<u8> {
    let mut bytes = noise(random, BYTES);
    bytes[BYTES / 4..BYTES / 2].fill(0);
    scratch.file("raw", &bytes);
    bytes
}

#[test]
fn images_of_every_kind_are_used_as_qemu_does() {
    if !has_qemu_img("images_of_every_kind_are_used_as_qemu_does") {
        return;
    }
    let mut random = Random::new(1);
    for options in [
        "-o cluster_size=65536",
        "-c",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o refcount_bits=1",
        "-o refcount_bits=64,cluster_size=4k",
        "-o preallocation=metadata",
        "-o lazy_refcounts=on",
    ] {
        let scratch = Scratch::new("kinds");
        let model = raw(&scratch, &mut random);
        let convert = format!("convert -O qcow2 {options} raw image");
        qemu_img_agrees(&scratch, &convert);
        let open = |read_only| {
            opened(&scratch.path("image"), read_only)
                .and_then(Disk::by_its_format)
                .unwrap_or_else(|error| panic!("{options}: {error}"))
        };
        let mut used = Used::new(open(false), model);
        used.use_it(&mut random, 100);
        used.block.finish();
        qemu_img_agrees(&scratch, "check image");
        assert!(contents(&scratch, "image") == used.model, "{options}");
        // The Launcher finds the same again.
        let Used { block, model, .. } = used;
        drop(block);
        let mut used = Used::new(open(true), model);
        for sector in (0..SECTORS).step_by(256) {
            used.ask(DiskOperation::Read, sector, 256 << 9);
            let mut data = vec![0; 256 << 9];
            used.memory.read(0x1_0000, &mut data).unwrap();
            let at = usize::try_from(sector).unwrap() << 9;
            assert!(data == used.model[at..at + data.len()], "{options}");
        }
    }
}

#[test]
fn an_overlay_has_the_changes_and_its_base_none() {
    if !has_qemu_img("an_overlay_has_the_changes_and_its_base_none") {
        return;
    }
    let mut random = Random::new(2);
    for base in ["raw", "packed"] {
        let scratch = Scratch::new("overlay");
        let mut model = raw(&scratch, &mut random);
        qemu_img_agrees(&scratch, "convert -O qcow2 -c raw packed");
        let path = scratch.path(base);
        let before = std::fs::read(&path).unwrap();
        // Made first, then used again.
        for _ in 0..2 {
            let overlaid = || {
                let disk = Disk::open(&path, true)?.by_its_format()?;
                disk.overlaid(&path, &scratch.path("mine"))
            };
            let disk = not_in_use(overlaid).unwrap();
            let mut used = Used::new(disk, model);
            used.use_it(&mut random, 50);
            // With a state that is taken, the image can be copied.
            let state = used.block.state();
            std::fs::copy(scratch.path("mine"), scratch.path("copy")).unwrap();
            let copied = contents(&scratch, "copy");
            assert!(copied == used.model, "the state came too early");
            used.block.restore(&state).unwrap();
            used.use_it(&mut random, 50);
            used.block.finish();
            model = used.model;
            qemu_img_agrees(&scratch, "check mine");
            assert!(contents(&scratch, "mine") == model);
        }
        assert!(
            std::fs::read(&path).unwrap() == before,
            "a base has changed"
        );
        // Both can be moved together.
        let (_, said) = qemu_img(&scratch, "info mine");
        assert!(said.contains(&format!("backing file: {base}")), "{said}");
    }
}

/// Opens a disk that this test has closed.
fn opened(path: &Path, read_only: bool) -> Result<Disk, DiskError> {
    not_in_use(|| Disk::open(path, read_only))
}

/// Opens until nobody has the file. A process that another test has just forked
/// has a copy of a descriptor, and so of its lock, until it calls exec.
fn not_in_use(
    open: impl Fn() -> Result<Disk, DiskError>,
) -> Result<Disk, DiskError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let opened = open();
        let in_use = matches!(
            opened,
            Err(DiskError::InUse
                | DiskError::Overlay {
                    error: LayerError::InUse,
                    ..
                })
        );
        if !in_use || Instant::now() > deadline {
            return opened;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The built-in Guest with a disk, as one of 2007 or of a later release.
fn command(
    scratch: &Scratch,
    later: bool,
    disk: &str,
) -> std::process::Command {
    let mut command = lguest();
    command.current_dir(scratch.path("."));
    command.args(["run", "--append=quiet", "--disk", disk]);
    if later {
        command
            .arg("--kernel")
            .arg(LATER[0].of(&built_in(), scratch));
    }
    command
}

#[test]
fn guests_of_both_kinds_use_an_overlay() {
    if !has_qemu_img("guests_of_both_kinds_use_an_overlay") {
        return;
    }
    let mut random = Random::new(3);
    for later in [false, true] {
        let scratch = Scratch::new("guests");
        let base = raw(&scratch, &mut random);
        let typed = b"dd 100 300 yes\ndd 1000 17 yes\npoweroff\n";
        let mut command = command(&scratch, later, "raw,overlay=mine");
        let said = run(&mut command, typed).ends_well(0).stdout;
        assert_eq!(said.matches("read back the same").count(), 2, "{said}");
        qemu_img_agrees(&scratch, "check mine");
        let written = contents(&scratch, "mine");
        let changed = |sector: usize| {
            let range = sector << 9..(sector + 1) << 9;
            written[range.clone()] != base[range]
        };
        let all: Vec<usize> = (0..BYTES >> 9).filter(|&n| changed(n)).collect();
        let expected: Vec<usize> = (100..400).chain(1000..1017).collect();
        assert_eq!(all, expected);
        assert!(std::fs::read(scratch.path("raw")).unwrap() == base);
    }
}

/// Acknowledged writes are in the image, although nothing was closed.
#[test]
fn a_killed_launcher_leaves_a_good_image() {
    if !has_qemu_img("a_killed_launcher_leaves_a_good_image") {
        return;
    }
    for later in [false, true] {
        let scratch = Scratch::new("killed");
        qemu_img_agrees(&scratch, "create -f qcow2 image 64M");
        for round in 0..3 {
            let mut command = command(&scratch, later, "image");
            let mut guest = Running::start(&mut command);
            guest.wait_for("lguest> ");
            let first = round * 2000;
            guest.type_in(format!("dd {first} 200 yes\n").as_bytes());
            guest.wait_for("read back the same");
            guest.signal(9);
            guest.finish();
            // 3: clusters that are not used, which harms nobody.
            let (code, said) = qemu_img(&scratch, "check image");
            assert!(code == 0 || code == 3, "{said}");
            let disk = contents(&scratch, "image");
            for sector in first..first + 200 {
                // The guest writes noise, in which zeroes are few.
                let bytes = &disk[sector << 9..][..512];
                let zeroes = bytes.iter().filter(|&&byte| byte == 0);
                assert!(zeroes.count() < 32, "{sector}");
            }
        }
    }
}

#[test]
fn changes_that_are_thrown_away_leave_nothing() {
    let mut random = Random::new(4);
    let scratch = Scratch::new("thrown");
    let base = raw(&scratch, &mut random);
    let folder = scratch.path("changes");
    std::fs::create_dir(&folder).unwrap();
    for _ in 0..2 {
        let mut command = command(&scratch, false, "raw,snapshot");
        command.env("TMPDIR", &folder);
        let typed = b"dd 100 300 yes\npoweroff\n";
        let said = run(&mut command, typed).ends_well(0).stdout;
        assert!(said.contains("read back the same"), "{said}");
        assert!(std::fs::read(scratch.path("raw")).unwrap() == base);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
    let mut command = command(&scratch, false, "raw,snapshot");
    let refused = run(command.env("TMPDIR", "/absent"), b"");
    assert_eq!(refused.code(), 120);
    assert!(
        refused.stderr.contains(
            "disk raw: its changes cannot be kept in /absent: No such file or \
             directory (os error 2): set TMPDIR to a folder that you may \
             write to"
        ),
        "{refused:?}"
    );
}

/// Two Guests may have one base, but not one overlay.
#[test]
fn a_base_is_shared_and_an_overlay_is_not() {
    let scratch = Scratch::new("shared");
    scratch.file("raw", &[7; 64 << 9]);
    let mut first =
        Running::start(&mut command(&scratch, false, "raw,overlay=mine"));
    first.wait_for("lguest> ");
    let typed = b"dd 3 8 yes\npoweroff\n";
    run(&mut command(&scratch, false, "raw,overlay=other"), typed).ends_well(0);
    run(&mut command(&scratch, false, "raw,snapshot"), typed).ends_well(0);
    for (disk, said) in [
        (
            "raw,overlay=mine",
            "its overlay mine: another guest uses it",
        ),
        ("raw", "another guest uses it"),
    ] {
        let refused = run(&mut command(&scratch, false, disk), b"");
        assert_eq!(refused.code(), 120);
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    first.type_in(b"poweroff\n");
    first.finish().ends_well(0);
    // As a base it is not written, but as a disk of its own.
    assert!(std::fs::read(scratch.path("raw")).unwrap() == [7; 64 << 9]);
    run(&mut command(&scratch, false, "raw"), typed).ends_well(0);
}

/// Messages for images that cannot be used, and their cures.
#[test]
fn an_image_is_opened_only_if_it_is_named() {
    if !has_qemu_img("an_image_is_opened_only_if_it_is_named") {
        return;
    }
    let scratch = Scratch::new("named");
    let refuses = |disk: &str, wanted: &str| {
        let refused = run(&mut command(&scratch, false, disk), b"");
        assert_eq!(refused.code(), 120, "{disk}: {refused:?}");
        assert!(refused.stderr.contains(wanted), "{disk}: {refused:?}");
    };
    let runs = |disk: &str| {
        let typed = b"dd 3 8 yes\npoweroff\n";
        run(&mut command(&scratch, false, disk), typed).ends_well(0);
    };
    for name in ["raw", "other"] {
        scratch.file(name, &[7; 64 << 9]);
    }
    qemu_img_agrees(&scratch, "create -f qcow2 -b raw -F raw mine");
    refuses(
        "mine",
        "disk mine: it lies above \"raw\", and an image is opened only if you \
         name it: give '--disk raw,overlay=FILE' with the name of this one \
         for FILE",
    );
    runs("raw,overlay=mine");
    refuses(
        "other,overlay=mine",
        "its overlay mine: it was made above \"raw\"",
    );
    qemu_img_agrees(&scratch, "rebase -u -F raw -b other mine");
    runs("other,overlay=mine");
    refuses(
        "raw,overlay=other",
        "its overlay other: it is no qcow2 image",
    );
    refuses("raw,overlay=absent/mine", "it cannot be made: No such file");
    refuses("mine,snapshot", "it lies above \"other\"");
    qemu_img_agrees(&scratch, "create -f qcow2 whole 1M");
    runs("whole");
    runs("whole,ro");
    runs("whole,snapshot");
    qemu_img_agrees(&scratch, "snapshot -c one whole");
    refuses(
        "whole",
        "it has snapshots inside: `qemu-img convert -O qcow2`",
    );
    qemu_img_agrees(&scratch, "convert -O qcow2 whole cured");
    runs("cured");
    forged(&scratch.path("cured"));
    refuses("cured", "it is no good qcow2 image (");
    refuses("cured", "it is a raw image all the same, give it as");
    runs("cured,raw");
}

/// Makes the table of first level point at itself.
fn forged(image: &Path) {
    let mut bytes = std::fs::read(image).unwrap();
    let table: [u8; 8] = bytes[40..48].try_into().unwrap();
    let at = usize::try_from(u64::from_be_bytes(table)).unwrap();
    bytes[at..at + 8].copy_from_slice(&table);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    std::fs::write(image, bytes).unwrap();
}
