//! The tables of `docs/abi.md` agree with the types of this crate.
//!
//! Every row is compared with a type, and every type has its row. So neither
//! can be changed alone.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong so")]

use lg_abi::device::{self, BlockPage, DeviceDescriptor, Net};
use lg_abi::dma::{self, Dma};
use lg_abi::gen2;
use lg_abi::gen3::request as later;
use lg_abi::hypercall::{self, Hypercall};
use lg_abi::layout::{Field, Layout, NoIrq};
use lg_abi::request;
use lg_abi::segment;
use lg_abi::shared::{self, IDT_ENTRIES, LguestData};
use std::collections::BTreeSet;
use std::mem::offset_of;

const DOCUMENT: &str = include_str!("../../../docs/abi.md");

/// The cells of each row whose first cell starts with a backtick or a digit.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    DOCUMENT.lines().filter_map(|line| {
        let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<_> = row
            .split(" | ")
            .map(|cell| cell.trim_matches('`'))
            .collect();
        let first = row.chars().next()?;
        (first == '`' || first.is_ascii_digit()).then_some(cells)
    })
}

/// The first `columns` cells of the rows that have `cells` cells.
fn table(cells: usize, columns: usize) -> BTreeSet<String> {
    rows()
        .filter(|row| row.len() == cells)
        .map(|row| row[..columns].join(" "))
        .collect()
}

/// "structure field offset bytes" of a field; the document may call it by
/// another name.
macro_rules! field {
    ($name:literal, $type:ty, $field:ident, $called:expr) => {{
        fn size<S, T>(_: impl Fn(&S) -> &T) -> usize {
            size_of::<T>()
        }
        let at = offset_of!($type, $field);
        let bytes = size(|it: &$type| &it.$field);
        format!("{} {} {at} {bytes}", $name, $called)
    }};
    ($name:literal, $type:ty, $field:ident) => {
        field!($name, $type, $field, stringify!($field))
    };
}

#[test]
fn fields_are_where_the_document_says() {
    let fields = [
        field!("lguest_dma", Dma, used_len),
        field!("lguest_dma", Dma, addr),
        field!("lguest_dma", Dma, len),
        field!("lguest_device_desc", DeviceDescriptor, kind, "type"),
        field!("lguest_device_desc", DeviceDescriptor, features),
        field!("lguest_device_desc", DeviceDescriptor, status),
        field!("lguest_device_desc", DeviceDescriptor, num_pages),
        field!("lguest_device_desc", DeviceDescriptor, pfn),
        field!("lguest_block_page", BlockPage, kind, "type"),
        field!("lguest_block_page", BlockPage, sector),
        field!("lguest_block_page", BlockPage, bytes),
        field!("lguest_block_page", BlockPage, result),
        field!("lguest_block_page", BlockPage, num_sectors),
        field!("lguest_net", Net, mac),
        field!("lguest_data", LguestData, irq_enabled),
        field!("lguest_data", LguestData, blocked_interrupts),
        field!("lguest_data", LguestData, cr2),
        field!("lguest_data", LguestData, time_sec),
        field!("lguest_data", LguestData, time_nsec),
        field!("lguest_data", LguestData, hcall_status),
        field!("lguest_data", LguestData, hcalls),
        field!("lguest_data", LguestData, reserve_mem),
        field!("lguest_data", LguestData, guestid),
        field!("lguest_data", LguestData, tsc_khz),
        field!("lguest_data", LguestData, noirq_start),
        field!("lguest_data", LguestData, noirq_end),
    ];
    assert_eq!(table(5, 4), BTreeSet::from(fields));
}

#[test]
fn hypercalls_have_the_numbers_of_the_document() {
    let calls = Hypercall::ALL
        .iter()
        .map(|call| format!("{} {}", *call as u32, call.name()));
    assert_eq!(table(3, 2), calls.collect());
}

#[test]
fn later_hypercalls_have_the_numbers_and_releases_of_the_document() {
    let mut told = BTreeSet::new();
    for number in 0..gen2::SPANS[0].interface.calls.len() {
        let names = gen2::SPANS.map(|span| span.interface.calls[number]);
        let mut at = 0;
        while at < names.len() {
            let first = at;
            while at < names.len() && names[at] == names[first] {
                at += 1;
            }
            let Some(name) = names[first] else { continue };
            let (first, last) = (&gen2::SPANS[first], &gen2::SPANS[at - 1]);
            let (text, first, last) = (name.text(), first.first, last.last);
            told.insert(format!("{number} {text} {first} {last}"));
        }
    }
    assert_eq!(table(4, 4), told);
}

#[test]
fn later_fields_are_where_the_document_says() {
    let [old, _, _, with_pgdir, last] =
        gen2::SPANS.map(|span| span.interface.layout);
    let row = |name: &str, field: &dyn Fn(&Layout) -> Option<Field>| {
        let at = |layout| match field(layout) {
            Some(field) => field.offset().to_string(),
            None => "-".to_string(),
        };
        let (old, with, last) = (at(&old), at(&with_pgdir), at(&last));
        format!("lguest_data {name} {old} {with} {last}")
    };
    let noirq = |layout: &Layout| match layout.noirq {
        NoIrq::Range(start, end) => (start, end),
        NoIrq::Iret(_) => panic!("generation 3 has this"),
    };
    let told = [
        row("irq_enabled", &|l| Some(l.irq_enabled)),
        row("blocked_interrupts", &|l| Some(l.blocked_interrupts)),
        row("cr2", &|l| Some(l.cr2)),
        row("time_sec", &|l| Some(l.time_sec)),
        row("time_nsec", &|l| Some(l.time_nsec)),
        row("irq_pending", &|l| l.irq_pending),
        row("hcall_status", &|l| Some(l.hcall_status)),
        row("hcalls", &|l| Some(l.hcalls)),
        row("reserve_mem", &|l| Some(l.reserve_mem)),
        row("tsc_khz", &|l| Some(l.tsc_khz)),
        row("pgdir", &|l| l.pgdir),
        row("noirq_start", &|l| Some(noirq(l).0)),
        row("noirq_end", &|l| Some(noirq(l).1)),
        row("kernel_address", &|l| l.kernel_address),
        row("syscall_vec", &|l| l.syscall_vec),
    ];
    assert_eq!(table(6, 5), BTreeSet::from(told));
    assert_eq!([old.size, with_pgdir.size, last.size], [1136, 1396, 1392]);
}

/// "name value" of constants, in decimal.
macro_rules! constants {
    ($($path:ident :: $name:ident),* $(,)?) => {
        [$((stringify!($name), u64::try_from($path::$name).unwrap())),*]
    };
}

#[test]
fn constants_have_the_values_of_the_document() {
    let known = constants![
        dma::LGUEST_MAX_DMA,
        dma::LGUEST_MAX_DMA_SECTIONS,
        device::LGUEST_MAX_DEVICES,
        shared::LGUEST_IRQS,
        shared::LHCALL_RING_SIZE,
        device::NET_SLOTS,
        device::NET_FRAME_MAX,
        hypercall::CRASH_MESSAGE_MAX,
        segment::GDT_ENTRIES,
        hypercall::HYPERCALL_VECTOR,
        shared::SYSCALL_VECTOR,
        shared::FIRST_EXTERNAL_VECTOR,
        device::LGUEST_DEVICE_T_CONSOLE,
        device::LGUEST_DEVICE_T_NET,
        device::LGUEST_DEVICE_T_BLOCK,
        device::LGUEST_NET_F_NOCSUM,
        device::LGUEST_DEVICE_F_RANDOMNESS,
        device::LGUEST_DEVICE_S_ACKNOWLEDGE,
        device::LGUEST_DEVICE_S_DRIVER,
        device::LGUEST_DEVICE_S_DRIVER_OK,
        device::LGUEST_DEVICE_S_REMOVED,
        device::LGUEST_DEVICE_S_REMOVED_ACK,
        device::LGUEST_DEVICE_S_FAILED,
        request::LHREQ_INITIALIZE,
        request::LHREQ_GETDMA,
        request::LHREQ_IRQ,
        request::LHREQ_BREAK,
        later::LHREQ_GETREG,
        later::LHREQ_SETREG,
        later::LHREQ_TRAP,
    ];
    let mut known: BTreeSet<(&str, u64)> = known.into();
    known.insert(("IDT_ENTRIES", IDT_ENTRIES as u64));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    };
    let told = rows().filter(|row| row.len() == 2);
    let told = told.map(|row| (row[0], number(row[1])));
    assert_eq!(told.collect::<BTreeSet<_>>(), known);
}
