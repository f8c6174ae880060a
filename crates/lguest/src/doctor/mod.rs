//! `lguest doctor`: what this machine offers and lacks, and the cure.
//!
//! One table of probes ([`probes::ALL`]), each of which does the thing instead
//! of asking whether it could be done; the last of those that Guests need runs
//! one. From the same findings come the lines for a person and the JSON for a
//! script.

mod attempt;

mod finding;
pub use finding::{Finding, Probe, Verdict};

mod guest;

mod probes;

use crate::cli::exit::Outcome;
use crate::machine::signals;
use crate::machine::stats::quoted;
use crate::needs;
use std::fmt::Write as _;

/// All that was found.
pub struct Findings(Vec<(&'static Probe, Finding)>);

/// Looks at everything. To be called by a process with one thread, for some
/// things are tried in a copy of it; and it takes as long as a short run of a
/// Guest.
#[must_use]
pub fn examine() -> Findings {
    // A limit on the size of files is an error here, as it is in a run.
    let _ = signals::survive(signals::ignored());
    needs::look_around();
    let mut findings = Vec::new();
    let mut deadly = false;
    for probe in probes::ALL {
        let found = if deadly {
            Finding::lacks(
                "not looked at: it may kill",
                "nothing is known of it",
                "cure what is lacking above first",
            )
        } else {
            (probe.look)()
        };
        deadly |= found.deadly;
        findings.push((probe, found));
    }
    Findings(findings)
}

impl Findings {
    /// [`Outcome::BadMachine`] if no Guest can run here.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.missing().next().is_none() {
            Outcome::PoweredOff(0)
        } else {
            Outcome::BadMachine
        }
    }

    /// What is needed and not there.
    fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        let lacks = |found: &Finding| found.state == Verdict::Lacks;
        self.0
            .iter()
            .filter(move |(probe, found)| probe.needed && lacks(found))
            .map(|(probe, _)| probe.name)
    }

    /// A line each, and one for all.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (probe, found) in &self.0 {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{:9} {:13} {}",
                found.state.word(),
                probe.name,
                found.seen
            );
            if !found.consequence.is_empty() {
                let _ = write!(text, ": {}", found.consequence);
            }
            if !found.cure.is_empty() {
                let _ = write!(text, "; {}", found.cure);
            }
            text.push('\n');
        }
        let missing: Vec<&str> = self.missing().collect();
        if missing.is_empty() {
            text.push_str("guests can run here\n");
        } else {
            let _ = writeln!(
                text,
                "no guest can run here, for want of: {}",
                missing.join(", ")
            );
        }
        text
    }

    /// The same for a script.
    #[must_use]
    pub fn json(&self) -> String {
        let probes: Vec<String> = self
            .0
            .iter()
            .map(|(probe, found)| {
                format!(
                    "    {{\"name\": {}, \"needed\": {}, \"state\": {}, \
                     \"seen\": {}, \"consequence\": {}, \"cure\": {}}}",
                    quoted(probe.name),
                    probe.needed,
                    quoted(found.state.word()),
                    quoted(&found.seen),
                    quoted(found.consequence),
                    quoted(&found.cure),
                )
            })
            .collect();
        format!(
            "{{\n  \"version\": {},\n  \"guests_can_run\": {},\n  \
             \"probes\": [\n{}\n  ]\n}}\n",
            quoted(env!("CARGO_PKG_VERSION")),
            self.missing().next().is_none(),
            probes.join(",\n"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NEEDED: Probe = Probe {
        name: "needed",
        needed: true,
        look: || Finding::lacks("none", "nothing runs", "buy \"one\""),
    };
    static NICE: Probe = Probe {
        name: "nice",
        needed: false,
        look: || Finding::degraded("half of it", "it is slow", "wait"),
    };

    fn findings(probes: [&'static Probe; 2]) -> Findings {
        Findings(probes.map(|probe| (probe, (probe.look)())).into())
    }

    #[test]
    fn what_is_needed_and_lacking_decides() {
        let bad = findings([&NICE, &NEEDED]);
        assert_eq!(bad.outcome(), Outcome::BadMachine);
        assert_eq!(
            bad.lines(),
            "degraded  nice          half of it: it is slow; wait\n\
             lacks     needed        none: nothing runs; buy \"one\"\n\
             no guest can run here, for want of: needed\n"
        );
        assert!(bad.json().contains("\"cure\": \"buy \\\"one\\\"\""));
        let good = findings([&NICE, &NICE]);
        assert_eq!(good.outcome().code(), 0);
        assert!(good.lines().ends_with("\nguests can run here\n"));
    }

    #[test]
    fn names_are_short_and_none_is_used_twice() {
        for (i, probe) in probes::ALL.iter().enumerate() {
            assert!(probe.name.len() <= 13, "{}", probe.name);
            let again = probes::ALL[..i].iter().any(|p| p.name == probe.name);
            assert!(!again, "{}", probe.name);
        }
    }
}
