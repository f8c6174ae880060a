//! `--sharenet`: a network of Guests, each with a Launcher of its own.
//!
//! The network is the first page of a file, which all of its Launchers map. It
//! is an array of slots, one for each Guest. A Guest writes its Ethernet
//! address into its slot and binds receive buffers to the key of the slot; to
//! send a frame, another Guest looks the address up and sends to that key.
//! Then its Launcher finds the peer whose Guest has bound a buffer to the key,
//! and copies the frame once, from one Guest's memory into the other's. Most
//! frames do not need the sending Launcher: its Guest's Host posts them in an
//! *outbox*, and the peer fetches them from there.
//!
//! In reading order: [`port`] is where a Launcher shows the others which
//! buffers its Guest has bound, [`slots`] holds the slots in the page,
//! [`doorbell`] and [`inbox`] are how posted frames are fetched, [`porter`] is
//! the process that receives [`messages`] of other Launchers, [`rendezvous`] is
//! how Launchers meet, [`fill`] is how a frame gets into a buffer, [`peer`] is
//! a Launcher to which we send, [`shared`] is what the threads of this device
//! share, [`links`] is the thread that keeps connections, [`arrivals`] the one
//! that fetches frames and raises interrupts. This file puts them together.

mod port;

mod slots;
pub use slots::SlotsError;

mod doorbell;

mod inbox;

mod messages;

mod porter;

mod rendezvous;
pub use rendezvous::RendezvousError;

mod fill;

mod peer;

mod counters;

mod state;
pub use state::LanState;

mod shared;

mod links;

mod arrivals;

use super::Sent;
use super::{Description, KeyedDevice, PageFiles, Place};
use crate::devices::{NamedCounts, RestoreError, Saved, Versioned, Violation};
use crate::engine::{Binding, Requests};
use crate::memory::SectionsIn;
use crate::needs::Lack;
use crate::thread;
use crate::transport::{BusDevice, Detached, Device, DeviceState};
use arrivals::Arrivals;
use counters::LanCounters;
use inbox::Outbox;
use lg_abi::device::{
    LGUEST_DEVICE_T_NET, LGUEST_NET_F_NOCSUM, NET_PROMISC, Net, net_key_offset,
};
use lg_abi::page::PAGE_SHIFT;
use links::{Links, Quit};
use port::Port;
use porter::Porter;
use rendezvous::{Listener, Rendezvous};
use shared::Shared;
use slots::Slots;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A LAN that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The file cannot be a network's.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Other Launchers could not reach this one.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// No memory, or no descriptor.
    #[error("there is no room for its frames ({0})")]
    Outbox(#[source] io::Error),
    /// No process, or no descriptor.
    #[error(transparent)]
    Porter(#[from] Lack),
}

/// A Guest's place on a LAN.
pub struct Lan {
    slots: Arc<Slots>,
    meet: Arc<Rendezvous>,
    listener: Arc<Listener>,
    outbox: Arc<Outbox>,
    porter: Arc<Porter>,
    joined: Option<Joined>,
    /// Whether we fetch frames that others have posted.
    fetches: bool,
    /// Whether a stream's interrupts may be put off.
    batches: bool,
    /// Rings are open from the beginning.
    open: bool,
    /// Whether the member is a Guest, whose Host has our outbox.
    has_host: bool,
    /// The address of a Guest that has gone on.
    kept_mac: Option<[u8; 6]>,
}

/// What there is once the device has its place.
struct Joined {
    shared: Arc<Shared>,
    /// The bindings that our port shows.
    shown: Vec<Binding>,
    quit: Arc<Quit>,
    links: Option<JoinHandle<()>>,
    arrivals: Option<JoinHandle<()>>,
}

impl Lan {
    /// Joins the LAN of `file`: takes a slot, and listens. Nothing is made or
    /// changed if that fails.
    ///
    /// # Errors
    ///
    /// [`LanError`]. Its message names the cure.
    pub fn join(file: &Path) -> Result<Self, LanError> {
        Self::join_at(file, None)
    }

    /// The same, in the slot `wanted`, if there is one: that of a Guest which
    /// goes on, and knows its slot.
    ///
    /// # Errors
    ///
    /// As [`Self::join`], also if the slot is taken.
    pub fn join_at(file: &Path, wanted: Option<u32>) -> Result<Self, LanError> {
        let slots = Slots::claim(file, wanted)?;
        let meet = Rendezvous::beside(slots.path())?;
        let porter = Porter::start().map_err(|error| {
            Lack::when("start the process that receives messages", error)
        });
        let porter = Arc::new(porter?);
        let listener = meet.listen(slots.mine(), &porter)?;
        Ok(Self {
            porter,
            slots: Arc::new(slots),
            meet: Arc::new(meet),
            listener: Arc::new(listener),
            outbox: Arc::new(Outbox::create().map_err(LanError::Outbox)?),
            joined: None,
            fetches: doorbell::is_known(),
            batches: true,
            open: false,
            has_host: true,
            kept_mac: None,
        })
    }

    /// Raises an interrupt for every frame: the slow way, for comparison.
    /// Counts before [`Self::start`].
    pub fn never_in_batches(&mut self) {
        self.batches = false;
    }

    /// Opens the rings of outboxes from the beginning, and not only while there
    /// is much to fetch. Counts before [`Self::start`].
    pub fn always_open(&mut self) {
        self.open = true;
    }

    /// Fetches nothing from outboxes, so that everything is sent the slow way,
    /// for comparison. Counts before [`Self::start`].
    pub fn never_by_outbox(&mut self) {
        self.fetches = false;
    }

    /// The member is this Launcher: no Host has our outbox. Counts before
    /// [`Self::start`].
    pub fn without_a_host(&mut self) {
        self.has_host = false;
    }

    /// Our slot in the page.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slots.mine()
    }

    /// An Ethernet address for a Guest that takes one from the Launcher: unique
    /// on this network, and marked as assigned locally.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let [low, high, ..] = (self.slot() + 1).to_le_bytes();
        self.kept_mac.unwrap_or([0x02, b'l', b'g', 0, high, low])
    }

    /// The Guest has this address already.
    pub fn keep_mac(&mut self, mac: [u8; 6]) {
        self.kept_mac = Some(mac);
    }

    /// Goes on counting from `state`, which may be of another place.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn go_on_counting(
        &self,
        state: &Versioned<LanState>,
    ) -> Result<(), RestoreError> {
        let state = state.known()?;
        if let Some(joined) = &self.joined {
            joined.shared.counters().go_on_from(&state.counters);
        }
        Ok(())
    }

    /// The state. The Guest may run on.
    pub(in crate::transport) fn state_now(&self) -> Versioned<LanState> {
        let joined = self.joined.as_ref();
        let counters = joined.map(|joined| joined.shared.counters().clone());
        LanState {
            slot: self.slot(),
            address: self.slots.address().mac,
            counters: counters.unwrap_or_default(),
        }
        .versioned()
    }

    /// Shows no bindings, until [`Self::bindings_changed`]: no Launcher writes
    /// into the Guest's memory until then, and frames are lost. The interrupts
    /// of those that have arrived are raised.
    fn hide_bindings(&mut self) {
        if let Some(joined) = &mut self.joined {
            let shared = &joined.shared;
            let irqs: Vec<u8> = shared.port().all().collect();
            shared.show(&[]);
            joined.shown = Vec::new();
            shared.guest().memory().note_all();
            for irq in irqs {
                // An interrupt too many does no harm.
                let _ = shared.guest().irq(irq);
            }
        }
    }

    /// How many others we can send to now.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.joined.as_ref().map_or(0, |r| r.shared.peers().len())
    }

    /// Puts the shared page at physical address `page` and gets in touch with
    /// every Launcher on the LAN.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn start(
        &mut self,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<()> {
        let (shared, links) = self.prepare(guest, page)?;
        // From here on a failure drops `self.joined`, which ends what has
        // been started.
        let joined = self.joined.insert(Joined {
            shared,
            shown: Vec::new(),
            quit: links.quit(),
            links: None,
            arrivals: None,
        });
        joined.links = Some(start("lan", move || links.run())?);
        let shared = Arc::clone(&joined.shared);
        let arrivals = move || Arrivals::new(&shared).run();
        joined.arrivals = Some(start("lan-arrivals", arrivals)?);
        Ok(())
    }

    /// Does all of [`Self::start`] but for the threads.
    fn prepare(
        &self,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<(Arc<Shared>, Links)> {
        let memory = guest.memory();
        memory.share_page(page >> PAGE_SHIFT, self.slots.page())?;
        // MASTERY: a process that makes the file shorter takes that page away
        // from every process that has mapped it, and a Launcher that copies a
        // frame from there or to there then dies of SIGBUS. Frames seldom lie
        // there. And where a peer's buffer lies in the page of a second
        // network, the frame goes into the peer's memory under that page.
        let shared = Arc::new(Shared {
            guest,
            page,
            port: Port::create().map_err(io::Error::other)?,
            peers: Mutex::default(),
            slot: self.slot(),
            outbox: Arc::clone(&self.outbox),
            fetches: self.fetches,
            inboxes: Mutex::new(Arc::from([])),
            room: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            batches: self.batches,
            open: self.open,
            has_host: self.has_host,
            counters: LanCounters::default(),
        });
        let links = Links::new(
            Arc::clone(&shared),
            Arc::clone(&self.slots),
            Arc::clone(&self.meet),
            Arc::clone(&self.listener),
            Arc::clone(&self.porter),
        )?;
        Ok((shared, links))
    }

    /// Sends the list at `dma` to `key`. Returns the bytes that were taken.
    ///
    /// # Errors
    ///
    /// [`Violation`], if the list breaks the rules.
    pub fn send_frame(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        match &self.joined {
            Some(joined) => joined.shared.send(dma, key),
            None => Ok(0),
        }
    }

    /// Writes the address of a member that has no kernel to do so.
    /// `promiscuous`: it wants every frame.
    pub fn set_mac(&self, mut mac: [u8; 6], promiscuous: bool) {
        if promiscuous {
            mac[0] |= NET_PROMISC;
        }
        self.slots.set_address(Net { mac });
    }

    /// The slots of the other members that a frame to `to` is for.
    #[must_use]
    pub fn members_for(&self, to: [u8; 6]) -> Vec<u32> {
        let everyone = to[0] & NET_PROMISC != 0;
        let is_for = |mac: [u8; 6]| {
            let own = [&[mac[0] & !NET_PROMISC], &mac[1..]].concat();
            everyone || mac[0] & NET_PROMISC != 0 || own == to
        };
        let slots = (0..).zip(self.slots.addresses());
        slots
            .filter(|(slot, net)| {
                *slot != self.slot() && net.mac[0] != 0 && is_for(net.mac)
            })
            .map(|(slot, _)| slot)
            .collect()
    }

    /// Sends `frame` to the member in `slot`. A member without a free buffer
    /// does not get it.
    pub fn send_from(&self, frame: SectionsIn<'_>, slot: u32) {
        if let Some(joined) = &self.joined {
            joined.shared.send_from(frame, net_key_offset(slot));
        }
    }

    /// Sends `frame` to the key at `offset` in the page, if the member in
    /// `slot` has bound it. Returns whether it has.
    pub fn send_by(
        &self,
        frame: SectionsIn<'_>,
        slot: u32,
        offset: u32,
    ) -> bool {
        let shared = self.joined.as_ref().map(|joined| &joined.shared);
        shared.is_some_and(|shared| shared.send_by(frame, slot, offset))
    }

    /// The Guest has bound or unbound a buffer.
    pub fn bindings_changed(&mut self) {
        if let Some(joined) = &mut self.joined {
            let shared = &joined.shared;
            let now = shared.guest().bindings_in(shared.page());
            if now != joined.shown {
                shared.show(&now);
                joined.shown = now;
            }
        }
    }
}

#[cfg(test)]
impl Lan {
    /// From how many outboxes we fetch.
    fn senders(&self) -> usize {
        let joined = self.joined.as_ref();
        joined.map_or(0, |r| r.shared.inboxes().len())
    }

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes the lock of the port of the peer in `slot`, and never gives it
    /// back: as if we were stopped in the middle of a copy. Returns whether
    /// there is such a peer.
    fn hold(&self, slot: u32) -> bool {
        let Some(joined) = &self.joined else {
            return false;
        };
        let peers = joined.shared.peers();
        let peer = peers.iter().find(|peer| peer.slot() == slot);
        peer.is_some_and(|peer| peer.hold())
    }
}

impl KeyedDevice for Lan {
    fn description(&self) -> Description {
        let slot = u16::try_from(self.slot()).expect("fewer than NET_SLOTS");
        Description {
            kind: LGUEST_DEVICE_T_NET,
            features: LGUEST_NET_F_NOCSUM | slot,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        self.start(guest, place.page)
    }

    /// Unique on this network, as an Ethernet address has to be. Not 0, for
    /// an address must not be all zero behind its first byte.
    fn guest_id(&self) -> Option<u16> {
        u16::try_from(self.slot() + 1).ok()
    }

    fn shared_page(&self) -> Option<PageFiles<'_>> {
        Some(PageFiles {
            page: self.slots.page(),
            outbox: self.outbox.file(),
        })
    }

    fn send(&mut self, dma: u32, key: u32) -> Result<Sent, Violation> {
        let bytes = self.send_frame(dma, key)?;
        Ok(Sent { bytes, rest: None })
    }

    fn buffers_changed(&mut self) {
        self.bindings_changed();
    }

    fn damage(&self) -> Option<String> {
        self.slots.is_cut().then(|| {
            let file = self.slots.path().display();
            format!(
                "the network's file {file} has become shorter while it was in \
                 use: keep other users from writing to it (`chmod go= FILE`), \
                 and make it anew with `truncate -s 4096 FILE`"
            )
        })
    }
}

impl BusDevice for Lan {
    fn device(&mut self) -> &mut dyn Device {
        self
    }
}

impl Device for Lan {
    fn counters(&self) -> NamedCounts {
        let Some(joined) = &self.joined else {
            return NamedCounts::new();
        };
        joined.shared.counters().list()
    }

    /// Its Guest has the page of the network mapped, and writes there without
    /// asking. So there is nothing that could stay.
    fn detach(&mut self) -> Detached {
        Detached::Drops
    }

    /// Other Launchers write into the Guest's memory at any time, so they must
    /// find no buffers from now on.
    fn state(&mut self) -> DeviceState {
        self.hide_bindings();
        DeviceState::Lan(self.state_now())
    }

    /// The Guest read its slot from the descriptor, so it must be the same
    /// slot. Peers find the bindings when [`Self::bindings_changed`] is called.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Lan(state) = state else {
            return Err(state.is_not_of("LAN"));
        };
        let address = state.known()?.address;
        let (theirs, ours) = (state.known()?.slot, self.slot());
        if theirs != ours {
            let text =
                format!("it is of place {theirs}, and this is place {ours}");
            return Err(RestoreError::Other(text));
        }
        self.go_on_counting(state)?;
        self.slots.set_address(Net { mac: address });
        Ok(())
    }
}

impl Drop for Lan {
    /// Removes the socket and the address, and ends the threads.
    fn drop(&mut self) {
        if let Some(mut joined) = self.joined.take() {
            // First the thread that opens the rings of others: these close them
            // when the connections end, and they must stay closed.
            joined.shared.stop();
            wait_for_end(joined.arrivals.take());
            joined.quit.ask();
            wait_for_end(joined.links.take());
        }
        // While we still hold the lock: afterwards both may be another's.
        self.slots.clear(self.slots.mine());
        self.meet.close(&self.listener);
    }
}

/// How long the end of a thread is waited for. No other process should be able
/// to delay it, but the Launcher's end must not depend on that. Tests wait
/// until a busy machine runs the thread.
const PATIENCE: Duration = match cfg!(test) {
    true => Duration::from_secs(60),
    false => Duration::from_secs(1),
};

/// Waits for the end of `thread`, for [`PATIENCE`] at most.
fn wait_for_end(thread: Option<JoinHandle<()>>) {
    let Some(thread) = thread else { return };
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    if thread.is_finished() {
        // A panic there has been printed already.
        let _ = thread.join();
    } else if cfg!(test) && !std::thread::panicking() {
        panic!("a thread of a network does not end");
    }
}

/// What the standard library gives a thread.
const STACK: usize = 2 << 20;

fn start(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::start(name, STACK, run)
}

#[cfg(fuzzing)]
pub mod fuzzing;

#[cfg(test)]
pub(crate) mod tests;
