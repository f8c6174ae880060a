//! Filters such as a container or a service installs around the command.

use lg_seccomp::{ARCH, ARCH_X86_64, Filter, NR, argument, verdict};
use lguest::confine::program;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A filter that returns `otherwise` for 32-bit calls, and decides on others by
/// `rules`, with the number loaded.
fn install(
    command: &mut Command,
    of_32_bits: u32,
    rules: impl FnOnce(&mut Filter),
    otherwise: u32,
) {
    let mut f = Filter::new();
    f.load(ARCH);
    f.otherwise(of_32_bits);
    f.require(ARCH_X86_64);
    f.load(NR);
    rules(&mut f);
    f.end(otherwise);
    let program = program(&f);
    let install =
        move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(install) };
}

fn number(nr: i64) -> u32 {
    u32::try_from(nr).expect("numbers are not negative")
}

/// Call `nr` fails with `error`.
pub(crate) fn refuse(command: &mut Command, nr: i64, error: i32) {
    let fail = verdict::FAIL | error.cast_unsigned();
    let rules = |f: &mut Filter| f.when(number(nr), |f| f.end(fail));
    install(command, verdict::ALLOW, rules, verdict::ALLOW);
}

/// Call `nr` fails with `error` if all of `bits` are set in this argument.
pub(crate) fn refuse_bits(
    command: &mut Command,
    nr: i64,
    n: u32,
    bits: u32,
    error: i32,
) {
    let fail = verdict::FAIL | error.cast_unsigned();
    let rules = |f: &mut Filter| {
        f.when(number(nr), |f| {
            f.load(argument(n));
            f.when_all_bits(bits, |f| f.end(fail));
            f.end(verdict::ALLOW);
        });
    };
    install(command, verdict::ALLOW, rules, verdict::ALLOW);
}

/// Call `nr` kills, or stops by SIGSYS.
pub(crate) fn stop(command: &mut Command, nr: i64, kills: bool) {
    let end = if kills { verdict::KILL } else { verdict::TRAP };
    let rules = |f: &mut Filter| f.when(number(nr), |f| f.end(end));
    install(command, verdict::ALLOW, rules, verdict::ALLOW);
}

/// Calls of 32-bit programs kill.
pub(crate) fn kill_for_32_bits(command: &mut Command) {
    install(command, verdict::KILL, |_| (), verdict::ALLOW);
}

/// All calls but these kill.
pub(crate) fn allow_only(command: &mut Command, calls: &[i64]) {
    let rules = |f: &mut Filter| {
        for &nr in calls {
            f.when(number(nr), |f| f.end(verdict::ALLOW));
        }
    };
    install(command, verdict::ALLOW, rules, verdict::KILL);
}
