//! A debugger of the run: when it may come, and what its `kill` means.
//!
//! The thread that serves it is started before the Launcher is confined.

use super::build::Built;
use super::config::{Config, DebuggerAt, DeviceConfig, LinkConfig};
use super::ending::Ending;
use super::error::{LaunchError, lacks};
use super::{signals, terminal};
use crate::cli::exit::Outcome;
use crate::debugger::{Debugger, Listener};

/// Lets GDB in, and says where, if the Guest waits for it.
pub(super) fn start(
    config: &Config,
    built: &Built,
    ending: &Ending,
    listener: Listener,
) -> Result<Debugger, LaunchError> {
    let hold = match config.wait_for_debugger {
        true => Some(built.guest.hold()?),
        false => None,
    };
    let ending = ending.clone();
    let kill = move || signals::end(KILLED, "by the debugger", &ending);
    let devices = config.devices.iter().map(describe_device);
    let devices = devices.chain(["console".into()]).collect();
    let debugger = Debugger::start(&built.guest, listener, hold, devices, kill)
        .map_err(lacks("serve a debugger"))?;
    match &config.debugger {
        Some(DebuggerAt::Port(address)) if config.wait_for_debugger => {
            terminal::tell(&format!(
                "the guest waits for GDB: target remote {address}"
            ));
        }
        Some(DebuggerAt::Path(path)) if config.wait_for_debugger => {
            terminal::tell(&format!(
                "the guest waits for GDB: target remote {}",
                path.display()
            ));
        }
        _ => {}
    }
    Ok(debugger)
}

/// A debugger's `kill` counts as SIGKILL.
const KILLED: Outcome = Outcome::Signal(9);

/// A device, for a debugger.
fn describe_device(device: &DeviceConfig) -> String {
    match device {
        DeviceConfig::Disk(disk) => {
            let only = if disk.read_only { ", read-only" } else { "" };
            format!("disk {}{only}", disk.path.display())
        }
        DeviceConfig::ShareNet(path) => {
            format!("network between guests {}", path.display())
        }
        DeviceConfig::Net(net) => match &net.link {
            LinkConfig::Tap(_) => "network with this machine".into(),
            LinkConfig::Stream(stream) => format!("network {}", stream.at),
            LinkConfig::User(_) => "network by passt".into(),
            LinkConfig::Nothing => "network without a link".into(),
        },
        DeviceConfig::Share(share) => {
            let only = if share.read_only { ", read-only" } else { "" };
            format!("share {} ({}){only}", share.tag, share.path.display())
        }
    }
}
