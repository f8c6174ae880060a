//! Networks between Guests, and with the machine that they run on.

#![expect(unsafe_code, reason = "a network namespace of one's own, and a tap")]

use crate::kit::{Given, INITRD, Machine, Scratch, VMLINUX, skip};
use rustix::io::FdFlags;
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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

/// A tap named `name` in this thread's network.
fn tap(name: &str) -> File {
    let tap = File::options().read(true).write(true).open("/dev/net/tun");
    let tap = tap.unwrap();
    // SAFETY: it has only numbers, which may be 0.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.try_into().unwrap();
    }
    let kind = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = kind.try_into().unwrap();
    let to = &raw mut request;
    // SAFETY: the request reads and writes one `ifreq`.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, to) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    tap
}

#[test]
fn a_tap_of_another_program_is_used() {
    let test = "a_tap_of_another_program_is_used";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if !own_network(test) {
        return;
    }
    let tap = tap("lgtap");
    sh("ip addr add 192.168.21.1/24 dev lgtap && ip link set lgtap up");
    rustix::io::fcntl_setfd(&tap, FdFlags::empty()).unwrap();
    let net = format!("--net=tap=fd:{}", tap.as_raw_fd());
    // A second interface beside it.
    let second = "--net=tap=192.168.23.1/28";
    let mut machine = given.shell_of_run(&[&net, second]);
    drop(tap);
    machine.command("ifconfig eth0 192.168.21.2 up");
    talk_with_us(&mut machine, "192.168.21.2", "192.168.21.1");
    let said = sh("ip -4 addr");
    assert!(said.contains("inet 192.168.23.1/28"), "{said}");
    machine.command("ifconfig eth1 192.168.23.2 up");
    let said = machine.command("ping -c 2 192.168.23.1");
    assert!(said.contains("2 packets received"), "{said}");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn long_packets_go_through_a_tap_in_one_piece() {
    let test = "long_packets_go_through_a_tap_in_one_piece";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if given.is_of_2007() {
        return skip(test, "its driver has room for 1500 bytes");
    }
    if !own_network(test) {
        return;
    }
    let net = "--net=tap=192.168.22.1/24,mtu=9000,mac=52:54:00:12:34:56";
    let mut machine = given.shell_of_run(&[net]);
    machine.command("ifconfig eth0 192.168.22.2 up");
    let said = machine.command("ifconfig eth0");
    assert!(said.contains("HWaddr 52:54:00:12:34:56"), "{said}");
    // Drivers before Linux 4.8 do not read it.
    if !said.contains("MTU:9000") {
        machine.command("ifconfig eth0 mtu 9000");
    }
    let said = machine.command("ping -s 8972 -c 3 192.168.22.1");
    assert!(said.contains("3 packets received"), "{said}");
    let said = machine.command(
        "awk '/^Ip:/ { n = $NF } END { print \"pieces\", n }' /proc/net/snmp",
    );
    assert!(said.contains("pieces 0"), "{said}");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

/// What udhcpc calls: it sets the interface up, and prints its lease.
const LEASE: &str = "#!/bin/sh\n\
    test $1 = bound || exit 0\n\
    ifconfig $interface $ip netmask $subnet\n\
    route add default gw $router\n\
    for d in $dns; do echo nameserver $d >>/etc/resolv.conf; done\n\
    echo LEASE $ip $subnet $router\n";

/// Files for `test`, if there is passt.
fn given_with_passt(test: &str) -> Option<Given> {
    let given = Given::to(test, &[VMLINUX, INITRD])?;
    if Command::new("passt").arg("--version").output().is_err() {
        skip(test, "there is no passt");
        return None;
    }
    Some(given)
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let free = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    free.map(|free| free.local_addr().unwrap().port())
}

/// Lets the machine get its address.
fn lease(machine: &mut Machine) {
    for line in LEASE.lines() {
        machine.command(&format!("echo '{line}' >>/tmp/lease"));
    }
    machine.command("chmod 755 /tmp/lease; ifconfig eth0 up");
    let said = machine.command("udhcpc -i eth0 -n -q -s /tmp/lease");
    let lease = "LEASE 10.0.2.15 255.255.255.0 10.0.2.2";
    assert!(said.contains(lease), "{said}");
}

#[test]
fn a_network_without_root_has_dhcp_and_goes_both_ways() {
    const MB: usize = 20;
    let test = "a_network_without_root_has_dhcp_and_goes_both_ways";
    let Some(given) = given_with_passt(test) else {
        return;
    };
    let [echo] = free_ports();
    let net = format!("--net=user,publish={echo}:7/udp");
    let mut machine = given.shell_of_run(&[&net]);
    lease(&mut machine);
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
    // ... and into it, with datagrams that it sends back.
    machine.command("{ udpsvd 0 7 cat >/dev/null 2>&1 & }");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", echo)).unwrap();
    let second = Some(Duration::from_secs(1));
    socket.set_read_timeout(second).unwrap();
    let answered = (0..60).find(|n: &u8| {
        socket.send(&[*n; 100]).unwrap();
        let mut answer = [0; 200];
        socket.recv(&mut answer).is_ok_and(|len| len == 100)
    });
    assert!(answered.is_some(), "no datagram comes back");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn a_long_file_comes_by_http_from_this_machine() {
    let test = "a_long_file_comes_by_http_from_this_machine";
    let Some(given) = given_with_passt(test) else {
        return;
    };
    // Between passt of 2023 and a Guest with a small window, the kernel of this
    // machine sends 64 KiB in 0.2 s.
    let mb = if given.is_of_2007() { 5 } else { 100 };
    let mut machine = given.shell_of_run(&["--net=user"]);
    lease(&mut machine);
    let file = noise(mb << 20);
    let expected = format!("{:08x}", adler(&file));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let len = stream.read(&mut request).unwrap();
        assert!(request[..len].starts_with(b"GET /file "), "{request:?}");
        let length = file.len();
        let head =
            format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&file).unwrap();
    });
    // The receiver of streams computes the checksum.
    machine.command("ifconfig lo 127.0.0.1 up");
    machine.command("{ /tests/nettool tcprecv 7807 >/tmp/sum & }");
    let url = format!("http://10.0.2.2:{here}/file");
    machine.start_command(&format!(
        "until grep -q :1E7F /proc/net/tcp; do sleep 1; done; \
         wget -q -O - {url} | nc 127.0.0.1 7807; wait; cat /tmp/sum"
    ));
    let said = machine.finish_command(LONG);
    serving.join().unwrap();
    assert_eq!(told(&said), format!("{} bytes adler {expected}", mb << 20));
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

/// This machine's address by IPv6, if it has a route to others.
fn own_address_v6() -> Option<IpAddr> {
    let socket = UdpSocket::bind("[::]:0").ok()?;
    // Nothing is sent.
    socket.connect("[2001:db8::7]:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[test]
fn a_restricted_guest_has_addresses_of_its_own_by_ipv6() {
    let test = "a_restricted_guest_has_addresses_of_its_own_by_ipv6";
    let Some(given) = given_with_passt(test) else {
        return;
    };
    let Some(ours) = own_address_v6() else {
        return skip(test, "this machine has no route by IPv6");
    };
    let [all, other] = [(); 2].map(|()| TcpListener::bind("[::]:0").unwrap());
    let [here, closed] =
        [&all, &other].map(|all| all.local_addr().unwrap().port());
    let [port] = free_ports();
    let net = format!(
        "--net=user,restrict,publish=[::1]:{port}:80,allow=[{ours}]:{here},\
         allow=[fe80::2]:{here}"
    );
    let mut machine = given.shell_of_run(&[&net]);
    if machine.command("ls /proc/net/if_inet6").contains("No such") {
        return skip(test, "this kernel has no IPv6");
    }
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = all.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let answer = b"HTTP/1.0 200 OK\r\n\r\nwelcome\n";
            stream.write_all(answer).unwrap();
        }
    });
    machine.command("ifconfig eth0 up");
    // A router tells the prefix; 40 marks an address that may be another's yet.
    machine.command(
        "until grep ^fd6c677565730074 /proc/net/if_inet6 && \
         ! grep ' 40 *eth0' /proc/net/if_inet6; do sleep 1; done",
    );
    // By the address of the prefix, and by the link-local one.
    for host in [ours.to_string(), "fe80::2%eth0".into()] {
        let url = format!("http://[{host}]:{here}/");
        let said = machine.command(&format!("wget -q -O - '{url}'"));
        assert!(said.contains("welcome"), "{url}: {said}");
    }
    serving.join().unwrap();
    other.set_nonblocking(true).unwrap();
    let url = format!("http://[{ours}]:{closed}/");
    let said = machine.command(&format!("wget -T 3 -O - '{url}'; echo $?"));
    assert!(!said.contains("\n0\n"), "{said}");
    assert!(other.accept().is_err(), "it has reached another port");
    machine.command("mkdir /tmp/www; echo hello >/tmp/www/index.html");
    machine.command("httpd -p 80 -h /tmp/www");
    let mut stream = TcpStream::connect(("::1", port)).unwrap();
    stream
        .write_all(b"GET /index.html HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\nhello\n"), "{answer}");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn a_published_server_answers_each_of_many_requests() {
    const REQUESTS: u32 = 2000;
    const CLIENTS: u32 = 4;
    let test = "a_published_server_answers_each_of_many_requests";
    let Some(given) = given_with_passt(test) else {
        return;
    };
    let [port] = free_ports();
    let net = format!("--net=user,publish={port}:80");
    let mut machine = given.shell_of_run(&[&net]);
    lease(&mut machine);
    machine.command("mkdir /tmp/www; echo hello >/tmp/www/index.html");
    machine.command("httpd -p 80 -h /tmp/www");
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    // One after the other: none is lost.
    for request in 0..200 {
        let answer = ask().unwrap();
        assert!(answer.ends_with("\r\nhello\n"), "{request}: {answer}");
    }
    // The queue of this server has nine places. When it is full, Linux drops
    // the first segment of a connection, and passt of 2023 sends that once.
    let queue = AtomicU32::new(REQUESTS / 100);
    let client = || {
        for request in 0..REQUESTS / CLIENTS {
            let answer = loop {
                match ask() {
                    Ok(answer) => break answer,
                    Err(error)
                        if error.kind() == ErrorKind::ConnectionReset =>
                    {
                        let left = queue.fetch_sub(1, Ordering::Relaxed);
                        assert!(left > 0, "{request}: {error}");
                    }
                    Err(error) => panic!("{request}: {error}"),
                }
            };
            assert!(answer.ends_with("\r\nhello\n"), "{request}: {answer}");
        }
    };
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(client)));
    });
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

/// Bytes that look like any others.
fn noise(count: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let byte = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    (0..count).map(byte).collect()
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
    // It may not listen yet.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match TcpStream::connect((there, 7806)) {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => break other.unwrap(),
        }
    };
    let all = noise(MB << 20);
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
