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

/// The most different stacks. What comes behind them counts as [`OTHERS`].
const MOST_STACKS: usize = 1 << 16;

/// The name of what is in no stack of its own.
const OTHERS: &str = "others";

/// A sample.
#[derive(PartialEq, Eq, Hash)]
struct Sample {
    user: bool,
    directory: u32,
    /// Its place, then return addresses.
    frames: Vec<u32>,
}

/// Samples as they come. They need a bounded memory, however many there are
/// and whatever a Guest writes.
#[derive(Default)]
pub struct Profile {
    /// The sample that has a number at the moment.
    open: HashMap<u16, Sample>,
    /// How many samples have this stack.
    stacks: HashMap<Sample, u64>,
    /// How many samples are in no stack.
    others: u64,
    count: u64,
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
                    let sample = Sample {
                        user,
                        directory,
                        frames,
                    };
                    self.count += 1;
                    if let Some(whole) = self.open.insert(detail, sample) {
                        self.close(whole);
                    }
                }
                Kind::Frames => {
                    let Some(sample) = self.open.get_mut(&detail) else {
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

    /// Nothing follows of this sample.
    fn close(&mut self, sample: Sample) {
        if let Some(count) = self.stacks.get_mut(&sample) {
            *count += 1;
        } else if self.stacks.len() < MOST_STACKS {
            self.stacks.insert(sample, 1);
        } else {
            self.others += 1;
        }
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The stacks, outermost function first, each with how many samples it has:
    /// a line each, in order.
    #[must_use]
    pub fn folded(mut self, symbols: &[Symbols<'_>]) -> Vec<String> {
        for (_, sample) in std::mem::take(&mut self.open) {
            self.close(sample);
        }
        let mut counts = BTreeMap::<String, u64>::new();
        if self.others > 0 {
            counts.insert(OTHERS.into(), self.others);
        }
        let mut names = HashMap::new();
        let known = symbols.iter().any(|symbols| !symbols.is_empty());
        for (sample, count) in &self.stacks {
            let mut stack = Vec::new();
            for (n, &address) in sample.frames.iter().enumerate() {
                // A return address may be behind the end of its function.
                let within = address.wrapping_sub(u32::from(n > 0));
                let name = names.entry(within).or_insert_with(|| {
                    symbols.iter().find_map(|s| s.function(within))
                });
                match name {
                    Some(name) => stack.push(frame(name)),
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
            *counts.entry(stack.join(";")).or_default() += count;
        }
        let line = |(stack, count)| format!("{stack} {count}");
        counts.into_iter().map(line).collect()
    }
}

/// A name as it is in a folded stack, where `;` is between names, and numbers
/// behind the last one are counts.
fn frame(name: &str) -> String {
    let name = name.replace(';', ":");
    match name.rsplit_once(' ') {
        Some((_, last)) if last.parse::<f64>().is_ok() => {
            name.replace(' ', "_")
        }
        _ => name,
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

    /// Nor are there more stacks than fit, however many samples there are.
    #[test]
    fn stacks_without_end_are_others() {
        let mut profile = Profile::default();
        let most = u32::try_from(MOST_STACKS).unwrap();
        for n in 0..most + 10 {
            let sample = event(Kind::Sample, 0, n * PAGE, [0; 3]);
            profile.add(&trace(&[sample, sample]));
        }
        assert_eq!(profile.count(), 2 * u64::from(most + 10));
        assert!(profile.open.len() == 1 && profile.stacks.len() == MOST_STACKS);
        let folded = profile.folded(&[]);
        assert_eq!(folded.len(), MOST_STACKS + 1);
        let others = folded.iter().find(|line| line.starts_with("others"));
        assert_eq!(others.map(String::as_str), Some("others 20"));
    }

    /// Names are those in the file of a stranger.
    #[test]
    fn a_name_is_neither_a_stack_nor_a_count_nor_a_tag() {
        assert_eq!(frame("a;b"), "a:b");
        assert_eq!(frame("<[u8; 3] as T>::f"), "<[u8: 3] as T>::f");
        assert_eq!(frame("a 7"), "a_7");
        let line = format!("kernel;{} 3", frame("<script>alert(1)</script> 9"));
        let mut svg = Vec::new();
        flame_graph(&[line], "title", &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(!svg.contains("<script>alert"), "{svg}");
        assert!(svg.contains("&lt;script&gt;alert(1)&lt;/script&gt;_9"));
    }
}
