//! What the processor offers, and what the kernel lets through of it.
//!
//! Guests are 32-bit programs with segments of their own. So a segment for
//! 32-bit code, system calls by `int $0x80`, and a local descriptor table must
//! be there.

use super::super::attempt::{self, Failure};
use super::super::finding::Finding;
use crate::engine::clock;
use crate::needs::{Cause, Lack};
use lg_wire::processor;

pub(super) fn fsgsbase() -> Finding {
    match crate::engine::check_processor() {
        Ok(()) => Finding::ok("instructions set segment bases"),
        Err(lack) => {
            Finding::of_lack(&lack, "threads of a guest have no segments")
        }
    }
}

pub(super) fn code_segment() -> Finding {
    let selector = processor::KERNEL_CODE;
    match attempt::rights_of(selector) {
        Some(rights) if processor::is_32_bit_code(rights) => {
            Finding::ok(format!("selector {selector:#x}"))
        }
        _ => Finding::lacks(
            "there is no segment for it",
            "guests are 32-bit programs",
            Cause::No32BitCode.cure(),
        ),
    }
}

pub(super) fn calls_of_32_bits() -> Finding {
    match attempt::in_a_copy(attempt::make_32_bit_call) {
        Ok(()) => Finding::ok("a filter can catch them"),
        Err(failure) => Finding::lacks(
            format!("a filter cannot catch them ({failure})"),
            "a guest's programs fail at their first system call",
            failure.cure(
                "a container must not kill for calls of 32-bit programs; the \
                 kernel needs IA32_EMULATION",
            ),
        ),
    }
}

pub(super) fn ldt() -> Finding {
    match attempt::in_a_copy(attempt::make_segment) {
        Ok(()) => Finding::ok("segments can be made"),
        Err(failure) => {
            let call = "modify_ldt";
            let cause = match failure {
                Failure::Error(error) => Cause::Refused { call, error },
                Failure::Killed(_) => Cause::Killed { call },
                Failure::NoCopy(lack) => lack.cause,
            };
            let lack = Lack::new("make segments", cause);
            Finding::of_lack(&lack, "user programs of a guest have no segments")
        }
    }
}

pub(super) fn protection_keys() -> Finding {
    match attempt::in_a_copy(attempt::take_key) {
        Ok(()) => Finding::ok("offered"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "nothing: no guest needs them",
            failure.cure("none, on this processor or virtual machine"),
        ),
    }
}

pub(super) fn time_stamp_counter() -> Finding {
    if clock::is_invariant() {
        Finding::ok("the time-stamp counter has a constant rate")
    } else {
        Finding::degraded(
            "the time-stamp counter changes its rate",
            "guests read the time at every tick, and have no finer clock",
            "none, on this processor or virtual machine",
        )
    }
}

pub(super) fn processors() -> Finding {
    match std::thread::available_parallelism().map(usize::from) {
        Ok(1) => Finding::degraded(
            "one",
            "guest and devices take turns",
            "allow more (`taskset`)",
        ),
        Ok(count) => Finding::ok(count.to_string()),
        Err(error) => Finding::ok(error.to_string()),
    }
}
