//! The agent as a program.
//!
//! For i386 Linux it has no C library: it begins at `_start`, has a heap of its
//! own, and a panic ends it. For other machines, where only its tests run, it
//! is an ordinary program.
#![cfg_attr(target_arch = "x86", no_std, no_main)]

#[cfg(target_arch = "x86")]
mod start;

// Those of guests: there is no C library here, either.
#[cfg(target_arch = "x86")]
#[path = "../../lg-user/src/memory_functions.rs"]
mod memory_functions;

#[cfg(not(target_arch = "x86"))]
fn main() {
    use std::os::unix::ffi::OsStringExt;
    let arguments = std::env::args_os().filter_map(|argument| {
        std::ffi::CString::new(argument.into_vec()).ok()
    });
    let arguments: Vec<_> = arguments.collect();
    std::process::exit(lg_agent::main(&arguments).into());
}
