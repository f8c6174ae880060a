//! Traps: how the Guest is interrupted, and how it goes on.
//!
//! The Host pushes the first part of a trap's frame. The vector's stub pushes
//! the rest, so every trap leaves the same [`Registers`]. There are two cases.
//! From kernel mode, a trap is a call: the stub saves the vector registers,
//! calls [`kernel_trap`], and returns. From user mode, it is a return:
//! [`enter_user`] left by an `iret`, and now returns to its caller. It has
//! stored the user's registers where it loaded them from.
//!
//! All gates are interrupt gates, so a handler starts with interrupts off; the
//! `iret` switches them on again if they were. That takes two steps: the saved
//! flag is copied to `irq_enabled`, then comes the `iret`. An interrupt between
//! them would push its frame onto ours. The Guest tells the Host once where
//! these instructions are, and the Host delivers none there. A Host can
//! recognise their bytes, which are the same in every kernel of this kind.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{println, trap};
//!
//! /// A page fault of the kernel's own ends it, but not here.
//! fn look(address: u32) {
//!     match trap::probe(address) {
//!         Some(byte) => println!("{address:#x}: {byte:#04x}"),
//!         None => println!("{address:#x}: no page"),
//!     }
//! }
//! ```

#![expect(unsafe_code, reason = "the trap stubs")]

use crate::interface::IRQ_ENABLED;
use crate::{hcall, irq, shared, word};
use core::arch::global_asm;
use core::mem::offset_of;
use lg_abi::segment::{KERNEL_CS, USER_DS};
use lg_abi::shared::{
    FIRST_EXTERNAL_VECTOR, IF, LGUEST_IRQS, PAGE_FAULT_VECTOR, SYSCALL_VECTOR,
};

/// The frame of a trap, lowest address first. The stub has pushed the words
/// below `vector`, the Host those above it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// `pusha` begins here.
    pub edi: u32,
    #[expect(missing_docs)]
    pub esi: u32,
    #[expect(missing_docs)]
    pub ebp: u32,
    /// What `pusha` pushes for esp; `popa` skips it.
    pub unused: u32,
    #[expect(missing_docs)]
    pub ebx: u32,
    #[expect(missing_docs)]
    pub edx: u32,
    #[expect(missing_docs)]
    pub ecx: u32,
    /// A system call's number, and its result.
    pub eax: u32,
    #[expect(missing_docs)]
    pub ds: u32,
    #[expect(missing_docs)]
    pub es: u32,
    /// Which trap this is.
    pub vector: u32,
    /// Zero where the CPU has none.
    pub error: u32,
    /// Where the interrupted code continues.
    pub eip: u32,
    #[expect(missing_docs)]
    pub cs: u32,
    #[expect(missing_docs)]
    pub eflags: u32,
    /// From here on only if the trap came out of user mode.
    pub esp: u32,
    #[expect(missing_docs)]
    pub ss: u32,
}

/// Room for the state that `fxsave` stores.
#[derive(Clone)]
#[repr(C, align(16))]
pub struct VectorState(pub [u8; 512]);

impl VectorState {
    /// As the CPU has it after `fninit`: all exceptions masked.
    #[must_use]
    pub const fn new() -> Self {
        const FCW: [u8; 2] = 0x037F_u16.to_le_bytes();
        const MXCSR: [u8; 4] = 0x1F80_u32.to_le_bytes();
        let mut image = [0; 512];
        (image[0], image[1]) = (FCW[0], FCW[1]);
        (image[24], image[25]) = (MXCSR[0], MXCSR[1]);
        Self(image)
    }
}

impl Default for VectorState {
    fn default() -> Self {
        Self::new()
    }
}

/// A user program's whole state, while it does not run. The stack for its traps
/// ends where `registers` ends, so the Host pushes the frame there.
#[repr(C)]
pub struct UserState {
    /// Its x87 and SSE registers.
    pub vectors: VectorState,
    /// All others.
    pub registers: Registers,
    /// The kernel's stack pointer while the program runs.
    kernel_esp: u32,
}

impl UserState {
    /// A program that starts at `eip` with a stack at `esp`.
    #[must_use]
    pub fn new(eip: u32, esp: u32) -> Self {
        Self {
            vectors: VectorState::new(),
            registers: Registers {
                eip,
                esp,
                cs: lg_abi::segment::USER_CS.into(),
                ss: USER_DS.into(),
                ds: USER_DS.into(),
                es: USER_DS.into(),
                eflags: lg_abi::boot::START_EFLAGS,
                ..Registers::default()
            },
            kernel_esp: 0,
        }
    }

    /// The top of the stack for traps: an offset into this struct.
    pub const STACK_TOP: usize =
        offset_of!(Self, registers) + size_of::<Registers>();
}

/// `fxsave` below the frame of a user trap.
const VECTORS_BELOW: usize =
    offset_of!(UserState, registers) - offset_of!(UserState, vectors);
/// The saved stack pointer above it.
const KERNEL_ESP_ABOVE: usize =
    offset_of!(UserState, kernel_esp) - offset_of!(UserState, registers);

/// Vectors with a stub: all traps, and all interrupts.
const STUBS: u32 = FIRST_EXTERNAL_VECTOR + LGUEST_IRQS;

/// Bytes from one stub to the next.
const STUB_SIZE: u32 = 16;

/// Instructions of DWARF: a register and a number, which are together the
/// frame's address; and a register that is saved so many words below that.
const DW_CFA_DEF_CFA: u8 = 0x0C;
const DW_CFA_OFFSET: u8 = 0x80;

/// In a selector: a bit that is set for privilege level 3, and clear for the
/// kernel's level 1.
const USER_BIT: u32 = 2;

global_asm!(
    r#"
.text
// ---- the stubs, one for each vector, in a row ----
.globl lguest_trap_stubs, lguest_syscall_stub, lguest_enter_user
.globl lguest_noirq_start, lguest_noirq_end
.globl lguest_probe, lguest_probe_load, lguest_probe_fault
.balign {stub_size}
lguest_trap_stubs:
.set lguest_vector, 0
.rept {stubs}
    .balign {stub_size}
    // The CPU pushes an error code for these, the Host does the same.
    .set lguest_has_error, (lguest_vector == 8) || (lguest_vector == 17)
    .if (lguest_vector < 10) || (lguest_vector > 14)
    .if !lguest_has_error
        push $0
    .endif
    .endif
    push $lguest_vector
    jmp lguest_trap
    .set lguest_vector, lguest_vector + 1
.endr
lguest_syscall_stub:
    push $0
    push ${syscall}
    // falls through

// esp: vector, error, eip, cs, eflags, and out of user mode esp, ss
lguest_trap:
    push %es
    push %ds
    pusha
    cld
    testb ${user_bit}, {cs}(%esp)
    jz lguest_trap_in_kernel

    // Out of user mode: esp = UserState::registers. The segments are the
    // program's, and may not reach the kernel. Hosts recognise this sequence.
    mov ${user_ds}, %edx
    mov %edx, %ds
    mov %edx, %es
    fxsave -{vectors_below}(%esp)
    mov {kernel_esp_above}(%esp), %esp
    // The caller of enter_user, as it left it: edi esi ebx ebp, return address
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret

// esp = Registers, without the last two. ebx = the same, over the call.
lguest_trap_in_kernel:
    mov %esp, %ebx
    sub ${vectors_size} + 16, %esp
    and $-16, %esp
    fxsave 16(%esp)
    mov %ebx, (%esp)
    call lguest_kernel_trap
    fxrstor 16(%esp)
    mov %ebx, %esp
    popa
    add ${vector_end} - {ds}, %esp // the segments were ours before
    jmp lguest_return

// How a debugger gets from the handler to the code that has trapped: where its
// registers are, by ebx. Directives (.cfi_startproc) cannot say here that this
// is a trap: then a debugger shows the line before the one that has trapped.
.pushsection .debug_frame, "", @progbits
.Llguest_cie:
    .long .Llguest_fde - .Llguest_cie - 4
    .long -1
    .byte 4 // version
    .asciz "S" // a trap
    .byte 4, 0 // bytes of addresses, and of segments
    .uleb128 1 // distances in code are bytes,
    .sleb128 -4 // on the stack words, downwards
    .uleb128 8 // eip is where it goes on
    .balign 4
.Llguest_fde:
    .long .Llguest_fde_end - .Llguest_fde - 4
    .long .Llguest_cie
    .long lguest_trap_in_kernel
    .long lguest_enter_user - lguest_trap_in_kernel
    .byte {cfa}, 3, {frame_end} // ebx
    .byte {saved} + 0, ({frame_end} - {eax}) / 4
    .byte {saved} + 1, ({frame_end} - {ecx}) / 4
    .byte {saved} + 2, ({frame_end} - {edx}) / 4
    .byte {saved} + 3, ({frame_end} - {ebx}) / 4
    .byte {saved} + 5, ({frame_end} - {ebp}) / 4
    .byte {saved} + 6, ({frame_end} - {esi}) / 4
    .byte {saved} + 7, ({frame_end} - {edi}) / 4
    .byte {saved} + 8, ({frame_end} - {vector_end}) / 4 // eip
    .balign 4
.Llguest_fde_end:
.popsection

// `fn(&mut UserState)`, interrupts off. esp: return address, argument
lguest_enter_user:
    mov 4(%esp), %eax
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov %esp, {kernel_esp}(%eax)
    fxrstor {vectors}(%eax)
    lea {registers}(%eax), %esp
    popa
    pop %ds
    pop %es
    add ${vector_end} - {vector}, %esp
    // falls through

// esp: eip, cs, eflags, and for user mode esp, ss; all else is as it shall be
lguest_return:
    push %eax
    mov 12(%esp), %eax
    and ${if_bit}, %eax
lguest_noirq_start:
    mov %eax, %ss:lguest_data + {irq_enabled}
    pop %eax
    iret
lguest_noirq_end:

// fn(address) -> u64: the byte there, or with a bit above it a fault.
lguest_probe:
    mov 4(%esp), %ecx
    xor %edx, %edx
lguest_probe_load:
    movzbl (%ecx), %eax
    ret
lguest_probe_fault:
    inc %edx
    ret
"#,
    stubs = const STUBS,
    stub_size = const STUB_SIZE,
    syscall = const SYSCALL_VECTOR,
    user_bit = const USER_BIT,
    user_ds = const USER_DS,
    if_bit = const IF,
    edi = const offset_of!(Registers, edi),
    esi = const offset_of!(Registers, esi),
    ebp = const offset_of!(Registers, ebp),
    ebx = const offset_of!(Registers, ebx),
    edx = const offset_of!(Registers, edx),
    ecx = const offset_of!(Registers, ecx),
    eax = const offset_of!(Registers, eax),
    cs = const offset_of!(Registers, cs),
    ds = const offset_of!(Registers, ds),
    // Out of the kernel, the interrupted stack begins here.
    frame_end = const offset_of!(Registers, esp),
    cfa = const DW_CFA_DEF_CFA,
    saved = const DW_CFA_OFFSET,
    vector = const offset_of!(Registers, vector),
    vector_end = const offset_of!(Registers, eip),
    vectors = const offset_of!(UserState, vectors),
    registers = const offset_of!(UserState, registers),
    kernel_esp = const offset_of!(UserState, kernel_esp),
    vectors_below = const VECTORS_BELOW,
    vectors_size = const size_of::<VectorState>(),
    kernel_esp_above = const KERNEL_ESP_ABOVE,
    irq_enabled = const IRQ_ENABLED.offset(),
    options(att_syntax)
);

/// A present interrupt gate that user mode may not `int` to, and one that it
/// may; in the high word of a gate.
const GATE_KERNEL: u32 = 0xAE00;
const GATE_USER: u32 = 0xEE00;

unsafe extern "C" {
    static lguest_trap_stubs: u8;
    static lguest_syscall_stub: u8;
    static lguest_noirq_start: u8;
    static lguest_noirq_end: u8;
    static lguest_probe_load: u8;
    static lguest_probe_fault: u8;
    fn lguest_enter_user(state: *mut UserState);
    safe fn lguest_probe(address: u32) -> u64;
}

fn address(symbol: *const u8) -> u32 {
    word(symbol as usize)
}

/// The instructions at which no interrupt may be delivered.
pub(crate) fn noirq() -> (u32, u32) {
    (
        address(&raw const lguest_noirq_start),
        address(&raw const lguest_noirq_end),
    )
}

/// Loads the gates. The Host ignores those that it keeps to itself.
pub(crate) fn init() {
    for vector in 0..STUBS {
        let stub = address(&raw const lguest_trap_stubs) + vector * STUB_SIZE;
        set_gate(vector, stub, GATE_KERNEL);
    }
    let stub = address(&raw const lguest_syscall_stub);
    set_gate(SYSCALL_VECTOR, stub, GATE_USER);
    hcall::flush_async();
}

fn set_gate(vector: u32, handler: u32, flags: u32) {
    let low = (u32::from(KERNEL_CS) << 16) | (handler & 0xFFFF);
    hcall::load_idt_entry(vector, low, handler & 0xFFFF_0000 | flags);
}

/// Runs a user program until its next trap, which `state.registers` then
/// describes. Comes back with interrupts off.
///
/// # Safety
///
/// The current address space is the program's, and the stack that the Host was
/// given with SET_STACK is at [`UserState::STACK_TOP`] in `state`. Interrupts
/// are off: one that came while esp points into `state` would be pushed there.
pub(crate) unsafe fn enter_user(state: &mut UserState) {
    debug_assert!(!shared::irq_enabled());
    // SAFETY: as the caller promises. The stub saves and restores what a C
    // function has to, and the Host writes to nothing but `state`. User mode
    // cannot reach the kernel's memory: its pages are not the user's.
    unsafe { lguest_enter_user(state) }
}

/// A trap out of kernel mode. Called by the stub, interrupts off.
#[unsafe(export_name = "lguest_kernel_trap")]
extern "C" fn kernel_trap(registers: &mut Registers) {
    if let Some(irq) = irq_of(registers.vector) {
        return irq::arrived(irq);
    }
    if registers.vector == PAGE_FAULT_VECTOR
        && registers.eip == address(&raw const lguest_probe_load)
    {
        registers.eip = address(&raw const lguest_probe_fault);
        return;
    }
    panic!(
        "trap {} at {:#x}: error {:#x}, cr2 {:#x}, eax {:#x}, ecx {:#x}",
        registers.vector,
        registers.eip,
        registers.error,
        shared::cr2(),
        registers.eax,
        registers.ecx
    );
}

/// The interrupt that arrives at `vector`.
pub(crate) fn irq_of(vector: u32) -> Option<u8> {
    let irq = vector.checked_sub(FIRST_EXTERNAL_VECTOR)?;
    (irq < LGUEST_IRQS).then_some(irq.to_le_bytes()[0])
}

/// The byte at `address`, or `None` if reading it causes a page fault. The
/// fault is a real one, which the Host delivers to this Guest.
#[must_use]
pub fn probe(address: u32) -> Option<u8> {
    let result = lguest_probe(address);
    let [byte, _, _, _, fault, ..] = result.to_le_bytes();
    (fault == 0).then_some(byte)
}
