//! Networks between Guests, and with the machine that they run on.

#![expect(unsafe_code, reason = "a network namespace of one's own")]

use crate::kit::{Given, INITRD, Machine, Scratch, VMLINUX, skip};
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

#[test]
fn three_machines_share_a_network_and_one_is_killed() {
    let test = "three_machines_share_a_network_and_one_is_killed";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("sharenet");
    let page = File::create(scratch.path("net")).unwrap();
    page.set_len(4096).unwrap();
    let net = format!("--sharenet={}", scratch.path("net").display());
    let [mut a, mut b, mut c] = [1, 2, 3].map(|i| {
        let mut machine = given.shell(&[&net]);
        machine.command(&format!("ifconfig eth0 10.1.0.{i} up"));
        machine
    });
    for machine in [&mut a, &mut b, &mut c] {
        for i in 1..=3 {
            let said = machine.command(&format!("ping -c 2 10.1.0.{i}"));
            assert!(said.contains("2 packets received"), "{said}");
        }
    }
    // Large pings consist of fragments, at most as many as the other machine
    // has buffers.
    let said = a.command("ping -s 8000 -c 3 10.1.0.3");
    assert!(said.contains("3 packets received"), "{said}");
    // Streams a to b, b to c and c to a, all at once.
    let machines = [&mut a, &mut b, &mut c];
    stream_in_a_ring(machines, 100);
    // Datagrams, with room between them.
    b.start_command("/tests/nettool udprecv 7803 30");
    a.command("sleep 1; /tests/nettool udpsend 10.1.0.2 7803 2000 1400 200");
    let said = b.finish_command(Duration::from_secs(60));
    assert!(said.contains(" 0 bad checksum"), "{said}");
    let got: u32 = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(got >= 1000, "{said}");
    // One is killed during a stream. The others go on.
    b.start_command("/tests/nettool tcprecv 7801");
    c.start_command("/tests/nettool tcpsend 10.1.0.2 7801 2000");
    std::thread::sleep(Duration::from_millis(1500));
    c.kill();
    let said = a.command("ping -c 3 10.1.0.2");
    assert!(said.contains("3 packets received"), "{said}");
    b.type_in("\x03");
    b.wait_for("# ");
    one_stream(&mut a, &mut b, "10.1.0.2", 50);
    one_stream(&mut b, &mut a, "10.1.0.1", 50);
    // A new one takes the place of the killed one.
    let mut c = given.shell(&[&net]);
    c.command("ifconfig eth0 10.1.0.3 up");
    one_stream(&mut c, &mut a, "10.1.0.1", 20);
    for mut machine in [a, b, c] {
        machine.type_in("poweroff -f\r");
        assert_eq!(machine.end().code, 0);
    }
}

/// The report of an end of a stream: bytes and a checksum.
fn told(said: &str) -> String {
    let line = said.lines().find(|line| line.contains(" bytes adler "));
    let line = line.unwrap_or_else(|| panic!("no stream: {said}"));
    assert!(!line.contains("ERROR"), "{line}");
    println!("{line}");
    let words = line.split_whitespace().skip(1).take(4);
    words.collect::<Vec<_>>().join(" ")
}

const LONG: Duration = Duration::from_secs(300);

fn one_stream(from: &mut Machine, to: &mut Machine, address: &str, mb: u32) {
    to.start_command("/tests/nettool tcprecv 7801");
    from.start_command(&format!("/tests/nettool tcpsend {address} 7801 {mb}"));
    let sent = told(&from.finish_command(LONG));
    assert_eq!(sent, told(&to.finish_command(LONG)));
    assert!(sent.starts_with(&format!("{} bytes", mb << 20)), "{sent}");
}

fn stream_in_a_ring(mut machines: [&mut Machine; 3], mb: u32) {
    for (i, machine) in machines.iter_mut().enumerate() {
        let next = (i + 1) % 3 + 1;
        // A sender that comes before its receiver listens tries again.
        machine.command(&format!(
            "{{ /tests/nettool tcprecv 7801 >/tmp/in & }}; \
             {{ /tests/nettool tcpsend 10.1.0.{next} 7801 {mb} {i} \
             >/tmp/out & }}"
        ));
    }
    let ends = machines.map(|machine| {
        machine.start_command("wait");
        machine.finish_command(LONG);
        let told_by = |machine: &mut Machine, file| {
            told(&machine.command(&format!("cat {file}")))
        };
        (told_by(machine, "/tmp/in"), told_by(machine, "/tmp/out"))
    });
    for i in 0..3 {
        let (sent, came) = (&ends[i].1, &ends[(i + 1) % 3].0);
        assert!(sent.starts_with(&format!("{} bytes", mb << 20)), "{sent}");
        assert_eq!(sent, came, "from {i} to the next");
    }
}

/// Moves this thread into a network namespace of its own. If that is not
/// allowed, reports it and returns `false`.
fn own_network(test: &str) -> bool {
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    let unshare = || {
        // SAFETY: a network namespace takes nothing from this thread that
        // any code relies on; descriptors stay what they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
    };
    let done = tun.is_ok() && unshare().is_ok();
    if !done {
        skip(test, "needs root and /dev/net/tun");
    }
    done
}

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{command}: {out:?}");
    said
}

#[test]
fn a_tunnel_reaches_this_machine() {
    let test = "a_tunnel_reaches_this_machine";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if !own_network(test) {
        return;
    }
    let mut machine = given.shell(&["--tunnet=192.168.19.1"]);
    machine.command("ifconfig eth0 192.168.19.2 up");
    talk_with_us(&mut machine, "192.168.19.2", "192.168.19.1");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn a_bridge_joins_machines_and_this_one() {
    let test = "a_bridge_joins_machines_and_this_one";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if !own_network(test) {
        return;
    }
    sh(
        "ip link add lgbr type bridge && ip addr add 192.168.20.1/24 dev lgbr \
        && ip link set lgbr up",
    );
    let mut first = given.shell(&["--tunnet=bridge:lgbr"]);
    let mut second = given.shell(&["--tunnet=bridge:lgbr"]);
    first.command("ifconfig eth0 192.168.20.2 up");
    second.command("ifconfig eth0 192.168.20.3 up");
    talk_with_us(&mut first, "192.168.20.2", "192.168.20.1");
    talk_with_us(&mut second, "192.168.20.3", "192.168.20.1");
    one_stream(&mut first, &mut second, "192.168.20.3", 20);
    for mut machine in [first, second] {
        machine.type_in("poweroff -f\r");
        assert_eq!(machine.end().code, 0);
    }
}

/// What udhcpc calls: it sets the interface up, and prints its lease.
const LEASE: &str = "#!/bin/sh\n\
    test $1 = bound || exit 0\n\
    ifconfig $interface $ip netmask $subnet\n\
    route add default gw $router\n\
    echo LEASE $ip $subnet $router\n";

#[test]
fn a_network_without_root_has_dhcp_and_goes_both_ways() {
    const MB: usize = 20;
    let test = "a_network_without_root_has_dhcp_and_goes_both_ways";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if Command::new("passt").arg("--version").output().is_err() {
        return skip(test, "there is no passt");
    }
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let net = format!("--net=user,publish={port}:80");
    let mut machine = given.shell_of_run(&[&net]);
    for line in LEASE.lines() {
        machine.command(&format!("echo '{line}' >>/tmp/lease"));
    }
    machine.command("chmod 755 /tmp/lease; ifconfig eth0 up");
    let said = machine.command("udhcpc -i eth0 -n -q -s /tmp/lease");
    let lease = "LEASE 10.0.2.15 255.255.255.0 10.0.2.2";
    assert!(said.contains(lease), "{said}");
    // Out of the machine, to this one's loopback interface ...
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let taking = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let send = format!("/tests/nettool tcpsend 10.0.2.2 {here} {MB}");
    machine.start_command(&send);
    let all = taking.join().unwrap();
    let said = told(&machine.finish_command(LONG));
    let expected = format!("{} bytes adler {:08x}", MB << 20, adler(&all));
    assert_eq!(said, expected);
    // ... and into it, by a published port.
    machine.command("mkdir /tmp/www; echo hello >/tmp/www/index.html");
    machine.command("httpd -p 80 -h /tmp/www");
    for request in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .write_all(b"GET /index.html HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\nhello\n"), "{request}: {answer}");
    }
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

/// Ping of both kinds and streams in both directions.
fn talk_with_us(machine: &mut Machine, there: &str, here: &str) {
    const MB: usize = 20;
    assert!(machine.command("ifconfig eth0").contains("MTU:1500"));
    let said = machine.command(&format!("ping -c 3 {here}"));
    assert!(said.contains("3 packets received"), "{said}");
    let said = machine.command(&format!("ping -s 1472 -c 3 {here}"));
    assert!(said.contains("3 packets received"), "{said}");
    // With a deadline, ping ends when three answers have come. Without one, it
    // waits for the last answer only twice the longest time so far.
    let ping = format!("ping -c 3 -w 30 -i 0.2 -M do -s 1472 {there}");
    if Command::new("ping").arg("-V").output().is_ok() {
        let said = sh(&ping);
        assert!(said.contains("3 received"), "{said}");
    } else {
        skip("ping from outside", "no ping (iputils)");
    }
    // Out of the machine ...
    let listener = TcpListener::bind((here, 7805)).unwrap();
    let taking = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    machine.start_command(&format!("/tests/nettool tcpsend {here} 7805 {MB}"));
    let all = taking.join().unwrap();
    let said = told(&machine.finish_command(LONG));
    assert_eq!(
        said,
        format!("{} bytes adler {:08x}", MB << 20, adler(&all))
    );
    // ... and into it.
    machine.start_command("/tests/nettool tcprecv 7806");
    std::thread::sleep(Duration::from_millis(500));
    let mut stream = TcpStream::connect((there, 7806)).unwrap();
    let mut x = 1_u32;
    let all: Vec<u8> = (0..MB << 20)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        })
        .collect();
    stream.write_all(&all).unwrap();
    drop(stream);
    let said = told(&machine.finish_command(LONG));
    assert_eq!(
        said,
        format!("{} bytes adler {:08x}", MB << 20, adler(&all))
    );
}

/// Adler-32.
fn adler(bytes: &[u8]) -> u32 {
    const BASE: u32 = 65_521;
    let (mut a, mut b) = (1, 0);
    for &byte in bytes {
        a = (a + u32::from(byte)) % BASE;
        b = (b + a) % BASE;
    }
    b << 16 | a
}
