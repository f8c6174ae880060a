//! Puts a kernel, its initrd and its first page tables into a Guest's memory.
