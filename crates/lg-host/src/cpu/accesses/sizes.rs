//! How many bytes of memory an instruction's operand has.
//!
//! A watchpoint needs the size: a store may end before what is watched. What is
//! not in the table has a word.

/// Bytes of the memory operand of an instruction (Intel SDM volume 2, appendix
/// A); `word` is the size of its words, `prefixes` is what lies before its
/// ModRM byte.
pub(super) fn operand_size(
    opcode: u16,
    reg: u8,
    word: u32,
    prefixes: &[u8],
) -> u32 {
    let has = |prefix| prefixes.contains(&prefix);
    let scalar = || match (has(0xF3), has(0xF2)) {
        (true, _) => 4,
        (_, true) => 8,
        _ => 16,
    };
    match opcode {
        0x00..=0x3F if matches!(opcode & 7, 0 | 2) => 1,
        0x6C | 0x6E | 0x80 | 0x82 | 0x84 | 0x86 | 0x88 | 0x8A => 1,
        0xA0 | 0xA2 | 0xA4 | 0xA6 | 0xAA | 0xAC | 0xAE | 0xD7 => 1,
        0xC0 | 0xC6 | 0xD0 | 0xD2 | 0xF6 | 0xFE => 1,
        0x8C | 0x8E => 2,
        0x62 => 2 * word,
        0xD8 | 0xDA => 4,
        0xD9 => [4, 4, 4, 4, 28, 2, 28, 2][usize::from(reg)],
        0xDB => [4, 4, 4, 4, 4, 10, 10, 10][usize::from(reg)],
        0xDC => 8,
        0xDD => [8, 8, 8, 8, 108, 8, 108, 2][usize::from(reg)],
        0xDE => 2,
        0xDF => [2, 2, 2, 2, 10, 8, 10, 8][usize::from(reg)],
        0x0F90..=0x0F9F | 0x0FB0 | 0x0FC0 | 0x0FB6 | 0x0FBE => 1,
        0x0FB7 | 0x0FBF => 2,
        0x0F6E | 0x0FC3 => 4,
        0x0F7E if has(0xF3) => 8,
        0x0F7E => 4,
        0x0F12 | 0x0F13 | 0x0F16 | 0x0F17 | 0x0FD6 | 0x0FC7 => 8,
        0x0FAE if matches!(reg, 2 | 3) => 4,
        0x0FAE => 512,
        0x0F10 | 0x0F11 | 0x0F2A | 0x0F2C..=0x0F2F | 0x0F51..=0x0F5F => {
            scalar()
        }
        0x0F28 | 0x0F29 | 0x0F2B => 16,
        0x0F60..=0x0F7F | 0x0FD0..=0x0FFE if has(0x66) || has(0xF3) => 16,
        0x0F60..=0x0F7F | 0x0FD0..=0x0FFE => 8,
        _ => word,
    }
}
