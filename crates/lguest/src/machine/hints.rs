//! Warnings about what Linux will do and its user may not expect.
//!
//! A kernel may start, and then cut its command line or run out of memory
//! without a message. If that can be foreseen, there is a warning, and the
//! Guest starts all the same: the warning may be wrong.

use crate::loader::{self, Image, Release};
use crate::machine::config::{Config, Kernel};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Memory that Linux needs beside its kernel and an initrd, packed and
/// unpacked.
const LINUX_ITSELF: u64 = 2 << 20;

/// With more memory than this, there is no warning.
const PLENTY: u64 = 256 << 20;

/// The longest command line that every release reads.
const SHORT_LINE: usize = 255;

/// The warnings before the Guest starts.
pub(super) fn about(
    config: &Config,
    kernel: &Image,
    initrd: Option<&File>,
) -> Vec<String> {
    if config.kernel == Kernel::Embedded {
        return Vec::new();
    }
    let memory = u64::from(config.memory);
    let long = config.command_line.len() > SHORT_LINE;
    let needed = initrd
        .filter(|_| memory < PLENTY)
        .and_then(|initrd| needed(kernel, initrd))
        .filter(|&needed| memory < needed);
    if !long && needed.is_none() {
        return Vec::new();
    }
    // This reads the whole kernel.
    let Some(release) = loader::release(kernel) else {
        return Vec::new();
    };
    let line = cut(&release, &config.command_line);
    let memory = needed.map(|needed| too_little(&release, memory, needed));
    line.into_iter().chain(memory).collect()
}

/// The warning about a command line that `release` does not read to its end.
fn cut(release: &Release, line: &[u8]) -> Option<String> {
    let most = release.command_line_bytes()?;
    let read = line.get(..most).filter(|read| read.len() < line.len())?;
    let last = read.rsplit(|&byte| byte == b' ').next().unwrap_or(read);
    let last = String::from_utf8_lossy(last).escape_debug().to_string();
    let len = line.len();
    Some(format!(
        "the kernel's command line has {len} bytes, and {release} reads the \
         first {most} of them, up to '{last}': shorten it"
    ))
}

/// The bytes of memory that Linux needs to unpack its initrd, a whole number of
/// megabytes. With less it hangs without a message.
fn needed(kernel: &Image, initrd: &File) -> Option<u64> {
    let packed = initrd.metadata().ok()?.len();
    let needed = loader::kernel_end(kernel)?
        + packed
        + unpacked(initrd, packed)
        + LINUX_ITSELF;
    Some(needed.next_multiple_of(1 << 20))
}

fn too_little(release: &Release, memory: u64, needed: u64) -> String {
    format!(
        "{} MB of memory are little: {release} may hang without a word when \
         it unpacks this initrd; give it {} MB",
        memory >> 20,
        needed >> 20
    )
}

/// The size of an initrd when it is unpacked, as its headers give it.
fn unpacked(initrd: &File, packed: u64) -> u64 {
    let (mut magic, mut size) = ([0; 2], [0; 4]);
    let gzip = initrd.read_exact_at(&mut magic, 0).is_ok()
        && magic == [0x1F, 0x8B]
        && initrd
            .read_exact_at(&mut size, packed.saturating_sub(4))
            .is_ok();
    if gzip {
        u64::from(u32::from_le_bytes(size))
    } else {
        packed
    }
}
