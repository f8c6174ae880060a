//! The counters of machines, in the text format of Prometheus.
//!
//! The names of counters are labels, because a Guest that has taken over its
//! Host can make up such names.

use super::name::Name;
use super::protocol::Counts;
use std::fmt::Write as _;

/// The counters of all these machines. A machine without counters did not
/// answer.
pub(crate) fn prometheus(machines: &[(&Name, Option<&Counts>)]) -> String {
    let mut text = String::new();
    let mut metric = Metrics(&mut text);
    metric.begin("lguest_up", "gauge", "Whether the machine answers.");
    for (name, counts) in machines {
        let up = u64::from(counts.is_some());
        metric.sample("lguest_up", &[("machine", name.as_str())], up);
    }
    let all = || {
        let answered = |(name, counts): &(&'_ Name, Option<&'_ Counts>)| {
            Some((name.as_str().to_owned(), (*counts)?.clone()))
        };
        machines.iter().filter_map(answered)
    };
    let name = "lguest_processor_microseconds_total";
    metric.begin(name, "counter", "Processor time of all its processes.");
    for (machine, counts) in all() {
        metric.sample(name, &[("machine", &machine)], counts.processor_us);
    }
    let name = "lguest_memory_bytes";
    metric.begin(name, "gauge", "Memory that the guest has used.");
    for (machine, counts) in all() {
        metric.sample(name, &[("machine", &machine)], counts.memory_bytes);
    }
    let name = "lguest_host_total";
    metric.begin(name, "counter", "Events in the host, by their kind.");
    for (machine, counts) in all() {
        for (event, n) in &counts.host {
            let labels = [("machine", &*machine), ("event", event)];
            metric.sample(name, &labels, *n);
        }
    }
    let name = "lguest_device_total";
    metric.begin(name, "counter", "What the devices have done.");
    for (machine, counts) in all() {
        for (number, device) in counts.devices.iter().enumerate() {
            for (counter, n) in &device.counts {
                let labels = [
                    ("machine", &*machine),
                    ("device", &*number.to_string()),
                    ("type", &*device.r#type),
                    ("counter", counter),
                ];
                metric.sample(name, &labels, *n);
            }
        }
    }
    text
}

struct Metrics<'a>(&'a mut String);

impl Metrics<'_> {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.0, "}} {value}");
    }
}

/// The text of a label. Characters on which a terminal or a parser acts are
/// left out.
fn escaped(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c => vec![c],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::protocol::DeviceCounts;

    #[test]
    fn counters_have_labels_that_no_text_can_leave() {
        let bad = "a\"} 1\nlguest_up{\u{1b}[2J\\".to_owned();
        let counts = Counts {
            host: [(bad, 5)].into(),
            devices: vec![DeviceCounts {
                r#type: "block".into(),
                counts: [("reads".to_owned(), 7)].into(),
            }],
            huge_pages: 0,
            processor_us: 1_500_000,
            memory_bytes: 4096,
        };
        let [web, mute] = ["web", "mute"].map(|n| n.parse::<Name>().unwrap());
        let text = prometheus(&[(&web, Some(&counts)), (&mute, None)]);
        for line in [
            "lguest_up{machine=\"web\"} 1",
            "lguest_up{machine=\"mute\"} 0",
            "lguest_processor_microseconds_total{machine=\"web\"} 1500000",
            "lguest_memory_bytes{machine=\"web\"} 4096",
            "lguest_host_total{machine=\"web\",\
             event=\"a\\\"} 1lguest_up{[2J\\\\\"} 5",
            "lguest_device_total{machine=\"web\",device=\"0\",\
             type=\"block\",counter=\"reads\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert_eq!(text.lines().count(), 16, "{text}");
    }
}
