//! Options that say what ends a guest besides itself.
//!
//! A guest that boots and one that is restored have the same.

use super::values;
use crate::machine::config::Parent;
use clap::Args;
use std::time::Duration;

/// What ends a guest besides itself.
#[derive(Debug, Default, Args)]
pub(super) struct Ends {
    /// End the guest after this time: 90, 90s, 500ms, 5m, 2h or 1d
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(super) timeout: Option<Duration>,
    /// End the guest after it has read all of standard input: after one second
    /// without output, at the latest after ten seconds
    #[arg(long)]
    pub(super) exit_on_eof: bool,
    /// End the guest when the process that started lguest ends. With PID, also
    /// if PID is not the parent of lguest any more
    #[arg(
        long,
        value_name = "PID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "whoever",
        value_parser = values::parent,
    )]
    pub(super) die_with_parent: Option<Parent>,
}
