//! Filters that a container or a service may have put around the command.

use seccompiler::sock_filter;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARCH_X86_64: u32 = 0xC000_003E;
const KILL: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const FAIL: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7FFF_0000;

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn install(command: &mut Command, program: Vec<sock_filter>) {
    let install =
        move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(install) };
}

/// A filter that says `otherwise` of 32-bit calls, and decides on others by
/// `rules`, with the number loaded.
fn filter(
    command: &mut Command,
    of_32_bits: u32,
    rules: impl IntoIterator<Item = sock_filter>,
    otherwise: u32,
) {
    let mut program = vec![
        step(LOAD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, ARCH_X86_64),
        step(RETURN, 0, 0, of_32_bits),
        step(LOAD, 0, 0, NUMBER),
    ];
    program.extend(rules);
    program.push(step(RETURN, 0, 0, otherwise));
    install(command, program);
}

fn number(nr: i64) -> u32 {
    u32::try_from(nr).expect("numbers are not negative")
}

/// Call `nr` fails with `error`.
pub(crate) fn refuse(command: &mut Command, nr: i64, error: i32) {
    let rules = [
        step(JUMP_EQUAL, 0, 1, number(nr)),
        step(RETURN, 0, 0, FAIL | error.cast_unsigned()),
    ];
    filter(command, ALLOW, rules, ALLOW);
}

/// Call `nr` fails with `error` if all of `bits` are set in this argument.
pub(crate) fn refuse_bits(
    command: &mut Command,
    nr: i64,
    argument: u32,
    bits: u32,
    error: i32,
) {
    let rules = [
        step(JUMP_EQUAL, 0, 4, number(nr)),
        step(LOAD, 0, 0, 16 + 8 * argument),
        step(AND, 0, 0, bits),
        step(JUMP_EQUAL, 0, 1, bits),
        step(RETURN, 0, 0, FAIL | error.cast_unsigned()),
    ];
    filter(command, ALLOW, rules, ALLOW);
}

/// Call `nr` kills, or stops by SIGSYS.
pub(crate) fn stop(command: &mut Command, nr: i64, kills: bool) {
    let rules = [
        step(JUMP_EQUAL, 0, 1, number(nr)),
        step(RETURN, 0, 0, if kills { KILL } else { TRAP }),
    ];
    filter(command, ALLOW, rules, ALLOW);
}

/// Calls of 32-bit programs kill.
pub(crate) fn kill_for_32_bits(command: &mut Command) {
    filter(command, KILL, [], ALLOW);
}

/// All calls but these kill.
pub(crate) fn allow_only(command: &mut Command, calls: &[i64]) {
    let rules = calls.iter().flat_map(|&nr| {
        [
            step(JUMP_EQUAL, 0, 1, number(nr)),
            step(RETURN, 0, 0, ALLOW),
        ]
    });
    filter(command, ALLOW, rules, KILL);
}
