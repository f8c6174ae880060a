//! A trace as a file for a viewer: Chrome's trace events, in JSON.
//!
//! ui.perfetto.dev opens it, and so does chrome://tracing. Each group of events
//! has a track. What takes time is a slice, and all else is a mark.

use super::copy::{Copied, Happened};
use super::names::{GROUPS, arguments, group_of, title};
use crate::explain::Symbols;
use lg_wire::trace::Kind;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

/// The number of the one process in the file.
const GUEST: u32 = 1;

/// One event of the format.
#[derive(Serialize)]
struct TraceEvent<'a> {
    name: &'a str,
    /// The group.
    cat: &'a str,
    /// `X` = a slice, `i` = a mark.
    ph: &'static str,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// A mark belongs to its track.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    pid: u32,
    tid: usize,
    args: Map<String, Value>,
}

/// Writes `trace` as a file for a viewer. Places in the kernel get the names of
/// `symbols`.
///
/// # Errors
///
/// Those of `out`.
pub fn write(
    out: &mut (impl Write + ?Sized),
    trace: &Copied,
    symbols: &[Symbols<'_>],
) -> io::Result<()> {
    let about = json!({
        "made by": concat!("lguest ", env!("CARGO_PKG_VERSION")),
        "lost": trace.lost.to_string(),
        "unreadable": trace.unreadable.to_string(),
    });
    write!(out, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{about},")?;
    write!(out, "\"traceEvents\":[")?;
    let process = json!({"ph": "M", "pid": GUEST, "name": "process_name",
        "args": {"name": "guest"}});
    write!(out, "{process}")?;
    for (n, name) in GROUPS.iter().enumerate() {
        let track = json!({"ph": "M", "pid": GUEST, "tid": n + 1,
            "name": "thread_name", "args": {"name": name}});
        write!(out, ",\n{track}")?;
        let order = json!({"ph": "M", "pid": GUEST, "tid": n + 1,
            "name": "thread_sort_index", "args": {"sort_index": n}});
        write!(out, ",\n{order}")?;
    }
    if trace.lost > 0 {
        let first = trace.events.first().map_or(0.0, |first| micros(first.at));
        let lost = json!({"ph": "i", "s": "g", "pid": GUEST, "tid": 1,
            "ts": first, "name": format!("{} records before this are lost", trace.lost)});
        write!(out, ",\n{lost}")?;
    }
    let mut places = HashMap::new();
    for happened in &trace.events {
        let event = &happened.event;
        if matches!(event.kind, Kind::Sample | Kind::Frames) {
            continue;
        }
        let eip = event.eip;
        let place = places.entry(eip).or_insert_with(|| {
            symbols.iter().find_map(|symbols| symbols.name(eip))
        });
        writeln!(out, ",")?;
        write_event(out, happened, place.as_deref())?;
    }
    writeln!(out, "]}}")
}

fn write_event(
    out: &mut (impl Write + ?Sized),
    happened: &Happened,
    place: Option<&str>,
) -> io::Result<()> {
    let event = &happened.event;
    let group = group_of(event.kind);
    let track = GROUPS.iter().position(|name| *name == group);
    let mut args = Map::new();
    let mut add = |name: &str, value: String| {
        args.insert(name.into(), value.into());
    };
    // The Launcher does not know where the Guest is.
    if event.eip != 0 {
        add("eip", format!("{:#x}", event.eip));
        let mode = if event.user { "user" } else { "kernel" };
        add("mode", mode.into());
    }
    if let Some(place) = place {
        add("at", place.into());
    }
    for (name, value) in arguments(event) {
        add(name, value);
    }
    let slice = event.kind.has_duration();
    let written = TraceEvent {
        name: &title(event),
        cat: group,
        ph: if slice { "X" } else { "i" },
        ts: micros(happened.at),
        dur: slice.then(|| micros(happened.took)),
        s: (!slice).then_some("t"),
        pid: GUEST,
        tid: track.map_or(0, |n| n + 1),
        args,
    };
    serde_json::to_writer(out, &written).map_err(io::Error::from)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use lg_wire::trace::{Event, cause};

    fn written(trace: &Copied) -> Value {
        let mut bytes = Vec::new();
        write(&mut bytes, trace, &[Symbols::new(b"")]).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn slices_and_marks_are_events_of_a_viewer() {
        let happened = |kind, detail, ms| Happened {
            at: Duration::from_millis(ms),
            took: Duration::from_micros(ms),
            event: Event {
                kind,
                user: true,
                detail,
                eip: 0x0804_8000,
                words: [4, 0x1000, 9],
            },
        };
        let trace = Copied {
            events: vec![
                happened(Kind::Exit, cause::TRAP | 14, 2),
                happened(Kind::Raised, 3, 5),
                happened(Kind::Sample, 0, 6),
            ],
            lost: 7,
            ..Copied::default()
        };
        let file = written(&trace);
        assert_eq!(file["otherData"]["lost"], "7");
        let all = file["traceEvents"].as_array().unwrap();
        let of = |ph: &str| -> Vec<&Value> {
            all.iter().filter(|event| event["ph"] == ph).collect()
        };
        let [slice] = of("X")[..] else {
            panic!("{all:?}");
        };
        assert_eq!(slice["name"], "page fault");
        assert_eq!((&slice["ts"], &slice["dur"]), (&json!(2e3), &json!(2.0)));
        let args = &slice["args"];
        assert_eq!(args["address"], "0x1000");
        assert_eq!(
            (&args["mode"], &args["eip"]),
            (&json!("user"), &json!("0x8048000"))
        );
        let [lost, mark] = of("i")[..] else {
            panic!("{all:?}");
        };
        assert_eq!(lost["name"], "7 records before this are lost");
        assert_eq!(mark["name"], "interrupt 3 raised");
        let track = |event: &Value| {
            let names = |e: &&&Value| e["tid"] == event["tid"];
            let name = of("M").iter().find(names).unwrap()["args"].clone();
            name["name"].as_str().unwrap().to_owned()
        };
        assert_eq!(track(slice), "exits");
        assert_eq!(track(mark), "interrupts");
    }

    #[test]
    fn an_empty_trace_is_a_file_too() {
        let file = written(&Copied::default());
        let all = file["traceEvents"].as_array().unwrap();
        assert!(all.iter().all(|event| event["ph"] == "M"), "{all:?}");
    }
}
