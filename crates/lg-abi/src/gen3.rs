//! Generation 3: Linux 4.0 to 4.13.
//!
//! The bus of generation 2 is gone, and with it the call NOTIFY: a Guest finds
//! virtio devices on a PCI bus ([`pci`]), and reaches them by port and memory
//! accesses, which the Host carries out. Calls and registers are those of Linux
//! 3.1, and so is the start ([`gen2::boot`](crate::gen2::boot)).

pub mod pci;
pub mod registers;
pub mod request;

use crate::call::CallName;
use crate::gen2::LINUX_3_1;
use crate::interface::{Interface, NUMBERS};
use crate::layout::{Field, Layout, NoIrq};

/// In generation 2: NOTIFY.
const NOTIFY: usize = 17;

/// The calls of Linux 3.1 without NOTIFY. Linux 4.10 makes no call TS any more.
const CALLS: [Option<CallName>; NUMBERS] = {
    let mut calls = LINUX_3_1.calls;
    assert!(matches!(calls[NOTIFY], Some(CallName::Notify)));
    calls[NOTIFY] = None;
    calls
};

/// Linux 4.0.
pub const LINUX_4_0: Interface = Interface {
    calls: CALLS,
    arguments: LINUX_3_1.arguments,
    ring: LINUX_3_1.ring,
    vmcall: false,
    layout: LINUX_3_1.layout,
};

/// Linux 4.1 to 4.13.
pub const LINUX_4_1: Interface = Interface {
    calls: CALLS,
    arguments: LINUX_3_1.arguments,
    ring: LINUX_3_1.ring,
    vmcall: false,
    layout: Layout {
        noirq: NoIrq::Iret(Field::at(1376)),
        kernel_address: Some(Field::at(1380)),
        syscall_vec: Some(Field::at(1384)),
        size: 1388,
        ..LINUX_3_1.layout
    },
};

#[cfg(test)]
mod tests {
    use super::{LINUX_4_0, LINUX_4_1};
    use crate::call::CallName;
    use crate::layout::{Field, NoIrq};

    #[test]
    fn notify_is_gone_and_nothing_else() {
        for interface in [&LINUX_4_0, &LINUX_4_1] {
            assert_eq!(interface.name(17), None);
            assert_eq!(interface.name(8), Some(CallName::Ts));
            assert_eq!(interface.name(18), Some(CallName::LoadGdtEntry));
            assert_eq!(interface.name(19), Some(CallName::SendInterrupts));
        }
    }

    #[test]
    fn a_field_went_in_linux_4_1_and_others_moved_up() {
        let (old, new) = (&LINUX_4_0.layout, &LINUX_4_1.layout);
        assert_eq!(old.size, new.size + 4);
        let NoIrq::Range(start, _) = old.noirq else {
            panic!("Linux 4.0 has a range");
        };
        assert_eq!(new.noirq, NoIrq::Iret(start));
        assert_eq!(new.kernel_address, Some(Field::at(1380)));
        assert_eq!(new.irq_pending, old.irq_pending);
    }
}
