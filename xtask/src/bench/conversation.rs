//! A conversation with a program by its standard input and output.
//!
//! Guests and native programs are asked for their rows in the same way: a line
//! is written, and lines are read up to the line that ends the answer. Every
//! wait has a time limit, because a guest may hang.

use crate::program::end_all_of;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A running program, and its output so far.
pub(super) struct Conversation {
    child: Child,
    stdin: ChildStdin,
    output: Receiver<Piece>,
    /// Its output so far.
    heard: Vec<u8>,
    /// How much of the output earlier waits have used.
    seen: usize,
    started: Instant,
    latest: Instant,
}

/// Some bytes, and when they came.
type Piece = (Instant, Vec<u8>);

impl Conversation {
    /// Starts a program. Its standard error goes to a log or, if there is none,
    /// is read like its standard output.
    pub(super) fn start(
        mut command: Command,
        log: Option<&Path>,
    ) -> Result<Self, String> {
        let name = command.get_program().display().to_string();
        let failed = |error| format!("{name}: {error}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        match log {
            Some(log) => command.stderr(File::create(log).map_err(failed)?),
            None => command.stderr(Stdio::piped()),
        };
        let started = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let (sender, output) = channel();
        let stdin = child.stdin.take().ok_or("no standard input")?;
        if let Some(stdout) = child.stdout.take() {
            listen(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            listen(stderr, sender);
        }
        Ok(Self {
            child,
            stdin,
            output,
            heard: Vec::new(),
            seen: 0,
            started,
            latest: started,
        })
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line.
    pub(super) fn say(&mut self, line: &str) -> Result<(), String> {
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| format!("it does not read its input: {error}"))
    }

    /// Waits for `text`, after the texts of earlier waits. Returns the output
    /// before it, and the time since the start.
    pub(super) fn wait_for(
        &mut self,
        text: &str,
        patience: Duration,
    ) -> Result<(String, Duration), String> {
        let end = Instant::now() + patience;
        let mut from = self.seen;
        loop {
            let news = &self.heard[from..];
            let found =
                news.windows(text.len()).position(|w| w == text.as_bytes());
            if let Some(at) = found {
                let before = &self.heard[self.seen..from + at];
                let before = String::from_utf8_lossy(before).into_owned();
                self.seen = from + at + text.len();
                return Ok((before, self.latest - self.started));
            }
            from = from.max(self.heard.len().saturating_sub(text.len()));
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok((at, bytes)) => {
                    self.latest = at;
                    self.heard.extend(bytes);
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {text:?} in {patience:?}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it ended: {}", self.last_line()));
                }
            }
        }
    }

    /// Writes a line, and returns the lines up to a full stop. A line that
    /// begins with a question mark is a request of the program. `help` returns
    /// the line to answer with.
    pub(super) fn ask(
        &mut self,
        line: &str,
        patience: Duration,
        help: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Vec<String>, String> {
        self.say(line)?;
        let mut answer = Vec::new();
        loop {
            let (line, _) = self.wait_for("\n", patience)?;
            let line = line.trim();
            if line == "." {
                return Ok(answer);
            }
            match line.strip_prefix("? ") {
                Some(wish) => self.say(&help(wish)?)?,
                None => answer.push(line.to_owned()),
            }
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.heard);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.unwrap_or("without output").trim().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // User Mode Linux leaves processes running if only the first is ended.
        if matches!(self.child.try_wait(), Ok(None)) {
            end_all_of(self.child.id());
        }
        let _ = self.child.wait();
    }
}

/// Sends everything that can be read to a channel.
fn listen(mut from: impl Read + Send + 'static, to: Sender<Piece>) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            if to.send((Instant::now(), bytes[..len].to_vec())).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Conversation {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Conversation::start(command, None).unwrap()
    }

    #[test]
    fn an_answer_ends_at_the_full_stop() {
        let mut shell = shell(
            "read a; echo $a 1; echo '? b'; read b; echo $b; echo .; read a",
        );
        let help = |wish: &str| Ok(format!("{wish}!"));
        assert_eq!(shell.ask("x", PATIENCE, help).unwrap(), ["x 1", "b!"]);
        let stuck = shell.wait_for("3", Duration::from_millis(50));
        assert_eq!(stuck.unwrap_err(), "no \"3\" in 50ms");
    }

    #[test]
    fn no_process_is_left_running() {
        let mut shell = shell("sleep 60 & echo $!; wait");
        let (child, _) = shell.wait_for("\n", PATIENCE).unwrap();
        drop(shell);
        // It has ended, or is a zombie. A busy machine needs time for that.
        let path = format!("/proc/{child}/stat");
        let lives = || {
            let status = std::fs::read_to_string(&path);
            status.is_ok_and(|status| !status.contains(") Z "))
        };
        let start = Instant::now();
        while lives() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!lives(), "{child}");
    }

    #[test]
    fn the_last_line_of_a_program_that_ended_is_in_the_error() {
        let mut shell = shell("echo ready; echo; echo help; echo");
        shell.wait_for("ready", PATIENCE).unwrap();
        let ended = shell.wait_for("more", PATIENCE);
        assert_eq!(ended.unwrap_err(), "it ended: help");
    }
}
