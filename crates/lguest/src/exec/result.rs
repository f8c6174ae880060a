//! How a command has ended: the exit code, and the result as JSON.
//!
//! The agent says how the command has ended, unless it could not.

use super::error::{ExecError, TOO_MUCH_OUTPUT, own};
use crate::cli::exit::Outcome;
use crate::machine::terminal;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lg_exec::report::{Exited, Reason, Status};
use serde_json::{Value, json};
use std::time::Duration;

/// What there is after a session.
pub(super) struct Finished {
    pub(super) ended: Result<Exited, ExecError>,
    /// What was kept of output and errors.
    pub(super) outputs: [Vec<u8>; 2],
    pub(super) time: Duration,
    pub(super) timeout: Option<Duration>,
}

impl Finished {
    /// The outcome, and a sentence if one is needed.
    fn outcome(&self) -> (Outcome, Option<String>) {
        let exited = match &self.ended {
            Ok(exited) => exited,
            Err(error) => {
                let quiet =
                    matches!(error, ExecError::Signal(_) | ExecError::NoReader);
                let text = (!quiet).then(|| error.to_string());
                return (error.outcome(), text);
            }
        };
        let code = match exited.status {
            Status::Code(code) => Outcome::OfMachine(code),
            Status::Signal(number) => Outcome::Signal(number),
        };
        match exited.reason {
            Reason::None => (code, None),
            Reason::Time => {
                let time = self.timeout.unwrap_or_default();
                let error = ExecError::TimedOut(time);
                (error.outcome(), Some(error.to_string()))
            }
            Reason::Output => {
                let text = "ended because its output is longer than \
                            --output-limit allows";
                (Outcome::OfMachine(TOO_MUCH_OUTPUT), Some(text.into()))
            }
            Reason::HangUp | Reason::PowerOff | Reason::Other(_) => {
                let text = "the agent in the guest has ended the command";
                (Outcome::Lost, Some(text.into()))
            }
        }
    }

    /// Says what has to be said. Returns the outcome.
    pub(super) fn tell(self) -> Outcome {
        let (outcome, text) = self.outcome();
        if let Some(text) = text {
            terminal::end_line();
            terminal::tell(&text);
        }
        outcome
    }

    /// Prints the result as JSON on standard output.
    pub(super) fn print(self) -> Result<Outcome, ExecError> {
        let (outcome, text) = self.outcome();
        let (code, signal) = match &self.ended {
            Ok(exited) => match exited.status {
                Status::Code(code) => (Some(code), None),
                Status::Signal(number) => (None, Some(number)),
            },
            Err(_) => (None, None),
        };
        let usage = self.ended.as_ref().ok().map(|exited| exited.usage);
        let mut result = json!({
            "exit_status": outcome.code(),
            "reason": self.reason(),
            "code": code,
            "signal": signal,
            "message": text,
            "seconds": self.time.as_secs_f64(),
        });
        if let Some(usage) = usage {
            let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
            result["command_seconds"] = json!(seconds(usage.wall_us));
            result["user_seconds"] = json!(seconds(usage.user_us));
            result["system_seconds"] = json!(seconds(usage.system_us));
            result["max_rss_kib"] = json!(usage.max_rss_kib);
        }
        let [stdout, stderr] = self.outputs;
        for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
            let (name, value) = output(name, bytes);
            result[name] = value;
        }
        let line = format!("{result}\n");
        terminal::write_all(rustix::stdio::stdout(), line.as_bytes())
            .map_err(own("write to standard output"))?;
        Ok(outcome)
    }

    /// Why the command has ended, in a word.
    fn reason(&self) -> &'static str {
        match &self.ended {
            Ok(exited) => match (exited.reason, exited.status) {
                (Reason::None, Status::Code(_)) => "exited",
                (Reason::None, Status::Signal(_)) => "signal",
                (Reason::Time, _) => "timeout",
                (Reason::Output, _) => "output-limit",
                _ => "lost",
            },
            Err(error) => match error {
                ExecError::TimedOut(_) => "timeout",
                ExecError::TooMuchOutput(_) => "output-limit",
                ExecError::Signal(_)
                | ExecError::Orphan
                | ExecError::NoReader => "interrupted",
                ExecError::Failed(..) | ExecError::NotMounted(_) => "failed",
                ExecError::Broken(_) | ExecError::Lost(_) => "lost",
                _ => "not-started",
            },
        }
    }
}

/// Output as a value of JSON, and its name: text if it is text.
fn output(name: &str, bytes: Vec<u8>) -> (String, Value) {
    match String::from_utf8(bytes) {
        Ok(text) => (name.to_owned(), json!(text)),
        Err(error) => {
            let text = BASE64_STANDARD.encode(error.as_bytes());
            (format!("{name}_base64"), json!(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lg_exec::report::{Failure, Usage};

    fn finished(status: Status, reason: Reason) -> Finished {
        Finished {
            ended: Ok(Exited {
                status,
                reason,
                usage: Usage::default(),
            }),
            outputs: [Vec::new(), Vec::new()],
            time: Duration::ZERO,
            timeout: Some(Duration::from_secs(1)),
        }
    }

    fn failed(error: ExecError) -> Finished {
        Finished {
            ended: Err(error),
            ..finished(Status::Code(0), Reason::None)
        }
    }

    #[test]
    fn each_end_has_its_code() {
        let of = |finished: Finished| finished.outcome().0.code();
        for (status, reason, code) in [
            (Status::Code(0), Reason::None, 0),
            (Status::Code(255), Reason::None, 255),
            (Status::Signal(9), Reason::None, 137),
            (Status::Signal(9), Reason::Time, 124),
            (Status::Signal(9), Reason::Output, 125),
            (Status::Code(0), Reason::PowerOff, 122),
            (Status::Code(0), Reason::Other(9), 122),
        ] {
            assert_eq!(of(finished(status, reason)), code);
        }
        for (error, code) in [
            (ExecError::TimedOut(Duration::ZERO), 124),
            (ExecError::TooMuchOutput(1), 125),
            (ExecError::Signal(2), 130),
            (ExecError::NoReader, 141),
            (ExecError::Orphan, 143),
            (ExecError::Failed(Failure::NotFound, String::new()), 127),
            (ExecError::Failed(Failure::NotPermitted, String::new()), 126),
            (ExecError::Failed(Failure::Protocol, String::new()), 122),
            (ExecError::NotMounted(String::new()), 126),
            (ExecError::NoAgent(Duration::ZERO), 126),
            (ExecError::TooLong, 2),
        ] {
            assert_eq!(of(failed(error)), code);
        }
    }

    #[test]
    fn output_that_is_no_text_is_base64() {
        let (name, value) = output("stdout", b"a\n".to_vec());
        assert_eq!((name.as_str(), value), ("stdout", json!("a\n")));
        let (name, value) = output("stdout", vec![0xff]);
        assert_eq!((name.as_str(), value), ("stdout_base64", json!("/w==")));
    }
}
