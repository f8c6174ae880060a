//! Names, files and lines for addresses, from the kernel's ELF file.
//!
//! The `System.map` that is made with a Linux has names, too.
//! A file without symbols, one that is packed, or one that is too large gives
//! no names. What is wrong in it gives wrong names, and nothing else. A name is
//! looked at when it is asked for: many symbols may share one that is long.

use crate::engine::printable;
use addr2line::gimli::{self, EndianSlice, LittleEndian};
use object::read::elf::ElfFile32;
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, SymbolIndex, SymbolKind,
};
use rustc_demangle::demangle;
use std::fmt::Write as _;

/// The largest file of which names are taken.
pub const LARGEST: u64 = 256 << 20;

/// The most functions that are shown for one address: those that the compiler
/// has put into each other.
const INLINED: usize = 8;

/// The most bytes of a name in the file, and the most characters of one that is
/// shown.
const LONGEST: usize = 4096;
const SHOWN: usize = 256;

/// The most bytes of line programs, and of all other debug sections. What is
/// read from a line program is up to 50 times as large.
const LINES: usize = 16 << 20;
const DEBUG: usize = 128 << 20;

/// The names in a kernel's file.
pub struct Symbols<'a> {
    elf: Option<ElfFile32<'a, Endianness>>,
    /// Where functions begin and end, and their names, in order.
    functions: Vec<(u32, u32, Name<'a>)>,
    lines: Option<addr2line::Context<EndianSlice<'a, LittleEndian>>>,
}

/// The name of a function.
#[derive(Clone, Copy)]
enum Name<'a> {
    /// It is in the file's table of symbols.
    Symbol(SymbolIndex),
    /// This is it.
    Text(&'a [u8]),
}

impl<'a> Symbols<'a> {
    /// Those in `file`.
    #[must_use]
    pub fn new(file: &'a [u8]) -> Self {
        let elf = ElfFile32::<Endianness>::parse(file).ok();
        let functions = match &elf {
            Some(elf) => functions(elf),
            None => functions_of_map(file),
        };
        let section = |id: gimli::SectionId| {
            let elf = elf.as_ref()?;
            elf.section_by_name(id.name())?.data().ok()
        };
        let load = |id| {
            let bytes = section(id).unwrap_or_default();
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        };
        let lines = section(gimli::SectionId::DebugLine)
            .filter(|lines| lines.len() <= LINES)
            .filter(|_| elf.as_ref().is_some_and(has_room_for_debug))
            .and_then(|_| gimli::Dwarf::load(load).ok())
            .and_then(|dwarf| addr2line::Context::from_dwarf(dwarf).ok());
        Self {
            elf,
            functions,
            lines,
        }
    }

    /// Whether there is no name at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function at `address`, and how far into it that is.
    #[must_use]
    pub fn name(&self, address: u32) -> Option<String> {
        let (name, within) = self.find(address)?;
        Some(format!("{name}+{within:#x}"))
    }

    /// The function at `address`.
    #[must_use]
    pub fn function(&self, address: u32) -> Option<String> {
        Some(self.find(address)?.0)
    }

    fn find(&self, address: u32) -> Option<(String, u32)> {
        let behind = self.functions.partition_point(|f| f.0 <= address);
        let &(start, end, name) = self.functions.get(behind.checked_sub(1)?)?;
        if address >= end {
            return None;
        }
        let symbol;
        let name = match name {
            Name::Symbol(index) => {
                symbol = self.elf.as_ref()?.symbol_by_index(index).ok()?;
                symbol.name().ok()?
            }
            Name::Text(name) => std::str::from_utf8(name).ok()?,
        };
        Some((shown(name), address - start))
    }

    /// What is called at `address`, a line for each function: the innermost
    /// first, with file and line where they are known.
    #[must_use]
    pub fn places(&self, address: u32) -> Vec<String> {
        let mut places = Vec::new();
        let frames = self.lines.as_ref().and_then(|lines| {
            lines.find_frames(address.into()).skip_all_loads().ok()
        });
        if let Some(mut frames) = frames {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref();
                let name = name.and_then(|n| n.raw_name().ok());
                let name = name.unwrap_or_else(|| "?".into());
                let mut place = shown(&name);
                if let Some(location) = &frame.location
                    && let Some(file) = location.file
                {
                    let file = printable(cut(file, SHOWN).as_bytes());
                    let line = location.line.unwrap_or(0);
                    let _ = write!(place, " ({file}:{line})");
                }
                places.push(place);
                if places.len() == INLINED {
                    break;
                }
            }
        }
        if places.is_empty() {
            places.extend(self.name(address));
        }
        places
    }
}

/// A name as it is shown.
fn shown(name: &str) -> String {
    let name = format!("{:#}", demangle(cut(name, LONGEST)));
    printable(cut(&name, SHOWN).as_bytes())
}

/// The beginning of `text`, with `most` bytes at the most.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether the debug sections are small enough to be read. Many may be in the
/// same bytes of a file.
fn has_room_for_debug(elf: &ElfFile32<'_, Endianness>) -> bool {
    let is_debug = |name: &[u8]| name.starts_with(b".debug_");
    let sizes = elf.sections().filter_map(|section| {
        let name = section.name_bytes().ok()?;
        is_debug(name).then_some(section.size())
    });
    sizes.fold(0, u64::saturating_add) <= (LINES + DEBUG) as u64
}

/// The functions of a file, in the order of their addresses. One without a size
/// ends where the next one begins.
fn functions<'a>(elf: &ElfFile32<'_, Endianness>) -> Vec<(u32, u32, Name<'a>)> {
    let mut functions = Vec::new();
    for symbol in elf.symbols() {
        let is_code =
            matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown);
        let start = u32::try_from(symbol.address());
        let size = u32::try_from(symbol.size());
        let (Ok(start), Ok(size)) = (start, size) else {
            continue;
        };
        let has_name = symbol.elf_symbol().st_name.get(Endianness::Little) != 0;
        // A symbol that is in no section is a number, not a place.
        if is_code && symbol.section_index().is_some() && has_name {
            let end = start.saturating_add(size);
            functions.push((start, end, symbol.index()));
        }
    }
    functions.sort_unstable_by_key(|&(start, end, name)| (start, end, name.0));
    let name = |(start, end, index)| (start, end, Name::Symbol(index));
    let mut functions: Vec<_> = functions.into_iter().map(name).collect();
    // Labels of assembly have no size, and may be several at one address.
    let mut next = u32::MAX;
    for n in (0..functions.len()).rev() {
        let start = functions[n].0;
        if functions[n].1 == start {
            functions[n].1 = next;
        }
        if n > 0 && functions[n - 1].0 != start {
            next = start;
        }
    }
    functions
}

/// The functions of a `System.map`, whose lines are an address, a letter and a
/// name, in the order of addresses. A function ends where the next symbol is.
/// Any other file has none.
fn functions_of_map(file: &[u8]) -> Vec<(u32, u32, Name<'_>)> {
    let mut functions: Vec<(u32, u32, Name<'_>)> = Vec::new();
    let mut last = 0;
    for line in file.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let Some((at, kind, name)) = line_of_map(line) else {
            return Vec::new();
        };
        if at < last {
            return Vec::new();
        }
        if at > last {
            // Functions end where something else begins.
            let open = functions.iter_mut().rev().take_while(|f| f.0 == last);
            open.for_each(|function| function.1 = at);
            last = at;
        }
        if matches!(kind, b't' | b'T' | b'w' | b'W') {
            functions.push((at, u32::MAX, Name::Text(name)));
        }
    }
    functions
}

/// A line of a `System.map`: an address of 32 bits, what it is, and its name.
fn line_of_map(line: &[u8]) -> Option<(u32, u8, &[u8])> {
    let (address, rest) = line.split_at_checked(8)?;
    let &[b' ', kind, b' ', ref name @ ..] = rest else {
        return None;
    };
    let address = std::str::from_utf8(address).ok()?;
    Some((u32::from_str_radix(address, 16).ok()?, kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::default_guest;

    #[test]
    fn a_map_of_linux_has_names() {
        let map = "\
c0100000 T _text
c0100000 T startup_32
c0100010 t relocate
c0100020 T __entry_text_start
c0100020 d some_data
c0100030 W weak
";
        let symbols = Symbols::new(map.as_bytes());
        let name = |at| symbols.name(at);
        assert_eq!(name(0xC00F_FFFF), None);
        assert_eq!(name(0xC010_0004).as_deref(), Some("startup_32+0x4"));
        assert_eq!(name(0xC010_0010).as_deref(), Some("relocate+0x0"));
        assert_eq!(symbols.places(0xC010_001F), ["relocate+0xf"]);
        assert_eq!(
            name(0xC010_0024).as_deref(),
            Some("__entry_text_start+0x4")
        );
        assert_eq!(name(0xC010_0038).as_deref(), Some("weak+0x8"));
        // Any other text is none.
        for text in ["", "c0100000", "c0100000 T", "x0100000 T a", "a b c"] {
            assert!(Symbols::new(text.as_bytes()).is_empty(), "{text:?}");
        }
        let two = "c0100010 T b\nc0100000 T a\n";
        assert!(Symbols::new(two.as_bytes()).is_empty(), "in no order");
        let no_text = b"c0100000 T \xFF\n";
        assert_eq!(Symbols::new(no_text).name(0xC010_0000), None);
    }

    /// A file with these sections: name, type, bytes, what it links to.
    fn elf(sections: &[(&str, u32, Vec<u8>, u32)]) -> Vec<u8> {
        const NAMES: u32 = 3;
        let word = |value: usize| u32::try_from(value).unwrap();
        let mut names = vec![0];
        let mut body = vec![0; 52];
        let mut table = vec![0; 40];
        let mut add = |at: usize, kind, place: usize, len: usize, link| {
            let entry = if kind == 2 { 16 } else { 0 };
            let place = [0, 0, word(place), word(len), link, 0, 1, entry];
            table.extend(word(at).to_le_bytes());
            table.extend(u32::to_le_bytes(kind));
            table.extend(place.iter().flat_map(|word| word.to_le_bytes()));
        };
        for (name, kind, bytes, link) in sections {
            add(names.len(), *kind, body.len(), bytes.len(), *link);
            names.extend(name.as_bytes());
            names.push(0);
            body.extend(bytes);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        add(0, NAMES, body.len(), names.len(), 0);
        body.extend(names);
        body.resize(body.len().next_multiple_of(4), 0);
        let count = u8::try_from(sections.len() + 2).unwrap();
        body[..7].copy_from_slice(b"\x7FELF\x01\x01\x01");
        body[16..21].copy_from_slice(&[2, 0, 3, 0, 1]);
        let at = word(body.len()).to_le_bytes();
        body[32..36].copy_from_slice(&at);
        let sizes = [(40, 52), (42, 32), (46, 40)];
        for (at, byte) in [(48, count), (50, count - 1)].iter().chain(&sizes) {
            body[*at] = *byte;
        }
        body.extend(table);
        body
    }

    /// A table of symbols with one function, which has this name.
    fn named(name: &str) -> [(&'static str, u32, Vec<u8>, u32); 2] {
        let mut symbols = vec![0; 16];
        for word in [1_u32, 0x1000, 0x100, 0x0001_0012] {
            symbols.extend(word.to_le_bytes());
        }
        let names = format!("\0{name}\0").into_bytes();
        [(".symtab", 2, symbols, 2), (".strtab", 3, names, 0)]
    }

    #[test]
    fn a_long_name_is_cut() {
        let file = elf(&named("do_good"));
        let symbols = Symbols::new(&file);
        assert_eq!(symbols.name(0x1004).as_deref(), Some("do_good+0x4"));
        assert_eq!(symbols.places(0x10FF), ["do_good+0xff"]);
        assert_eq!(symbols.name(0x1100), None);
        for letter in ["a", "\u{1b}", "ß"] {
            let file = elf(&named(&letter.repeat(1 << 20)));
            let name = Symbols::new(&file).name(0x1004).unwrap();
            assert!((SHOWN..20 * SHOWN).contains(&name.len()), "{name}");
        }
    }

    #[test]
    fn large_debug_sections_are_not_read() {
        let with = |name, bytes| {
            let [symbols, names] = named("do_good");
            let lines = (".debug_line", 1, vec![0; 64], 0);
            let other = (name, 1, vec![0; bytes], 0);
            let file = elf(&[symbols, names, lines, other]);
            let symbols = Symbols::new(&file);
            assert_eq!(symbols.places(0x1000), ["do_good+0x0"]);
            symbols.lines.is_some()
        };
        assert!(with(".data", LINES + DEBUG));
        assert!(with(".debug_str", DEBUG));
        assert!(!with(".debug_str", LINES + DEBUG));
        let file = elf(&[(".debug_line", 1, vec![0; LINES + 1], 0)]);
        assert!(Symbols::new(&file).lines.is_none());
    }

    /// A file of a guest is untrusted: any end of it, and any wrong byte, gives
    /// other names or none.
    #[test]
    fn a_broken_file_gives_no_names_and_no_panic() {
        let whole = default_guest::IMAGE;
        for length in [0, 4, 51, 52, 100, 5_000, whole.len() - 1, whole.len()] {
            let symbols = Symbols::new(&whole[..length]);
            assert!(symbols.is_empty(), "it is stripped");
            assert!(symbols.places(0xC010_0000).is_empty());
        }
        for at in 0..600 {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0xFF;
            let end = bytes.len() - 400;
            bytes[end + at % 400] ^= 0xFF;
            let _ = Symbols::new(&bytes).places(0xC010_0000);
        }
    }
}
