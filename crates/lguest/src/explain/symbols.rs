//! Names, files and lines for addresses, from the kernel's ELF file.
//!
//! A file without symbols, one that is packed, or one that is too large gives
//! no names. What is wrong in it gives wrong names, and nothing else.

use crate::engine::printable;
use addr2line::gimli::{self, EndianSlice, LittleEndian};
use object::read::elf::ElfFile32;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;
use std::fmt::Write as _;

/// The largest file of which names are taken.
pub const LARGEST: u64 = 256 << 20;

/// The most functions that are shown for one address: those that the compiler
/// has put into each other.
const INLINED: usize = 8;

/// The names in a kernel's file.
pub struct Symbols<'a> {
    /// Where functions begin and end, and their names, in order.
    functions: Vec<(u32, u32, &'a str)>,
    lines: Option<addr2line::Context<EndianSlice<'a, LittleEndian>>>,
}

impl<'a> Symbols<'a> {
    /// Those in `file`.
    #[must_use]
    pub fn new(file: &'a [u8]) -> Self {
        let elf = ElfFile32::<Endianness>::parse(file).ok();
        let functions = elf.as_ref().map(functions).unwrap_or_default();
        let section = |id: gimli::SectionId| {
            let elf = elf.as_ref()?;
            elf.section_by_name(id.name())?.data().ok()
        };
        let load = |id| {
            let bytes = section(id).unwrap_or_default();
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        };
        let has_lines = section(gimli::SectionId::DebugLine).is_some();
        let lines = has_lines
            .then(|| gimli::Dwarf::load(load).ok())
            .flatten()
            .and_then(|dwarf| addr2line::Context::from_dwarf(dwarf).ok());
        Self { functions, lines }
    }

    /// Whether there is no name at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function at `address`, and how far into it that is.
    #[must_use]
    pub fn name(&self, address: u32) -> Option<String> {
        let behind = self.functions.partition_point(|f| f.0 <= address);
        let &(start, end, name) = self.functions.get(behind.checked_sub(1)?)?;
        let name = printable(format!("{:#}", demangle(name)).as_bytes());
        let within = address - start;
        (address < end).then(|| format!("{name}+{within:#x}"))
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
                let mut place = format!("{:#}", demangle(&name));
                if let Some(location) = &frame.location
                    && let Some(file) = location.file
                {
                    let line = location.line.unwrap_or(0);
                    let _ = write!(place, " ({file}:{line})");
                }
                places.push(printable(place.as_bytes()));
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

/// The functions of a file, in the order of their addresses. One without a size
/// ends where the next one begins.
fn functions<'a>(elf: &ElfFile32<'a, Endianness>) -> Vec<(u32, u32, &'a str)> {
    let mut functions = Vec::new();
    for symbol in elf.symbols() {
        let is_code =
            matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown);
        let start = u32::try_from(symbol.address());
        let size = u32::try_from(symbol.size());
        let (Ok(start), Ok(size), Ok(name)) = (start, size, symbol.name())
        else {
            continue;
        };
        if is_code && !symbol.is_undefined() && !name.is_empty() {
            functions.push((start, start.saturating_add(size), name));
        }
    }
    functions.sort_unstable();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::default_guest;

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
