//! The control socket of a machine: a thread of the Launcher serves it.
//!
//! Clients are processes of the same user, and strangers as far as their bytes
//! go. Each client has a bounded buffer in each direction, and nothing waits
//! for a client: one that does not read gets no more answers, and misses the
//! output that meanwhile leaves the backlog. The thread sleeps until a client
//! sends something, the Guest prints something, or the machine ends.

use super::protocol::{
    Asked, Attached, BYTES_MOST, Begun, Call, Counts, Devices, Done,
    FILES_MOST, Failure, Frozen, Id, Inspected, LINE_MOST, Read, State, Traced,
    answer, failed, notification, parse,
};
use super::record::{End, Facts};
use crate::credentials::peer_of_our_user;
use crate::devices::console::backlog::Backlog;
use crate::lock::lock;
use crate::trace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recvmsg, send,
    sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most clients.
pub const CLIENTS_MOST: usize = 128;

/// How long the end of a machine waits for clients that take nothing ...
const NO_PROGRESS: Duration = Duration::from_millis(500);

/// ... and for those that take something.
const END_MOST: Duration = Duration::from_secs(3);

/// The pause after a client could not be accepted, because too many files are
/// open.
const TOO_MANY_FILES: Duration = Duration::from_millis(20);

/// Why there is no stream to an agent.
pub const NO_AGENT: &str = "it has no port to an agent: start it with \
                            'lguest run --agent'";

/// What the control socket does with a machine.
pub trait Controlled: Send {
    /// What does not change.
    fn facts(&self) -> &Facts;
    /// Its output.
    fn backlog(&self) -> &Backlog;
    /// Whether it is paused.
    fn is_paused(&self) -> bool;
    /// What it has done so far.
    fn counts(&self) -> Counts;
    /// Stops the Guest until [`Self::resume`]. May block for a moment.
    ///
    /// # Errors
    ///
    /// Why not.
    fn pause(&mut self) -> Result<(), String>;
    /// The Guest goes on.
    fn resume(&mut self);
    /// Stops the Guest until [`Self::thaw`] and hands its files over. May block
    /// as long as its disks do.
    ///
    /// # Errors
    ///
    /// Why not.
    fn freeze(&mut self) -> Result<(Frozen, Vec<OwnedFd>), String>;
    /// A frozen Guest goes on.
    fn thaw(&mut self);
    /// Has these groups traced until [`Self::end_trace`], and samples taken so
    /// often, if that is not 0. Hands the file over in which the trace is.
    ///
    /// # Errors
    ///
    /// Why not.
    fn trace(
        &mut self,
        groups: u32,
        sample_every: Duration,
    ) -> Result<(Traced, OwnedFd), String>;
    /// Only what was traced before is traced.
    fn end_trace(&mut self);
    /// What to type to ask the Guest to power off, if that is possible.
    fn stop_keys(&self) -> Option<String>;
    /// Whether it has a port to an agent in its Guest.
    fn has_agent(&self) -> bool {
        false
    }
    /// Gives a stream to the agent to the other end of `socket`.
    ///
    /// # Errors
    ///
    /// Why not.
    fn exec(&mut self, _socket: OwnedFd) -> Result<Begun, String> {
        Err(NO_AGENT.into())
    }
    /// Its devices, but the console.
    fn devices(&self) -> Devices {
        Devices::default()
    }
    /// Takes a device away. May block as long as its requests do.
    ///
    /// # Errors
    ///
    /// Why not.
    fn remove(&mut self, _device: &str) -> Result<(), String> {
        Err("it has no devices".into())
    }
    /// Begins to end the Guest. Does not block.
    fn kill(&mut self);
    /// The Guest has printed what it prints when it is ready.
    fn ready(&mut self);
}

/// The end of a machine, as the Launcher tells it.
#[derive(Clone, Default)]
pub struct Ended(Arc<Mutex<Option<End>>>);

impl Ended {
    /// Notes the end. The caller then wakes the server by its event.
    pub fn set(&self, end: End) {
        *lock(&self.0) = Some(end);
    }

    fn get(&self) -> Option<End> {
        lock(&self.0).clone()
    }
}

/// What a server is made of.
pub struct Parts {
    /// The machine.
    pub machine: Box<dyn Controlled>,
    /// Where clients connect. Does not block.
    pub listener: OwnedFd,
    /// A pipe for what they type. Does not block.
    pub typed: OwnedFd,
    /// The event of new output, and of the end.
    pub news: OwnedFd,
    /// The end.
    pub ended: Ended,
}

/// The server.
pub struct Server {
    parts: Parts,
    clients: Vec<Client>,
    /// The number of the next client.
    next: u64,
    /// The client that types on the console.
    types: Option<u64>,
    /// The client of whose bytes only a part is typed.
    begun: Option<u64>,
    /// The client that has frozen the Guest.
    freezes: Option<u64>,
    /// The client for which more is traced.
    traces: Option<u64>,
    told_ready: bool,
    /// The state that is noted for those that do not ask.
    noted: Option<State>,
}

/// A client.
struct Client {
    number: u64,
    /// Its process.
    pid: u32,
    socket: OwnedFd,
    /// What it has sent and is not carried out yet.
    incoming: Vec<u8>,
    /// It sends nothing more.
    silent: bool,
    /// What it has not received yet.
    outgoing: Vec<u8>,
    /// Files that go with the next byte.
    files: Vec<OwnedFd>,
    /// The last file that it has sent, for a call that needs one.
    given: Option<OwnedFd>,
    /// Since when it has not taken that.
    stuck: Option<Instant>,
    /// The position in the output, if it follows that.
    looks: Option<u64>,
    /// The call that waits for the end.
    waits: Option<Option<Id>>,
    /// What it types, and the call.
    typing: Option<(Vec<u8>, Option<Id>)>,
    /// It has been told the end.
    told_end: bool,
    /// It is closed when it has received everything.
    over: bool,
    /// It has closed its end, and receives nothing any more.
    hung: bool,
    /// It is gone.
    gone: bool,
}

impl Client {
    fn new(number: u64, pid: u32, socket: OwnedFd) -> Self {
        Self {
            number,
            pid,
            socket,
            incoming: Vec::new(),
            silent: false,
            outgoing: Vec::new(),
            files: Vec::new(),
            given: None,
            stuck: None,
            looks: None,
            waits: None,
            typing: None,
            told_end: false,
            over: false,
            hung: false,
            gone: false,
        }
    }

    /// Whether the next of its calls can be carried out.
    fn is_free(&self) -> bool {
        self.outgoing.is_empty() && self.typing.is_none() && !self.over
    }

    fn flags(&self, output_end: u64) -> PollFlags {
        let mut flags = PollFlags::empty();
        if self.is_free() && !self.silent && self.incoming.len() < LINE_MOST {
            flags |= PollFlags::IN;
        }
        let behind = self.looks.is_some_and(|at| at < output_end);
        if !self.outgoing.is_empty() || behind {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// It has closed its end. What it has sent before is carried out.
    fn hang(&mut self) {
        self.hung = true;
        self.looks = None;
        self.waits = None;
        self.outgoing.clear();
        self.files.clear();
    }

    fn say(&mut self, line: &[u8]) {
        if self.hung {
            return;
        }
        self.outgoing.extend_from_slice(line);
    }

    /// Answers a call, if it has an id.
    fn answer(&mut self, id: Option<&Id>, line: impl FnOnce(&Id) -> Vec<u8>) {
        if let Some(id) = id {
            let line = line(id);
            self.say(&line);
        }
    }

    /// Sends what it takes at once.
    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match send_with(&self.socket, &self.outgoing, &self.files) {
                Ok(n) => {
                    self.files.clear();
                    self.outgoing.drain(..n);
                    self.stuck = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return;
                }
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        if self.over {
            self.gone = true;
        }
    }

    /// Receives what it has sent, as far as there is room. `files`: also a
    /// file. Without it, the kernel closes files that come.
    fn receive(&mut self, files: bool) {
        let mut bytes = [0; 4096];
        let room = LINE_MOST.saturating_sub(self.incoming.len());
        let room = room.min(bytes.len());
        if self.silent || room == 0 {
            return;
        }
        let read = match files {
            true => self.receive_with_file(&mut bytes[..room]),
            false => rustix::io::read(&self.socket, &mut bytes[..room]),
        };
        match read {
            Ok(0) => self.silent = true,
            Ok(n) => self.incoming.extend_from_slice(&bytes[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.gone = true,
        }
    }

    /// Receives bytes, and keeps the file that comes with them.
    fn receive_with_file(
        &mut self,
        bytes: &mut [u8],
    ) -> rustix::io::Result<usize> {
        // The kernel closes those that there is no space for.
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut parts, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.given = files.last().or(self.given.take());
            }
        }
        Ok(got.bytes)
    }

    /// Takes the next line that it has sent.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.incoming.iter().position(|&byte| byte == b'\n')?;
        let line = self.incoming.drain(..=end).collect();
        Some(line)
    }

    /// Whether it waits for nothing and sends nothing more.
    fn has_finished(&self) -> bool {
        let waits = self.waits.is_some() || self.looks.is_some();
        let more = self.incoming.contains(&b'\n');
        self.silent && !waits && !more && self.is_free()
    }
}

impl Server {
    /// A server without clients.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            clients: Vec::new(),
            next: 0,
            types: None,
            begun: None,
            freezes: None,
            traces: None,
            told_ready: false,
            noted: None,
        }
    }

    /// Serves until the machine has ended and its clients know it. Blocks.
    ///
    /// # Errors
    ///
    /// The kernel cannot wait for clients.
    pub fn serve(&mut self) -> io::Result<()> {
        while self.parts.ended.get().is_none() {
            self.round(None)?;
        }
        let start = Instant::now();
        let mut progress = (start, usize::MAX);
        loop {
            let left = self.left();
            if left != progress.1 {
                progress = (Instant::now(), left);
            }
            self.tell_end();
            let all = self.clients.iter().all(|c| c.outgoing.is_empty());
            let over = start.elapsed() >= END_MOST
                || progress.0.elapsed() >= NO_PROGRESS;
            if over || all && self.clients.iter().all(|c| c.told_end) {
                return Ok(());
            }
            self.round(Some(NO_PROGRESS / 10))?;
        }
    }

    /// How much clients still have to receive.
    fn left(&self) -> usize {
        let (_, end) = self.parts.machine.backlog().with(|o| o.range());
        let left = self.clients.iter().map(|client| {
            let output = client.looks.map_or(0, |at| end - at);
            let output = usize::try_from(output).unwrap_or(usize::MAX);
            output.saturating_add(client.outgoing.len())
        });
        left.fold(self.clients.len(), usize::saturating_add)
    }

    /// Waits until something happens, for `time` at most, and does it.
    ///
    /// # Errors
    ///
    /// The kernel cannot wait for clients.
    pub fn round(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.parts.machine.backlog().want_news();
        self.note_state();
        if !self.told_ready && self.parts.machine.backlog().is_ready() {
            self.told_ready = true;
            self.parts.machine.ready();
        }
        let ready = self.wait(time)?;
        if ready.news {
            let _ = rustix::io::read(&self.parts.news, &mut [0; 8]);
        }
        let files = self.parts.machine.has_agent();
        let mut ready_clients = ready.clients.into_iter();
        for client in &mut self.clients {
            if client.hung {
                client.receive(files);
                continue;
            }
            let can = ready_clients.next().unwrap_or(PollFlags::empty());
            if can.contains(PollFlags::OUT) {
                client.flush();
            }
            if can.intersects(PollFlags::HUP | PollFlags::ERR) {
                client.hang();
            }
            // The end of a connection is found by reading.
            if !(can - PollFlags::OUT).is_empty() {
                client.receive(files);
            }
        }
        self.type_on();
        for n in 0..self.clients.len() {
            self.carry_out(n);
            // Before the client has the answer.
            self.note_state();
            self.show(n);
            self.clients[n].flush();
        }
        if ready.listener {
            self.accept();
        }
        self.clients
            .retain(|client| !client.gone && !client.has_finished());
        let types = |client: &Client| Some(client.number) == self.types;
        if !self.clients.iter().any(types) {
            self.types = None;
        }
        let freezes = |client: &Client| {
            Some(client.number) == self.freezes && !client.hung
        };
        if self.freezes.is_some() && !self.clients.iter().any(freezes) {
            self.thaw();
        }
        let traces = |client: &Client| {
            Some(client.number) == self.traces && !client.hung
        };
        if self.traces.is_some() && !self.clients.iter().any(traces) {
            self.traces = None;
            self.parts.machine.end_trace();
        }
        Ok(())
    }

    fn wait(&self, time: Option<Duration>) -> io::Result<Ready> {
        let (_, end) = self.parts.machine.backlog().with(|o| o.range());
        let typing = self.clients.iter().any(|c| c.typing.is_some());
        let wanted = |wanted: bool, flag| {
            if wanted { flag } else { PollFlags::empty() }
        };
        let ended = self.parts.ended.get().is_some();
        let mut fds = vec![
            PollFd::new(&self.parts.news, PollFlags::IN),
            PollFd::new(&self.parts.listener, wanted(!ended, PollFlags::IN)),
            PollFd::new(&self.parts.typed, wanted(typing, PollFlags::OUT)),
        ];
        // One that has hung up would end every wait.
        let clients = self.clients.iter().filter(|client| !client.hung);
        fds.extend(clients.map(|c| PollFd::new(&c.socket, c.flags(end))));
        let time = if self.has_more_to_do() {
            Some(Duration::ZERO)
        } else {
            time
        };
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = fds.iter().map(PollFd::revents);
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        let [news, listener, _] = [next(), next(), next()];
        Ok(Ready {
            news: !news.is_empty(),
            listener: !listener.is_empty(),
            clients: events.collect(),
        })
    }

    /// Whether a client has sent something for which nothing is waited.
    fn has_more_to_do(&self) -> bool {
        self.clients.iter().any(|client| {
            let called = client.incoming.contains(&b'\n');
            let unread = client.hung && !client.silent;
            client.is_free() && (called || unread)
        })
    }

    /// Accepts those that wait, at most as many clients as there may be.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..CLIENTS_MOST {
            let socket = match accept_with(&self.parts.listener, flags) {
                Ok(socket) => socket,
                Err(
                    Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM,
                ) => return std::thread::sleep(TOO_MANY_FILES),
                Err(_) => return,
            };
            // Another user gets nothing, not even a reason.
            if let Ok(pid) = peer_of_our_user(&socket) {
                self.add(socket, pid);
            }
        }
    }

    /// Adds a client. If there are too many, another one makes room.
    pub fn add(&mut self, socket: OwnedFd, pid: u32) {
        self.next += 1;
        if self.clients.len() >= CLIENTS_MOST {
            let out = self.least_missed();
            self.clients.remove(out);
        }
        self.clients.push(Client::new(self.next, pid, socket));
    }

    /// The client that makes room for another one: one that does not read; then
    /// one that neither looks nor waits, which has been served long ago; then
    /// the oldest.
    fn least_missed(&self) -> usize {
        let clients = self.clients.iter().enumerate();
        let stuck = clients.clone().filter_map(|(n, c)| Some((c.stuck?, n)));
        if let Some((_, n)) = stuck.min() {
            return n;
        }
        let idle =
            |client: &Client| client.looks.is_none() && client.waits.is_none();
        let mut clients = clients;
        clients
            .find(|(_, client)| idle(client))
            .map_or(0, |(n, _)| n)
    }

    /// Types what clients want to type, as far as the console takes it, one
    /// client after the other.
    fn type_on(&mut self) {
        while let Some(n) = self.next_to_type() {
            let client = &mut self.clients[n];
            let Some((bytes, id)) = &mut client.typing else {
                return;
            };
            let failure = match rustix::io::write(&self.parts.typed, bytes) {
                Ok(n) if n < bytes.len() => {
                    bytes.drain(..n);
                    self.begun = Some(client.number);
                    return;
                }
                Ok(_) => None,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => Some("it has no console"),
            };
            let id = id.take();
            client.typing = None;
            client.answer(id.as_ref(), |id| match failure {
                None => answer(id, &Done {}),
                Some(text) => failed(id, Failure::NotNow, text),
            });
        }
    }

    /// The client that types next: the one that has begun, or else the first.
    fn next_to_type(&self) -> Option<usize> {
        let types = |client: &Client| client.typing.is_some();
        let begun = |c: &Client| types(c) && Some(c.number) == self.begun;
        let mut clients = self.clients.iter();
        clients
            .position(begun)
            .or_else(|| self.clients.iter().position(types))
    }

    /// Carries out the next call of client `n`, if there is one.
    fn carry_out(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if !client.is_free() {
            return;
        }
        let Some(line) = client.line() else {
            if client.incoming.len() >= LINE_MOST {
                let text = format!("a line has {LINE_MOST} bytes at most");
                client.say(&failed(&Id::Null, Failure::NotACall, &text));
                client.over = true;
            }
            return;
        };
        match parse(&line) {
            Ok((id, call)) => self.answer(n, id, call),
            Err(line) => client.say(&line),
        }
    }

    fn answer(&mut self, n: usize, id: Option<Id>, call: Call) {
        let machine = &mut self.parts.machine;
        let client = &mut self.clients[n];
        let refuse = |text: &str| {
            let text = text.to_owned();
            move |id: &Id| failed(id, Failure::NotNow, &text)
        };
        match call {
            Call::Inspect {} => {
                let inspected = self.inspect();
                let client = &mut self.clients[n];
                client.answer(id.as_ref(), |id| answer(id, &inspected));
            }
            Call::Stats {} => {
                let counts = machine.counts();
                client.answer(id.as_ref(), |id| answer(id, &counts));
            }
            Call::Pause {} => match machine.pause() {
                Ok(()) => client.answer(id.as_ref(), |id| answer(id, &Done {})),
                Err(text) => client.answer(id.as_ref(), refuse(&text)),
            },
            Call::Resume {} => {
                machine.resume();
                client.answer(id.as_ref(), |id| answer(id, &Done {}));
                // A client that freezes it and does nothing more would hold it
                // for ever.
                self.thaw();
            }
            Call::Freeze {} if self.freezes.is_some() => {
                let text = "another snapshot of it is being taken";
                client.answer(id.as_ref(), refuse(text));
            }
            Call::Freeze {} => match machine.freeze() {
                Ok((frozen, files)) => {
                    self.freezes = Some(client.number);
                    client.files.extend(files);
                    client.answer(id.as_ref(), |id| answer(id, &frozen));
                }
                Err(text) => client.answer(id.as_ref(), refuse(&text)),
            },
            Call::Thaw {} => {
                let theirs = self.freezes == Some(client.number);
                client.answer(id.as_ref(), |id| match theirs {
                    true => answer(id, &Done {}),
                    false => {
                        let text = "its guest went on meanwhile ('lguest \
                                    resume'), or this client has not frozen \
                                    it: freeze it again";
                        failed(id, Failure::NotNow, text)
                    }
                });
                if theirs {
                    self.thaw();
                }
            }
            Call::Trace { groups, samples_us } => {
                self.trace(n, id, &groups, samples_us);
            }
            Call::Devices {} => {
                let devices = machine.devices();
                client.answer(id.as_ref(), |id| answer(id, &devices));
            }
            Call::Remove { .. } if self.freezes.is_some() => {
                let text = "a snapshot of it is being taken";
                client.answer(id.as_ref(), refuse(text));
            }
            Call::Remove { device } => match machine.remove(&device) {
                Ok(()) => client.answer(id.as_ref(), |id| answer(id, &Done {})),
                Err(text) => client.answer(id.as_ref(), refuse(&text)),
            },
            Call::Stop {} => {
                let typed = machine.stop_keys();
                client.answer(id.as_ref(), |id| {
                    let typed = typed.clone();
                    answer(id, &Asked { typed })
                });
                if let Some(keys) = typed {
                    client.typing = Some((keys.into_bytes(), None));
                }
            }
            Call::Kill {} => {
                machine.kill();
                client.answer(id.as_ref(), |id| answer(id, &Done {}));
            }
            Call::Wait {} if client.waits.is_some() => {
                client.answer(id.as_ref(), refuse("this client waits already"));
            }
            Call::Wait {} => client.waits = Some(id),
            Call::Read { from, since } => {
                let read = machine.backlog().with(|output| {
                    let from = position(output, from, since);
                    let (from, data) = output.read(from, BYTES_MOST);
                    let (_, end) = output.range();
                    let data = super::protocol::Bytes(data);
                    Read { from, data, end }
                });
                client.answer(id.as_ref(), |id| answer(id, &read));
            }
            Call::Attach { from, since, types } => {
                self.attach(n, id, (from, since), types);
            }
            Call::Exec {} => {
                let begun = exec(machine.as_mut(), client.given.take());
                match begun {
                    Ok(begun) => {
                        client.answer(id.as_ref(), |id| answer(id, &begun));
                    }
                    Err(text) => client.answer(id.as_ref(), refuse(&text)),
                }
            }
            Call::Write { data } => {
                let looks = client.looks.is_some();
                if looks && self.types != Some(client.number) {
                    let text = "another client types, or this one did not ask";
                    client.answer(id.as_ref(), refuse(text));
                } else if data.0.len() > BYTES_MOST {
                    let text = format!("{BYTES_MOST} bytes are the most");
                    client.answer(id.as_ref(), refuse(&text));
                } else {
                    client.typing = Some((data.0, id));
                    self.type_on();
                }
            }
        }
    }

    /// Has more traced for client `n`, and hands the trace over.
    fn trace(
        &mut self,
        n: usize,
        id: Option<Id>,
        groups: &[String],
        samples_us: u32,
    ) {
        let client = &mut self.clients[n];
        let others = self.traces.is_some_and(|who| who != client.number);
        let groups = match groups {
            [] => Ok(0),
            names => trace::groups(names),
        };
        let traced = match groups {
            _ if others => Err("another client traces it: try again".into()),
            Err(name) => Err(format!(
                "there is no group '{name}': they are {}",
                trace::GROUPS.join(", ")
            )),
            Ok(groups) => {
                let every = Duration::from_micros(samples_us.into());
                self.parts.machine.trace(groups, every)
            }
        };
        match traced {
            Ok((traced, file)) => {
                self.traces = Some(client.number);
                client.files.push(file);
                client.answer(id.as_ref(), |id| answer(id, &traced));
            }
            Err(text) => client
                .answer(id.as_ref(), |id| failed(id, Failure::NotNow, &text)),
        }
    }

    /// The Guest goes on, if it is frozen.
    fn thaw(&mut self) {
        if self.freezes.take().is_some() {
            self.parts.machine.thaw();
        }
    }

    fn attach(
        &mut self,
        n: usize,
        id: Option<Id>,
        (from, since): (Option<u64>, Option<u64>),
        types: bool,
    ) {
        let other = self.types.and_then(|number| {
            let other = self.clients.iter().find(|c| c.number == number)?;
            Some(other.pid)
        });
        let client = &mut self.clients[n];
        let types = types && other.is_none();
        if types {
            self.types = Some(client.number);
        }
        let backlog = self.parts.machine.backlog();
        let (from, end) = backlog.with(|output| {
            let from = position(output, from, since);
            (from, output.range().1)
        });
        client.looks = Some(from);
        let attached = Attached {
            from,
            end,
            types,
            other,
        };
        client.answer(id.as_ref(), |id| answer(id, &attached));
    }

    /// Notes the state for those that do not ask, if it has changed.
    fn note_state(&mut self) {
        let state = self.state();
        if self.noted != Some(state) {
            self.noted = Some(state);
            self.parts.machine.backlog().note_state(state.byte());
        }
    }

    fn state(&self) -> State {
        let machine = &self.parts.machine;
        let stands = machine.is_paused() || self.freezes.is_some();
        match (self.parts.ended.get(), stands) {
            (Some(_), _) => State::Ended,
            (None, true) => State::Paused,
            (None, false) if machine.backlog().is_ready() => State::Running,
            (None, false) => State::Starting,
        }
    }

    fn inspect(&self) -> Inspected {
        let machine = &self.parts.machine;
        let end = self.parts.ended.get();
        let state = self.state();
        let (output_first, output_end) =
            machine.backlog().with(|output| output.range());
        let types = self.clients.iter().find(|c| Some(c.number) == self.types);
        Inspected {
            facts: machine.facts().clone(),
            state,
            output_first,
            output_end,
            clients: u32::try_from(self.clients.len()).unwrap_or(u32::MAX),
            types: types.map(|client| client.pid),
            end,
        }
    }

    /// Sends the next piece of output to client `n`, if it follows that and has
    /// received all before.
    fn show(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Some(at) = client.looks.filter(|_| client.outgoing.is_empty())
        else {
            return;
        };
        let (read, next) = self.parts.machine.backlog().with(|output| {
            let (from, data) = output.read(at, BYTES_MOST);
            let next = from + data.len() as u64;
            let data = super::protocol::Bytes(data);
            let end = output.range().1;
            (Read { from, data, end }, next)
        });
        if !read.data.0.is_empty() {
            client.looks = Some(next);
            client.say(&notification("output", &read));
        }
    }

    /// Tells the end to clients that have received all output.
    fn tell_end(&mut self) {
        let Some(end) = self.parts.ended.get() else {
            return;
        };
        let (_, output_end) = self.parts.machine.backlog().with(|o| o.range());
        for client in &mut self.clients {
            if let Some(Some(id)) = client.waits.take() {
                client.say(&answer(&id, &end));
            }
            if client.looks.is_some_and(|at| at < output_end) {
                continue;
            }
            if client.looks.take().is_some() {
                client.say(&notification("ended", &end));
            }
            client.told_end = true;
        }
    }
}

/// Gives the client that has sent `socket` a stream to the agent.
fn exec(
    machine: &mut dyn Controlled,
    socket: Option<OwnedFd>,
) -> Result<Begun, String> {
    if !machine.has_agent() {
        return Err(NO_AGENT.into());
    }
    let socket = socket.ok_or(
        "no descriptor came with the call: send a local stream socket with it",
    )?;
    // Only a local socket has a peer that is known.
    peer_of_our_user(&socket).map_err(|error| {
        format!("the descriptor is no local stream socket of yours: {error}")
    })?;
    machine.exec(socket)
}

/// Sends bytes, and `files` with the first of them.
fn send_with(
    socket: &OwnedFd,
    bytes: &[u8],
    files: &[OwnedFd],
) -> rustix::io::Result<usize> {
    if files.is_empty() {
        return send(socket, bytes, SendFlags::NOSIGNAL);
    }
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let bytes = [IoSlice::new(bytes)];
    sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)
}

/// What is ready.
struct Ready {
    news: bool,
    listener: bool,
    clients: Vec<PollFlags>,
}

/// Where a client begins to read.
fn position(
    output: &crate::devices::console::backlog::Output,
    from: Option<u64>,
    since: Option<u64>,
) -> u64 {
    let (first, end) = output.range();
    let since = since.map_or(first, |time| output.since(time));
    from.unwrap_or(first).max(since).clamp(first, end)
}

#[cfg(test)]
mod tests;
