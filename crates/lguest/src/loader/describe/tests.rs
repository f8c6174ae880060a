//! Descriptions of kernels of each generation, format and packing.

use super::*;
use crate::loader::elf::tests::executable;
use crate::loader::payload::tests::pack;

fn describe(file: &[u8]) -> Description {
    Description::of(&Image::Unpacked(file.to_vec())).unwrap()
}

/// The texts in a kernel of this release, and some more.
fn texts(release: &str, build: &str, more: &[u8]) -> Vec<u8> {
    let banner = format!("Linux version {release} (a@b) (gcc) #1 {build}\n\0");
    [banner.as_bytes(), more].concat()
}

fn vmlinux(texts: &[u8]) -> Vec<u8> {
    let len = u32::try_from(texts.len()).unwrap();
    executable(&[(0xC100_0000, 0x0100_0000, len, texts)])
}

/// A bzImage of protocol 2.10 around `payload`.
fn bzimage(release: &str, payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x800];
    file[0x1F1] = 3;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20A_u16.to_le_bytes());
    file[0x20E..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    file[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
    file[0x248..0x24C].copy_from_slice(&0x100_u32.to_le_bytes());
    let len = u32::try_from(payload.len()).unwrap();
    file[0x24C..0x250].copy_from_slice(&len.to_le_bytes());
    file.resize(0x900, 0x90);
    file.extend(payload);
    file
}

#[test]
fn a_later_kernel_is_known_in_every_packing() {
    let no_pae = b"3%s:%d: bad pgd %08lx\n\0\0lguest\0";
    let kernel = vmlinux(&texts("3.11.10", "SMP Mon", no_pae));
    for by in [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Lzma,
        Compression::Xz,
        Compression::Lzo,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let file = bzimage("3.11.10 (a@b)", &pack(by, &kernel));
        let found = describe(&file);
        assert_eq!(found.format, Some(Container::BzImage), "{by}");
        assert_eq!(found.compression, Some(by));
        assert_eq!(found.kernel_bytes, Some(kernel.len() as u64), "{by}");
        assert_eq!((found.bits, found.generation), (Some(32), Some(2)), "{by}");
        assert_eq!(found.guest_code, Some(true), "{by}");
        assert_eq!((found.pae, found.smp), (Some(false), Some(true)), "{by}");
        assert!(found.runs, "{found}");
    }
}

#[test]
fn a_kernel_that_does_not_run_is_refused_with_the_reason() {
    let pae = b"%s:%d: bad pgd %p(%016Lx).\n\0\0lguest\0";
    for (release, texts_of_guest, words) in [
        (
            "3.11.10",
            b"".as_slice(),
            "built without lguest guest support",
        ),
        ("4.14.1", b"", "which has no lguest"),
        (
            "2.6.30",
            pae,
            "with PAE, which guests have only since Linux 2.6.31",
        ),
    ] {
        let kernel = vmlinux(&texts(release, "Mon", texts_of_guest));
        let why = describe(&kernel).why_not.expect(release);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_kernel_with_pae_runs_since_its_guests_know_it() {
    for (release, build) in [("2.6.31", "Mon"), ("3.11.10", "SMP Mon")] {
        let pae = b"3%s:%d: bad pgd %p(%016Lx)\n\0\0lguest\0";
        let found = describe(&vmlinux(&texts(release, build, pae)));
        assert_eq!(found.pae, Some(true), "{release}");
        assert!(found.runs, "{found}");
    }
}

#[test]
fn a_vmlinux_is_described_without_unpacking() {
    let no_pae = b"bad pgd %08lx";
    let found = describe(&vmlinux(&texts("4.9.154", "Mon", no_pae)));
    assert_eq!((found.bits, found.generation), (Some(32), Some(3)));
    assert_eq!((found.pae, found.smp), (Some(false), Some(false)));
    assert_eq!(found.guest_code, Some(false));
    assert!(!found.runs);
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(json["release"], "4.9.154");
    assert_eq!(json["format"], "ELF");
    assert_eq!(json["runs"], false);
}

#[test]
fn a_guest_of_2007_runs() {
    let found = describe(crate::machine::default_guest::IMAGE);
    assert!(found.runs, "{found}");
    assert_eq!(found.guest_code, Some(true));
    assert!(found.to_string().contains("runs here    yes"), "{found}");
}

#[test]
fn damaged_and_unknown_payloads_are_named() {
    let kernel = vmlinux(&texts("2.6.23", "Mon", b"GenuineLguest"));
    let mut packed = pack(Compression::Xz, &kernel);
    packed[30] ^= 0xFF;
    let found = describe(&bzimage("2.6.23 (a@b)", &packed));
    let why = found.why_not.unwrap();
    assert!(
        why.contains("packed by xz, and the packed bytes are"),
        "{why}"
    );
    let found = describe(&bzimage("2.6.23 (a@b)", b"nothing that is known"));
    let why = found.why_not.unwrap();
    assert!(why.contains("in a way that is not known here"), "{why}");
    let found = describe(b"no kernel at all");
    assert_eq!(found.format, None);
    assert!(found.why_not.unwrap().contains("neither an i386 ELF"));
}
