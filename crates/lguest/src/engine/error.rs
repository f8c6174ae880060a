//! Why the engine refuses a request.
//!
//! Each error has the number that the character device of 2007 gave for it
//! ([`super::wire`]).

use crate::needs::Lack;

/// A request that cannot be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// LHREQ_INITIALIZE has not come yet (EINVAL).
    #[error("the guest has not been initialised")]
    NotInitialised,
    /// LHREQ_INITIALIZE came twice (EBUSY).
    #[error("the guest has been initialised already")]
    AlreadyInitialised,
    /// There is no such interrupt (EINVAL).
    #[error("there is no interrupt {0}: they go from 0 to 31")]
    NoSuchIrq(u8),
    /// The Guest is dead (ENOENT).
    #[error("the guest is dead")]
    Dead,
    /// It does not stand still.
    #[error("the guest does not stand still")]
    NotHeld,
    /// It cannot go on from this state.
    #[error("the state of the guest is not valid")]
    BadState,
    /// The processes of the Guest could not be started.
    #[error(transparent)]
    Start(#[from] Lack),
}
