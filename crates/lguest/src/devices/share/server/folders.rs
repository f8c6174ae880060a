//! The request for the entries of a folder.
//!
//! A Guest is told nothing about what is above the shared folder.

use super::node::qid_kind;
use super::protocol::{Errno, Qid, READ_HEADER};
use super::session::{MOST_PLACES, Open, Server};
use super::words::{Reader, Writer};

impl Server {
    pub(super) fn readdir(
        &mut self,
        words: &mut Reader<'_>,
        room: u32,
    ) -> Result<Writer, Errno> {
        let (fid, from, count) = (words.u32()?, words.u64()?, words.u32()?);
        let most = count.saturating_add(READ_HEADER).min(room).min(self.most);
        let root = self.root.qid;
        let bound = self.fids.get_mut(&fid).ok_or(Errno::BADF)?;
        let here = bound.node.qid;
        let Some(Open::Folder(folder)) = &mut bound.open else {
            return Err(Errno::BADF);
        };
        let mut answer = Writer::new();
        answer.u32(0);
        let before = folder.places();
        let listed = folder.go_to(from).and_then(|()| {
            let others = self.places - before;
            let left = MOST_PLACES.saturating_sub(others + folder.places());
            folder.list(&mut answer, most, left, |name, number, kind| {
                match name {
                    b"." => here,
                    // What is above the folder is no concern of the Guest.
                    b".." if here == root => root,
                    _ => Qid {
                        kind: qid_kind(kind),
                        version: 0,
                        path: number,
                    },
                }
            })
        });
        self.places = self.places - before + folder.places();
        listed?;
        let bytes = answer.size() - READ_HEADER;
        answer.set_first(bytes);
        Ok(answer)
    }
}
