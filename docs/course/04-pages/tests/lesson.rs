//! Tests of lesson 4. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson04::{WINDOW_SIZE, faults, init, load, store};

lg_guest::tests! {
    fn each_page_faults_once_and_is_zero() {
        init();
        assert_eq!(faults(), 0);
        assert_eq!(load(0), 0);
        assert_eq!(load(4092), 0);
        assert_eq!(faults(), 1);
        store(4096, 7);
        assert_eq!((load(4096), faults()), (7, 2));
    }

    fn the_whole_window_can_be_used() {
        init();
        for offset in (0..WINDOW_SIZE).step_by(4096) {
            store(offset, offset);
        }
        for offset in (0..WINDOW_SIZE).step_by(4096) {
            assert_eq!(load(offset), offset);
        }
        assert_eq!(faults(), WINDOW_SIZE / 4096);
    }

    #[should_panic]
    fn outside_the_window_is_a_mistake() {
        init();
        #[allow(unsafe_code)]
        // SAFETY: none: there is nothing, and the handler panics.
        let _ = unsafe { (0x1000 as *const u32).read_volatile() };
    }
}
