//! The server: it answers requests of 9P2000.L about one folder.
//!
//! A request names files by *fids*, numbers that the Guest chooses. A fid is
//! bound to a file that is open without any access (`O_PATH`), so renaming and
//! removing files changes nothing about it. Names are single components, and
//! no link is followed, so no name leads out of the folder: see [`node`].
//!
//! The Guest is hostile. Every number is checked, and what it makes us hold is
//! bounded: [`MOST_FIDS`] fids, and [`MOST_PLACES`] places in folders.
//!
//! In reading order: [`words`] takes messages apart, [`protocol`] has their
//! numbers, [`payload`] is the memory that a message lies in, [`node`] finds
//! and opens files, [`session`] has the fids, [`saved`] tells them to another
//! server, and the rest are the requests by topic.

mod attributes;
mod changes;
mod files;
mod folder;
mod folders;
mod node;
mod owner;
mod payload;
mod protocol;
mod saved;
mod session;
mod words;

pub use payload::Payload;
pub use protocol::HEADER;
pub use session::{MOST_BYTES, MOST_FIDS, MOST_PLACES, Server};

use protocol::{self as p, Errno};
use std::sync::Arc;
use words::{Reader, Writer};

/// The fewest bytes of a message that a Guest may ask for.
const FEWEST_BYTES: u32 = 512;

/// The most bytes of a request that are looked at, data to write excluded. The
/// longest is a walk along sixteen long names.
const LONGEST_REQUEST: u32 = 16 << 10;

impl Server {
    /// Answers the request in `payload`. Returns the bytes of the answer; 0 if
    /// there is no room for one, or nothing that could be answered.
    pub fn serve(&mut self, payload: &Payload<'_>) -> u32 {
        let Ok(bytes) = payload.request(LONGEST_REQUEST) else {
            return 0;
        };
        let mut words = Reader::new(&bytes);
        let (Ok(size), Ok(kind), Ok(tag)) =
            (words.u32(), words.u8(), words.u16())
        else {
            return 0;
        };
        let room = payload.room();
        let result = if size < p::HEADER || size > self.most {
            Err(Errno::INVAL)
        } else {
            self.answer(kind, &mut words, payload)
        };
        let answer = match result {
            Ok(Answer::Read(count)) => {
                return payload.finish_read(tag, count);
            }
            Ok(Answer::Message(answer)) if answer.size() <= room => answer,
            Ok(Answer::Message(_)) => Writer::error(Errno::MSGSIZE),
            Err(error) => Writer::error(error),
        };
        payload.put(&answer.finish(kind, tag))
    }

    fn answer(
        &mut self,
        kind: u8,
        words: &mut Reader<'_>,
        payload: &Payload<'_>,
    ) -> Result<Answer, Errno> {
        if self.read_only && p::CHANGES.contains(&kind) {
            if kind == p::REMOVE {
                self.forget(words.u32()?);
            }
            return Err(Errno::ROFS);
        }
        let message = match kind {
            p::READ => return self.read(words, payload).map(Answer::Read),
            p::WRITE => self.write(words, payload),
            p::VERSION => self.version(words),
            p::ATTACH => self.attach(words),
            p::WALK => self.walk(words),
            p::CLUNK => self.clunk(words),
            p::REMOVE => self.remove(words),
            // Requests are answered in order, so the old one has been.
            p::FLUSH => words.u16().map(|_| Writer::new()),
            p::STATFS => self.statfs(words),
            p::GETATTR => self.getattr(words),
            p::SETATTR => self.setattr(words),
            p::READLINK => self.readlink(words),
            p::LOPEN => self.lopen(words),
            p::LCREATE => self.lcreate(words),
            p::FSYNC => self.fsync(words),
            p::LOCK => self.locked(words),
            p::GETLOCK => self.getlock(words),
            p::READDIR => self.readdir(words, payload.room()),
            p::SYMLINK => self.symlink(words),
            p::MKNOD => self.mknod(words),
            p::MKDIR => self.mkdir(words),
            p::LINK => self.link(words),
            p::RENAMEAT => self.renameat(words),
            p::UNLINKAT => self.unlinkat(words),
            _ => Err(Errno::OPNOTSUPP),
        };
        message.map(Answer::Message)
    }

    /// The Guest says which protocol it has, and how long its messages are.
    /// This begins a session, so all fids are forgotten.
    fn version(&mut self, words: &mut Reader<'_>) -> Result<Writer, Errno> {
        let wanted = words.u32()?;
        let version = words.text()?;
        if wanted < FEWEST_BYTES {
            return Err(Errno::INVAL);
        }
        self.fids.clear();
        self.stale.clear();
        self.places = 0;
        self.most = wanted.min(MOST_BYTES);
        let known = version == p::VERSION_L;
        let mut answer = Writer::new();
        answer.u32(self.most);
        answer.text(if known { version } else { p::VERSION_UNKNOWN });
        Ok(answer)
    }

    fn attach(&mut self, words: &mut Reader<'_>) -> Result<Writer, Errno> {
        let fid = words.u32()?;
        let root = self.root.clone();
        let mut answer = Writer::new();
        answer.qid(root.qid);
        self.bind(fid, root)?;
        Ok(answer)
    }

    /// Follows names from one fid, and binds another fid to the end.
    fn walk(&mut self, words: &mut Reader<'_>) -> Result<Writer, Errno> {
        let (fid, new) = (words.u32()?, words.u32()?);
        let names = words.u16()?;
        if names > p::LONGEST_WALK {
            return Err(Errno::INVAL);
        }
        let mut node = self.fid(fid)?.node.clone();
        let mut qids = Vec::new();
        for index in 0..names {
            // A walk that ends before its end is no error, but binds nothing.
            let found = words.name().and_then(|name| self.find(&node, name));
            match found {
                Ok(next) => node = Arc::new(next),
                Err(error) if index == 0 => return Err(error),
                Err(_) => break,
            }
            qids.push(node.qid);
        }
        if qids.len() == usize::from(names) {
            if new == fid {
                self.forget(fid);
            }
            self.bind(new, node)?;
        }
        let mut answer = Writer::new();
        answer.u16(u16::try_from(qids.len()).unwrap_or(0));
        qids.into_iter().for_each(|qid| answer.qid(qid));
        Ok(answer)
    }

    fn clunk(&mut self, words: &mut Reader<'_>) -> Result<Writer, Errno> {
        let fid = words.u32()?;
        if !self.stale.contains(&fid) {
            self.fid(fid)?;
        }
        self.forget(fid);
        Ok(Writer::new())
    }

    /// Since Linux 2.6.39 UNLINKAT is used instead. The fid is unbound all the
    /// same.
    fn remove(&mut self, words: &mut Reader<'_>) -> Result<Writer, Errno> {
        self.forget(words.u32()?);
        Err(Errno::OPNOTSUPP)
    }
}

/// The answer to the request with this header, from the Launcher, if no server
/// answers it.
#[must_use]
pub fn failure(header: &[u8]) -> Vec<u8> {
    let mut words = Reader::new(header);
    let tag = words.u32().and(words.u8()).and(words.u16());
    Writer::error(Errno::IO).finish(p::ERROR, tag.unwrap_or(0))
}

/// What answers a request.
enum Answer {
    /// A message.
    Message(Writer),
    /// Bytes of a file, which are in the Guest's memory already.
    Read(u32),
}

#[cfg(test)]
mod tests;
