//! A question to the processor: is there a 32-bit code segment?
//!
//! A Guest's kernel runs on a segment that Linux gives to every process. Some
//! kernels are built without it. The doctor looks for it before a run, and the
//! view spawner looks again in the process that needs it.

/// Linux's flat 32-bit code segment (`__USER32_CS`).
pub const KERNEL_CODE: u32 = 0x23;

/// Whether a segment holds 32-bit code that can be run. `rights` is the answer
/// of LAR (Intel SDM volume 2): it must be present and code, and its code must
/// not be 64-bit.
#[must_use]
pub const fn is_32_bit_code(rights: u32) -> bool {
    const PRESENT: u32 = 1 << 15;
    const CODE: u32 = 1 << 11;
    const LONG: u32 = 1 << 21;
    const WIDE: u32 = 1 << 22;
    rights & (PRESENT | CODE | LONG | WIDE) == PRESENT | CODE | WIDE
}

#[cfg(test)]
mod tests {
    use super::is_32_bit_code;

    #[test]
    fn only_present_32_bit_code_is_accepted() {
        let flat_code = 0x00CF_FB00;
        assert!(is_32_bit_code(flat_code));
        for wrong in [1 << 15, 1 << 11, 1 << 21, 1 << 22] {
            assert!(!is_32_bit_code(flat_code ^ wrong), "{wrong:#x}");
        }
        assert!(!is_32_bit_code(0), "LAR has failed");
    }
}
