//! `lguest trace` and `lguest profile`: what a machine does, seen from outside.

use crate::place::Place;
use crate::snapshots::from_elsewhere;
use crate::support::{PATIENCE, Scratch, questions, run};
use std::time::Instant;

/// The ELF file `file`, and in it one function with these addresses.
fn with_function(file: &[u8], name: &str, [start, size]: [u32; 2]) -> Vec<u8> {
    let words = |words: &[u32]| -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    };
    let names = format!("\0{name}\0.symtab\0.strtab\0");
    let at = |part: &str| u32::try_from(names.find(part).unwrap()).unwrap();
    let word = |length: usize| u32::try_from(length).unwrap();
    let mut file = file.to_vec();
    file.resize(file.len().next_multiple_of(4), 0);
    // An empty symbol, and the function, which is global and in section 1.
    let symbols_at = word(file.len());
    file.extend(words(&[0; 4]));
    file.extend(words(&[1, start, size, 0x0001_0012]));
    let names_at = word(file.len());
    file.extend(names.as_bytes());
    file.resize(file.len().next_multiple_of(4), 0);
    let sections_at = word(file.len());
    file.extend(words(&[0; 10]));
    let symbols = [at(".symtab"), 2, 0, 0, symbols_at, 32, 2, 1, 4, 16];
    file.extend(words(&symbols));
    let length = word(names.len());
    let strings = [at(".strtab"), 3, 0, 0, names_at, length, 0, 0, 1, 0];
    file.extend(words(&strings));
    file[32..36].copy_from_slice(&sections_at.to_le_bytes());
    // The size of a section's header, how many there are, and that of names.
    file[46..52].copy_from_slice(&[40, 0, 3, 0, 2, 0]);
    file
}

/// An ELF file in which one function has all addresses below 2 GiB.
fn one_function(name: &str) -> Vec<u8> {
    let mut file = b"\x7FELF\x01\x01\x01".to_vec();
    file.resize(52, 0);
    // ET_EXEC for an 80386, form 1, with a header of 52 bytes.
    file[16..21].copy_from_slice(&[2, 0, 3, 0, 1]);
    file[40] = 52;
    with_function(&file, name, [0, 0x8000_0000])
}

/// The folder of the command need not be the one where the machine was started.
#[test]
fn names_come_from_the_kernel_that_was_named_from_another_folder() {
    let place = Place::new("trace-kernel");
    let scratch = Scratch::new("trace-kernel-files");
    let kernel = std::fs::read(questions()).unwrap();
    let all = [0xC000_0000, 0x1000_0000];
    let kernel = with_function(&kernel, "all_of_it", all);
    let kernel = scratch.file("kernel", &kernel);
    let mut command = place.command("run --detach --name web --kernel kernel");
    command.args(["--append", "ask=halt_with_the_timer_blocked"]);
    let trace = scratch.path("trace");
    command.arg("--trace").arg(&trace);
    let end = run(command.current_dir(kernel.parent().unwrap()), b"");
    assert_eq!(end.code(), 0, "{end:?}");
    let inspected = place.done("inspect web");
    let whole = format!("\"kernel\": \"{}\"", kernel.display());
    assert!(inspected.contains(&whole), "{inspected}");
    // It has just been started, and may not have done anything yet.
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = place.done("trace web");
        if text.contains("\"cat\":\"sleep\"") || Instant::now() > deadline {
            break text;
        }
    };
    assert!(text.contains("\"at\":\"all_of_it+0x"), "{text}");
    place.done("kill web");
}

#[test]
fn a_machine_that_was_not_traced_is_watched_for_a_while() {
    let place = Place::new("trace");
    place.start("web");
    place.type_in("web", "run primes 100000000");
    let text = place.done("trace web --seconds 1 --filter exits,interrupts");
    assert!(text.contains("\"cat\":\"interrupts\""), "{text}");
    assert!(text.contains("interrupt 0 delivered"), "{text}");
    assert!(!text.contains("\"cat\":\"hypercalls\""), "{text}");
    // What the first command has asked for has ended with it.
    let text = place.done("trace web --seconds 1 --filter requests");
    assert!(!text.contains("\"cat\":\"exits\""), "{text}");
    let refused = place.run("trace web --filter calls");
    assert_eq!(refused.code(), 2);
    place.done("kill web");
    place.fails(127, "trace web");
    place.fails(127, "profile web");
}

#[test]
fn a_machine_that_is_always_traced_gives_what_it_has() {
    let place = Place::new("trace-always");
    let scratch = Scratch::new("trace-always-files");
    let end = scratch.path("end");
    place.start_with("web", &format!("--trace {}", end.display()));
    let file = scratch.path("now");
    let told = place.run(&format!("trace web -o {}", file.display()));
    assert_eq!(told.code(), 0, "{told:?}");
    assert!(told.stderr.contains(" events, 0 lost"), "{told:?}");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("\"LGUEST_INIT\""), "from its beginning");
    let some = place.done("trace web --filter hypercalls");
    assert!(some.contains("\"LGUEST_INIT\""), "{some}");
    assert!(!some.contains("\"cat\":\"exits\""), "{some}");
    place.done("kill web");
    let text = std::fs::read_to_string(end).unwrap();
    assert!(text.contains("\"LGUEST_INIT\""), "it was killed: {text}");
}

#[test]
fn a_profile_names_the_function_of_a_loop() {
    let place = Place::new("profile");
    place.start("web");
    let scratch = Scratch::new("profile-files");
    let symbols = scratch.file("symbols", &one_function("trial_division"));
    let asleep = place.fails(126, "profile web --seconds 1 --folded -");
    assert!(asleep.contains("its guest slept all the time"), "{asleep}");
    place.type_in("web", "run primes 100000000");
    let words =
        format!("profile web --seconds 1 --symbols {}", symbols.display());
    let folded = place.done(&format!("{words} --folded -"));
    let samples = |line: &str| -> u32 {
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let all: u32 = folded.lines().map(samples).sum();
    let in_loop = folded.lines().filter(|line| {
        line.starts_with("program 0x") && line.contains(";trial_division ")
    });
    let in_loop: u32 = in_loop.map(samples).sum();
    assert!(
        all > 10 && in_loop * 2 > all,
        "{in_loop} of {all}: {folded}"
    );
    let stripped = scratch.file("stripped", b"no names");
    let none = place.run(&format!(
        "profile web --seconds 1 --folded - --symbols {}",
        stripped.display()
    ));
    assert_eq!(none.code(), 0, "{none:?}");
    let said = "stripped: there are no names in it";
    assert!(none.stderr.contains(said), "{none:?}");
    let flame = scratch.path("flame.svg");
    place.done(&format!("{words} -o {}", flame.display()));
    let svg = std::fs::read_to_string(flame).unwrap();
    assert!(svg.contains("<svg") && svg.contains("trial_division"));
    let missing = place.fails(120, "profile web --symbols /nowhere");
    assert!(missing.contains("symbols /nowhere"), "{missing}");
    place.done("kill web");
}

/// Where a guest has another time-stamp counter than the processor, `rdtsc`
/// faults in its processes. Its trace has the monotonic clock.
#[test]
fn a_guest_of_another_boot_is_traced_too() {
    let place = Place::new("trace-elsewhere");
    let scratch = Scratch::new("trace-elsewhere-files");
    let folder = scratch.path("saved");
    place.start("web");
    place.done(&format!("snapshot web {}", folder.display()));
    place.done("kill web");
    from_elsewhere(&folder, "boot");
    let restore = format!("restore {} --name web --detach", folder.display());
    place.done(&restore);
    place.type_in("web", "run primes 100000000");
    // On a busy machine, the guest runs for a short part of that time.
    for seconds in [1, 4, 16] {
        let text = place.done(&format!("trace web --seconds {seconds}"));
        let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let times = events.iter().filter_map(|event| event["ts"].as_f64());
        let times: Vec<f64> = times.collect();
        if times.len() > 10 && text.contains("interrupt 0 delivered") {
            let most = crate::support::PATIENCE.as_secs_f64() * 1e6;
            let took = times[times.len() - 1] - times[0];
            assert!(
                (1e4..most).contains(&took) && times[0] < most,
                "{took}: {text}"
            );
            place.done("kill web");
            return;
        }
    }
    panic!("there are no events");
}
