//! Exercise 1: a number, as a person writes it.
//!
//! This kernel can print bytes. To print a number it must make bytes of it.

/// Writes `number` in decimal digits into `room`, and returns the digits.
pub fn decimal(number: u32, room: &mut [u8; 10]) -> &[u8] {
    let mut left = number;
    let mut first = room.len();
    loop {
        first -= 1;
        room[first] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            return &room[first..];
        }
    }
}
