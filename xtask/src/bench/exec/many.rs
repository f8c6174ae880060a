//! Many runs: at a time, and one after the other.
//!
//! What grows in a loop is the machine's: processes, files, and memory of the
//! kernel and of memory files. Other work on the machine is in these figures.
//! In a machine that runs, the Launcher's own memory and descriptors count.

use super::super::processes;
use super::images::{Images, WARM};
use super::options::Options;
use super::results::Results;
use super::timed::timed;
use crate::family::{family, field, pss};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

const MANY: &str = "many";
const LOOP: &str = "loop";
const NAME: &str = "bench";

/// Runs before growth is looked for.
const FIRST: u32 = 20;

pub(super) fn measure(
    options: &Options,
    images: &Images,
    results: &mut Results,
) {
    if options.wants(MANY) {
        let done = many(options, images, results);
        done.unwrap_or_else(|why| results.lacks(MANY, WARM, &why));
    }
    if options.wants(LOOP) {
        let done = copies(options, images, results);
        done.unwrap_or_else(|why| results.lacks(LOOP, WARM, &why));
        let done = in_one(options, images, results);
        done.unwrap_or_else(|why| results.lacks(LOOP, "one machine", &why));
    }
}

fn many(
    options: &Options,
    images: &Images,
    results: &mut Results,
) -> Result<(), String> {
    let (all, at_once) = options.many;
    eprintln!("exec: {all} runs, {at_once} at a time");
    let row = format!("{MANY}: {all}, {at_once} at a time");
    let left = AtomicU32::new(all);
    let start = Instant::now();
    let runner = || -> Result<Vec<Duration>, String> {
        let mut times = Vec::new();
        let one = |left: u32| left.checked_sub(1);
        while left.fetch_update(Relaxed, Relaxed, one).is_ok() {
            times.push(images.run(WARM, &["/bin/true"], None)?.time);
        }
        Ok(times)
    };
    let times = thread::scope(|scope| {
        let runners: Vec<_> =
            (0..at_once).map(|_| scope.spawn(runner)).collect();
        let mut times = Vec::new();
        for runner in runners {
            times.extend(runner.join().map_err(|_| "a thread failed")??);
        }
        Ok::<_, String>(times)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    for time in times {
        results.add(&row, WARM, time.as_secs_f64() * 1000.0, "ms");
    }
    let row = format!("{MANY}: throughput");
    results.add(&row, WARM, f64::from(all) / seconds, "/s");
    memory(1, images, results)?;
    memory(at_once, images, results)
}

/// What each of `count` machines has in memory while its command waits.
fn memory(
    count: u32,
    images: &Images,
    results: &mut Results,
) -> Result<(), String> {
    let mut all = Waiting(Vec::new());
    let files = shared_memory();
    let words = ["sh", "-c", "echo up; exec sleep 1000"];
    for _ in 0..count {
        let mut command = images.exec(WARM, &words);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| error.to_string())?;
        all.0.push(child);
    }
    for child in &mut all.0 {
        let mut byte = [0];
        let stdout = child.stdout.as_mut().ok_or("no output")?;
        let read = stdout.read_exact(&mut byte);
        read.map_err(|_| "its command does not start")?;
    }
    let files = shared_memory() - files;
    let ids: Vec<u32> = all.0.iter().map(Child::id).collect();
    let pss = ids.iter().flat_map(|&id| family(id)).map(pss).sum::<f64>();
    let mut add = |what: &str, kib: f64| {
        let row = format!("{MANY}: {what}");
        let each = kib / 1024.0 / f64::from(count);
        results.add(&row, &format!("{count} at a time"), each, "MiB");
    };
    add("PSS of each", pss);
    add("memory files of each", files);
    Ok(())
}

/// Commands that wait, and are ended at last.
struct Waiting(Vec<Child>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// KiB of all memory files of the machine.
fn shared_memory() -> f64 {
    field("/proc/meminfo", "Shmem:")
}

/// Many machines, one after the other.
fn copies(
    options: &Options,
    images: &Images,
    results: &mut Results,
) -> Result<(), String> {
    eprintln!("exec: {} runs in a loop", options.repeats);
    let run = |times: u32| -> Result<(), String> {
        for _ in 0..times {
            images.run(WARM, &["/bin/true"], None)?;
        }
        Ok(())
    };
    run(FIRST)?;
    let look = || {
        let unreclaimable = field("/proc/meminfo", "SUnreclaim:");
        [
            ("processes", processes_named("lg"), ""),
            ("files", files_below(&images.place), ""),
            ("memory files", shared_memory() / 1024.0, "MiB"),
            ("kernel memory", unreclaimable / 1024.0, "MiB"),
        ]
    };
    let before = look();
    run(options.repeats)?;
    for (before, after) in before.iter().zip(look()) {
        let row = format!("{LOOP} of {}: {} grow", options.repeats, after.0);
        results.add(&row, WARM, after.1 - before.1, after.2);
    }
    Ok(())
}

/// Many commands in one machine.
fn in_one(
    options: &Options,
    images: &Images,
    results: &mut Results,
) -> Result<(), String> {
    eprintln!("exec: {} runs in one machine", options.repeats);
    let folder = images.place.join("lguest/images").join(WARM);
    let mut start = images.command(&["restore", "--name", NAME, "--detach"]);
    start.arg("--base").arg(folder.join("disk.img"));
    start.arg(folder.join("warm"));
    timed(&mut start, None)?;
    let _machine = Named(images);
    let mut inspect = images.command(&["inspect", NAME]);
    let said = timed(&mut inspect, None)?.output;
    let said: serde_json::Value =
        serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let launcher = said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let launcher = launcher.ok_or("its launcher has no number")?;
    let row = format!("{LOOP} in one machine");
    let run = |times: u32, results: Option<&mut Results>| {
        let mut results = results;
        for _ in 0..times {
            let words = ["exec", NAME, "--", "/bin/true"];
            let ran = timed(&mut images.command(&words), None)?;
            if let Some(results) = &mut results {
                let time = ran.time.as_secs_f64() * 1000.0;
                results.add(&row, WARM, time, "ms");
            }
        }
        Ok::<_, String>(())
    };
    run(FIRST, None)?;
    let look = || {
        let memory = processes::memory(launcher, &["lguest-memory"]);
        let files = fs::read_dir(format!("/proc/{launcher}/fd"));
        [
            ("memory", memory.own, "KiB"),
            ("descriptors", files.map_or(0.0, count), ""),
        ]
    };
    let before = look();
    run(options.repeats, Some(results))?;
    for (before, after) in before.iter().zip(look()) {
        let row = format!("{row}: {} grow", after.0);
        results.add(&row, WARM, after.1 - before.1, after.2);
    }
    Ok(())
}

/// A machine with a name, which ends at last.
struct Named<'a>(&'a Images);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        let mut kill: Command = self.0.command(&["kill", NAME]);
        let _ = kill.stdout(Stdio::null()).status();
    }
}

/// How many processes have a name that begins like this.
fn processes_named(start: &str) -> f64 {
    let Ok(all) = fs::read_dir("/proc") else {
        return 0.0;
    };
    let named = all.flatten().filter(|process| {
        let name = fs::read_to_string(process.path().join("comm"));
        name.is_ok_and(|name| name.starts_with(start))
    });
    count(named)
}

/// How many files are in a folder and in those in it.
fn files_below(folder: &Path) -> f64 {
    let Ok(all) = fs::read_dir(folder) else {
        return 0.0;
    };
    let below = |file: fs::DirEntry| {
        let is_folder = file.file_type().is_ok_and(|kind| kind.is_dir());
        let inside = match is_folder {
            true => files_below(&file.path()),
            false => 0.0,
        };
        1.0 + inside
    };
    all.flatten().map(below).sum()
}

fn count<T>(all: impl Iterator<Item = T>) -> f64 {
    u32::try_from(all.count()).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_figures_are_counted() {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("xtask-many-{}", std::process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/file"), "").unwrap();
        assert_eq!(files_below(&folder), 3.0);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(files_below(&folder), 0.0);
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(processes_named(own.trim()) >= 1.0);
    }
}
