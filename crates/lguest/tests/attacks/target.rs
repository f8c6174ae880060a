//! The targets of attacks, and their addresses.
//!
//! An attacker has the same program as all users, so it knows the addresses.

use lg_switcher::layout::IMAGE;
use std::ops::Range;
use std::sync::OnceLock;

/// RAM, the page of descriptors, and the disk's.
pub(crate) const LIMIT: u32 = (16 << 20) + 2 * 4096;

/// The disk's page, which is its key.
pub(crate) const DISK: u32 = LIMIT - 4096;

/// Memory that the attacker does not use: its physical and its virtual address.
pub(crate) const EMPTY: u32 = 0xE_0000;
pub(crate) const EMPTY_VA: u64 = 0xC000_0000 + EMPTY as u64;

/// The view program inside the Launcher.
pub(crate) struct View {
    /// Addresses of its code.
    pub(crate) text: Range<u64>,
    /// Addresses of all of it.
    pub(crate) image: Range<u64>,
    /// The `syscall` that is allowed; a `ret` follows.
    pub(crate) syscall: u64,
    /// The `syscall`s in which a user process waits: without protection keys,
    /// and with them. One of them is allowed.
    pub(crate) stands: [u64; 2],
    /// Every byte pair `syscall` in its code, also inside other instructions.
    pub(crate) sites: Vec<u64>,
    /// `mov $rt_sigreturn, %eax; syscall`.
    pub(crate) restorer: u64,
    /// Bytes that can be read as `jmp *%rax`.
    pub(crate) jump: u64,
}

/// Finds it.
pub(crate) fn view() -> &'static View {
    static VIEW: OnceLock<View> = OnceLock::new();
    VIEW.get_or_init(|| {
        let launcher = std::fs::read(env!("CARGO_BIN_EXE_lguest")).unwrap();
        let starts = launcher.windows(4).enumerate().skip(1);
        let starts = starts.filter(|(_, w)| *w == b"\x7fELF");
        let mut found =
            starts.filter_map(|(at, _)| View::parse(&launcher[at..]));
        found.next().expect("the Launcher carries a view")
    })
}

impl View {
    fn parse(elf: &[u8]) -> Option<Self> {
        let half = |at: usize| {
            let bytes = elf.get(at..at + 2)?;
            Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
        };
        let wide = |at: usize| {
            let bytes = elf.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (table, size, count) =
            (usize::try_from(wide(32)?).ok()?, half(54)?, half(56)?);
        let mut text = None;
        let (mut first, mut last) = (u64::MAX, 0);
        for n in 0..count {
            let at = table.checked_add(n * size)?;
            let kind = wide(at)?;
            let (offset, start, len) =
                (wide(at + 8)?, wide(at + 16)?, wide(at + 40)?);
            if kind & 0xFFFF_FFFF != 1 {
                continue;
            }
            let end = start.checked_add(len)?;
            (first, last) = (first.min(start), last.max(end));
            if kind >> 32 & 1 != 0 {
                text = Some((usize::try_from(offset).ok()?, start..end));
            }
        }
        if !(IMAGE as u64..IMAGE as u64 + 0x10_0000).contains(&first) {
            return None;
        }
        let (offset, text) = text?;
        let len = usize::try_from(text.end - text.start).ok()?;
        let code = elf.get(offset..offset + len)?;
        let find = |bytes: &[u8]| {
            let found = code.windows(bytes.len()).position(|w| w == bytes);
            found.map(|at| text.start + at as u64)
        };
        let jump = find(&[0xFF, 0xE0])?;
        let restorer = find(&[0xB8, 15, 0, 0, 0, 0x0F, 0x05])?;
        // mov 8(%rsp), %r9; syscall; ret
        let syscall = find(&[0x4C, 0x8B, 0x4C, 0x24, 8, 0x0F, 0x05, 0xC3])? + 5;
        // mov $getppid, %eax; syscall; test %rax, %rax
        let stand = [0xB8, 110, 0, 0, 0, 0x0F, 0x05, 0x48, 0x85, 0xC0];
        let stands = code.windows(stand.len()).enumerate();
        let stands = stands.filter(|(_, w)| *w == stand);
        let stands: Vec<u64> =
            stands.map(|(at, _)| text.start + at as u64 + 5).collect();
        let stands = stands.try_into().ok()?;
        let sites = code.windows(2).enumerate();
        let sites = sites.filter(|(_, w)| *w == [0x0F, 0x05]);
        let sites = sites.map(|(at, _)| text.start + at as u64).collect();
        Some(Self {
            text,
            image: first..last,
            syscall,
            stands,
            restorer,
            sites,
            jump,
        })
    }
}
