//! Helpers of the end-to-end suite: the truth that others tell, what the probe says, and how both are started.
//!
//! [`wire`] speaks HTTP/1.1 over a socket with the system calls of one's choice. [`truth`] is what a server or a load
//! generator counted by itself. [`exposition`] reads the probe's metrics, strictly. [`harness`] starts probes and
//! services and takes them down again. [`mode`] says what a run is for, [`noise`] how much the machine disturbs it.

pub mod cuda;
pub mod exposition;
pub mod harness;
pub mod mode;
pub mod noise;
pub mod truth;
pub mod wire;
