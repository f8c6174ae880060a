//! The bits that say in which pieces of 4 MiB anything is.

use crate::address::{GuestPhys, GuestVirt};
use crate::paging::ShadowPte;
use crate::paging::record::UNKNOWN;
use crate::testing::record;
use crate::world::Access;
use proptest::prelude::*;
use std::vec::Vec;

#[derive(Clone, Copy, Debug)]
enum Step {
    Map { page: u32 },
    Hide { page: u32 },
    Forget { page: u32, pages: u32 },
    Linear { index: u32, pages: u32 },
    Clear { index: u32, pieces: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    // Around the boundaries of words, and at both ends.
    let index = prop_oneof![0..3_u32, 62..66_u32, 1021..1024_u32];
    let page = (index.clone(), prop_oneof![0..3_u32, 1021..1024_u32])
        .prop_map(|(index, page)| index << 10 | page);
    prop_oneof![
        page.clone().prop_map(|page| Step::Map { page }),
        page.clone().prop_map(|page| Step::Hide { page }),
        (page, 1..5000_u32).prop_map(|(page, pages)| Step::Forget {
            page,
            pages: pages.min((1 << 20) - page)
        }),
        (index.clone(), 0..1025_u32)
            .prop_map(|(index, pages)| Step::Linear { index, pages }),
        (index, 1..70_u32).prop_map(|(index, pieces)| Step::Clear {
            index,
            pieces: pieces.min(1024 - index)
        }),
    ]
}

proptest! {
    #[test]
    fn a_search_finds_exactly_the_pieces_in_which_anything_is(
        steps in proptest::collection::vec(step(), 1..30),
        ends in (0..1024_u32, 0..1025_u32),
    ) {
        let mut record = record();
        for step in steps {
            match step {
                Step::Map { page } => {
                    let frame = GuestPhys(0x5000);
                    let shadow = ShadowPte::of(frame, Access::Read);
                    record.set_shadow(GuestVirt(page << 12), shadow);
                    // The view has compared it.
                    record.set_tables_of(page >> 10, [0x1067, 0]);
                }
                Step::Hide { page } => {
                    let va = GuestVirt(page << 12);
                    let shadow = record.shadow(va);
                    if shadow.is_mapped() {
                        record.set_shadow(va, shadow.hidden());
                    }
                }
                Step::Forget { page, pages } => {
                    record.forget(page, page + pages);
                }
                Step::Linear { index, pages } => {
                    record.set_linear(index, pages);
                }
                Step::Clear { index, pieces } => {
                    record.clear_record(index, index + pieces);
                }
            }
            let mapped = |&index: &u32| {
                record.count(index) | record.linear_pages(index) != 0
            };
            let used =
                |index: &u32| mapped(index) || record.hides_some(*index);
            let (from, to) = ends;
            let expected: Vec<u32> = (from..to).filter(used).collect();
            let mut found = Vec::new();
            let mut next = from;
            while let Some(index) = record.next_piece(next, to) {
                found.push(index);
                next = index + 1;
            }
            prop_assert_eq!(found, expected);
            let empty = (0..1024).filter(|index| !mapped(index));
            for index in empty {
                prop_assert_eq!(record.tables_of(index), UNKNOWN);
            }
        }
    }
}
