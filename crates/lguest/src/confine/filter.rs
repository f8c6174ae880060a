//! The list of calls as a program for the kernel.
//!
//! seccompiler makes most of the program. It has two verdicts; the rules for
//! calls that fail, a third one, are put in front. There is also a rule that
//! stops calls of 32 bits like others. And seccompiler compares a call's number
//! with all others in turn. When a filter is installed, the kernel runs it once
//! for every number, to know the calls that are always allowed. That takes
//! time, so the program is made of pieces, which are skipped as a whole.

use super::calls::{self, Check, More, Rule};
use super::program::program;
use super::stopped;
use super::walls::{Plan, WallState};
use lg_seccomp::{ARCH, ARCH_X86_64, Filter, NR, verdict};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Installs the filter in all threads, and the handler for calls that it stops.
pub(super) fn install(plan: &Plan) -> WallState {
    let filter = match instructions(More::of(plan)) {
        Ok(filter) => filter,
        Err(error) => return WallState::Lacking(error.to_string()),
    };
    if let Err(error) = stopped::listen() {
        return WallState::Lacking(error.to_string());
    }
    stopped::is_ours_now();
    match seccompiler::apply_filter_all_threads(&filter) {
        Ok(()) => WallState::Up(format!("{} instructions", filter.len())),
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

/// The filter of a run with `more`.
///
/// # Errors
///
/// What seccompiler finds wrong with the list.
pub fn instructions(
    more: More,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut first = of_64_bits();
    for (nr, _, rule) in calls::all(more) {
        match rule {
            Rule::Refuse(error) => refuse(&mut first, nr, error),
            Rule::If(checks) => {
                rules.insert(nr, any_of(checks)?);
            }
            Rule::Allow
            | Rule::AllowOnLan
            | Rule::AllowWithListener
            | Rule::AllowWithPeers
            | Rule::AllowWithGifts
            | Rule::IfWithPeers(_)
            | Rule::IfOnLan(_) => {
                rules.insert(nr, Vec::new());
            }
        }
    }
    let mut all = program(&first);
    while !rules.is_empty() {
        let after = rules.keys().nth(PIECE).copied();
        let rest = after.map(|first| rules.split_off(&first));
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Trap,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        let piece = BpfProgram::try_from(filter)?;
        if let Some(first) = after {
            all.extend(skip(first, piece.len()));
        }
        all.extend(piece);
        rules = rest.unwrap_or_default();
    }
    Ok(all)
}

/// Calls in a piece of the filter.
const PIECE: usize = 10;

/// One rule for each way in which all of `checks` can be true.
fn any_of(
    checks: &[Check],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mut ways: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for check in checks {
        let words: Vec<(u8, SeccompCmpArgLen, SeccompCmpOp, u64)> = {
            use SeccompCmpArgLen::{Dword, Qword};
            use SeccompCmpOp::{Eq, MaskedEq};
            match *check {
                Check::Is(n, value) => vec![(n, Dword, Eq, value.into())],
                Check::Null(n) => vec![(n, Qword, Eq, 0)],
                Check::OneOf(n, values) => values
                    .iter()
                    .map(|&value| (n, Dword, Eq, value.into()))
                    .collect(),
                Check::Bits(n, mask, bits) => {
                    vec![(n, Qword, MaskedEq(mask), bits)]
                }
                Check::Us(n) => {
                    vec![(n, Dword, Eq, std::process::id().into())]
                }
            }
        };
        let mut longer = Vec::new();
        for way in &ways {
            for (n, len, op, value) in &words {
                let mut way = way.clone();
                let condition =
                    SeccompCondition::new(*n, len.clone(), op.clone(), *value)?;
                way.push(condition);
                longer.push(way);
            }
        }
        ways = longer;
    }
    ways.into_iter().map(SeccompRule::new).collect()
}

/// Calls are made as 64-bit programs make them. Then their number is loaded.
fn of_64_bits() -> Filter {
    let mut f = Filter::new();
    f.load(ARCH);
    f.otherwise(verdict::TRAP);
    f.require(ARCH_X86_64);
    f.load(NR);
    f
}

/// Call `nr` fails with `error`.
fn refuse(f: &mut Filter, nr: i64, error: i32) {
    // Neither numbers nor errors are ever negative or large.
    let nr = u32::try_from(nr).unwrap_or(u32::MAX);
    let error = u32::try_from(error).unwrap_or(0);
    f.when(nr, |f| f.end(verdict::FAIL | error));
}

/// Calls from number `first` on are not in the next `len` instructions.
fn skip(first: i64, len: usize) -> BpfProgram {
    let mut f = Filter::new();
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    // The kernel takes no program of more than a few thousand.
    f.skip_from(first, u32::try_from(len).unwrap_or(u32::MAX));
    program(&f)
}
