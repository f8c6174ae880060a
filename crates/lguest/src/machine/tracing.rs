//! The file of a trace, written at the end: `--trace`.
//!
//! It is opened before the Guest starts, like all files. However the Guest
//! ends, the ring is read then. The kernel's file, or that of `--symbols`,
//! gives names to places.

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

/// Writes what the Guest did. Places in its kernel get the names in `names`.
pub(super) fn finish(file: OpenFile, built: &Built, names: Option<&Image>) {
    if let Err(error) = write(file, built, names) {
        let what = "the trace (--trace) could not be written";
        terminal::tell(&format!("{what}: {error}"));
    }
}

fn write(
    file: OpenFile,
    built: &Built,
    names: Option<&Image>,
) -> io::Result<()> {
    let failed = |error: RequestError| io::Error::other(error.to_string());
    let ring = built.guest.trace_file().map_err(failed)?;
    let trace = copy(&ring, 0)?;
    let bytes = names.and_then(|names| names.whole(LARGEST));
    let symbols = Symbols::new(bytes.as_deref().unwrap_or_default());
    let mut out = BufWriter::new(file.empty()?);
    events::write(&mut out, &trace, &[symbols])?;
    out.flush()
}
