//! The user-process driver: the view lets user code run, and maps for it.
//!
//! The view answers the call in which its user process stands, and waits for
//! the next one. What comes back are a few words and a page of registers, and
//! all of it may be made up: the words are decoded into what user code could
//! have caused anyway, and the registers are made such that loading them cannot
//! fault. While the user process stands, its page does not change; its mapper
//! can be given orders, and has carried them out when it asks for more.

#![expect(unsafe_code, reason = "system calls, and assembly")]

use crate::ask::die;
use crate::clock::{CLOCK_MONOTONIC, arm, clock_of, nanoseconds};
use crate::fpu;
use crate::layout::{COMMANDS, Command, MAX_COMMANDS, USER, UserPages};
use crate::leave::look_from_now_on;
use crate::mapper::Mmap;
use crate::notify::Standing;
use crate::process::{
    self, CLONE_FILES, CLONE_PARENT, MAP_SHARED_FIXED_ANONYMOUS,
};
use crate::segments::{self, UserDescriptor};
use crate::shared::{setup, state};
use crate::syscall::{FORCE_SIGNAL, call, errno, nr};
use crate::user;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, Ordering};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::segment::Descriptor;
use lg_host::address::{GuestPhys, GuestVirt, as_word};
use lg_host::cpu::extended::{Extended, part};
use lg_host::cpu::registers::{
    EFLAGS_FIXED, EFLAGS_NT, EFLAGS_RF, EFLAGS_USABLE,
};
use lg_host::run::Event;
use lg_host::state::Registers;
use lg_host::world::{Access, MapError, Mapper};
use lg_wire::spawn::KICK_SIGNAL;

/// What a view and its user process share, as the view sees it.
fn pages() -> &'static UserPages {
    // SAFETY: mapped by `start`; all of it are user processes and atomics.
    unsafe { &*(USER as *const UserPages) }
}

/// The driver of this view's user process.
struct UserDriver {
    user_process: Standing,
    /// The user process's process number.
    process: usize,
    /// The bits of MXCSR that there are.
    mxcsr_mask: u32,
    /// The view's timer.
    timer: u32,
}

/// How soon a user process is kicked again that has not answered, in
/// nanoseconds.
const KICK_AGAIN: u64 = 10_000_000;

/// How long a user process may work and not answer. It does not take it a
/// hundredth of that, however long it has to wait for the processor.
const PATIENCE: u64 = 30_000_000;

struct TheDriver(UnsafeCell<Option<UserDriver>>);

// SAFETY: there is one thread, and signal handlers do not touch it.
unsafe impl Sync for TheDriver {}

static USER_DRIVER: TheDriver = TheDriver(UnsafeCell::new(None));

/// A user process that has been made: what others have to know of it.
pub(crate) struct Made {
    /// Maps in it.
    pub(crate) mapper: UserMapper,
    /// Its process number and its mapper's.
    pub(crate) processes: [u32; 2],
    /// The descriptors on which the two are heard.
    pub(crate) listeners: [u32; 2],
}

/// Makes a user process for this view, which is not confined yet. Blocks until
/// it is ready.
pub(crate) fn start(
    launcher: Result<usize, i32>,
    timer: u32,
) -> Result<Made, i32> {
    let size = size_of::<UserPages>();
    process::map(USER, size, -1, MAP_SHARED_FIXED_ANONYMOUS)?;
    let process = process::fork(CLONE_PARENT | CLONE_FILES)?;
    if process == 0 {
        user::live(launcher);
    }
    let page = &pages().page;
    let number = u32::try_from(process).map_err(|_| errno::ENOMEM)?;
    page.processes[0].store(number, Ordering::SeqCst);
    HALF_MADE.store(number.cast_signed(), Ordering::Relaxed);
    let listeners = [user::listener(page, 0)?, user::listener(page, 1)?];
    let processes =
        [0, 1].map(|n: usize| page.processes[n].load(Ordering::SeqCst));
    let driver = UserDriver {
        user_process: Standing::first(listeners[0] as usize)?,
        process,
        mxcsr_mask: mxcsr_mask(),
        timer,
    };
    // SAFETY: the only use, and nobody else has looked yet.
    unsafe { *USER_DRIVER.0.get() = Some(driver) };
    Ok(Made {
        mapper: UserMapper {
            files: Mmap::new(setup()),
            task: Standing::first(listeners[1] as usize)?,
            count: 0,
            forbidden_below: 0,
        },
        processes,
        listeners,
    })
}

/// The process that is to be the user process, for the case that it cannot be.
static HALF_MADE: AtomicI32 = AtomicI32::new(0);

/// The process of a user process that could not be made, or 0.
pub(crate) fn half_made() -> i32 {
    HALF_MADE.load(Ordering::Relaxed)
}

/// So often in a row a user process may have called, and not be there: each
/// time it takes a kick of ours.
const MAX_MISSED: u32 = 10_000;

/// Lets user code run, with the registers in the state, until something
/// happens to it.
pub(crate) fn run() -> Event {
    // SAFETY: one use at a time: the Host runs once, and handlers do not come
    // here.
    let driver = unsafe { &mut *USER_DRIVER.0.get() };
    let driver = driver.as_mut().expect("only a view with a user_process");
    let (vm, page) = (&state().vm, &pages().page);
    copy_registers(&vm.regs, &page.regs);
    fpu::put_fpu_away();
    page.fpu.0.set(vm.fpu.0.get());
    driver.user_process.answer(0);
    let (mut missed, mut kicked_at) = (0, None);
    let said = loop {
        match driver.user_process.receive_or_kick() {
            Ok(said) => break said,
            Err(errno::EINTR) => {
                look_from_now_on();
                driver.kick(&mut kicked_at);
            }
            // It stood, and our kick made it call once more; or it has gone.
            Err(errno::ENOENT) if missed < MAX_MISSED => missed += 1,
            Err(_) => die(&"the process of its user code is gone"),
        }
    };
    copy_registers(&page.regs, &vm.regs);
    make_loadable(&vm.regs);
    let mut fpu = page.fpu.0.get();
    make_fpu_loadable(&mut fpu, driver.mxcsr_mask);
    vm.fpu.0.set(fpu);
    fpu::take_fpu();
    user::decode([said[0], said[1], said[2]])
}

impl UserDriver {
    /// Kicks the user process, and comes back to it if it does not answer.
    /// `kicked_at` is how long it had worked when it was kicked first.
    fn kick(&self, kicked_at: &mut Option<u64>) {
        let worked = nanoseconds(clock_of(as_word(self.process)) as usize);
        let since = worked.saturating_sub(*kicked_at.get_or_insert(worked));
        let signal = if since > PATIENCE {
            FORCE_SIGNAL
        } else {
            KICK_SIGNAL
        };
        arm(self.timer, nanoseconds(CLOCK_MONOTONIC) + KICK_AGAIN);
        let signal = signal.cast_unsigned() as usize;
        let arguments = [self.process, self.process, signal, 0, 0, 0];
        // SAFETY: the user process's handler is made for it.
        let _ = unsafe { call(nr::TGKILL, arguments) };
    }
}

/// Whether the thread that ran last uses extended state.
pub(crate) fn extended_in_use() -> bool {
    pages().page.extended.parts.get() & part::ALL != 0
}

/// Copies what the user process has saved of it.
pub(crate) fn save_extended(to: &Extended) {
    to.copy_from(&pages().page.extended, part::ALL);
}

/// Another thread's is to be loaded, when user code runs next. The user process
/// wipes what the last thread has left.
pub(crate) fn load_extended(from: Option<&Extended>) {
    let page = &pages().page;
    match from {
        Some(from) => page.extended.copy_from(from, part::ALL),
        None => page.extended.copy_from(&Extended::default(), part::ALL),
    }
    page.wipe.set(1);
}

/// Copies every register once.
fn copy_registers(from: &Registers, to: &Registers) {
    to.eax.set(from.eax.get());
    to.ebx.set(from.ebx.get());
    to.ecx.set(from.ecx.get());
    to.edx.set(from.edx.get());
    to.esi.set(from.esi.get());
    to.edi.set(from.edi.get());
    to.ebp.set(from.ebp.get());
    to.esp.set(from.esp.get());
    to.eip.set(from.eip.get());
    to.eflags.set(from.eflags.get());
    to.ds.set(from.ds.get());
    to.es.set(from.es.get());
    to.fs.set(from.fs.get());
    to.gs.set(from.gs.get());
    to.fs_base.set(from.fs_base.get());
    to.gs_base.set(from.gs_base.get());
    to.ss.set(from.ss.get());
    to.reload.set(from.reload.replace(0));
}

/// What user code cannot have in its registers is taken out of them.
fn make_loadable(regs: &Registers) {
    /// What a program can set, and what the processor does.
    const FLAGS: u32 = EFLAGS_USABLE | EFLAGS_NT | EFLAGS_RF;
    regs.eflags.set(regs.eflags.get() & FLAGS | EFLAGS_FIXED);
    for selector in [&regs.ds, &regs.es, &regs.fs, &regs.gs] {
        if !is_loadable(selector.get()) {
            selector.set(0);
        }
    }
}

/// Whether a data segment register takes this selector.
fn is_loadable(selector: u32) -> bool {
    let readable: u8;
    // SAFETY: asks the processor about a segment.
    unsafe {
        asm!(
            "verr {selector:x}",
            "setz {readable}",
            selector = in(reg) selector,
            readable = out(reg_byte) readable,
            options(nomem, nostack),
        );
    };
    selector <= 3 || selector <= 0xFFFF && readable != 0
}

/// FXRSTOR faults if MXCSR has bits that there are not.
fn make_fpu_loadable(image: &mut [u8; 512], mask: u32) {
    let [a, b, c, d] = mask.to_le_bytes();
    for (byte, mask) in image[24..28].iter_mut().zip([a, b, c, d]) {
        *byte &= mask;
    }
}

/// The bits of MXCSR that this processor has (Intel SDM volume 1, "Guidelines
/// for Writing to the MXCSR Register").
fn mxcsr_mask() -> u32 {
    const IF_IT_DOES_NOT_SAY: u32 = 0xFFBF;
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: the processor writes `image`.
    unsafe {
        asm!(
            "fxsave64 [{image}]",
            image = in(reg) &raw mut image,
            options(nostack, preserves_flags),
        );
    };
    let [a, b, c, d] = [28, 29, 30, 31].map(|n: usize| image.0[n]);
    match u32::from_le_bytes([a, b, c, d]) {
        0 => IF_IT_DOES_NOT_SAY,
        mask => mask,
    }
}

/// Where in an order to set a segment the entry is: behind the number and
/// three arguments.
const ENTRY_IN_ORDER: usize = 4 * size_of::<u64>();

/// Maps in a user process: by orders to its mapper, many at a time.
pub(crate) struct UserMapper {
    files: Mmap,
    task: Standing,
    count: usize,
    /// The machine maps nothing below this address.
    forbidden_below: u32,
}

impl UserMapper {
    fn order(
        &mut self,
        nr: usize,
        arguments: [usize; 6],
    ) -> Result<(), MapError> {
        if self.count == MAX_COMMANDS {
            // Whatever went wrong, it was with another page than this.
            self.flush().map_err(|_| MapError::NoRoom)?;
        }
        let [number, rest @ ..] = &pages().commands.0[self.count];
        number.set(nr as u64);
        for (word, argument) in rest.iter().zip(arguments) {
            word.set(argument as u64);
        }
        if nr == nr::MODIFY_LDT {
            // What it sets lies in the order itself, where the mapper sees it
            // and the user process cannot write.
            let place = self.count * size_of::<Command>();
            rest[1].set((COMMANDS + place + ENTRY_IN_ORDER) as u64);
        }
        self.count += 1;
        Ok(())
    }

    /// Order number `done` has failed: why, and what to learn from it.
    fn failure(&mut self, done: u64, error: i64) -> MapError {
        if error == -i64::from(errno::ENOMEM) {
            return MapError::NoRoom;
        }
        /// No machine forbids more than this.
        const MOST: u64 = 0x10_0000;
        let done = usize::try_from(done).ok();
        let order = done.and_then(|done| pages().commands.0.get(done));
        if let Some([nr, va, ..]) = order
            && nr.get() == nr::MMAP as u64
            && va.get() < MOST
        {
            let end = u32::try_from(va.get()).unwrap_or(0) + PAGE_SIZE;
            self.forbidden_below = self.forbidden_below.max(end);
        }
        MapError::Forbidden
    }
}

impl Mapper for UserMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        if va.0 < self.forbidden_below {
            return Err(MapError::Forbidden);
        }
        let arguments = self.files.arguments(va, pa, pages, access);
        self.order(nr::MMAP, arguments)
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        let [a, b] = UserDescriptor::new(index, descriptor).words();
        let size = size_of::<UserDescriptor>();
        // The entry lies behind the arguments that the call has, and its
        // address follows from the order's place: see `order`.
        self.order(nr::MODIFY_LDT, [segments::WRITE, 0, size, a, b, 0])
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let bytes = (pages as usize) << PAGE_SHIFT;
        self.order(nr::MUNMAP, [va.0 as usize, bytes, 0, 0, 0, 0])
    }

    fn flush(&mut self) -> Result<(), MapError> {
        if self.count == 0 {
            return Ok(());
        }
        let count = i64::try_from(self.count).unwrap_or(0);
        self.count = 0;
        self.task.answer(count);
        match self.task.receive() {
            Ok([_, 0, ..]) => Ok(()),
            Ok([done, error, ..]) => {
                Err(self.failure(done, error.cast_signed()))
            }
            Err(_) => die(&"the mapper of its user code is gone"),
        }
    }
}
