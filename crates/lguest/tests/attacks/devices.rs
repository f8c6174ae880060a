//! DMA lists and disk requests that break the rules.
//!
//! The result of each is known beforehand. A list of sections ends at its first
//! empty one. The first bad section decides, and the reason names it.

use crate::arena::{Arena, Boot, Stop, count};
use crate::script::Record;
use crate::sweep::Sweep;
use crate::target::{DISK, EMPTY, LIMIT};
use lg_abi::hypercall::Hypercall;

/// The address of the list, and of a page of zeros that it may name.
const LIST: u32 = EMPTY;
const ZEROS: u32 = EMPTY + 0x1000;

type Sections = Vec<(u32, u16)>;

/// The steps that write a list: `used_len`, addresses, lengths.
fn list(at: u32, used_len: u32, sections: &[(u32, u16)]) -> Vec<Record> {
    let mut bytes = used_len.to_le_bytes().to_vec();
    let padded = || {
        let none = std::iter::repeat(&(0, 0));
        sections.iter().chain(none).take(16)
    };
    bytes.extend(padded().flat_map(|(addr, _)| addr.to_le_bytes()));
    bytes.extend(padded().flat_map(|(_, len)| len.to_le_bytes()));
    let (first, second) = bytes.split_at(96);
    vec![Record::write(at, first), Record::write(at + 96, second)]
}

/// Lists on boundaries.
fn lists() -> Vec<Sections> {
    let mut lists: Vec<Sections> = Vec::new();
    let addresses = [
        0,
        ZEROS,
        ZEROS + 1,
        ZEROS + 0xFFF,
        LIMIT - 4096,
        LIMIT - 1,
        LIMIT,
        LIMIT + 1,
        0x7FFF_F000,
        0x8000_0000,
        0xC000_0000,
        0xFFFF_F000,
        0xFFFF_FFFF,
    ];
    for addr in addresses {
        for len in [1, 2, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0xFFFF] {
            lists.push(vec![(addr, len)]);
        }
    }
    // After good ones, at the end, and after the end.
    lists.push(vec![(ZEROS, 0x1000); 16]);
    lists.push(vec![(ZEROS, 16); 16]);
    let overlapping = (0..16).map(|n| (ZEROS + n * 8, 64)).collect();
    lists.push(overlapping);
    let mut last = vec![(ZEROS, 1); 15];
    last.push((LIMIT, 1));
    lists.push(last);
    lists.push(vec![(ZEROS, 1), (0, 0), (LIMIT, 1)]);
    lists.push(vec![(LIST, 100)]);
    lists.push(vec![(0, 0); 16]);
    lists
}

/// The reason for which a list is bad, if it is.
fn judge(sections: &[(u32, u16)]) -> Option<String> {
    let used = sections.iter().take_while(|(_, len)| *len != 0);
    let is_bad = |&&(addr, len): &&(u32, u16)| {
        let len = u32::from(len);
        addr % 4096 + len > 4096
            || addr.checked_add(len).is_none_or(|end| end > LIMIT)
    };
    used.filter(is_bad).map(bad_section).next()
}

fn bad_section(&(addr, len): &(u32, u16)) -> String {
    format!(
        "bad dma section {addr:#x}+{len:#x}: it must lie inside one page below \
         {LIMIT:#x}"
    )
}

fn send(key: u32) -> Record {
    Record::hypercall(Hypercall::SendDma as u32, [key, LIST, 0])
}

#[test]
fn lists_to_the_console() {
    let arena = Arena::new("lists");
    let (mut good, mut cases) = (Vec::new(), 0);
    for sections in lists() {
        let mut steps = list(LIST, 0, &sections);
        steps.push(send(0));
        let script = Record::case(steps);
        let Some(why) = judge(&sections) else {
            // The Guest's memory would be printed, so only empty lists are sent
            // here.
            if sections.iter().all(|(addr, _)| *addr >= EMPTY) {
                good.extend(script);
                cases += 1;
            }
            continue;
        };
        let end = arena.boot(&Boot {
            options: Vec::new(),
            line: "attack=script".into(),
            script: &script,
            stop: Stop::Never,
        });
        let said = end.reason().unwrap_or_default();
        let wanted = format!("killed: {why}");
        assert!(said.starts_with(&wanted), "wanted {why:?}: {end:?}");
        cases += 1;
    }
    let end = arena.boot(&Boot {
        options: Vec::new(),
        line: "attack=script quiet".into(),
        script: &good,
        stop: Stop::Never,
    });
    assert!(end.survived().is_some(), "{end:?}");
    count("DMA lists", cases, cases, "");
}

/// A request: kind, sector, bytes, and the sections that are bound or sent.
type Request = (u32, u32, u32, Sections);

fn requests() -> Vec<Request> {
    const SECTORS: u32 = 128; // of the arena's disk
    let page = |n: u32| vec![(ZEROS, 4096_u16); n as usize];
    let mut requests = Vec::new();
    for kind in [0, 1, 2, u32::MAX] {
        for sector in [
            0,
            1,
            SECTORS - 1,
            SECTORS,
            SECTORS + 1,
            0x7F_FFFF,
            0x80_0000,
            u32::MAX,
        ] {
            requests.push((kind, sector, 512, vec![(ZEROS, 512)]));
            requests.push((kind, sector, 4096, page(1)));
        }
        for bytes in [0, 1, 511, 512, 513, 4095, 4097, 65536, u32::MAX] {
            requests.push((kind, 0, bytes, page(1)));
            requests.push((kind, 0, bytes, vec![(ZEROS, 511)]));
            requests.push((kind, 0, bytes, Vec::new()));
        }
        requests.push((kind, 0, 65536, page(16)));
        requests.push((kind, 1, 65536, page(16)));
    }
    requests
}

/// The disk is read-only here, and the file must stay as it is.
#[test]
fn requests_to_a_disk() {
    let bytes = |sections: &[(u32, u16)]| -> u32 {
        sections.iter().map(|(_, len)| u32::from(*len)).sum()
    };
    let mut script = Vec::new();
    let mut wanted = Vec::new();
    let bind = |irq: u32| {
        let count_irq = 1 << 8 | irq;
        Record::hypercall(
            Hypercall::BindDma as u32,
            [DISK, LIST + 0x200, count_irq],
        )
    };
    let unbind = Record::hypercall(
        Hypercall::BindDma as u32,
        [DISK, LIST + 0x200, 1 << 8],
    );
    for (kind, sector, length, sections) in requests() {
        let mut steps = list(LIST, 0, &sections);
        steps.extend(list(LIST + 0x200, 0, &sections));
        let words = [kind, sector, length, 0];
        let words: Vec<u8> =
            words.iter().flat_map(|word| word.to_le_bytes()).collect();
        steps.push(Record::write(DISK, &words));
        steps.push(bind(2));
        steps.push(send(DISK));
        wanted.push((
            script.len() + steps.len(),
            kind == 0
                && u64::from(sector) * 512 + u64::from(length) <= 65536
                && bytes(&sections) == length,
        ));
        steps.push(Record::wait_while(DISK + 12, 0).shown());
        steps.push(unbind);
        script.extend(Record::case(steps));
    }
    let end = Arena::new("disk").boot(&Boot {
        options: Vec::new(),
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert_eq!(end.survived(), Some(wanted.len() as u64), "{end:?}");
    let results: Vec<_> = end.results().collect();
    assert_eq!(results.len(), wanted.len());
    for ((n, result), (m, works)) in results.iter().zip(&wanted) {
        assert_eq!(*n, *m as u64);
        assert_eq!(*result, if *works { "1" } else { "2" }, "step {n}");
    }
    count("disk requests", wanted.len() as u64, 1, "");
}

/// Two requests at a time, pages that are not the disk's, and buffers in the
/// page of the request itself.
#[test]
fn overlapping_disk_requests() {
    let mut script = Vec::new();
    let start = |kind: u32, length: u32| {
        let words = [kind, 0, length, 0];
        let words: Vec<u8> =
            words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Record::write(DISK, &words)
    };
    let bind = |array: u32, count_irq: u32| {
        Record::hypercall(Hypercall::BindDma as u32, [DISK, array, count_irq])
    };
    for sections in [
        vec![(DISK, 512)],
        vec![(DISK, 4096)],
        vec![(LIMIT - 8192, 4096)],
        vec![(LIST, 512)],
        vec![(LIMIT, 512)],
        vec![(ZEROS + 4000, 512)],
    ] {
        let length: u32 = sections.iter().map(|(_, len)| u32::from(*len)).sum();
        let mut steps = list(LIST, 0, &sections);
        steps.push(start(0, length));
        steps.push(bind(LIST, 0x102));
        steps.push(send(DISK));
        steps.push(send(DISK));
        steps.push(send(DISK + 4));
        script.extend(Record::case(steps));
    }
    for array in [0, LIMIT - 100, LIMIT - 99, LIMIT, u32::MAX - 99] {
        for count_irq in [0x102, 0xFFFF_FF02, 0x0002, 0x0111] {
            script.extend(Record::case([
                start(0, 512),
                bind(array, count_irq),
                send(DISK),
                Record::sleep(1_000_000),
                bind(array, count_irq & !0xFF),
            ]));
        }
    }
    // The page of descriptors is overwritten, and its device is set to busy.
    for word in [0, u32::MAX, 0x0008_0003, 0x8000_0001] {
        script.extend(Record::case([
            Record::fill(LIMIT - 8192, 48, word, 0x0101_0101),
            start(0, 512),
            send(DISK),
            Record::sleep(500_000),
        ]));
    }
    Sweep::new("overlapping disk requests", &script).run(&Arena::new("turn"));
}

/// Storms: of sends, of timers, of bindings.
#[test]
fn storms() {
    let call = |call: Hypercall, args| Record::hypercall(call as u32, args);
    let clock = |ns| call(Hypercall::SetClockevent, [ns, 0, 0]);
    let mut script = Vec::new();
    let (mut storms, mut calls) = (0, 0);
    let mut storm = |steps: Vec<Record>, times| {
        let len = steps.len() as u64;
        storms += 1;
        calls += len * (times + 1);
        script.extend(steps);
        script.push(Record::repeat(len, times));
    };
    storm(list(LIST, 0, &[]), 0);
    storm(vec![send(0x1000)], 20_000);
    storm(vec![send(0)], 20_000);
    storm(vec![Record::sleep(1)], 3000);
    storm(vec![clock(1), clock(u32::MAX)], 20_000);
    storm(vec![clock(1), Record::code(&[0x0F, 0x0B])], 3000);
    storm(
        vec![
            call(Hypercall::BindDma, [0x1000, 0x2000, 0x101]),
            call(Hypercall::BindDma, [0x1000, 0x2000, 0x100]),
        ],
        10_000,
    );
    storm(vec![clock(0)], 1);
    let end = Arena::new("storms").boot(&Boot {
        options: Vec::new(),
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert!(end.survived().is_some(), "{end:?}");
    count("storms", storms, 1, &format!(", {calls} calls"));
}
