//! The shell: a prompt, a line, a command.
//!
//! Commands are futures. While one runs, ^C drops it. Input that is typed
//! meanwhile waits, so a whole script can be piped in.

use crate::machine::Machine;
use crate::{bench, files, network, system};
use alloc::string::String;
use alloc::vec::Vec;
use lg_guest::executor::{Either, first};
use lg_guest::line::{Editor, Outcome};
use lg_guest::{print, println};

const PROMPT: &str = "lguest> ";

/// A sentence that says why a command has failed.
pub(crate) type Failure = String;

/// Every command: name, arguments, and a description.
pub(crate) const COMMANDS: &[(&str, &str, &str)] = &[
    ("help", "", "this list"),
    ("devices", "", "what is on the bus"),
    ("mem", "", "memory: the map, frames, heap"),
    ("tasks", "", "the kernel's tasks"),
    ("uptime", "", "time since boot, and the time of day"),
    ("ls", "[PATH]", "list a directory of the first disk (ext2)"),
    ("cat", "PATH", "print a file of the first disk"),
    (
        "dd",
        "SECTOR COUNT yes",
        "write sectors of the first disk, read them back",
    ),
    ("random", "", "some random numbers of the Launcher"),
    ("net", "", "addresses on the network"),
    (
        "ping",
        "A.B.C.D [COUNT]",
        "send pings, and count the answers",
    ),
    ("listen", "PORT", "wait for a TCP connection, then talk"),
    (
        "connect",
        "A.B.C.D PORT",
        "open a TCP connection, then talk",
    ),
    ("tcp-serve", "[PORT]", "receive a stream, and say how fast"),
    (
        "tcp-send",
        "A.B.C.D MB [PORT]",
        "send a stream to a tcp-serve",
    ),
    (
        "run",
        "PROGRAM [NUMBER]",
        "a user program; without one, their names",
    ),
    ("bench", "", "cost of operations on this machine"),
    ("peek", "ADDRESS", "a byte of memory, or the page fault"),
    ("echo", "[WORDS]", "print them"),
    ("panic", "[WORDS]", "end the Guest in a panic"),
    ("poweroff", "[CODE]", "end the Guest"),
];

/// Reads and runs commands until the power is off.
pub(crate) async fn run(machine: &'static Machine) {
    let Some(console) = &machine.console else {
        return; // there is no input
    };
    let mut editor = Editor::new();
    prompt();
    loop {
        let Ok(key) = console.read().await else {
            return println!("the console is gone");
        };
        let mut show = Vec::new();
        let outcome = editor.key(key, &mut show);
        print::print_bytes(&show);
        match outcome {
            Outcome::More => print::flush(),
            Outcome::Line(line) => {
                execute(machine, &line).await;
                prompt();
            }
            Outcome::Interrupt => prompt(),
            Outcome::End => lg_guest::power::off(0),
        }
    }
}

fn prompt() {
    print!("{PROMPT}");
    print::flush();
}

/// Runs one command line. ^C stops it.
pub(crate) async fn execute(machine: &'static Machine, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((&name, arguments)) = words.split_first() else {
        return;
    };
    print::flush();
    let command = dispatch(machine, name, arguments);
    let result = match &machine.console {
        None => command.await,
        Some(console) => match first(command, console.interrupted()).await {
            Either::Left(result) => result,
            Either::Right(_) => Err("^C".into()),
        },
    };
    if let Err(failure) = result {
        println!("{name}: {failure}");
    }
}

async fn dispatch(
    machine: &'static Machine,
    name: &str,
    arguments: &[&str],
) -> Result<(), Failure> {
    match (name, arguments) {
        ("help", _) => system::help(),
        ("devices", _) => system::devices(machine),
        ("mem", _) => system::memory(machine),
        ("tasks", _) => system::tasks(),
        ("uptime", _) => system::uptime(),
        ("peek", [address]) => system::peek(address)?,
        ("echo", words) => println!("{}", words.join(" ")),
        ("panic", words) => panic!("{}", words.join(" ")),
        ("poweroff", code) => system::power_off(code)?,
        ("run", words) => system::run(words).await?,

        ("ls", []) => files::list(machine, "/")?,
        ("ls", [path]) => files::list(machine, path)?,
        ("cat", [path]) => files::print(machine, path)?,
        ("dd", [sector, count, "yes"]) => {
            files::write_and_read_back(machine, sector, count).await?;
        }

        ("random", _) => system::random(machine).await?,
        ("net", _) => network::show(machine)?,
        ("ping", [to]) => network::ping(machine, to, "4").await?,
        ("ping", [to, count]) => network::ping(machine, to, count).await?,
        ("listen", [port]) => network::listen(machine, port).await?,
        ("connect", [to, port]) => {
            network::connect(machine, to, port).await?;
        }
        ("tcp-serve", []) => network::serve(machine, "5001").await?,
        ("tcp-serve", [port]) => network::serve(machine, port).await?,
        ("tcp-send", [to, mb]) => {
            network::send(machine, to, mb, "5001").await?;
        }
        ("tcp-send", [to, mb, port]) => {
            network::send(machine, to, mb, port).await?;
        }

        ("bench", _) => bench::run().await,

        _ => return Err(usage(name)),
    }
    Ok(())
}

/// The message for a wrong command.
fn usage(name: &str) -> Failure {
    match COMMANDS.iter().find(|command| command.0 == name) {
        Some((name, arguments, _)) => {
            alloc::format!("usage: {name} {arguments}")
        }
        None => "no such command; try help".into(),
    }
}

/// A number on the command line.
pub(crate) fn number<T: TryFrom<u64>>(text: &str) -> Result<T, Failure> {
    lg_guest::command_line::number(text)
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| alloc::format!("{text} is not a number for this"))
}
