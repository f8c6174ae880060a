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
    if let Some(address) = remains.last.address {
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
