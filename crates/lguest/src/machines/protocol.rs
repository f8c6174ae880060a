//! What a machine's control socket and its clients say to each other.
//!
//! JSON-RPC 2.0, one message a line. docs/control.md describes it, and
//! docs/control.schema.json has the same for programs: a test compares it with
//! these types. The types are our own, because crates for JSON-RPC bring a
//! runtime of their own, and this is a handful of structs. Unlike JSON-RPC
//! asks, several calls in one message (a batch) are refused.

use super::record::{End, Facts};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The longest line, in either direction.
pub const LINE_MOST: usize = 64 << 10;

/// The longest text of an error, in characters.
const TEXT_MOST: usize = 400;

/// The most bytes of a console in one message.
pub const BYTES_MOST: usize = 32 << 10;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    tag = "method",
    content = "params",
    rename_all = "kebab-case",
    deny_unknown_fields
)]
pub enum Call {
    /// What the machine is, and its state: [`Inspected`].
    Inspect {},
    /// What it has done so far: [`Counts`].
    Stats {},
    /// The Guest stops until `resume`: [`Done`].
    Pause {},
    /// The Guest goes on: [`Done`].
    Resume {},
    /// The Guest stops, and its files are handed over for a snapshot:
    /// [`Frozen`]. It goes on with `thaw`, or when the client closes its
    /// connection. One client at a time may do this.
    Freeze {},
    /// The Guest goes on that this client has frozen: [`Done`].
    Thaw {},
    /// Hands over the file with the trace: [`Traced`]. Until the client closes
    /// its connection or calls again, more is traced. One client at a time may
    /// do this.
    Trace {
        /// The groups of events that are traced meanwhile.
        #[serde(default)]
        groups: Vec<String>,
        /// Microseconds from one sample of a profile to the next; 0 = there
        /// are none.
        #[serde(default)]
        samples_us: u32,
    },
    /// Its devices but the console: [`Devices`].
    Devices {},
    /// Takes a device away: what is behind it is closed, and the Guest gets
    /// errors from it, or has no link: [`Done`].
    Remove {
        /// Its name, as `devices` tells it.
        device: String,
    },
    /// Asks the Guest to power off, the way that its kind offers: [`Asked`].
    Stop {},
    /// Ends the Guest: [`Done`]. The end itself comes later.
    Kill {},
    /// Waits until the machine has ended: [`End`].
    Wait {},
    /// Output: [`Read`].
    Read {
        /// The position of the first byte. Without it, the first that is kept.
        #[serde(default)]
        from: Option<u64>,
        /// Leaves out what was printed before this time, in milliseconds since
        /// 1970.
        #[serde(default)]
        since: Option<u64>,
    },
    /// Follows the output: [`Attached`]. Each piece comes as a notification
    /// `output` ([`Read`]), the end of the machine as `ended` ([`End`]).
    Attach {
        /// The position of the first byte. Without it, the first that is kept.
        #[serde(default)]
        from: Option<u64>,
        /// Leaves out what was printed before this time, in milliseconds since
        /// 1970.
        #[serde(default)]
        since: Option<u64>,
        /// The client wants to type. One client at a time may.
        #[serde(default)]
        types: bool,
    },
    /// A stream to the agent in the Guest: [`Begun`]. With the call comes a
    /// descriptor, a local stream socket whose other end the client keeps: the
    /// frames of the stream go through it.
    Exec {},
    /// Types on the console: [`Done`], when the Guest's console has taken the
    /// bytes.
    Write {
        /// What is typed.
        data: Bytes,
    },
}

impl Call {
    /// The names of all calls.
    pub const METHODS: [&'static str; 16] = [
        "inspect", "stats", "pause", "resume", "freeze", "thaw", "trace",
        "devices", "remove", "stop", "kill", "wait", "read", "attach", "exec",
        "write",
    ];
}

/// Bytes, as base64 in a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'d> Deserialize<'d> for Bytes {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Bytes, as base64.",
            "type": "string",
            "contentEncoding": "base64",
        })
    }
}

/// The state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs, and has not printed yet what it prints when it is ready.
    Starting,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It has ended.
    Ended,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "ended",
        })
    }
}

impl State {
    /// The state as a byte in a file.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Starting => 1,
            Self::Running => 2,
            Self::Paused => 3,
            Self::Ended => 4,
        }
    }

    /// The state that a byte means.
    pub(super) fn of_byte(byte: u8) -> Option<Self> {
        let all = [Self::Starting, Self::Running, Self::Paused, Self::Ended];
        all.into_iter().find(|state| state.byte() == byte)
    }
}

/// The answer to `inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Inspected {
    /// What does not change.
    #[serde(flatten)]
    pub facts: Facts,
    /// Its state.
    pub state: State,
    /// The position of the first byte of output that is kept.
    pub output_first: u64,
    /// How many bytes it has printed.
    pub output_end: u64,
    /// How many clients there are, this one included.
    pub clients: u32,
    /// The process that types on its console, if one does.
    #[serde(default)]
    pub types: Option<u32>,
    /// How it has ended, if it has.
    #[serde(default)]
    pub end: Option<End>,
}

/// The answer to `stats`: counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counts {
    /// Of the Host. A Guest that has taken over its Host can falsify them.
    pub host: BTreeMap<String, u64>,
    /// Of each device, the console last, or before a port to an agent. A device
    /// that is busy has none.
    pub devices: Vec<DeviceCounts>,
    /// How many pieces of its memory have become huge pages.
    pub huge_pages: u64,
    /// The processor time of all its processes, in microseconds. What a process
    /// used just before its end may be missing.
    #[serde(default)]
    pub processor_us: u64,
    /// Bytes of its memory that it has used.
    #[serde(default)]
    pub memory_bytes: u64,
}

/// The counters of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceCounts {
    /// Its type.
    pub r#type: String,
    /// Its counters.
    pub counts: BTreeMap<String, u64>,
}

/// The answer to `devices`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Devices {
    /// The devices, in the order of the command line.
    pub devices: Vec<ListedDevice>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListedDevice {
    /// Its name.
    pub name: String,
    /// Its type, as in `stats`.
    pub r#type: String,
    /// What is behind it.
    pub what: String,
    /// It was taken away.
    pub removed: bool,
}

/// The answer to a call that has no other.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Done {}

/// The most descriptors that come with a message: the kernel's bound.
pub const FILES_MOST: usize = 253;

/// The answer to `freeze`. With its first byte come descriptors: the Guest's
/// memory, the state that its views share, its patched copies, and the files of
/// its disks, the lowest layer of each disk first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Frozen {
    /// What the manifest of a snapshot says of the machine. It belongs to this
    /// version of lguest.
    pub machine: Value,
}

/// The answer to `trace`. With its first byte comes the descriptor of the state
/// that the Guest's views share, behind which the ring of the trace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traced {
    /// The groups that are traced without this client.
    pub before: Vec<String>,
}

/// The answer to `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Asked {
    /// What was typed on its console. Without it, this kind of Guest cannot be
    /// asked, and nothing was done.
    #[serde(default)]
    pub typed: Option<String>,
}

/// A piece of output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Read {
    /// The position of its first byte. If that is later than asked for, the
    /// bytes before it are no longer there.
    pub from: u64,
    /// The bytes.
    pub data: Bytes,
    /// How many bytes there are in all.
    pub end: u64,
}

/// The answer to `attach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attached {
    /// The position at which output begins.
    pub from: u64,
    /// How many bytes there are in all.
    pub end: u64,
    /// Whether this client may type.
    pub types: bool,
    /// The process that types instead, if another one does.
    #[serde(default)]
    pub other: Option<u32>,
}

/// The answer to `exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Begun {
    /// The number of the stream.
    pub stream: u32,
    /// Whether the agent is there. Otherwise frames wait for it.
    pub open: bool,
}

/// Why a call fails: the numbers of JSON-RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The line is no JSON.
    NotJson,
    /// The line is no call of JSON-RPC 2.0.
    NotACall,
    /// There is no such method.
    NoMethod,
    /// The parameters are wrong.
    BadParams,
    /// The machine cannot do it now.
    NotNow,
}

impl Failure {
    fn code(self) -> i32 {
        match self {
            Self::NotJson => -32700,
            Self::NotACall => -32600,
            Self::NoMethod => -32601,
            Self::BadParams => -32602,
            Self::NotNow => -32000,
        }
    }
}

/// The number or text by which a client recognises an answer.
pub type Id = Value;

/// A call in a line, or the answer that says what is wrong with it. A call
/// without an id gets no answer.
///
/// # Errors
///
/// The line to answer with.
pub fn parse(line: &[u8]) -> Result<(Option<Id>, Call), Vec<u8>> {
    let none = Value::Null;
    let message: Value = serde_json::from_slice(line)
        .map_err(|error| failed(&none, Failure::NotJson, &error.to_string()))?;
    let Value::Object(mut message) = message else {
        let text = "a call is an object, and there is one in a line";
        return Err(failed(&none, Failure::NotACall, text));
    };
    let id = message.remove("id");
    let good = matches!(
        id,
        None | Some(Value::Null | Value::Number(_) | Value::String(_))
    );
    let version = message.remove("jsonrpc");
    let named = message.get("method").is_some_and(Value::is_string);
    if !good || version != Some(json!("2.0")) || !named {
        let text = "give \"jsonrpc\": \"2.0\", a \"method\", and as \"id\" a \
                    number or a text";
        return Err(failed(&none, Failure::NotACall, text));
    }
    let to = id.as_ref().unwrap_or(&none);
    let method = message.get("method").and_then(Value::as_str);
    let known = method.is_some_and(|name| Call::METHODS.contains(&name));
    if !known {
        let text = format!("the methods are {}", Call::METHODS.join(", "));
        return Err(failed(to, Failure::NoMethod, &text));
    }
    message.entry("params").or_insert_with(|| json!({}));
    let call = serde_json::from_value(Value::Object(message));
    let call = call
        .map_err(|error| failed(to, Failure::BadParams, &error.to_string()))?;
    Ok((id, call))
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The line of an error.
#[must_use]
pub fn failed(id: &Id, failure: Failure, text: &str) -> Vec<u8> {
    // It may contain what the client has sent.
    let text: String = text.chars().take(TEXT_MOST).collect();
    let error = json!({"code": failure.code(), "message": text});
    line(&json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

/// The line of an answer.
#[must_use]
pub fn answer(id: &Id, result: &impl Serialize) -> Vec<u8> {
    let result = serde_json::to_value(result).unwrap_or_default();
    line(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

/// The line of a notification.
#[must_use]
pub fn notification(method: &str, params: &impl Serialize) -> Vec<u8> {
    let params = serde_json::to_value(params).unwrap_or_default();
    line(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

/// The line of a call.
#[must_use]
pub fn call(id: u64, call: &Call) -> Vec<u8> {
    let mut message = serde_json::to_value(call).unwrap_or_default();
    if let Value::Object(message) = &mut message {
        message.insert("jsonrpc".into(), json!("2.0"));
        message.insert("id".into(), json!(id));
    }
    line(&message)
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// The answer to the call with this number.
    Answer(u64, Result<Value, String>),
    /// Output.
    Output(Read),
    /// The machine has ended.
    Ended(End),
}

/// What a line from a machine means. `None` if it means nothing.
#[must_use]
pub fn received(line: &[u8]) -> Option<Received> {
    let message: Value = serde_json::from_slice(line).ok()?;
    let params = || message.get("params").cloned().unwrap_or_default();
    match message.get("method").and_then(Value::as_str) {
        Some("output") => {
            serde_json::from_value(params()).ok().map(Received::Output)
        }
        Some("ended") => {
            serde_json::from_value(params()).ok().map(Received::Ended)
        }
        Some(_) => None,
        None => {
            let id = message.get("id").and_then(Value::as_u64);
            let error = message.get("error").map(|error| {
                let text = error.get("message").and_then(Value::as_str);
                text.unwrap_or("it does not say why").to_owned()
            });
            let result = match error {
                Some(error) => Err(error),
                None => Ok(message.get("result")?.clone()),
            };
            Some(Received::Answer(id.unwrap_or(0), result))
        }
    }
}

#[cfg(test)]
mod tests;
