//! Random bytes of the kernel.
//!
//! They are for names and addresses, for chance, and for the pool of a Guest
//! that goes on from a snapshot.

use rustix::rand::{GetRandomFlags, getrandom};

/// So many random bytes, at most 256: more could come in pieces.
///
/// # Errors
///
/// The error of the kernel. One that has just booted waits until it has some.
pub(crate) fn random<const N: usize>() -> rustix::io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    Ok(bytes)
}
