//! Lists of sections, and copies between Guests and files.
//!
//! The oracle is a vector of bytes. Bytes from a file must be where the list
//! says, and nowhere else. Bytes to a file must be those of the memory.

use crate::guest::{LIMIT, address, file, guest, image, is_good, list};
use crate::input::Input;
use lg_abi::dma::Dma;
use lguest::engine::{Requests, Scripted};
use lguest::memory::{Section, total};
use lguest::transport::keys::dma::DmaSections;
use std::os::unix::fs::FileExt;

/// Copies in and out by one list.
///
/// # Panics
///
/// If a copy is wrong.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let guest = guest();
    let memory = guest.memory();
    while !input.is_empty() {
        let (at, mut dma) = (address(&mut input), list(&mut input));
        let placed = memory.write_object(at, &dma).is_ok();
        let fits = u64::from(at) + u64::from(Dma::SIZE) <= u64::from(LIMIT);
        assert_eq!(placed, fits, "{at:#x}");
        let found = DmaSections::read(memory.region(), at);
        assert_eq!(found.is_ok(), fits && is_good(&dma), "{at:#x} {dma:?}");
        let Ok(found) = found else { continue };
        let offset = u64::from(input.byte());
        if input.bit() {
            read(&guest, found.list(), offset, &mut dma, input.bytes(300));
        } else {
            write(&guest, found.list(), offset);
        }
    }
}

/// From a file into the Guest.
fn read(
    guest: &Scripted,
    found: &[Section],
    offset: u64,
    dma: &mut Dma,
    content: &[u8],
) {
    let mut expected = image(guest);
    let skipped = content.len().min(usize::try_from(offset).unwrap_or(0));
    let mut rest = &content[skipped..];
    let mut moved = 0;
    for (addr, len) in dma.sections() {
        let (part, more) = rest.split_at(rest.len().min(usize::from(len)));
        expected[addr as usize..][..part.len()].copy_from_slice(part);
        moved += part.len();
        rest = more;
    }
    let file = file(content);
    let got = guest.memory().read_file(&file, offset, found);
    assert_eq!(got.ok().map(|n| n as usize), Some(moved));
    assert!(image(guest) == expected, "a copy went to another place");
}

/// From the Guest into a file.
fn write(guest: &Scripted, found: &[Section], offset: u64) {
    let image = image(guest);
    let file = file(&[]);
    let got = guest.memory().write_file(&file, offset, found);
    assert_eq!(got.ok(), Some(total(found)));
    let mut written = vec![0; total(found) as usize];
    let whole = file.read_exact_at(&mut written, offset);
    whole.expect("all of it was written");
    let mut rest = written.as_slice();
    for section in found {
        let (part, more) = rest.split_at(section.len() as usize);
        assert_eq!(part, &image[section.addr() as usize..][..part.len()]);
        rest = more;
    }
}
