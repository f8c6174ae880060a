//! The walls around a share server.
//!
//! They are those of the Launcher, but for one folder and for other system
//! calls. What a machine does not offer is left out, and `--verbose` reports
//! it.

use crate::confine::{
    WallReport, WallState, give_up_privileges, hide_from_debuggers, wall,
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// The newest interface that we know. Older kernels do the part that they know.
const NEWEST: ABI = ABI::V7;

/// Puts the walls up, but for those in `open`.
pub(super) fn put_up(
    folder: BorrowedFd<'_>,
    read_only: bool,
    open: u32,
) -> Vec<WallReport> {
    type PutUp<'f> = &'f dyn Fn() -> WallState;
    let walls: [(u32, PutUp<'_>); 4] = [
        (wall::PRIVILEGES, &give_up_privileges),
        (wall::DUMPABLE, &hide_from_debuggers),
        (wall::LANDLOCK, &|| landlock(folder, read_only)),
        (wall::SECCOMP, &|| seccomp(read_only)),
    ];
    let report = |&(bit, put_up): &(u32, PutUp<'_>)| {
        let start = Instant::now();
        let named = wall::ALL.iter().find(|(_, other)| *other == bit);
        let state = match open & bit {
            0 => put_up(),
            _ => WallState::NotWanted,
        };
        WallReport {
            name: named.map_or("?", |(name, _)| name),
            state,
            took: start.elapsed(),
        }
    };
    walls.iter().map(report).collect()
}

/// Files below the folder, and no others; no TCP, no abstract sockets, no
/// signals.
fn landlock(folder: BorrowedFd<'_>, read_only: bool) -> WallState {
    match rules(folder, read_only) {
        Ok(RulesetStatus::NotEnforced) => WallState::Lacking(
            "this kernel has no landlock, or not enabled".into(),
        ),
        Ok(_) => WallState::Up("files of the folder only".into()),
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

fn rules(
    folder: BorrowedFd<'_>,
    read_only: bool,
) -> Result<RulesetStatus, RulesetError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(folder, accesses(read_only)))?;
    Ok(rules.restrict_self()?.ruleset)
}

/// What is done to files of the folder: nothing is executed, and no device is
/// made or asked.
fn accesses(read_only: bool) -> BitFlags<AccessFs> {
    if read_only {
        return AccessFs::ReadFile | AccessFs::ReadDir;
    }
    AccessFs::from_all(NEWEST)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::IoctlDev)
}

/// The calls of a server, and no others.
fn seccomp(read_only: bool) -> WallState {
    let filter = match filter(read_only) {
        Ok(filter) => filter,
        Err(error) => return WallState::Lacking(error.to_string()),
    };
    match seccompiler::apply_filter(&filter) {
        Ok(()) => WallState::Up(format!("{} instructions", filter.len())),
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

/// Between open files and memory, about open files, and for memory and time.
const ALWAYS: &[i64] = &[
    libc::SYS_preadv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Where the Guest may change files.
const CHANGES: &[i64] = &[
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_utimensat,
];

/// Bits of the mode of a program that runs as its owner or group.
const SET_ID: u64 = (libc::S_ISUID | libc::S_ISGID) as u64;

/// Any other call kills the server.
pub(super) fn filter(
    read_only: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let always = ALWAYS.iter().map(|&call| (call, Vec::new()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.collect();
    // Memory, but never to execute.
    let execute = u64::from(libc::PROT_EXEC.unsigned_abs());
    rules.insert(libc::SYS_mmap, without(2, execute)?);
    rules.insert(libc::SYS_mprotect, without(2, execute)?);
    // To an end that is connected, not to an address.
    rules.insert(libc::SYS_sendto, without(4, u64::MAX)?);
    // Questions about open files.
    let questions = [libc::F_GET_SEALS, libc::F_GETFD].map(|question| {
        let question = u64::from(question.unsigned_abs());
        let (len, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
        let is = SeccompCondition::new(1, len, op, question)?;
        SeccompRule::new(vec![is])
    });
    let questions = questions.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_fcntl, questions);
    rules.insert(libc::SYS_openat, opened(read_only)?);
    if !read_only {
        rules.extend(CHANGES.iter().map(|&call| (call, Vec::new())));
        rules.insert(libc::SYS_fchmodat, without(2, SET_ID)?);
        rules.insert(libc::SYS_mknodat, made_without_devices()?);
    }
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, kill, allow, TargetArch::x86_64)?.try_into()
}

/// A call whose argument has none of these bits.
fn without(
    argument: u8,
    bits: u64,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let (len, op) = (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits));
    let none = SeccompCondition::new(argument, len, op, 0)?;
    SeccompRule::new(vec![none]).map(|rule| vec![rule])
}

/// Files are opened by openat, because a filter cannot read the arguments of
/// openat2. Landlock says in which folder. Where the Guest may only read,
/// nothing is made, cut or written; elsewhere nothing is made with bits of
/// [`SET_ID`].
fn opened(
    read_only: bool,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    /// `O_TMPFILE` without the bit that it has in common with `O_DIRECTORY`.
    const NAMELESS: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    let makes = libc::O_CREAT | NAMELESS;
    let changes = makes | libc::O_TRUNC | libc::O_ACCMODE;
    let bits = |flags: i32| u64::from(flags.unsigned_abs());
    if read_only {
        return without(2, bits(changes));
    }
    // Without a file to make, an open needs no mode and may have any.
    Ok([without(2, bits(makes))?, without(3, SET_ID)?].concat())
}

/// Only files, pipes and sockets are made, and never with bits of
/// [`SET_ID`].
fn made_without_devices() -> Result<Vec<SeccompRule>, seccompiler::BackendError>
{
    let kinds = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];
    let rule = |kind: libc::mode_t| {
        let mask = u64::from(libc::S_IFMT) | SET_ID;
        let (len, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask));
        let is = SeccompCondition::new(2, len, op, kind.into())?;
        SeccompRule::new(vec![is])
    };
    kinds.into_iter().map(rule).collect()
}
