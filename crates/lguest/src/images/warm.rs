//! `lguest image warm`: a snapshot of a guest that waits for a command.
//!
//! The guest boots with the agent as its first process, and runs a command that
//! warms its caches. It is a machine with a name. This command uses `lguest
//! exec`, `lguest snapshot` and `lguest kill` on it, as a user would. The
//! machine ends with this command.

use super::error::ImageError;
use super::place::{New, Place, Stored};
use super::shown::shown;
use crate::machines::Name;
use crate::machines::link::Link;
use crate::machines::verbs::find;
use std::ffi::OsString;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a guest may take until it has its socket.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a Launcher may take to end after its socket was closed.
const MOMENT: Duration = Duration::from_secs(2);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes the snapshot of `image`, in which `command` has run. Without one, the
/// agent has answered.
///
/// # Errors
///
/// [`ImageError::NotWarm`].
pub(super) fn warm(
    image: &Stored,
    command: &[OsString],
) -> Result<(), ImageError> {
    let failed = |why: &str| ImageError::NotWarm {
        name: image.name.clone(),
        why: why.into(),
    };
    let name = format!("warm-{}", std::process::id());
    let Ok(machine) = name.parse::<Name>() else {
        return Err(failed("its machine has no name"));
    };
    // Changes without a name cannot be in a snapshot. The folder of a new image
    // is removed in the end, and keeps a build from replacing this one.
    let scratch = New::begin(&Place::make()?, &image.name, true)?;
    let said = scratch.path().join("said");
    let stderr = File::create(&said).map_err(|e| failed(&e.to_string()))?;
    let launcher = own(&boot(image, &name))
        // The changes are there.
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| failed(&error.to_string()))?;
    let mut launcher = Ends(launcher, name.clone());
    // The error, with what the Launcher has said.
    let told = |why: &str| {
        let said = std::fs::read(&said).unwrap_or_default();
        let said = shown(said.strip_prefix(b"lguest: ").unwrap_or(&said));
        match said.is_empty() {
            true => failed(why),
            false => failed(&format!("{why}: {said}")),
        }
    };
    let deadline = Instant::now() + PATIENCE;
    // Its folder is there before its socket is.
    let answers = || {
        let (_, folder) = find(&machine)?;
        Link::to(&folder).map(|_| ())
    };
    while answers().is_err() {
        let ended = launcher.0.try_wait().ok().flatten().is_some();
        if ended || Instant::now() > deadline {
            return Err(told("its guest does not start"));
        }
        std::thread::sleep(PAUSE);
    }
    let mut words: Vec<OsString> = vec!["exec".into(), name.clone().into()];
    // A command that is not there: it is enough that the agent says so.
    let nothing = ["--json".into(), "--".into(), "/nothing".into()];
    match command {
        [] => words.extend(nothing),
        command => {
            words.push("--".into());
            words.extend_from_slice(command);
        }
    }
    let mut exec = own(&words);
    if command.is_empty() {
        let output = exec.stdin(Stdio::null()).output();
        let said = output.map(|output| output.stdout).unwrap_or_default();
        let said: serde_json::Value =
            serde_json::from_slice(&said).unwrap_or_default();
        if said["reason"] != "failed" {
            launcher.wait_for_its_end();
            return Err(told("the agent in its guest does not answer"));
        }
    } else if !succeeds(&mut exec) {
        return Err(told("the command that warms it has failed"));
    }
    let words: [OsString; 4] = [
        "snapshot".into(),
        name.into(),
        image.warm().into(),
        "--copy-disks".into(),
    ];
    match succeeds(own(&words).stdout(Stdio::null())) {
        true => Ok(()),
        false => Err(told("the snapshot cannot be taken")),
    }
}

/// The words that boot a machine of the image with this name, whose changes are
/// in the folder where it starts: the name of that folder may have a comma in
/// it.
fn boot(image: &Stored, name: &str) -> Vec<OsString> {
    let recipe = &image.recipe;
    let mut disk = image.disk().into_os_string();
    disk.push(",raw,overlay=changes.qcow2");
    let arguments = format!("{} quiet init={}", recipe.arguments, recipe.agent);
    let words = ["run", "--agent", "--die-with-parent", "--name", name];
    let memory = ["--memory", &recipe.memory, "--append", &arguments];
    let words = words.into_iter().chain(memory).map(OsString::from);
    let kernel = ["--kernel".into(), image.kernel().into_os_string()];
    words.chain(kernel).chain(["--disk".into(), disk]).collect()
}

/// This program with other words.
fn own(words: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(words);
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// A machine, and its name. It ends with this command.
struct Ends(Child, String);

impl Ends {
    /// Waits a moment for a Launcher that is ending, and will say why.
    fn wait_for_its_end(&mut self) {
        let deadline = Instant::now() + MOMENT;
        while let Ok(None) = self.0.try_wait()
            && Instant::now() < deadline
        {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let words = ["kill".into(), OsString::from(&self.1)];
        let mut killed = own(&words);
        let killed = killed.stdout(Stdio::null()).stderr(Stdio::null());
        // This fails if the machine has not begun, or has ended by itself.
        if !succeeds(killed) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
        // `lguest kill` has removed what it has ended.
        let words = ["rm".into(), OsString::from(&self.1)];
        let mut removed = own(&words);
        let removed = removed.stdout(Stdio::null()).stderr(Stdio::null());
        let _ = removed.status();
    }
}
