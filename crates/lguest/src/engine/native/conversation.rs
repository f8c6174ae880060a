//! The conversation with the Host: the turn, and what the Host asks.
//!
//! Host and Launcher take turns at the mailbox. The Host writes a request and
//! gives the turn; the Launcher reads each word of it once, checks it, carries
//! it out, and gives the turn back. If the engine cannot answer a request
//! alone, `run` comes back.

use super::core::Core;
use super::kernel::Kernel;
use super::processes::NotRenewed;
use super::running::{Running, Views};
use super::turn::Conversation;
use crate::engine::death::{Death, printable};
use crate::engine::debug::{Stopped, Told};
use crate::engine::error::RequestError;
use crate::engine::interface::{DeviceAccess, Exit};
use crate::lock::lock;
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::PAGE_SIZE;
use lg_wire::debug::{Order, Stop};
use lg_wire::mailbox::{LAUNCHERS_TURN, Mailbox, Request, reason};
use lg_wire::turns;
use std::sync::atomic::Ordering;

impl Core {
    /// Runs the Guest until there is an [`Exit`] to handle. Blocks.
    pub(super) fn run(&self) -> Result<Exit, RequestError> {
        let running = self.running.get().ok_or(RequestError::NotInitialised)?;
        let mut conversation = lock(&self.conversation);
        loop {
            if let Some(death) = self.death() {
                return Ok(Exit::Dead(death));
            }
            if conversation.is_clean() && self.stays(running) {
                if !self.holds.is_asked() {
                    return Ok(Exit::Held);
                }
                // Before its first request, the Host is on the way to it.
                if *conversation == Conversation::Stopped {
                    self.holds.give(running.shared.mailbox());
                }
            }
            conversation.go_on(running);
            if !self.wait_for_request(running) {
                continue;
            }
            let mailbox = running.shared.mailbox();
            running.stands.store(!running.kick_always, Ordering::SeqCst);
            let exit = self.serve(mailbox, running, &mut conversation);
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// Whether a Guest at a clean point stays there.
    fn stays(&self, running: &Running) -> bool {
        let stop = running.shared.break_wanted();
        self.holds.stands(|| stop.store(0, Ordering::SeqCst))
    }

    /// Sleeps until it is our turn. Returns whether there is a request; there
    /// is none if the Guest has died meanwhile.
    fn wait_for_request(&self, running: &Running) -> bool {
        let turn = &running.shared.mailbox().turn;
        self.waiting.store(true, Ordering::SeqCst);
        let alive = || {
            if running.shared.takes_balance_wanted() {
                running.balance();
            }
            self.death().is_none()
        };
        let came = turns::wait_for::<Kernel>(turn, LAUNCHERS_TURN, alive);
        self.waiting.store(false, Ordering::SeqCst);
        came
    }

    /// Reads the request, once, and carries it out. Returns an [`Exit`] if
    /// `run` has to come back.
    pub(super) fn serve(
        &self,
        mailbox: &Mailbox,
        views: &dyn Views,
        conversation: &mut Conversation,
    ) -> Option<Exit> {
        *conversation = Conversation::Owed;
        let number = mailbox.request.load(Ordering::SeqCst);
        let arguments =
            [0, 1, 2].map(|n| mailbox.arguments[n].load(Ordering::SeqCst));
        let [a, b, _] = arguments;
        let request = Request::from_number(number);
        if self.holds.is_given() && !may_follow_order(request) {
            return Some(self.killed(format!(
                "its Host asked for {number} in the middle of an order"
            )));
        }
        match request {
            Some(Request::SendDma) => match self.check_send(a, b) {
                Ok(()) => Some(Exit::SendDma { key: a, dma: b }),
                Err(why) => Some(self.killed(why)),
            },
            Some(Request::Notify) => match self.memory.section(a, 1) {
                Ok(_) => Some(Exit::Notify { address: a }),
                Err(bad) => {
                    Some(self.killed(format!("notified about a {bad}")))
                }
            },
            Some(Request::ReadDevice) => {
                let [device, offset, bytes] = arguments;
                Some(match device_access([device, offset, bytes]) {
                    Ok(access) => Exit::ReadDevice(access),
                    Err(why) => self.killed(why),
                })
            }
            Some(Request::WriteDevice) => {
                let [which, offset, value] = arguments;
                let (device, bytes) = (which >> 8, which & 0xFF);
                Some(match device_access([device, offset, bytes]) {
                    Ok(access) => Exit::WriteDevice { access, value },
                    Err(why) => self.killed(why),
                })
            }
            Some(Request::BindDma) => Some(self.bind(mailbox, arguments)),
            Some(Request::StartView) => {
                // If the machine has no room for one more process, the Guest
                // lives on. Its Host uses the views that it has.
                let started = views.start_view(a);
                reply(mailbox, started.is_ok());
                *lock(&self.refused) = started.err();
                None
            }
            // The new view goes on when it gets the turn.
            Some(Request::RenewView) => {
                views.renew_view(a).err().map(|why| self.not_renewed(why))
            }
            Some(Request::BuffersMayBeFree) => Some(Exit::BuffersMayBeFree),
            Some(Request::Broken) => {
                *conversation = Conversation::Stopped;
                self.stopped(mailbox, arguments)
            }
            Some(Request::Crash) => {
                let (text, len) = mailbox.read_text();
                Some(self.ended(Death::of_crash(&text[..len])))
            }
            Some(Request::Killed) => {
                let (text, len) = mailbox.read_text();
                let mut why = printable(&text[..len]);
                if why.is_empty() {
                    why.push_str("its Host did not say why");
                }
                Some(self.killed(why))
            }
            None => Some(self.killed(format!(
                "its Host asked for {number}, which does not exist"
            ))),
        }
    }

    /// The Guest stands at a clean point. If that is the answer to an order,
    /// the debugger gets it. Until there is another order, the answer to this
    /// is that the Guest may go on.
    fn stopped(&self, mailbox: &Mailbox, report: [u32; 3]) -> Option<Exit> {
        let told = || Told::read(mailbox, report);
        let given = self.holds.is_given().then(told);
        mailbox.reply.store(Order::GoOn as u32, Ordering::SeqCst);
        if let Some(told) = given {
            self.holds.tell(told);
            return None;
        }
        let [reason, _, value] = report;
        match Stop::from_number(reason) {
            Some(Stop::Told) => None,
            Some(stop) => Some(Exit::Stopped(Stopped { stop, value })),
            None => Some(self.killed(format!(
                "its Host stands for a reason ({reason}) that does not exist"
            ))),
        }
    }

    /// A view was not made anew, and the old one is gone.
    fn not_renewed(&self, why: NotRenewed) -> Exit {
        let why = match why {
            NotRenewed::Lacks(lack) => {
                *lock(&self.refused) = Some(lack);
                reason::NO_VIEW
            }
            NotRenewed::TooOften => {
                "its kernel changes its own segments without end"
            }
            NotRenewed::NoSuchView => {
                "its Host asked for a new process for a view that does not exist"
            }
        };
        self.killed(why.into())
    }

    /// BIND_DMA. A Guest that has tried to bind may also have freed a buffer.
    fn bind(&self, mailbox: &Mailbox, [key, dmas, word]: [u32; 3]) -> Exit {
        if let Err(why) = self.check_key(key) {
            return self.killed(why);
        }
        let bound = lock(&self.bindings).bind(key, dmas, word);
        reply(mailbox, bound);
        if bound {
            Exit::BindingsChanged
        } else {
            Exit::BuffersMayBeFree
        }
    }

    fn check_key(&self, key: u32) -> Result<(), String> {
        if !key.is_multiple_of(KEY_ALIGN) {
            return Err(format!("DMA key {key:#x} is not a multiple of 4"));
        }
        self.memory
            .section(key, KEY_ALIGN)
            .map(drop)
            .map_err(|_| format!("bad DMA key {key:#x}"))
    }

    fn check_send(&self, key: u32, dma: u32) -> Result<(), String> {
        self.check_key(key)?;
        self.memory
            .section(dma, Dma::SIZE)
            .map(drop)
            .map_err(|bad| format!("sent a buffer at a {bad}"))
    }
}

/// Checks an access to registers of a device.
fn device_access(
    [device, offset, bytes]: [u32; 3],
) -> Result<DeviceAccess, String> {
    if !matches!(bytes, 1 | 2 | 4) || offset > PAGE_SIZE - bytes {
        return Err(format!(
            "its Host asked for {bytes} bytes at {offset:#x} of device {device}"
        ));
    }
    Ok(DeviceAccess {
        device,
        offset,
        bytes,
    })
}

/// Whether a Host that carries out an order may make this request.
fn may_follow_order(request: Option<Request>) -> bool {
    use Request::{Broken, Crash, Killed};
    matches!(request, Some(Broken | Crash | Killed))
}

/// Writes the answer to a request.
fn reply(mailbox: &Mailbox, ok: bool) {
    mailbox.reply.store(u32::from(ok), Ordering::SeqCst);
}
