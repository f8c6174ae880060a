//! The settings of a machine: the words of `lguest run`, as data.
//!
//! Each field has the name of an option and its text. So a configuration file
//! says the same as a command line. Options that belong to a run and not to a
//! machine (`--detach`, `--replace`, `--verbose`, `--exit-on-eof`,
//! `--die-with-parent`, `--explain`, `--core`, `--symbols`, `--gdb`) are not
//! among them.

use super::printed::without_controls;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
    /// The image, with its kernel and its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The name of the changes to its disk that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    /// Disks, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_more")]
    pub disk: Vec<String>,
    /// Networks, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_more")]
    pub net: Vec<String>,
    /// Folders of this machine, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_more")]
    pub share: Vec<String>,
    /// Arguments for the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_more")]
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
    #[serde(deserialize_with = "one_or_more")]
    pub no_fast_path: Vec<String>,
    /// Walls that are switched off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_more")]
    pub no_confine: Vec<String>,
    /// The text that it prints when it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What is typed to ask it to power off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_with: Option<String>,
    /// Whether it has a port to an agent in its Guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<bool>,
    /// Where programs ask for its counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Its share of a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<String>,
    /// The processors that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    /// What it may take from this machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// What its disks may do in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_limit: Option<String>,
    /// What its networks may carry in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_limit: Option<String>,
    /// How long its log may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_limit: Option<String>,
}

/// The names of all settings, in the order of the fields.
pub const NAMES: [&str; 26] = [
    "name",
    "memory",
    "kernel",
    "initrd",
    "image",
    "keep",
    "disk",
    "net",
    "share",
    "append",
    "isolation",
    "log",
    "timeout",
    "stats",
    "no-fast-path",
    "no-confine",
    "until",
    "stop-with",
    "agent",
    "metrics",
    "cpu-share",
    "cpus",
    "memory-limit",
    "io-limit",
    "net-limit",
    "log-limit",
];

/// A text, or a list of texts.
fn one_or_more<'d, D: Deserializer<'d>>(
    from: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    Ok(match Texts::deserialize(from)? {
        Texts::One(text) => vec![text],
        Texts::More(texts) => texts,
    })
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("{}: it cannot be read: {error}: give a file of settings", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no TOML, or has a value of the wrong kind.
    #[error("{}: {error}: see 'lguest inspect --toml' for an example", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// It has a word that is no setting.
    #[error("{}: there is no setting '{word}': {cure}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The word.
        word: String,
        /// What to write instead.
        cure: String,
    },
}

/// The most bytes of a configuration file.
const FILE_MOST: u64 = 1 << 20;

impl Settings {
    /// The settings as a configuration file, without control characters. What
    /// JSON writes for a text or a list of texts is also TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let line = |(name, value): (&str, Value)| {
            format!("{name} = {}\n", without_controls(&value.to_string()))
        };
        self.given().map(line).collect()
    }

    /// The settings that have a value, and their values: texts, lists of texts,
    /// and yes or no.
    fn given(&self) -> impl Iterator<Item = (&'static str, Value)> {
        // There is nothing in them that JSON cannot say.
        let mut all = serde_json::to_value(self).unwrap_or_default();
        NAMES
            .into_iter()
            .filter_map(move |name| Some((name, all.get_mut(name)?.take())))
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        use std::io::Read;
        let read = || {
            let mut text = String::new();
            let file = std::fs::File::open(path)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("it is no file"));
            }
            file.take(FILE_MOST).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error| SettingsError::Unreadable {
            path: path.into(),
            error,
        })?;
        Self::parse(&text, path)
    }

    /// The settings in `text`, which is the contents of the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let wrong = |error: toml::de::Error| {
            let error = error.to_string();
            let lines = error.lines().map(str::trim);
            let error = lines.collect::<Vec<_>>().join(" ");
            SettingsError::NotToml {
                path: path.into(),
                error: crate::engine::printable(error.as_bytes()),
            }
        };
        let table: toml::Table = text.parse().map_err(wrong)?;
        let unknown = table.keys().find(|word| !NAMES.contains(&word.as_str()));
        if let Some(word) = unknown {
            return Err(SettingsError::Unknown {
                path: path.into(),
                word: crate::engine::printable(word.as_bytes()),
                cure: cure(word),
            });
        }
        table.try_into().map_err(wrong)
    }

    /// The options that say the same, without those that `is_given` says are
    /// given already.
    #[must_use]
    pub fn words(&self, is_given: impl Fn(&str) -> bool) -> Vec<OsString> {
        let word = |name: &str, value: &Value| {
            let text = value.as_str().unwrap_or_default();
            OsString::from(format!("--{name}={text}"))
        };
        self.given()
            .filter(|(name, _)| !is_given(name))
            .flat_map(|(name, value)| match value {
                Value::Array(values) => {
                    values.iter().map(|value| word(name, value)).collect()
                }
                Value::Bool(true) => vec![OsString::from(format!("--{name}"))],
                Value::Bool(false) => Vec::new(),
                value => vec![word(name, &value)],
            })
            .collect()
    }
}

/// What to write instead of a word that is no setting.
fn cure(word: &str) -> String {
    let like = word.to_lowercase().replace('_', "-");
    let near = |name: &&str| strsim::osa_distance(name, &like);
    let nearest = NAMES.into_iter().min_by_key(near);
    match nearest.filter(|name| strsim::osa_distance(name, &like) <= 2) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("the settings are {}", NAMES.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let parsed = Settings::parse(text, Path::new("web.toml"));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_says_what_options_say_and_back() {
        let text = "name = \"web\"\nmemory = \"64M\"\ndisk = [\"a\", \"b,ro\"]\n\
                    append = \"quiet\"\nno-fast-path = [\"int80\"]\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.append, ["quiet"]);
        assert_eq!(parse(&settings.to_toml()), Ok(settings.clone()));
        let words = settings.words(|name| name == "memory");
        let expected = "--name=web --disk=a --disk=b,ro --append=quiet \
                        --no-fast-path=int80";
        assert_eq!(words.join(std::ffi::OsStr::new(" ")), expected);
        assert_eq!(parse(""), Ok(Settings::default()));
    }

    #[test]
    fn a_file_has_no_control_characters_and_says_the_same() {
        let text = "\u{1b}[2J\u{9b}5m\u{7f}\"'\\ \r\n\t\u{e4}";
        let settings = Settings {
            kernel: Some(text.into()),
            append: vec![text.into(), "quiet".into()],
            ..Settings::default()
        };
        let file = settings.to_toml();
        assert!(
            !file.contains(|c: char| c.is_control() && c != '\n'),
            "{file}"
        );
        assert_eq!(parse(&file), Ok(settings));
    }

    #[test]
    fn unknown_words_are_refused_with_the_nearest_right_one() {
        let said = |text| parse(text).unwrap_err();
        let error = "web.toml: there is no setting 'memroy': did you mean \
                     'memory'?";
        assert_eq!(said("memroy = \"1M\""), error);
        assert!(said("stop_with = \"x\"").ends_with("'stop-with'?"));
        assert!(said("processors = 4").contains("the settings are name, "));
        assert!(said("memory = 64").contains("see 'lguest inspect --toml'"));
        assert!(said("disk = 3").contains("a text or a list of texts"));
        assert!(said("= 1").starts_with("web.toml: TOML parse error"));
        let escape = said("\"\\u001b[2J\" = 1");
        assert!(!escape.contains('\u{1b}'), "{escape}");
    }

    #[test]
    fn the_list_of_names_is_that_of_the_fields() {
        let schema = serde_json::to_value(schemars::schema_for!(Settings));
        let schema = schema.unwrap();
        let fields = schema["properties"].as_object().unwrap();
        let mut names = NAMES;
        names.sort_unstable();
        let mut fields: Vec<&str> = fields.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, names);
    }
}
