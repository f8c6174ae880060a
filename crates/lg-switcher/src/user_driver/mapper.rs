//! Mapping in a user process: orders to its mapper, many at a time.
//!
//! An order is a system call. The view writes orders into pages that the mapper
//! reads, and answers the call in which the mapper waits with their number. The
//! mapper waits again when it has carried them out, or when one has failed.

use crate::ask::die;
use crate::layout::{COMMANDS, Command, MAX_COMMANDS};
use crate::mapper::Mmap;
use crate::notify::Standing;
use crate::segments::{self, UserDescriptor};
use crate::shared::{setup, user_pages};
use crate::syscall::{errno, nr};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::segment::Descriptor;
use lg_host::address::{GuestPhys, GuestVirt};
use lg_host::world::{Access, MapError, Mapper};

/// Where in an order to set a segment the entry is: behind the number and
/// three arguments.
const ENTRY_IN_ORDER: usize = 4 * size_of::<u64>();

/// Maps in a user process: by orders to its mapper, many at a time.
pub(crate) struct UserMapper {
    files: Mmap,
    task: Standing,
    count: usize,
    /// The machine maps nothing below this address.
    forbidden_below: u32,
}

impl UserMapper {
    /// Gives its orders to `task`, which stands.
    pub(super) fn new(task: Standing) -> Self {
        Self {
            files: Mmap::new(setup()),
            task,
            count: 0,
            forbidden_below: 0,
        }
    }

    fn order(
        &mut self,
        nr: usize,
        arguments: [usize; 6],
    ) -> Result<(), MapError> {
        if self.count == MAX_COMMANDS {
            // An error here is that of an earlier page, not of this one.
            self.flush().map_err(|_| MapError::NoRoom)?;
        }
        let [number, rest @ ..] = &user_pages().commands.0[self.count];
        number.set(nr as u64);
        for (word, argument) in rest.iter().zip(arguments) {
            word.set(argument as u64);
        }
        if nr == nr::MODIFY_LDT {
            // The entry is in the order itself, where the mapper sees it and
            // the user process cannot write.
            let place = self.count * size_of::<Command>();
            rest[1].set((COMMANDS + place + ENTRY_IN_ORDER) as u64);
        }
        self.count += 1;
        Ok(())
    }

    /// Order number `done` has failed. Answers why, and remembers where the
    /// machine maps nothing.
    fn failure(&mut self, done: u64, error: i64) -> MapError {
        if error == -i64::from(errno::ENOMEM) {
            return MapError::NoRoom;
        }
        /// No machine forbids mappings above this.
        const MOST: u64 = 0x10_0000;
        let done = usize::try_from(done).ok();
        let order = done.and_then(|done| user_pages().commands.0.get(done));
        if let Some([nr, va, ..]) = order
            && nr.get() == nr::MMAP as u64
            && va.get() < MOST
        {
            let end = u32::try_from(va.get()).unwrap_or(0) + PAGE_SIZE;
            self.forbidden_below = self.forbidden_below.max(end);
        }
        MapError::Forbidden
    }
}

impl Mapper for UserMapper {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        if va.0 < self.forbidden_below {
            return Err(MapError::Forbidden);
        }
        let arguments = self.files.arguments(va, pa, pages, access);
        self.order(nr::MMAP, arguments)
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        let [a, b] = UserDescriptor::new(index, descriptor).words();
        let size = size_of::<UserDescriptor>();
        // The entry is behind the arguments of the call. Its address depends on
        // the place of the order: see `order`.
        self.order(nr::MODIFY_LDT, [segments::WRITE, 0, size, a, b, 0])
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let bytes = (pages as usize) << PAGE_SHIFT;
        self.order(nr::MUNMAP, [va.0 as usize, bytes, 0, 0, 0, 0])
    }

    fn flush(&mut self) -> Result<(), MapError> {
        if self.count == 0 {
            return Ok(());
        }
        let count = i64::try_from(self.count).unwrap_or(0);
        self.count = 0;
        self.task.answer(count);
        match self.task.receive() {
            Ok([_, 0, ..]) => Ok(()),
            Ok([done, error, ..]) => {
                Err(self.failure(done, error.cast_signed()))
            }
            Err(_) => die(&"the mapper of its user code is gone"),
        }
    }
}
