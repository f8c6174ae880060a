//! Lesson 7: a kernel with a prompt.
//!
//! `help` lists its commands.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use lesson07::exercise::words;
use lesson07::{Answer, answer};
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
    let device =
        bus::first(boot, Kind::Console).expect("every machine has one");
    let console = device.start(Console::new).expect("it works");
    let mut editor = Editor::new();
    println!("A shell. Say help, or exit to leave.");
    while let Ok(Some(line)) = console.line("> ", &mut editor).await {
        let words = words(&line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match answer(boot, &words) {
            Answer::Text(text) => println!("{text}"),
            Answer::Sleep(nanoseconds) => time::sleep(nanoseconds).await,
            Answer::Nothing => {}
            Answer::Leave => break,
        }
    }
    power::off(0);
}
