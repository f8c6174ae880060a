//! Hypercalls with every argument that lies on a boundary.
//!
//! The result of each is known beforehand, from the promises of the interface.
//! Calls that the Guest survives are made in one boot, one after the other.
//! Each of the others needs a boot of its own, and the reason must be exactly
//! the promised one.

use crate::arena::{Arena, Boot, Stop, count};
use crate::script::Record;
use crate::sweep::{REASONS, Sweep, all};
use crate::target::{EMPTY, LIMIT};
use lg_abi::dma::LGUEST_MAX_DMA;
use lg_abi::hypercall::Hypercall;

/// Values on boundaries, and beside them.
const VALUES: &[u32] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    31,
    32,
    33,
    0xFF,
    0x100,
    0xFFF,
    0x1000,
    EMPTY,
    EMPTY + 1,
    EMPTY + 4,
    EMPTY + 0xFFC,
    LIMIT - 4096,
    LIMIT - 101,
    LIMIT - 100,
    LIMIT - 99,
    LIMIT - 4,
    LIMIT - 1,
    LIMIT,
    LIMIT + 1,
    LIMIT + 4,
    0x7FFF_FFFF,
    0x8000_0000,
    0xC000_0000,
    0xFFC0_0000,
    0xFFFF_F000,
    0xFFFF_FFFC,
    0xFFFF_FFFF,
];

/// Numbers of no hypercall.
const NUMBERS: &[u32] = &[11, 17, 18, 63, 64, 255, 256, 1 << 31, u32::MAX];

/// The promise for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// The Guest goes on, and eax is this, if there is a result.
    Lives(Option<u32>),
    /// The Guest ends with this message.
    Dies(String),
    /// It depends on the contents of memory.
    Depends,
}

/// The part of the state after the calls so far that decides results.
#[derive(Default)]
struct Known {
    bound: Vec<(u32, u32)>,
}

impl Known {
    fn fate(&mut self, nr: u32, [edx, ebx, ecx]: [u32; 3]) -> Fate {
        use Hypercall as H;
        let dies = |why: String| Fate::Dies(format!("killed: {why}"));
        let lives = Fate::Lives(None);
        let is_there = |at: u32, len: u32| {
            at.checked_add(len).is_some_and(|end| end <= LIMIT)
        };
        let bad = |at: u32, len: u32| {
            dies(format!("bad physical address {at:#x} (length {len})"))
        };
        let unaligned =
            || dies(format!("DMA key {edx:#x} is not a multiple of 4"));
        let Some(call) = H::from_number(nr) else {
            return dies(format!("bad hypercall {nr}"));
        };
        match call {
            H::FlushAsync | H::FlushTlb | H::Ts | H::SetClockevent => lives,
            H::Init => dies("LGUEST_INIT a second time".into()),
            H::Crash if !is_there(edx, 1) => bad(edx, 1),
            H::Crash if (EMPTY..EMPTY + 4096).contains(&edx) => {
                Fate::Dies("CRASH:".into())
            }
            H::LoadGdt if ebx > 32 => {
                dies(format!("too many GDT entries: {ebx}"))
            }
            H::LoadGdt if !is_there(edx, ebx * 8) => bad(edx, ebx * 8),
            H::LoadTls if !is_there(edx, 24) => bad(edx, 24),
            H::LoadGdt | H::LoadTls => lives,
            H::NewPgtable if !is_there(edx, 4096) => bad(edx, 4096),
            H::LoadIdtEntry => {
                let ignored = [2, 8, 15, 31].contains(&edx);
                let known = edx < 64 && !ignored || edx == 0x80;
                let kind = ecx >> 8 & 0x1F;
                let present = ecx & 0x8000 != 0;
                if known && present && kind != 0xE && kind != 0xF {
                    dies(format!("bad IDT gate type {kind:#x}"))
                } else {
                    lives
                }
            }
            H::SetStack if edx & 3 != 1 => {
                dies(format!("bad stack segment {edx:#x}"))
            }
            H::SetStack if ecx > 2 => dies(format!("bad stack pages {ecx}")),
            H::SetStack => lives,
            H::BindDma if edx % 4 != 0 => unaligned(),
            H::BindDma if !is_there(edx, 4) => {
                dies(format!("bad DMA key {edx:#x}"))
            }
            H::BindDma => Fate::Lives(Some(self.bind(edx, ebx, ecx).into())),
            H::SendDma if edx % 4 != 0 => unaligned(),
            H::SendDma if !is_there(edx, 4) => bad(edx, 4),
            H::SendDma if !is_there(ebx, 100) => bad(ebx, 100),
            H::SetPte => {
                let present = ecx & 1 != 0;
                let used = ecx & 0x60 != 0;
                let cannot_be = ecx & 0x88 != 0 || ecx >> 12 >= LIMIT >> 12;
                if present && used && cannot_be {
                    dies(format!("bad page table entry {ecx:#x}"))
                } else if present && ebx >= 0xFFC0_0000 {
                    dies(format!("touched the switcher at {ebx:#x} from "))
                } else {
                    lives
                }
            }
            H::SetPmd => lives,
            // It would sleep for ever.
            H::Halt => Fate::Depends,
            H::Crash | H::NewPgtable | H::SendDma => Fate::Depends,
        }
    }

    fn bind(&mut self, key: u32, dmas: u32, word: u32) -> bool {
        let irq = word & 0xFF;
        if irq == 0 {
            let found = self.bound.iter().position(|b| *b == (key, dmas));
            return found.map(|at| self.bound.remove(at)).is_some();
        }
        let fits = irq < 32 && self.bound.len() < LGUEST_MAX_DMA;
        if fits {
            self.bound.push((key, dmas));
        }
        fits
    }
}

/// Every call with every value in every argument that it has.
fn every_call() -> Vec<(u32, [u32; 3])> {
    use Hypercall as H;
    let one: &[u32] = &[0];
    let mut calls = Vec::new();
    for &call in H::ALL {
        let [a, b, c] = match call {
            H::FlushAsync | H::Init | H::Halt => [one, one, one],
            H::Crash
            | H::NewPgtable
            | H::FlushTlb
            | H::Ts
            | H::SetClockevent
            | H::LoadTls => [VALUES, one, one],
            H::LoadGdt | H::SendDma | H::SetPmd => [VALUES, VALUES, one],
            H::LoadIdtEntry | H::SetStack | H::BindDma | H::SetPte => {
                [VALUES, VALUES, VALUES]
            }
        };
        for &edx in a {
            for &ebx in b {
                for &ecx in c {
                    calls.push((call as u32, [edx, ebx, ecx]));
                }
            }
        }
    }
    // Flags of entries and gates. The values above have few of them.
    for high in (0..0x1_0000).step_by(0x100) {
        calls.push((H::LoadIdtEntry as u32, [40, 0x61_0000, high]));
    }
    for flags in 0..0x200 {
        for frame in [0, EMPTY, LIMIT - 4096, LIMIT & !4095] {
            let set = [EMPTY, 0xBFFF_F000, frame | flags];
            calls.push((H::SetPte as u32, set));
        }
    }
    for &nr in NUMBERS {
        calls.push((nr, [0, 1, 2]));
    }
    calls
}

#[test]
fn that_it_survives() {
    let mut known = Known::default();
    let mut script = Vec::new();
    let mut wanted = Vec::new();
    for (nr, args) in every_call() {
        if let Fate::Lives(result) = known.fate(nr, args) {
            if let Some(result) = result {
                wanted.push((script.len() as u64, format!("{result:x}")));
                script.push(Record::hypercall(nr, args).shown());
            } else {
                script.push(Record::hypercall(nr, args));
            }
        }
    }
    let end = Arena::new("survived").boot(&Boot {
        options: Vec::new(),
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert_eq!(end.survived(), Some(script.len() as u64), "{end:?}");
    let results: Vec<_> = end
        .results()
        .map(|(n, text)| (n, text.to_owned()))
        .collect();
    assert_eq!(results.len(), wanted.len());
    for (found, wanted) in results.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    count("hypercalls that it survives", script.len() as u64, 1, "");
}

#[test]
fn that_end_the_guest() {
    let arena = Arena::new("died");
    let mut known = Known::default();
    let deadly: Vec<_> = every_call()
        .into_iter()
        .filter_map(|(nr, args)| match known.fate(nr, args) {
            Fate::Dies(why) => Some((nr, args, why)),
            _ => None,
        })
        .collect();
    let step = if all() { 1 } else { (deadly.len() / 400) | 1 };
    let mut cases = 0;
    for (nr, args, why) in deadly.iter().step_by(step) {
        let end = arena.boot(&Boot {
            options: Vec::new(),
            line: "attack=script".into(),
            script: &[Record::hypercall(*nr, *args)],
            stop: Stop::Never,
        });
        let said = end.reason().unwrap_or_default();
        assert!(
            end.code == 1 && said.starts_with(why),
            "{nr} {args:x?}: wanted {why:?}: {end:?}"
        );
        cases += 1;
    }
    count("hypercalls that end it", cases, cases, "");
}

/// Calls that depend on memory: messages of CRASH, page directories, sends.
#[test]
fn that_depend_on_memory() {
    let mut known = Known::default();
    let script: Vec<Record> = every_call()
        .into_iter()
        .filter(|&(nr, args)| known.fate(nr, args) == Fate::Depends)
        .map(|(nr, args)| Record::hypercall(nr, args))
        .collect();
    assert!(REASONS.contains(&"CRASH: "));
    Sweep::new("hypercalls that depend on memory", &script)
        .run(&Arena::new("depends"));
}
