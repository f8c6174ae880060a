//! The user-mode side of the Guest kit: programs for a kernel of lg-guest.
//!
//! A program runs in an address space of its own and can touch nothing else. It
//! asks the kernel for everything else by system calls ([`call`]). The kernel
//! loads its file with `lg_guest::user::Process::load`.
//!
//! ```ignore-x86_64,no_run
//! #![no_std]
//! #![no_main]
//!
//! lg_user::entry!(main);
//!
//! fn main(argument: u32) {
//!     lg_user::println!("The kernel says {argument}.");
//!     lg_user::sleep(1_000);
//!     lg_user::exit(7);
//! }
//! ```
//!
//! A kernel has its programs in its own file. They are a package in a folder
//! beside it, which its build script compiles with the feature `build`
//! (`programs::build`). `lguest new NAME --template scheduler` makes all of
//! that.
//!
//! The stack grows on demand, by up to 4 MiB. There is no heap, unless the
//! program brings a global allocator with a static array.
//!
//! Its versions are those of lg-guest.

#![cfg_attr(not(feature = "build"), no_std)]
#![allow(
    clippy::needless_doctest_main,
    reason = "a macro names the main function of a program"
)]

pub mod call;

#[cfg(target_arch = "x86")]
mod entry;
#[cfg(target_arch = "x86")]
#[doc(hidden)]
pub use entry::panicked;

#[cfg(target_arch = "x86")]
mod system;
#[cfg(target_arch = "x86")]
pub use system::{exit, nothing, sleep, system_call, write, yield_now};

#[cfg(target_arch = "x86")]
mod print;
#[cfg(target_arch = "x86")]
pub use print::print;

#[cfg(all(target_arch = "x86", not(feature = "build")))]
mod memory_functions;

#[cfg(feature = "build")]
pub mod programs;
