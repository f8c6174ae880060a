//! The list of calls as a program for the kernel.
//!
//! seccompiler makes the program. It knows two verdicts; we put a third in
//! front, for calls that fail, and see to it that calls by the 32-bit door
//! end as loudly as others. And it compares a call's number with all others in
//! turn. When a filter is installed the kernel runs it for every number, to
//! know those that it need not ask about later; so it is made of pieces, which
//! are skipped as a whole.

use super::calls::{self, Check, Rule};
use super::{Plan, State, stopped};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// What happens to a call: the numbers of linux/seccomp.h.
pub mod verdict {
    /// It fails with the error in the low half.
    pub const FAIL: u32 = 0x0005_0000;
    /// SIGSYS.
    pub const TRAP: u32 = 0x0003_0000;
    /// It is made.
    pub const ALLOW: u32 = 0x7FFF_0000;
}

/// Installs the filter in all threads, and the handler for whoever breaks it.
pub(super) fn install(plan: &Plan) -> State {
    let filter = match instructions(!plan.networks.is_empty()) {
        Ok(filter) => filter,
        Err(error) => return State::Lacking(error.to_string()),
    };
    if let Err(error) = stopped::listen() {
        return State::Lacking(error.to_string());
    }
    stopped::is_ours_now();
    match seccompiler::apply_filter_all_threads(&filter) {
        Ok(()) => State::Up(format!("{} instructions", filter.len())),
        Err(error) => State::Lacking(error.to_string()),
    }
}

/// The filter, with the calls for a network between Guests if `lan`.
///
/// # Errors
///
/// What seccompiler finds wrong with the list.
pub fn instructions(
    lan: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut program = door();
    for (nr, _, rule) in calls::all(lan) {
        match rule {
            Rule::Refuse(error) => refuse(&mut program, nr, error),
            Rule::If(checks) => {
                rules.insert(nr, any_of(checks)?);
            }
            Rule::Allow | Rule::AllowOnLan | Rule::IfOnLan(_) => {
                rules.insert(nr, Vec::new());
            }
        }
    }
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
            skip(&mut program, first, piece.len());
        }
        program.extend(piece);
        rules = rest.unwrap_or_default();
    }
    Ok(program)
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

// Classes and modes of instructions (linux/bpf_common.h), and where in
// `struct seccomp_data` the number and the architecture of a call are.
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
const NR: u32 = 0;
const ARCH: u32 = 4;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xC000_003E;

/// Calls come by the 64-bit door; and then their number is loaded.
fn door() -> BpfProgram {
    vec![
        instruction(LOAD_WORD, 0, 0, ARCH),
        instruction(JUMP_EQUAL, 1, 0, X86_64),
        instruction(RETURN, 0, 0, verdict::TRAP),
        instruction(LOAD_WORD, 0, 0, NR),
    ]
}

/// Call `nr` fails with `error`.
fn refuse(program: &mut BpfProgram, nr: i64, error: i32) {
    // Neither numbers nor errors are ever negative or large.
    let nr = u32::try_from(nr).unwrap_or(u32::MAX);
    let error = u32::try_from(error).unwrap_or(0);
    program.push(instruction(JUMP_EQUAL, 0, 1, nr));
    program.push(instruction(RETURN, 0, 0, verdict::FAIL | error));
}

/// Calls from number `first` on are not in the next `len` instructions.
fn skip(program: &mut BpfProgram, first: i64, len: usize) {
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    // The kernel takes no program of more than a few thousand.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    program.push(instruction(JUMP_NOT_LESS, 0, 1, first));
    program.push(instruction(JUMP, 0, 0, len));
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}
