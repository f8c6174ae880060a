//! Tests: what each packer made is unpacked, and damage is an error.

use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::sync::LazyLock;

const ALL: [Compression; 7] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lzo,
    Compression::Lz4,
    Compression::Zstd,
];

/// `bytes`, packed as a kernel's build does it.
pub(in super::super) fn pack(by: Compression, bytes: &[u8]) -> Vec<u8> {
    match by {
        Compression::Gzip => {
            let mut packer =
                flate2::write::GzEncoder::new(Vec::new(), Default::default());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut packer =
                bzip2::write::BzEncoder::new(Vec::new(), Default::default());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(6);
            let mut packer = lzma_rust2::LzmaWriter::new_use_header(
                Vec::new(),
                &options,
                None,
            )
            .unwrap();
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
            let mut packer =
                lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Lzo => lzop(bytes, 0x0000_0001),
        Compression::Lz4 => {
            let mut packed = Lz4::MARK.to_le_bytes().to_vec();
            for block in bytes.chunks(Lz4::MOST) {
                let block = lz4_flex::block::compress(block);
                let len = u32::try_from(block.len()).unwrap();
                packed.extend(len.to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => ruzstd::encoding::compress_to_vec(
            bytes,
            ruzstd::encoding::CompressionLevel::Fastest,
        ),
    }
}

/// A file as `lzop` writes it, with these flags and a name.
fn lzop(bytes: &[u8], flags: u32) -> Vec<u8> {
    let mut file = b"\x89LZO\0\r\n\x1A\n".to_vec();
    file.extend([0x10, 0x30, 0x20, 0xA0, 0x09, 0x40, 1, 5]);
    file.extend(flags.to_be_bytes());
    if flags & Lzop::FILTER != 0 {
        file.extend([0; 4]);
    }
    file.extend([0; 12]);
    file.extend(*b"\x04nameSUM.");
    for block in bytes.chunks(Lzop::MOST) {
        let packed = lzokay::compress::compress(block).unwrap();
        let stored = packed.len() >= block.len();
        let packed = if stored { block } else { &packed };
        for len in [block.len(), packed.len()] {
            file.extend(u32::try_from(len).unwrap().to_be_bytes());
        }
        let of_unpacked = Lzop::SUMS_OF_UNPACKED.map(|f| flags & f != 0);
        let of_packed = Lzop::SUMS_OF_PACKED.map(|f| flags & f != 0 && !stored);
        for _ in of_unpacked.into_iter().chain(of_packed).filter(|&is| is) {
            file.extend(*b"SUM.");
        }
        file.extend(packed);
    }
    file.extend([0; 4]);
    file
}

/// Bytes that pack well, badly, and look like code with calls.
fn kernel() -> Vec<u8> {
    let mut bytes = b"\x7FELF and so on".repeat(5000);
    let mut word = 1_u32;
    for _ in 0..100_000 {
        word = word.wrapping_mul(0x0019_660D).wrapping_add(0x3C6E_F35F);
        bytes.push((word >> 24) as u8);
    }
    for at in 0..20_000_u32 {
        bytes.push(0xE8);
        bytes.extend(0x1000_u32.wrapping_sub(at).to_le_bytes());
    }
    bytes
}

#[test]
fn every_format_gives_back_what_was_packed() {
    let kernel = kernel();
    let len = kernel.len() as u64;
    for by in ALL {
        let mut packed = pack(by, &kernel);
        assert_eq!(Compression::of(&packed), Some(by));
        // Kernels have the unpacked size after the packed bytes.
        packed.extend(u32::try_from(len).unwrap().to_le_bytes());
        let whole = unpack(by, &packed, len).unwrap();
        assert!(whole == Unpacked::All(kernel.clone()), "{by}");
        let much = unpack(by, &packed, len - 1).unwrap();
        assert_eq!(much, Unpacked::TooMuch(len), "{by}");
        let much = unpack(by, &packed, 10).unwrap();
        assert_eq!(much, Unpacked::TooMuch(len), "{by}");
    }
}

#[test]
fn bytes_that_are_cut_off_are_refused() {
    let kernel = kernel();
    for by in ALL {
        let packed = pack(by, &kernel);
        for part in 1..9 {
            let cut = &packed[..packed.len() * part / 9];
            let result = unpack(by, cut, 1 << 20);
            // A file of lz4 may end after any block.
            let ends = by == Compression::Lz4
                && matches!(&result, Ok(Unpacked::All(b)) if b.is_empty());
            assert!(ends || result.is_err(), "{by} {part}");
        }
    }
}

#[test]
fn lzop_files_may_have_any_sums_and_a_filter() {
    let kernel = kernel();
    for flags in [0, 1, 2, 3, 0x100, 0x303, 0x800, 0xB03] {
        let whole = unpack(Compression::Lzo, &lzop(&kernel, flags), 1 << 20);
        assert!(whole == Ok(Unpacked::All(kernel.clone())), "{flags:#x}");
    }
}

#[test]
fn a_dictionary_larger_than_our_memory_is_refused() {
    // An LZMA header that asks for a dictionary of 2 GiB.
    let mut packed = b"\x5D\0\0\0\x80".to_vec();
    packed.extend([0xFF; 8]);
    packed.extend([0; 64]);
    let result = unpack(Compression::Lzma, &packed, 1 << 20);
    assert_eq!(result, Err(UnpackError::Broken));
}

/// A kernel's beginning in each format.
static PACKED: LazyLock<[Vec<u8>; 7]> =
    LazyLock::new(|| ALL.map(|by| pack(by, &kernel()[..70_000])));

proptest! {
    #[test]
    fn damaged_bytes_neither_crash_nor_overflow(
        which in 0..ALL.len(),
        places in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        let by = ALL[which];
        let mut packed = PACKED[which].clone();
        for (place, byte) in places {
            let at = place.index(packed.len());
            packed[at] = byte;
        }
        if let Ok(Unpacked::All(bytes)) = unpack(by, &packed, 100_000) {
            prop_assert!(bytes.len() <= 100_000);
        }
    }
}
