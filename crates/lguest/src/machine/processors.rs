//! `--cpus`: the processors that a machine runs on.
//!
//! Processes and threads inherit them, so this is done before there are any.

use super::error::LaunchError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Lets this process run on the processors with these `numbers` only. None:
/// nothing changes.
pub(super) fn use_only(numbers: &[usize]) -> Result<(), LaunchError> {
    if numbers.is_empty() {
        return Ok(());
    }
    let failed = |error| LaunchError::Processors(shown(numbers), error);
    let mut wanted = CpuSet::new();
    for &number in numbers {
        if number >= CpuSet::MAX_CPU {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        wanted.set(number);
    }
    let set = || {
        sched_setaffinity(None, &wanted)?;
        sched_getaffinity(None)
    };
    let set = set().map_err(|error| failed(error.into()))?;
    // The kernel leaves out those that there are not.
    if set == wanted {
        Ok(())
    } else {
        Err(failed(io::ErrorKind::NotFound.into()))
    }
}

fn shown(numbers: &[usize]) -> String {
    let numbers: Vec<String> =
        numbers.iter().map(ToString::to_string).collect();
    numbers.join(",")
}
