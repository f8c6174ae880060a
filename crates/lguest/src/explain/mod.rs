//! The end of a Guest, explained: `--explain` and `--core`.
//!
//! In reading order: [`remains`] is what is left of the Guest, with its memory
//! by its own tables; [`symbols`] gives names to addresses; [`causes`] has what
//! usually leads to such an end; [`mod@report`] puts all of it into words; and
//! [`core_file`] writes a file for GDB.
//!
//! Everything that is read here was written by the Guest, or is its kernel's
//! file. Every loop has a bound, and every text is made printable.

mod causes;

pub mod core_file;

mod remains;
pub use remains::Remains;

mod report;
pub use report::report;

mod symbols;
pub use symbols::{LARGEST, Symbols};
