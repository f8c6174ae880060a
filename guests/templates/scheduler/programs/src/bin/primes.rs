//! Counts primes, and makes no system call but to print.
#![no_std]
#![no_main]

lg_user::entry!(main);

fn main(limit: u32) {
    let mut count = 0;
    for number in 2..limit {
        let mut divisors = (2..).take_while(|d| d * d <= number);
        count += u32::from(divisors.all(|d| number % d != 0));
        if number % 20_000 == 0 {
            lg_user::println!("primes: {count} up to {number}");
        }
    }
    lg_user::println!("primes: {count} below {limit}");
}
