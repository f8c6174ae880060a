//! The network: TCP/IP over the pages and keys of a [`Net`], and its commands.
//!
//! The protocols are smoltcp's. One task moves frames after an interrupt of the
//! driver, a timer of the protocols or a command. Commands use their sockets
//! directly, and wait until that task reports a change.

mod commands;

pub(crate) use commands::{connect, listen, ping, send, serve, show};

use crate::shell::Failure;
use alloc::boxed::Box;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::task::Poll;
use lg_guest::bus::Device;
use lg_guest::command_line::CommandLine;
use lg_guest::drivers::net::{Mac, Net, Phy};
use lg_guest::executor::{first, yield_now};
use lg_guest::{task, time};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr,
};

/// Bytes that a connection may have in flight: as many frames as the driver has
/// buffers. More would be lost.
const RECEIVE_WINDOW: usize = 8 * 1460;
/// Bytes that wait to be sent.
const SEND_BUFFER: usize = 64 << 10;

/// The network's state, borrowed for one step at a time.
struct State {
    interface: Interface,
    sockets: SocketSet<'static>,
    phy: Phy<'static>,
}

/// The network.
pub(crate) struct Stack {
    net: &'static Net,
    address: Ipv4Cidr,
    state: RefCell<State>,
    /// Tasks that wait for something to change.
    waiting: Cell<u32>,
    /// The task that moves frames, and whether it has work.
    mover: Cell<u32>,
    kicked: Cell<bool>,
}

impl core::fmt::Display for Stack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (slot, mac) = (self.net.slot(), Colons(self.net.mac()));
        write!(f, "slot {slot}, {mac}, {}", self.address)
    }
}

/// An Ethernet address with colons, unlike smoltcp's.
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
    /// Starts the network, and the task that moves frames.
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
        // Without the task there is no network. This early there are free task
        // slots.
        let _ = task::spawn("network", stack.move_frames());
        stack
    }

    /// Whether this is the stack of `device`.
    pub(crate) fn is(&self, device: &Device) -> bool {
        self.net.device().index() == device.index()
    }

    /// Moves frames. Never ends.
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

    /// Tries `step` on a socket after each change, until it has a result.
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

    /// A socket that is removed when its command ends.
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

/// A TCP socket, as smoltcp has it.
type Tcp = tcp::Socket<'static>;

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
        step: impl FnMut(&mut Tcp, &mut Interface) -> Option<T>,
    ) -> T {
        self.stack.attempt(self, step).await
    }

    /// Waits until a connection is made or refused.
    async fn connected(&self) -> Result<(), Failure> {
        self.tcp(|socket, _| match socket.state() {
            tcp::State::Closed => {
                Some(Err("no connection: refused, or no answer".into()))
            }
            _ => socket.may_send().then_some(Ok(())),
        })
        .await
    }

    /// Closes our side, and waits until the other side has acknowledged it.
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
