//! A held Guest: where its state is, and that its program sees no change.
//!
//! A program keeps known values in x87, xmm and ymm registers, compares them
//! in a loop, and traps when one has changed.

#![expect(unsafe_code, reason = "reads what the views share")]

use super::*;
use crate::engine::interface::Isolation;
use crate::loader::{self, Image};
use lg_host::state::Vm;
use lg_switcher::layout::State;
use lg_wire::state::VERSION;
use std::fs::File;
use std::io::Write;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// What the program has in eax, xmm5, and in the upper half of ymm6.
const VALUE: u32 = 0x1234_5678;

/// How long a Guest may run between two holds. A hold that comes at once finds
/// the Guest still standing, and it would never run.
const RUNS: Duration = Duration::from_millis(1);

/// Pi, as the floating-point unit has it.
const PI: [u8; 10] =
    [0x35, 0xC2, 0x68, 0x21, 0xA2, 0xDA, 0x0F, 0xC9, 0x00, 0x40];

#[rustfmt::skip]
const PROGRAM: [u8; 47] = [
    0xDB, 0xE3,                         // fninit
    0xD9, 0xEB,                         // fldpi
    0xB8, 0x78, 0x56, 0x34, 0x12,       // mov $VALUE, %eax
    0x66, 0x0F, 0x6E, 0xE8,             // movd %eax, %xmm5
    0xC4, 0xE3, 0x4D, 0x18, 0xF5, 0x01, // vinsertf128 $1, %xmm5, %ymm6, %ymm6
    // again:
    0xC4, 0xE3, 0x7D, 0x19, 0xF7, 0x01, // vextractf128 $1, %ymm6, %xmm7
    0x66, 0x0F, 0x7E, 0xF9,             // movd %xmm7, %ecx
    0x39, 0xC1,                         // cmp %eax, %ecx
    0x75, 0x0E,                         // jne bad
    0x66, 0x0F, 0x7E, 0xE9,             // movd %xmm5, %ecx
    0x39, 0xC1,                         // cmp %eax, %ecx
    0x75, 0x06,                         // jne bad
    0xD9, 0xEB,                         // fldpi
    0xDF, 0xE9,                         // fucomip %st(1), %st
    0x74, 0xE4,                         // je again
];

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    User,
    Kernel,
}

/// The attacker's script: user code is in a thread of its own. `bad` is the
/// trap behind the program.
fn script(mode: Mode) -> Vec<u8> {
    const KERNEL_CODE: u32 = 4;
    const USER_CODE: u32 = 5;
    const THREAD: u32 = 4;
    let mut code = PROGRAM.to_vec();
    code.extend([0x0F, 0x0B]); // bad: ud2
    let mut record = Vec::new();
    let op = match mode {
        Mode::User => USER_CODE,
        Mode::Kernel => KERNEL_CODE,
    };
    record.extend(op.to_le_bytes());
    record.extend(THREAD.to_le_bytes());
    record.extend((code.len() as u64).to_le_bytes());
    record.extend(code);
    record.resize(8 + 15 * 8, 0);
    record
}

fn memory_file(bytes: &[u8]) -> File {
    let file = crate::memory::executable_file("script").unwrap();
    let mut file = File::from(file);
    file.write_all(bytes).unwrap();
    file
}

/// The attacker with this script, ready to run.
fn start(mode: Mode, isolation: Isolation) -> Arc<Native> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/built/");
    let kernel = File::open(format!("{built}attacks")).unwrap();
    let memory = GuestMemory::new(16 << 20, 1).unwrap();
    let start = loader::load(
        &memory,
        &Image::File(kernel),
        Some(&memory_file(&script(mode))),
        b"attack=script quiet",
    );
    let guest = Native::new(memory);
    let setup = Setup {
        isolation,
        ..Setup::from(start.unwrap())
    };
    guest.initialize(setup).unwrap();
    guest
}

/// Runs the Guest until it dies. It sends only what the attacker prints at its
/// start.
fn run(guest: &Native) -> Death {
    loop {
        match guest.run().unwrap() {
            Exit::SendDma { dma, .. } => {
                guest.memory().write_last(dma, 4096).unwrap();
            }
            Exit::BindingsChanged
            | Exit::BuffersMayBeFree
            | Exit::Notify { .. }
            | Exit::Stopped(_)
            | Exit::WriteDevice { .. } => {}
            Exit::ReadDevice(_) => guest.answer(0),
            Exit::Held => guest.wait_until_let_go(),
            Exit::Dead(death) => return death,
        }
    }
}

/// Ends the Guest when it is dropped, so that the thread that runs the Guest
/// comes back even if a test fails.
struct Ends<'g>(&'g Native);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.kill("enough".into());
    }
}

/// A copy of all that is known of a Guest that is held.
fn known(guest: &Native) -> Box<Vm> {
    let file = &guest.core.running.get().unwrap().shared.file;
    let file = File::from(file.try_clone().unwrap());
    let mut bytes = vec![0; size_of::<Vm>()];
    let at = offset_of!(State, vm) as u64;
    file.read_exact_at(&mut bytes, at).unwrap();
    let mut copy = Box::<Vm>::new_uninit();
    let to = copy.as_mut_ptr().cast::<u8>();
    // SAFETY: there is room for all of it.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    // SAFETY: all of it is numbers, and has been written.
    unsafe { copy.assume_init() }
}

/// Whether all registers of the program's loop are in the state. The ymm
/// registers of a kernel are not kept, and so not checked.
fn is_in_the_state(guest: &Native, mode: Mode) -> bool {
    let vm = known(guest);
    let user = vm.in_user_mode();
    if user != (mode == Mode::User) || vm.regs.eax.get() != VALUE {
        return false;
    }
    let fpu = vm.fpu.0.get();
    if fpu[32..42] != PI {
        return false; // before fldpi
    }
    let xmm = |n: usize| {
        u128::from_le_bytes(*fpu[160..].as_chunks().0[n..].first().unwrap())
    };
    if xmm(5) != VALUE.into() {
        return false; // before movd
    }
    if mode == Mode::Kernel {
        return true;
    }
    let state = vm.threads.of(vm.cr3.get(), vm.esp1.get());
    state.is_some_and(|state| state.upper_half(6) == VALUE.into())
}

fn holds(mode: Mode, isolation: Isolation) {
    if !is_x86_feature_detected!("avx") {
        println!("SKIPPED a held guest's state: this processor has no AVX");
        return;
    }
    let guest = start(mode, isolation);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&guest));
        let ends = Ends(&guest);
        let start = Instant::now();
        let mut found = 0;
        while found < 50 {
            let hold = guest.hold().unwrap();
            hold.wait().unwrap();
            let good = is_in_the_state(&guest, mode);
            assert!(good || found == 0, "it was there before");
            found += u32::from(good);
            assert!(start.elapsed() < Duration::from_secs(60));
            drop(hold);
            std::thread::sleep(RUNS);
        }
        assert_eq!(guest.death(), None, "the program has seen no change");
        drop(ends);
        let death = run.join().unwrap();
        assert_eq!(death, Death::Killed("enough".into()));
    });
}

#[test]
fn a_held_guests_registers_are_all_in_the_state() {
    holds(Mode::User, Isolation::Guest);
}

#[test]
fn a_held_kernels_registers_are_all_in_the_state() {
    holds(Mode::Kernel, Isolation::Guest);
    holds(Mode::Kernel, Isolation::User);
}

#[test]
fn a_held_programs_registers_are_all_in_the_state() {
    holds(Mode::User, Isolation::User);
}

#[test]
fn a_guest_goes_on_when_the_last_hold_is_gone() {
    let guest = start(Mode::User, Isolation::Guest);
    std::thread::scope(|scope| {
        scope.spawn(|| run(&guest));
        let _ends = Ends(&guest);
        let one = guest.hold().unwrap();
        let other = guest.hold().unwrap();
        one.wait().unwrap();
        drop(one);
        // It stands also with interrupts pending.
        let entries = || known(&guest).counters.entries.get();
        let before = entries();
        guest.irq(1).unwrap();
        assert_eq!(other.wait_for(Duration::ZERO), Ok(true));
        assert_eq!(entries(), before);
        drop(other);
        let start = Instant::now();
        loop {
            let hold = guest.hold().unwrap();
            hold.wait().unwrap();
            if entries() != before {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            drop(hold);
            std::thread::sleep(RUNS);
        }
    });
}

#[test]
fn views_of_another_version_are_refused() {
    let setup = Setup::from(lg_abi::request::Initialize {
        pfn_limit: 0x101,
        pgdir: 0,
        start: 0,
        page_offset: 0xC000_0000,
    });
    let memory = GuestMemory::new(1 << 20, 1).unwrap();
    let start = |version| Running::start_version(&memory, &setup, version);
    let refused = start(VERSION + 1).err().unwrap().to_string();
    assert_eq!(
        refused,
        "cannot start the guest: lguest and the program in it that runs a \
         guest are of different versions; delete the folder 'target' and \
         build lguest again"
    );
    start(VERSION).unwrap().processes.kill_all();
}
