//! Words for what is in a trace.
//!
//! The numbers in a record may be anything, and there are words for each.

use lg_abi::call::CallName;
use lg_wire::mailbox::Request;
use lg_wire::trace::{
    Event, FROM_RING, Kind, PATCHES, TRAMPOLINES, cause, group, wait,
};

/// The names of all groups, for a person.
pub const GROUPS: [&str; group::NAMES.len()] = {
    let mut names = [""; group::NAMES.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = group::NAMES[n].0;
        n += 1;
    }
    names
};

/// The groups with these names, as bits; all of them if there is no name.
///
/// # Errors
///
/// The name that is none.
pub fn groups<T: AsRef<str>>(names: &[T]) -> Result<u32, &str> {
    if names.is_empty() {
        return Ok(group::ALL);
    }
    let mut groups = 0;
    for name in names {
        let name = name.as_ref();
        let named = group::NAMES.iter().find(|(known, _)| *known == name);
        groups |= named.ok_or(name)?.1;
    }
    Ok(groups)
}

/// The name of the group of `kind`.
pub(super) fn group_of(kind: Kind) -> &'static str {
    let named = group::NAMES.iter().find(|(_, bit)| *bit == kind.group());
    named.map_or("samples", |(name, _)| name)
}

/// What has happened, in a few words.
pub(super) fn title(event: &Event) -> String {
    let Event { kind, detail, .. } = *event;
    match kind {
        Kind::Exit => exit(detail),
        Kind::Hypercall => {
            match CallName::ALL.get(usize::from(detail & 0xFF)) {
                Some(call) => call.text().into(),
                None => format!(
                    "hypercall {}, which does not exist",
                    event.words[0]
                ),
            }
        }
        Kind::Trap => trap(detail),
        Kind::Raised => format!("interrupt {detail} raised"),
        Kind::Delivered => format!("interrupt {detail} delivered"),
        Kind::Dropped => format!("interrupt {detail} dropped: no handler"),
        Kind::Waits => match detail {
            wait::OFF => "interrupts wait: switched off".into(),
            wait::BLOCKED => "interrupts wait: blocked".into(),
            wait::NO_IRQ => "interrupts wait: noirq code".into(),
            _ => "interrupts wait".into(),
        },
        Kind::Mapped => "map".into(),
        Kind::Unmapped if detail == 1 => "hide".into(),
        Kind::Unmapped => "unmap".into(),
        Kind::Patched => format!("patch: {}", nth(&PATCHES, detail)),
        Kind::Request => match Request::from_number(detail.into()) {
            Some(request) => request.text().into(),
            None => format!("request {detail}"),
        },
        Kind::Directory => "page directory".into(),
        Kind::Sleep => "sleep".into(),
        Kind::Sample => "sample".into(),
        Kind::Frames => "frames".into(),
    }
}

fn nth(names: &[&'static str], n: u16) -> &'static str {
    names.get(usize::from(n)).copied().unwrap_or("unknown")
}

/// Why the Guest has stopped.
fn exit(detail: u16) -> String {
    let low = detail & 0xFF;
    match detail & !0xFF {
        cause::TRAP => trap(low),
        cause::TRAMPOLINE => format!("trampoline: {}", nth(&TRAMPOLINES, low)),
        cause::SYSTEM_CALL => "system call".into(),
        cause::STRAY_SYSTEM_CALL => "sysenter or syscall".into(),
        cause::LONG_MODE => "64-bit mode".into(),
        cause::CROSSING => "crossing stopped".into(),
        cause::KICK => "kick".into(),
        _ => format!("cause {detail:#x}"),
    }
}

/// The name of a trap.
fn trap(vector: u16) -> String {
    let name = match vector {
        0 => "divide error",
        1 => "debug",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bounds",
        6 => "invalid opcode",
        7 => "no FPU",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment",
        19 => "SIMD error",
        0x80 => "system call",
        _ => return format!("trap {vector}"),
    };
    name.into()
}

/// The words of an event by name.
pub(super) fn arguments(event: &Event) -> Vec<(&'static str, String)> {
    let [a, b, c] = event.words;
    let hex = |word: u32| format!("{word:#x}");
    let number = |word: u32| word.to_string();
    match event.kind {
        Kind::Exit if event.detail == cause::TRAP | 14 => {
            vec![("error", hex(a)), ("address", hex(b))]
        }
        Kind::Exit if event.detail & !0xFF == cause::TRAP => {
            vec![("error", hex(a))]
        }
        Kind::Exit | Kind::Sleep | Kind::Frames => Vec::new(),
        Kind::Hypercall => {
            let from_ring = event.detail & FROM_RING != 0;
            let way = if from_ring { "ring" } else { "direct" };
            let mut all = vec![("way", way.into())];
            all.extend([("ebx", hex(a)), ("ecx", hex(b)), ("edx", hex(c))]);
            all
        }
        Kind::Trap => {
            let mut all = vec![("error", hex(a)), ("handler", hex(b))];
            if event.detail == 14 {
                all.push(("address", hex(c)));
            }
            all
        }
        Kind::Raised => {
            let by = match a {
                0 => "timer",
                2 => "host",
                _ => "launcher",
            };
            vec![("by", by.into())]
        }
        Kind::Delivered => vec![("handler", hex(a)), ("raised", hex(b))],
        Kind::Dropped => Vec::new(),
        Kind::Waits => vec![
            ("raised", hex(a)),
            ("blocked", hex(b)),
            ("irq_enabled", hex(c)),
        ],
        Kind::Mapped => vec![
            ("virtual", hex(a)),
            ("physical", hex(b)),
            ("pages", number(c)),
            ("write", number(event.detail.into())),
        ],
        Kind::Unmapped => vec![("virtual", hex(a)), ("pages", number(c))],
        Kind::Patched => vec![("site", hex(a)), ("bytes", number(b))],
        Kind::Request => vec![("first", hex(a)), ("second", hex(b))],
        Kind::Directory => vec![("directory", hex(a))],
        Kind::Sample => vec![("directory", hex(a)), ("frames", number(b))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_list_of_names() {
        assert_eq!(groups::<&str>(&[]), Ok(group::ALL));
        let some = groups(&["traps", "sleep"]);
        assert_eq!(some, Ok(group::TRAPS | group::SLEEP));
        assert_eq!(groups(&["traps", "samples"]), Err("samples"));
        assert_eq!(groups(&GROUPS), Ok(group::ALL));
    }

    /// Whatever a Guest writes, there are words for it.
    #[test]
    fn every_event_has_words() {
        for &kind in Kind::ALL {
            for detail in (0..1000).chain([u16::MAX]) {
                let event = Event {
                    kind,
                    user: false,
                    detail,
                    eip: 0,
                    words: [u32::MAX; 3],
                };
                assert!(!title(&event).is_empty());
                assert!(arguments(&event).len() <= 4);
            }
        }
    }
}
