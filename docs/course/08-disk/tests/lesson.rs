//! Tests of lesson 8. Each runs in a guest of its own, with a disk of its own.
#![no_std]
#![no_main]

use lesson08::{SECTOR, add, disk, note, notes, write};
use lg_guest::boot::boot;
use lg_guest::drivers::disk::DiskError;

lg_guest::tests! {
    fn the_first_free_sector_gets_a_note() {
        let disk = disk(boot());
        let before = notes(&disk).await.unwrap().len();
        let sector = add(&disk, "Sell milk").await.unwrap().unwrap();
        assert_eq!(note(&disk, sector).await.unwrap(), "Sell milk");
        assert_eq!(notes(&disk).await.unwrap().len(), before + 1);
    }

    fn a_full_disk_takes_no_note() {
        let disk = disk(boot());
        while add(&disk, "more").await.unwrap().is_some() {}
        assert_eq!(notes(&disk).await.unwrap().len(), 16);
    }

    fn what_is_done_is_free() {
        let disk = disk(boot());
        write(&disk, 3, "a note").await.unwrap();
        write(&disk, 3, "").await.unwrap();
        assert_eq!(note(&disk, 3).await.unwrap(), "");
    }

    fn the_disk_ends() {
        let disk = disk(boot());
        let beyond = disk.read(disk.sectors(), &mut [0; SECTOR]).await;
        assert_eq!(beyond, Err(DiskError::OutOfRange));
        let half = disk.read(0, &mut [0; 100]).await;
        assert_eq!(half, Err(DiskError::Unaligned));
    }
}
