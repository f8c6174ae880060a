//! Lesson 8: a kernel that keeps notes.
//!
//! `cargo run -- add TEXT` writes one, `cargo run -- done 3` frees sector 3,
//! and all are printed.

#![no_std]
#![no_main]

use lesson08::{add, disk, notes, write};
use lg_guest::boot::Boot;
use lg_guest::drivers::disk::DiskError;
use lg_guest::{power, println, task};

lg_guest::entry!(main);

fn main(boot: &'static Boot) {
    let work = async {
        match change_and_list(boot).await {
            Ok(()) => power::off(0),
            Err(error) => panic!("{error}"),
        }
    };
    task::spawn("notes", work).expect("there is room for a task");
}

async fn change_and_list(boot: &Boot) -> Result<(), DiskError> {
    let disk = disk(boot);
    let line = boot.arguments.text();
    if let Some(note) = line.strip_prefix("add ") {
        if add(&disk, note).await?.is_none() {
            println!("The disk is full.");
        }
    }
    if let Some(sector) = line.strip_prefix("done ") {
        match sector.parse() {
            Ok(sector) => write(&disk, sector, "").await?,
            Err(error) => println!("{sector}: {error}"),
        }
    }
    for (sector, note) in notes(&disk).await? {
        println!("{sector}: {note}");
    }
    Ok(())
}
