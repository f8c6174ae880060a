//! `lguest doctor`: examines this machine, and says what to do.
//!
//! There is one table of probes ([`probes::ALL`]). A probe does a thing instead
//! of asking whether it could be done. The last of the needed probes runs a
//! Guest. The lines for a person and the JSON for a script show the same
//! findings.

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

/// The findings of all probes.
pub struct Findings(Vec<(&'static Probe, Finding)>);

/// Runs all probes. The process must have one thread, because some things are
/// tried in a copy of it. This takes as long as a short run of a Guest.
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
                "not examined: it may kill this process",
                "nothing is known about it",
                "first cure what is lacking above",
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

    /// The names of probes that are needed and lack something.
    fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        let lacks = |found: &Finding| found.state == Verdict::Lacks;
        self.0
            .iter()
            .filter(move |(probe, found)| probe.needed && lacks(found))
            .map(|(probe, _)| probe.name)
    }

    /// A line for each probe, and one for the result.
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
                "no guest can run here; lacking: {}",
                missing.join(", ")
            );
        }
        text
    }

    /// The findings as JSON.
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
    fn a_lacking_need_decides_the_outcome() {
        let bad = findings([&NICE, &NEEDED]);
        assert_eq!(bad.outcome(), Outcome::BadMachine);
        assert_eq!(
            bad.lines(),
            "degraded  nice          half of it: it is slow; wait\n\
             lacks     needed        none: nothing runs; buy \"one\"\n\
             no guest can run here; lacking: needed\n"
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
