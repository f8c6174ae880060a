//! What usually leads to an end.
//!
//! The words are found in the reason, which is the Host's text, the Launcher's
//! or the Guest's own.

/// Words of a reason, and what usually leads to it.
const CAUSES: &[(&str, &str)] = &[
    (
        "unhandled trap 14",
        "a page fault before the kernel has a handler for it: a wild or null \
         pointer, an array that is too short, or a stack that is full. The \
         entries above say which table ends the way",
    ),
    (
        "unhandled trap 13",
        "a privileged instruction that guests do not have, or a wrong segment, \
         before the kernel has a handler",
    ),
    (
        "unhandled trap 6",
        "the processor has reached what is no instruction: a jump through a \
         wrong pointer, or code that the compiler takes for unreachable",
    ),
    (
        "unhandled trap 0",
        "a division by zero before the kernel has a handler for it",
    ),
    (
        "unhandled trap",
        "a trap for which the kernel has loaded no handler (LOAD_IDT_ENTRY)",
    ),
    (
        "before LGUEST_INIT",
        "the first hypercall of a kernel has to be LGUEST_INIT. A kernel of \
         another generation is entered in another way: 'lguest image' says which",
    ),
    (
        "bad hypercall",
        "a number that the interface of this kernel's release does not have",
    ),
    (
        "bad physical address",
        "a virtual address where a physical one has to be, or memory beyond the \
         end of RAM (--memory)",
    ),
    (
        "bad page table entry",
        "an entry of a page table with an address beyond the end of RAM, or with \
         bits that have to be zero",
    ),
    (
        "bad page directory entry",
        "an entry of a page directory with an address beyond the end of RAM, or \
         one that has not been made",
    ),
    (
        "touched the switcher",
        "the top 4 MiB of addresses are not a guest's: a pointer that was \
         computed below zero leads there",
    ),
    (
        "keeps faulting",
        "an entry of a page table that was changed without a hypercall that says \
         so, or a fault of lguest",
    ),
    (
        "unable to mount root",
        "the disk with the root file system is missing, or root= names another: \
         /dev/lgba in Linux 2.6.23, /dev/vda in later ones",
    ),
    (
        "kill init",
        "the first program has ended: see its last output, and init= and rdinit=",
    ),
    (
        "No init found",
        "the root file system has no /sbin/init: see init= and rdinit=",
    ),
    (
        "Fatal exception",
        "the kernel's own code has trapped (an oops): the lines before say what \
         it wanted, and 'EIP is at' where it was",
    ),
    (
        "kill the idle task",
        "the kernel's own code has trapped (an oops) while no program ran: the \
         lines before say what it wanted, and 'EIP is at' where it was",
    ),
    (
        "panic: trap 14",
        "a page fault of the kernel's own code: a wild or null pointer, an \
         array that is too short, or a stack that is full. 'at' is the code, \
         and 'cr2' the address that it wanted",
    ),
    (
        "CRASH: panic",
        "the guest's own code has panicked: its message and the frames above \
         say where",
    ),
];

/// What usually leads to an end with this reason.
pub(super) fn usual(reason: &str) -> Option<&'static str> {
    let reason = reason.to_lowercase();
    let fits = |words: &str| reason.contains(&words.to_lowercase());
    CAUSES
        .iter()
        .find(|(words, _)| fits(words))
        .map(|(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_is_told() {
        let cause = usual("killed: unhandled trap 14 at 0xc0100000 (0x0)");
        assert!(cause.unwrap().starts_with("a page fault"));
        let cause = usual("killed: unhandled trap 19 at 0xc0100000 (0x0)");
        assert!(cause.unwrap().starts_with("a trap for which"));
        let panic = "CRASH: VFS: Unable to mount root fs on unknown-block(0,0)";
        assert!(usual(panic).unwrap().starts_with("the disk"));
        for panic in [
            "CRASH: Fatal exception in interrupt",
            "CRASH: Attempted to kill the idle task!",
        ] {
            assert!(usual(panic).unwrap().contains("an oops"), "{panic}");
        }
        let panic = "CRASH: panic: trap 14 at 0xc0101034: error 0x0, cr2 0x4";
        assert!(usual(panic).unwrap().starts_with("a page fault of the"));
        let panic = "CRASH: panic: no trap 14";
        assert!(usual(panic).unwrap().starts_with("the guest's own"));
        assert_eq!(usual("killed: by a signal"), None);
    }
}
