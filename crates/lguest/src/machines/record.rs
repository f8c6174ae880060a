//! What is known of a machine: its facts when it starts, its end.
//!
//! Both are JSON, in files of the machine's folder and in answers of its
//! control socket.

use super::name::Name;
use super::settings::Settings;
use crate::engine::printable;
use serde::{Deserialize, Deserializer, Serialize};

/// What does not change while a machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Facts {
    /// Its name.
    pub name: Name,
    /// The process number of its Launcher.
    pub pid: u32,
    /// When the Launcher was ready to run it, in milliseconds since 1970.
    pub started: u64,
    /// The version of lguest.
    pub version: String,
    /// The whole path of its kernel's file, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// What it was started with.
    pub settings: Settings,
}

/// How a machine has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    /// The exit code of its Launcher.
    pub exit_code: u8,
    /// Why it has ended. Printable.
    // A Launcher that was taken over can write any text. So the text is made
    // printable where it is received.
    #[serde(deserialize_with = "printable_text")]
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// A text without control characters.
fn printable_text<'d, D: Deserializer<'d>>(
    from: D,
) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    Ok(printable(text.as_bytes()))
}
