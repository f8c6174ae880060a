//! Guests of later generations, without Linux: good and bad use of virtio
//! devices. Those of generation 2 are here, those of generation 3 in [`pci`].
//!
//! Most tests assemble their kernel and run it in the real command. The kernel
//! takes no interrupts. Its output, and the contents of its disk afterwards,
//! show what its devices do. The others run the built-in Guest as a Guest of a
//! later release, with its drivers.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod built_in;
mod pci;
mod program;

use program::{
    DISK, FREE, INTERFACES, Interface, NEXT, PRINT, Program, RAM, RANDOM, WRITE,
};
use support::{Finished, Scratch, lguest, run};

/// A disk of 16 sectors.
fn sectors() -> Vec<u8> {
    let mut sectors = vec![0; 16 * 512];
    sectors[512..534].copy_from_slice(b"this is on the disk\n\0\0");
    sectors
}

/// Runs a kernel with a disk of 16 sectors. Returns also the contents of the
/// disk afterwards.
fn boot(name: &str, kernel: &[u8], more: &[&str]) -> (Finished, Vec<u8>) {
    let dir = Scratch::new(name);
    let image = dir.file("image", kernel);
    let disk = dir.file("disk", &sectors());
    let mut command = lguest();
    command
        .args(["run", "--memory", "32M", "--kernel"])
        .arg(&image);
    command.arg("--disk").arg(&disk).args(more);
    let finished = run(&mut command, b"");
    (finished, std::fs::read(&disk).unwrap())
}

/// Whether the kernel of this machine reads a file without waiting where the
/// tests have theirs. It does not in a tmpfs.
fn hosts_read(test: &str) -> bool {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let scratch = Scratch::new("nowait");
    let file = std::fs::File::open(scratch.file("file", b"x")).unwrap();
    let mut byte = [0];
    let buffers = &mut [std::io::IoSliceMut::new(&mut byte)];
    let read = preadv2(&file, buffers, 0, ReadWriteFlags::NOWAIT);
    if read == Err(Errno::OPNOTSUPP) {
        support::skip(test, "no reads that do not wait in the folder of tests");
        return false;
    }
    true
}

/// A kernel that uses every device once, as drivers do.
fn good(interface: &'static Interface) -> Vec<u8> {
    let mut kernel = Program::of(interface);
    kernel.print_early("early console\n");
    kernel.describe(RANDOM, 0, (FREE + 0x2000, 64), WRITE, 0);
    kernel.request(RANDOM, 0, 1);
    // The used element says how many bytes there are.
    kernel.wait_for(RANDOM + 0x2000 + 8, 64);
    kernel.print_early("random numbers\n");
    kernel.ask_disk((0, 1), (FREE + 0x3000, 512), 1);
    kernel.notify(FREE + 0x3000);
    kernel.store_text(FREE + 0x4000, "written by the guest");
    kernel.ask_disk((1, 3), (FREE + 0x4000, 512), 2);
    kernel.ask_disk((4, 0), (FREE + 0x4000, 0), 3);
    kernel.store_text(FREE + 0x5000, "by a queue\n");
    kernel.describe(PRINT, 0, (FREE + 0x5000, 11), 0, 0);
    kernel.request(PRINT, 0, 1);
    kernel.end()
}

#[test]
fn a_kernel_of_each_release_uses_its_devices() {
    const PRINTED: &str =
        "early console\nrandom numbers\nthis is on the disk\nby a queue\n";
    for interface in &INTERFACES {
        for more in ["--isolation=guest", "--isolation=user"] {
            let (finished, disk) = boot("good", &good(interface), &[more]);
            let finished = finished.ends_well(0);
            assert_eq!(finished.stdout, PRINTED, "{}", interface.release);
            assert!(disk[3 * 512..].starts_with(b"written by the guest\0"));
        }
    }
}

#[test]
fn a_kernel_without_patches_uses_its_devices() {
    let (finished, _) =
        boot("slow", &good(&INTERFACES[0]), &["--no-fast-path=hypercall"]);
    assert!(finished.ends_well(0).stdout.ends_with("by a queue\n"));
}

/// The ends of kernels that break the rules of a ring in one place.
#[test]
fn a_bad_ring_ends_its_guest_with_a_reason() {
    type Step = fn(&mut Program);
    let cases: [(&str, Step); 9] = [
        ("a chain with a loop", |kernel| {
            kernel.describe(RANDOM, 0, (FREE, 8), WRITE | NEXT, 1);
            kernel.describe(RANDOM, 1, (FREE, 8), WRITE | NEXT, 0);
            kernel.offer(RANDOM, 0, 1);
        }),
        ("a descriptor that does not exist", |kernel| {
            kernel.describe(RANDOM, 0, (FREE, 8), WRITE | NEXT, 256);
            kernel.offer(RANDOM, 0, 1);
        }),
        ("a descriptor that does not exist", |kernel| {
            kernel.offer(RANDOM, 0xFFFF, 1);
        }),
        ("says that 1000 chains wait", |kernel| {
            kernel.store_half(RANDOM + 0x1002, 1000);
        }),
        ("memory above 4 GiB", |kernel| {
            kernel.describe(RANDOM, 0, (FREE, 8), WRITE, 0);
            kernel.store(RANDOM + 4, 1);
            kernel.offer(RANDOM, 0, 1);
        }),
        ("0x40000000", |kernel| {
            kernel.describe(RANDOM, 0, (0x4000_0000, 8), WRITE, 0);
            kernel.offer(RANDOM, 0, 1);
        }),
        ("data for the device after its answer", |kernel| {
            kernel.describe(RANDOM, 0, (FREE, 8), WRITE | NEXT, 1);
            kernel.describe(RANDOM, 1, (FREE, 8), 0, 0);
            kernel.offer(RANDOM, 0, 1);
        }),
        ("where no ring is", |kernel| kernel.notify(RAM + 0x13)),
        ("without room for its answer", |kernel| {
            kernel.describe(DISK, 0, (FREE, 16), 0, 0);
            kernel.offer(DISK, 0, 1);
            kernel.notify(DISK);
        }),
    ];
    for (reason, step) in cases {
        let mut kernel = Program::new();
        step(&mut kernel);
        kernel.notify(RANDOM);
        let (finished, _) = boot("bad", &kernel.end(), &[]);
        assert_eq!(finished.code(), 1, "{reason}: {finished:?}");
        assert!(finished.stderr.contains(reason), "{finished:?}");
    }
}

/// Unusual actions that are allowed, because they harm only the Guest.
#[test]
fn a_guest_with_an_unusual_driver_goes_on() {
    let mut kernel = Program::new();
    // Devices are reset, started, marked as failed and reset again, and a disk
    // during a request.
    let (random, disk) = (RAM + 4, RAM + 21 + 4);
    for status in [0, 7, 0x87, 0, 4] {
        kernel.store_half(random, status);
        kernel.notify(random - 4);
    }
    kernel.store(FREE + 0x1000, 0);
    kernel.describe(DISK, 0, (FREE + 0x1000, 16), NEXT, 1);
    kernel.describe(DISK, 1, (FREE + 0x3000, 512), NEXT | WRITE, 2);
    kernel.describe(DISK, 2, (FREE + 0x1010, 1), WRITE, 0);
    kernel.offer(DISK, 0, 1);
    kernel.notify(DISK);
    kernel.store_half(disk, 0x0100);
    kernel.notify(disk - 4);
    kernel.store_half(DISK + 0x1002, 0);
    // Notifications of rings that are empty.
    for _ in 0..500 {
        kernel.notify(RANDOM);
        kernel.notify(PRINT);
    }
    // Random numbers over the ring's own end, and over the descriptors.
    kernel.describe(RANDOM, 3, (RANDOM + 0x2900, 64), WRITE, 0);
    kernel.request(RANDOM, 3, 1);
    kernel.describe(RANDOM, 4, (RAM, 64), WRITE, 0);
    kernel.request(RANDOM, 4, 2);
    kernel.print_early("still here\n");
    let (finished, _) = boot("games", &kernel.end(), &[]);
    let finished = finished.ends_well(0);
    assert_eq!(finished.stdout, "still here\n");
}

/// `reboot` in Linux: the message is the physical address of NULL.
#[test]
fn a_restart_is_reported() {
    let mut kernel = Program::new();
    kernel.call(2, 0x4000_0000, 2);
    let (finished, _) = boot("restart", &kernel.end(), &[]);
    assert_eq!(finished.code(), 128, "{finished:?}");
    assert!(finished.stderr.contains("asked for a restart"));
}
