//! CPUID, where the processor lets us answer it.
//!
//! Some processors can be told to fault at a CPUID of user code ("CPUID
//! faulting", Intel SDM volume 3, "CPUID Faulting"; AMD calls it
//! `CpuidUserDis`), and Linux lets a process ask for that. There the Host hides
//! from the Guest what its kernel cannot keep for a program: state that FXSAVE
//! does not know, and the instructions that work on it. Elsewhere the Guest
//! sees all that there is.
//!
//! The instructions themselves cannot be switched off. So the Host keeps their
//! state apart for each thread in both cases ([`crate::cpu::extended`]).

use crate::cpu::instruction::{MAX_INSTRUCTION, instruction};
use crate::host::Host;
use crate::world::CpuidAnswer;

/// Leaf 1, ecx: FMA, XSAVE, OSXSAVE, AVX, F16C.
const BASIC_HIDDEN: u32 = 1 << 12 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29;

/// Leaf 7, ebx: AVX2, MPX, and of AVX-512: F, DQ, IFMA, PF, ER, CD, BW, VL.
const EXTENDED_EBX_HIDDEN: u32 = 1 << 5
    | 1 << 14
    | 1 << 16
    | 1 << 17
    | 1 << 21
    | 1 << 26
    | 1 << 27
    | 1 << 28
    | 1 << 30
    | 1 << 31;

/// Leaf 7, ecx: AVX-512's VBMI; PKU, OSPKE; VBMI2; shadow stacks; VAES,
/// VPCLMULQDQ; AVX-512's VNNI, BITALG, VPOPCNTDQ; key locker; PKS.
const EXTENDED_ECX_HIDDEN: u32 = 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 6
    | 1 << 7
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 14
    | 1 << 23
    | 1 << 31;

/// Leaf 7, edx: of AVX-512: 4VNNIW, 4FMAPS; user interrupts; VP2INTERSECT;
/// branch tracking; AMX-BF16; AVX-512's FP16; AMX-TILE, AMX-INT8.
const EXTENDED_EDX_HIDDEN: u32 = 1 << 2
    | 1 << 3
    | 1 << 5
    | 1 << 8
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 24
    | 1 << 25;

/// Leaf 0x80000001, ecx: XOP, LWP, FMA4.
const AMD_HIDDEN: u32 = 1 << 11 | 1 << 15 | 1 << 16;

/// What the Guest is shown of the `real` answer to a leaf.
#[must_use]
pub fn shown(leaf: u32, subleaf: u32, real: CpuidAnswer) -> CpuidAnswer {
    let [eax, ebx, ecx, edx] = real;
    match (leaf, subleaf) {
        (1, _) => [eax, ebx, ecx & !BASIC_HIDDEN, edx],
        // No subleaf has anything else: AVX-VNNI, AMX, AVX10 are there.
        (7, 0) => [
            0,
            ebx & !EXTENDED_EBX_HIDDEN,
            ecx & !EXTENDED_ECX_HIDDEN,
            edx & !EXTENDED_EDX_HIDDEN,
        ],
        // Leaf 7's other subleaves; XSAVE; key locker; tiles; AVX10.
        (7 | 0xD | 0x19 | 0x1D | 0x1E | 0x24, _) => [0; 4],
        (0x8000_0001, _) => [eax, ebx, ecx & !AMD_HIDDEN, edx],
        // Lightweight profiling.
        (0x8000_001C, _) => [0; 4],
        _ => real,
    }
}

/// How long the CPUID is that `code` begins with, if it is one.
fn cpuid_length(code: &[u8]) -> Option<u32> {
    const CPUID: u16 = 0x0FA2;
    let found = instruction(code)?;
    let fits = found.length as usize <= MAX_INSTRUCTION;
    (found.opcode == CPUID && fits).then_some(found.length)
}

impl Host<'_> {
    /// Carries out the CPUID at which the Guest has faulted, if `code` is one
    /// and the processor faults at it here.
    pub(crate) fn cpuid(&mut self, code: &[u8]) -> bool {
        let Some(length) = cpuid_length(code) else {
            return false;
        };
        let regs = &self.vm.regs;
        let (leaf, subleaf) = (regs.eax.get(), regs.ecx.get());
        let Some(real) = self.world.cpuid(leaf, subleaf) else {
            return false;
        };
        let [eax, ebx, ecx, edx] = shown(leaf, subleaf, real);
        regs.eax.set(eax);
        regs.ebx.set(ebx);
        regs.ecx.set(ecx);
        regs.edx.set(edx);
        regs.eip.set(regs.eip.get().wrapping_add(length));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::shown;
    use crate::address::GuestPhys;
    use crate::host::Event;
    use crate::testing::Machine;
    use lg_abi::page::Pte;

    /// All bits of the processor that are shown at all.
    const ALL: [u32; 4] = [u32::MAX; 4];

    #[test]
    fn nothing_is_shown_that_needs_more_than_fxsave() {
        let bit = |word: u32, n: u32| word >> n & 1 != 0;
        let [_, _, ecx, edx] = shown(1, 0, ALL);
        for (name, n) in
            [("FMA", 12), ("XSAVE", 26), ("OSXSAVE", 27), ("AVX", 28)]
        {
            assert!(!bit(ecx, n), "{name}");
        }
        for (name, n) in [("SSE3", 0), ("SSE4.2", 20), ("AES", 25)] {
            assert!(bit(ecx, n), "{name}");
        }
        assert_eq!(edx, u32::MAX);
        let [eax, ebx, ecx, edx] = shown(7, 0, ALL);
        assert_eq!(eax, 0, "there are no subleaves");
        assert!(!bit(ebx, 5) && !bit(ebx, 16) && bit(ebx, 9), "{ebx:x}");
        assert!(!bit(ecx, 3) && !bit(ecx, 4) && bit(ecx, 22), "{ecx:x}");
        assert!(!bit(edx, 24) && bit(edx, 4), "{edx:x}");
        for leaf in [0xD, 0x1D, 0x1E, 0x24] {
            assert_eq!(shown(leaf, 0, ALL), [0; 4], "{leaf:x}");
        }
        for leaf in [0, 2, 4, 0xB, 0x15, 0x8000_0002, 0x4000_0000] {
            assert_eq!(shown(leaf, 0, ALL), ALL, "{leaf:x}");
        }
    }

    /// Code that faults with vector 13 at user level: the machine after it.
    fn faulted(code: &[u8], faulting: bool) -> Machine {
        let mut m = Machine::new();
        let frame = 0x5000;
        m.set_user_pte(1, Pte(frame | 0x67));
        m.ram.memory().write(GuestPhys(frame), code).unwrap();
        m.vm.user.set(1);
        m.vm.regs.eip.set(0x1000);
        m.vm.regs.eax.set(1);
        m.vm.regs.ebx.set(0xB);
        m.world.cpuid = faulting.then_some([1, 2, u32::MAX, 4]);
        let event = Event::Trap {
            vector: 13,
            error: 0,
            cr2: 0,
        };
        // There is no handler: what is delivered ends the Guest.
        let handled = m.host().run_guest(event).is_ok();
        assert_eq!(handled, m.vm.regs.eip.get() != 0x1000);
        m
    }

    #[test]
    fn it_is_carried_out_where_it_faults() {
        for (code, length) in [(&[0x0F, 0xA2][..], 2), (&[0x66, 0x0F, 0xA2], 3)]
        {
            let m = faulted(code, true);
            let regs = &m.vm.regs;
            assert_eq!(regs.eip.get(), 0x1000 + length);
            assert_eq!((regs.eax.get(), regs.ebx.get()), (1, 2));
            assert_eq!(regs.ecx.get(), shown(1, 0, ALL)[2]);
            assert_eq!(m.vm.counters.cpuids.get(), 1);
        }
    }

    #[test]
    fn elsewhere_a_fault_is_a_fault() {
        for (code, faulting) in [(&[0x0F, 0xA2], false), (&[0x0F, 0xA3], true)]
        {
            let m = faulted(code, faulting);
            assert_eq!(m.vm.regs.ebx.get(), 0xB);
        }
    }
}
