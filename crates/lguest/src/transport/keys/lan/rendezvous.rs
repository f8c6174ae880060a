//! How Launchers on one LAN meet: a socket beside the file for each slot.
//!
//! The Launcher in slot 3 of `FILE` listens at `FILE.3`. A Launcher that
//! connects sends a [`Hello`](super::messages::Hello), perhaps with its outbox.
//! The answer is a [`Welcome`](super::messages::Welcome) with two files: the
//! memory of the Guest, and the port that shows where it receives. Nothing is
//! sent afterwards. The end of the connection means that the other side has
//! gone.
//!
//! Both sides look at the user of the other process, and close the connection
//! if it is another user. Neither receives a message itself: see
//! [`super::porter`].

use super::messages::Message;
use super::porter::{Connection, Porter};
use crate::credentials::peer_of_our_user;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many connections may wait to be accepted. There are fewer slots.
const BACKLOG: i32 = 1024;

/// The socket of a slot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// Its name is too long for a socket.
    #[error("the name {0} is too long for a socket: rename the file")]
    Name(String),
    /// A file that is no socket has its name.
    #[error("{0} is in the way, and is no socket: move it away")]
    InTheWay(String),
    /// This user may not write the directory.
    #[error(
        "cannot make the socket {0} ({1}): put the network's file into a \
         directory that you may write"
    )]
    Bind(String, #[source] io::Error),
}

/// A socket that other Launchers connect to.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Connection,
    name: OsString,
    inode: (u64, u64),
}

/// The sockets beside one file.
#[derive(Debug)]
pub(super) struct Rendezvous {
    /// The directory they are in.
    directory: OwnedFd,
    file: PathBuf,
}

impl Rendezvous {
    /// The sockets beside `file`. Nothing is made yet.
    pub(super) fn beside(file: &Path) -> Result<Self, RendezvousError> {
        let parent = file.parent().unwrap_or(Path::new("/"));
        let directory = rustix::fs::openat(
            CWD,
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| {
            RendezvousError::Bind(file.display().to_string(), e.into())
        })?;
        Ok(Self {
            directory,
            file: file.to_owned(),
        })
    }

    /// Listens at the socket of `slot`, whose lock we hold: an older socket
    /// there is that of a dead Launcher.
    pub(super) fn listen(
        &self,
        slot: u32,
        porter: &Arc<Porter>,
    ) -> Result<Listener, RendezvousError> {
        let name = self.name(slot);
        let shown = self.file.with_file_name(&name).display().to_string();
        let address = self
            .address(slot)
            .map_err(|_| RendezvousError::Name(shown.clone()))?;
        match self.kind(&name) {
            Err(_) => {}
            Ok(FileType::Socket) => self.unlink(&name),
            Ok(_) => return Err(RendezvousError::InTheWay(shown)),
        }
        let listen = || {
            let socket = Connection::new(socket()?, porter);
            // The mode that the socket is going to have in the directory.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(Listener {
                inode: self.inode(&name)?,
                socket,
                name: name.clone(),
            })
        };
        listen().map_err(|e: Errno| RendezvousError::Bind(shown, e.into()))
    }

    /// Connects to the socket of `slot`. Does not wait. An error means that no
    /// Launcher of this user is there.
    pub(super) fn connect(
        &self,
        slot: u32,
        porter: &Arc<Porter>,
    ) -> io::Result<Connection> {
        let socket = Connection::new(socket()?, porter);
        rustix::net::connect(&socket, &self.address(slot)?)?;
        peer_of_our_user(&socket)?;
        Ok(socket)
    }

    /// Removes our own socket, if it is still there.
    pub(super) fn close(&self, listener: &Listener) {
        if self.inode(&listener.name) == Ok(listener.inode) {
            self.unlink(&listener.name);
        }
    }

    /// Whether there is a socket at `slot`.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.kind(&self.name(slot)) == Ok(FileType::Socket)
    }

    /// Removes the socket of a dead Launcher at `slot`, whose lock we hold.
    pub(super) fn remove(&self, slot: u32) {
        if self.has(slot) {
            self.unlink(&self.name(slot));
        }
    }

    fn unlink(&self, name: &OsStr) {
        // It may be gone already, or belong to another user. The next bind
        // fails then, with an error that says so.
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    fn kind(&self, name: &OsStr) -> rustix::io::Result<FileType> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.directory, name, flags)
            .map(|stat| FileType::from_raw_mode(stat.st_mode))
    }

    fn inode(&self, name: &OsStr) -> rustix::io::Result<(u64, u64)> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.directory, name, flags)
            .map(|stat| (stat.st_dev, stat.st_ino))
    }

    fn name(&self, slot: u32) -> OsString {
        let mut name = self
            .file
            .file_name()
            .map(OsString::from)
            .unwrap_or_default();
        name.push(format!(".{slot}"));
        name
    }

    /// The address of the socket: its path, or through the open directory if
    /// that is too long.
    fn address(&self, slot: u32) -> io::Result<SocketAddrUnix> {
        let name = self.name(slot);
        SocketAddrUnix::new(self.file.with_file_name(&name))
            .or_else(|_| {
                let fd = self.directory.as_raw_fd();
                let path = format!("/proc/self/fd/{fd}");
                SocketAddrUnix::new(Path::new(&path).join(&name))
            })
            .map_err(Into::into)
    }
}

/// The next connection to `listener`; `None` when there is none. A connection
/// of another user is closed.
pub(super) fn accept(
    listener: BorrowedFd<'_>,
    porter: &Arc<Porter>,
) -> io::Result<Option<Connection>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        match rustix::net::accept_with(listener, flags) {
            Ok(socket) => {
                let socket = Connection::new(socket, porter);
                if peer_of_our_user(&socket).is_ok() {
                    return Ok(Some(socket));
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends `message` and `files`. Does not wait.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Message,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(files));
        assert!(fits, "a message carries two files at most");
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(message.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Hello, Welcome};
    use super::super::porter::receive_here;
    use super::super::tests::{Scratch, porter};
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_arrives_with_all_its_files_or_not_at_all() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let meet = Rendezvous::beside(&file).unwrap();
        let listener = meet.listen(3, &porter()).unwrap();
        assert!(
            accept(listener.socket.as_fd(), &porter())
                .unwrap()
                .is_none()
        );
        let a = meet.connect(3, &porter()).unwrap();
        let b = accept(listener.socket.as_fd(), &porter()).unwrap().unwrap();
        assert!(receive_here::<Hello>(b.as_fd()).unwrap().is_none());
        let hello = Hello::new((1, 2), 3, true);
        send(a.as_fd(), &hello, &[]).unwrap();
        let (got, files) = receive_here::<Hello>(b.as_fd()).unwrap().unwrap();
        assert_eq!(got, hello);
        assert!(files.is_empty());
        let two = [listener.socket.as_fd(), dir.fd()];
        send(b.as_fd(), &Welcome::new(7, 0x1000), &two).unwrap();
        let (_, files) = receive_here::<Welcome>(a.as_fd()).unwrap().unwrap();
        assert_eq!(files.len(), 2);
        // A message of another kind is as bad as none.
        send(a.as_fd(), &Welcome::new(1, 1), &[]).unwrap();
        assert!(receive_here::<Hello>(b.as_fd()).is_err());
        drop(a);
        // The porter closes it.
        while matches!(receive_here::<Hello>(b.as_fd()), Ok(None)) {
            std::thread::yield_now();
        }
        let end = receive_here::<Hello>(b.as_fd()).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_the_socket_of_a_dead_launcher_is_replaced() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let meet = Rendezvous::beside(&file).unwrap();
        let dead = meet.listen(0, &porter()).unwrap();
        let again = meet.listen(0, &porter()).unwrap();
        // The socket there now is another one. It is not removed.
        meet.close(&dead);
        assert!(meet.connect(0, &porter()).is_ok());
        drop(again);
        // The porter closes it.
        while meet.connect(0, &porter()).is_ok() {}
        std::fs::write(dir.path().join("lan.1"), "precious").unwrap();
        assert!(matches!(
            meet.listen(1, &porter()),
            Err(RendezvousError::InTheWay(name)) if name.ends_with("/lan.1")
        ));
        assert_eq!(
            std::fs::read(dir.path().join("lan.1")).unwrap(),
            b"precious"
        );
        meet.remove(0);
        meet.remove(1);
        assert!(!dir.path().join("lan.0").exists());
        assert!(dir.path().join("lan.1").exists());
    }

    #[test]
    fn a_long_path_is_possible_and_a_long_name_is_not() {
        let dir = Scratch::new();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let meet = Rendezvous::beside(&deep.join("lan")).unwrap();
        let _listener = meet.listen(681, &porter()).unwrap();
        assert!(deep.join("lan.681").exists());
        assert!(meet.connect(681, &porter()).is_ok());
        let long = deep.join("n".repeat(120));
        let meet = Rendezvous::beside(&long).unwrap();
        assert!(matches!(
            meet.listen(0, &porter()),
            Err(RendezvousError::Name(_))
        ));
    }
}
