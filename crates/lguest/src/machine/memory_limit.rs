//! `--memory-limit`: a thread that ends a machine which takes too much memory.
//!
//! It adds up what the kernel has given to the Launcher and to the files that
//! the views share, and about what the views cost the kernel. Far from the
//! limit it looks once a second. A control group would be exact, but it ends a
//! process without a word, and a confined Launcher can neither make nor remove
//! one (docs/design-decisions.md).

use super::ending::Ending;
use super::signals;
use crate::cli::exit::Outcome;
use crate::engine::Engine;
use crate::thread;
use lg_abi::page::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// Bytes a second that a Guest takes at most: pages have to be cleared.
const FASTEST: u32 = 2 << 30;

/// The shortest time between two looks. A Guest that takes memory as fast as it
/// can is about 10 MB above its limit when this is noticed.
const SHORTEST: Duration = Duration::from_millis(5);

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// Starts the thread for a limit of so many bytes.
pub(super) fn start(
    limit: NonZeroU64,
    ours: Ours,
    guest: Arc<dyn Engine>,
    ending: &Ending,
) -> io::Result<()> {
    let ending = ending.clone();
    thread::start("memory limit", 128 << 10, move || {
        let limit = limit.get();
        let (guests, own) = loop {
            let (guests, own) = (guest.taken_bytes(), ours.bytes());
            let Some(left) = limit.checked_sub(guests.saturating_add(own))
            else {
                break (guests, own);
            };
            std::thread::sleep(lasts(left));
            if guest.death().is_some() {
                return;
            }
        };
        // If the Guest is being ended already, that continues.
        if !ending.has_begun() {
            let reason = reason(limit, guests, own);
            signals::end(Outcome::TooMuchMemory, &reason, &ending);
        }
    })?;
    Ok(())
}

/// How long `left` bytes last at least.
fn lasts(left: u64) -> Duration {
    let time = Duration::from_secs(left) / FASTEST;
    time.clamp(SHORTEST, LONGEST)
}

/// Why a machine is ended, and what to do.
fn reason(limit: u64, guest: u64, ours: u64) -> String {
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    format!(
        "by --memory-limit: the guest and its processes take {} MB, the \
         launcher {} MB, and the limit is {} MB: raise it, or give the guest \
         less by --memory",
        mb(guest),
        mb(ours),
        limit >> 20,
    )
}

/// The Launcher's own memory. Without `/proc` it counts as nothing.
pub(super) struct Ours(Option<File>);

impl Ours {
    /// A confined Launcher cannot open the file, but read it.
    pub(super) fn open() -> Self {
        Self(File::open("/proc/self/statm").ok())
    }

    /// Bytes of memory that belong to no file.
    fn bytes(&self) -> u64 {
        let mut text = [0; 128];
        let read = self.0.as_ref().map(|file| file.read_at(&mut text, 0));
        let Some(Ok(len)) = read else {
            return 0;
        };
        let text = text.get(..len).unwrap_or_default();
        let pages = pages_of_no_file(&String::from_utf8_lossy(text));
        pages.unwrap_or(0).saturating_mul(PAGE_SIZE.into())
    }
}

/// The resident pages in the text of `statm` without those of files: the second
/// number without the third.
fn pages_of_no_file(text: &str) -> Option<u64> {
    let mut numbers = text.split_whitespace().skip(1);
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let resident = next()?;
    Some(resident.saturating_sub(next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_comes_before_the_memory_can_be_taken() {
        let ms = Duration::from_millis;
        assert_eq!(lasts(0), SHORTEST);
        assert_eq!(lasts(1 << 30), ms(500));
        assert_eq!(lasts(64 << 20), Duration::from_micros(31_250));
        assert_eq!(lasts(u64::from(u32::MAX)), LONGEST);
    }

    #[test]
    fn memory_of_files_is_counted_where_the_files_are() {
        assert_eq!(pages_of_no_file("900 70 30 1 0 20 0\n"), Some(40));
        assert_eq!(pages_of_no_file("900 70"), None);
        assert_eq!(pages_of_no_file(""), None);
        let ours = Ours::open().bytes();
        assert!((100 << 10..1 << 30).contains(&ours), "{ours}");
    }

    #[test]
    fn the_message_says_what_was_taken_and_what_to_do() {
        let words = reason(64 << 20, 65 << 20, 3 << 20);
        let expected = "by --memory-limit: the guest and its processes take 65 \
                        MB, the launcher 3 MB, and the limit is 64 MB: raise \
                        it, or give the guest less by --memory";
        assert_eq!(words, expected);
    }
}
