//! Events of user code, as arguments of the call in which a user process waits.
//!
//! An event is three arguments of the waiting call. User code that has reached
//! 64-bit mode can make that call itself, with any arguments. So whatever the
//! arguments are, they are decoded into an event that user code could have
//! caused anyway.

use lg_host::host::Event;
use lg_host::patch::TrampolineKind;

// The kind of an event: the first argument.
const TRAP: u64 = 1;
const SYSTEM_CALL: u64 = 2;
const STRAY_SYSTEM_CALL: u64 = 3;
const LONG_MODE: u64 = 4;
const ENTRY_PAGE: u64 = 5;
const KICK: u64 = 6;

/// The vectors of traps that user code can cause on a real processor.
const VECTORS: u32 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 16
    | 1 << 17
    | 1 << 19;

/// The arguments that report `event`.
pub(crate) fn encode(event: Event) -> [u64; 3] {
    match event {
        Event::Trap { vector, error, cr2 } => {
            let kind = TRAP | u64::from(vector) << 8;
            [kind, u64::from(error), u64::from(cr2)]
        }
        Event::SystemCall => [SYSTEM_CALL, 0, 0],
        Event::StraySystemCall => [STRAY_SYSTEM_CALL, 0, 0],
        Event::Trampoline(TrampolineKind::EntryPage) => [ENTRY_PAGE, 0, 0],
        Event::Kick => [KICK, 0, 0],
        Event::Trampoline(_) | Event::Crossing | Event::LongMode => {
            [LONG_MODE, 0, 0]
        }
    }
}

/// The event that a user process reports. Whatever it reports, the event is one
/// that user code can cause.
#[expect(clippy::cast_possible_truncation, reason = "a real event fits")]
pub(crate) fn decode([kind, error, cr2]: [u64; 3]) -> Event {
    let vector = (kind >> 8) as u8;
    match kind & 0xFF {
        TRAP if vector < 32 && VECTORS >> vector & 1 != 0 => Event::Trap {
            vector,
            error: error as u32 & 0xFFFF,
            cr2: cr2 as u32,
        },
        SYSTEM_CALL => Event::SystemCall,
        STRAY_SYSTEM_CALL => Event::StraySystemCall,
        ENTRY_PAGE => Event::Trampoline(TrampolineKind::EntryPage),
        KICK => Event::Kick,
        _ => Event::LongMode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_user_code_arrives() {
        let (error, cr2) = (6, 0xBFFF_FFFC);
        for event in [
            Event::SystemCall,
            Event::StraySystemCall,
            Event::LongMode,
            Event::Kick,
            Event::Trampoline(TrampolineKind::EntryPage),
            Event::Trap {
                vector: 14,
                error,
                cr2,
            },
        ] {
            assert_eq!(decode(encode(event)), event);
        }
    }

    #[test]
    fn a_user_process_cannot_make_up_what_no_user_code_can_cause() {
        for vector in [2, 7, 8, 9, 15, 18, 32, 255] {
            let kind = TRAP | vector << 8;
            assert_eq!(decode([kind, 0, 0]), Event::LongMode, "{vector}");
        }
        for trampoline in [
            TrampolineKind::Iret,
            TrampolineKind::Hypercall,
            TrampolineKind::HypercallAfterStore,
            TrampolineKind::Enabling,
        ] {
            assert_eq!(
                decode(encode(Event::Trampoline(trampoline))),
                Event::LongMode
            );
        }
        assert_eq!(decode([!0, !0, !0]), Event::LongMode);
        assert_eq!(decode([0, 0, 0]), Event::LongMode);
    }
}
