//! Rights that are given up for good: privileges, namespaces, files by name.
//!
//! None of this needs root, and all of it is best effort: what a kernel does
//! not offer, or an administrator does not allow, is reported, and the run goes
//! on without it.

use super::walls::{Plan, WallState};
use crate::engine::STATISTICS;
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::path::Path;

/// A user namespace of our own, in which we own nothing, and System V IPC of
/// our own. Views inherit them.
///
/// Other namespaces are left out. A network namespace takes ten times as long
/// as all of this, and adds nothing, because no socket can be made. A mount
/// namespace adds nothing, because no file can be opened. A namespace of
/// process numbers needs a first process that stays, and the views are our
/// children.
pub(super) fn namespaces(plan: &Plan) -> WallState {
    if !plan.networks.is_empty() {
        return WallState::Lacking(
            "a shared network tells users by their numbers, which have no \
             meaning in there"
                .into(),
        );
    }
    let us = plan.control.then(rustix::process::geteuid);
    let user = UnshareFlags::NEWUSER;
    let both = user | UnshareFlags::NEWIPC;
    for (flags, what) in [(both, "user and IPC"), (user, "user")] {
        match unshare(flags) {
            Ok(()) => {
                let known = us.map_or("", |us| know_us(us.as_raw()));
                let text = format!("{what} namespace of our own{known}");
                return WallState::Up(text);
            }
            Err(Errno::INVAL) => {}
            Err(Errno::PERM | Errno::NOSPC | Errno::USERS) => {
                return WallState::Lacking("this user may not make any".into());
            }
            Err(error) => return WallState::Lacking(error.to_string()),
        }
    }
    WallState::Lacking(
        "this kernel was built without, or there are threads".into(),
    )
}

/// Gives our user its number in the new namespace, where a user has none
/// otherwise. So clients of a control socket can be told from other users.
/// Returns what `--verbose` adds.
fn know_us(us: u32) -> &'static str {
    match std::fs::write("/proc/self/uid_map", format!("{us} {us} 1")) {
        Ok(()) => "",
        // The mode of the socket's folder keeps them out.
        Err(_) => ", in which all users look alike",
    }
}

/// Only by those flags that leave files and memory as they are.
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    #[expect(deprecated, reason = "what is unsafe about it is FILES alone")]
    rustix::thread::unshare(flags)
}

/// No capabilities, and no way to get any: not by exec, and not from the
/// bounding set.
pub(super) fn privileges(_plan: &Plan) -> WallState {
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        return WallState::Lacking(error.to_string());
    }
    let had = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let had = had.unwrap_or(CapabilitySet::empty());
    if had.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            // The kernel has no capability that it does not know.
            let _ =
                rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    match rustix::thread::set_capabilities(None, none) {
        Ok(()) => {
            WallState::Up("no capabilities, and none to be gained".into())
        }
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

/// Other processes of the same user may not trace us, nor read our memory, and
/// a crash leaves no core file.
pub(super) fn dumpable(_plan: &Plan) -> WallState {
    let no = DumpableBehavior::NotDumpable;
    match rustix::process::set_dumpable_behavior(no) {
        Ok(()) => WallState::Up("hidden from debuggers".into()),
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

/// The newest interface that we know. Older kernels do the part that they know.
const NEWEST: ABI = ABI::V7;

/// No files by name, no TCP ports, no abstract sockets, and no signals but to
/// our own.
pub(super) fn landlock(plan: &Plan) -> WallState {
    match rules(plan).and_then(RulesetCreated::restrict_self) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            WallState::Lacking(
                "this kernel has no landlock, or not enabled".into(),
            )
        }
        Ok(status) => match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => {
                WallState::Up(format!("interface {}", effective_abi as i32))
            }
            other => WallState::Up(format!("{other:?}")),
        },
        Err(error) => WallState::Lacking(error.to_string()),
    }
}

fn rules(plan: &Plan) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    // The start of the Guest still reads how busy the processors are.
    if let Ok(statistics) = PathFd::new(STATISTICS) {
        rules =
            rules.add_rule(PathBeneath::new(statistics, AccessFs::ReadFile))?;
    }
    for folder in plan.networks.iter().chain(&plan.removals) {
        if let Ok(folder) = PathFd::new(here(folder)) {
            rules = rules
                .add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
        }
    }
    Ok(rules)
}

/// The folder of a plain name is the one that we are in.
fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}
