//! The network: TCP/IP over the pages and keys of a [`Net`], and its commands.
//!
//! The protocols are smoltcp's. One task moves frames whenever the driver's
//! interrupt, a timer of the protocols or a command gives it cause; commands
//! work on their sockets directly and wait until that task says that something
//! has changed.

use crate::Milliseconds;
use crate::files::Rate;
use crate::machine::Machine;
use crate::shell::{Failure, number};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::task::Poll;
use lg_abi::device::NET_FRAME_MAX;
use lg_guest::bus::Device;
use lg_guest::command_line::CommandLine;
use lg_guest::drivers::net::{Mac, Net};
use lg_guest::executor::{Either, first, yield_now};
use lg_guest::{print, println, task, time};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{
    self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium,
};
use smoltcp::socket::{AnySocket, icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress,
    IpCidr, Ipv4Address, Ipv4Cidr,
};

/// Bytes that a connection may have on the way: as many frames as the driver
/// has buffers. More would only be lost.
const RECEIVE_WINDOW: usize = 8 * 1460;
/// Bytes that wait to be sent.
const SEND_BUFFER: usize = 64 << 10;

/// The driver, as smoltcp wants it.
struct Phy(&'static Net);

struct Incoming(&'static Net);
struct Outgoing(&'static Net);

impl phy::Device for Phy {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing)> {
        self.0
            .has_frame()
            .then_some((Incoming(self.0), Outgoing(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing> {
        Some(Outgoing(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = NET_FRAME_MAX as usize;
        if !self.0.needs_checksums() {
            capabilities.checksum = ChecksumCapabilities::ignored();
            // What pings is not only Guests that do not care.
            capabilities.checksum.icmpv4 = Checksum::Tx;
        }
        capabilities
    }
}

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        let mut look = Some(look);
        let result = self.0.receive(|frame| look.take().map(|l| l(frame)));
        match (result.flatten(), look) {
            (Some(result), _) => result,
            // The buffer was there when the token was made.
            (None, Some(look)) => look(&[]),
            (None, None) => unreachable!("the look was taken, and returned"),
        }
    }
}

impl phy::TxToken for Outgoing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.send(len, f)
    }
}

/// The network's state, borrowed for one step at a time.
struct State {
    interface: Interface,
    sockets: SocketSet<'static>,
    phy: Phy,
}

/// The network.
pub(crate) struct Stack {
    net: &'static Net,
    address: Ipv4Cidr,
    state: RefCell<State>,
    /// Tasks that wait for something to change.
    waiting: Cell<u32>,
    /// The task that moves frames, and whether it has cause to.
    mover: Cell<u32>,
    kicked: Cell<bool>,
}

impl core::fmt::Display for Stack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (slot, mac) = (self.net.slot(), Colons(self.net.mac()));
        write!(f, "slot {slot}, {mac}, {}", self.address)
    }
}

/// An Ethernet address, shown as everybody but smoltcp does.
struct Colons(Mac);

impl core::fmt::Display for Colons {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

fn instant() -> Instant {
    let microseconds = time::now() / 1_000;
    Instant::from_micros(i64::try_from(microseconds).unwrap_or(i64::MAX))
}

/// The address that the command line gives, or one made from the slot.
fn address(slot: u32, arguments: CommandLine<'_>) -> Ipv4Cidr {
    if let Some(given) = arguments.value("ip").and_then(|ip| ip.parse().ok()) {
        return given;
    }
    let [.., low] = (slot + 1).to_be_bytes();
    Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, low), 24)
}

impl Stack {
    /// Comes up, and starts the task that moves frames.
    pub(crate) fn start(net: Net, arguments: CommandLine<'_>) -> &'static Self {
        let net: &'static Net = Box::leak(Box::new(net));
        let mut phy = Phy(net);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(net.mac()));
        let mut config = Config::new(hardware);
        config.random_seed = time::tsc();
        let mut interface = Interface::new(config, &mut phy, instant());
        let address = address(net.slot(), arguments);
        interface.update_ip_addrs(|addresses| {
            // One fits: the list is empty.
            let _ = addresses.push(IpCidr::Ipv4(address));
        });
        if let Some(gateway) =
            arguments.value("gw").and_then(|gw| gw.parse().ok())
        {
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        let stack: &'static Self = Box::leak(Box::new(Self {
            net,
            address,
            state: RefCell::new(State {
                interface,
                sockets: SocketSet::new(vec![]),
                phy,
            }),
            waiting: Cell::new(0),
            mover: Cell::new(0),
            kicked: Cell::new(false),
        }));
        // Without the task there is no network; there are bits left this early.
        let _ = task::spawn("network", stack.move_frames());
        stack
    }

    /// Whether this is the stack of `device`.
    pub(crate) fn is(&self, device: &Device) -> bool {
        self.net.device().index() == device.index()
    }

    /// Moves frames, for ever.
    async fn move_frames(&'static self) {
        self.mover.set(task::current());
        loop {
            let seen = self.net.interrupts();
            self.kicked.set(false);
            let (changed, delay) = {
                let mut state = self.state.borrow_mut();
                let State {
                    interface,
                    sockets,
                    phy,
                } = &mut *state;
                let now = instant();
                let result = interface.poll(now, phy, sockets);
                (
                    result == PollResult::SocketStateChanged,
                    interface.poll_delay(now, sockets),
                )
            };
            if changed {
                task::wake(self.waiting.take());
            }
            let until = delay.map(|d| time::now() + d.total_micros() * 1_000);
            first(
                first(self.net.interrupt_after(seen), self.kick()),
                async move {
                    match until {
                        Some(moment) => time::until(moment).await,
                        None => core::future::pending().await,
                    }
                },
            )
            .await;
            yield_now().await;
        }
    }

    /// Waits until a command has done something to its socket.
    async fn kick(&self) {
        core::future::poll_fn(|_| match self.kicked.get() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// Tries `step` on a socket until it has a result, each time something has
    /// changed.
    async fn attempt<S: AnySocket<'static>, T>(
        &self,
        socket: &Socket,
        mut step: impl FnMut(&mut S, &mut Interface) -> Option<T>,
    ) -> T {
        core::future::poll_fn(|_| {
            let result = socket.with(&mut step);
            self.kicked.set(true);
            task::wake(self.mover.get());
            match result {
                Some(result) => Poll::Ready(result),
                None => {
                    self.waiting.set(self.waiting.get() | task::current());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// A socket that is taken away again when its command ends.
    fn socket<S: AnySocket<'static>>(&'static self, socket: S) -> Socket {
        let mut state = self.state.borrow_mut();
        Socket {
            stack: self,
            handle: state.sockets.add(socket),
        }
    }

    fn tcp_socket(&'static self) -> Socket {
        self.socket(tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; RECEIVE_WINDOW]),
            tcp::SocketBuffer::new(vec![0; SEND_BUFFER]),
        ))
    }
}

/// A socket of a command.
struct Socket {
    stack: &'static Stack,
    handle: SocketHandle,
}

impl Socket {
    fn with<S: AnySocket<'static>, T>(
        &self,
        action: impl FnOnce(&mut S, &mut Interface) -> T,
    ) -> T {
        let mut state = self.stack.state.borrow_mut();
        let State {
            interface, sockets, ..
        } = &mut *state;
        action(sockets.get_mut(self.handle), interface)
    }

    /// Waits for `step` on this TCP socket.
    async fn tcp<T>(
        &self,
        step: impl FnMut(&mut tcp::Socket<'static>, &mut Interface) -> Option<T>,
    ) -> T {
        self.stack.attempt(self, step).await
    }

    /// Waits until a connection is there, or is not going to be.
    async fn connected(&self) -> Result<(), Failure> {
        self.tcp(|socket, _| match socket.state() {
            tcp::State::Closed => Some(Err("connection refused".into())),
            _ => socket.may_send().then_some(Ok(())),
        })
        .await
    }

    /// Closes our side, and waits until the other one knows.
    async fn close(&self) {
        self.tcp(|socket, _| {
            socket.close();
            let open = socket.state() != tcp::State::Closed
                && socket.state() != tcp::State::TimeWait;
            (!open).then_some(())
        })
        .await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stack.state.borrow_mut().sockets.remove(self.handle);
    }
}

fn stack(machine: &Machine) -> Result<&'static Stack, Failure> {
    machine.network.ok_or_else(|| "no network".into())
}

fn ip(text: &str) -> Result<Ipv4Address, Failure> {
    text.parse()
        .map_err(|_| format!("{text} is not an address"))
}

fn port(text: &str) -> Result<u16, Failure> {
    match number(text)? {
        0 => Err("there is no port 0".into()),
        port => Ok(port),
    }
}

/// A port of our own for a new connection.
fn own_port() -> u16 {
    let [_, _, _, _, _, _, high, low] = time::tsc().to_be_bytes();
    0xC000 | u16::from_be_bytes([high, low])
}

pub(crate) fn show(machine: &'static Machine) -> Result<(), Failure> {
    let stack = stack(machine)?;
    println!("  {stack}");
    for (slot, mac) in stack.net.neighbours() {
        println!("  slot {slot}: {}", Colons(mac));
    }
    let counts = stack.net.counts();
    println!(
        "  {} frames received, {} sent, {} of which nobody took all",
        counts.received, counts.sent, counts.lost
    );
    Ok(())
}

pub(crate) async fn ping(
    machine: &'static Machine,
    to: &str,
    count: &str,
) -> Result<(), Failure> {
    const PATIENCE: u64 = time::SECOND;
    const PAYLOAD: &[u8] = b"lguest, once more with feeling..";
    let stack = stack(machine)?;
    let (to, count) = (ip(to)?, number::<u16>(count)?);
    let buffer = || {
        icmp::PacketBuffer::new(
            vec![icmp::PacketMetadata::EMPTY; 4],
            vec![0; 1024],
        )
    };
    let socket = stack.socket(icmp::Socket::new(buffer(), buffer()));
    let ident = own_port();
    let bound = socket.with(|socket: &mut icmp::Socket<'static>, _| {
        socket.bind(icmp::Endpoint::Ident(ident))
    });
    bound.map_err(|error| error.to_string())?;

    let mut answers = 0;
    for seq_no in 1..=count {
        let sent = time::now();
        let request = Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data: PAYLOAD,
        };
        let length = request.buffer_len();
        let queued = socket.with(|socket: &mut icmp::Socket<'static>, _| {
            let buffer = socket.send(length, IpAddress::Ipv4(to))?;
            let mut packet = Icmpv4Packet::new_unchecked(buffer);
            request.emit(&mut packet, &ChecksumCapabilities::default());
            Ok::<_, icmp::SendError>(())
        });
        queued.map_err(|error| error.to_string())?;

        let answer = stack.attempt(&socket, |socket: &mut icmp::Socket, _| {
            let (data, from) = socket.recv().ok()?;
            let packet = Icmpv4Packet::new_checked(data).ok()?;
            let ours = from == IpAddress::Ipv4(to)
                && packet.msg_type() == smoltcp::wire::Icmpv4Message::EchoReply
                && packet.echo_seq_no() == seq_no;
            ours.then_some(())
        });
        match first(answer, time::until(sent + PATIENCE)).await {
            Either::Left(()) => {
                answers += 1;
                let took = Milliseconds(time::now() - sent);
                println!("  {to}: answer {seq_no} after {took} ms");
            }
            Either::Right(()) => println!("  {to}: no answer {seq_no}"),
        }
        if seq_no < count {
            time::until(sent + 200 * time::MILLISECOND).await;
        }
    }
    println!("  {answers} of {count} answered");
    match answers {
        0 => Err("nobody there".into()),
        _ => Ok(()),
    }
}

pub(crate) async fn listen(
    machine: &'static Machine,
    at: &str,
) -> Result<(), Failure> {
    let socket = accept(machine, at).await?;
    talk(machine, &socket).await
}

/// Waits for a connection to a port of ours.
async fn accept(
    machine: &'static Machine,
    at: &str,
) -> Result<Socket, Failure> {
    let stack = stack(machine)?;
    let port = port(at)?;
    let socket = stack.tcp_socket();
    let listening =
        socket.with(|s: &mut tcp::Socket<'static>, _| s.listen(port));
    listening.map_err(|error| error.to_string())?;
    println!("  listening on {}:{port}", stack.address.address());
    print::flush();
    socket
        .tcp(|s, _| (s.is_active() && s.may_recv()).then_some(()))
        .await;
    if let Some(from) =
        socket.with(|s: &mut tcp::Socket<'static>, _| s.remote_endpoint())
    {
        println!("  connection from {from}");
        print::flush();
    }
    Ok(socket)
}

/// Opens a connection.
async fn open(
    machine: &'static Machine,
    to: &str,
    at: &str,
) -> Result<Socket, Failure> {
    let stack = stack(machine)?;
    let remote = (IpAddress::Ipv4(ip(to)?), port(at)?);
    let socket = stack.tcp_socket();
    let begun = socket.with(|s: &mut tcp::Socket<'static>, interface| {
        s.set_timeout(Some(smoltcp::time::Duration::from_secs(5)));
        s.connect(interface.context(), remote, own_port())
    });
    begun.map_err(|error| error.to_string())?;
    socket.connected().await?;
    Ok(socket)
}

pub(crate) async fn connect(
    machine: &'static Machine,
    to: &str,
    at: &str,
) -> Result<(), Failure> {
    let socket = open(machine, to, at).await?;
    println!("  connected; ^D ends it");
    talk(machine, &socket).await
}

/// Prints what comes, and sends what is typed, line by line; ends when either
/// side does.
async fn talk(
    machine: &'static Machine,
    socket: &Socket,
) -> Result<(), Failure> {
    print::flush();
    let receive = async {
        while let Some(data) = receive(socket).await {
            print::print_bytes(&data);
            print::flush();
        }
    };
    let type_in = async {
        let Some(console) = &machine.console else {
            return core::future::pending().await;
        };
        let mut editor = lg_guest::line::Editor::new();
        loop {
            let Ok(key) = console.read().await else {
                return;
            };
            let mut show = vec![];
            let outcome = editor.key(key, &mut show);
            print::print_bytes(&show);
            print::flush();
            match outcome {
                lg_guest::line::Outcome::Line(line) => {
                    let line = line + "\n";
                    if send_all(socket, line.as_bytes()).await.is_err() {
                        return;
                    }
                }
                lg_guest::line::Outcome::More => {}
                _ => return,
            }
        }
    };
    first(receive, type_in).await;
    socket.close().await;
    println!("  closed");
    Ok(())
}

/// What has come next, or `None` at the end.
async fn receive(socket: &Socket) -> Option<alloc::vec::Vec<u8>> {
    socket
        .tcp(|s, _| match s.can_recv() {
            true => s.recv(|data| (data.len(), Some(data.to_vec()))).ok(),
            false if s.may_recv() => None,
            false => Some(None),
        })
        .await
}

async fn send_all(socket: &Socket, data: &[u8]) -> Result<(), Failure> {
    let mut rest = data;
    while !rest.is_empty() {
        let sent = socket
            .tcp(|s, _| match s.send_slice(rest) {
                Ok(0) => None,
                result => Some(result),
            })
            .await;
        let sent = sent.map_err(|error| error.to_string())?;
        rest = &rest[sent..];
    }
    Ok(())
}

pub(crate) async fn serve(
    machine: &'static Machine,
    at: &str,
) -> Result<(), Failure> {
    let socket = accept(machine, at).await?;
    let start = time::now();
    let mut total = 0_u64;
    loop {
        // Looked at where it lies: copying it is not the network's cost.
        let length = socket
            .tcp(|s, _| match s.can_recv() {
                true => s.recv(|data| (data.len(), data.len())).ok(),
                false if s.may_recv() => None,
                false => Some(0),
            })
            .await;
        if length == 0 {
            break;
        }
        total += length as u64;
    }
    let rate = Rate(total, time::now() - start);
    socket.close().await;
    println!("  received {total} bytes at {rate}");
    Ok(())
}

pub(crate) async fn send(
    machine: &'static Machine,
    to: &str,
    megabytes: &str,
    at: &str,
) -> Result<(), Failure> {
    let total = number::<u32>(megabytes)?
        .checked_mul(1_000_000)
        .ok_or("too much")?;
    let piece = vec![0x55; SEND_BUFFER];
    let socket = open(machine, to, at).await?;
    let start = time::now();
    let mut rest = total as usize;
    while rest > 0 {
        let now = rest.min(piece.len());
        send_all(&socket, &piece[..now]).await?;
        rest -= now;
    }
    socket.tcp(|s, _| (s.send_queue() == 0).then_some(())).await;
    let rate = Rate(total.into(), time::now() - start);
    socket.close().await;
    println!("  sent {total} bytes at {rate}");
    Ok(())
}
