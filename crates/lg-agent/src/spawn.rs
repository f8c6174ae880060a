//! How a program is started, and how all its processes end.
//!
//! Each run has a *warden*: a small process that shares the agent's memory and
//! open files. It starts the program, and orphans of the run become its
//! children (since Linux 3.4), so that no process leaves the run. It stores how
//! the program has ended, waits for all others, and ends. Sharing memory, it
//! needs no page tables of its own, which would cost a guest of lguest a view.
//!
//! The program begins as a second process that shares the memory, while the
//! warden waits. If a step fails, it stores which one and why, and ends.
#![expect(unsafe_code, reason = "processes that share memory")]

use crate::files;
use crate::sys::{self, Errno, Memory, Shares, Strings, flag, limit};
use crate::users::Who;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lg_exec::command::Limits;

/// The stack of a warden, and that of a program before its start.
const STACK: usize = 32 << 10;

/// The last signal.
const LAST_SIGNAL: u32 = 64;

/// Everything about a program that is to be started.
#[derive(Debug)]
pub struct Plan {
    /// Where it may be: the first that can be run is.
    pub programs: Vec<CString>,
    /// Its name and arguments.
    pub argv: Strings,
    /// Its environment.
    pub env: Strings,
    /// Its folder.
    pub cwd: CString,
    /// Whose rights it has, if not the agent's.
    pub who: Option<Who>,
    /// Its standard files, all above 2.
    pub files: [u32; 3],
    /// The first of them is a terminal that it gets.
    pub terminal: bool,
    /// What it may use.
    pub limits: Limits,
}

/// What could not be done before the program began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// A process of its own.
    Fork = 1,
    /// A session and its terminal.
    Session = 2,
    /// The standard files.
    Files = 3,
    /// A limit.
    Limits = 4,
    /// The user's rights.
    User = 5,
    /// The folder.
    Folder = 6,
    /// The program itself.
    Program = 7,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Fork,
        Self::Session,
        Self::Files,
        Self::Limits,
        Self::User,
        Self::Folder,
        Self::Program,
    ];
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being started.
    Starting,
    /// It was not started.
    Failed(Step, Errno),
    /// The program runs.
    Running,
    /// The program has ended; others of its processes have not.
    Ended,
    /// No process is left.
    Over,
}

/// What the warden and the agent share.
struct Inside {
    plan: Plan,
    child_stack: Memory,
    agent: u32,
    stage: AtomicU32,
    pid: AtomicU32,
    step: AtomicU32,
    error: AtomicU32,
    status: AtomicU32,
    started_us: AtomicU64,
    ended_us: AtomicU64,
    /// Written by the warden before it stores `ENDED`, and not after.
    usage: UnsafeCell<sys::rusage>,
}

const STARTING: u32 = 0;
const FAILED: u32 = 1;
const RUNNING: u32 = 2;
const ENDED: u32 = 3;
const OVER: u32 = 4;

/// A program and its warden.
#[derive(Debug)]
pub struct Process {
    inside: NonNull<Inside>,
    stack: Memory,
    /// The warden's number.
    pub warden: u32,
    /// The warden was waited for.
    gone: bool,
}

/// How a program has ended.
#[derive(Clone, Copy)]
pub struct End {
    /// Its status as the kernel has it; `None`: its warden was killed.
    pub status: Option<u32>,
    /// What it has used.
    pub usage: sys::rusage,
    /// Microseconds from start to end.
    pub wall_us: u64,
}

impl Process {
    /// Starts a program. What becomes of it is said by [`Self::stage`].
    ///
    /// # Errors
    ///
    /// As the kernel says: there is not even a warden.
    pub fn start(plan: Plan) -> sys::Result<Self> {
        let stack = Memory::new(STACK)?;
        let inside = Box::new(Inside {
            plan,
            child_stack: Memory::new(STACK)?,
            agent: sys::pid(),
            stage: AtomicU32::new(STARTING),
            pid: AtomicU32::new(0),
            step: AtomicU32::new(0),
            error: AtomicU32::new(0),
            status: AtomicU32::new(0),
            started_us: AtomicU64::new(sys::now_us()),
            ended_us: AtomicU64::new(0),
            usage: UnsafeCell::new(sys::no_usage()),
        });
        let inside = NonNull::from(Box::leak(inside));
        let mut process = Self {
            inside,
            stack,
            warden: 0,
            gone: true,
        };
        let argument = inside.as_ptr().cast();
        // SAFETY: stack and argument stay until the warden was waited for, and
        // it changes nothing but the atomic words and `usage`.
        process.warden = unsafe {
            sys::clone(Shares::Files, &process.stack, warden, argument)
        }?;
        process.gone = false;
        Ok(process)
    }

    fn inside(&self) -> &Inside {
        // SAFETY: it is freed only by `drop`, and nobody has it exclusively.
        unsafe { self.inside.as_ref() }
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let inside = self.inside();
        match inside.stage.load(Ordering::Acquire) {
            STARTING => Stage::Starting,
            RUNNING => Stage::Running,
            ENDED => Stage::Ended,
            OVER => Stage::Over,
            _ => {
                let number = inside.step.load(Ordering::Relaxed);
                let step = Step::ALL.iter().find(|s| **s as u32 == number);
                let error = Errno(inside.error.load(Ordering::Relaxed));
                Stage::Failed(step.copied().unwrap_or(Step::Fork), error)
            }
        }
    }

    /// The program's number; 0 before it has one.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inside().pid.load(Ordering::Relaxed)
    }

    /// The warden was waited for: nothing uses the memory any more.
    pub fn warden_is_gone(&mut self) {
        self.gone = true;
    }

    /// How it has ended. To be asked when the warden is gone.
    #[must_use]
    pub fn end(&self) -> End {
        let inside = self.inside();
        let stored = inside.stage.load(Ordering::Acquire) >= ENDED;
        let usage = if stored {
            // SAFETY: the warden has written it before it stored the stage, and
            // does not write again.
            unsafe { *inside.usage.get() }
        } else {
            sys::no_usage()
        };
        let started = inside.started_us.load(Ordering::Relaxed);
        let ended = match inside.ended_us.load(Ordering::Relaxed) {
            0 => sys::now_us(),
            ended => ended,
        };
        End {
            status: stored.then(|| inside.status.load(Ordering::Relaxed)),
            usage,
            wall_us: ended.saturating_sub(started),
        }
    }

    /// Sends a signal to the program's process group.
    pub fn signal(&self, number: u32) {
        if let Ok(pid @ 2..) = i32::try_from(self.pid()) {
            let _ = sys::kill(-pid, number);
        }
    }

    /// Kills all processes of the run that there are now, but not its warden.
    /// New ones may have come meanwhile: to be called until the warden ends.
    pub fn kill_all(&self) {
        self.signal(flag::SIGKILL);
        for pid in descendants(self.warden, self.pid()) {
            if let Ok(pid @ 2..) = i32::try_from(pid) {
                let _ = sys::kill(pid, flag::SIGKILL);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.gone {
            // A warden that still runs would lose its stack.
            self.kill_all();
            let warden = i32::try_from(self.warden).unwrap_or(-1);
            let _ = sys::wait(warden, true, &mut sys::no_usage());
        }
        // SAFETY: it came from a box, and the warden is gone.
        drop(unsafe { Box::from_raw(self.inside.as_ptr()) });
    }
}

/// A process as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    pid: u32,
    parent: u32,
    session: u32,
}

/// All processes below one, or in a session (orphans on kernels before 3.4).
fn descendants(of: u32, session: u32) -> Vec<u32> {
    let names = files::names(c"/proc").unwrap_or_default();
    let seen = names.iter().filter_map(|name| {
        let pid = core::str::from_utf8(name).ok()?.parse().ok()?;
        let path = CString::new(format!("/proc/{pid}/stat")).ok()?;
        parse(pid, &files::read(&path, 1024).ok()?)
    });
    let seen: Vec<Seen> = seen.collect();
    family(&seen, of, session)
}

fn family(seen: &[Seen], of: u32, session: u32) -> Vec<u32> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for it in seen {
            let is_child = it.parent == of || found.contains(&it.parent);
            let in_session = session > 1 && it.session == session;
            if (is_child || in_session) && it.pid != of {
                found.insert(it.pid);
            }
        }
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// Reads the line of a process. Its name is in parentheses and may hold more of
/// them.
fn parse(pid: u32, stat: &[u8]) -> Option<Seen> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = core::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let _group = fields.next()?;
    let session = fields.next()?.parse().ok()?;
    Some(Seen {
        pid,
        parent,
        session,
    })
}

/// The warden of a run. It allocates nothing, for the agent runs meanwhile.
unsafe extern "C" fn warden(argument: *mut u8) -> ! {
    // SAFETY: `Process::start` gives this, and keeps it until this process was
    // waited for.
    let inside = unsafe { &*argument.cast::<Inside>() };
    sys::adopt_orphans();
    sys::end_with_parent();
    // SAFETY: this process waits until the other does not use the memory.
    let made = unsafe {
        sys::clone(Shares::Waits, &inside.child_stack, program, argument)
    };
    let mut usage = sys::no_usage();
    let pid = match made {
        Ok(pid) => pid,
        Err(error) => {
            note(inside, Step::Fork, error);
            0
        }
    };
    if inside.step.load(Ordering::Relaxed) != 0 {
        if let Ok(pid @ 1..) = i32::try_from(pid) {
            let _ = sys::wait(pid, true, &mut usage);
        }
        tell(inside, FAILED);
        sys::exit_alone(0);
    }
    inside.pid.store(pid, Ordering::Relaxed);
    tell(inside, RUNNING);
    let mut block = true;
    loop {
        match sys::wait(-1, block, &mut usage) {
            Ok(Some(waited)) if waited.pid == pid => {
                let now = sys::now_us();
                inside.status.store(waited.status, Ordering::Relaxed);
                inside.ended_us.store(now, Ordering::Relaxed);
                // SAFETY: the agent does not read it before ENDED is stored,
                // and the program ends once.
                unsafe { *inside.usage.get() = usage };
                // Mostly no other process is left.
                block = false;
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                block = true;
                tell(inside, ENDED);
            }
            Err(_) => break,
        }
    }
    tell(inside, OVER);
    sys::exit_alone(0);
}

/// Stores a stage, and wakes the agent, which waits for this signal.
fn tell(inside: &Inside, stage: u32) {
    inside.stage.store(stage, Ordering::Release);
    if let Ok(agent) = i32::try_from(inside.agent) {
        let _ = sys::kill(agent, flag::SIGCHLD);
    }
}

fn note(inside: &Inside, step: Step, error: Errno) {
    inside.error.store(error.0, Ordering::Relaxed);
    inside.step.store(step as u32, Ordering::Relaxed);
}

/// What becomes the program. It allocates nothing.
unsafe extern "C" fn program(argument: *mut u8) -> ! {
    // SAFETY: as in `warden`, which waits.
    let inside = unsafe { &*argument.cast::<Inside>() };
    let (step, error) = become_program(&inside.plan);
    note(inside, step, error);
    sys::exit_alone(127);
}

/// Does all that comes before the program. It returns only what went wrong.
fn become_program(plan: &Plan) -> (Step, Errno) {
    let session = || {
        sys::setsid()?;
        if plan.terminal {
            sys::control_terminal(plan.files[0])?;
        }
        Ok(())
    };
    if let Err(error) = session() {
        return (Step::Session, error);
    }
    for (fd, to) in plan.files.into_iter().zip(0..) {
        if let Err(error) = sys::dup2(fd, to) {
            return (Step::Files, error);
        }
    }
    if let Err(error) = set_limits(&plan.limits) {
        return (Step::Limits, error);
    }
    // The agent runs before its programs.
    let _ = sys::set_priority(0);
    if let Some(who) = &plan.who {
        let done = sys::become_user(who.user, who.group, &who.groups);
        if let Err(error) = done {
            return (Step::User, error);
        }
    }
    sys::umask(0o022);
    if let Err(error) = sys::chdir(&plan.cwd) {
        return (Step::Folder, error);
    }
    // What has started the agent may have ignored any.
    for signal in 1..=LAST_SIGNAL {
        let _ = sys::default_action(signal);
    }
    let _ = sys::block_signals(false);
    let mut worst = Errno::NOENT;
    for program in &plan.programs {
        let error = sys::execve(program, &plan.argv, &plan.env);
        if !matches!(error, Errno::NOENT | Errno::NOTDIR) {
            worst = error;
        }
        if !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::ACCES) {
            break;
        }
    }
    (Step::Program, worst)
}

fn set_limits(limits: &Limits) -> sys::Result<()> {
    let all = [
        (limit::RLIMIT_CPU, limits.cpu_seconds),
        (limit::RLIMIT_AS, limits.memory),
        (limit::RLIMIT_NPROC, limits.processes),
        (limit::RLIMIT_FSIZE, limits.file_size),
        (limit::RLIMIT_NOFILE, limits.files),
    ];
    for (resource, value) in all {
        if let Some(value) = value {
            sys::set_limit(resource, value)?;
        }
    }
    // Nobody fetches cores from a guest.
    let _ = sys::set_limit(limit::RLIMIT_CORE, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: u32, parent: u32, session: u32) -> Seen {
        Seen {
            pid,
            parent,
            session,
        }
    }

    #[test]
    fn a_line_of_proc_is_read_behind_the_name() {
        let line = b"77 (a) S 1 (b) R 5 6 7 8 9\n";
        assert_eq!(parse(77, line), Some(seen(77, 5, 7)));
        assert_eq!(parse(77, b"77 (a) R x"), None);
        assert_eq!(parse(77, b""), None);
    }

    #[test]
    fn all_descendants_are_found_in_any_order() {
        let all = [
            seen(9, 8, 8),
            seen(8, 7, 8),
            seen(7, 2, 7),
            seen(3, 1, 3),
            seen(2, 1, 1),
            seen(4, 1, 7),
        ];
        assert_eq!(family(&all, 2, 7), [4, 7, 8, 9]);
        assert_eq!(family(&all, 5, 0), []);
    }
}
