//! From the image to the end: kernels, sizes of memory, disks, ways out.

use crate::kit::{
    BZIMAGE, Given, INITRD, Machine, ROOTFS, Scratch, VMLINUX, is_clean, skip,
};
use std::os::unix::fs::FileExt;

#[test]
fn vmlinux_boots_and_powers_off() {
    let test = "vmlinux_boots_and_powers_off";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let ended = given.run(64, &[], "cat /proc/cpuinfo");
    ended.must_have_said("Booting paravirtualized kernel on lguest");
    ended.must_have_said("Power down");
}

#[test]
fn bzimage_boots_and_powers_off() {
    let test = "bzimage_boots_and_powers_off";
    let Some(given) = Given::to(test, &[BZIMAGE, INITRD]) else {
        return;
    };
    let initrd = format!("--initrd={}", given.path(INITRD).display());
    let kernel = given.path(BZIMAGE).display().to_string();
    let words = [initrd.as_str(), "64", &kernel, "console=hvc0", "test=true"];
    let ended = Machine::start(&words.map(str::to_owned)).end();
    ended.must_have_said("RUN-EXIT 0");
}

#[test]
fn memory_is_what_was_asked_for() {
    let test = "memory_is_what_was_asked_for";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let most = given.most_megabytes();
    for megabytes in [given.least_megabytes(), 64, 256, most] {
        let ended = given.run(megabytes, &[], "/tests/filetest /tmp/f 2");
        ended.must_have_said("FILETEST PASS");
        let end = u64::from(megabytes) << 20;
        let old = format!(" - {end:016x} (usable)");
        let new = format!("-{:#018x}] usable", end - 1);
        let told = ended.shown.contains(&old) || ended.shown.contains(&new);
        assert!(told, "neither {old:?} nor {new:?}: {}", ended.shown);
    }
    // All of it, touched.
    let fill = "dd if=/dev/zero of=/tmp/x bs=1M count=400; cksum /tmp/x";
    let ended = given.run(most, &[], fill);
    ended.must_have_said("2435306624 419430400 /tmp/x");
}

#[test]
fn an_initrd_is_found_with_more_memory_than_is_mapped() {
    let test = "an_initrd_is_found_with_more_memory_than_is_mapped";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let ended = given.run(1008, &[], "free");
    // A kernel without CONFIG_HIGHMEM does not use the rest of the memory. Up
    // to Linux 3.19 it looks for its devices at the end of the part that it
    // uses, and so has no console. Those with virtio devices then end by a
    // panic. Since 4.0 it finds its devices on the PCI bus.
    let all_is_mapped = !ended.shown.contains("Use a HIGHMEM enabled kernel.");
    if all_is_mapped || given.has_pci() {
        ended.must_have_said("RUN-EXIT 0");
    } else {
        let code = if given.is_of_2007() { 0 } else { 1 };
        assert_eq!(ended.code, code, "{}", ended.shown);
    }
}

#[test]
fn a_disk_can_be_the_root() {
    let test = "a_disk_can_be_the_root";
    let Some(given) = Given::to(test, &[VMLINUX, ROOTFS]) else {
        return;
    };
    let scratch = Scratch::new("root");
    let disk = scratch.path("disk");
    std::fs::copy(given.path(ROOTFS), &disk).unwrap();
    let kernel = given.path(VMLINUX).display().to_string();
    let words = [
        &format!("--block={}", disk.display()),
        "64",
        &kernel,
        "console=hvc0",
        &format!("root={}a", given.disks()),
        "rw",
        "init=/init",
        "test=/tests/filetest,/f,4;echo,KEPT>/g",
    ];
    let ended = Machine::start(&words.map(str::to_owned)).end();
    ended.must_have_said("FILETEST PASS");
    match is_clean(&disk) {
        Some(clean) => assert!(clean, "the file system is not clean"),
        None => skip(test, "there is no e2fsck to check the disk"),
    }
}

#[test]
fn a_disk_is_the_same_without_its_fast_paths() {
    let test = "a_disk_is_the_same_without_its_fast_paths";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("short-cuts");
    let (from, to) = (scratch.path("from"), scratch.path("to"));
    let words = 0..(4_u32 << 20) / 4;
    let contents: Vec<u8> = words
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(&from, &contents).unwrap();
    let copied_without = |name: &str| {
        std::fs::write(&to, vec![0; contents.len()]).unwrap();
        let disks = [&from, &to].map(|d| format!("--block={}", d.display()));
        let stats = format!("--stats={}", scratch.path("stats").display());
        let without = format!("--no-fast-path={name}");
        let mut options = vec![disks[0].as_str(), &disks[1], &stats];
        if !name.is_empty() {
            options.push(&without);
        }
        let mut machine = given.shell(&options);
        let name = given.disks();
        machine.command(&format!("dd if={name}a of={name}b bs=64k; sync"));
        machine.type_in("poweroff -f\r");
        assert_eq!(machine.end().code, 0, "without {name:?}");
        assert!(std::fs::read(&to).unwrap() == contents, "without {name:?}");
        std::fs::read_to_string(scratch.path("stats")).unwrap()
    };
    // Some kernels have no slots for trampolines. But a trampoline that was
    // switched off must not be used.
    assert!(!copied_without("").contains("\"at_once\": 0"));
    assert!(!copied_without("hypercall").contains("\"store_trampolines\""));
    assert!(!copied_without("enabling").contains("\"enabling_trampolines\""));
    let stats = copied_without("");
    if stats.contains("\"device_accesses\"") {
        assert!(stats.contains("\"accessor_trampolines\""), "{stats}");
    }
    let stats = copied_without("accessors");
    assert!(!stats.contains("\"accessor_trampolines\""), "{stats}");
    assert!(!copied_without("disk-reads").contains("\"disk_reads\""));
    for name in ["lazy-timer", "disk-at-once", "read-ahead", "no-kick"] {
        copied_without(name);
    }
}

#[test]
fn several_disks_keep_their_order_and_contents() {
    let test = "several_disks_keep_their_order_and_contents";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("disks");
    let disks = ["a", "b", "c", "d", "e"].map(|name| scratch.path(name));
    for (i, disk) in disks.iter().enumerate() {
        let mut contents = vec![0; (i + 1) << 20];
        let mark = format!("disk number {i}\n");
        contents[..mark.len()].copy_from_slice(mark.as_bytes());
        std::fs::write(disk, contents).unwrap();
    }
    let options = disks
        .iter()
        .map(|disk| format!("--block={}", disk.display()))
        .collect::<Vec<_>>();
    let options = options.iter().map(String::as_str).collect::<Vec<_>>();
    let mut machine = given.shell(&options);
    for (i, letter) in "abcde".chars().enumerate() {
        let disk = format!("{}{letter}", given.disks());
        let said = machine.command(&format!("head -n 1 {disk}"));
        assert_eq!(said, format!("disk number {i}\n"));
        let entry = disk.replace("/dev", "/sys/block");
        let size = machine.command(&format!("cat {entry}/size"));
        assert_eq!(size, format!("{}\n", (i + 1) * 2048));
        machine.command(&format!(
            "echo written {i} | dd of={disk} bs=512 seek=3 conv=sync"
        ));
    }
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
    for (i, disk) in disks.iter().enumerate() {
        let mut bytes = [0; 9];
        let file = std::fs::File::open(disk).unwrap();
        file.read_exact_at(&mut bytes, 3 * 512).unwrap();
        assert_eq!(bytes, *format!("written {i}").as_bytes());
    }
}

#[test]
fn a_panic_ends_with_its_message_and_code_1() {
    let test = "a_panic_ends_with_its_message_and_code_1";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let ended = given.run(64, &[], "exec /bin/false");
    // Later kernels add the exit code.
    let last = ended.shown.lines().last().unwrap_or_default();
    let wanted = "lguest: CRASH: Attempted to kill init!";
    assert!(last.starts_with(wanted), "{}", ended.shown);
    assert_eq!(ended.code, 1);
}

#[test]
fn a_kernel_without_a_root_panics() {
    let test = "a_kernel_without_a_root_panics";
    let Some(given) = Given::to(test, &[VMLINUX]) else {
        return;
    };
    let kernel = given.path(VMLINUX).display().to_string();
    let words = ["32", &kernel, "console=hvc0"].map(str::to_owned);
    let ended = Machine::start(&words).end();
    let last = "lguest: CRASH: VFS: Unable to mount root fs on \
                unknown-block(0,0)\n";
    assert!(ended.shown.ends_with(last), "{}", ended.shown);
    assert_eq!(ended.code, 1);
}
