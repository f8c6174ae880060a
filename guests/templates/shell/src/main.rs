//! A guest with a small shell. `help` lists its commands.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Kind};
use lg_guest::drivers::console::Console;
use lg_guest::line::Editor;
use lg_guest::{power, println, task, time};

lg_guest::entry!(main);

fn main(boot: &'static Boot) {
    task::spawn("shell", shell(boot)).expect("there is room for a task");
}

async fn shell(boot: &'static Boot) {
    let device = bus::first(boot, Kind::Console).expect("every machine has one");
    let console = device.start(Console::new).expect("it works");
    let mut editor = Editor::new();
    println!("A shell. Say help, or ^D to leave.");
    while let Ok(Some(line)) = console.line("> ", &mut editor).await {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["help"] => println!("echo, mem, sleep SECONDS, panic, exit"),
            ["echo", ref rest @ ..] => println!("{}", rest.join(" ")),
            ["mem"] => println!("{} MiB", boot.memory >> 20),
            ["sleep", seconds] => match seconds.parse::<u64>() {
                Ok(seconds) => time::sleep(seconds * 1_000_000_000).await,
                Err(error) => println!("{seconds}: {error}"),
            },
            ["panic"] => panic!("as you wish"),
            ["exit"] => break,
            _ => println!("{}: no such command", words[0]),
        }
    }
    println!("Goodbye.");
    power::off(0);
}
