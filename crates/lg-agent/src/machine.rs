//! The machine: its clock and random pool after a restore.
//!
//! Two machines that go on from one snapshot have the same random pool. So
//! nothing may run before each has got bytes of its own.

use crate::files;
use crate::say;
use crate::sys::{self, Fd, flag};
use lg_exec::command::Restored;
use lg_exec::report::Hello;

/// How many bytes the kernel's generator makes at a time.
const BLOCK: usize = 64;

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
    stir(&pool, &restored.random);
}

/// Makes what the kernel's generator returns from now on depend on `secret`.
///
/// Since 4.8 a generator stands between the pool and its readers. It takes from
/// the pool every five minutes. Releases without the call for it do so at no
/// other time, and the call of many others takes from the generator itself. But
/// each read replaces the generator's key by what comes after the bytes that
/// were read. So reads whose lengths are secret lead to a key that is secret.
fn stir(pool: &Fd, secret: &[u8]) {
    let mut bytes = [0; BLOCK * 16];
    for digit in secret.iter().flat_map(|byte| [byte & 15, byte >> 4]) {
        let length = BLOCK * (usize::from(digit) + 1);
        let _ = sys::read(pool, &mut bytes[..length]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;
    use std::os::fd::IntoRawFd;

    #[test]
    fn reads_of_the_generator_have_secret_lengths() {
        // The position of a long file says how much was read.
        let mut file = std::fs::File::open("/proc/self/exe").unwrap();
        let number = file.try_clone().unwrap().into_raw_fd();
        let pool = Fd::inherited(number.try_into().unwrap());
        let mut read = |secret: &[u8]| {
            file.rewind().unwrap();
            stir(&pool, secret);
            file.stream_position().unwrap()
        };
        assert_eq!(read(&[]), 0);
        assert_eq!(read(&[0x00]), 2 * 64);
        assert_eq!(read(&[0x01]), 3 * 64);
        assert_eq!(read(&[0xf0, 0x2f]), (1 + 16 + 16 + 3) * 64);
    }
}
