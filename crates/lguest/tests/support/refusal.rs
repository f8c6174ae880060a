//! A machine that refuses a system call.
//!
//! The command under test inherits a filter. The filter has the effect of a
//! kernel without the call, or of a container that does not allow it.

use lg_seccomp::{Filter, NR, argument, verdict};
use lguest::confine::program;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes call `nr` fail with `error` in `command`.
pub(crate) fn refuse(command: &mut Command, nr: i64, error: i32) {
    refuse_flags(command, nr, None, error);
}

/// The same. If there are `flags`, only for calls that have one of them in
/// their second argument. Unlike filters of seccompiler, this one allows calls
/// by `int $0x80`, which Guests need.
pub(crate) fn refuse_flags(
    command: &mut Command,
    nr: i64,
    flags: Option<u32>,
    error: i32,
) {
    let nr = u32::try_from(nr).expect("numbers are not negative");
    let fail = verdict::FAIL | error.cast_unsigned();
    let mut f = Filter::new();
    f.load(NR);
    f.when(nr, |f| {
        if let Some(flags) = flags {
            f.load(argument(1));
            f.when_any_bit(flags, |f| f.end(fail));
            f.end(verdict::ALLOW);
        } else {
            f.end(fail);
        }
    });
    f.end(verdict::ALLOW);
    let program = program(&f);
    let install =
        move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(install) };
}
