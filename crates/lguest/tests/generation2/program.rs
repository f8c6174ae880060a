//! Kernels of generations 2 and 3, assembled by a test.
//!
//! A kernel is one piece of code at physical addresses. It stores words, makes
//! hypercalls, and waits for words. This is enough to use virtio devices,
//! correctly or not. Since Linux 3.1 it has no page tables; before, it adds the
//! rings to those that the Launcher has made.

/// The address at which the kernel is loaded and begins.
const CODE: u32 = 0x10_0000;

/// `lguest_data`, in the kernel's image.
const DATA: u32 = 0x11_0000;

/// A page table for what is above RAM, in the kernel's image.
const TABLE: u32 = 0x11_1000;

/// Bytes of the kernel's memory.
const SIZE: u32 = 0x4_0000;

/// Bytes of RAM, which `--memory` says, too.
pub(crate) const RAM: u32 = 32 << 20;

/// Physical addresses for the tests.
pub(crate) const FREE: u32 = 0x20_0000;

/// The rings, in the order of the devices: random numbers, disk, console to
/// the Guest, console from it.
pub(crate) const RANDOM: u32 = RAM + 0x1000;
pub(crate) const DISK: u32 = RAM + 0x4000;
pub(crate) const PRINT: u32 = RAM + 0xA000;

/// Where the parts of a ring are.
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;

/// Flags of a descriptor.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// Numbers of hypercalls.
const INIT: u32 = 1;
const SHUTDOWN: u32 = 2;
const NOTIFY: u32 = 17;

/// How kernels of some releases make hypercalls.
pub(crate) struct Interface {
    /// One of these releases.
    pub(crate) release: &'static str,
    /// `movl $word,%edx`, or `%ebx`, or `%ecx`, for the two arguments.
    arguments: [u8; 2],
    /// The instruction of a call.
    call: &'static [u8],
    /// Where `hcall_status` and `kernel_address` are in `lguest_data`.
    fields: [usize; 2],
    /// Whether the kernel starts with page tables.
    tables: bool,
    /// Whether they are those of PAE.
    pae: bool,
}

const EBX_ECX: [u8; 2] = [0xBB, 0xB9];
const INT: &[u8] = &[0xCD, 0x1F];
const VMCALL: &[u8] = &[0x0F, 0x01, 0xC1];

/// All of them, the last ones first.
pub(crate) const INTERFACES: [Interface; 6] = [
    Interface {
        release: "3.11.10",
        arguments: EBX_ECX,
        call: INT,
        fields: [24, 1384],
        tables: false,
        pae: false,
    },
    Interface {
        release: "3.0.101",
        arguments: EBX_ECX,
        call: INT,
        fields: [24, 1388],
        tables: true,
        pae: false,
    },
    Interface {
        release: "2.6.32",
        arguments: EBX_ECX,
        call: VMCALL,
        fields: [24, 1388],
        tables: true,
        pae: false,
    },
    Interface {
        release: "2.6.31-pae",
        arguments: EBX_ECX,
        call: VMCALL,
        fields: [24, 1388],
        tables: true,
        pae: true,
    },
    Interface {
        release: "2.6.30",
        arguments: EBX_ECX,
        call: VMCALL,
        fields: [20, 1128],
        tables: true,
        pae: false,
    },
    Interface {
        release: "2.6.27",
        arguments: [0xBA, 0xBB],
        call: INT,
        fields: [20, 1128],
        tables: true,
        pae: false,
    },
];

/// Those of generation 3, whose kernels notify by their PCI bus instead.
pub(crate) const LATER: [Interface; 2] = [
    Interface {
        release: "4.9.154",
        arguments: EBX_ECX,
        call: INT,
        fields: [24, 1380],
        tables: false,
        pae: false,
    },
    Interface {
        release: "4.0.5",
        arguments: EBX_ECX,
        call: INT,
        fields: [24, 1384],
        tables: false,
        pae: false,
    },
];

/// A kernel that grows from its beginning.
pub(crate) struct Program {
    code: Vec<u8>,
    interface: &'static Interface,
}

impl Program {
    /// A kernel of the last releases that has called LGUEST_INIT.
    pub(crate) fn new() -> Self {
        Self::of(&INTERFACES[0])
    }

    /// A kernel that has called LGUEST_INIT.
    pub(crate) fn of(interface: &'static Interface) -> Self {
        let code = Vec::new();
        let mut program = Self { code, interface };
        program.call(INIT, DATA, 0);
        if interface.tables {
            // The Launcher's directory is at the end of RAM; with PAE, the
            // pointer table is behind it.
            let entry = match interface.pae {
                false => RAM - 0x1000 + (RAM >> 22) * 4,
                true => RAM - 0x2000 + (RAM >> 21) * 8,
            };
            program.store(entry, TABLE | 0x67);
        }
        program
    }

    /// `movl $first,...; movl $second,...; movl $number,%eax`, and the call.
    pub(crate) fn call(&mut self, number: u32, first: u32, second: u32) {
        let [load_first, load_second] = self.interface.arguments;
        for (load, word) in
            [(load_first, first), (load_second, second), (0xB8, number)]
        {
            self.code.push(load);
            self.code.extend(word.to_le_bytes());
        }
        self.code.extend(self.interface.call);
    }

    /// `movl $word,address`
    pub(crate) fn store(&mut self, address: u32, word: u32) {
        self.code.extend([0xC7, 0x05]);
        self.code.extend(address.to_le_bytes());
        self.code.extend(word.to_le_bytes());
    }

    /// `movw $half,address`
    pub(crate) fn store_half(&mut self, address: u32, half: u16) {
        self.code.extend([0x66, 0xC7, 0x05]);
        self.code.extend(address.to_le_bytes());
        self.code.extend(half.to_le_bytes());
    }

    /// Stores a text and a NUL.
    pub(crate) fn store_text(&mut self, address: u32, text: &str) {
        let bytes = [text.as_bytes(), &[0; 4]].concat();
        for (at, word) in (address..).step_by(4).zip(bytes.chunks_exact(4)) {
            let word = word.try_into().expect("four bytes");
            self.store(at, u32::from_le_bytes(word));
        }
    }

    /// `1: cmpw $half,address; jne 1b`
    pub(crate) fn wait_for(&mut self, address: u32, half: u16) {
        self.code.extend([0x66, 0x81, 0x3D]);
        self.code.extend(address.to_le_bytes());
        self.code.extend(half.to_le_bytes());
        self.code.extend([0x75, 0xF5]);
    }

    /// `movb $byte,address`
    pub(crate) fn store_byte(&mut self, address: u32, byte: u8) {
        self.code.extend([0xC6, 0x05]);
        self.code.extend(address.to_le_bytes());
        self.code.push(byte);
    }

    /// `movl address,%eax`, which has to be `word`.
    pub(crate) fn expect(&mut self, address: u32, word: u32) {
        self.code.push(0xA1);
        self.code.extend(address.to_le_bytes());
        self.expect_eax(word);
    }

    /// `movzbl address,%eax`, which has to be `byte`.
    pub(crate) fn expect_byte(&mut self, address: u32, byte: u8) {
        self.code.extend([0x0F, 0xB6, 0x05]);
        self.code.extend(address.to_le_bytes());
        self.expect_eax(byte.into());
    }

    /// `incl address`
    pub(crate) fn increment(&mut self, address: u32) {
        self.code.extend([0xFF, 0x05]);
        self.code.extend(address.to_le_bytes());
    }

    /// `cmpl $word,%eax; je 1f; ud2; 1:`
    pub(crate) fn expect_eax(&mut self, word: u32) {
        self.code.push(0x3D);
        self.code.extend(word.to_le_bytes());
        self.code.extend([0x74, 0x02, 0x0F, 0x0B]);
    }

    /// `movl $port,%edx; movl $word,%eax; outl %eax,(%dx)`
    pub(crate) fn out(&mut self, port: u32, word: u32) {
        self.code.push(0xBA);
        self.code.extend(port.to_le_bytes());
        self.code.push(0xB8);
        self.code.extend(word.to_le_bytes());
        self.code.push(0xEF);
    }

    /// `movl $port,%edx; inl (%dx),%eax`, which has to be `word`.
    pub(crate) fn expect_in(&mut self, port: u32, word: u32) {
        self.code.push(0xBA);
        self.code.extend(port.to_le_bytes());
        self.code.push(0xED);
        self.expect_eax(word);
    }

    /// Functions as Linux has them to write 16 bits to a device and to read 8,
    /// with a stack for their calls. Both compare the address with that of the
    /// last port. Returns where they are.
    pub(crate) fn accessors(&mut self) -> [u32; 2] {
        const WRITE: &[u8] = &[
            0x81, 0xFA, 0xFF, 0xFF, 3, 0, // cmp $0x3ffff,%edx
            0x0F, 0xB7, 0xC0, // movzwl %ax,%eax
            0x76, 5, // jbe
            0x66, 0x89, 2,    // mov %ax,(%edx)
            0xC3, // ret
            0x90, 0x0F, 0x0B, // nop; ud2
        ];
        const READ: &[u8] = &[
            0x3D, 0xFF, 0xFF, 3, 0, // cmp $0x3ffff,%eax
            0x77, 2, // ja
            0x0F, 0x0B, // ud2
            0x8A, 0, // mov (%eax),%al
            0x0F, 0xB6, 0xC0, // movzbl %al,%eax
            0xC3, // ret
        ];
        // mov $stack,%esp; jmp behind them; nops
        self.code.push(0xBC);
        self.code.extend((FREE + 0xF000).to_le_bytes());
        let bytes = 16 + WRITE.len() + READ.len();
        self.code.extend([0xEB, u8::try_from(bytes).expect("few")]);
        self.code.extend([0x90; 16]);
        [WRITE, READ].map(|function| {
            let at = self.here();
            self.code.extend(function);
            at
        })
    }

    fn here(&self) -> u32 {
        CODE + u32::try_from(self.code.len()).expect("it is short")
    }

    /// `movl $eax,%eax; movl $edx,%edx; call function`
    pub(crate) fn call_function(
        &mut self,
        function: u32,
        [eax, edx]: [u32; 2],
    ) {
        self.code.push(0xB8);
        self.code.extend(eax.to_le_bytes());
        self.code.push(0xBA);
        self.code.extend(edx.to_le_bytes());
        let behind = self.here() + 5;
        self.code.push(0xE8);
        self.code
            .extend(function.wrapping_sub(behind).to_le_bytes());
    }

    pub(crate) fn notify(&mut self, address: u32) {
        self.call(NOTIFY, address, 0);
    }

    /// Prints a text by the early console.
    pub(crate) fn print_early(&mut self, text: &str) {
        self.store_text(FREE, text);
        self.notify(FREE);
    }

    /// Writes descriptor `index` of a ring.
    pub(crate) fn describe(
        &mut self,
        ring: u32,
        index: u32,
        (address, length): (u32, u32),
        flags: u16,
        next: u16,
    ) {
        let at = ring + 16 * index;
        self.store(at, address);
        self.store(at + 4, 0);
        self.store(at + 8, length);
        self.store_half(at + 12, flags);
        self.store_half(at + 14, next);
    }

    /// Makes the chain `head` available as number `count`, from 1 on.
    pub(crate) fn offer(&mut self, ring: u32, head: u16, count: u16) {
        let slot = u32::from(count - 1) % 256;
        self.store_half(ring + AVAILABLE + 4 + 2 * slot, head);
        self.store_half(ring + AVAILABLE + 2, count);
    }

    /// Offers the chain `head`, number `count`, and waits until the device has
    /// answered it.
    pub(crate) fn request(&mut self, ring: u32, head: u16, count: u16) {
        self.offer(ring, head, count);
        self.notify(ring);
        self.wait_for(ring + USED + 2, count);
    }

    /// A request to the disk: number `count`, with `data` in the middle, for
    /// which the header and the answer are at `FREE + 0x1000`.
    pub(crate) fn ask_disk(
        &mut self,
        (kind, sector): (u32, u32),
        data: (u32, u32),
        count: u16,
    ) {
        let header = FREE + 0x1000;
        self.store(header, kind);
        self.store(header + 4, 0);
        self.store(header + 8, sector);
        self.store(header + 12, 0);
        self.store(header + 16, 0xEE);
        let write = if kind == 0 { WRITE } else { 0 };
        self.describe(DISK, 0, (header, 16), NEXT, 1);
        self.describe(DISK, 1, data, NEXT | write, 2);
        self.describe(DISK, 2, (header + 16, 1), WRITE, 0);
        self.request(DISK, 0, count);
        self.wait_for(header + 16, 0);
    }

    /// SHUTDOWN, and the whole kernel as an ELF file.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.store_text(FREE, "Power down");
        self.call(SHUTDOWN, FREE, 1);
        self.code.extend([0xEB, 0xFE]);
        self.image()
    }

    fn image(&self) -> Vec<u8> {
        let mut kernel = self.code.clone();
        let release = self.interface.release;
        let pgd = if self.interface.pae {
            "%p(%016Lx)"
        } else {
            "%08lx"
        };
        let texts = format!(
            "Linux version {release} (a@b) #1 x\n\0lguest\0bad pgd {pgd}\0"
        );
        kernel.extend(texts.as_bytes());
        let data = (DATA - CODE) as usize;
        assert!(kernel.len() < data, "the code is too long");
        kernel.resize((TABLE - CODE) as usize, 0);
        let shared = &mut kernel[data..];
        let [status, address] = self.interface.fields;
        shared[status..status + 64].fill(0xFF);
        let words = [0xC000_0000_u32, 0x80].map(u32::to_le_bytes);
        shared[address..address + 8].copy_from_slice(words.as_flattened());
        for page in 0..32 {
            let entry = (RAM + (page << 12)) | 0x67;
            kernel.extend(entry.to_le_bytes());
            if self.interface.pae {
                kernel.extend([0; 4]);
            }
        }
        let length = u32::try_from(kernel.len()).expect("it is short");
        let mut file = vec![0; 84];
        file[..6].copy_from_slice(b"\x7FELF\x01\x01");
        for (at, word) in [
            (16, 0x0003_0002), // executable, i386
            (24, CODE),        // the entry point
            (28, 52),          // program headers
            (40, 0x0020_0034), // their size, the file header's before it
            (44, 1),           // how many
            (52, 1),           // to be loaded
            (56, 84),
            (60, 0xC000_0000 + CODE),
            (64, CODE),
            (68, length),
            (72, SIZE),
        ] {
            let word: u32 = word;
            file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        file.extend(kernel);
        file
    }
}
