//! `lguest image`: describes a kernel's file, and tries whether it runs here.
//!
//! The file is loaded into memory as by `lguest run`, but it does not run. So
//! the verdict has the same message. The other facts come from the headers and
//! from texts that every Linux of these years contains.

use super::error::KernelError;
use super::fit::Demand;
use super::kernel;
use super::payload::Unpacked;
use super::search::find;
use super::setup::{self, Setup};
use super::{Compression, Image, Release, bzimage, elf, page_offset};
use crate::memory::{GuestMemory, MAX_RAM};
use crate::needs::Lack;
use lg_abi::boot::GUEST_MAGIC;
use lg_abi::page::Format;
use serde::Serialize;
use std::fmt;

/// How a file holds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Container {
    /// An ELF file.
    #[serde(rename = "ELF")]
    Elf,
    /// A bzImage.
    #[serde(rename = "bzImage")]
    BzImage,
}

/// The description of a file. A field is `None` if the file does not say it.
#[derive(Debug, Serialize)]
pub struct Description {
    /// How it holds a kernel.
    pub format: Option<Container>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How the kernel is packed.
    pub compression: Option<Compression>,
    /// Bytes of the unpacked kernel.
    pub kernel_bytes: Option<u64>,
    /// 32 or 64.
    pub bits: Option<u8>,
    /// The release of Linux.
    pub release: Option<Release>,
    /// The generation of lguest's interface that this release has: 1 for Linux
    /// 2.6.23, 2 up to 3.19, 3 from 4.0 to 4.13.
    pub generation: Option<u8>,
    /// Whether lguest's guest code is in it.
    pub guest_code: Option<bool>,
    /// Whether its page tables have three levels.
    pub pae: Option<bool>,
    /// Whether it was built for several processors.
    pub smp: Option<bool>,
    /// The least memory with which it can be loaded, in MiB.
    pub memory_mib: Option<u64>,
    /// Whether it runs here.
    pub runs: bool,
    /// Why it does not run, and what would.
    pub why_not: Option<String>,
}

/// A file cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The machine has no memory to load it into.
    #[error(transparent)]
    Lacks(#[from] Lack),
}

/// The longest kernel that is unpacked to be described.
const MOST: u32 = 256 << 20;

/// The least memory into which a file is loaded as a trial, in MiB.
const TRIAL_MIB: u64 = 32;

impl Description {
    /// Describes `image`.
    ///
    /// # Errors
    ///
    /// [`DescribeError`] if it cannot be read or loaded as a trial.
    pub fn of(image: &Image) -> Result<Self, DescribeError> {
        let file_bytes = image.len()?;
        let head = image.read(0, setup::HEAD)?;
        let mut found = Self::empty(file_bytes);
        if elf::recognise(&head) {
            found.format = Some(Container::Elf);
            found.bits = elf::bits(&head);
            let len = usize::try_from(file_bytes.min(MOST.into()));
            let bytes = image.read(0, len.unwrap_or(usize::MAX))?;
            found.describe_kernel(&bytes);
            found.memory_mib = elf_memory(image, found.paging());
        } else if setup::recognise(&head) {
            found.format = Some(Container::BzImage);
            found.describe_bzimage(image)?;
        }
        found.try_to_load(image)?;
        Ok(found)
    }

    fn empty(file_bytes: u64) -> Self {
        Self {
            format: None,
            file_bytes,
            compression: None,
            kernel_bytes: None,
            bits: None,
            release: None,
            generation: None,
            guest_code: None,
            pae: None,
            smp: None,
            memory_mib: None,
            runs: false,
            why_not: None,
        }
    }

    fn describe_bzimage(&mut self, image: &Image) -> Result<(), KernelError> {
        let len = self.file_bytes.min(MOST.into());
        let file = image.read(0, usize::try_from(len).unwrap_or(usize::MAX))?;
        let setup = Setup::of(&file);
        self.compression = setup.packed_by(&file);
        self.bits = setup.is_for_64_bits.then_some(64);
        // A damaged file has no more facts. The trial reports the damage.
        if let Ok(Unpacked::All(kernel)) = bzimage::unpack(&file, MOST) {
            self.kernel_bytes = Some(kernel.len() as u64);
            // Headers before protocol 2.08 do not say where the stream is.
            self.compression = self.compression.or(Some(Compression::Gzip));
            self.describe_kernel(&kernel);
            let flat = u64::from(bzimage::LOAD_AT) + kernel.len() as u64;
            self.bits = self.bits.or(elf::bits(&kernel)).or(Some(32));
            self.memory_mib = if elf::recognise(&kernel) {
                elf_memory(&Image::Unpacked(kernel), self.paging())
            } else {
                least_mib(flat, page_offset::CONVENTIONAL[0], self.paging())
            };
        }
        if let Some(release) = setup.release {
            self.set_release(release);
        }
        Ok(())
    }

    /// Reads the texts of an unpacked kernel.
    fn describe_kernel(&mut self, kernel: &[u8]) {
        let has = |text: &[u8]| find(kernel, text).is_some();
        if let Some(release) = Release::of_kernel(kernel) {
            self.smp = release.is_smp_in(kernel);
            self.pae = Release::has_pae_in(kernel);
            self.set_release(release);
        }
        self.guest_code = Some(has(GUEST_MAGIC) || has(kernel::GUEST_NAME));
    }

    fn set_release(&mut self, release: Release) {
        self.generation = release.generation();
        self.release = Some(release);
    }

    /// The format of its page tables, as far as that is known.
    fn paging(&self) -> Format {
        match self.pae {
            Some(true) => Format::Pae,
            _ => Format::TwoLevels,
        }
    }

    /// Does what `lguest run` does with it, up to the first instruction.
    fn try_to_load(&mut self, image: &Image) -> Result<(), DescribeError> {
        let mib = self.memory_mib.unwrap_or(0).max(TRIAL_MIB);
        let ram = u32::try_from(mib << 20).unwrap_or(MAX_RAM);
        let memory =
            GuestMemory::new(ram.min(MAX_RAM), 1).map_err(|error| {
                Lack::when(format!("have {mib} MB of memory for it"), error)
            })?;
        match kernel::load(&memory, image, 0) {
            Ok(_) => self.runs = true,
            Err(error) => {
                let error = super::diagnosis::explain(image, error);
                if let KernelError::Io(_) = error {
                    return Err(error.into());
                }
                self.why_not = Some(error.to_string());
            }
        }
        Ok(())
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("names and numbers are JSON") + "\n"
    }
}

fn elf_memory(image: &Image, paging: Format) -> Option<u64> {
    let (virtual_, physical) = elf::lowest(image)?;
    let offset = virtual_.wrapping_sub(physical);
    let offset = if offset == 0 {
        page_offset::CONVENTIONAL[0]
    } else {
        offset
    };
    least_mib(elf::end(image)?, offset, paging)
}

fn least_mib(kernel_end: u64, page_offset: u32, paging: Format) -> Option<u64> {
    let demand = Demand {
        kernel_end,
        page_offset,
        paging,
        initrd: 0,
    };
    demand.least_mb()
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str| {
            if value.is_empty() {
                Ok(())
            } else {
                writeln!(f, "{name:<12} {value}")
            }
        };
        let format = match self.format {
            Some(Container::Elf) => "ELF",
            Some(Container::BzImage) => "bzImage",
            None => "not known",
        };
        line("format", &format!("{format}, {}", size(self.file_bytes)))?;
        let packed = match (self.compression, self.kernel_bytes) {
            (Some(by), Some(len)) => format!("{by}, {} unpacked", size(len)),
            (Some(by), None) => by.to_string(),
            (None, _) => String::new(),
        };
        line("compression", &packed)?;
        let text = |value: Option<String>| value.unwrap_or_default();
        line(
            "kernel",
            &text(self.release.as_ref().map(Release::to_string)),
        )?;
        line("bits", &text(self.bits.map(|bits| bits.to_string())))?;
        let generation = self.generation.map(|number| {
            let releases = match number {
                1 => "Linux 2.6.23",
                2 => "Linux 2.6.24 to 3.19",
                _ => "Linux 4.0 to 4.13",
            };
            format!("{number} ({releases})")
        });
        line("generation", &text(generation))?;
        line("guest code", yes_or_no(self.guest_code))?;
        line("PAE", yes_or_no(self.pae))?;
        line("SMP", yes_or_no(self.smp))?;
        let memory = self.memory_mib.map(|mib| format!("{mib} MB at least"));
        line("memory", &text(memory))?;
        match &self.why_not {
            None => line("runs here", "yes"),
            Some(why) => line("runs here", &format!("no: {why}")),
        }
    }
}

fn yes_or_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    }
}

/// A number of bytes, for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x2800 => format!("{bytes} bytes"),
        0x2800..0xA0_0000 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests;
