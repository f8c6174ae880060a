//! The machine: its clock and random pool after a restore.
//!
//! Two machines that go on from one snapshot have the same random pool. So
//! nothing may run before each has got bytes of its own.

use crate::files;
use crate::say;
use crate::sys::{self, flag};
use lg_exec::command::Restored;
use lg_exec::report::Hello;

/// Sets the clock, and gives the kernel random bytes.
pub fn restored(restored: &Restored) {
    if let Err(why) = sys::set_time(restored.seconds, restored.nanoseconds) {
        say(&alloc::format!("the clock cannot be set: {}", why.words()));
    }
    // /dev/random and /dev/urandom have the same calls. Releases up to 4.7 have
    // a pool for the latter, which gets what is written to it; later ones take
    // bytes over when they are told to.
    let Ok(pool) = sys::open(c"/dev/urandom", flag::O_RDWR, 0) else {
        return say("there is no /dev/urandom: the pool is as it was");
    };
    let written = sys::write(&pool, &restored.random);
    let added = sys::add_random(&pool, &restored.random);
    if let Err(why) = written.and(added) {
        // Before 4.17 there is no call to take bytes over at once.
        if why != sys::Errno::INVAL {
            say(&alloc::format!("the random pool: {}", why.words()));
        }
    }
}

/// What the agent says first.
#[must_use]
pub fn hello(init: bool) -> Hello {
    Hello {
        version: lg_exec::VERSION,
        oldest: lg_exec::OLDEST,
        features: 0,
        init,
        boot_id: boot_id(),
    }
}

fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = files::read(c"/proc/sys/kernel/random/boot_id", 64);
    let text = text.unwrap_or_default();
    let digits = text.iter().filter_map(|&b| char::from(b).to_digit(16));
    for (n, digit) in digits.take(32).enumerate() {
        let digit = u8::try_from(digit).unwrap_or(0);
        id[n / 2] |= digit << (4 * (1 - n % 2));
    }
    id
}
