//! An attack of many cases: boot after boot, until all have been tried.
//!
//! A boot ends with its Guest, and the next boot goes on with the next case.
//! Ends are counted by their reason, without the numbers in it. Every reason
//! must be one of those that are allowed for the case.

use crate::arena::{Arena, Boot, End, Stop, count};
use crate::script::Record;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

/// Reasons that the Host, the Launcher or the watcher may give while the Host
/// is intact.
pub(crate) const REASONS: &[&str] = &[
    "killed: bad physical address ",
    "killed: bad virtual address ",
    "killed: bad page table entry ",
    "killed: bad page directory entry ",
    "killed: unhandled trap ",
    "killed: bad hypercall ",
    "killed: hypercall ",
    "killed: LGUEST_INIT a second time",
    "killed: too many GDT entries",
    "killed: bad IDT gate type",
    "killed: bad stack segment",
    "killed: bad stack pages",
    "killed: DMA key ",
    "killed: bad DMA key ",
    "killed: sent a buffer at a ",
    "killed: bound a buffer with a ",
    "killed: bad dma: ",
    "killed: bad dma section ",
    "killed: a disk's key is its page ",
    "killed: a second request to a disk that is busy with one",
    "killed: its ring at ",
    "killed: its driver puts queue ",
    "killed: NOTIFY of ",
    "killed: a disk request without a header ",
    "killed: a buffer that is too short for its header",
    "killed: a message about a port with ",
    "killed: touched the switcher at ",
    "killed: kernel code ran in 64-bit mode",
    "CRASH: ",
    "ended by SIGTERM",
    "ended by ^C^C^C",
];

/// Reasons of a Guest that has changed the Host.
pub(crate) const FROM_INSIDE: &[&str] = &[
    "killed: the Host faulted: signal ",
    "killed: the Host is wrong about something, in ",
    "killed: its Host asked for ",
    "killed: its Host did not say why",
    "killed: page ",
    "lost: a process of the guest's programs ",
    "killed: the machine has no room for more mappings",
    "killed: the host cannot start another process for the guest",
    "lost: a process of the guest tried a forbidden system call and was \
     stopped (SIGSYS)",
    "lost: a process of the guest lost its stack (SIGSEGV)",
    "lost: a process of the guest was killed by signal ",
    "lost: a process of the guest ended with status ",
    // The attacker chose a status that means a step of the start.
    "lost: a process of the guest says that it ",
    // Likewise, last words that mean a refusal of the machine.
    "cannot map more of the guest's memory: ",
    "cannot start the guest: ",
    "cannot run the guest: this system refuses the call rt_sigreturn ",
];

/// An attack.
pub(crate) struct Sweep<'a> {
    pub(crate) name: &'static str,
    /// Whether the attacker may change the Host.
    pub(crate) inside: bool,
    /// Whether it may forge the Host's reasons.
    pub(crate) forges: bool,
    pub(crate) options: Vec<OsString>,
    /// The command line.
    pub(crate) line: String,
    pub(crate) script: &'a [Record],
    /// How it is stopped when it hangs.
    pub(crate) stop: Stop,
}

impl<'a> Sweep<'a> {
    /// A script for an attacker that stays in 32-bit mode.
    pub(crate) fn new(name: &'static str, script: &'a [Record]) -> Self {
        Self {
            name,
            inside: false,
            forges: false,
            options: Vec::new(),
            line: "attack=script".into(),
            script,
            stop: Stop::Signal,
        }
    }

    /// A script for an attacker that changes the Host.
    pub(crate) fn inside(name: &'static str, script: &'a [Record]) -> Self {
        Self {
            inside: true,
            ..Self::new(name, script)
        }
    }

    /// Runs all cases in `arena`.
    #[track_caller]
    pub(crate) fn run(&self, arena: &Arena) -> Vec<End> {
        let mut next = 0;
        let mut cases = 0;
        let mut ends = Vec::new();
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let end = arena.boot(&Boot {
                options: self.options.clone(),
                line: format!("{} from={next}", self.line),
                script: self.script,
                stop: self.stop,
            });
            if let Some(survived) = end.survived() {
                assert_eq!(end.code, 0, "{end:?}");
                cases += survived;
                ends.push(end);
                break;
            }
            let reason = end.reason().unwrap_or_else(|| {
                panic!("{}: it ended without a reason: {end:?}", self.name)
            });
            assert!(
                self.knows(reason),
                "{}: what reason is {reason:?}? {end:?}",
                self.name
            );
            assert_eq!(end.stopped, reason.starts_with("ended by "), "{end:?}");
            let told = if self.forges {
                "a forged reason".into()
            } else {
                without_numbers(reason)
            };
            *reasons.entry(told).or_default() += 1;
            let Some(last) = end.last() else {
                // A Guest that writes everywhere may end before the first case.
                assert!(
                    self.forges,
                    "{}: it ended too early: {end:?}",
                    self.name
                );
                ends.push(end);
                break;
            };
            assert!(last >= next, "{end:?}");
            cases += self.cases(next, last + 1);
            next = last + 1;
            while self.step(next).is_some_and(|step| !step.begins()) {
                next += 1;
            }
            ends.push(end);
            if !self.script.is_empty() && next >= self.script.len() as u64 {
                break;
            }
        }
        let mut told = String::new();
        for (reason, times) in &reasons {
            let _ = write!(told, "\n    {times} × {reason}");
        }
        count(self.name, cases, ends.len() as u64, &told);
        ends
    }

    fn step(&self, n: u64) -> Option<&Record> {
        self.script.get(usize::try_from(n).ok()?)
    }

    /// How many cases begin between two steps.
    fn cases(&self, from: u64, to: u64) -> u64 {
        let steps =
            (from..to).filter(|&n| self.step(n).is_none_or(Record::begins));
        steps.count() as u64
    }

    fn knows(&self, reason: &str) -> bool {
        let forged = ["killed: ", "CRASH: "];
        if self.forges && forged.iter().any(|f| reason.starts_with(f)) {
            return true;
        }
        let inside: &[&str] = if self.inside { FROM_INSIDE } else { &[] };
        let mut known = REASONS.iter().chain(inside);
        known.any(|known| reason.starts_with(known))
    }
}

/// Whether a Guest that has changed the Host may end with this reason.
pub(crate) fn knows(reason: &str) -> bool {
    let mut known = REASONS.iter().chain(FROM_INSIDE);
    known.any(|known| reason.starts_with(known))
}

/// A reason without the numbers in it.
fn without_numbers(reason: &str) -> String {
    let mut plain = String::new();
    for word in reason.split(' ') {
        let number = word.trim_matches(|c| "(),:".contains(c));
        let is_number = number.starts_with("0x")
            || number.chars().all(|c| c.is_ascii_digit());
        let word = if is_number && !number.is_empty() {
            word.replace(number, "N")
        } else {
            word.into()
        };
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain += &word;
    }
    plain
}

/// Whether all cases are tried.
pub(crate) fn all() -> bool {
    std::env::var("LGUEST_ATTACKS").is_ok_and(|value| value == "all")
}

/// The step between cases, so that about `wanted` of `count` are tried: a
/// number without small divisors, or 1 if all are tried.
pub(crate) fn stride(count: u64, wanted: u64) -> usize {
    let stride = (count / wanted).max(1) | 1;
    if all() {
        1
    } else {
        usize::try_from(stride).unwrap()
    }
}
