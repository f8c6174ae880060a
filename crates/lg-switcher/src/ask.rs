//! The mailbox and the run token, as a view uses them.
//!
//! A view makes a request and sleeps until the Launcher has answered. It passes
//! the run token to another view and sleeps until the token comes back.

use crate::clock::ticks;
use crate::shared::{state, trace};
use crate::syscall::{futex_wait, futex_wake};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};
use lg_wire::mailbox::{HOSTS_TURN, LAUNCHERS_TURN, Mailbox, Request};
use lg_wire::trace::{Event, Kind, group};
use lg_wire::turns::{self, Futex};

/// The kernel's futexes.
struct Kernel;

impl Futex for Kernel {
    type Word = AtomicU32;

    fn wait(word: &AtomicU32, value: u32) {
        futex_wait(word, value);
    }

    fn wake(word: &AtomicU32) {
        futex_wake(word);
    }
}

fn mailbox() -> &'static Mailbox {
    &state().vm.wire.mailbox
}

/// Makes a request, and blocks until the Launcher has answered.
pub(crate) fn ask(request: Request, arguments: [u32; 3]) -> u32 {
    let mailbox = mailbox();
    let traced = trace_request(request, arguments);
    mailbox.write(request, arguments);
    turns::give::<Kernel>(&mailbox.turn, LAUNCHERS_TURN);
    turns::wait_for::<Kernel>(&mailbox.turn, HOSTS_TURN, || true);
    if let Some(number) = traced {
        trace().end(number, ticks());
    }
    mailbox.reply.load(Ordering::Relaxed)
}

/// Asks the Launcher to look for a better processor, and does not wait for it:
/// where many processes want this one, the answer takes milliseconds. Waking
/// the Launcher's thread too early makes it look at the word.
pub(crate) fn want_balance() {
    state().vm.wire.balance_wanted.store(1, Ordering::SeqCst);
    Kernel::wake(&mailbox().turn);
}

/// Records a request in the trace, if requests are wanted there. Answers the
/// number of the record.
fn trace_request(request: Request, [a, b, _]: [u32; 3]) -> Option<u64> {
    let vm = &state().vm;
    let wanted = vm.wire.traced.load(Ordering::Relaxed);
    (wanted & group::REQUESTS != 0).then(|| {
        let event = Event {
            kind: Kind::Request,
            user: vm.in_user_mode(),
            detail: request as u16,
            eip: vm.regs.eip.get(),
            words: [a, b, 0],
        };
        trace().write(ticks(), &event)
    })
}

/// Reports why the Guest is over, and waits to be killed.
pub fn die_of(request: Request, reason: &[u8]) -> ! {
    mailbox().write_text(reason);
    loop {
        ask(request, [0; 3]);
    }
}

/// Passes the run token to the view in `slot`.
pub(crate) fn pass_run_token(slot: usize) {
    turns::pass::<Kernel>(&state().vm.wire.run_tokens[slot]);
}

/// Blocks until the view in `slot`, which is this one, has the run token, and
/// takes it.
pub(crate) fn wait_for_run_token(slot: usize) {
    turns::take::<Kernel>(&state().vm.wire.run_tokens[slot]);
}

/// Blocks until the Launcher has nothing to answer. A view that was made anew
/// has the run token while the request for it still waits for its answer.
pub(crate) fn wait_for_turn() {
    turns::wait_for::<Kernel>(&mailbox().turn, HOSTS_TURN, || true);
}

/// The Host ends the Guest. Waits to be killed.
pub(crate) fn die(reason: &dyn fmt::Display) -> ! {
    let mut text = Text {
        bytes: [0; 200],
        len: 0,
    };
    // A text that is too long is cut, which is no error here.
    let _ = write!(text, "{reason}");
    die_of(Request::Killed, &text.bytes[..text.len])
}

struct Text {
    bytes: [u8; 200],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            let free = self.bytes.get_mut(self.len).ok_or(fmt::Error)?;
            *free = byte;
            self.len += 1;
        }
        Ok(())
    }
}
