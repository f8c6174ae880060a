//! Just as a Guest's user programs ask its kernel, its kernel asks us.
//!
//! One `match` over the one table of calls. Arguments are checked where they
//! are used, and a call that makes no sense is the Guest's death, not an error
//! code. The ring is emptied first at every entry: the Guest batches calls
//! there and relies on their order.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::kill::Kill;
use crate::outbox::Post;
use crate::run::Host;
use crate::state::Gate;
use lg_abi::hypercall::{CRASH_MESSAGE_MAX, Hypercall, RawCall};
use lg_abi::page::{PAGE_SIZE, SWITCHER_ADDR};
use lg_abi::segment::{
    Descriptor, GDT_ENTRIES, GDT_IGNORED, GDT_TLS_ENTRIES, GDT_TLS_MIN,
    GUEST_PL,
};
use lg_abi::shared::{
    HCALL_DONE, IDT_ENTRIES, LGUEST_IRQS, LHCALL_RING_SIZE, LguestData, offset,
};

/// Vectors whose gates the Host keeps to itself (docs/abi.md, section 4).
const IGNORED_VECTORS: [u32; 4] = [2, 8, 15, 31];

const RING_SIZE: u32 = as_word(LHCALL_RING_SIZE);
const CALL_SIZE: u32 = as_word(size_of::<RawCall>());
const DESCRIPTOR_SIZE: u32 = as_word(size_of::<Descriptor>());

impl Host<'_> {
    /// The call whose number and arguments are in the registers; its result,
    /// where it has one, goes to eax.
    pub(crate) fn do_hypercall(&mut self) -> Result<(), Kill> {
        let regs = &self.vm.regs;
        let call = RawCall {
            eax: regs.eax.get(),
            edx: regs.edx.get(),
            ebx: regs.ebx.get(),
            ecx: regs.ecx.get(),
        };
        if let Some(counter) =
            self.vm.counters.hypercalls.get(call.eax as usize)
        {
            counter.count();
        }
        if let Some(result) = self.hypercall(call)? {
            self.vm.regs.eax.set(result);
        }
        Ok(())
    }

    /// Carries out what waits in the ring, in order, from where we stopped.
    /// Once round at most: a Guest that fills it while we empty it would keep
    /// us here for ever.
    pub(crate) fn do_async_hcalls(&mut self) -> Result<(), Kill> {
        if !self.vm.is_initialised() {
            return Ok(());
        }
        let status = self.shared(offset::HCALL_STATUS);
        let ring = self.shared(offset::HCALLS);
        for _ in 0..RING_SIZE {
            let n = self.vm.next_hcall.get();
            if self.memory.byte(status.plus(n))? == HCALL_DONE {
                break;
            }
            self.vm.next_hcall.set((n + 1) % RING_SIZE);
            let at = ring.plus(n * CALL_SIZE);
            let call: RawCall = self.memory.object(at)?;
            if let Some(counter) = self.vm.counters.ring.get(call.eax as usize)
            {
                counter.count();
            }
            self.hypercall(call)?;
            self.store_bytes(status.plus(n), &[HCALL_DONE])?;
        }
        Ok(())
    }

    /// Physical address of the field at `offset` of the shared page.
    pub(crate) fn shared(&self, offset: u32) -> GuestPhys {
        GuestPhys(self.vm.lguest_data.get()).plus(offset)
    }

    fn hypercall(&mut self, call: RawCall) -> Result<Option<u32>, Kill> {
        let RawCall { eax, edx, ebx, ecx } = call;
        let vm = self.vm;
        let known = Hypercall::from_number(eax);
        if !vm.is_initialised() && known != Some(Hypercall::Init) {
            return Err(Kill::HypercallTooEarly(eax));
        }
        match known.ok_or(Kill::BadHypercall(eax))? {
            // Being here at all has emptied the ring.
            Hypercall::FlushAsync => {}
            Hypercall::Init => self.initialise(GuestPhys(edx))?,
            Hypercall::Crash => self.crash(GuestPhys(edx))?,
            Hypercall::LoadGdt => self.load_gdt(GuestPhys(edx), ebx)?,
            Hypercall::NewPgtable => {
                self.memory.check(GuestPhys(edx), PAGE_SIZE)?;
                if vm.cr3.get() != edx {
                    vm.counters.switches.count();
                    vm.cr3.set(edx);
                }
            }
            Hypercall::FlushTlb if edx == 0 => self.flush_user()?,
            Hypercall::FlushTlb => self.flush_everything()?,
            Hypercall::LoadIdtEntry => self.load_idt_entry(edx, ebx, ecx)?,
            Hypercall::SetStack => {
                if edx & 3 != GUEST_PL {
                    return Err(Kill::BadStackSegment(edx));
                }
                if ecx > 2 {
                    return Err(Kill::BadStackPages(ecx));
                }
                vm.ss1.set(edx);
                vm.esp1.set(ebx);
            }
            Hypercall::Ts => vm.ts.set(edx),
            Hypercall::SetClockevent => self.set_clockevent(edx),
            Hypercall::Halt => vm.halted.set(1),
            Hypercall::BindDma => {
                if !edx.is_multiple_of(lg_abi::dma::KEY_ALIGN) {
                    return Err(Kill::UnalignedKey(edx));
                }
                let ok = self.world.bind_dma(edx, GuestPhys(ebx), ecx)?;
                self.note_devices();
                return Ok(Some(u32::from(ok)));
            }
            Hypercall::SendDma => self.send_dma(edx, GuestPhys(ebx))?,
            Hypercall::SetPte => self.set_pte(edx, GuestVirt(ebx), ecx)?,
            Hypercall::SetPmd => {
                self.set_pmd(edx, ebx)?;
                self.forget_extended(edx)?;
            }
            Hypercall::LoadTls => self.load_tls(GuestPhys(edx))?,
        }
        Ok(None)
    }

    /// LGUEST_INIT: from now on we share a page.
    fn initialise(&mut self, data: GuestPhys) -> Result<(), Kill> {
        let vm = self.vm;
        if vm.is_initialised() {
            return Err(Kill::InitialisedTwice);
        }
        self.memory.check(data, as_word(size_of::<LguestData>()))?;
        if data.0 == 0 {
            // It would mean "not initialised"; and the boot parameters lie
            // there.
            return Err(Kill::BadAddress { addr: 0, len: 0 });
        }
        vm.lguest_data.set(data.0);
        let start = self.memory.word(self.shared(offset::NOIRQ_START))?;
        let end = self.memory.word(self.shared(offset::NOIRQ_END))?;
        vm.noirq_start.set(start);
        vm.noirq_end.set(end);
        let reserved = SWITCHER_ADDR.wrapping_neg();
        self.store(self.shared(offset::RESERVE_MEM), reserved)?;
        let tsc_khz = vm.tsc_khz.get();
        self.store(self.shared(offset::TSC_KHZ), tsc_khz)?;
        let guestid = vm.guestid.get().to_le_bytes();
        self.store_bytes(self.shared(offset::GUESTID), &guestid[..2])?;
        self.write_time()
    }

    /// CRASH: the message ends at its NUL, or where a page of it would.
    fn crash(&mut self, message: GuestPhys) -> Result<(), Kill> {
        let mut text = [0; CRASH_MESSAGE_MAX as usize];
        let mut len = 0;
        for byte in &mut text {
            let mut one = [0];
            let at = message.plus(as_word(len));
            // A message that runs into the end of memory just ends there; but
            // it has to begin somewhere.
            match self.memory.read(at, &mut one) {
                Err(kill) if len == 0 => return Err(kill),
                Err(_) => break,
                Ok(()) if one[0] == 0 => break,
                Ok(()) => *byte = one[0],
            }
            len += 1;
        }
        self.world.crash(&text[..len])
    }

    fn load_gdt(&mut self, table: GuestPhys, count: u32) -> Result<(), Kill> {
        if count > GDT_ENTRIES {
            return Err(Kill::TooManyGdtEntries(count));
        }
        self.copy_descriptors(table, 0, count)
    }

    fn load_tls(&mut self, table: GuestPhys) -> Result<(), Kill> {
        self.copy_descriptors(table, GDT_TLS_MIN, GDT_TLS_ENTRIES)
    }

    /// Copies and fixes up: privilege 0 becomes 1, and the accessed bit is
    /// set, for our copy is never written by a processor.
    fn copy_descriptors(
        &mut self,
        table: GuestPhys,
        first: u32,
        count: u32,
    ) -> Result<(), Kill> {
        self.memory.check(table, count * DESCRIPTOR_SIZE)?;
        for i in 0..count {
            let index = first + i;
            if GDT_IGNORED.contains(&index) {
                continue;
            }
            let at = table.plus(i * DESCRIPTOR_SIZE);
            let mut entry: Descriptor = self.memory.object(at)?;
            if entry.is_present() {
                if entry.dpl() == 0 {
                    entry.high |= GUEST_PL << Descriptor::DPL_SHIFT;
                }
                entry.high |= Descriptor::ACCESSED;
            }
            self.vm.gdt[index as usize].set(entry);
        }
        self.note_descriptors();
        Ok(())
    }

    fn load_idt_entry(
        &mut self,
        vector: u32,
        low: u32,
        high: u32,
    ) -> Result<(), Kill> {
        let interrupts = 32..32 + LGUEST_IRQS;
        let known = vector < 32 && !IGNORED_VECTORS.contains(&vector)
            || interrupts.contains(&vector)
            || vector == lg_abi::shared::SYSCALL_VECTOR;
        if !known {
            return Ok(());
        }
        debug_assert!((vector as usize) < IDT_ENTRIES, "checked above");
        let kind = high >> 8 & 0x1F;
        let gate = if high & Descriptor::PRESENT == 0 {
            Gate::default()
        } else {
            let interrupt = match kind {
                0xE => Gate::INTERRUPT,
                0xF => 0,
                _ => return Err(Kill::BadGateType(kind)),
            };
            let dpl = high >> Descriptor::DPL_SHIFT & 3;
            Gate {
                handler: high & 0xFFFF_0000 | low & 0xFFFF,
                flags: Gate::PRESENT | interrupt | dpl << Gate::DPL_SHIFT,
            }
        };
        self.vm.idt[vector as usize].set(gate);
        Ok(())
    }

    fn set_clockevent(&mut self, delta: u32) {
        let deadline = match delta {
            0 => 0,
            _ => self.world.monotonic() + u64::from(delta),
        };
        self.vm.deadline.set(deadline);
    }

    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        if !key.is_multiple_of(lg_abi::dma::KEY_ALIGN) {
            return Err(Kill::UnalignedKey(key));
        }
        self.memory.check(GuestPhys(key), lg_abi::dma::KEY_ALIGN)?;
        self.memory.check(dma, lg_abi::dma::Dma::SIZE)?;
        let post = self.post(key, dma)?;
        if post == Post::Done {
            return Ok(());
        }
        self.world.send_dma(key, dma)?;
        if post == Post::Full {
            // If there is still no room, it is lost.
            self.post(key, dma)?;
        }
        self.note_devices();
        let answered = self.has_interrupt() && !self.takes_interrupts()?;
        if answered && self.patch_enabling() {
            // We shall hear of it, most likely, and need not look so soon.
            self.retry_later();
        }
        Ok(())
    }
}
