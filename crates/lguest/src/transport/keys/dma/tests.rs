//! Lists of sections, good and bad.

use super::*;
use lg_abi::page::PAGE_SIZE;

const BYTES: u32 = 8 * PAGE_SIZE;

#[test]
fn a_list_is_good_if_each_section_is_inside_a_page() {
    let memory = GuestMemory::new(BYTES, 0).unwrap();
    let region = memory.region();
    let check = |addr, len| {
        let mut dma = Dma::default();
        (dma.addr[0], dma.len[0]) = (0x100, 16);
        (dma.addr[1], dma.len[1]) = (addr, len);
        memory.write_object(0x1000, &dma).unwrap();
        DmaSections::read(region, 0x1000).map(|list| list.sections().total())
    };
    assert_eq!(check(BYTES - 1, 1), Ok(17));
    assert_eq!(check(4095, 1), Ok(17));
    assert_eq!(check(0, 4096), Ok(16 + 4096));
    for (addr, len) in [(4095, 2), (0, 4097), (BYTES, 1), (u32::MAX, 1)] {
        let limit = BYTES;
        let bad = BadDma::Section(BadSection { addr, len, limit });
        assert_eq!(check(addr, len), Err(bad));
    }
    // Sections after the last one of a list are ignored.
    assert_eq!(check(u32::MAX, 0), Ok(16));
}

#[test]
fn a_list_must_lie_in_memory_whole() {
    let memory = GuestMemory::new(BYTES, 0).unwrap();
    let region = memory.region();
    assert!(DmaSections::read(region, BYTES - Dma::SIZE).is_ok());
    let beyond = DmaSections::read(region, BYTES - Dma::SIZE + 1);
    assert_eq!(
        beyond.err().unwrap().to_string(),
        "bad dma: bad physical address 0x7f9d+0x64 (the limit is 0x8000)"
    );
    assert!(used_len(region, u32::MAX - 3).is_err());
    set_used_len(region, BYTES - 4, 7).unwrap();
    assert_eq!(used_len(region, BYTES - 4), Ok(7));
    assert!(set_used_len(region, BYTES - 3, 7).is_err());
}
