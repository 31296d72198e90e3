//! The command line of `miku-probe`.
fn main() {}
