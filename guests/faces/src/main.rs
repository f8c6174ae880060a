//! The kit by the traits of other crates: `log`, `embedded-io`, `embassy-time`.
//!
//! It asks for a name on the console, and waits for several things at a time. A
//! test runs it, and compares what it prints.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use embassy_time::{Duration, Instant, Timer, with_timeout};
use embedded_io::{ReadReady, Write};
use embedded_io_async::Read;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Kind};
use lg_guest::drivers::console::{Console, Output};
use lg_guest::{logger, power, task, time};
use log::LevelFilter;

lg_guest::entry!(main, any);

fn main(boot: &'static Boot) {
    logger::init(LevelFilter::Info);
    task::spawn("faces", faces(boot)).expect("there is room for a task");
}

async fn faces(boot: &'static Boot) {
    let device =
        bus::first(boot, Kind::Console).expect("every machine has one");
    let mut console = device.start(Console::new).expect("it works");
    let mut output = Output;
    log::info!("the console is there");
    log::debug!("the level is too low for this");

    greet(&mut console, &mut output).await;
    go_on(&mut console, &mut output);
    timers(&mut console, &mut output).await;
    several(&mut output).await;
    power::off(0);
}

/// Asks for a name. It knows the traits only.
async fn greet(input: &mut impl Read, output: &mut impl Write) {
    write!(output, "Your name? ").expect("it prints");
    output.flush().expect("it prints");
    let mut name = Vec::new();
    loop {
        let mut byte = [0];
        let read = input.read(&mut byte).await.expect("the console is there");
        match byte[0] {
            b'\r' | b'\n' => break,
            byte => name.extend((read > 0).then_some(byte)),
        }
    }
    let name = String::from_utf8_lossy(&name);
    writeln!(output, "Hello, {name}.").expect("it prints");
}

/// Reads without await what was typed ahead.
fn go_on(
    input: &mut (impl embedded_io::Read + ReadReady),
    output: &mut impl Write,
) {
    let mut byte = [0];
    input.read_exact(&mut byte).expect("a byte is there");
    let byte = char::from(byte[0]);
    let more = input.read_ready().expect("the console is there");
    writeln!(output, "then {byte:?}, more: {more}").expect("it prints");
    let mut rest = [0; 8];
    let read = input.read(&mut rest).expect("the console is there");
    let rest = String::from_utf8_lossy(&rest[..read]);
    writeln!(output, "and {rest}").expect("it prints");
}

/// Waits by the timers of embassy.
async fn timers(input: &mut Console, output: &mut impl Write) {
    let before = Instant::now();
    Timer::after(Duration::from_millis(5)).await;
    let waited = before.elapsed() >= Duration::from_millis(5);
    let mut byte = [0];
    let read = Read::read(input, &mut byte);
    let late = with_timeout(Duration::from_millis(1), read).await.is_err();
    writeln!(output, "waited: {waited}, timed out: {late}").expect("it prints");
}

/// Waits in a collection of futures, which has a waker for each.
async fn several(output: &mut impl Write) {
    let wait = async |milliseconds: u64| {
        time::sleep(milliseconds * time::MILLISECOND).await;
        milliseconds
    };
    let mut all: FuturesUnordered<_> =
        [3, 1, 2].map(wait).into_iter().collect();
    let mut ended = Vec::new();
    while let Some(milliseconds) = all.next().await {
        ended.push(milliseconds);
    }
    ended.sort_unstable(); // where the machine is busy, several end at a time
    writeln!(output, "ended: {ended:?}").expect("it prints");
}
