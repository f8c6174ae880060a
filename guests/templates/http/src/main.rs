//! A web server: `cargo run`, then `curl http://127.0.0.1:8080/` elsewhere.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, vec};
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Kind};
use lg_guest::drivers::net::{Net, Phy};
use lg_guest::executor::first;
use lg_guest::{println, task, time};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

lg_guest::entry!(main);

/// How many clients are served at a time.
const CLIENTS: usize = 4;

fn main(boot: &'static Boot) {
    let device = bus::first(boot, Kind::Net).expect("--net gives it a network");
    let net = device.start(Net::new).expect("the network works");
    task::spawn("http", serve(net)).expect("there is room for a task");
}

fn now() -> Instant {
    Instant::from_micros((time::now() / 1_000).try_into().unwrap_or(i64::MAX))
}

async fn serve(net: Net) {
    let mut phy = Phy(&net);
    let mac = HardwareAddress::Ethernet(EthernetAddress(net.mac()));
    let mut config = Config::new(mac);
    config.random_seed = time::tsc();
    let mut interface = Interface::new(config, &mut phy, now());
    let mut sockets = SocketSet::new(vec![]);
    let dhcp = sockets.add(dhcpv4::Socket::new());
    let clients: [SocketHandle; CLIENTS] = core::array::from_fn(|_| {
        let receive = tcp::SocketBuffer::new(vec![0; 4096]);
        let send = tcp::SocketBuffer::new(vec![0; 16384]);
        sockets.add(tcp::Socket::new(receive, send))
    });
    let mut served = 0;
    loop {
        let seen = net.interrupts();
        interface.poll(now(), &mut phy, &mut sockets);
        let event = sockets.get_mut::<dhcpv4::Socket>(dhcp).poll();
        if let Some(dhcpv4::Event::Configured(lease)) = event {
            interface.update_ip_addrs(|all| {
                all.clear();
                all.push(IpCidr::Ipv4(lease.address)).expect("it is empty");
            });
            if let Some(router) = lease.router {
                let routes = interface.routes_mut();
                routes.add_default_ipv4_route(router).expect("it is empty");
            }
            println!("I am {}, and serve port 80.", lease.address);
        }
        for handle in clients {
            served += u32::from(answer(sockets.get_mut(handle), served + 1));
        }
        interface.poll(now(), &mut phy, &mut sockets);
        let pause = interface.poll_delay(now(), &sockets);
        let pause = pause.map_or(1_000_000_000, |p| p.total_micros() * 1_000);
        first(net.interrupt_after(seen), time::sleep(pause)).await;
    }
}

/// Answers a request, once it is complete. Returns whether it did.
fn answer(socket: &mut tcp::Socket<'_>, number: u32) -> bool {
    if !socket.is_open() {
        socket.listen(80).expect("80 is a port");
    }
    let is_complete = |bytes: &[u8]| bytes.windows(4).any(|w| w == b"\r\n\r\n");
    let complete = socket.may_send()
        && socket.peek(4096).is_ok_and(|bytes| is_complete(bytes));
    if complete {
        let text = format!("Hello, you are visitor {number}.\n");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n", text.len());
        socket.send_slice(head.as_bytes()).expect("it is open");
        socket.send_slice(text.as_bytes()).expect("it is open");
    }
    if complete || socket.may_send() && !socket.may_recv() {
        socket.close();
    }
    complete
}
