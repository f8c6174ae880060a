//! Bad input: one line that names the thing and the cure, and no trace.
//!
//! Every case runs the real command in a directory of its own, and compares its
//! messages word for word, its exit code, and the directory afterwards.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn images() {
    let dir = Scratch::new("images");
    dir.refuses(
        "64 absent",
        120,
        "image absent: it cannot be read: No such file or directory \
         (os error 2)",
    );
    fs::create_dir(dir.path("folder")).unwrap();
    dir.refuses(
        "64 folder",
        120,
        "image folder: it cannot be read: is a directory",
    );
    dir.refuses(
        "64 /dev/zero",
        120,
        "image /dev/zero: it cannot be read: it is not a regular file",
    );
    dir.write("empty", b"");
    dir.write("text", &[b'x'; 5000]);
    for name in ["empty", "text"] {
        dir.refuses(
            &format!("64 {name}"),
            120,
            &format!(
                "image {name}: it is neither an i386 ELF executable nor a \
                 bzImage: give the vmlinux or bzImage of an lguest kernel"
            ),
        );
    }
    let mut x86_64 = kernel(b"GenuineLguest");
    (x86_64[4], x86_64[18]) = (2, 62);
    dir.write("vmlinux64", &x86_64);
    dir.refuses(
        "64 vmlinux64",
        120,
        "image vmlinux64: it is an ELF file for x86-64: lguest runs 32-bit \
         x86 (i386) kernels",
    );
    dir.write("native", &kernel(b"a kernel for real hardware"));
    dir.refuses(
        "64 native",
        120,
        "image native: it has no GenuineLguest mark: build the kernel with \
         lguest Guest support (CONFIG_LGUEST_GUEST)",
    );
}

#[test]
fn shares() {
    let dir = Scratch::new("shares");
    dir.write("file", b"");
    dir.refuses(
        "run --share absent,tag",
        120,
        "share absent: there is no such folder: make it, or name another one",
    );
    dir.refuses(
        "run --share file,tag",
        120,
        "share file: it is not a folder: name a folder, and give a disk as \
         '--disk'",
    );
    dir.refuses(
        "run --share folder",
        2,
        "share 'folder' is not DIR,TAG or DIR,TAG,ro: give a folder and a \
         name for it of 1 to 31 letters, digits, '-', '_' or '.'",
    );
    fs::create_dir(dir.path("folder")).unwrap();
    dir.refuses(
        "run --share folder,tag --share folder,tag,ro",
        2,
        "two shares are called 'tag': give each a name of its own",
    );
    // The guest that is part of the program is one of 2007.
    dir.refuses(
        "run --share folder,tag",
        2,
        "share tag: this kernel has no 9P, with which a folder is mounted: \
         leave --share out, or take a kernel since Linux 3.0",
    );
}

#[test]
fn images_that_are_cut_short() {
    let dir = Scratch::new("short");
    let whole = kernel(b"GenuineLguest");
    dir.write("elf", &whole[..whole.len() - 1]);
    let mut bzimage = vec![0; 0x400];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    dir.write("bare", &bzimage);
    bzimage.extend_from_slice(b"\x1F\x8B\x08\0\0\0\0\0\0\x03\x4B");
    dir.write("bz", &bzimage);
    for name in ["elf", "bz"] {
        dir.refuses(
            &format!("run --kernel {name}"),
            120,
            &format!(
                "image {name}: it is cut short: the file ends before what its \
                 headers promise; copy it again"
            ),
        );
    }
    dir.refuses(
        "run --kernel bare",
        120,
        "image bare: no gzip stream that can be unpacked is in this bzImage: \
         build the kernel with gzip compression, or give its vmlinux",
    );
}

#[test]
fn memory() {
    let dir = Scratch::new("memory");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.write("initrd", &[0; 1 << 20]);
    dir.refuses("0 vmlinux", 2, "memory '0': a guest needs at least 1 MB");
    dir.refuses(
        "5000 vmlinux",
        2,
        "memory '5000': a guest has at most 4080 MB",
    );
    dir.refuses(
        "run --memory lots --kernel vmlinux",
        2,
        "memory 'lots' is not a size: give megabytes (64) or a unit (64M)",
    );
    dir.refuses(
        "1 vmlinux",
        2,
        "image vmlinux: it needs at least 2 MB of memory: give it more",
    );
    dir.refuses(
        "2 vmlinux --initrd=initrd",
        2,
        "initrd initrd: it does not fit beside the kernel: kernel and initrd \
         need at least 3 MB of memory; give more",
    );
}

/// For every size of an initrd, the first message names an amount of memory
/// that is enough, or says why there is none.
#[test]
fn the_memory_that_a_message_names_is_enough() {
    let dir = Scratch::new("enough");
    let mut kernel = kernel(b"GenuineLguest");
    // Its segment ends at 30 MB.
    kernel[72..76].copy_from_slice(&(29_u32 << 20).to_le_bytes());
    dir.write("vmlinux", &kernel);
    for mb in [0, 1, 300, 861, 862, 890, 900] {
        let mut words = "vmlinux".to_owned();
        if mb > 0 {
            let file = fs::File::create(dir.path("initrd")).unwrap();
            file.set_len(mb << 20).unwrap();
            words += " --initrd=initrd";
        }
        let said = dir.says(&format!("1 {words}"));
        let Some(asked) = number_after(&said, "at least ") else {
            let most = number_after(&said, "no more than ").unwrap();
            assert!(mb > most, "{mb} MB: {said}");
            // It does not fit into the largest memory either, and the
            // message says how much would fit.
            let said = dir.says(&format!("4080 {words}"));
            assert_eq!(number_after(&said, "no more than "), Some(most));
            let file = fs::File::create(dir.path("initrd")).unwrap();
            file.set_len(most << 20).unwrap();
            dir.loads(&format!("4080 {words}"));
            continue;
        };
        dir.loads(&format!("{asked} {words}"));
        let said = dir.says(&format!("{} {words}", asked - 1));
        let again = number_after(&said, "at least ");
        assert_eq!(again, Some(asked), "{mb} MB: {said}");
    }
}

/// The number in `text` after `words`.
fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    rest.split(' ').next()?.parse().ok()
}

#[test]
fn kernels_that_are_something_else() {
    let dir = Scratch::new("other");
    let vmlinux = |version: &str, mark: &str| {
        let banner = format!("Linux version {version} (a@b) \0{mark}");
        dir.write("image", &kernel(banner.as_bytes()));
    };
    vmlinux("6.1.0", "");
    let said = dir.says("64 image");
    assert!(
        said.contains("it is Linux 6.1.0, which has no lguest"),
        "{said}"
    );
    vmlinux("2.6.23.17", "");
    let said = dir.says("64 image");
    assert!(
        said.contains("no GenuineLguest mark: build the kernel"),
        "{said}"
    );
    vmlinux("2.6.23.17", "GenuineLguest");
    dir.loads("64 image");
    // An ordinary program, at the usual address of programs.
    let mut program = kernel(b"main");
    for at in [60, 64] {
        program[at..at + 4].copy_from_slice(&0x0804_8000_u32.to_le_bytes());
    }
    dir.write("image", &program);
    dir.refuses(
        "64 image",
        120,
        "image image: it is an ordinary program and no kernel: give the \
         vmlinux or bzImage of an lguest kernel",
    );
    // A kernel above the largest memory.
    let mut high = kernel(b"GenuineLguest");
    high[60..64].copy_from_slice(&0x0010_0000_u32.to_le_bytes());
    high[64..68].copy_from_slice(&0xFFF0_0000_u32.to_le_bytes());
    dir.write("image", &high);
    let said = dir.says("64 image");
    assert!(said.contains("it ends at 4096 MB of memory"), "{said}");
    dir.write("empty", b"");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.refuses(
        "64 vmlinux --initrd=empty",
        120,
        "initrd empty: it is empty: leave it out, or give another one",
    );
}

#[test]
fn bzimages_that_are_something_else() {
    let dir = Scratch::new("bzimages");
    let image = |protocol: u16, release: &str, payload: &[u8]| {
        let mut file = vec![0; 0x600];
        file[0x1F1] = 1; // sectors of setup code
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        if !release.is_empty() {
            file[0x20E..0x210].copy_from_slice(&0x80_u16.to_le_bytes());
            file[0x280..0x280 + release.len()]
                .copy_from_slice(release.as_bytes());
        }
        // After two sectors of setup code.
        file[0x248..0x24C].copy_from_slice(&0x100_u32.to_le_bytes());
        file[0x24C..0x250].copy_from_slice(&0x100_u32.to_le_bytes());
        file[0x500..].fill(0x7F);
        file[0x500..0x500 + payload.len()].copy_from_slice(payload);
        file
    };
    let mut amd64 = image(0x20F, "6.1.0-13-amd64 (debian)", b"\xFD7zXZ\0");
    amd64[0x236] = 0x3F;
    dir.write("image", &amd64);
    dir.refuses(
        "64 image",
        120,
        "image image: it is a bzImage for x86-64 (Linux 6.1.0-13-amd64): \
         lguest runs 32-bit x86 (i386) kernels, of Linux 2.6.23 to 4.13: \
         build one of these with CONFIG_LGUEST_GUEST",
    );
    dir.write("image", &image(0x20A, "3.6.2-1-ARCH (a@b)", b"\xFD7zXZ\0"));
    let said = dir.says("64 image");
    assert!(
        said.contains("it is Linux 3.6.2-1-ARCH, and it was bu"),
        "{said}"
    );
    for (payload, name) in [
        (b"BZh91AY&SY".as_slice(), "bzip2"),
        (b"\x5D\0\0\x80", "lzma"),
        (b"\xFD7zXZ\0", "xz"),
        (b"\x89LZO\0\r\n\x1A\n", "lzo"),
        (b"\x02\x21\x4C\x18", "lz4"),
        (b"\x28\xB5\x2F\xFD", "zstd"),
    ] {
        dir.write("image", &image(0x20A, "", payload));
        let said = dir.says("64 image");
        // Some formats are found damaged, and others end too early.
        let damaged = said.contains(&format!("is packed by {name}, and the"));
        assert!(damaged || said.contains("it is cut short"), "{said}");
    }
    dir.write("image", &image(0x20A, "", b"PACK"));
    dir.refuses(
        "64 image",
        120,
        "image image: the kernel in this bzImage is packed in a way that is \
         not known here: give its vmlinux",
    );
    // An old header does not say where its kernel begins.
    dir.write("image", &image(0x206, "2.6.23.17", b"BZh91AY&SY"));
    let said = dir.says("64 image");
    assert!(said.contains("is packed by bzip2"), "{said}");
}

#[test]
fn the_cure_for_equal_addresses_works() {
    let test = "the_cure_for_equal_addresses_works";
    let objcopy = Command::new("objcopy").arg("--version").output();
    if objcopy.is_err() {
        return println!("SKIPPED {test}: there is no objcopy");
    }
    let dir = Scratch::new("lma");
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = built.join("../../guests/built/questions");
    fs::copy(built, dir.path("image")).unwrap();
    let sh = |line: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", line]).current_dir(&dir.0);
        assert!(sh.status().unwrap().success(), "{line}");
    };
    sh("objcopy --change-section-lma '*+0xc0000000' image");
    let said = dir.says("64 image");
    assert!(
        said.contains("its physical addresses are its vir"),
        "{said}"
    );
    let cure = said.split('`').nth(1).unwrap();
    sh(&cure.replace("IMAGE", "image"));
    let said = dir.says("64 image");
    assert!(!said.contains("image image: "), "{said}");
}

#[test]
fn a_warning_names_memory_in_which_linux_hangs() {
    let dir = Scratch::new("little");
    let kernel = kernel(b"Linux version 2.6.23.17 (a@b) GenuineLguest");
    dir.write("vmlinux", &kernel);
    dir.write("initrd", &[0; 1 << 20]);
    let said = dir.says("4 vmlinux --initrd=initrd");
    assert!(said.contains("4 MB of memory are little: Linux 2.6.23.17"));
    let enough = number_after(&said, "give it ").unwrap();
    let said = dir.says(&format!("{enough} vmlinux --initrd=initrd"));
    assert!(!said.contains("are little"), "{said}");
    let said = dir.says(&format!("{} vmlinux --initrd=initrd", enough - 1));
    assert_eq!(number_after(&said, "give it "), Some(enough), "{said}");
}

#[test]
fn a_warning_names_a_command_line_that_linux_cuts() {
    let dir = Scratch::new("cut");
    let kernel = kernel(b"Linux version 2.6.23.17 (a@b) GenuineLguest");
    dir.write("vmlinux", &kernel);
    let line = "x".repeat(250) + " abcdefgh";
    let said = dir.says(&format!("4 vmlinux {line}"));
    assert!(
        said.starts_with(
            "lguest: the kernel's command line has 259 bytes, and Linux \
             2.6.23.17 reads the first 255 of them, up to 'abcd': shorten it\n"
        ),
        "{said}"
    );
    let said = dir.says(&format!("4 vmlinux {}", &line[..255]));
    assert!(!said.contains("shorten"), "{said}");
}

#[test]
fn initrds() {
    let dir = Scratch::new("initrds");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.refuses(
        "4 vmlinux --initrd=absent",
        120,
        "initrd absent: it cannot be read: No such file or directory \
         (os error 2)",
    );
}

#[test]
fn disks() {
    let dir = Scratch::new("disks");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.write("disk", &[0; 1024]);
    dir.write("tiny", &[0; 511]);
    fs::create_dir(dir.path("folder")).unwrap();
    dir.refuses(
        "4 vmlinux --block=absent",
        120,
        "disk absent: it cannot be opened: No such file or directory \
         (os error 2)",
    );
    dir.refuses(
        "4 vmlinux --block=folder",
        120,
        "disk folder: it is neither a file nor a block device",
    );
    dir.refuses(
        "run --kernel vmlinux --disk tiny",
        120,
        "disk tiny: it has 511 bytes: a disk has one sector of 512 at least",
    );
    let in_use = "disk disk: another guest uses it, or a program has locked \
                  it that may only read it: end that one first (`lslocks` \
                  names it), or give it to both guests by 'lguest run --disk \
                  FILE,ro'; `chmod go-r FILE` keeps other users from locking \
                  it";
    let writer = lock(&dir.path("disk"), false);
    dir.refuses("4 vmlinux --block=disk", 120, in_use);
    dir.refuses("run --kernel vmlinux --disk disk,ro", 120, in_use);
    drop(writer);
    let reader = lock(&dir.path("disk"), true);
    dir.refuses("4 vmlinux --block=disk", 120, in_use);
    drop(reader);
    let twice = "disk disk: it is given twice: leave one out, or give it as \
                 '--disk FILE,ro' both times";
    dir.refuses("4 vmlinux --block=disk --block=disk", 120, twice);
    dir.refuses(
        "run --kernel vmlinux -d disk -d ./disk,ro",
        120,
        &twice.replace("disk disk", "disk ./disk"),
    );
    // The cure in the message works.
    dir.runs("run --disk disk,ro --disk disk,ro", "");
    dir.runs("run --disk disk", "");
    dir.refuses(
        "run --disk disk,fail=0",
        2,
        "disk 'disk,fail=0': give a number from 1 up after ',fail=', as in \
         'FILE,fail=20'; if the file's name ends like this, write 'NAME,rw'",
    );
    dir.runs("run --disk disk,fail=20", "");
}

#[test]
fn disks_of_other_formats() {
    let dir = Scratch::new("formats");
    let mut vdi = vec![0; 512];
    vdi[64..68].copy_from_slice(&[0x7F, 0x10, 0xDA, 0xBE]);
    for (head, name) in [
        (b"KDMV".as_slice(), "vmdk"),
        (b"vhdxfile", "vhdx"),
        (&vdi, "vdi"),
    ] {
        dir.write("disk", &[head, &[0; 1024]].concat()[..1024]);
        let said = format!(
            "disk disk: it is a {name} image, and a disk is a raw one: \
             `qemu-img convert -O raw` makes it that; if it is one all the \
             same, give it as '--disk FILE,raw'"
        );
        dir.refuses("run --disk disk", 120, &said);
        dir.write("vmlinux", &kernel(b"GenuineLguest"));
        dir.refuses("64 vmlinux --block=disk", 120, &said);
        dir.runs("run --disk disk,raw", "");
    }
    for (head, name) in [
        (b"\x1F\x8B\x08\0".as_slice(), "gzip"),
        (b"\xFD7zXZ\0", "xz"),
        (b"\x28\xB5\x2F\xFD", "zstd"),
    ] {
        dir.write("disk", &[head, &[0; 1024]].concat()[..1024]);
        dir.refuses(
            "run --disk disk",
            120,
            &format!(
                "disk disk: it is packed by {name}, and a disk is a raw \
                 image: unpack it; if it is one all the same, give it as \
                 '--disk FILE,raw'"
            ),
        );
    }
}

#[test]
fn a_warning_names_a_disk_that_ends_within_a_sector() {
    let dir = Scratch::new("odd");
    dir.write("disk", &[0; 1025]);
    let said = "lguest: disk disk: its last 1 bytes are less than a sector of \
                512, and the guest cannot reach them: `truncate -s %512 disk` \
                makes it whole\n";
    dir.runs("run --disk disk", said);
    let cure = said.split('`').nth(1).unwrap();
    let mut sh = Command::new("sh");
    assert!(
        sh.args(["-c", cure])
            .current_dir(&dir.0)
            .status()
            .unwrap()
            .success()
    );
    dir.runs("run --disk disk", "");
    assert_eq!(fs::read(dir.path("disk")).unwrap().len(), 1536);
}

#[test]
fn networks() {
    let dir = Scratch::new("networks");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.write("short", &[0; 4095]);
    fs::create_dir(dir.path("folder")).unwrap();
    dir.refuses(
        "4 vmlinux --sharenet=absent",
        120,
        "network absent: it does not exist: make it with `truncate -s 4096 \
         absent`",
    );
    dir.refuses(
        "run --kernel vmlinux --net sharenet=short",
        120,
        "network short: it has 4095 bytes, and a network needs 4096: `truncate \
         -s 4096 short`",
    );
    dir.refuses(
        "4 vmlinux --sharenet=folder",
        120,
        "network folder: it is not a regular file: name one that `truncate -s \
         4096` has made",
    );
    // The Launcher leaves a network that it has joined if something else fails.
    dir.write("lan", &[0; 4096]);
    dir.refuses(
        "4 vmlinux --sharenet=lan --stats=.",
        120,
        "statistics .: it cannot be written: Is a directory (os error 21)",
    );
}

#[test]
fn disks_that_may_not_be_used() {
    // Root ignores permissions, so this needs a file that cannot be written at
    // all.
    let dir = Scratch::new("forbidden");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    if rustix::process::geteuid().is_root() {
        dir.refuses(
            "4 vmlinux --block=/proc/version",
            120,
            "disk /proc/version: it has 0 bytes: a disk has one sector of 512 \
             at least",
        );
        return;
    }
    dir.write("disk", &[0; 512]);
    set_mode(&dir.path("disk"), 0o400);
    dir.refuses(
        "4 vmlinux --block=disk",
        120,
        "disk disk: it cannot be written (Permission denied (os error 13)): \
         to use it read-only, give it by 'lguest run --disk FILE,ro'",
    );
    dir.runs("run --disk disk,ro", "");
    set_mode(&dir.path("disk"), 0);
    dir.refuses(
        "4 vmlinux --block=disk",
        120,
        "disk disk: it cannot be opened: Permission denied (os error 13)",
    );
}

#[test]
fn too_much() {
    let dir = Scratch::new("too-much");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.refuses(
        &format!("4 vmlinux {}", "--block=x ".repeat(16)),
        2,
        "17 devices are too many: a guest has 16, its console among them; \
         leave some out",
    );
    dir.refuses(
        &format!("4 vmlinux {}", "quiet ".repeat(1000)),
        2,
        "the kernel's command line has 5999 bytes: shorten it to 4095",
    );
    let ours = format!("run --append={}", "x".repeat(4065));
    dir.refuses(
        &ours,
        2,
        "the kernel's command line has 4065 bytes: shorten it to 4064",
    );
    dir.runs(&ours[..ours.len() - 1], "");
}

#[test]
fn words() {
    let dir = Scratch::new("words");
    dir.refuses(
        "64",
        2,
        "no image: give a kernel after the memory size ('lguest 64 vmlinux')",
    );
    dir.refuses(
        "rum --kernel vmlinux",
        2,
        "there is no command 'rum': did you mean 'lguest run'?",
    );
    dir.refuses(
        "vmlinux root=/dev/lgba",
        2,
        "memory 'vmlinux' is not a size: give the size before the image \
         ('lguest 64 vmlinux'), or use named options ('lguest run --kernel \
         vmlinux')",
    );
    dir.refuses(
        "run vmlinux",
        2,
        "'vmlinux' belongs to no option: to give a kernel, write '--kernel \
         vmlinux'",
    );
    dir.refuses(
        "run --block=disk",
        2,
        "'--block' is an option of the old form: with 'run' it is '--disk \
         FILE'",
    );
    dir.refuses(
        "--kernel vmlinux",
        2,
        "'--kernel' is an option of 'lguest run': write 'run' before it",
    );
    dir.refuses(
        "run --net lan",
        2,
        "network 'lan' is not sharenet=FILE, stream=unix:PATH[,server], \
         stream=fd:N[,server], user[,publish=[ADDRESS:]PORT:PORT[/udp]]…\
         [,restrict[,allow=HOST:PORT[/udp]]…], tap=IP[/BITS], tap=fd:N, \
         bridge=BR or none: give one, \
         and behind it ',mac=ADDRESS', ',mtu=BYTES' (576 to 9000) or \
         ',pcap=FILE'",
    );
    dir.refuses(
        "--tunnet=bridge: 64 vmlinux",
        2,
        "tunnet 'bridge:' is neither an IP address nor bridge:BR: give one",
    );
}

#[test]
fn statistics() {
    let dir = Scratch::new("statistics");
    dir.write("vmlinux", &kernel(b"GenuineLguest"));
    dir.refuses(
        "4 vmlinux --stats=no/where",
        120,
        "statistics no/where: it cannot be written: No such file or directory \
         (os error 2)",
    );
    dir.refuses(
        "4 vmlinux --stats=.",
        120,
        "statistics .: it cannot be written: Is a directory (os error 21)",
    );
    // Nothing is created for a Guest that does not start.
    dir.refuses(
        "4 absent --stats=new",
        120,
        "image absent: it cannot be read: No such file or directory \
         (os error 2)",
    );
}

#[test]
fn a_core_of_no_guest() {
    let dir = Scratch::new("core");
    // It is found out behind the first walls.
    dir.write("native", &kernel(b"a kernel for real hardware"));
    for option in ["--core=new", "--core=./new", "--stats=new"] {
        let words = format!("run --kernel native {option}");
        let run = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(words.split_whitespace())
            .current_dir(&dir.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(120), "{option}");
        assert!(!dir.path("new").exists(), "{option}");
    }
}

/// An i386 executable with one piece at 1 MiB that holds `code`.
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 84];
    file[..6].copy_from_slice(b"\x7FELF\x01\x01");
    let mut put = |at: usize, word: u32| {
        file[at..at + 4].copy_from_slice(&word.to_le_bytes());
    };
    put(16, 0x0003_0002); // executable, i386
    put(28, 52); // program headers
    put(40, 0x0020_0034); // their size, the file header's before it
    put(44, 1); // how many
    let piece = [1, 84, 0xC010_0000, 0x10_0000];
    for (at, word) in (52..).step_by(4).zip(piece) {
        put(at, word);
    }
    let len = u32::try_from(code.len()).unwrap();
    put(68, len);
    put(72, 0x4_0000);
    file.extend_from_slice(code);
    file
}

/// A disk that is locked as another Launcher would lock it.
struct LockedDisk(fs::File);

/// Locks a disk. Blocks until it is free.
fn lock(path: &Path, read_only: bool) -> LockedDisk {
    let file = fs::File::open(path).unwrap();
    let kind = if read_only {
        FlockOperation::LockShared
    } else {
        FlockOperation::LockExclusive
    };
    flock(&file, kind).unwrap();
    LockedDisk(file)
}

impl Drop for LockedDisk {
    fn drop(&mut self) {
        // A child of another test may have a copy of the descriptor until it
        // runs a program, so closing it is not enough.
        flock(&self.0, FlockOperation::Unlock).unwrap();
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("lguest-bad-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `lguest` with these words, and compares its messages, its exit code
    /// and the directory.
    fn refuses(&self, words: &str, code: i32, message: &str) {
        let before = self.contents();
        let run = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(words.split_whitespace())
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(said, format!("lguest: {message}\n"), "lguest {words}");
        assert_eq!(run.status.code(), Some(code), "lguest {words}");
        assert!(run.stdout.is_empty(), "lguest {words}");
        assert_eq!(self.contents(), before, "lguest {words}");
    }

    /// The standard error of `lguest` with these words. Any exit code is right.
    /// The Guest has no time to do anything.
    fn says(&self, words: &str) -> String {
        let run = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(words.split_whitespace())
            // The time begins when the Guest is loaded.
            .arg("--timeout=200ms")
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(run.stderr).unwrap()
    }

    /// Checks that these words describe a Guest that can be loaded. It has no
    /// real kernel, so any end is right.
    fn loads(&self, words: &str) {
        let said = self.says(words);
        let ran = ["killed: ", "lost: ", "CRASH: ", "ended by --timeout"];
        assert!(ran.iter().any(|end| said.contains(end)), "{words}: {said}");
    }

    /// Runs `lguest` with these words, types `poweroff`, and compares standard
    /// error.
    fn runs(&self, words: &str, message: &str) {
        let mut run = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(words.split_whitespace())
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keyboard = run.stdin.take().unwrap();
        let _ = std::io::Write::write_all(&mut keyboard, b"poweroff\n");
        let run = run.wait_with_output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(said, message, "lguest {words}");
        assert_eq!(run.status.code(), Some(0), "lguest {words}");
    }

    fn contents(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut found: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(&path).ok()))
            .collect();
        found.sort();
        found
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
