//! The first instructions of a Guest, and what it finds in memory.
//!
//! The Launcher has loaded the image, made page tables that map all memory at
//! `PAGE_OFFSET`, and written the memory map and the command line. It jumps to
//! the byte after the mark below, with interrupts off and no stack. Then comes
//! the usual order of a kernel: INITIALIZE, memory, traps, time, and at last
//! the Guest's own `main` and its tasks.

#![expect(unsafe_code, reason = "entry point, and memory as it was found")]

use crate::command_line::CommandLine;
use crate::frame::{self, Phys};
use crate::one_cpu::OneCpu;
use crate::{heap, irq, paging, segment, shared, task, time, trap};
use alloc::boxed::Box;
use core::arch::global_asm;
use lg_abi::boot::{
    COMMAND_LINE_MAX, E820_RAM, E820Entry, LOADER_UNREGISTERED, offset,
};
use lg_abi::page::{DEFAULT_PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE, pages};

/// Bytes of the kernel's one stack: tasks are futures and have none.
const STACK_SIZE: usize = 64 << 10;

global_asm!(
    // The linker script puts this first. The mark must not occur anywhere
    // before it. The byte after it is the first instruction.
    ".section .text.boot, \"ax\"",
    ".ascii \"GenuineLguest\"",
    ".globl lguest_entry",
    // esi = physical address of the boot parameters; nothing else is set.
    "lguest_entry:",
    "    mov $lguest_stack + {stack_size}, %esp",
    "    xor %ebp, %ebp",
    "    sub $12, %esp", // the argument ends up aligned to 16
    "    push %esi",
    "    call lguest_start",
    ".section .bss.stack, \"aw\", @nobits",
    ".balign 16",
    "lguest_stack:",
    "    .skip {stack_size}",
    stack_size = const STACK_SIZE,
    options(att_syntax)
);

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
/// With `early: f` after it, `f` is called before anything else.
/// Nothing of the kit works there, because INITIALIZE has not been
/// called yet.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::entry!($main, early: $crate::boot::nothing);
    };
    ($main:path, early: $early:path) => {
        const _: () = {
            #[allow(unsafe_code, reason = "the kit calls it by this name")]
            #[unsafe(no_mangle)]
            extern "C" fn lguest_early() {
                let early: fn() = $early;
                early();
            }

            #[allow(unsafe_code, reason = "the kit calls it by this name")]
            #[unsafe(no_mangle)]
            extern "C" fn lguest_main() {
                let main: fn(&'static $crate::boot::Boot) = $main;
                main($crate::boot::boot())
            }
        };
    };
}

/// The early function of most Guests: it does nothing.
#[doc(hidden)]
pub const fn nothing() {}

/// Rust begins here, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn lguest_start(parameters: Phys) -> ! {
    let entered = time::tsc();
    lguest_early();
    let (noirq_start, noirq_end) = trap::noirq();
    shared::init(noirq_start, noirq_end);
    time::init(entered);

    let boot = read(parameters);
    let (start, end) = frames_of(&boot);
    frame::init(start, end);
    paging::init(boot.memory);
    heap::init();
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
