//! Just as a Guest's user programs ask its kernel, its kernel asks us.
//!
//! The [`Interface`] of the Guest's generation decodes a call, and one `match`
//! carries it out. Arguments are checked where they are used. A call that makes
//! no sense ends the Guest: there are no error codes. The ring is emptied first
//! at every entry, because the Guest batches calls there and relies on their
//! order.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;
use crate::kill::Kill;
use crate::outbox::Post;
use crate::state::Gate;
use core::sync::atomic::Ordering;
use lg_abi::call::{Call, CallName};
use lg_abi::gen1;
use lg_abi::gen2;
use lg_abi::hypercall::CRASH_MESSAGE_MAX;
use lg_abi::interface::{CallRegisters, Interface, MAX_RING_WORDS};
use lg_abi::known::Known;
use lg_abi::layout::{Field, Layout, NoIrq};
use lg_abi::page::{Format, SWITCHER_ADDR};
use lg_abi::segment::{
    Descriptor, GDT_ENTRIES, GDT_IGNORED, GDT_TLS_ENTRIES, GDT_TLS_MIN,
    GUEST_PL,
};
use lg_abi::shared::{
    FIRST_EXTERNAL_VECTOR, HCALL_DONE, IDT_ENTRIES, LGUEST_IRQS,
    LHCALL_RING_SIZE, SYSCALL_VECTOR,
};
use lg_wire::trace::Kind;
use zerocopy::IntoBytes;

/// Vectors whose gates the Host keeps to itself (docs/abi.md, section 4).
const IGNORED_VECTORS: [u32; 4] = [2, 8, 15, 31];

const RING_SIZE: u32 = as_word(LHCALL_RING_SIZE);
const DESCRIPTOR_SIZE: u32 = as_word(size_of::<Descriptor>());

impl Host<'_> {
    /// How this Guest makes calls, and how its `lguest_data` is laid out.
    #[inline]
    pub(crate) fn interface(&self) -> &'static Interface {
        Known::by_number(self.vm.interface.get())
    }

    /// Whether it is that of Linux 2.6.23.
    #[inline]
    fn is_of_2007(&self) -> bool {
        self.vm.interface.get() == Known::Linux2_6_23 as u32
    }

    /// The fields of the Guest's `lguest_data`.
    #[inline]
    pub(crate) fn layout(&self) -> &'static Layout {
        &self.interface().layout
    }

    /// Physical address of a field of the Guest's `lguest_data`.
    #[inline]
    pub(crate) fn shared(&self, field: Field) -> GuestPhys {
        GuestPhys(self.vm.lguest_data.get()).plus(field.offset())
    }

    /// The call that the registers make; its result, if it has one, goes to
    /// eax.
    pub(crate) fn do_hypercall(&mut self) -> Result<(), Kill> {
        let regs = &self.vm.regs;
        let registers = CallRegisters {
            eax: regs.eax.get(),
            ebx: regs.ebx.get(),
            ecx: regs.ecx.get(),
            edx: regs.edx.get(),
            esi: regs.esi.get(),
        };
        self.keep_call(&registers);
        // A constant table makes a decoder without loops.
        let call = match self.is_of_2007() {
            true => const { &gen1::INTERFACE }.decode(&registers),
            false => self.interface().decode(&registers),
        };
        if let Some(call) = call {
            self.vm.counters.hypercalls[call.name() as usize].count();
        }
        self.trace_call(&registers, call, false);
        if let Some(result) = self.hypercall(registers.eax, call)? {
            self.vm.regs.eax.set(result);
        }
        Ok(())
    }

    /// Keeps a call for an explanation of the Guest's end.
    #[inline]
    fn keep_call(&self, registers: &CallRegisters) {
        let &CallRegisters {
            eax, ebx, ecx, edx, ..
        } = registers;
        self.vm.wire.last.note_call([eax, ebx, ecx, edx]);
    }

    /// Carries out what waits in the ring, in order, from where we stopped.
    /// Once round at most: otherwise a Guest that fills it while we empty it
    /// would keep us here for ever.
    pub(crate) fn do_async_hcalls(&mut self) -> Result<(), Kill> {
        if !self.vm.is_initialised() {
            return Ok(());
        }
        if self.is_of_2007() {
            // The same code with a constant table.
            return self.empty_ring(const { &gen1::INTERFACE });
        }
        self.empty_ring(self.interface())
    }

    #[inline(always)]
    fn empty_ring(&mut self, interface: &Interface) -> Result<(), Kill> {
        let entry_size = interface.ring_entry_size();
        let status = self.shared(interface.layout.hcall_status);
        let ring = self.shared(interface.layout.hcalls);
        for _ in 0..RING_SIZE {
            let n = self.vm.next_hcall.get();
            if self.memory.byte(status.plus(n))? == HCALL_DONE {
                break;
            }
            self.vm.next_hcall.set((n + 1) % RING_SIZE);
            let mut words = [0; MAX_RING_WORDS];
            let entry = &mut words.as_mut_bytes()[..entry_size as usize];
            self.memory.read(ring.plus(n * entry_size), entry)?;
            let registers = interface.from_ring(&words);
            self.keep_call(&registers);
            let call = interface.decode(&registers);
            if let Some(call) = call {
                self.vm.counters.ring[call.name() as usize].count();
            }
            self.trace_call(&registers, call, true);
            self.hypercall(registers.eax, call)?;
            self.store_bytes(status.plus(n), &[HCALL_DONE])?;
        }
        Ok(())
    }

    /// Carries out `call`, whose number was `number`.
    fn hypercall(
        &mut self,
        number: u32,
        call: Option<Call>,
    ) -> Result<Option<u32>, Kill> {
        let vm = self.vm;
        let is_init = call.is_some_and(|call| call.name() == CallName::Init);
        if !vm.is_initialised() && !is_init {
            return Err(Kill::HypercallTooEarly(number));
        }
        match call.ok_or(Kill::BadHypercall(number))? {
            // Being here at all has emptied the ring.
            Call::FlushAsync {} => {}
            Call::Init { data } => self.initialise(GuestPhys(data))?,
            // Its message is the physical address of NULL in most kernels.
            Call::Shutdown {
                reason: gen2::SHUTDOWN_RESTART,
                ..
            } => self.world.crash(gen2::RESTART_TEXT)?,
            Call::Crash { message } | Call::Shutdown { message, .. } => {
                self.crash(GuestPhys(message))?;
            }
            Call::Notify { address } => self.notify(GuestPhys(address))?,
            // Being here lets interrupts in.
            Call::SendInterrupts {} => {}
            Call::LoadGdt { table, count } => {
                self.load_gdt(GuestPhys(table), count)?;
            }
            Call::LoadGdtEntry { index, low, high } => {
                self.load_gdt_entry(index, Descriptor { low, high })?;
            }
            Call::LoadTls { table } => self.load_tls(GuestPhys(table))?,
            Call::LoadIdtEntry { vector, low, high } => {
                self.load_idt_entry(vector, low, high)?;
            }
            Call::SetStack { ss, esp, pages } => {
                self.set_stack(ss, esp, pages)?;
            }
            Call::NewPgtable { directory } => self.new_pgtable(directory)?,
            Call::FlushTlb { everything: 0 } => self.flush_user()?,
            Call::FlushTlb { .. } => self.flush_everything()?,
            Call::SetPte {
                directory,
                va,
                entry,
                entry_high,
            } => {
                let entry = [entry, entry_high];
                self.set_pte(directory, GuestVirt(va), entry)?;
            }
            Call::SetPmd { directory, index }
            | Call::SetPgd { directory, index } => {
                self.set_pgd(directory, index)?;
                self.forget_extended(directory);
            }
            Call::Ts { on } => vm.ts.set(on),
            Call::SetClockevent { delta } => self.set_clockevent(delta),
            Call::Halt {} => vm.halted.set(1),
            Call::BindDma {
                key,
                dmas,
                count_irq,
            } => {
                let ok = self.bind_dma(key, GuestPhys(dmas), count_irq)?;
                return Ok(Some(u32::from(ok)));
            }
            Call::SendDma { key, dma } => {
                self.send_dma(key, GuestPhys(dma))?;
            }
            Call::SetPaePmd { table, index } => {
                if self.format() != Format::Pae {
                    return Err(Kill::BadHypercall(number));
                }
                self.set_pmd(table, index)?;
            }
        }
        Ok(None)
    }

    /// LGUEST_INIT: from now on we share a page.
    fn initialise(&mut self, data: GuestPhys) -> Result<(), Kill> {
        let vm = self.vm;
        if vm.is_initialised() {
            return Err(Kill::InitialisedTwice);
        }
        let layout = self.layout();
        self.memory.check(data, layout.size)?;
        if data.0 == 0 {
            // It would mean "not initialised"; and the boot parameters lie
            // there.
            return Err(Kill::BadAddress { addr: 0, len: 0 });
        }
        vm.lguest_data.set(data.0);
        let (start, end) = match layout.noirq {
            NoIrq::Range(start, end) => (
                self.memory.word(self.shared(start))?,
                self.memory.word(self.shared(end))?,
            ),
            NoIrq::Iret(at) => {
                let iret = self.memory.word(self.shared(at))?;
                (iret, iret.saturating_add(1))
            }
        };
        if let Some(field) = layout.kernel_address {
            let said = self.memory.word(self.shared(field))?;
            if said != vm.page_offset.get() {
                return Err(Kill::BadKernelAddress(said));
            }
        }
        if let Some(field) = layout.syscall_vec {
            let vector = self.memory.word(self.shared(field))?;
            if vector != SYSCALL_VECTOR {
                return Err(Kill::BadSystemCallVector(vector));
            }
        }
        vm.noirq_start.set(start);
        vm.noirq_end.set(end);
        let reserved = SWITCHER_ADDR.wrapping_neg();
        self.store(self.shared(layout.reserve_mem), reserved)?;
        let tsc_khz = vm.wire.tsc_khz.load(Ordering::Relaxed);
        self.store(self.shared(layout.tsc_khz), tsc_khz)?;
        if let Some(field) = layout.pgdir {
            self.store(self.shared(field), vm.cr3.get())?;
        }
        if let Some(field) = layout.guestid {
            let guestid = vm.guestid.get().to_le_bytes();
            self.store_bytes(self.shared(field), &guestid[..2])?;
        }
        self.write_time()
    }

    /// CRASH: the message ends at its NUL, or after its longest length.
    fn crash(&mut self, message: GuestPhys) -> Result<(), Kill> {
        let mut text = [0; CRASH_MESSAGE_MAX as usize];
        let mut len = 0;
        for byte in &mut text {
            let mut one = [0];
            let at = message.plus(as_word(len));
            // A message that runs into the end of memory ends there, but its
            // first byte has to exist.
            match self.memory.read(at, &mut one) {
                Err(kill) if len == 0 => return Err(kill),
                Err(_) => break,
                Ok(()) if one[0] == 0 => break,
                Ok(()) => *byte = one[0],
            }
            len += 1;
        }
        self.leave_last_words(None);
        self.world.crash(&text[..len])
    }

    /// NEW_PGTABLE.
    fn new_pgtable(&mut self, directory: u32) -> Result<(), Kill> {
        let size = self.format().top_size();
        self.memory.check(GuestPhys(directory), size)?;
        if self.vm.cr3.get() != directory {
            self.vm.counters.switches.count();
            self.note_directory_left();
            self.vm.cr3.set(directory);
            self.trace(Kind::Directory, 0, [directory, 0, 0]);
        }
        Ok(())
    }

    /// SET_STACK.
    fn set_stack(&mut self, ss: u32, esp: u32, pages: u32) -> Result<(), Kill> {
        /// The most pages that a kernel's stack may have.
        const MAX_STACK_PAGES: u32 = 2;
        if ss & 3 != GUEST_PL {
            return Err(Kill::BadStackSegment(ss));
        }
        if pages > MAX_STACK_PAGES {
            return Err(Kill::BadStackPages(pages));
        }
        self.vm.crossing.unsettle();
        self.vm.ss1.set(ss);
        self.vm.esp1.set(esp);
        self.note_stack_set();
        Ok(())
    }

    /// BIND_DMA. Answers whether it worked.
    fn bind_dma(
        &mut self,
        key: u32,
        dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill> {
        if !key.is_multiple_of(lg_abi::dma::KEY_ALIGN) {
            return Err(Kill::UnalignedKey(key));
        }
        let ok = self.world.bind_dma(key, dmas, count_irq)?;
        Ok(ok)
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

    /// LOAD_GDT_ENTRY. What the Host keeps to itself is left as it is.
    fn load_gdt_entry(
        &mut self,
        index: u32,
        entry: Descriptor,
    ) -> Result<(), Kill> {
        if index >= GDT_ENTRIES {
            return Err(Kill::TooManyGdtEntries(index.saturating_add(1)));
        }
        if !GDT_IGNORED.contains(&index) {
            self.vm.gdt[index as usize].set(fixed_up(entry));
            self.note_descriptors();
        }
        Ok(())
    }

    /// Copies and fixes up: privilege 0 becomes 1. The accessed bit is set,
    /// because no processor writes to our copy.
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
            let entry: Descriptor = self.memory.object(at)?;
            self.vm.gdt[index as usize].set(fixed_up(entry));
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
        let first = FIRST_EXTERNAL_VECTOR;
        let known = vector < first && !IGNORED_VECTORS.contains(&vector)
            || (first..first + LGUEST_IRQS).contains(&vector)
            || vector == SYSCALL_VECTOR;
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
            _ => self.monotonic().saturating_add(delta.into()),
        };
        self.vm.deadline.set(deadline);
    }

    /// NOTIFY: the Launcher looks at what is there, unless all of it are reads
    /// that the Host can answer.
    fn notify(&mut self, address: GuestPhys) -> Result<(), Kill> {
        self.memory.check(address, 1)?;
        let has_rings = !self.vm.pci.exists();
        if has_rings && self.answer_reads(|ring| ring.descriptors == address.0)
        {
            return Ok(());
        }
        self.world.notify(address)?;
        Ok(())
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
        let answered = self.has_interrupt() && !self.takes_interrupts()?;
        if answered && self.patch_enabling() {
            // The trampoline will most likely tell us, so a look can wait.
            self.retry_later();
        }
        Ok(())
    }
}

/// A descriptor as the processor may use it: the kernel's privilege level 0
/// becomes 1.
fn fixed_up(mut entry: Descriptor) -> Descriptor {
    if entry.is_present() {
        if entry.dpl() == 0 {
            entry.high |= GUEST_PL << Descriptor::DPL_SHIFT;
        }
        entry.high |= Descriptor::ACCESSED;
    }
    entry
}

#[cfg(test)]
mod tests;
