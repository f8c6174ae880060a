//! Lesson 9: two kernels on a network.
//!
//! `cargo run -- listen` prints what it receives, and answers.
//! `cargo run -- say TEXT`, elsewhere, sends a text, and waits for an answer.

#![no_std]
#![no_main]

extern crate alloc;

use lesson09::exercise::answer;
use lesson09::{ALL, Message};
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Kind};
use lg_guest::drivers::net::Net;
use lg_guest::executor::first;
use lg_guest::{power, println, task, time};

lg_guest::entry!(main);

/// How often a text is sent, and how long each time it waits for an answer.
const TRIES: u32 = 20;
const PAUSE: u64 = 100 * time::MILLISECOND;

fn main(boot: &'static Boot) {
    let device = bus::first(boot, Kind::Net).expect("lguest.toml has one");
    let net = device.start(Net::new).expect("it works");
    let work = async move {
        match boot.arguments.text().strip_prefix("say ") {
            Some(text) => say(&net, text).await,
            None => listen(&net).await,
        }
        power::off(0);
    };
    task::spawn("network", work).expect("there is room for a task");
}

fn send(net: &Net, frame: &[u8]) {
    net.send(frame.len(), |room| room.copy_from_slice(frame));
}

/// Sends a text to all until there is an answer.
async fn say(net: &Net, text: &str) {
    for _ in 0..TRIES {
        let (to, from) = (ALL, net.mac());
        send(net, &Message { to, from, text }.frame());
        let seen = net.interrupts();
        first(net.interrupt_after(seen), time::sleep(PAUSE)).await;
        while let Some(frame) = net.receive(<[u8]>::to_vec) {
            if let Some(message) = Message::read(&frame) {
                return println!(
                    "{:x?} answers: {}",
                    message.from, message.text
                );
            }
        }
    }
    println!("No answer. (Exercise 9 makes one.)");
}

/// Prints what comes, and answers.
async fn listen(net: &Net) {
    println!("I am {:x?}, and listen.", net.mac());
    loop {
        let seen = net.interrupts();
        while let Some(frame) = net.receive(<[u8]>::to_vec) {
            if let Some(message) = Message::read(&frame) {
                println!("{:x?} says: {}", message.from, message.text);
            }
            if let Some(frame) = answer(net.mac(), &frame) {
                send(net, &frame);
            }
        }
        net.interrupt_after(seen).await;
    }
}
