//! How a Guest reaches its devices.
//!
//! A transport says what devices there are, takes the Guest's requests in the
//! form that its kernel knows, and gives each device what it needs of them:
//! see [`devices`](crate::devices). It alone writes answers into the Guest's
//! memory and raises interrupts. Kernels of 2007 know one transport, [`keys`].

pub mod keys;
