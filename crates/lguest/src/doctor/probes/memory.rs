//! Memory: files of it, mappings, limits and huge pages.
//!
//! Memory files are made, mapped and executed. Limits are read from `/proc`
//! and from the process.

use super::super::attempt;
use super::super::finding::Finding;
use super::files::number;
use crate::engine::no_program;
use crate::memory::{GuestMemory, HUGE_PAGE, executable_file, sealed_file};
use crate::needs::{self, Cause, Lack};
use lg_abi::page::PAGE_SIZE;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::Resource;
use std::fs;
use std::io::{self, Write};

pub(super) fn memory_files() -> Finding {
    const CONSEQUENCE: &str =
        "a guest's memory and its first program are such files";
    const CURE: &str = "set vm.memfd_noexec to 0 or 1; a container must allow \
                        memfd_create and execveat";
    let lacks = |lack: &Lack| Finding::of_lack(lack, CONSEQUENCE);
    if let Err(error) = sealed_file("lguest-doctor", PAGE_SIZE.into()) {
        return lacks(&Lack::when("make memory files", error));
    }
    let program = match executable_file("lguest-doctor") {
        Ok(file) => fs::File::from(file),
        Err(error) => return lacks(&no_program(error)),
    };
    if let Err(error) = (&program).write_all(NOTHING_BUT_AN_END) {
        return lacks(&Lack::when("write memory files", error));
    }
    match attempt::in_a_copy(|| attempt::run_program(&program)) {
        Ok(()) => Finding::ok("can be sealed and executed"),
        Err(failure) => Finding::lacks(
            format!("none can be executed ({failure})"),
            CONSEQUENCE,
            failure.cure(CURE),
        ),
    }
}

pub(super) fn write_and_execute() -> Finding {
    const CONSEQUENCE: &str = "a guest's pages are both written and executed";
    let flags = MemfdFlags::CLOEXEC;
    let tried = rustix::fs::memfd_create("lguest-doctor", flags)
        .and_then(attempt::write_and_execute);
    let doing = "map memory that is written and executed";
    match tried {
        Ok(()) => Finding::ok("memory may be both written and executed"),
        Err(Errno::ACCESS | Errno::PERM) => Finding::of_lack(
            &Lack::new(doing, Cause::WriteExecute),
            CONSEQUENCE,
        ),
        Err(error) => Finding::of_lack(&Lack::when(doing, error), CONSEQUENCE),
    }
}

/// A program of 64 bits that ends with status 0: headers of an ELF file, and
/// `xor edi, edi; mov eax, 231; syscall`.
const NOTHING_BUT_AN_END: &[u8; 129] = &{
    let mut file = [0; 129];
    let parts: [(usize, &[u8]); 12] = [
        (0, b"\x7fELF\x02\x01\x01"),
        (16, &[2, 0, 62, 0, 1]),
        (24, &[0x78, 0, 0x40]),
        (32, &[64]),
        (52, &[64, 0, 56, 0, 1]),
        (64, &[1, 0, 0, 0, 5]),
        (80, &[0, 0, 0x40]),
        (88, &[0, 0, 0x40]),
        (96, &[129]),
        (104, &[129]),
        (112, &[0, 16]),
        (120, &[0x31, 0xFF, 0xB8, 231, 0, 0, 0, 0x0F, 5]),
    ];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut i = 0;
        while i < bytes.len() {
            file[at + i] = bytes[i];
            i += 1;
        }
        part += 1;
    }
    file
};

pub(super) fn address_space() -> Finding {
    /// The 4 GiB of a Guest, its memory once more, and ours.
    const PLENTY: u64 = 16 << 30;
    match needs::limit(Resource::As) {
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{} MiB for each process", limit >> 20),
            "large guests do not fit, and small ones may stop when they use \
             more memory",
            "lift it (`ulimit -v unlimited`)",
        ),
        _ => Finding::ok("no limit that matters"),
    }
}

pub(super) fn mappings() -> Finding {
    const USUAL: u64 = 65530;
    match number("/proc/sys/vm/max_map_count") {
        Some(count) if count >= USUAL => {
            Finding::ok(format!("{count} for each process"))
        }
        None => Finding::ok("unknown: /proc is not mounted"),
        Some(count) => Finding::degraded(
            format!("{count} for each process"),
            "a guest whose memory is in many pieces is slower: mappings are \
             dropped and made again",
            "raise vm.max_map_count",
        ),
    }
}

pub(super) fn low_memory() -> Finding {
    /// The lowest address of programs in Linux and other kernels.
    const LOWEST_PROGRAM: u64 = 64 << 10;
    match number("/proc/sys/vm/mmap_min_addr") {
        Some(lowest) if lowest > LOWEST_PROGRAM => Finding::degraded(
            format!("{} KiB are never mapped", lowest >> 10),
            "a guest's programs cannot be mapped there",
            "lower vm.mmap_min_addr to 65536",
        ),
        Some(lowest) => {
            Finding::ok(format!("{} KiB are never mapped", lowest >> 10))
        }
        None => Finding::ok("unknown: /proc is not mounted"),
    }
}

pub(super) fn locked_memory() -> Finding {
    // Reported because users ask for it. No memory of a Guest is locked.
    match needs::limit(Resource::Memlock) {
        Some(limit) => {
            Finding::ok(format!("{} KiB, and not used", limit >> 10))
        }
        None => Finding::ok("no limit, and not used"),
    }
}

pub(super) fn overcommit() -> Finding {
    const STRICT: u64 = 2;
    match number("/proc/sys/vm/overcommit_memory") {
        Some(STRICT) => Finding::degraded(
            "never",
            "each view counts as if it used all the memory that it may map",
            "set vm.overcommit_memory to 0",
        ),
        Some(_) => Finding::ok("memory counts only when it is used"),
        None => Finding::ok("unknown: /proc is not mounted"),
    }
}

/// Makes a huge page of memory that is in use, as is done for Guests.
pub(super) fn huge_pages() -> Finding {
    let make = || -> io::Result<()> {
        let memory = GuestMemory::new(HUGE_PAGE, 1)?;
        for page in (0..HUGE_PAGE).step_by(PAGE_SIZE as usize) {
            memory.write(page, &[1]).map_err(io::Error::other)?;
        }
        memory.collapse(0)
    };
    match make() {
        Ok(()) => Finding::ok("2 MiB that a guest has used become one"),
        Err(error) => Finding::degraded(
            format!("none can be made ({error})"),
            "programs that go through much memory are slower",
            "run Linux 6.1 or later, and do not write 'deny' to \
             /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
    }
}
