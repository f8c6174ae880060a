//! The first instructions of a Guest, and what it finds in memory.
//!
//! The Launcher has loaded the image, and written the memory map and the
//! command line. It enters a Guest of 2007 at the byte after the mark, with
//! page tables that map all memory at `PAGE_OFFSET`, interrupts off and no
//! stack. It enters later Guests at the entry point of the ELF header, a
//! physical address, where paging may be off. Those make INITIALIZE and first
//! page tables of their own in assembly. Then comes the usual order of a
//! kernel: memory, traps, time, and at last the Guest's own `main` and its
//! tasks.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::boot::Boot;
//! use lg_guest::println;
//!
//! lg_guest::entry!(main);
//!
//! fn main(boot: &'static Boot) {
//!     println!("{} KiB of memory", boot.memory >> 10);
//!     if let Some(disk) = boot.initrd_bytes() {
//!         println!("an initrd of {} bytes", disk.len());
//!     }
//! }
//! ```

#![expect(unsafe_code, reason = "entry point, and memory as it was found")]

use crate::command_line::CommandLine;
use crate::frame::{self, Phys};
use crate::interface::{INTERFACES, has_virtio};
use crate::one_cpu::OneCpu;
use crate::{heap, irq, paging, segment, shared, task, time, trap};
use alloc::boxed::Box;
use alloc::string::String;
use core::arch::global_asm;
use lg_abi::boot::{
    COMMAND_LINE_MAX, E820_RAM, E820Entry, LOADER_UNREGISTERED, offset,
};
use lg_abi::call::CallName;
use lg_abi::hypercall::HYPERCALL_VECTOR;
use lg_abi::known::Known;
use lg_abi::layout::NoIrq;
use lg_abi::page::{
    DEFAULT_PAGE_OFFSET, DIRECTORY_SPAN, ENTRIES, PAGE_SHIFT, PAGE_SIZE, pages,
};
use lg_abi::shared::{LHCALL_RING_SIZE, SYSCALL_VECTOR};

/// Bytes of the kernel's one stack: tasks are futures and have none.
const STACK_SIZE: usize = 64 << 10;

/// Page tables that a later Guest makes at first: enough for its image and for
/// the tables of [`paging`].
const FIRST_TABLES: u32 = 4;

/// Where the fields are that a later Guest must fill before INITIALIZE: the
/// ring's status, the range without interrupts, `kernel_address`. The last word
/// is 1 if there is the address of one `iret` in the place of the range. A row
/// for each interface.
#[unsafe(export_name = "lguest_places")]
static PLACES: [[u32; 4]; INTERFACES] = {
    let mut places = [[0; 4]; INTERFACES];
    let mut known = 0;
    while known < places.len() {
        let layout = &Known::by_number(crate::word(known)).layout;
        if let (Some(address), Some(vector)) =
            (layout.kernel_address, layout.syscall_vec)
        {
            // The assembly writes two words at each, the range first.
            assert!(vector.offset() == address.offset() + 4);
            let (noirq, is_iret) = match layout.noirq {
                NoIrq::Range(start, end) => {
                    assert!(end.offset() == start.offset() + 4);
                    (start, 0)
                }
                NoIrq::Iret(iret) => {
                    assert!(address.offset() == iret.offset() + 4);
                    (iret, 1)
                }
            };
            let status = layout.hcall_status.offset();
            places[known] = [status, noirq.offset(), address.offset(), is_iret];
        }
        known += 1;
    }
    places
};

global_asm!(
    // esi = physical address of the boot parameters; nothing else is set.
    ".section .text.lguest_paged, \"ax\"",
    ".globl lguest_paged",
    "lguest_paged:",
    "    mov $lguest_stack + {stack_size}, %esp",
    "    xor %ebp, %ebp",
    "    sub $12, %esp", // the argument ends up aligned to 16
    "    push %esi",
    "    call lguest_start",
    ".section .bss.lguest_stack, \"aw\", @nobits",
    ".balign 16",
    "lguest_stack:",
    "    .skip {stack_size}",
    stack_size = const STACK_SIZE,
    options(att_syntax)
);

global_asm!(
    // The same for a later Guest. Addresses are physical up to the jump.
    r#"
.section .text.lguest_later, "ax"
.globl lguest_later
lguest_later:
    cld
    mov %esi, %ebp
    // The banner of the image names the interface. ebx = its row of places.
    movzbl lguest_banner_number - {offset}, %eax
    and $7, %eax
    mov %eax, lguest_known - {offset}
    shl $4, %eax
    lea lguest_places - {offset}(%eax), %ebx
    mov $lguest_data - {offset}, %edx
    mov (%ebx), %edi
    add %edx, %edi
    mov $-1, %eax // HCALL_DONE
    mov ${ring} / 4, %ecx
    rep stosl
    mov 4(%ebx), %ecx
    mov $lguest_noirq_start, %esi
    cmpl $0, 12(%ebx)
    je 0f
    mov $lguest_noirq_end - 1, %esi // the iret
0:  mov %esi, (%edx,%ecx)
    movl $lguest_noirq_end, 4(%edx,%ecx)
    mov 8(%ebx), %ecx
    movl ${offset}, (%edx,%ecx)
    movl ${syscall}, 4(%edx,%ecx)
    // The first argument is in edx or in ebx, depending on the interface.
    mov %edx, %ebx
    mov ${init}, %eax
    int ${hypercall}
    // The tables: one entry for each page of RAM.
    mov {ram}(%ebp), %ecx
    cmp ${mapped}, %ecx
    jbe 1f
    mov ${mapped}, %ecx
1:  shr $12, %ecx
    mov $lguest_first_tables - {offset} + {page}, %edi
    mov ${flags}, %eax
2:  stosl
    add ${page}, %eax
    loop 2b
    // The directory: the same tables at 0 and at PAGE_OFFSET.
    mov $lguest_first_tables - {offset}, %edx
    lea {page} + {flags}(%edx), %eax
    xor %ecx, %ecx
3:  mov %eax, (%edx,%ecx,4)
    mov %eax, {high}(%edx,%ecx,4)
    add ${page}, %eax
    inc %ecx
    cmp ${tables}, %ecx
    jb 3b
    mov %edx, %ebx
    mov ${new_pgtable}, %eax
    int ${hypercall}
    mov %ebp, %esi
    mov $lguest_paged, %eax
    jmp *%eax
.section .bss.lguest_first_tables, "aw", @nobits
.balign {page}
lguest_first_tables:
    .skip {page} * ({tables} + 1)
"#,
    offset = const DEFAULT_PAGE_OFFSET,
    ring = const LHCALL_RING_SIZE,
    syscall = const SYSCALL_VECTOR,
    init = const in_all(CallName::Init),
    new_pgtable = const in_all(CallName::NewPgtable),
    hypercall = const HYPERCALL_VECTOR,
    ram = const offset::E820_MAP + 8, // its size
    mapped = const FIRST_TABLES * DIRECTORY_SPAN,
    page = const PAGE_SIZE,
    flags = const paging::KERNEL_PAGE,
    high = const DEFAULT_PAGE_OFFSET / DIRECTORY_SPAN * 4,
    tables = const FIRST_TABLES,
    options(att_syntax)
);

const _: () = assert!(PAGE_SIZE == ENTRIES * 4);

/// The number of a call that is the same in every interface.
const fn in_all(name: CallName) -> u32 {
    let Some(number) = Known::Linux2_6_23.interface().number(name) else {
        panic!("it is in all");
    };
    let mut known = 0;
    while known < INTERFACES {
        let interface = Known::by_number(crate::word(known));
        assert!(matches!(interface.number(name), Some(n) if n == number));
        known += 1;
    }
    number
}

unsafe extern "C" {
    /// Where the image ends, from the linker script.
    static lguest_image_end: u8;

    /// The `main` of the Guest, made by [`entry!`](crate::entry).
    safe fn lguest_main();

    /// The same for code that runs before INITIALIZE.
    safe fn lguest_early();
}

/// What the Launcher has put into the Guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Bytes of memory.
    pub memory: u32,
    /// The memory map, as far as it has entries.
    pub map: [Option<E820Entry>; 4],
    /// Physical address and size of the initrd.
    pub initrd: Option<(Phys, u32)>,
    /// The command line.
    pub arguments: CommandLine<'static>,
    /// Bytes of the image in memory.
    pub image: u32,
}

impl Boot {
    /// The initrd's contents.
    #[must_use]
    pub fn initrd_bytes(&self) -> Option<&'static [u8]> {
        let (start, size) = self.initrd?;
        // SAFETY: `frames_of` keeps the initrd out of the free memory, and
        // `read` has checked that it lies inside the memory that is mapped.
        Some(unsafe {
            core::slice::from_raw_parts(start.ptr::<u8>(), size as usize)
        })
    }

    /// The page number of the device descriptors: just above the memory.
    #[must_use]
    pub const fn descriptor_pfn(&self) -> u32 {
        self.memory >> PAGE_SHIFT
    }
}

/// Names the function that a Guest starts with: `fn(&'static Boot)`. When it
/// returns, the tasks that it has spawned go on. The machine runs until
/// [`power::off`](crate::power::off) is called.
///
/// The Guest is one of 2007. With `later` after its function it is one of
/// Linux 3.11; with `any` it is either, as the Launcher enters it. The banner
/// of a later Guest may be overwritten with another release from 2.6.25 to
/// 4.13, see [`entry_banner!`].
///
/// With `early: f` at the end, `f` is called before anything else of a Guest of
/// 2007. Nothing of the kit works there, because INITIALIZE has not been called
/// yet.
///
/// [`entry_banner!`]: crate::entry_banner
#[macro_export]
macro_rules! entry {
    ($main:path $(, early: $early:path)?) => {
        $crate::entry_mark!();
        $crate::entry_functions!(OF_2007, $main $(, $early)?);
    };
    ($main:path, later) => {
        $crate::entry_banner!();
        $crate::entry_functions!(LATER, $main);
    };
    ($main:path, any $(, early: $early:path)?) => {
        $crate::entry_mark!();
        $crate::entry_banner!();
        $crate::entry_functions!(ANY, $main $(, $early)?);
    };
}

/// The mark by which a Launcher knows a Guest of 2007. The linker script puts
/// it first, because it must not occur anywhere before. The byte after it is
/// the first instruction.
#[doc(hidden)]
#[macro_export]
macro_rules! entry_mark {
    () => {
        #[allow(unsafe_code, reason = "the first instruction")]
        mod lguest_mark {
            ::core::arch::global_asm!(
                ".section .text.boot, \"ax\"",
                ".ascii \"GenuineLguest\"",
                "jmp lguest_paged",
                options(att_syntax)
            );
        }
    };
}

/// The mark by which a Launcher takes a Guest for a later Linux without PAE.
/// The number after `#` is that of its interface ([`lg_abi::known::Known`]).
/// Release and number may be overwritten together, with ones of the same
/// length.
#[doc(hidden)]
#[macro_export]
macro_rules! entry_banner {
    () => {
        #[allow(unsafe_code, reason = "the first instruction")]
        mod lguest_banner {
            ::core::arch::global_asm!(
                ".section .text.boot_later, \"ax\"",
                ".globl lguest_elf_entry, lguest_banner_number",
                "0: jmp lguest_later",
                ".set lguest_elf_entry, 0b - {offset}",
                ".ascii \"Linux version 3.11.10 (lg-guest) #\"",
                "lguest_banner_number:",
                ".ascii \"1 Guest kit\\0lguest\\0\"",
                offset = const $crate::boot::PAGE_OFFSET,
                options(att_syntax)
            );
        }
    };
}

/// Gives the functions of a Guest the names that the kit calls them by.
#[doc(hidden)]
#[macro_export]
macro_rules! entry_functions {
    ($generations:ident, $main:path) => {
        $crate::entry_functions!($generations, $main, $crate::boot::nothing);
    };
    ($generations:ident, $main:path, $early:path) => {
        #[allow(unsafe_code, reason = "the kit calls them by these names")]
        const _: () = {
            #[unsafe(export_name = "lguest_generations")]
            static GENERATIONS: u8 = $crate::interface::$generations;

            #[unsafe(no_mangle)]
            extern "C" fn lguest_early() {
                let early: fn() = $early;
                early();
            }

            #[unsafe(no_mangle)]
            extern "C" fn lguest_main() {
                let main: fn(&'static $crate::boot::Boot) = $main;
                main($crate::boot::boot())
            }
        };
    };
}

/// Where the image is linked to run, less its physical address.
#[doc(hidden)]
pub const PAGE_OFFSET: u32 = DEFAULT_PAGE_OFFSET;

/// The early function of most Guests: it does nothing.
#[doc(hidden)]
pub const fn nothing() {}

/// Rust begins here, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn lguest_start(parameters: Phys) -> ! {
    let entered = time::tsc();
    if !has_virtio() {
        lguest_early();
        let (noirq_start, noirq_end) = trap::noirq();
        shared::init(noirq_start, noirq_end);
    }
    time::init(entered);

    let mut boot = read(parameters);
    let (start, end) = frames_of(&boot);
    frame::init(start, end);
    paging::init(boot.memory);
    heap::init();
    boot.arguments =
        CommandLine::new(String::from(boot.arguments.text()).leak());
    segment::init();
    trap::init();
    irq::enable();

    BOOT.with(|kept| *kept = Some(Box::leak(Box::new(boot))));
    lguest_main();
    task::run()
}

static BOOT: OneCpu<Option<&'static Boot>> = OneCpu::new(None);

/// What the Launcher has put into memory.
///
/// # Panics
///
/// If [`entry!`](crate::entry)'s `main` was not called yet. The kit avoids it.
#[must_use]
pub fn boot() -> &'static Boot {
    BOOT.with(|boot| boot.expect("the kit reads it first"))
}

/// Reads what the Launcher has written. Nothing else writes there, now or
/// later: the pages below the image are never allocated.
fn read(parameters: Phys) -> Boot {
    let word = |at| peek::<u32>(parameters, at);
    let byte = |at| peek::<u8>(parameters, at);

    let mut map = [None; 4];
    let entries = usize::from(byte(offset::E820_ENTRIES)).min(map.len());
    let mut at = offset::E820_MAP;
    for entry in &mut map[..entries] {
        *entry = Some(peek::<E820Entry>(parameters, at));
        at += crate::word(size_of::<E820Entry>());
    }
    let ram = map.iter().flatten().filter(|e| e.kind == E820_RAM);
    let memory = ram.map(|e| e.addr[0].saturating_add(e.size[0])).max();
    let memory = memory.unwrap_or(0) & !(PAGE_SIZE - 1);

    let (start, size) = (word(offset::INITRD_START), word(offset::INITRD_SIZE));
    let valid = byte(offset::LOADER_TYPE) == LOADER_UNREGISTERED
        && size != 0
        && start
            .checked_add(size)
            .is_some_and(|end| end <= memory.min(paging::LINEAR_MAX));

    Boot {
        memory,
        map,
        initrd: valid.then_some((Phys(start), size)),
        arguments: CommandLine::new(command_line(Phys(word(
            offset::COMMAND_LINE,
        )))),
        image: image_end().0 - image_start(),
    }
}

fn peek<T: zerocopy::FromBytes>(base: Phys, at: u32) -> T {
    // SAFETY: `at` is an offset into the page of boot parameters, which is
    // mapped (crate rule 2), and a `FromBytes` may be any bytes.
    unsafe { Phys(base.0 + at).ptr::<T>().read_unaligned() }
}

fn command_line(at: Phys) -> &'static str {
    // SAFETY: it has a page of its own, and nothing writes there any more.
    let page = unsafe {
        core::slice::from_raw_parts(at.ptr::<u8>(), COMMAND_LINE_MAX as usize)
    };
    let end = page.iter().position(|&b| b == 0).unwrap_or(page.len());
    // Keep the part that is valid UTF-8.
    match core::str::from_utf8(&page[..end]) {
        Ok(text) => text,
        Err(bad) => {
            core::str::from_utf8(&page[..bad.valid_up_to()]).unwrap_or("")
        }
    }
}

fn image_end() -> Phys {
    Phys::of(&raw const lguest_image_end)
}

const fn image_start() -> u32 {
    1 << 20
}

/// The page numbers that are free and zero: from the end of the image up to
/// the Launcher's page tables, which lie just below the initrd, a directory on
/// top and the tables that it needs beneath.
fn frames_of(boot: &Boot) -> (u32, u32) {
    let top = boot.initrd.map_or(boot.memory, |(start, _)| start.0);
    let linear = boot.memory.min(DEFAULT_PAGE_OFFSET.wrapping_neg());
    let tables = pages(linear).div_ceil(lg_abi::page::ENTRIES);
    let reachable = paging::LINEAR_MAX.min(top);
    let end = (reachable >> PAGE_SHIFT).min((top >> PAGE_SHIFT) - 1 - tables);
    (pages(image_end().0), end)
}
