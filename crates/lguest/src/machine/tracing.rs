//! The file of a trace, written at the end: `--trace`.
//!
//! It is opened before the Guest starts, like all files. However the Guest
//! ends, the ring is read then, and its kernel's file gives names to places.

use super::build::Built;
use super::config::Config;
use super::stats::OpenFile;
use super::{stats, terminal};
use crate::engine::RequestError;
use crate::explain::{LARGEST, Symbols};
use crate::loader::Image;
use crate::trace::copy::copy;
use crate::trace::events;
use std::io::{self, BufWriter, Write as _};

/// Opens the file, if there is to be one, but changes nothing in it.
pub(super) fn prepare(config: &Config) -> io::Result<Option<OpenFile>> {
    let open = |path| stats::open(path, 0o666);
    config.trace.as_deref().map(open).transpose()
}

/// Writes what the Guest did. Places in `kernel` get names.
pub(super) fn finish(file: OpenFile, built: &Built, kernel: Option<&Image>) {
    if let Err(error) = write(file, built, kernel) {
        let what = "the trace (--trace) could not be written";
        terminal::tell(&format!("{what}: {error}"));
    }
}

fn write(
    file: OpenFile,
    built: &Built,
    kernel: Option<&Image>,
) -> io::Result<()> {
    let failed = |error: RequestError| io::Error::other(error.to_string());
    let ring = built.guest.trace_file().map_err(failed)?;
    let trace = copy(&ring, 0)?;
    let bytes = kernel.and_then(|kernel| kernel.whole(LARGEST));
    let symbols = Symbols::new(bytes.as_deref().unwrap_or_default());
    let mut out = BufWriter::new(file.empty()?);
    events::write(&mut out, &trace, &[symbols])?;
    out.flush()
}
