//! Networks by a stream socket, as users run them.

mod support;

use rustix::io::FdFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use support::later::LATER;
use support::network::Guest;
use support::{Running, Scratch, built_in, free_port, lguest, run, skip, tool};

const A: &str = "--append=quiet ip=10.0.0.1/24";
const B: &str = "--append=quiet ip=10.0.0.2/24";

/// The value of `--net` for a socket.
fn at(path: &Path) -> String {
    format!("stream=unix:{}", path.display())
}

#[test]
fn two_guests_talk_by_a_socket_and_one_is_replaced() {
    let scratch = Scratch::new("stream");
    let path = scratch.path("socket");
    let mut a = Guest::on(&format!("{},server", at(&path)), &[A]);
    let mut b = Guest::on(&at(&path), &[B]);
    b.pings(0);
    b.sends(8, &mut a, 0);
    b.0.signal(libc::SIGKILL);
    let _ = b.0.finish();
    a.says("echo", "alive");
    let mut b = Guest::on(&at(&path), &[B]);
    b.pings(0);
    b.ends();
    // The Launcher may learn of that later than its guest powers off.
    let down = "the link is down, until";
    a.0.wait_for_nth_error(down, 2);
    a.types("poweroff");
    let end = a.0.finish();
    assert_eq!(end.code(), 0, "{end:?}");
    assert_eq!(end.stderr.matches(down).count(), 2);
}

#[test]
fn a_given_descriptor_is_used_and_its_end_is_survived() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let net = format!("stream=fd:{}", theirs.as_raw_fd());
    let mut guest = Guest::on(&net, &[A]);
    drop(theirs);
    guest.types("ping 10.0.0.9 1");
    // It asks for the address: an ARP frame for all.
    let mut ours = File::from(std::os::fd::OwnedFd::from(ours));
    let mut asked = [0; 18];
    ours.read_exact(&mut asked).unwrap();
    assert_eq!(asked[4..10], [0xFF; 6], "{asked:?}");
    assert_eq!(asked[16..], [8, 6], "{asked:?}");
    // A frame that is not one.
    ours.write_all(&[0xFF; 4]).unwrap();
    let said = guest.0.wait_for_error("the guest goes on without it");
    assert!(said.contains("a frame of 4294967295 bytes"), "{said}");
    guest.says("echo", "alive");
    guest.types("poweroff");
    assert_eq!(guest.0.finish().code(), 0);
}

#[test]
fn an_end_that_comes_and_goes_is_reported_sixteen_times() {
    let scratch = Scratch::new("reports");
    let path = scratch.path("socket");
    let mut guest = Guest::on(&format!("{},server", at(&path)), &[A]);
    for _ in 0..20 {
        drop(UnixStream::connect(&path).unwrap());
    }
    guest.0.wait_for_error("this is not reported again");
    guest.says("echo", "alive");
    guest.types("poweroff");
    let end = guest.0.finish();
    assert_eq!(end.code(), 0, "{end:?}");
    assert_eq!(end.stderr.matches("the other end is lost").count(), 16);
}

#[test]
fn a_report_without_a_reader_blocks_no_guest() {
    let scratch = Scratch::new("unread");
    let path = scratch.path("socket");
    let (unread, errors) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&errors, 4096).unwrap();
    (&errors).write_all(&[b'x'; 4096]).unwrap();
    let mut command = lguest();
    command
        .arg("run")
        .arg(format!("--net={},server", at(&path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors);
    let mut guest = Running::start_as_is(&mut command);
    drop(command);
    guest.wait_for("lguest> ");
    for _ in 0..4 {
        // The Launcher takes the next one after it has lost this one.
        drop(UnixStream::connect(&path).unwrap());
    }
    guest.type_in(b"echo alive\n");
    guest.wait_for("\nalive");
    guest.type_in(b"poweroff\n");
    assert_eq!(guest.finish().code(), 0);
    drop(unread);
}

#[test]
fn all_frames_are_in_a_capture() {
    let scratch = Scratch::new("capture");
    let (path, capture) = (scratch.path("socket"), scratch.path("pcap"));
    let net = format!("{},server,pcap={}", at(&path), capture.display());
    let mut a = Guest::on(&net, &[A]);
    let mut b = Guest::on(&at(&path), &[B]);
    b.pings(0);
    b.ends();
    a.types("poweroff");
    assert_eq!(a.0.finish().code(), 0);
    let bytes = std::fs::read(&capture).unwrap();
    assert_eq!(bytes[..4], [0x4D, 0x3C, 0xB2, 0xA1]);
    let mut rest = &bytes[24..];
    let (mut asked, mut answered) = (0, 0);
    while let Some((header, frames)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
        let (frame, more) = frames.split_at(length as usize);
        // ICMP over IPv4: an echo request, or its answer.
        if frame[12..14] == [8, 0] && frame[23] == 1 {
            asked += usize::from(frame[34] == 8);
            answered += usize::from(frame[34] == 0);
        }
        rest = more;
    }
    assert!(asked >= 1 && answered >= 1, "{asked} and {answered}");
    assert!(rest.is_empty());
    let net = format!("{},server,pcap=/", at(&path));
    let mut command = lguest();
    command.arg("run").arg(format!("--net={net}"));
    let end = run(&mut command, b"");
    assert_eq!(end.code(), 120, "{end:?}");
    assert!(end.stderr.contains("capture /: it cannot be written"));
}

#[test]
fn a_capture_empties_no_file_of_a_guest() {
    let scratch = Scratch::new("no-capture");
    let content = [0x55; 64 * 512];
    let disk = scratch.file("disk", &content);
    let path = scratch.path("socket");
    let net = format!("--net={},server,pcap={}", at(&path), disk.display());
    let refused = |words: &[&str], said: &str| {
        let mut command = lguest();
        command.arg("run").args(words);
        let end = run(&mut command, b"");
        assert_eq!(end.code(), 120, "{words:?}: {end:?}");
        assert!(end.stderr.contains(said), "{words:?}: {end:?}");
        let now = std::fs::read(&disk).unwrap();
        assert!(now == content, "{words:?}: its content is lost");
    };
    let named = |option: &str| format!("--{option}={}", disk.display());
    for option in ["disk", "kernel", "initrd", "log", "stats"] {
        let of_run = "this run uses it for something else";
        refused(&[&named(option), &net], of_run);
        refused(&[&net, &named(option)], of_run);
    }
    // A run that does not start leaves it as it is.
    refused(&[&net, "--stats=/"], "statistics /");
    // The disk of another Guest.
    let mut command = lguest();
    command.arg("run").arg(named("disk"));
    let guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    refused(&[&net], "it is a disk of a guest, or another capture");
    drop(guest);
}

#[test]
fn a_stream_that_cannot_be_opened_names_the_cure() {
    let scratch = Scratch::new("no-stream");
    let path = scratch.path("socket");
    let refused = |net: &str, said: &str| {
        let mut command = lguest();
        command.arg("run").arg(format!("--net={net}"));
        let end = run(&mut command, b"");
        assert_eq!(end.code(), 120, "{net}: {end:?}");
        assert!(end.stderr.contains(said), "{net}: {end:?}");
    };
    refused(&at(&path), "start the other end first, or add ',server'");
    refused("stream=fd:2", "give one from 3 on");
    refused("stream=fd:77", "has to open it");
    refused("stream=unix:/", "the file at / is not a socket");
    refused("stream=unix:/,server", "the file at / is not a socket");
    let long = format!("stream=unix:/{}", "x".repeat(120));
    refused(&long, "give the path of a socket");
    let listener = UnixListener::bind(&path).unwrap();
    if rustix::process::geteuid().is_root() {
        skip("no permission to use a socket", "root has it");
    } else {
        let mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
        };
        mode(0);
        refused(&at(&path), "no permission to use");
        mode(0o600);
    }
    refused(&format!("{},server", at(&path)), "leave ',server' out");
    // The cure works.
    let mut command = lguest();
    command.arg("run").arg(format!("--net={}", at(&path)));
    let mut guest = Running::start(&mut command);
    let _other = listener.accept().unwrap();
    guest.type_in(b"poweroff\n");
    assert_eq!(guest.finish().code(), 0);
    // A pipe is no socket.
    let (pipe, _end) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&pipe, FdFlags::empty()).unwrap();
    let net = format!("stream=fd:{}", pipe.as_raw_fd());
    refused(&net, "is not a stream socket");
}

#[test]
fn long_packets_need_a_kernel_with_room_for_them() {
    let scratch = Scratch::new("mtu");
    let path = scratch.path("socket");
    let run_with = |mtu: &str, words: &[&str]| {
        let mut command = lguest();
        command.arg("run").args(words);
        command.arg(format!("--net={},server{mtu}", at(&path)));
        run(&mut command, b"poweroff\n")
    };
    let end = run_with(",mtu=9000", &[]);
    assert_eq!(end.code(), 2, "{end:?}");
    let said = "packets of 9000 bytes are too long for this kernel";
    assert!(end.stderr.contains(said), "{end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    // The cures work: a short one, none, and another kernel.
    for mtu in [",mtu=1500", ""] {
        let end = run_with(mtu, &[]);
        assert_eq!(end.code(), 0, "{end:?}");
    }
    let kernel = LATER[0].of(&built_in(), &scratch);
    let kernel = format!("--kernel={}", kernel.display());
    let end = run_with(",mtu=9000", &[&kernel]);
    assert_eq!(end.code(), 0, "{end:?}");
}

/// QEMU without a machine: its stream is one port of a hub, and its own user
/// network, which answers at 10.0.2.2, another one.
fn qemu(socket: &Path, port: u16) -> Command {
    let mut command = tool("qemu-system-x86_64");
    let hub = |id: &str, netdev: &str| {
        format!("hubport,id={id},hubid=0,netdev={netdev}")
    };
    let stream = format!(
        "stream,id=stream,server=off,addr.type=unix,addr.path={}",
        socket.display()
    );
    let user =
        format!("user,id=user,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:5001");
    command.args(["-machine", "none", "-nodefaults", "-display", "none"]);
    for netdev in [stream, user, hub("one", "stream"), hub("two", "user")] {
        command.args(["-netdev", &netdev]);
    }
    command.stdin(Stdio::null());
    command
}

/// A process that is killed at the end of the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn qemu_and_a_guest_exchange_100_megabytes_each_way() {
    const MB: usize = 100;
    let test = "qemu_and_a_guest_exchange_100_megabytes_each_way";
    let help = tool("qemu-system-x86_64")
        .args(["-netdev", "help"])
        .output();
    let has_stream = help.is_ok_and(|help| {
        String::from_utf8_lossy(&help.stdout).contains("stream")
    });
    if !has_stream {
        return skip(test, "there is no QEMU with -netdev stream");
    }
    let scratch = Scratch::new("qemu");
    let path = scratch.path("socket");
    let words = "--append=quiet ip=10.0.2.15/24 gw=10.0.2.2";
    let mut guest = Guest::on(&format!("{},server", at(&path)), &[words]);
    let port = free_port();
    let _qemu = Killed(qemu(&path, port).spawn().unwrap());
    // QEMU may need a moment until it connects.
    guest.types("ping 10.0.2.2 60");
    let said = guest.0.wait_for(" of 60 answered");
    assert!(!said.contains(" 0 of 60 answered"), "{said}");
    // Out of the Guest ...
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = here.local_addr().unwrap().port();
    guest.types(&format!("tcp-send 10.0.2.2 {MB} {ours}"));
    let (mut stream, _) = here.accept().unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), MB * 1_000_000);
    drop(stream);
    guest.0.wait_for(&format!("sent {MB}000000 bytes"));
    // ... and into it.
    guest.types("tcp-serve");
    guest.0.wait_for("listening on 10.0.2.15:5001");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for _ in 0..MB {
        stream.write_all(&vec![7; 1_000_000]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    guest.0.wait_for(&format!("received {MB}000000 bytes"));
    guest.types("poweroff");
    assert_eq!(guest.0.finish().code(), 0);
}
