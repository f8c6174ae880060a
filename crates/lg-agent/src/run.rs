//! One run: a program, what goes in and comes out, and its limits.
//!
//! Output is read from the program only while its client has given credit, so a
//! run needs a bounded amount of memory, and a slow client stops its own
//! program only. When the program has ended, all other processes of the run are
//! killed; then the output that is left is sent, and the end is reported.

use crate::spawn::{End, Plan, Process, Stage, Step};
use crate::sys::{self, Errno, Fd, Strings, flag};
use crate::users::{self, Who};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use lg_exec::command::{Flow, Given, Size, Start};
use lg_exec::credit::{Beyond, Receiver, Sender};
use lg_exec::frame;
use lg_exec::report::{
    Exited, Failed, Failure, Reason, Report, Started, Status, Usage, kind,
};

/// Where programs are, for a client that does not say.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a terminal is told when its input ends.
const END_OF_INPUT: u8 = 4;

/// The most that is read from a program at once.
const PIECE: usize = 32 << 10;

/// Pauses between attempts to kill what is left of a run, in milliseconds: the
/// first, and the longest.
const FIRST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 100;

/// A flow from the program to its client.
#[derive(Debug)]
struct Output {
    fd: Option<Fd>,
    credit: Sender,
    kind: u8,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    process: Process,
    stream: u32,
    /// The program's ends of its files, until it has them.
    given: Vec<Fd>,
    stdin: Option<Fd>,
    waiting: Vec<u8>,
    stdin_credit: Receiver,
    stdin_ended: bool,
    outputs: [Output; 2],
    terminal: bool,
    started: bool,
    reason: Reason,
    /// When it is ended, in milliseconds since the boot.
    deadline: Option<u64>,
    output_left: Option<u64>,
    /// When its processes are killed again, and the pause after that.
    killing: Option<(u64, u64)>,
    /// The warden is gone.
    over: bool,
}

/// A failure with its text.
#[must_use]
pub fn failed(failure: Failure, text: String) -> Report<'static> {
    Report::Failed(Failed { failure, text })
}

/// Which failure an error of the system is.
#[must_use]
pub fn failure(error: Errno) -> Failure {
    match error {
        Errno::NOENT | Errno::NOTDIR => Failure::NotFound,
        Errno::PERM | Errno::ACCES => Failure::NotPermitted,
        Errno::NOEXEC => Failure::NotExecutable,
        Errno::ISDIR => Failure::NotAFile,
        Errno::NOSPC | Errno::NOMEM | Errno::MFILE | Errno::AGAIN => {
            Failure::NoRoom
        }
        _ => Failure::Other(0),
    }
}

/// Looks up the user of a request. `None`: the agent's own user.
///
/// # Errors
///
/// A report that there is no such user or group.
pub fn who(words: &str) -> Result<Option<Who>, Report<'static>> {
    if words.is_empty() {
        return Ok(None);
    }
    let none = || {
        let text = format!("there is no user or group `{words}`");
        failed(Failure::NoUser, text)
    };
    users::find(words).map(Some).ok_or_else(none)
}

impl Run {
    /// Starts a program.
    ///
    /// # Errors
    ///
    /// A report for its client.
    pub fn start(stream: u32, start: Start) -> Result<Self, Report<'static>> {
        let text = "the guest cannot start more programs";
        let no_room = |e: Errno| {
            failed(Failure::NoRoom, format!("{text}: {}", e.words()))
        };
        let limits = start.limits;
        let (mut plan, terminal) = plan(start)?;
        let (ours, theirs) = match terminal {
            Some(size) => terminal_files(size).map_err(|e| {
                let text = format!("there is no terminal: {}", e.words());
                failed(failure(e), text)
            })?,
            None => pipes().map_err(no_room)?,
        };
        for (to, fd) in plan.files.iter_mut().zip(theirs.iter().cycle()) {
            *to = fd.raw();
        }
        let process = Process::start(plan).map_err(no_room)?;
        let [stdin, stdout, stderr] = ours;
        let output = |fd, kind| Output {
            fd,
            credit: Sender::default(),
            kind,
        };
        let now = sys::now_ms();
        Ok(Self {
            process,
            stream,
            given: theirs,
            stdin,
            waiting: Vec::new(),
            stdin_credit: Receiver::default(),
            stdin_ended: false,
            outputs: [
                output(stdout, kind::STDOUT),
                output(stderr, kind::STDERR),
            ],
            terminal: terminal.is_some(),
            started: false,
            reason: Reason::None,
            deadline: limits.time_ms.map(|ms| now.saturating_add(ms)),
            output_left: limits.output,
            killing: None,
            over: false,
        })
    }

    /// Whether this process is its warden.
    #[must_use]
    pub fn has_warden(&self, pid: u32) -> bool {
        self.process.warden == pid
    }

    /// Its warden was waited for.
    pub fn warden_is_gone(&mut self) {
        self.process.warden_is_gone();
        self.over = true;
        self.stdin = None;
        self.given.clear();
        // One that was killed leaves processes behind.
        if matches!(self.process.stage(), Stage::Running | Stage::Ended) {
            self.process.kill_all();
        }
    }

    /// Reports what has become of the program.
    pub fn look(&mut self, out: &mut Vec<u8>) {
        let stage = self.process.stage();
        let begun = !matches!(stage, Stage::Starting | Stage::Failed(..));
        if begun && !self.started {
            self.started = true;
            self.given.clear();
            let pid = self.process.pid();
            put(out, self.stream, &Report::Started(Started { pid }));
            self.write(out);
        }
        let is_left = stage == Stage::Ended && !self.over;
        if is_left && self.killing.is_none() {
            self.kill();
        }
    }

    fn kill(&mut self) {
        self.process.kill_all();
        let now = sys::now_ms();
        self.killing = Some((now + FIRST_PAUSE, FIRST_PAUSE));
    }

    /// Ends it, for a reason.
    pub fn end(&mut self, reason: Reason) {
        if self.reason == Reason::None {
            self.reason = reason;
        }
        self.stdin = None;
        self.waiting = Vec::new();
        if matches!(reason, Reason::HangUp | Reason::PowerOff) {
            for output in &mut self.outputs {
                output.fd = None;
            }
        }
        if !self.over {
            self.kill();
        }
    }

    /// Does what the time demands.
    pub fn tick(&mut self, now: u64) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            if !self.over {
                self.end(Reason::Time);
            }
        }
        match self.killing {
            Some((next, pause)) if now >= next && !self.over => {
                self.process.kill_all();
                let pause = (pause * 2).min(LONGEST_PAUSE);
                self.killing = Some((now + pause, pause));
            }
            _ => {}
        }
    }

    /// When [`Self::tick`] is to be called next.
    #[must_use]
    pub fn next_tick(&self) -> Option<u64> {
        if self.over {
            return None;
        }
        let killing = self.killing.map(|(next, _)| next);
        killing.into_iter().chain(self.deadline).min()
    }

    /// Bytes for its input have come.
    ///
    /// # Errors
    ///
    /// [`Beyond`]: without credit.
    pub fn stdin(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Beyond> {
        self.stdin_credit.arrived(bytes.len())?;
        if self.stdin.is_some() && !self.stdin_ended {
            self.waiting.extend_from_slice(bytes);
            self.write(out);
        }
        Ok(())
    }

    /// No more bytes will come for its input.
    pub fn stdin_end(&mut self, out: &mut Vec<u8>) {
        if !self.stdin_ended {
            self.stdin_ended = true;
            if self.terminal {
                self.waiting.push(END_OF_INPUT);
            }
            self.write(out);
        }
    }

    /// The descriptor to which input waits to be written.
    #[must_use]
    pub fn wants_write(&self) -> Option<&Fd> {
        let waits = self.started && !self.waiting.is_empty();
        self.stdin.as_ref().filter(|_| waits)
    }

    /// Writes input that waits, as much as the program takes.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            // Credit comes after the message that it runs.
            return;
        }
        let mut taken = 0;
        while let Some(fd) = self.stdin.as_ref() {
            let rest = self.waiting.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match sys::write(fd, rest) {
                Ok(n) => taken += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // It does not read any more. Nor does its client get credit.
                Err(_) => {
                    self.stdin = None;
                    self.waiting = Vec::new();
                    return;
                }
            }
        }
        self.waiting.drain(..taken.min(self.waiting.len()));
        if let Some(bytes) = self.stdin_credit.taken(taken) {
            let flow = Flow::Stdin;
            put(out, self.stream, &Report::Credit(Given { flow, bytes }));
        }
        if self.stdin_ended && self.waiting.is_empty() && !self.terminal {
            self.stdin = None;
        }
    }

    /// The descriptors from which output can be read now.
    pub fn wants_read(&self) -> impl Iterator<Item = (usize, &Fd)> {
        self.outputs.iter().enumerate().filter_map(|(n, output)| {
            let fd = output.fd.as_ref()?;
            (self.started && output.credit.room() > 0).then_some((n, fd))
        })
    }

    /// Reads output, and appends its frame. Returns whether there may be more.
    pub fn read(&mut self, which: usize, out: &mut Vec<u8>) -> bool {
        let Some(output) = self.outputs.get_mut(which) else {
            return false;
        };
        let room = output.credit.room().min(PIECE);
        let Some(fd) = output.fd.as_ref().filter(|_| room > 0) else {
            return false;
        };
        let start = out.len();
        let body = start + frame::HEAD;
        out.resize(body + room, 0);
        let n = match sys::read(fd, &mut out[body..]) {
            Ok(n) => n,
            Err(error @ (Errno::INTR | Errno::AGAIN)) => {
                out.truncate(start);
                return error == Errno::INTR;
            }
            // A terminal that nobody has open any more.
            Err(_) => 0,
        };
        if n == 0 {
            out.truncate(start);
            output.fd = None;
            return false;
        }
        let left = self.output_left.map(|left| left.min(n as u64));
        let allowed = left.map_or(n, |left| usize::try_from(left).unwrap_or(n));
        if allowed > 0 && output.credit.spend(allowed).is_ok() {
            let head = frame::Head {
                length: allowed,
                stream: self.stream,
                kind: output.kind,
            };
            out[start..body].copy_from_slice(&head.bytes());
            out.truncate(body + allowed);
        } else {
            out.truncate(start);
        }
        if let Some(left) = &mut self.output_left {
            *left -= allowed as u64;
            if allowed < n {
                // Killed first: a pipe without a reader ends a program, too.
                self.end(Reason::Output);
                for output in &mut self.outputs {
                    output.fd = None;
                }
            }
        }
        true
    }

    /// The client has taken output.
    ///
    /// # Errors
    ///
    /// [`Beyond`]: more than was sent.
    pub fn credit(&mut self, given: Given) -> Result<(), Beyond> {
        match given.flow {
            Flow::Stdin => Err(Beyond),
            Flow::Stdout => self.outputs[0].credit.refill(given.bytes),
            Flow::Stderr => self.outputs[1].credit.refill(given.bytes),
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, number: u8) {
        let is_one = (1..=64).contains(&number);
        if is_one && self.started && !self.over {
            self.process.signal(u32::from(number));
        }
    }

    /// Gives its terminal another size.
    pub fn resize(&self, size: Size) {
        if let Some(fd) = self.outputs[0].fd.as_ref().filter(|_| self.terminal)
        {
            let _ = sys::resize(fd, size.rows, size.cols);
        }
    }

    /// Sends the output that is left, as far as there is credit, and reports
    /// the end. Returns whether it is over and can be forgotten.
    pub fn finish(&mut self, out: &mut Vec<u8>, most: usize) -> bool {
        if !self.over {
            return false;
        }
        if let Stage::Failed(step, error) = self.process.stage() {
            put(out, self.stream, &self.not_started(step, error));
            return true;
        }
        if !self.started {
            // Its warden was killed at once.
            let text = "the program was killed before it began".to_string();
            put(out, self.stream, &failed(Failure::Other(0), text));
            return true;
        }
        for which in 0..self.outputs.len() {
            while out.len() < most && self.read(which, out) {}
            let output = &mut self.outputs[which];
            // No process of the run can write any more. What others could
            // write, which were given the file, is not part of the run.
            if output.credit.room() > 0 && out.len() < most {
                output.fd = None;
            }
        }
        if self.outputs.iter().any(|output| output.fd.is_some()) {
            return false;
        }
        put(out, self.stream, &Report::Exited(self.exited()));
        true
    }

    fn not_started(&self, step: Step, error: Errno) -> Report<'static> {
        if self.reason == Reason::HangUp {
            return failed(Failure::HangUp, "the client is gone".into());
        }
        let what = match step {
            Step::Fork => "there is no room for a process",
            Step::Session => "the terminal cannot be used",
            Step::Files => "the standard files cannot be set",
            Step::Limits => "a limit cannot be set",
            Step::User => "the user's rights cannot be taken over",
            Step::Folder => "the folder cannot be entered",
            Step::Program => "the program cannot be run",
        };
        let failure = match step {
            Step::Folder => Failure::NoFolder,
            _ => failure(error),
        };
        failed(failure, format!("{what}: {}", error.words()))
    }

    fn exited(&self) -> Exited {
        let End {
            status,
            usage,
            wall_us,
        } = self.process.end();
        let (user, system) = (usage.ru_utime, usage.ru_stime);
        Exited {
            status: status.map_or(Status::Signal(9), self::status),
            reason: self.reason,
            usage: Usage {
                wall_us,
                user_us: time(user.tv_sec, user.tv_usec),
                system_us: time(system.tv_sec, system.tv_usec),
                max_rss_kib: number(usage.ru_maxrss),
                minor_faults: number(usage.ru_minflt),
                major_faults: number(usage.ru_majflt),
                blocks_in: number(usage.ru_inblock),
                blocks_out: number(usage.ru_oublock),
                switches: number(usage.ru_nvcsw)
                    .saturating_add(number(usage.ru_nivcsw)),
            },
        }
    }
}

/// A number of the kernel's, whose type depends on the processor.
fn number(n: impl TryInto<u64>) -> u64 {
    n.try_into().unwrap_or(0)
}

/// Microseconds.
fn time(seconds: impl TryInto<u64>, us: impl TryInto<u64>) -> u64 {
    let seconds = number(seconds).saturating_mul(1_000_000);
    seconds.saturating_add(number(us))
}

/// How a program has ended, by its status as the kernel has it.
fn status(word: u32) -> Status {
    let [signal, code, ..] = word.to_le_bytes();
    match signal & 0x7f {
        0 => Status::Code(code),
        signal => Status::Signal(signal),
    }
}

/// Appends a report. None of the agent's is too long.
pub fn put(out: &mut Vec<u8>, stream: u32, report: &Report<'_>) {
    let _ = report.put(stream, out);
}

/// Our ends of the standard files, and the program's.
type Files = ([Option<Fd>; 3], Vec<Fd>);

fn pipes() -> sys::Result<Files> {
    let (their_in, stdin) = sys::pipe()?;
    let (stdout, their_out) = sys::pipe()?;
    let (stderr, their_err) = sys::pipe()?;
    for fd in [&stdin, &stdout, &stderr] {
        sys::set_nonblocking(fd)?;
    }
    let ours = [Some(stdin), Some(stdout), Some(stderr)];
    Ok((ours, vec![their_in, their_out, their_err]))
}

fn terminal_files(size: Size) -> sys::Result<Files> {
    let (master, slave) = sys::terminal()?;
    sys::set_nonblocking(&master)?;
    sys::resize(&master, size.rows, size.cols)?;
    let input = sys::above_standard(&master)?;
    Ok(([Some(input), Some(master), None], vec![slave]))
}

/// Checks what a client asks for, and makes a plan of it.
fn plan(start: Start) -> Result<(Plan, Option<Size>), Report<'static>> {
    let zero = |what: &str| {
        let text = format!("{what} with a zero byte inside, or none");
        failed(Failure::Protocol, text)
    };
    let strings = |list: Vec<Vec<u8>>, what: &str| {
        let list = list.into_iter().map(CString::new);
        list.collect::<Result<Vec<_>, _>>().map_err(|_| zero(what))
    };
    let who = who(&start.user)?;
    let argv = strings(start.argv, "an argument")?;
    let mut env = strings(start.env, "the environment")?;
    let name = argv.first().ok_or_else(|| zero("a program"))?.clone();
    let home = match &who {
        Some(who) => who.home.clone(),
        None => users::find("0").and_then(|root| root.home),
    };
    let home = home.unwrap_or_else(|| "/".into());
    let mut add = |name: &str, value: &str| {
        let begins = format!("{name}=");
        let is = |s: &CString| s.as_bytes().starts_with(begins.as_bytes());
        if !env.iter().any(is) {
            env.extend(CString::new(format!("{begins}{value}")));
        }
    };
    add("PATH", PATH);
    add("HOME", &home);
    if start.terminal.is_some() {
        add("TERM", "xterm");
    }
    let cwd = match start.cwd {
        Some(cwd) => CString::new(cwd).map_err(|_| zero("a folder"))?,
        // A user without a folder begins at the top.
        None => CString::new(home)
            .ok()
            .filter(|home| {
                let flags = flag::O_RDONLY | flag::O_DIRECTORY;
                sys::open(home, flags, 0).is_ok()
            })
            .unwrap_or_else(|| c"/".into()),
    };
    let plan = Plan {
        programs: programs(&name, &env),
        argv: Strings::new(argv),
        env: Strings::new(env),
        cwd,
        who,
        files: [0; 3],
        terminal: start.terminal.is_some(),
        limits: start.limits,
    };
    Ok((plan, start.terminal))
}

/// Where a program may be: as it is named, or in each folder of `PATH`.
fn programs(name: &CString, env: &[CString]) -> Vec<CString> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.contains(&b'/') {
        return vec![name.clone()];
    }
    let path = env.iter().find_map(|s| s.as_bytes().strip_prefix(b"PATH="));
    let folders = path.unwrap_or_default().split(|&b| b == b':');
    let full = folders.filter_map(|folder| {
        let folder = if folder.is_empty() { b"." } else { folder };
        CString::new([folder, b"/", bytes].concat()).ok()
    });
    full.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_in_path() {
        let env = [c"A=b".into(), c"PATH=/bin::/usr/bin".into()];
        let found = programs(&c"ls".into(), &env);
        assert_eq!(found, [c"/bin/ls", c"./ls", c"/usr/bin/ls"]);
        assert_eq!(programs(&c"./ls".into(), &env), [c"./ls"]);
    }

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        assert_eq!(status(0x0300), Status::Code(3));
        assert_eq!(status(9), Status::Signal(9));
        assert_eq!(status(0x86), Status::Signal(6));
    }
}
