//! A machine that refuses a system call.
//!
//! To the command under test a filter that it inherits is no different from
//! a kernel without the call, or from a container that does not allow it.

use seccompiler::sock_filter;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Call `nr` fails with `error` in `command`, and nothing else does.
pub(crate) fn refuse(command: &mut Command, nr: i64, error: i32) {
    refuse_flags(command, nr, None, error);
}

/// The same, but if there are `flags`, only for calls that have one of them
/// in their second argument. Unlike the filters that seccompiler makes, this
/// one lets calls by the 32-bit door pass, which Guests need.
pub(crate) fn refuse_flags(
    command: &mut Command,
    nr: i64,
    flags: Option<u32>,
    error: i32,
) {
    const LOAD_NUMBER: (u16, u32) = (0x20, 0);
    const LOAD_SECOND: (u16, u32) = (0x20, 24);
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7FFF_0000;
    const FAIL: u32 = 0x0005_0000;
    let nr = u32::try_from(nr).expect("numbers are not negative");
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let mut program = vec![instruction(LOAD_NUMBER.0, 0, LOAD_NUMBER.1)];
    if let Some(flags) = flags {
        program.extend([
            instruction(JUMP_EQUAL, 3, nr),
            instruction(LOAD_SECOND.0, 0, LOAD_SECOND.1),
            instruction(JUMP_IF_ANY, 1, flags),
        ]);
    } else {
        program.push(instruction(JUMP_EQUAL, 1, nr));
    }
    program.extend([
        instruction(RETURN, 0, FAIL | error.cast_unsigned()),
        instruction(RETURN, 0, ALLOW),
    ]);
    let install =
        move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(install) };
}
