//! A hostile Guest on a network with two others.
//!
//! They exchange frames before, during and after. While it runs it may block
//! their frames, and must not do any other harm.

use crate::arena::{Arena, Boot, Innocent, Stop, count};
use crate::script::Record;
use crate::sweep::REASONS;
use crate::target::{EMPTY, LIMIT};
use lg_abi::hypercall::Hypercall;
use std::ffi::OsString;

/// The page of the network: after the disk's.
const PAGE: u32 = LIMIT;

/// A list, and what it sends.
const LIST: u32 = EMPTY;
const FRAME: u32 = EMPTY + 0x1000;

/// Bytes of a slot.
const SLOT: u32 = 6;

fn send(to: u32) -> Record {
    let key = PAGE + 4 * to;
    Record::hypercall(Hypercall::SendDma as u32, [key, LIST, 0])
}

fn list(sections: &[(u32, u16)]) -> Vec<Record> {
    let mut steps = vec![Record::fill(LIST, 25, 0, 0)];
    for (n, &(addr, len)) in (0..).zip(sections) {
        steps.push(Record::fill(LIST + 4 + 4 * n, 1, addr, 0));
        let len = len.to_le_bytes();
        steps.push(Record::write(LIST + 68 + 2 * n, &len));
    }
    steps
}

/// All that a Guest can do to a network, as cases.
fn attacks() -> Vec<Vec<Record>> {
    let mut cases = Vec::new();
    // Frames of no bytes, of some, of too many, and from outside of memory.
    for sections in [
        vec![],
        vec![(FRAME, 1)],
        vec![(FRAME, 13)],
        vec![(FRAME, 14)],
        vec![(FRAME, 1514)],
        vec![(FRAME, 1515)],
        vec![(FRAME, 4096)],
        vec![(FRAME, 4096); 16],
    ] {
        for to in [0, 1, 2, 3, 7, 100, 681] {
            let mut steps = list(&sections);
            steps.push(send(to));
            cases.push(steps);
        }
    }
    // Storms of them, to both at once.
    for length in [60, 1514] {
        let mut steps = list(&[(FRAME, length)]);
        steps.extend([send(0), send(1)]);
        steps.push(Record::repeat(2, 3000));
        cases.push(steps);
    }
    // Another's address, another's promiscuous bit, and the broadcast address.
    let mac = |slot: u32, mac: [u8; 6]| Record::write(PAGE + SLOT * slot, &mac);
    for slot in 0..4 {
        cases.push(vec![mac(slot, [2, 0, 0, 1, 0, 0])]);
        cases.push(vec![mac(slot, [0xFF; 6])]);
        cases.push(vec![mac(slot, [3, 0, 0, 1, 0, 0])]);
        cases.push(vec![mac(slot, [0; 6])]);
    }
    cases.push(vec![Record::fill(PAGE, 1024, 0x1234_5678, 0x0102_0304)]);
    cases.push(vec![Record::fill(PAGE, 1024, u32::MAX, 0)]);
    cases.push(vec![Record::fill(PAGE, 1024, 0, 0)]);
    // Keys of other Guests, bound here.
    for slot in 0..4 {
        for array in [LIST, LIMIT - 8, 0xFFFF_FF00] {
            let key = PAGE + 4 * slot;
            let bind = Hypercall::BindDma as u32;
            cases.push(vec![
                Record::hypercall(bind, [key, array, 0x0803]),
                Record::sleep(2_000_000),
            ]);
        }
    }
    cases
}

#[test]
fn with_innocent_guests() {
    let arena = Arena::new("lan");
    let file = arena.file("lan", &[0; 4096]);
    let mut net = OsString::from("--net=sharenet=");
    net.push(&file);
    let mut one = Innocent::new(std::slice::from_ref(&net));
    let mut other = Innocent::new(std::slice::from_ref(&net));
    let (first, second) = (macs(&file)[0], macs(&file)[1]);
    assert!(first != [0; 6] && second != [0; 6], "both have addresses");
    other.pings(1);
    let (mut cases, mut boots) = (0, 0);
    let all = attacks();
    // Each kind by itself, and then all that it survives in one boot.
    let deadly = |steps: &Vec<Record>| steps.len() == 2;
    for steps in all.iter().filter(|steps| deadly(steps)) {
        let end = arena.boot(&Boot {
            options: vec![net.clone()],
            line: "attack=script quiet".into(),
            script: &Record::case(steps.iter().copied()),
            stop: Stop::Signal,
        });
        let said = end.reason();
        assert!(
            end.survived().is_some()
                || said.is_some_and(|said| {
                    REASONS.iter().any(|r| said.starts_with(r))
                }),
            "{end:?}"
        );
        cases += 1;
        boots += 1;
    }
    let rest: Vec<Record> = all
        .iter()
        .filter(|steps| !deadly(steps))
        .flat_map(|steps| Record::case(steps.iter().copied()))
        .collect();
    let end = arena.boot(&Boot {
        options: vec![net.clone()],
        line: "attack=script quiet".into(),
        script: &rest,
        stop: Stop::Never,
    });
    cases += end.survived().unwrap_or_else(|| panic!("{end:?}"));
    boots += 1;
    // They still run, and with their addresses back they exchange frames.
    one.answers();
    other.answers();
    let mut page = std::fs::read(&file).unwrap();
    page[..6].copy_from_slice(&first);
    page[6..12].copy_from_slice(&second);
    page[12..].fill(0);
    put_back(&file, &page);
    one.pings(2);
    other.pings(1);
    count("a network with others", cases, boots, "");
}

fn macs(file: &std::path::Path) -> [[u8; 6]; 2] {
    let page = std::fs::read(file).unwrap();
    [0, 6].map(|at| page[at..at + 6].try_into().unwrap())
}

/// Writes without making the file shorter, which would end its users.
fn put_back(file: &std::path::Path, page: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(page, 0).unwrap();
}
