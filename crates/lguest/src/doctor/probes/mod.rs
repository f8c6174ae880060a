//! The table of probes, and the probes by topic.
//!
//! Each probe is a function that answers with a [`Finding`]: what was seen,
//! what follows from it, and what to do. A probe leaves nothing behind. What
//! would change this process is done in a copy of it, and an interface that was
//! made is removed again.

mod calls;

mod files;

mod guests;

mod memory;

mod network;

mod processor;

mod tools;

mod walls;

use super::finding::{Finding, Probe};

/// All probes, in the order of importance: first what Guests need, then what
/// makes them safe, fast and connected, then what developers use.
pub(super) const ALL: &[Probe] = &[
    needed("kernel", calls::kernel),
    needed("fsgsbase", processor::fsgsbase),
    needed("calls", calls::calls),
    needed("32-bit code", processor::code_segment),
    needed("32-bit calls", processor::calls_of_32_bits),
    needed("ldt", processor::ldt),
    needed("memory files", memory::memory_files),
    needed("write+execute", memory::write_and_execute),
    needed("seccomp", calls::seccomp),
    needed("descriptors", guests::descriptors),
    needed("guest", guests::guest),
    useful("isolation", guests::user_processes),
    useful("landlock", walls::landlock),
    useful("namespaces", walls::namespaces),
    useful("capabilities", walls::capabilities),
    useful("tracing", walls::tracing),
    useful("processes", guests::processes),
    useful("address space", memory::address_space),
    useful("mappings", memory::mappings),
    useful("low memory", memory::low_memory),
    useful("locked memory", memory::locked_memory),
    useful("overcommit", memory::overcommit),
    useful("clock", processor::time_stamp_counter),
    useful("processors", processor::processors),
    useful("huge pages", memory::huge_pages),
    useful("keys", processor::protection_keys),
    useful("io_uring", calls::io_uring),
    useful("tap", network::tap),
    useful("net namespace", network::net_namespace),
    useful("passt", || {
        tools::tool(
            "passt",
            "no network without root to the outside (--net user)",
            "the package passt has it",
        )
    }),
    useful("i686 compiler", tools::compiler),
    useful("mke2fs", || tools::tool("mke2fs", NO_IMAGES, E2FSPROGS)),
    useful("debugfs", || tools::tool("debugfs", NO_IMAGES, E2FSPROGS)),
    useful("ip", || {
        tools::tool("ip", "the tests with taps are skipped", "iproute2 has it")
    }),
    useful("qemu", || {
        tools::tool(
            "qemu-system-i386",
            "benchmarks do not compare with QEMU",
            "qemu-system-x86 has it",
        )
    }),
];

/// What follows when a program of e2fsprogs is missing, and the cure.
const NO_IMAGES: &str = "no images (lguest image build), and the tests with \
                         disks are skipped";
const E2FSPROGS: &str = "`apt-get install e2fsprogs`, `dnf install e2fsprogs`";

const fn needed(name: &'static str, look: fn() -> Finding) -> Probe {
    Probe {
        name,
        needed: true,
        look,
    }
}

const fn useful(name: &'static str, look: fn() -> Finding) -> Probe {
    Probe {
        name,
        needed: false,
        look,
    }
}
