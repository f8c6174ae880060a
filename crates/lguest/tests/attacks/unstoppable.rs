//! Guests that try not to be stopped.
//!
//! A Guest may change its signals, the words by which it is kicked, and the
//! state of the Host. Still SIGTERM ends it, three ^C end it, and LHREQ_BREAK
//! stops it or ends it with a reason.

use crate::arena::{Arena, Boot, Stop, count, guests_here};
use crate::script::{Long, Record, routine};
use crate::support::guests;
use crate::sweep;
use crate::target::{EMPTY, EMPTY_VA, view};
use lg_abi::dma::Dma;
use lg_abi::hypercall::Hypercall;
use lg_switcher::layout::{STATE, State};
use lguest::engine::{Death, Engine, Exit, Native, Requests, Setup};
use lguest::loader::{self, Image};
use lguest::memory::GuestMemory;
use std::fs::File;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The address of a field of the state that all views share.
macro_rules! in_vm {
    ($($field:ident).+) => {
        (STATE + offset_of!(State, vm.$($field).+)) as u64
    };
}

fn call(nr: u64, args: [u64; 6]) -> Record {
    Record::long(&Long {
        rip: view().syscall,
        rax: nr,
        args,
        ..Long::default()
    })
}

fn jump(rip: u64, first: u64, second: u64) -> Record {
    Record::long(&Long {
        rip,
        args: [first, second, 0, 0, 0, 0],
        ..Long::default()
    })
}

/// `rt_sigprocmask(SIG_SETMASK, everything)`.
fn mask_everything() -> [Record; 2] {
    [
        Record::fill(EMPTY, 2, u32::MAX, 0),
        call(14, [2, EMPTY_VA, 0, 8, 0, 0]),
    ]
}

/// `timer_settime`: repeatedly after so many nanoseconds.
fn storm(nanoseconds: u32) -> [Record; 3] {
    [
        Record::fill(EMPTY, 8, 0, 0),
        Record::fill(EMPTY + 8, 5, nanoseconds, 0),
        call(223, [0, 0, EMPTY_VA, 0, 0, 0]),
    ]
}

/// Every attacker, by its last act, which never returns.
fn attackers() -> Vec<(&'static str, Vec<Record>)> {
    let kernel_loop = Record::code(&[0xEB, 0xFE]);
    let user_loop = Record::code_of_a_user(&[0xEB, 0xFE]);
    let spin = jump(routine::SPIN, 0, 0);
    let user_spin = Record::long_of_a_user(&Long {
        rip: routine::SPIN,
        ..Long::default()
    });
    let halt = Record::hypercall(10, [0; 3]);
    let hypercalls = Record::code(&[0xCD, 0x1F, 0x31, 0xC0, 0xEB, 0xFA]);
    let faults = Record::code(&[0xEC, 0xEB, 0xFD]);
    let poke = |at, word| jump(routine::POKE, at, word);
    let mut all = vec![
        ("computes", vec![kernel_loop]),
        ("computes in user mode", vec![user_loop]),
        ("sleeps", vec![halt]),
        ("computes in 64-bit mode", vec![spin]),
        ("computes in 64-bit user mode", vec![user_spin]),
        ("hypercalls", vec![hypercalls]),
        ("faults", vec![faults]),
        (
            "claims to sleep",
            vec![poke(in_vm!(wire.asleep), 1), kernel_loop],
        ),
        (
            "claims that another view runs",
            vec![poke(in_vm!(wire.current), 31), kernel_loop],
        ),
        (
            "claims that there is no such view",
            vec![poke(in_vm!(wire.current), 1 << 31), kernel_loop],
        ),
        (
            "waits for a run token that no view has",
            vec![
                poke(in_vm!(cr3), 0x7000),
                poke(in_vm!(uses), u64::from(u32::MAX)),
                halt,
            ],
        ),
    ];
    for (name, last) in [
        ("masks signals and computes", kernel_loop),
        ("masks signals and computes in 64-bit mode", spin),
        ("masks signals and sleeps", halt),
    ] {
        let mut script = mask_everything().to_vec();
        script.push(last);
        all.push((name, script));
    }
    for nanoseconds in [1, 1000, 100_000] {
        for last in [kernel_loop, user_loop, halt] {
            let mut script = storm(nanoseconds).to_vec();
            script.push(last);
            all.push(("has a storm of signals", script));
        }
    }
    // A futex that is never woken, from the allowed place.
    let futex = call(202, [in_vm!(wire.kick), 0, 0, 0, 0, 0]);
    all.push(("waits for nothing", vec![futex; 50]));
    all
}

fn stopped_by(stop: Stop, name: &'static str) {
    let arena = Arena::new("unstoppable");
    let mut cases = 0;
    for (what, script) in attackers() {
        let end = arena.boot(&Boot {
            options: Vec::new(),
            line: "attack=script quiet".into(),
            script: &script,
            stop,
        });
        let died = [1, 122].contains(&end.code) && end.reason().is_some();
        assert!(end.stopped || died, "{what}: {end:?}");
        cases += 1;
    }
    count(name, cases, cases, "");
}

#[test]
fn a_signal_stops_them() {
    stopped_by(Stop::Signal, "unstoppable by SIGTERM");
}

#[test]
fn three_interrupts_stop_them() {
    stopped_by(Stop::Keys, "unstoppable by ^C^C^C");
}

/// Binds as many full buffers to the console's key as possible, and never frees
/// one. A search for a free buffer must look at all of them.
fn binds_without_end(megabytes: u32) -> Vec<Record> {
    const FIRST: u32 = 2 << 20;
    // The script itself lies at the end.
    let bytes = ((megabytes - 4) << 20) - FIRST;
    let mut script = vec![Record::fill(FIRST, bytes / 4, 1, 0)];
    let count = bytes / Dma::SIZE;
    for irq in 1..=31 {
        let word = count << 8 | irq;
        let bind = Hypercall::BindDma as u32;
        script.push(Record::hypercall(bind, [0, FIRST, word]));
    }
    script.push(Record::code(&[0xEB, 0xFE]));
    script
}

/// Thirty million buffers, which take seconds to look at.
#[test]
fn keys_work_while_buffers_are_searched() {
    let arena = Arena::new("searched");
    for stop in [Stop::Keys, Stop::Signal] {
        let end = arena.boot(&Boot {
            options: vec!["--memory".into(), "100".into()],
            line: "attack=script quiet".into(),
            script: &binds_without_end(100),
            stop,
        });
        assert!(end.stopped, "{end:?}");
    }
}

/// The result of a BREAK.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    Stands,
    Dies(String),
}

/// The attacker, run by the library without the command.
fn start(script: &[Record], name: &str) -> Arc<Native> {
    let scratch = crate::support::Scratch::new(name);
    let file = scratch.file("script", &Record::all_bytes(script));
    let memory = GuestMemory::new(16 << 20, 1).unwrap();
    let kernel = File::open(guests().join("built/attacks")).unwrap();
    let start = loader::load(
        &memory,
        &Image::File(kernel),
        Some(&File::open(file).unwrap()),
        b"attack=script quiet",
    )
    .unwrap();
    let guest = Native::new(memory);
    guest.initialize(Setup::from(start)).unwrap();
    guest
}

/// Runs `script` and types ^C^C^C when it has printed nothing for a while.
fn break_into(script: &[Record], arena: &str) -> Broken {
    let guest = start(script, arena);
    let heard = Arc::new(Mutex::new(Instant::now()));
    let asked = Arc::new(AtomicBool::new(false));
    let breaker = {
        let (guest, heard) = (guest.clone(), Arc::clone(&heard));
        let asked = Arc::clone(&asked);
        std::thread::spawn(move || {
            while heard.lock().unwrap().elapsed() < Duration::from_millis(500) {
                std::thread::sleep(Duration::from_millis(20));
            }
            asked.store(true, Ordering::SeqCst);
            // Returns when the Guest is stopped, or has ended.
            let hold = guest.hold();
            let _ = hold.map(|hold| hold.wait());
        })
    };
    let outcome = loop {
        match guest.run().unwrap() {
            Exit::SendDma { dma, .. } => {
                *heard.lock().unwrap() = Instant::now();
                guest.memory().write_last(dma, 4096).unwrap();
            }
            Exit::BindingsChanged
            | Exit::BuffersMayBeFree
            | Exit::Notify { .. }
            | Exit::Stopped(_)
            | Exit::WriteDevice { .. } => {}
            Exit::ReadDevice(_) => guest.answer(0),
            Exit::Held => break Broken::Stands,
            Exit::Dead(Death::Killed(why) | Death::Lost(why)) => {
                break Broken::Dies(why);
            }
            Exit::Dead(other) => panic!("{other:?}"),
        }
    };
    assert!(asked.load(Ordering::SeqCst) || outcome != Broken::Stands);
    guest.kill("that is enough".into());
    breaker.join().unwrap();
    outcome
}

/// All at once, because the slowest of them take long.
#[test]
fn a_break_stops_them_or_ends_them() {
    let _alone = guests_here();
    let start = Instant::now();
    let attackers = attackers();
    let cases = attackers.len() as u64;
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = attackers
            .iter()
            .map(|(name, script)| {
                let run = || break_into(script, "break");
                (name, scope.spawn(run))
            })
            .collect();
        let ended = runs.into_iter().map(|(n, run)| (n, run.join().unwrap()));
        ended.collect()
    });
    let mut stand = 0;
    for (name, outcome) in outcomes {
        match outcome {
            Broken::Stands => stand += 1,
            Broken::Dies(why) => assert!(
                why.starts_with("does not stop, however often")
                    || sweep::knows(&format!("killed: {why}"))
                    || sweep::knows(&format!("lost: {why}")),
                "{name}: {why}"
            ),
        }
    }
    assert!(stand >= 5, "Guests that answer kicks stand");
    // The Host gets ten seconds of signals, and 25 Guests share the machine.
    assert!(start.elapsed() < Duration::from_secs(300));
    let told = format!(", {stand} stood, the others died");
    count("unstoppable by BREAK", cases, cases, &told);
}

/// The Launcher asks for interrupts and breaks as fast as it can. The Guest
/// goes on.
#[test]
fn storms_from_outside() {
    let _alone = guests_here();
    let script = [
        Record::code(&[0x0F, 0x0B]),
        Record::hypercall(5, [0; 3]),
        Record::sleep(1000),
        Record::repeat(3, 300),
    ];
    let guest = start(&script, "storms");
    let (breaks, irqs) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut said = Vec::new();
    let death = std::thread::scope(|scope| {
        scope.spawn(|| {
            while (0..32).all(|irq| guest.irq(irq).is_ok()) {
                irqs.fetch_add(32, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        // Two threads hold it, so that some holds find the Guest held already.
        for pause in [50, 70] {
            let (guest, breaks) = (&guest, &breaks);
            scope.spawn(move || {
                while let Ok(hold) = guest.hold()
                    && hold.wait().is_ok()
                {
                    breaks.fetch_add(1, Ordering::Relaxed);
                    drop(hold);
                    std::thread::sleep(Duration::from_micros(pause));
                }
            });
        }
        loop {
            match guest.run().unwrap() {
                Exit::SendDma { dma, .. } => {
                    let list: Dma = guest.memory().read_object(dma).unwrap();
                    for (addr, len) in list.sections() {
                        let mut bytes = vec![0; len.into()];
                        guest.memory().read(addr, &mut bytes).unwrap();
                        said.extend(bytes);
                    }
                    guest.memory().write_last(dma, 4096).unwrap();
                }
                Exit::BindingsChanged
                | Exit::BuffersMayBeFree
                | Exit::Notify { .. }
                | Exit::Stopped(_)
                | Exit::WriteDevice { .. } => {}
                Exit::ReadDevice(_) => guest.answer(0),
                Exit::Held => guest.wait_until_let_go(),
                Exit::Dead(death) => break death,
            }
        }
    });
    let said = String::from_utf8_lossy(&said);
    assert_eq!(death, Death::PowerOff(0), "{said}");
    assert!(said.contains("survived 4 cases"), "{said}");
    let told = format!(
        ", {} breaks and {} interrupts",
        breaks.into_inner(),
        irqs.into_inner()
    );
    count("storms from outside", 2, 1, &told);
}
