//! Tests of lesson 10. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson10::{run, spy, talk, work};
use lg_guest::user::{CODE, End, Process, call};

lg_guest::tests! {
    fn a_program_prints_and_ends() {
        let (end, counts) = run(talk(), 3).await;
        assert_eq!(end, End::Exit(0));
        assert_eq!(counts.calls, 3 * 2 + 1);
    }

    fn a_program_that_only_works_is_interrupted() {
        let (end, counts) = run(work(), 200).await;
        assert_eq!(end, End::Exit(200));
        assert!(counts.interrupts > 0);
    }

    fn the_kernels_memory_is_not_a_programs() {
        let (end, _) = run(spy(), 0).await;
        let at = 0xC010_0000;
        assert_eq!(end, End::Trap { vector: 14, eip: CODE, address: at });
    }

    fn a_wrong_program_harms_no_other() {
        let first = Process::new(work(), 1).unwrap();
        run(spy(), 0).await;
        run(&[0xF4], 0).await; // hlt, which a program may not do
        assert_eq!(first.run().await.0, End::Exit(1));
    }

    fn an_unknown_call_fails() {
        // mov $99, %eax; int $0x80; mov %eax, %ebx; xor %eax, %eax; int $0x80
        let code = b"\xB8\x63\0\0\0\xCD\x80\x89\xC3\x31\xC0\xCD\x80";
        assert_eq!(run(code, 0).await.0, End::Exit(call::FAILED));
    }
}
