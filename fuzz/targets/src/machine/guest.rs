//! The actions of the Guest.
//!
//! It writes memory, by physical address or through mappings, and makes
//! hypercalls.

use super::{CODE, DATA, LIMIT, Machine, PAGE_OFFSET};
use lg_abi::call::{CallName, MAX_ARGUMENTS};
use lg_abi::hypercall::{HYPERCALL_VECTOR, RawCall};
use lg_abi::interface::CallRegisters;
use lg_abi::known::Known;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::shared::{HCALL_PENDING, offset};
use lg_host::address::{GuestPhys, as_word};
use lg_host::host::Event;
use lg_host::kill::Kill;
use lg_host::world::Access;
use std::sync::atomic::Ordering;

impl Machine<'_> {
    /// Reads a word of the Guest's memory that must be there.
    #[must_use]
    pub fn word(&self, addr: u32) -> u32 {
        self.memory().word(GuestPhys(addr)).expect("it is there")
    }

    /// Writes a word of memory, if there is such a word.
    pub fn set_word(&self, addr: u32, word: u32) {
        self.write(addr, &word.to_le_bytes());
    }

    /// Writes bytes of memory, if there is room for them. This does not use a
    /// mapping, so for a page with a patched copy it counts as a write by a
    /// device, and a kick follows.
    pub fn write(&self, addr: u32, bytes: &[u8]) {
        let _ = self.memory().write(GuestPhys(addr), bytes);
        let last = addr.saturating_add(as_word(bytes.len()));
        let pages = addr >> PAGE_SHIFT..=last >> PAGE_SHIFT;
        let frames = self.vm.patches.copies.iter().map(|copy| copy.get());
        let mut pages_with_copies =
            frames.filter(|&frame| frame != 0).map(|f| f >> PAGE_SHIFT);
        if pages_with_copies.any(|page| pages.contains(&page)) {
            self.vm.wire.kick.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The Guest stores bytes at `va`, by what is mapped there. Answers
    /// whether it could, with as many page faults as it takes.
    ///
    /// # Errors
    ///
    /// The Guest dies.
    pub fn store(
        &mut self,
        va: u32,
        user: bool,
        bytes: &[u8],
    ) -> Result<bool, Kill> {
        let Some(at) = self.reach(va, Access::Write, user)? else {
            return Ok(false);
        };
        self.memory().write(GuestPhys(at), bytes)?;
        Ok(true)
    }

    /// The bytes that user code executes at `va`, if there are any.
    ///
    /// # Errors
    ///
    /// The Guest dies.
    pub fn code(&mut self, va: u32) -> Result<Option<[u8; 2]>, Kill> {
        let Some(at) = self.reach(va, Access::Read, true)? else {
            return Ok(None);
        };
        let mut code = [0; 2];
        match at.checked_sub(LIMIT) {
            Some(at) => self.copies().read(GuestPhys(at), &mut code)?,
            None => self.memory().read(GuestPhys(at), &mut code)?,
        }
        Ok(Some(code))
    }

    /// The physical address of `va`, after the necessary page faults; `None` if
    /// it is not mapped, or there is no room.
    fn reach(
        &mut self,
        va: u32,
        access: Access,
        user: bool,
    ) -> Result<Option<u32>, Kill> {
        const TRIES: u32 = 4;
        for _ in 0..TRIES {
            let mapper = self.mappers[self.current].borrow();
            let there = mapper.pages.get(&(va >> PAGE_SHIFT)).copied();
            drop(mapper);
            if let Some((frame, allowed)) = there
                && (access == Access::Read || allowed == access)
            {
                return Ok(Some(frame + va % PAGE_SIZE));
            }
            self.vm.user.set(user.into());
            self.vm
                .regs
                .eip
                .set(if user { va } else { PAGE_OFFSET + CODE });
            let write = u32::from(access == Access::Write);
            self.step(Event::Trap {
                vector: 14,
                error: write << 1 | u32::from(user) << 2,
                cr2: va,
            })?;
            if user && !self.vm.in_user_mode() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The Guest puts a call into the ring.
    pub fn leave_in_ring(&self, call: RawCall) {
        let n = self.vm.next_hcall.get();
        let at = DATA + offset::HCALLS + n * as_word(size_of::<RawCall>());
        for (i, word) in [call.eax, call.edx, call.ebx, call.ecx]
            .into_iter()
            .enumerate()
        {
            self.set_word(at + as_word(i) * 4, word);
        }
        self.write(DATA + offset::HCALL_STATUS + n, &[HCALL_PENDING]);
    }

    /// The Guest makes call `name` as its release does: by the ring or by the
    /// instruction.
    ///
    /// # Errors
    ///
    /// The Guest dies.
    ///
    /// # Panics
    ///
    /// If its release has no such call.
    pub fn say(
        &mut self,
        name: CallName,
        arguments: [u32; MAX_ARGUMENTS],
        by_ring: bool,
    ) -> Result<(), Kill> {
        let interface = Known::by_number(self.vm.interface.get());
        let number = interface.number(name).expect("the release has it");
        let registers = interface.registers(number, arguments);
        if !by_ring {
            return self.call_with(registers);
        }
        let n = self.vm.next_hcall.get();
        let layout = &interface.layout;
        let entry = n * interface.ring_entry_size();
        let at = DATA + layout.hcalls.offset() + entry;
        for (i, &register) in interface.ring.iter().enumerate() {
            self.set_word(at + as_word(i) * 4, registers.get(register));
        }
        let status = DATA + layout.hcall_status.offset() + n;
        self.write(status, &[HCALL_PENDING]);
        self.step(Event::Kick)
    }

    /// The Guest makes a call of 2007 by the instruction.
    ///
    /// # Errors
    ///
    /// The Guest dies.
    pub fn call(&mut self, call: RawCall) -> Result<(), Kill> {
        self.call_with(CallRegisters {
            eax: call.eax,
            ebx: call.ebx,
            ecx: call.ecx,
            edx: call.edx,
            esi: self.vm.regs.esi.get(),
        })
    }

    /// The Guest makes a call by the instruction, from its code page.
    fn call_with(&mut self, call: CallRegisters) -> Result<(), Kill> {
        let regs = &self.vm.regs;
        regs.eax.set(call.eax);
        regs.edx.set(call.edx);
        regs.ebx.set(call.ebx);
        regs.ecx.set(call.ecx);
        regs.esi.set(call.esi);
        regs.eip.set(PAGE_OFFSET + CODE + 0x100);
        self.write(CODE + 0x100, &[0xCD, HYPERCALL_VECTOR]);
        self.step(Event::Trap {
            vector: 13,
            error: u32::from(HYPERCALL_VECTOR) << 3 | 2,
            cr2: 0,
        })
    }
}
