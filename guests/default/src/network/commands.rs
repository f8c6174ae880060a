//! Commands about the network: addresses, pings, connections.
//!
//! Each is a few lines over a socket. The output shows whether the network
//! works, and how fast.

use super::{Colons, SEND_BUFFER, Socket, Stack};
use crate::Milliseconds;
use crate::files::Rate;
use crate::machine::Machine;
use crate::shell::{Failure, number};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use lg_guest::executor::{Either, first};
use lg_guest::line::{Editor, Outcome};
use lg_guest::{print, println, time};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Duration;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address,
};

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
        "  {} frames received, {} sent, {} not taken completely",
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
                && packet.msg_type() == Icmpv4Message::EchoReply
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
        0 => Err("no answer".into()),
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

/// How long the other side may take to accept a connection, and how long it may
/// be silent after that. The machine may be busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

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
        s.set_timeout(Some(CONNECT_TIMEOUT));
        s.connect(interface.context(), remote, own_port())
    });
    begun.map_err(|error| error.to_string())?;
    socket.connected().await?;
    socket.with(|s: &mut tcp::Socket<'static>, _| {
        s.set_timeout(Some(SILENCE_TIMEOUT));
    });
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

/// Prints received bytes, and sends typed lines. Ends when either side ends.
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
        let mut editor = Editor::new();
        loop {
            let Ok(key) = console.read().await else {
                return;
            };
            let mut show = vec![];
            let outcome = editor.key(key, &mut show);
            print::print_bytes(&show);
            print::flush();
            match outcome {
                Outcome::Line(line) => {
                    let line = line + "\n";
                    if send_all(socket, line.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Outcome::More => {}
                _ => return,
            }
        }
    };
    first(receive, type_in).await;
    socket.close().await;
    println!("  closed");
    Ok(())
}

/// The next bytes, or `None` at the end.
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
        let sent = sent.map_err(|_| "the connection has ended")?;
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
        // Read in place, because a copy is no cost of the network.
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
