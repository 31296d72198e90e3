//! The suite's client, `client.py`: what it runs in, and what it tells.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::process::Process;
use super::python::{self, Python};
use crate::truth::Truth;

/// The environment with all libraries that it knows, HTTPS included, on CPython 3.`minor`.
///
/// # Errors
/// When there is no such CPython, or the packages cannot be had.
pub fn environment(minor: u8) -> Result<Python> {
    Python::of(&python::interpreter(minor)?, &format!("tls-clients-3.{minor}"), &["tls-clients.txt"])
}

/// What a run of it counted by itself, once it is done.
///
/// # Panics
/// When it is not within `limit`, or tells something else.
#[must_use]
pub fn counted_by(client: &Process, limit: Duration) -> Truth {
    client.wait_said(limit, |line| (line == "done").then_some(()));
    let mut truth = Truth::default();
    for line in client.said().iter().filter(|line| line.starts_with('{')) {
        let entry: Value = serde_json::from_str(line).expect("the client writes JSON");
        let status = entry["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
        truth.add(entry["method"].as_str().expect("a method"), entry["route"].as_str().expect("a path"), status, 1);
        truth.durations.push(entry["seconds"].as_f64().expect("a duration"));
    }
    truth
}
