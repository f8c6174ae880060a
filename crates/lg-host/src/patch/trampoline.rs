//! The kinds of trampolines.
//!
//! A trampoline is 64-bit code in the Switcher's pages. It enters the Host with
//! its kind, and the Host does what the patched instruction would have done.

/// What a trampoline stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TrampolineKind {
    /// The kernel's way back: eax goes to `irq_enabled`, eax is popped, and
    /// then comes `iret`.
    Iret = 1,
    /// A hypercall. The way back is on the stack, and eip says how many bytes
    /// behind it are padding.
    Hypercall = 2,
    /// A system call by the entry page; the way back is on the stack.
    EntryPage = 3,
    /// A hypercall with a store to memory in front of it. The trampoline leaves
    /// to us all that was displaced; the way back is on the stack.
    HypercallAfterStore = 4,
    /// The kernel switches interrupts on; the way back is on the stack.
    Enabling = 5,
    /// A system call that its program makes itself ([`direct`](super::direct));
    /// the trampoline has put the way back into eip.
    DirectCall = 6,
    /// An accessor of devices. The trampoline leaves to us all that was
    /// displaced; the way back is on the stack.
    Accessor = 7,
    /// A hypercall by a near call, which 32-bit code has not answered
    /// ([`near`](super::near)). How many bytes of padding are behind the call
    /// is on the stack, and the way back.
    NearHypercall = 8,
}

impl TrampolineKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Iret,
        Self::Hypercall,
        Self::EntryPage,
        Self::HypercallAfterStore,
        Self::Enabling,
        Self::DirectCall,
        Self::Accessor,
        Self::NearHypercall,
    ];

    /// Whether it is for user code.
    #[must_use]
    pub const fn is_users(self) -> bool {
        matches!(self, Self::EntryPage | Self::DirectCall)
    }

    /// The kind with number `nr`.
    #[must_use]
    pub fn from_number(nr: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u32 == nr)
    }
}
