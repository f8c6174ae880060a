//! The benchmark: costs natively, under lguest, and under other systems.
//!
//! Everything is measured in one run, each row on one system after the other
//! and then again in another order, because the speed of a machine changes from
//! minute to minute. The results are ratios, or the reasons why there are none.
//! The same program runs everywhere: natively it is an ordinary process. The
//! mode `exec` is about commands in machines of their own.

mod about;

mod command;
mod options;
mod results;

mod conversation;
mod processes;

mod embedded;
mod smoke;
mod snapshots;

mod archive;
mod kit;
mod machines;
mod subject;

mod linux;

mod growth;
mod network;
mod outside;
mod start;

mod release;

mod exec;

mod json;
mod plot;
mod table;

pub(crate) use smoke::smoke;

use crate::place;
use about::About;
use options::Options;
use results::Results;
use std::process::ExitCode;

/// Measures the chosen rows.
pub fn main(words: &[&str]) -> ExitCode {
    if let ["exec", words @ ..] = words {
        return exec::main(words);
    }
    command::carry_out(words, options::HELP, Options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    let root = place::root();
    let lguest = match &options.lguest {
        Some(path) => path.clone(),
        None => release::build(&root)?,
    };
    let folder = root.join("target/bench");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut results = Results {
        about: About::this(&root),
        sections: Vec::new(),
    };
    embedded::measure(options, &lguest, &mut results);
    snapshots::measure(options, &lguest, &folder, &mut results);
    linux::measure(options, &lguest, &folder, &mut results);
    print!("{}", table::of(&results));
    let files = [
        (&options.json, "bench.json", json::of(&results)),
        (&options.svg, "bench.svg", plot::of(&results)),
    ];
    for (chosen, name, text) in files {
        let path = chosen.clone().unwrap_or_else(|| folder.join(name));
        std::fs::write(&path, text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}
