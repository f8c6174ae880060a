//! Messages of the crate `log` on the console: the feature `log`.
//!
//! Libraries say what they do by its macros. [`init`] has their messages
//! printed, each with the time since the Guest was entered.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::boot::Boot;
//! use lg_guest::{logger, power};
//!
//! lg_guest::entry!(main);
//!
//! fn main(_: &'static Boot) {
//!     logger::init(log::LevelFilter::Info);
//!     log::info!("a message");
//!     power::off(0);
//! }
//! ```

use crate::{print, println, time};
use log::{LevelFilter, Log, Metadata, Record};

/// Where messages go.
struct Console;

static CONSOLE: Console = Console;

impl Log for Console {
    /// `log` itself has compared the level with that of [`init`].
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let now = time::now() / 1_000;
        println!(
            "[{:5}.{:06}] {:5} {}: {}",
            now / 1_000_000,
            now % 1_000_000,
            record.level(),
            record.target(),
            record.args()
        );
    }

    fn flush(&self) {
        print::flush();
    }
}

/// Prints messages from now on, up to this level. A second call changes the
/// level.
pub fn init(most: LevelFilter) {
    // Fails if it is there already.
    let _ = log::set_logger(&CONSOLE);
    log::set_max_level(most);
}
