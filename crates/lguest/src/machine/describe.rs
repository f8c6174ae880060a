//! `lguest image`: describes a kernel's file.
//!
//! The file is opened as `lguest run` opens it, so it is refused with the same
//! message.

use super::error::LaunchError;
use super::open::open_file;
use crate::loader::{DescribeError, Description, Image, KernelError};
use std::path::Path;

/// Describes the kernel in the file at `path`.
///
/// # Errors
///
/// [`LaunchError::Kernel`] if the file cannot be read, [`LaunchError::Lacks`]
/// if there is no memory to load it into.
pub fn describe(path: &Path) -> Result<Description, LaunchError> {
    let kernel = |error: KernelError| LaunchError::Kernel {
        path: path.into(),
        error,
    };
    let file = open_file(path).map_err(|error| kernel(error.into()))?;
    Description::of(&Image::File(file)).map_err(|error| match error {
        DescribeError::Kernel(error) => kernel(error),
        DescribeError::Lacks(lack) => lack.into(),
    })
}
