//! Compiles the programs, which the kernel has in its own file.

fn main() {
    lg_user::programs::build("programs");
}
