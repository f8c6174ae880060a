//! Tests of lesson 3. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson03::{breakpoint, breakpoints, quick};

lg_guest::tests! {
    fn every_breakpoint_is_counted_once() {
        lesson03::count_breakpoints();
        assert_eq!(breakpoints(), 0);
        breakpoint();
        breakpoint();
        assert_eq!(breakpoints(), 2);
    }

    fn both_kinds_of_hypercall_reach_the_host() {
        // Binding a buffer to a key has a result: 1, or 0 if it failed.
        const BIND_DMA: u32 = 12;
        const NEW: u32 = (1 << 8) | 1;
        static LIST: [u32; 25] = [0; 25];
        let list = lesson01::physical(LIST.as_ptr());
        for hypercall in [lesson01::hypercall, quick::hypercall] {
            assert_eq!(hypercall(BIND_DMA, 0x1000, list, NEW), 1);
        }
        // The Host has patched the second one by now.
        for _ in 0..1000 {
            assert_eq!(quick::hypercall(0, 0, 0, 0), 0);
        }
    }

    fn a_call_takes_time() {
        let call = || assert_eq!(quick::hypercall(0, 0, 0, 0), 0);
        assert!(lesson03::shortest(call) > 0);
    }

    #[should_panic]
    fn other_traps_end_this_guest() {
        lesson03::count_breakpoints();
        let nothing = core::ptr::dangling::<u32>();
        #[allow(unsafe_code)]
        // SAFETY: none: there is nothing, and the kit's handler panics.
        let _ = unsafe { nothing.read_volatile() };
    }
}
