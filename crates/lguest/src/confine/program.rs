//! A filter in the form in which it is installed.
//!
//! Filters are assembled by [`lg_seccomp`], which installs nothing. seccompiler
//! installs them, and has a type of its own for an instruction.

use lg_seccomp::{Filter, Instruction};
use seccompiler::{BpfProgram, sock_filter};

/// The instructions of a filter that was assembled, as seccompiler has them.
pub fn program(filter: &Filter) -> BpfProgram {
    let instruction = |i: &Instruction| sock_filter {
        code: i.code,
        jt: i.jump_true,
        jf: i.jump_false,
        k: i.value,
    };
    filter.code().iter().map(instruction).collect()
}
