//! Stacks from samples: folded, or as a flame graph.
//!
//! A sample is a place in the Guest's code with the frames of its callers, as
//! far as the code keeps frame pointers. Code without them leaves nonsense in
//! the chain; so the chain of a kernel whose names are known ends at the first
//! place that has no name.

use super::copy::Copied;
use crate::explain::Symbols;
use inferno::flamegraph::{self, Options};
use lg_wire::trace::{Event, Kind};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

/// Addresses without a name are shown by their page.
const PAGE: u32 = 4096;

/// The most frames of a sample.
const DEEPEST: usize = 64;

/// A sample.
struct Sample {
    user: bool,
    directory: u32,
    /// Its place, then return addresses.
    frames: Vec<u32>,
}

/// Samples as they come.
#[derive(Default)]
pub struct Profile {
    /// The sample that has a number at the moment.
    open: HashMap<u16, usize>,
    samples: Vec<Sample>,
}

impl Profile {
    /// Takes the samples of `trace`.
    pub fn add(&mut self, trace: &Copied) {
        for happened in &trace.events {
            let Event {
                kind,
                user,
                detail,
                eip,
                words,
            } = happened.event;
            match kind {
                Kind::Sample => {
                    let [directory, count, first] = words;
                    let mut frames = vec![eip];
                    frames.extend((count > 0).then_some(first));
                    self.open.insert(detail, self.samples.len());
                    self.samples.push(Sample {
                        user,
                        directory,
                        frames,
                    });
                }
                Kind::Frames => {
                    let open = self.open.get(&detail).copied();
                    let sample = open.and_then(|n| self.samples.get_mut(n));
                    let Some(sample) = sample else {
                        continue;
                    };
                    let more = [eip, words[0], words[1], words[2]];
                    let more = more.into_iter().filter(|&frame| frame != 0);
                    sample.frames.extend(more);
                    sample.frames.truncate(DEEPEST);
                }
                _ => {}
            }
        }
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// The stacks, outermost function first, each with how many samples it has:
    /// a line each, in order.
    #[must_use]
    pub fn folded(&self, symbols: &[Symbols<'_>]) -> Vec<String> {
        let mut counts = BTreeMap::<String, u64>::new();
        let mut names = HashMap::new();
        let known = symbols.iter().any(|symbols| !symbols.is_empty());
        for sample in &self.samples {
            let mut stack = Vec::new();
            for (n, &address) in sample.frames.iter().enumerate() {
                // A return address may be behind the end of its function.
                let within = address.wrapping_sub(u32::from(n > 0));
                let name = names.entry(within).or_insert_with(|| {
                    symbols.iter().find_map(|s| s.function(within))
                });
                match name {
                    Some(name) => stack.push(name.replace(';', ":")),
                    None if n > 0 && known => break,
                    None => {
                        stack.push(format!("{:#x}..", within / PAGE * PAGE))
                    }
                }
            }
            stack.push(match sample.user {
                true => format!("program {:#x}", sample.directory),
                false => "kernel".into(),
            });
            stack.reverse();
            *counts.entry(stack.join(";")).or_default() += 1;
        }
        let line = |(stack, count)| format!("{stack} {count}");
        counts.into_iter().map(line).collect()
    }
}

/// Writes a flame graph of folded stacks as SVG.
///
/// # Errors
///
/// There is no stack, or those of `out`.
pub fn flame_graph(
    folded: &[String],
    title: &str,
    out: impl Write,
) -> io::Result<()> {
    let mut options = Options::default();
    options.title = title.to_owned();
    options.count_name = "samples".into();
    let lines = folded.iter().map(String::as_str);
    flamegraph::from_lines(&mut options, lines, out)
}

#[cfg(test)]
mod tests {
    use super::super::copy::Happened;
    use super::*;
    use std::time::Duration;

    fn trace(events: &[Event]) -> Copied {
        let happened = |&event: &Event| Happened {
            at: Duration::ZERO,
            took: Duration::ZERO,
            event,
        };
        Copied {
            events: events.iter().map(happened).collect(),
            ..Copied::default()
        }
    }

    fn event(kind: Kind, detail: u16, eip: u32, words: [u32; 3]) -> Event {
        Event {
            kind,
            user: false,
            detail,
            eip,
            words,
        }
    }

    #[test]
    fn frames_go_to_their_sample() {
        let mut profile = Profile::default();
        let sample = |n, eip| event(Kind::Sample, n, eip, [0x5000, 3, 0x2001]);
        profile.add(&trace(&[
            event(Kind::Frames, 7, 0x9001, [0; 3]),
            sample(1, 0x1004),
            event(Kind::Frames, 1, 0x3001, [0x4001, 0, 0]),
            sample(2, 0x1008),
        ]));
        profile.add(&trace(&[event(Kind::Frames, 2, 0x3001, [0x4001, 0, 0])]));
        assert_eq!(profile.count(), 2);
        let folded = profile.folded(&[]);
        let stack = "kernel;0x4000..;0x3000..;0x2000..;0x1000.. 2";
        assert_eq!(folded, [stack]);
        let mut svg = Vec::new();
        flame_graph(&folded, "a <guest>", &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("a &lt;guest&gt;") && svg.contains("0x4000.."));
    }

    #[test]
    fn a_user_sample_is_that_of_its_page_directory() {
        let mut profile = Profile::default();
        let mut sample = event(Kind::Sample, 0, 0x1000, [0x7000, 0, 0x2001]);
        sample.user = true;
        profile.add(&trace(&[sample]));
        assert_eq!(profile.folded(&[]), ["program 0x7000;0x1000.. 1"]);
    }

    /// Whatever a Guest writes, a stack has a bounded depth.
    #[test]
    fn frames_without_end_are_cut() {
        let mut profile = Profile::default();
        profile.add(&trace(&[event(Kind::Sample, 0, 1, [0, u32::MAX, 1])]));
        for _ in 0..1000 {
            let frames = event(Kind::Frames, 0, 1, [1; 3]);
            profile.add(&trace(&[frames]));
        }
        let folded = profile.folded(&[]);
        assert_eq!(folded[0].matches(';').count(), DEEPEST);
    }
}
