//! The end of a Guest in words.
//!
//! Each part is left out if it is not known: a Guest that was lost has noted no
//! registers, and a file without symbols has no names.

use super::causes;
use super::remains::{Remains, Step};
use super::symbols::Symbols;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use lg_abi::page::Pte;
use lg_wire::debug::Word;
use lg_wire::last::CALLS;
use std::fmt::Write as _;

/// Instructions that are shown, from the one at which the Guest was.
const INSTRUCTIONS: usize = 6;

/// Addresses in a reason that get names.
const NAMED: usize = 8;

/// Explains an end with this reason, in lines.
#[must_use]
pub fn report(
    reason: &str,
    remains: &Remains<'_>,
    symbols: &Symbols<'_>,
) -> String {
    let mut text = String::from("how the guest was at its end:\n");
    registers(&mut text, remains);
    code(&mut text, remains, symbols);
    frames(&mut text, remains, symbols);
    named(&mut text, reason, symbols);
    if let Some(address) = remains.last.address.or_else(|| faulted(reason)) {
        tables(&mut text, remains, address);
    }
    calls(&mut text, remains);
    if let Some(cause) = causes::usual(reason) {
        let _ = writeln!(text, "  usual cause: {cause}");
    }
    text.truncate(text.trim_end().len());
    text
}

fn registers(text: &mut String, remains: &Remains<'_>) {
    let Some(words) = remains.words() else {
        text.push_str("  its registers are not known\n");
        return;
    };
    let rows: [&[(&str, Word)]; 4] = [
        &[
            ("eax", Word::Eax),
            ("ebx", Word::Ebx),
            ("ecx", Word::Ecx),
            ("edx", Word::Edx),
        ],
        &[
            ("esi", Word::Esi),
            ("edi", Word::Edi),
            ("ebp", Word::Ebp),
            ("esp", Word::Esp),
        ],
        &[
            ("eip", Word::Eip),
            ("eflags", Word::Eflags),
            ("cr3", Word::Cr3),
        ],
        &[
            ("cs", Word::Cs),
            ("ss", Word::Ss),
            ("ds", Word::Ds),
            ("es", Word::Es),
            ("fs", Word::Fs),
            ("gs", Word::Gs),
        ],
    ];
    for row in rows {
        text.push(' ');
        for &(name, word) in row {
            let value = words[word as usize];
            let width = if row.len() > 4 { 0 } else { 8 };
            let _ = write!(text, " {name} {value:0width$x}");
        }
        text.push('\n');
    }
    let user = words[Word::User as usize] != 0;
    let whose = if user { "a program" } else { "the kernel" };
    let _ = writeln!(text, "  it ran {whose}");
}

fn code(text: &mut String, remains: &Remains<'_>, symbols: &Symbols<'_>) {
    let Some(eip) = remains.register(Word::Eip) else {
        return;
    };
    let bytes = remains.read(eip, INSTRUCTIONS * 15);
    if bytes.is_empty() {
        let _ = writeln!(text, "  code at {eip:08x}: no memory is there");
        return;
    }
    text.push_str("  code:\n");
    let options = DecoderOptions::NONE;
    let mut decoder = Decoder::with_ip(32, &bytes, eip.into(), options);
    let mut formatter = GasFormatter::new();
    for _ in 0..INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        let mut words = String::new();
        formatter.format(&instruction, &mut words);
        let at = instruction.ip32();
        let name = symbols.name(at).unwrap_or_default();
        let line = format!("    {at:08x} {words:32} {name}");
        let _ = writeln!(text, "{}", line.trim_end());
        if instruction.is_invalid() {
            break;
        }
    }
}

fn frames(text: &mut String, remains: &Remains<'_>, symbols: &Symbols<'_>) {
    let frames = remains.frames();
    if frames.len() < 2 {
        return stack(text, remains, symbols);
    }
    text.push_str("  frames, newest first:\n");
    for (n, &at) in frames.iter().enumerate() {
        // A return address is behind the call.
        let call = if n == 0 { at } else { at.saturating_sub(1) };
        let places = symbols.places(call);
        let mut places = places.iter().map(String::as_str);
        let first = places.next().unwrap_or("?");
        let _ = writeln!(text, "    #{n:<2} {at:08x} {first}");
        for place in places {
            let _ = writeln!(text, "                 in {place}");
        }
    }
    if symbols.is_empty() {
        text.push_str("    (there are no symbols: --symbols)\n");
    }
}

/// Where there are no frame pointers: what can be a return address on the
/// kernel's stack.
fn stack(text: &mut String, remains: &Remains<'_>, symbols: &Symbols<'_>) {
    /// More are not shown.
    const MOST: usize = 24;
    if symbols.is_empty() {
        text.push_str(
            "  frames are not known: there are no symbols (--symbols)\n",
        );
        return;
    }
    if remains.register(Word::User) != Some(0) {
        return;
    }
    let mut lines = 0;
    for at in remains.stack() {
        // The call is before it, and may be the last instruction.
        let Some(name) = symbols.name(at.wrapping_sub(1)) else {
            continue;
        };
        if !remains.is_behind_call(at) {
            continue;
        }
        if lines == 0 {
            text.push_str(
                "  calls on the stack, newest first (some are old):\n",
            );
        }
        let _ = writeln!(text, "    {at:08x} {name}");
        lines += 1;
        if lines == MOST {
            break;
        }
    }
}

/// Names for the addresses in a reason. A kernel's handler of a page fault
/// panics with the address of the code that has faulted, which is none of the
/// frames: no call leads from there to the handler.
fn named(text: &mut String, reason: &str, symbols: &Symbols<'_>) {
    let known = addresses(reason).filter(|at| symbols.function(*at).is_some());
    for (n, at) in known.take(NAMED).enumerate() {
        if n == 0 {
            text.push_str("  addresses in the reason:\n");
        }
        let places = symbols.places(at).join("\n                 in ");
        let _ = writeln!(text, "        {at:08x} {places}");
    }
}

/// The numbers of 0x and digits in a text.
fn addresses(text: &str) -> impl Iterator<Item = u32> {
    text.split("0x").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit());
        let digits = &rest[..end.unwrap_or(rest.len())];
        u32::from_str_radix(digits, 16).ok()
    })
}

/// The address that a page fault was about, in the words of a kernel that has
/// panicked for it.
fn faulted(reason: &str) -> Option<u32> {
    let (_, rest) = reason.split_once("cr2 ")?;
    let is_next = rest.starts_with("0x");
    is_next.then(|| addresses(rest).next()).flatten()
}

fn tables(text: &mut String, remains: &Remains<'_>, address: u32) {
    let (steps, place) = remains.walk(address);
    let _ = writeln!(text, "  page tables for {address:08x}:");
    for Step { at, entry } in steps {
        let flags = [
            (Pte::PRESENT, "present"),
            (Pte::WRITE, "writable"),
            (Pte::USER, "user"),
            (Pte::ACCESSED, "accessed"),
            (Pte::DIRTY, "dirty"),
        ];
        let set = flags.iter().filter(|(bit, _)| entry & bit != 0);
        let mut set: Vec<&str> = set.map(|(_, name)| *name).collect();
        if entry & Pte::PRESENT == 0 {
            set = vec!["not present"];
        }
        let set = set.join(", ");
        let _ = writeln!(text, "    at {at:08x}: {entry:08x} ({set})");
    }
    match place {
        Some(place) => {
            let _ = writeln!(text, "    it is at {place:08x} of its memory");
        }
        None => text.push_str("    no memory is there\n"),
    }
}

fn calls(text: &mut String, remains: &Remains<'_>) {
    let last = &remains.last;
    let kept = (last.count as usize).min(CALLS);
    if kept == 0 {
        return;
    }
    let interface = remains.interface.interface();
    let _ = writeln!(text, "  last of {} hypercalls:", last.count);
    for [number, b, c, d] in &last.calls[..kept] {
        let name = interface.name(*number).map(|call| call.text());
        let name = name.unwrap_or("(no such call)");
        let _ = writeln!(
            text,
            "    {number:>2} {name:16} ebx {b:08x} ecx {c:08x} edx {d:08x}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_a_reason() {
        let reason = "CRASH: panic: trap 14 at 0xc0101034: error 0x0, cr2 \
                      0x10, eax 0x, ecx 0x123456789 (src/trap.rs:0xg)";
        let all: Vec<u32> = addresses(reason).collect();
        assert_eq!(all, [0xC010_1034, 0, 0x10]);
        assert_eq!(faulted(reason), Some(0x10));
        assert_eq!(faulted("CRASH: panic: cr2 is wrong at 0x10"), None);
        assert_eq!(faulted("CRASH: panic: cr2 "), None);
    }

    #[test]
    fn addresses_in_a_reason_have_names() {
        let map = "c0100000 T _text\nc0100010 t broken\nc0100020 T next\n";
        let symbols = Symbols::new(map.as_bytes());
        let mut text = String::new();
        named(&mut text, "trap 14 at 0xc0100014, cr2 0x4", &symbols);
        let wanted =
            "  addresses in the reason:\n        c0100014 broken+0x4\n";
        assert_eq!(text, wanted);
        text.clear();
        named(&mut text, "no address", &symbols);
        assert_eq!(text, "");
    }
}
