//! The `lguest` command.
fn main() {}
