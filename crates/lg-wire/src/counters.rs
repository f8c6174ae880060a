//! Counts of events, one for each kind.
//!
//! Statistics print the counts, and the counts explain benchmarks: time is
//! spent where they are high. The Host writes them in the head of the state.
//! The Launcher prints them and relies on none of them.

use core::cell::Cell;
use lg_abi::call::CallName;
use lg_abi::shared::LGUEST_IRQS;

/// One count.
#[derive(Default)]
#[repr(transparent)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {
        /// All the counts.
        #[derive(Default)]
        #[repr(C)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: Counter,)*
            /// Direct hypercalls, by [`CallName`].
            pub hypercalls: [Counter; CallName::COUNT],
            /// Hypercalls from the ring, by [`CallName`].
            pub ring: [Counter; CallName::COUNT],
            /// Traps delivered to the Guest, by vector.
            pub traps: [Counter; 32],
            /// Interrupts delivered to the Guest, by number.
            pub interrupts: [Counter; LGUEST_IRQS as usize],
        }

        impl Counters {
            /// Calls `each` with the name and value of every count that is
            /// not zero.
            pub fn visit(&self, mut each: impl FnMut(Name<'_>, u64)) {
                let mut tell = |name: Name<'_>, counter: &Counter| {
                    if counter.get() != 0 {
                        each(name, counter.get());
                    }
                };
                $(tell(Name::One(stringify!($name)), &self.$name);)*
                for &call in CallName::ALL {
                    let (i, text) = (call as usize, call.text());
                    tell(Name::Of("hypercall", text), &self.hypercalls[i]);
                    tell(Name::Of("ring", text), &self.ring[i]);
                }
                for (i, counter) in self.traps.iter().enumerate() {
                    tell(Name::Nth("trap", i), counter);
                }
                for (i, counter) in self.interrupts.iter().enumerate() {
                    tell(Name::Nth("interrupt", i), counter);
                }
            }
        }
    };
}

/// The name of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A count of its own.
    One(&'a str),
    /// One of a family, by name.
    Of(&'a str, &'a str),
    /// One of a family, by number.
    Nth(&'a str, usize),
}

impl core::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::One(name) => f.write_str(name),
            Self::Of(family, name) => write!(f, "{family}.{name}"),
            Self::Nth(family, n) => write!(f, "{family}.{n}"),
        }
    }
}

counters! {
    /// Entries into the Host, of every kind.
    entries;
    /// Page faults at a shadow entry: the Guest's tables allowed the access.
    shadow_faults;
    /// Page faults that the Guest's own tables caused.
    guest_faults;
    /// Page faults at a page that was already mapped correctly.
    spurious_faults;
    /// `iret` carried out for the Guest.
    irets;
    /// `iret` by its trampoline.
    iret_trampolines;
    /// `iret` with a frame for user level that was refused.
    bad_irets;
    /// `iret` into virtual-8086 mode.
    vm86;
    /// Hypercalls by trampolines.
    hypercall_trampolines;
    /// Hypercalls that were answered in 32-bit code, among all of their names.
    near_calls;
    /// Hypercalls by trampolines, with a store in front of them.
    store_trampolines;
    /// Interrupts switched on by trampolines.
    enabling_trampolines;
    /// Accessors of devices that came by their trampolines.
    accessor_trampolines;
    /// System calls by the entry page's trampoline.
    entry_page_trampolines;
    /// System calls that crossed into the kernel in 32-bit code.
    crossings_in;
    /// Returns of the kernel to programs that did so.
    crossings_out;
    /// Returns of the kernel to itself that did so.
    crossings_back;
    /// Crossings that were ended in their middle.
    crossings_ended;
    /// Places in the Guest's code that were patched.
    patches;
    /// `int $0x80` that came as an `int3`.
    copy_calls;
    /// Those that came by a trampoline instead.
    direct_calls;
    /// Pages whose patched copies were dropped.
    copies_forgotten;
    /// System calls by `int $0x80`.
    system_calls;
    /// Data segments corrected after a fault.
    segment_fixes;
    /// Thread-local segments corrected after a fault.
    tls_fixes;
    /// Extended state loaded for another thread than before.
    extended_loads;
    /// Page faults that protection keys caused.
    key_faults;
    /// Segment loads carried out for the Guest.
    segment_loads;
    /// CPUID carried out for the Guest.
    cpuids;
    /// Reads of the time-stamp counter that the Host has carried out.
    counter_reads;
    /// Readings of clocks that were told by the time-stamp counter.
    clocks_told;
    /// `in` and `out` carried out or stepped over.
    port_io;
    /// Accesses to registers of devices on the PCI bus.
    device_accesses;
    /// Those that the Launcher carried out.
    device_requests;
    /// Debug register accesses carried out for the Guest.
    debug_registers;
    /// Instructions stepped, because a debug register was on.
    debug_steps;
    /// Accesses beyond a user segment's limit, turned into page faults.
    limit_faults;
    /// Instructions of user code that reached a page above PAGE_OFFSET which
    /// the tables give to it.
    limits_passed;
    /// Thread-local descriptors put into the table.
    descriptors;
    /// Guest code that was found in 64-bit mode.
    long_mode;
    /// Vector 7 delivered on the way to user mode, because TS was set.
    fpu_traps;
    /// Pages mapped.
    maps;
    /// Those among them that were mapped already, with other rights.
    protects;
    /// Those among them that were hidden.
    shown;
    /// Pages hidden.
    hidden;
    /// Stretches unmapped.
    unmaps;
    /// 4 MiB pieces of the kernel's linear range mapped at once.
    linear_maps;
    /// 4 MiB pieces that stopped being linear.
    linear_breaks;
    /// Pages mapped because SET_PTE named them.
    eager_maps;
    /// Page tables compared with what is mapped.
    comparisons;
    /// Pages that a comparison kept.
    kept;
    /// Pages that a comparison dropped or changed.
    dropped;
    /// Times that the whole user part was dropped to make room.
    overflows;
    /// Page directories switched to.
    switches;
    /// Times that the run token was passed to another view.
    handovers;
    /// Views that were given to another page directory.
    views_reused;
    /// New programs that got the view of the one that they replace.
    trades;
    /// Views that were made anew, because the kernel's own segments had
    /// changed.
    views_renewed;
    /// Pages that another view had changed under this one.
    caught_up;
    /// Times that the Guest slept.
    halts;
    /// Timer deadlines that came.
    timer_ticks;
    /// Interrupts that had to wait, because the Guest did not accept them.
    retries;
    /// Kicks by a timer or by the Launcher.
    kicks;
    /// Exits that had to be restarted, because a kick came in between.
    restarts;
    /// DMA sent to the Launcher.
    sends;
    /// Frames put into an outbox.
    posts;
    /// How often the receiver of frames was woken.
    post_rings;
    /// How often a frame found no room there.
    posts_refused;
    /// How often the thread that fetches this Guest's frames was woken.
    fetch_rings;
    /// Reads of disks that the Host has answered.
    disk_reads;
    /// Requests that told the Launcher that a buffer may be free.
    input_calls;
}
