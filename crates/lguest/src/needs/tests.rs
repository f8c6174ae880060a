//! Tests: the table of causes, and its copy in docs/faults.md.
//!
//! Every cause has a sample here, and the manual shows all samples.

use super::*;
use lg_wire::spawn::Step;

/// The sample after each cause. The compiler reports a new cause that is
/// missing here.
fn after(cause: &Cause) -> Option<Cause> {
    let (call, eperm, enosys) = ("modify_ldt", libc::EPERM, libc::ENOSYS);
    let refused = |call, error| Cause::Refused { call, error };
    Some(match cause {
        Cause::Refused {
            error: libc::EPERM, ..
        } => refused(call, enosys),
        Cause::Refused {
            call: "modify_ldt", ..
        } => refused("seccomp", enosys),
        Cause::Refused {
            call: "seccomp", ..
        } => refused("close_range", enosys),
        Cause::Refused { .. } => Cause::Killed { call },
        Cause::Killed { .. } => Cause::Forbidden { error: eperm },
        Cause::Forbidden { .. } => Cause::WriteExecute,
        Cause::WriteExecute => Cause::NoExecutableFiles,
        Cause::NoExecutableFiles => Cause::No32BitCode,
        Cause::No32BitCode => Cause::NoFsgsbase,
        Cause::NoFsgsbase => Cause::NoUserProcesses,
        Cause::NoUserProcesses => Cause::OpenFiles(16),
        Cause::OpenFiles(_) => Cause::OpenFilesOfAll,
        Cause::OpenFilesOfAll => Cause::Processes(4),
        Cause::Processes(_) => Cause::ProcessesOfGroup(4),
        Cause::ProcessesOfGroup(_) => Cause::ProcessesOfAll,
        Cause::ProcessesOfAll => Cause::AddressSpace(16 << 20),
        Cause::AddressSpace(_) => Cause::Data(512 << 10),
        Cause::Data(_) => Cause::Memory,
        Cause::Memory => Cause::Mappings,
        Cause::Mappings => Cause::MemoryOfGroup(8 << 20),
        Cause::MemoryOfGroup(_) => Cause::KilledFromOutside,
        Cause::KilledFromOutside => Cause::FileSize(1000),
        Cause::FileSize(_) => Cause::Stack(64 << 10),
        Cause::Stack(_) => Cause::ProcessorTime(1),
        Cause::ProcessorTime(_) => Cause::Timers(0),
        Cause::Timers(_) => Cause::NoLocks { error: libc::EIO },
        Cause::NoLocks { .. } => Cause::OtherVersion,
        Cause::OtherVersion => Cause::Other("timed out".into()),
        Cause::Other(_) => return None,
    })
}

fn all() -> impl Iterator<Item = Cause> {
    let error = libc::EPERM;
    let call = "modify_ldt";
    std::iter::successors(Some(Cause::Refused { call, error }), after)
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/faults.md");

#[test]
fn the_table_in_the_manual_is_this_one() {
    const HEAD: &str = "| why it cannot run | what to do |\n|---|---|\n";
    let rows: String = all()
        .map(|cause| format!("| {cause} | {} |\n", cause.cure()))
        .collect();
    let text = std::fs::read_to_string(FILE).unwrap();
    let (before, rest) = text.split_once(HEAD).unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let right = format!("{before}{HEAD}{rows}\n{after}");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(FILE, right).unwrap();
    }
    assert_eq!(text, right, "if that is meant: UPDATE_EXPECT=1");
}

/// Scripts and the doctor split a sentence at the first semicolon.
#[test]
fn a_sentence_has_its_cure_after_the_first_semicolon() {
    for cause in all() {
        assert!(!cause.to_string().contains("; "), "{cause}");
        let lack = Lack::new("do it", cause);
        let text = lack.to_string();
        let cure = text.split_once("; ").unwrap().1;
        assert_eq!(cure, lack.cause.cure());
        assert!(text.starts_with("cannot do it: "), "{text}");
    }
}

#[test]
fn every_step_has_a_sentence() {
    for step in Step::ALL {
        for error in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EAGAIN] {
            let lack = Lack::of_step(step, error, 0);
            let killed = Lack::of_filter(Some(step), 0);
            assert_ne!(lack.cause, killed.cause);
        }
    }
    let refused = Lack::of_step(Step::Segments, libc::ENOSYS, 0);
    assert!(refused.to_string().contains("modify_ldt"), "{refused}");
    let timer = Lack::of_step(Step::Timer, libc::EAGAIN, 0);
    assert!(matches!(timer.cause, Cause::Timers(_)), "{timer}");
}
