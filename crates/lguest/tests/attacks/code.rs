//! Attacks without a look into the Host: selectors and flags.

use crate::arena::{Arena, Stop};
use crate::sweep::{Sweep, stride};

fn run(name: &'static str, line: String) {
    Sweep {
        name,
        inside: false,
        forges: false,
        options: Vec::new(),
        line,
        script: &[],
        stop: Stop::Never,
    }
    .run(&Arena::new("code"));
}

/// Every selector in every segment register.
#[test]
fn selectors() {
    let step = stride(0x1_0000, 6000);
    run("selectors", format!("attack=selectors step={step}"));
}

/// The first ones, which may mean something, all of them.
#[test]
fn low_selectors() {
    run("low selectors", "attack=selectors to=0x100".into());
}

/// Every combination of flags at every kind of entry.
#[test]
fn flags() {
    run("flags", "attack=flags".into());
}
