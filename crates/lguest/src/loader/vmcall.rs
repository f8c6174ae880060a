//! `vmcall` in a kernel of Linux 2.6.30 to 3.0, replaced by `int $0x1f`.
//!
//! These kernels make hypercalls by `vmcall` (0F 01 C1). It is an illegal
//! instruction here, and the Host carries the call out. But on an Intel machine
//! that is itself a guest of KVM, the instruction always leaves for KVM (Intel
//! SDM volume 3, "VMCALL"), KVM refuses, and the kernel goes on with an error
//! that it does not look at. So the bytes are replaced before the kernel runs,
//! as the original replaced them at the first fault: `int $0x1f` and a `nop`. A
//! call without a fault is faster, too.
//!
//! The same bytes occur in pointers to kernel text (0xC1010Fxx), in tables and
//! as operands. A compiler puts an instruction in front of the call that loads
//! a register. So bytes are replaced only behind an instruction of these kinds:
//! `mov` of a small number, `mov`, `add`, `sub` or `xor` between registers, a
//! `mov` from or to memory with a short displacement, and a shift or an
//! arithmetic instruction with a small number.

use crate::memory::{GuestMemory, Section};
use lg_abi::gen2::VMCALL;

/// `int $0x1f; nop`.
const INT: [u8; 3] = [0xCD, 0x1F, 0x90];

/// How many bytes before an instruction are looked at.
const BEFORE: usize = 6;

/// How many bytes are looked at at a time.
const CHUNK: u32 = 64 << 10;

/// Replaces each `vmcall` in `parts` of a kernel that ends at `end`.
pub(super) fn replace(memory: &GuestMemory, parts: &[Section], end: u32) {
    for part in parts {
        let mut at = part.addr();
        let part_end = part.addr() + part.len();
        while at < part_end {
            let len = CHUNK.min(part_end - at);
            let mut bytes = vec![0; len as usize];
            if memory.read(at, &mut bytes).is_err() {
                return;
            }
            for found in places(&bytes, end) {
                let place = at + u32::try_from(found).unwrap_or(0);
                // It has been read from there.
                let _ = memory.write(place, &INT);
            }
            // Whatever lies across the end of a chunk is in the next one.
            let overlap = u32::try_from(BEFORE + VMCALL.len()).unwrap_or(0);
            at += if at + len == part_end {
                len
            } else {
                len - overlap
            };
        }
    }
}

/// Where `code` has a `vmcall`, in a kernel that ends at physical address
/// `end`.
fn places(code: &[u8], end: u32) -> Vec<usize> {
    let all = code.windows(BEFORE + VMCALL.len()).enumerate();
    all.filter_map(|(start, window)| {
        let (before, call) = window.split_first_chunk::<BEFORE>()?;
        (call == VMCALL && is_instruction(*before, end))
            .then_some(start + BEFORE)
    })
    .collect()
}

/// Whether these bytes end with an instruction that may stand before a
/// hypercall.
fn is_instruction(before: [u8; BEFORE], end: u32) -> bool {
    /// `mov`, `add`, `sub`, `xor` between a register and a register or memory.
    const MOVES: [u8; 8] = [0x89, 0x8B, 0x01, 0x03, 0x29, 0x2B, 0x31, 0x33];
    let registers = |mod_rm: u8| mod_rm >> 6 == 3;
    let short = |mod_rm: u8| mod_rm >> 6 == 1;
    let has_sib = |mod_rm: u8| mod_rm & 7 == 4;
    let [_, load, three, two, one, last] = before;
    // The byte in front of the last 5 is `load`.
    let number = u32::from_le_bytes([three, two, one, last]);
    let loads_number = load & 0xF8 == 0xB8 && number < end;
    let between = MOVES.contains(&one) && registers(last);
    let near = MOVES[..2].contains(&two) && short(one) && !has_sib(one);
    let indexed = MOVES[..2].contains(&three) && short(two) && has_sib(two);
    let shift = [0x83, 0xC1].contains(&two) && registers(one);
    let long = before[0] == 0x81 && registers(load);
    loads_number || between || near || indexed || shift || long
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 32 << 20;

    fn found(before: &[u8]) -> bool {
        let code = [&[0x90; BEFORE][..], before, &VMCALL].concat();
        places(&code, END) == [BEFORE + before.len()]
    }

    #[test]
    fn calls_are_found_behind_what_compilers_put_there() {
        for before in [
            [0xB8, 0x13, 0, 0, 0].as_slice(), // mov $19,%eax
            &[0xBB, 0xA0, 0xF6, 0x19, 0x01],  // mov $physical,%ebx
            &[0x8B, 0x56, 0x04],              // mov 4(%esi),%edx
            &[0x89, 0x56, 0x04],              // mov %edx,4(%esi)
            &[0x8B, 0x54, 0x24, 0x14],        // mov 20(%esp),%edx
            &[0x31, 0xC0],                    // xor %eax,%eax
            &[0x89, 0xFA],                    // mov %edi,%edx
            &[0x01, 0xD3],                    // add %edx,%ebx
            &[0xC1, 0xE3, 0x0C],              // shl $12,%ebx
            &[0x81, 0xC3, 0, 0, 0, 0x40],     // add $0x40000000,%ebx
        ] {
            assert!(found(before), "{before:02X?}");
        }
    }

    #[test]
    fn pointers_and_operands_are_left_alone() {
        for before in [
            [0xC1, 0x30].as_slice(),         // a table of pointers
            &[0x02, 0, 0x01, 0, 0xFA, 0x2E], // a table of other words
            &[0xB8, 0x30],                   // mov $0xC1010F30,%eax
            &[0x68, 0x30],                   // push $0xC1010F30
            &[0xC7, 0x04, 0x24, 0x30],       // movl $0xC1010F30,(%esp)
            &[0x83, 0xE0],                   // and $15,%eax; add %eax,%ecx
        ] {
            assert!(!found(before), "{before:02X?}");
        }
    }

    #[test]
    fn a_call_across_two_pieces_is_replaced_once() {
        let memory = GuestMemory::new(1 << 20, 0).unwrap();
        let code = [&[0x31, 0xC0][..], &VMCALL].concat();
        for shift in 0..12 {
            let at = 0x2000 + CHUNK - shift;
            memory.write(at, &code).unwrap();
            let part = memory.section(0x2000, CHUNK + 0x100).unwrap();
            replace(&memory, &[part], END);
            let mut after = [0; 3];
            memory.read(at + 2, &mut after).unwrap();
            assert_eq!(after, INT, "{shift}");
            memory.write(at, &[0; 5]).unwrap();
        }
    }
}
