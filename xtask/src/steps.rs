//! The steps of CI, in their order.
//!
//! Steps that are quick and fail often come first. After a failed step the next
//! one runs, so that one run shows all failures. Each step can be chosen by its
//! name. Cargo builds what a step needs from another one.

use crate::bench;
use crate::ci::{Ci, Verdict};
use crate::fuzz::{self, Engine};
use crate::place::{self, WORKSPACES};
use crate::program::exists;
use crate::tally::Tally;
use crate::tidy;
use std::fmt::Write;
use std::process::{Command, ExitCode};

/// One step.
pub struct Step {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it checks.
    pub what: &'static str,
    /// Part of `--quick`.
    pub quick: bool,
    /// Runs it.
    pub run: fn(&mut Ci),
}

/// All steps.
pub const STEPS: &[Step] = &[
    Step {
        name: "tidy",
        what: "what no compiler checks",
        quick: true,
        run: |ci| {
            for (name, found) in tidy::check_all(&ci.root) {
                match found.first() {
                    None => ci.pass(name),
                    Some(_) => ci.fail(name, &found.join("\n    ")),
                }
            }
        },
    },
    Step {
        name: "fmt",
        what: "every workspace is formatted",
        quick: true,
        run: |ci| {
            for (name, manifest) in WORKSPACES {
                let words =
                    format!("fmt --all --check --manifest-path {manifest}");
                ci.cargo(name, &words);
            }
        },
    },
    Step {
        name: "clippy",
        what: "no warnings in any workspace",
        quick: true,
        run: clippy,
    },
    Step {
        name: "docs",
        what: "documentation, private items too, with all links whole",
        quick: false,
        run: docs,
    },
    Step {
        name: "test",
        what: "all tests that need no privilege",
        quick: true,
        run: test,
    },
    Step {
        name: "run",
        what: "the first command of the README",
        quick: false,
        run: boot,
    },
    Step {
        name: "bench",
        what: "the benchmark still measures all rows (figures are ignored)",
        quick: false,
        run: |ci| {
            let release = "build --release --locked -p lguest";
            if !ci.cargo("release build", release) {
                return;
            }
            let missing = bench::smoke(&ci.root);
            match missing.first() {
                None => ci.pass("embedded guest"),
                Some(_) => {
                    ci.fail("embedded guest", &missing.join("\n    "));
                }
            }
        },
    },
    Step {
        name: "guests",
        what: "the images in the tree come from its sources; crates of guests",
        quick: false,
        run: |ci| {
            let mut build = Command::new("guests/build.sh");
            build.arg("--check");
            ci.command("build.sh --check", build, NO_TOOLCHAIN);
            // It has fetched the compiler, which the tests lack at first.
            let crates = "test --locked -p lguest --test crates";
            ci.cargo("crates of guests", crates);
        },
    },
    Step {
        name: "fuzz",
        what: "every fuzz target for a while",
        quick: false,
        run: fuzz,
    },
    Step {
        name: "deny",
        what: "licences and sources of dependencies, in every workspace",
        quick: false,
        run: |ci| {
            for (name, manifest) in WORKSPACES {
                if exists("cargo-deny") {
                    let words = format!(
                        "deny --locked --manifest-path {manifest} --config \
                         deny.toml check licenses bans sources"
                    );
                    ci.cargo(name, &words);
                } else {
                    ci.skip(name, "cargo-deny is not installed");
                }
            }
        },
    },
];

/// The exit status of guests/build.sh if there is no i686 compiler.
const NO_TOOLCHAIN: Verdict = Verdict::StatusOrSkip(3);

/// Runs CI, or the chosen steps.
pub fn main(words: &[&str]) -> ExitCode {
    let quick = words.contains(&"--quick");
    let names: Vec<_> = words.iter().filter(|w| **w != "--quick").collect();
    let known = |name: &str| STEPS.iter().any(|step| step.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        eprintln!("xtask: there is no step `{name}`: see cargo xtask help");
        return ExitCode::from(2);
    }
    let chosen = |step: &&Step| {
        let named = names.iter().any(|name| **name == step.name);
        named || names.is_empty() && (step.quick || !quick)
    };
    let mut ci = Ci::new(place::root(), quick);
    for step in STEPS.iter().filter(chosen) {
        ci.begin(step.name, step.what);
        (step.run)(&mut ci);
    }
    ci.sum_up()
}

/// The list of steps, for the help text.
pub fn listing() -> String {
    let mut text = String::new();
    for step in STEPS {
        let quick = if step.quick {
            ""
        } else {
            " (not with --quick)"
        };
        let _ = writeln!(text, "  {:8} {}{quick}", step.name, step.what);
    }
    text
}

fn clippy(ci: &mut Ci) {
    const DENY: &str = "-- -D warnings";
    ci.cargo(
        "main workspace",
        &format!("clippy --workspace --all-targets --locked {DENY}"),
    );
    // As in crates/lguest/build.rs: without a target named, the profile's
    // panic = "abort" would have to hold for build scripts, too.
    ci.cargo(
        "view",
        &format!(
            "clippy --manifest-path crates/lg-view/Cargo.toml --release \
             --locked --target x86_64-unknown-linux-gnu \
             --target-dir target/lg-view {DENY}"
        ),
    );
    if ci.quick {
        return;
    }
    ci.cargo(
        "guest kit, as tested here",
        &format!(
            "clippy --manifest-path guests/Cargo.toml -p lg-guest \
             -p lg-user --features lg-user/build --all-targets --locked \
             --target-dir target/kit {DENY}"
        ),
    );
    let mut fuzz = Command::new("cargo");
    fuzz.current_dir(ci.root.join("fuzz"));
    // As cargo-fuzz builds it: parts of it are there only then.
    fuzz.env("RUSTFLAGS", "--cfg fuzzing");
    fuzz.args(["clippy", "--workspace", "--all-targets", "--locked"]);
    fuzz.args(["--", "-D", "warnings"]);
    ci.command("fuzz", fuzz, Verdict::Status);
    let mut lint = Command::new("guests/build.sh");
    lint.arg("--lint");
    ci.command("guests, by their own compiler", lint, NO_TOOLCHAIN);
}

fn docs(ci: &mut Ci) {
    let mut doc = Command::new("cargo");
    doc.args(["doc", "--workspace", "--no-deps", "--locked"])
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings");
    ci.command("main workspace", doc, Verdict::Status);
}

fn test(ci: &mut Ci) {
    let mut tests = Command::new("cargo");
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    // A test prints SKIPPED if it could not run. The test of the guest kit
    // prints the results of the kit's own tests. Both are counted.
    tests.args(["--", "--show-output"]);
    ci.command("cargo test --workspace", tests, Verdict::Tests);
}

fn fuzz(ci: &mut Ci) {
    let engine = Engine::best();
    let root = ci.root.clone();
    if !ci.command(engine.name(), engine.build(&root), Verdict::Status) {
        return;
    }
    let mut commands = Vec::new();
    for target in fuzz::targets(&root) {
        match engine.run(&root, &target, fuzz::seconds()) {
            Ok(command) => commands.push((target, command)),
            Err(error) => ci.fail(&target, &error.to_string()),
        }
    }
    ci.run_together(commands, |ci, target, ended| {
        let remark = format!("  {}", engine.summary(&ended.output));
        let tally = Tally::one(ended.succeeded());
        ci.count(target, ended, tally, &remark);
    });
}

/// Checks that the command names no dynamic linker, so that it can be copied to
/// any machine.
fn needs_no_library(ci: &mut Ci) {
    const LABEL: &str = "the command needs no library";
    match std::fs::read(place::release(&ci.root)) {
        Ok(elf) if names_interpreter(&elf) == Some(false) => ci.pass(LABEL),
        Ok(_) => {
            ci.fail(LABEL, "it names a dynamic linker: see .cargo/config.toml");
        }
        Err(error) => ci.fail(LABEL, &error.to_string()),
    }
}

/// Whether a 64-bit ELF file has a PT_INTERP header; `None` if its program
/// headers are missing.
fn names_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: &[u8] = &[3, 0, 0, 0];
    const HEADER: usize = 56;
    let table = elf.get(32..40)?.try_into().ok()?;
    let table = usize::try_from(u64::from_le_bytes(table)).ok()?;
    let count = u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?);
    let len = usize::from(count) * HEADER;
    let headers = elf.get(table..table.checked_add(len)?)?;
    let interpreter = |header: &[u8]| header.starts_with(PT_INTERP);
    Some(headers.chunks_exact(HEADER).any(interpreter))
}

/// Boots the built-in guest, and lets it power off.
fn boot(ci: &mut Ci) {
    const READY: &str = "lguest guest ready";
    if !ci.cargo("release build", "build --release --locked --workspace") {
        return;
    }
    needs_no_library(ci);
    let mut run = Command::new("cargo");
    run.args(["run", "--release", "--locked"]);
    let label = "uptime, poweroff";
    let Some(ended) = ci.run(label, run, "uptime\npoweroff\n") else {
        return;
    };
    let ready = ended.output.lines().find(|line| line.starts_with(READY));
    let tally = Tally::one(ended.succeeded() && ready.is_some());
    let remark = ready.map(|line| format!("  {line}")).unwrap_or_default();
    ci.count(label, &ended, tally, &remark);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_need_a_dynamic_linker_are_recognised() {
        // This test is linked as the command is.
        let this = std::fs::read("/proc/self/exe").unwrap_or_default();
        let dynamic = !cfg!(target_feature = "crt-static");
        assert_eq!(names_interpreter(&this), Some(dynamic));
        let mut elf = vec![0; 64 + 2 * 56];
        (elf[32], elf[56], elf[64]) = (64, 2, 1);
        assert_eq!(names_interpreter(&elf), Some(false));
        elf[64 + 56] = 3;
        assert_eq!(names_interpreter(&elf), Some(true));
        elf.pop();
        assert_eq!(names_interpreter(&elf), None);
    }
}
