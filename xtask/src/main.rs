//! Sets up, builds, tests, measures and demonstrates miku-probe.
fn main() {}
