//! GDB: how it comes to the Guest (`--gdb`), and what it may ask.
//!
//! In reading order: [`listen`] is where GDB connects, [`connection`] the
//! stream of bytes, [`session`] one session, [`target`] what gdbstub asks for
//! it, [`threads`] page directories as threads, [`registers`] the registers in
//! GDB's order, [`monitor`] the questions beside that, and [`inbox`] what the
//! thread that runs the Guest says. A thread of its own does all of this. The
//! Guest stands by a [`Hold`] while GDB asks, and its Host answers
//! ([`lg_wire::debug`]).
//!
//! Both sides are untrusted here: the Guest's processes may answer anything,
//! and the bytes of GDB may be anything. A packet that cannot be read ends the
//! session, and the Guest goes on.

mod connection;
pub use connection::Connection;

mod inbox;

mod listen;
pub use listen::{DebuggerError, Listener};

mod monitor;

mod registers;

mod session;

mod target;

mod threads;
use self::threads::Threads;

use self::inbox::Inbox;
use self::session::End;
use self::target::Debugged;
use crate::engine::debug::Stopped;
use crate::engine::{Engine, Hold};
use crate::thread;
use std::io;
use std::sync::Arc;

/// The thread that serves GDB, as the other threads see it.
pub struct Debugger {
    guest: Arc<dyn Engine>,
    inbox: Arc<Inbox>,
}

/// Bytes of the thread's stack.
const STACK: usize = 256 << 10;

impl Debugger {
    /// Starts the thread. With `hold`, the Guest stands until GDB has come.
    /// `kill` ends the Guest when GDB says so. `devices` is what `monitor
    /// devices` shows.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or thread left.
    pub fn start(
        guest: &Arc<dyn Engine>,
        mut listener: Listener,
        hold: Option<Hold>,
        devices: Arc<[String]>,
        kill: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::new()?);
        let mut debugged = Debugged {
            guest: guest.clone(),
            inbox: inbox.clone(),
            hold,
            devices,
            threads: Threads::default(),
        };
        thread::start("debugger", STACK, move || {
            let news = debugged.inbox.clone();
            while let Some(gdb) = listener.next(news.event()) {
                let end = session::serve(gdb, &mut debugged);
                debugged.detach();
                match end {
                    End::Left => {}
                    End::Kill => kill(),
                    End::Ended => break,
                }
            }
        })?;
        let guest = guest.clone();
        Ok(Self { guest, inbox })
    }

    /// The Guest has stopped by itself. It is held if GDB is there.
    pub fn stopped(&self, stopped: Stopped) {
        if self.inbox.is_attached()
            && let Ok(hold) = self.guest.hold()
        {
            self.inbox.stopped(stopped, hold);
        }
    }

    /// The Guest has ended with this exit code. Waits until GDB was told, but
    /// not for long.
    pub fn ended(&self, code: u8) {
        self.inbox.ended(code);
    }
}

/// A session with bytes from `gdb`, for fuzz targets. Returns when one side has
/// ended it.
#[cfg(fuzzing)]
pub fn session(guest: &Arc<dyn Engine>, gdb: Connection) {
    let Ok(inbox) = Inbox::new() else { return };
    let mut debugged = Debugged {
        guest: guest.clone(),
        inbox: Arc::new(inbox),
        hold: None,
        devices: Arc::new([]),
        threads: Threads::default(),
    };
    session::serve(gdb, &mut debugged);
    debugged.detach();
}
