//! What each command does, one file a command.

pub mod check;
pub mod ps;
