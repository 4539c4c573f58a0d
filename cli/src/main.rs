//! The porism command.
fn main() {}
