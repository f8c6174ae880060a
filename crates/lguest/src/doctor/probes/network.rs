//! Networks: interfaces for guests, and namespaces for tests.
//!
//! No address is given to an interface, and none is left behind.

use super::super::attempt;
use super::super::finding::Finding;
use crate::devices::net::{Tap, TapError};

/// Makes an interface without an address. It is removed again at once.
pub(super) fn tap() -> Finding {
    match Tap::probe() {
        Ok(()) => Finding::ok("interfaces can be made"),
        Err(error) => Finding::lacks(
            match error {
                TapError::NotPermitted => "no permission".into(),
                other => other.to_string(),
            },
            "no network with this machine (--tunnet, --net tap=)",
            "run as root or with CAP_NET_ADMIN, with the module tun; \
             sharenet needs neither",
        ),
    }
}

pub(super) fn net_namespace() -> Finding {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    match attempt::in_a_copy(|| attempt::leave(flags)) {
        Ok(()) => Finding::ok("namespaces for network, mounts and users"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "nothing for guests; tests with taps have no network of their own",
            failure.cure("raise user.max_user_namespaces"),
        ),
    }
}
