//! The options of `cargo xtask bench exec`.
//!
//! The files that are measured come from options or from the environment. Only
//! a root file system and its kernel are needed.

use super::super::options::{Only, number};
use std::path::PathBuf;

pub(super) const HELP: &str = "\
usage: cargo xtask bench exec [OPTION...]

  --root DIR|FILE   a root file system for i386 with python3, as 'lguest image
                    build' takes it; natively only a folder can be used
                    (LGUEST_BENCH_ROOT)
  --kernel FILE     its kernel (LGUEST_BENCH_KERNEL)
  --qemu-kernel FILE  a kernel with SERIAL_8250_CONSOLE, VIRTIO_PCI, VIRTIO_BLK
                    and EXT4_FS, for QEMU (LGUEST_BENCH_QEMU_KERNEL)
  --build DIR       a folder in which 'make' builds something
                    (LGUEST_BENCH_BUILD)
  --tests DIR       a folder in which 'python3 -m unittest' runs tests
                    (LGUEST_BENCH_TESTS)
  --runs N          runs of each short row (100)
  --peer-runs N     the same for QEMU, for starts without a snapshot and for
                    rows that compute (10)
  --many N,M        N runs, M at a time (200,20)
  --loop N          runs in the loop that looks for growth (10000)
  --only ROW,ROW    rows whose names begin with one of these
  --no-peers        without QEMU
  --lguest FILE     measure this lguest instead of building one
  --json FILE       where the figures go (target/bench/exec/exec.json)

mke2fs and debugfs build the image. Natively, chroot needs root, or a user that
may make user namespaces.
";

/// The parsed options.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) root: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) qemu_kernel: Option<PathBuf>,
    pub(super) build: Option<PathBuf>,
    pub(super) tests: Option<PathBuf>,
    pub(super) runs: u32,
    pub(super) peer_runs: u32,
    pub(super) many: (u32, u32),
    pub(super) repeats: u32,
    only: Only,
    pub(super) peers: bool,
    pub(super) lguest: Option<PathBuf>,
    pub(super) json: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        Self::read(words, |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// `given` has the files of the environment.
    fn read(
        words: &[&str],
        given: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, String> {
        let (mut root, mut kernel) =
            (given("LGUEST_BENCH_ROOT"), given("LGUEST_BENCH_KERNEL"));
        let mut options = Self {
            root: PathBuf::new(),
            kernel: PathBuf::new(),
            qemu_kernel: given("LGUEST_BENCH_QEMU_KERNEL"),
            build: given("LGUEST_BENCH_BUILD"),
            tests: given("LGUEST_BENCH_TESTS"),
            runs: 100,
            peer_runs: 10,
            many: (200, 20),
            repeats: 10_000,
            only: Only::default(),
            peers: true,
            lguest: None,
            json: None,
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.copied().ok_or(format!("{word}: what?"))
            };
            match word {
                "--root" => root = Some(value()?.into()),
                "--kernel" => kernel = Some(value()?.into()),
                "--qemu-kernel" => options.qemu_kernel = Some(value()?.into()),
                "--build" => options.build = Some(value()?.into()),
                "--tests" => options.tests = Some(value()?.into()),
                "--runs" => options.runs = number(value()?)?,
                "--peer-runs" => options.peer_runs = number(value()?)?,
                "--many" => {
                    let value = value()?;
                    let both = value.split_once(',').ok_or("--many: N,M")?;
                    options.many = (number(both.0)?, number(both.1)?);
                }
                "--loop" => options.repeats = number(value()?)?,
                "--only" => options.only.add(value()?),
                "--no-peers" => options.peers = false,
                "--lguest" => options.lguest = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                _ => return Err(format!("what is {word}?")),
            }
        }
        options.root = root.ok_or("give --root or LGUEST_BENCH_ROOT")?;
        options.kernel =
            kernel.ok_or("give --kernel or LGUEST_BENCH_KERNEL")?;
        Ok(options)
    }

    /// Whether this row is to be measured.
    pub(super) fn wants(&self, row: &str) -> bool {
        self.only.wants(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<PathBuf> {
        None
    }

    #[test]
    fn files_come_from_options_or_from_the_environment() {
        let missing = Options::read(&["--root", "/r"], nothing).unwrap_err();
        assert!(missing.contains("LGUEST_BENCH_KERNEL"), "{missing}");
        let words = ["--root", "/r", "--many", "40,4", "--only", "true"];
        let given = |name: &str| Some(PathBuf::from(name));
        let options = Options::read(&words, given).unwrap();
        assert_eq!(options.root, PathBuf::from("/r"));
        assert_eq!(options.kernel, PathBuf::from("LGUEST_BENCH_KERNEL"));
        assert_eq!(options.many, (40, 4));
        assert!(options.wants("true") && !options.wants("python"));
        for wrong in [&["--many", "4"][..], &["--runs", "0"], &["x"]] {
            assert!(Options::read(wrong, given).is_err(), "{wrong:?}");
        }
    }
}
