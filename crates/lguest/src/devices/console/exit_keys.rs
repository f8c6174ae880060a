//! ^C^C^C, which ends the Launcher.
//!
//! A Guest gets every key, ^C included, so one ^C cannot end the Launcher.
//! Three within a second do, whatever the Guest does with them.

use std::time::{Duration, Instant};

/// The byte that ^C sends in raw mode.
const INTERRUPT: u8 = 3;

/// So many of them ...
const INTERRUPTS: usize = 3;

/// ... within this time end the Launcher.
const INTERRUPT_TIME: Duration = Duration::from_secs(1);

/// When the last ^Cs were typed on a terminal. In a file they mean nothing.
#[derive(Default)]
pub(super) struct ExitKeys(Vec<Instant>);

impl ExitKeys {
    /// Whether `read`, which has just been read, ends with the last of three ^C
    /// in a second with nothing else in between. That is hardly typed by
    /// accident. On a busy machine all three may come in one read, after other
    /// bytes.
    pub(super) fn are_typed(&mut self, read: &[u8], now: Instant) -> bool {
        let other = read.iter().rposition(|&byte| byte != INTERRUPT);
        if other.is_some() {
            self.0.clear();
        }
        self.0
            .retain(|&then| now.duration_since(then) < INTERRUPT_TIME);
        let typed = read.len() - other.map_or(0, |at| at + 1);
        self.0.extend(std::iter::repeat_n(now, typed));
        self.0.len() >= INTERRUPTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_count_only_alone_and_in_a_second() {
        let mut keys = ExitKeys::default();
        let start = Instant::now();
        let mut typed = |bytes: &[u8], ms: u64| {
            keys.are_typed(bytes, start + Duration::from_millis(ms))
        };
        assert!(!typed(b"\x03", 0));
        assert!(!typed(b"\x03", 400));
        assert!(!typed(b"\x03", 1001)); // the first is too old
        assert!(!typed(b"\x03\x03\x03x", 1002)); // a paste
        assert!(!typed(b"\x03", 1003));
        assert!(!typed(b"\x03", 1004));
        assert!(typed(b"\x03", 1005));
        assert!(!typed(b"x", 1006));
        assert!(!typed(b"\x03", 1007));
        assert!(typed(b"\x03\x03", 1008)); // the machine was busy
    }
}
