//! Generation 2: Linux 2.6.24 to 3.19.
//!
//! Virtio has replaced the DMA by keys, and the call NOTIFY belongs to it. Five
//! spans of releases differ in numbers, registers or the layout of
//! `lguest_data` (docs/abi.md, section 9).

pub mod boot;
pub mod device;

use crate::call::CallName;
use crate::interface::{Interface, NUMBERS, Register, by_number, with};
use crate::layout::{Field, Layout, NoIrq};

/// A span of releases of Linux with one interface.
#[derive(Debug)]
pub struct Span {
    /// The first release.
    pub first: &'static str,
    /// The last one.
    pub last: &'static str,
    /// How its Guests talk to the Host.
    pub interface: Interface,
}

/// The arguments of 2007.
const OLD_ARGUMENTS: &[Register] =
    &[Register::Edx, Register::Ebx, Register::Ecx];

/// The arguments since 2.6.30; esi only since 2.6.31.
const ARGUMENTS: &[Register] =
    &[Register::Ebx, Register::Ecx, Register::Edx, Register::Esi];

/// The words of a ring entry; esi only since 2.6.31.
const RING: &[Register] = &[
    Register::Eax,
    Register::Ebx,
    Register::Ecx,
    Register::Edx,
    Register::Esi,
];

/// All spans, in the order of their releases.
pub const SPANS: [Span; 5] = [
    Span {
        first: "2.6.24",
        last: "2.6.24",
        interface: Interface {
            calls: old_calls(CallName::Crash),
            arguments: OLD_ARGUMENTS,
            ring: RING.split_at(4).0,
            vmcall: false,
            layout: OLD_LAYOUT,
        },
    },
    Span {
        first: "2.6.25",
        last: "2.6.29",
        interface: Interface {
            calls: old_calls(CallName::Shutdown),
            arguments: OLD_ARGUMENTS,
            ring: RING.split_at(4).0,
            vmcall: false,
            layout: OLD_LAYOUT,
        },
    },
    Span {
        first: "2.6.30",
        last: "2.6.30",
        interface: Interface {
            calls: with(
                SHARED,
                &[
                    (2, CallName::Shutdown),
                    (15, CallName::SetPmd),
                    (18, CallName::LoadGdtEntry),
                ],
            ),
            arguments: ARGUMENTS.split_at(3).0,
            ring: RING.split_at(4).0,
            vmcall: true,
            layout: OLD_LAYOUT,
        },
    },
    Span {
        first: "2.6.31",
        last: "3.0",
        interface: Interface {
            calls: CALLS,
            arguments: ARGUMENTS,
            ring: RING,
            vmcall: true,
            layout: LAYOUT_WITH_PGDIR,
        },
    },
    Span {
        first: "3.1",
        last: "3.19",
        interface: Interface {
            calls: CALLS,
            arguments: ARGUMENTS,
            ring: RING,
            vmcall: false,
            layout: LAYOUT,
        },
    },
];

/// The instruction `vmcall`. Linux 2.6.30 to 2.6.33 make all calls by it, and
/// later releases up to 3.0 make one call by it.
pub const VMCALL: [u8; 3] = [0x0F, 0x01, 0xC1];

/// In SHUTDOWN: the Guest wants to start again.
pub const SHUTDOWN_RESTART: u32 = 2;

/// The text with which Linux makes the last call when it wants to start again.
/// It prints that text, too.
pub const RESTART_TEXT: &[u8] = b"Restarting system";

/// Linux 2.6.24.
pub const LINUX_2_6_24: &Interface = &SPANS[0].interface;

/// Linux 2.6.25 to 2.6.29.
pub const LINUX_2_6_25: &Interface = &SPANS[1].interface;

/// Linux 2.6.30.
pub const LINUX_2_6_30: &Interface = &SPANS[2].interface;

/// Linux 2.6.31 to 3.0.
pub const LINUX_2_6_31: &Interface = &SPANS[3].interface;

/// The last span: Linux 3.1 to 3.19.
pub const LINUX_3_1: &Interface = &SPANS[4].interface;

/// The calls of all these releases.
const SHARED: [Option<CallName>; NUMBERS] = by_number(&[
    (0, CallName::FlushAsync),
    (1, CallName::Init),
    (4, CallName::NewPgtable),
    (5, CallName::FlushTlb),
    (6, CallName::LoadIdtEntry),
    (7, CallName::SetStack),
    (8, CallName::Ts),
    (9, CallName::SetClockevent),
    (10, CallName::Halt),
    (14, CallName::SetPte),
    (16, CallName::LoadTls),
    (17, CallName::Notify),
]);

/// The calls up to 2.6.29, where number 2 is `end`.
const fn old_calls(end: CallName) -> [Option<CallName>; NUMBERS] {
    with(
        SHARED,
        &[(2, end), (3, CallName::LoadGdt), (15, CallName::SetPmd)],
    )
}

/// The calls since 2.6.31.
const CALLS: [Option<CallName>; NUMBERS] = with(
    SHARED,
    &[
        (2, CallName::Shutdown),
        (13, CallName::SetPaePmd),
        (15, CallName::SetPgd),
        (18, CallName::LoadGdtEntry),
        (19, CallName::SendInterrupts),
    ],
);

/// Up to 2.6.30.
const OLD_LAYOUT: Layout = Layout {
    irq_enabled: Field::at(0),
    blocked_interrupts: Field::at(4),
    cr2: Field::at(8),
    time_sec: Field::at(12),
    time_nsec: Field::at(16),
    irq_pending: None,
    hcall_status: Field::at(20),
    hcalls: Field::at(84),
    reserve_mem: Field::at(1108),
    guestid: None,
    tsc_khz: Field::at(1112),
    pgdir: Some(Field::at(1116)),
    noirq: NoIrq::Range(Field::at(1120), Field::at(1124)),
    kernel_address: Some(Field::at(1128)),
    syscall_vec: Some(Field::at(1132)),
    size: 1136,
};

/// From 2.6.31 to 3.0.
const LAYOUT_WITH_PGDIR: Layout = Layout {
    pgdir: Some(Field::at(1376)),
    noirq: NoIrq::Range(Field::at(1380), Field::at(1384)),
    kernel_address: Some(Field::at(1388)),
    syscall_vec: Some(Field::at(1392)),
    size: 1396,
    ..LAYOUT
};

/// Since 3.1.
const LAYOUT: Layout = Layout {
    irq_enabled: Field::at(0),
    blocked_interrupts: Field::at(4),
    cr2: Field::at(8),
    time_sec: Field::at(12),
    time_nsec: Field::at(16),
    irq_pending: Some(Field::at(20)),
    hcall_status: Field::at(24),
    hcalls: Field::at(88),
    reserve_mem: Field::at(1368),
    guestid: None,
    tsc_khz: Field::at(1372),
    pgdir: None,
    noirq: NoIrq::Range(Field::at(1376), Field::at(1380)),
    kernel_address: Some(Field::at(1384)),
    syscall_vec: Some(Field::at(1388)),
    size: 1392,
};

#[cfg(test)]
mod tests {
    use super::SPANS;
    use crate::call::{Call, CallName};
    use crate::interface::CallRegisters;

    #[test]
    fn the_ring_lies_between_its_status_and_the_next_field() {
        const ENTRIES: u32 = 64;
        for span in &SPANS {
            let (interface, layout) = (&span.interface, &span.interface.layout);
            let status = layout.hcall_status.offset();
            let ring = layout.hcalls.offset();
            assert_eq!(ring, status + ENTRIES, "{}", span.first);
            let end = ring + ENTRIES * interface.ring_entry_size();
            assert_eq!(layout.reserve_mem.offset(), end, "{}", span.first);
        }
    }

    #[test]
    fn the_registers_of_a_call_are_decoded_as_that_call() {
        for span in &SPANS {
            let interface = &span.interface;
            for &name in CallName::ALL {
                let Some(number) = interface.number(name) else {
                    continue;
                };
                assert_eq!(interface.name(number), Some(name));
                let mut arguments = [5, 6, 7, 8];
                let registers = interface.registers(number, arguments);
                arguments[interface.arguments.len()..].fill(0);
                let call = interface.decode(&registers);
                assert_eq!(call, Some(name.with(arguments)), "{}", span.first);
            }
        }
    }

    #[test]
    fn the_same_call_is_made_in_three_ways() {
        let expected = |entry_high| Call::SetPte {
            directory: 1,
            va: 2,
            entry: 3,
            entry_high,
        };
        let old = CallRegisters {
            eax: 14,
            edx: 1,
            ebx: 2,
            ecx: 3,
            esi: 4,
        };
        let new = CallRegisters {
            eax: 14,
            ebx: 1,
            ecx: 2,
            edx: 3,
            esi: 4,
        };
        for (span, registers, high) in [
            (0, old, 0),
            (1, old, 0),
            (2, new, 0),
            (3, new, 4),
            (4, new, 4),
        ] {
            let interface: &crate::interface::Interface =
                &SPANS[span].interface;
            assert_eq!(interface.decode(&registers), Some(expected(high)));
            // And by the ring, whose words stand for registers, too.
            let words = [14, 2, 3, 1, 0];
            let words = if span < 2 { words } else { [14, 1, 2, 3, high] };
            let from_ring = interface.from_ring(&words);
            assert_eq!(interface.decode(&from_ring), Some(expected(high)));
        }
    }
}
