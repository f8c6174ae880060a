//! The test of exercise 8. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson08::exercise::read_at;
use lesson08::{SECTOR, disk, write};
use lg_guest::boot::boot;
use lg_guest::drivers::disk::DiskError;

lg_guest::tests! {
    fn bytes_inside_a_sector_are_read() {
        let disk = disk(boot());
        write(&disk, 2, "hello, disk").await.unwrap();
        let mut word = [0; 4];
        read_at(&disk, 2 * SECTOR + 7, &mut word).await.unwrap();
        assert_eq!(&word, b"disk");
    }

    fn bytes_may_cross_sectors() {
        let disk = disk(boot());
        write(&disk, 4, "four").await.unwrap();
        write(&disk, 6, "six").await.unwrap();
        let mut bytes = [0; 2 * SECTOR + 3];
        read_at(&disk, 4 * SECTOR, &mut bytes).await.unwrap();
        assert_eq!(&bytes[..5], b"four ");
        assert_eq!(&bytes[2 * SECTOR - 1..], b"\nsix");
        let mut end = [0; 4];
        read_at(&disk, 6 * SECTOR - 1, &mut end).await.unwrap();
        assert_eq!(&end, b"\nsix");
    }

    fn beyond_the_end_is_an_error() {
        let disk = disk(boot());
        let beyond = read_at(&disk, 16 * SECTOR - 2, &mut [0; 3]).await;
        assert_eq!(beyond, Err(DiskError::OutOfRange));
        read_at(&disk, 16 * SECTOR - 2, &mut [0; 2]).await.unwrap();
    }
}
