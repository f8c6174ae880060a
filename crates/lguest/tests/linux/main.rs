//! An unmodified Linux on this Host, of any release that runs here.
//!
//! These tests need kernels and an initial ram disk that are not part of the
//! project: `docs/compatibility.md` says how to get them. Their paths come from
//! the environment (`LGUEST_TEST_VMLINUX`, `LGUEST_TEST_BZIMAGE`,
//! `LGUEST_TEST_INITRD`, `LGUEST_TEST_ROOTFS`, and `LGUEST_TEST_OTHERS` for
//! kernels of other releases), and a test without its files reports that it
//! was skipped. `LGUEST_TEST_MINUTES` sets the time of tests under load. Tests
//! run one after the other, because most of them measure time.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod commands;
mod console;
mod debugging;
mod kit;
mod load;
mod network;
mod programs;
mod shares;
mod time;
