//! `cargo xtask bench exec`: what a command in a machine of its own costs.
//!
//! Every row is measured from the shell to the end, under lguest, natively in
//! the same root folder, and in QEMU without KVM, one after the other in each
//! round. What this machine or the given files lack is named below the table.

mod options;
use options::Options;

mod results;
use results::Results;

mod timed;

mod native;

mod images;

mod qemu;

mod jobs;

mod many;

use super::about::About;
use super::command;
use super::release;
use crate::place;
use std::process::ExitCode;

/// Measures the chosen rows.
pub(super) fn main(words: &[&str]) -> ExitCode {
    command::carry_out(words, options::HELP, Options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    let root = place::root();
    let lguest = match &options.lguest {
        Some(path) => path.clone(),
        None => release::build(&root)?,
    };
    let folder = root.join("target/bench/exec");
    let mut results = Results::new(About::this(&root));
    let images = images::Images::make(options, &lguest, &folder)?;
    let native = native::Native::in_root(&options.root);
    let qemu = match options.peers {
        true => qemu::Qemu::new(options, &images, &folder),
        false => Err("--no-peers is given".into()),
    };
    let systems = jobs::Systems {
        images: &images,
        native,
        qemu,
    };
    jobs::measure(options, &systems, &mut results);
    many::measure(options, &images, &mut results);
    print!("{}", results.table());
    let json = options.json.clone();
    let json = json.unwrap_or_else(|| folder.join("exec.json"));
    std::fs::write(&json, results.json())
        .map_err(|error| format!("{}: {error}", json.display()))?;
    println!("written: {}", json.display());
    Ok(())
}
