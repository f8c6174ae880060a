//! The settings of a machine: the words of `lguest run`, as data.
//!
//! Each field has the name of an option and its text. So a configuration file
//! says the same as a command line.

use serde::{Deserialize, Serialize};

/// The options of `lguest run` that describe a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Memory, with its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// The file of the kernel. Without it, the built-in guest boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The file of the initial ram disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Disks, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<String>,
    /// Networks, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<String>,
    /// Arguments for the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub append: Vec<String>,
    /// What keeps the kernel from its programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// The file to which output is appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How long it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The file for the counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// Fast paths that are switched off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_fast_path: Vec<String>,
    /// Walls that are switched off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_confine: Vec<String>,
    /// The text that it prints when it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What is typed to ask it to power off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_with: Option<String>,
}

impl Settings {
    /// The settings as a configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // There is nothing in them that TOML cannot say.
        toml::to_string(self).unwrap_or_default()
    }
}
