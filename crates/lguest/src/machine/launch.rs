//! A run from beginning to end: open, load, run, clean up.
//!
//! All files are opened first, because names are wrong more often than anything
//! else. Then the memory is filled, and then the engine starts. From then on
//! the run ends in one way only: the Guest dies, and the main thread gets the
//! reason.

use super::beginning::Beginning;
use super::build::{Built, Parts, build, plan};
use super::config::Config;
use super::counted::Counted;
use super::detach::{self, Ready, Side};
use super::ending::Ending;
use super::error::{LaunchError, lacks};
use super::inputs::Inputs;
use super::memory_limit::Ours;
use super::named::{Prepared, Running};
use super::open::Opened;
use super::owner::{self, Owner};
use super::quiet::Quiet;
use super::run::Run;
use super::signals::Signals;
use super::stats::{RunReport, Sink};
use super::taken::Attachments;
use super::{
    crash, debugger, hints, memory_limit, metrics, processors, signals,
    terminal, throttle, tracing,
};
use crate::cli::exit::Outcome;
use crate::confine;
use crate::debugger::Debugger;
use crate::engine::{Death, Isolation, printable};
use crate::exec::multiplexer::Streams;
use crate::machines::MachineError;
use crate::needs::{self, Lack};
use crate::snapshot::Saved;
use signal_hook::consts::SIGTERM;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Runs a Guest on the terminal, from its first instruction to its end.
/// `started` is the value of the time-stamp counter when the Launcher started.
/// If the command is to end while the machine runs, the machine gets a process
/// of its own, which does not return.
///
/// # Errors
///
/// [`LaunchError`]. Its message is one line and names the cure.
pub fn launch(config: &Config, started: u64) -> Result<Outcome, LaunchError> {
    launch_from(config, None, started)
}

/// The same for a Guest that goes on from a snapshot, if there is one.
pub(super) fn launch_from(
    config: &Config,
    saved: Option<Saved>,
    started: u64,
) -> Result<Outcome, LaunchError> {
    let Some(named) = config.named.as_ref().filter(|named| named.detach) else {
        return launch_here(config, saved, None, started);
    };
    match detach::divide()? {
        Side::Launcher(ready) => {
            let run = launch_here(config, saved, Some(ready), started);
            let outcome = run.unwrap_or_else(|error| error.told());
            // The caller goes on in the command's process only.
            std::process::exit(outcome.code().into());
        }
        Side::Command(waiting) => {
            waiting.wait(|| MachineError::NotReady(named.name.clone()))
        }
    }
}

/// The same in this process. `waits` is told when the machine is ready.
fn launch_here(
    config: &Config,
    saved: Option<Saved>,
    waits: Option<Ready>,
    started: u64,
) -> Result<Outcome, LaunchError> {
    let start = Instant::now();
    let ignored = signals::ignored();
    signals::survive(ignored).map_err(lacks("catch signals"))?;
    crash::listen(ignored).map_err(lacks("catch signals"))?;
    meet_needs()?;
    processors::use_only(&config.limits.cpus)?;
    let parent = config.die_with.map(owner::find).transpose()?;
    let named = config.named.as_ref();
    let named = named
        .map(|named| Prepared::new(config, named, waits))
        .transpose()?;
    let (named, remote) = named.unzip();
    let mut opened =
        Opened::open(config, saved, remote).map_err(LaunchError::or_lack)?;
    if let Beginning::Kernel(kernel, initrd) = &opened.beginning {
        for hint in hints::about(config, kernel, initrd.as_ref()) {
            terminal::tell(&hint);
        }
    }
    let ours = config.limits.memory.map(|_| Ours::open());
    // From here on nothing is opened: the contents of the files are not
    // trusted.
    let plan = plan(config);
    let mut walls = confine::before_threads(&plan);
    let parts = Parts {
        beginning: &mut opened.beginning,
        devices: opened.devices,
        screen: opened.screen.clone(),
        started,
    };
    let built = build(config, parts)?;
    if config.verbose {
        terminal::tell(&ready(config, &built, start));
    }
    let record = named.as_ref().map(Prepared::record);
    let ending = Ending::new(built.guest.clone()).with_record(record);
    // Threads hold the Guest, too, so it does not end with this function.
    let give_up = |_: &_| ending.by_failure();
    let bus = built.bus.clone();
    let resized = move || bus.resized(terminal::size());
    Signals::start(&ending, ignored, resized)
        .map_err(lacks("catch signals"))
        .inspect_err(give_up)?;
    Owner::new(config, start, parent, opened.input_end, opened.screen)
        .and_then(|owner| owner.watch(&ending))
        .map_err(lacks("watch the parent and the output"))
        .inspect_err(give_up)?;
    bound(config, ours, &built, &ending).inspect_err(give_up)?;
    let counted = Counted::new(&built.guest, &built.bus);
    if let Some(listener) = opened.metrics {
        let name = config.named.as_ref().map(|named| named.name.clone());
        metrics::start(listener, name.unwrap_or_default(), counted.clone())
            .map_err(lacks("serve metrics"))
            .inspect_err(give_up)?;
    }
    let debugger = opened.debugger.map(|listener| {
        debugger::start(config, &built, &ending, listener).inspect_err(give_up)
    });
    let debugger = debugger.transpose()?;
    walls.push(confine::when_ready(&plan));
    if config.verbose {
        for wall in &walls {
            terminal::tell(&wall.to_string());
        }
    }
    let quiet = Arc::<Quiet>::default();
    let mut control = None;
    let serve = |inputs: &Inputs| {
        if let Some(streams) = &opened.streams {
            serve_agent(streams, opened.owner, &built, &ending)?;
        }
        let named = named.map(|n| {
            let devices = Attachments::new(config, &built, inputs);
            let parts = (opened.kept, opened.streams, devices);
            n.start(config, &built, parts, &quiet, counted, &ending)
        });
        control = named.transpose()?;
        Ok(())
    };
    let debugger = debugger.as_ref();
    let stats = opened.stats;
    let ended = run(&built, &quiet, &ending, stats, debugger, start, serve);
    let kernel = match &opened.beginning {
        Beginning::Kernel(kernel, _) => Some(kernel),
        Beginning::Saved(_) => None,
    };
    let names = opened.symbols.as_ref().or(kernel);
    if let Some(file) = opened.trace {
        tracing::finish(file, &built, names);
    }
    if let Ok((Outcome::Died, reason)) = &ended {
        opened.autopsy.perform(reason, &built, names);
    }
    note_end(&ending, control, &ended);
    ended.map(|(outcome, _)| outcome)
}

/// Starts the threads that keep the limits of `config`. `ours` tells what
/// the Launcher itself takes.
fn bound(
    config: &Config,
    ours: Option<Ours>,
    built: &Built,
    ending: &Ending,
) -> Result<(), LaunchError> {
    let guest = || built.guest.clone();
    if let Some(percent) = config.limits.cpu_share {
        throttle::start(percent, guest())
            .map_err(lacks("bound the guest's processor time"))?;
    }
    if let Some((limit, ours)) = config.limits.memory.zip(ours) {
        memory_limit::start(limit, ours, guest(), ending)
            .map_err(lacks("bound the machine's memory"))?;
    }
    Ok(())
}

/// Starts the multiplexer. The machine ends with `owner`.
fn serve_agent(
    streams: &Streams,
    owner: Option<OwnedFd>,
    built: &Built,
    ending: &Ending,
) -> Result<(), LaunchError> {
    let keep = lacks("reach an agent");
    // Streams of a snapshot are hung up before there is a new one.
    streams.start(built.goes_on).map_err(&keep)?;
    if let Some(owner) = owner {
        let ending = ending.clone();
        let ends = move || {
            let number = u8::try_from(SIGTERM).unwrap_or(u8::MAX);
            let outcome = Outcome::Signal(number);
            // It ends as abruptly as when `lguest exec` kills it. No process
            // waits for it now, and the kernel ends the Guest's processes with
            // it.
            terminal::leave_for_good();
            let reason = "ended because its command's caller has ended";
            ending.note(outcome, reason);
            std::process::exit(outcome.code().into());
        };
        let added = streams.add_owner(owner, Box::new(ends));
        added.map_err(|error| keep(io::Error::other(error)))?;
    }
    Ok(())
}

/// Keeps how a machine with a name has ended, and tells its clients. Blocks
/// until they know it, or some seconds.
fn note_end(
    ending: &Ending,
    control: Option<Running>,
    ended: &Result<(Outcome, String), LaunchError>,
) {
    let (outcome, reason) = match ended {
        Ok((outcome, reason)) => (*outcome, reason.clone()),
        Err(error) => (error.outcome(), error.to_string()),
    };
    match control {
        Some(control) => control.end(outcome, &reason),
        None => ending.note(outcome, &reason),
    }
}

/// Runs the Guest until it dies, writes why, and writes the statistics. `serve`
/// starts the control socket. Returns the outcome and the reason.
fn run(
    built: &Built,
    quiet: &Arc<Quiet>,
    ending: &Ending,
    stats: Option<Sink>,
    debugger: Option<&Debugger>,
    start: Instant,
    serve: impl FnOnce(&Inputs) -> Result<(), LaunchError>,
) -> Result<(Outcome, String), LaunchError> {
    let Built { guest, bus, .. } = built;
    terminal::enter();
    let inputs = Inputs::start(bus, guest, quiet, ending, built.goes_on);
    let inputs = inputs.map_err(lacks("watch the guest's input"));
    let ended = inputs.and_then(|inputs| {
        // The control socket may say at once that the machine is ready. So
        // everything else that can fail is done before.
        serve(&inputs)?;
        let mut run = Run::new(guest.clone(), &**bus, inputs, debugger);
        let death = run.until_death()?;
        Ok((death, run.counters(start)))
    });
    // Whatever the reason is: requests that were begun are finished before the
    // user may type again.
    if ended.is_err() {
        ending.by_failure();
    }
    let damage = bus.damage();
    let devices = bus.finish();
    terminal::leave();
    terminal::end_line();
    let (death, launcher) = ended?;
    let (outcome, reason) = tell(ending, &death, damage);
    if let Some(debugger) = debugger {
        debugger.ended(outcome.code());
    }
    if let Some(stats) = stats {
        let report = RunReport {
            ending: death.to_string(),
            exit_code: outcome.code(),
            launcher,
            host: guest.counters().host,
            devices,
        };
        stats
            .write(&report)
            .map_err(|e| LaunchError::Failed("write the statistics", e))?;
    }
    Ok((outcome, reason))
}

/// Writes how the Guest has ended, if that needs a message. `damage` is what
/// was done to a device from outside. Returns the outcome and the reason.
fn tell(
    ending: &Ending,
    death: &Death,
    damage: Option<String>,
) -> (Outcome, String) {
    let (outcome, words) = ending.outcome(death);
    let Some(words) = words else {
        return (outcome, printable(death.to_string().as_bytes()));
    };
    let words = match (death, damage) {
        (Death::Killed(_) | Death::Lost(_), Some(damage)) => {
            format!("{words}; {damage}")
        }
        _ => words,
    };
    ending.tell(&words);
    (outcome, words)
}

/// The line of `--verbose` about a Guest that is ready to run.
fn ready(config: &Config, built: &Built, start: Instant) -> String {
    format!(
        "{} MB of memory, physical 0 at {:#x}, start at {:#x}, \
         {} devices and a console, a wall around {}; ready after {:?}",
        config.memory >> 20,
        built.start.page_offset,
        built.start.start,
        config.devices.len(),
        match config.isolation {
            Isolation::Guest => "the guest",
            Isolation::User => "each program",
        },
        start.elapsed(),
    )
}

/// Checks what would otherwise fail in the middle of the run.
fn meet_needs() -> Result<(), Lack> {
    confine::report_filters();
    needs::prefer_clone();
    needs::refused(|_| ()).map_or(Ok(()), Err)
}
