//! The open connections of watched processes.
//!
//! They are kept in two tables, of which the second holds what the first has no room for. A hash map's buckets take 16 bytes
//! each, as many as it may have entries: those of a table for all the connections that there may ever be lie in so many pages
//! that each look-up would touch one that nobody has touched for long. A bot's few lie in two.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use miku_probe_abi::{CONNECTIONS_FEW, Connection, ConnectionKey};

use crate::maps::{Skip, count};

/// Those that came first. User space sets the size.
#[map]
static CONNECTIONS: HashMap<ConnectionKey, Connection> = HashMap::with_max_entries(CONNECTIONS_FEW, 0);

/// The others. User space sets the size.
#[map]
static MORE_CONNECTIONS: HashMap<ConnectionKey, Connection> = HashMap::with_max_entries(32768, 0);

/// What is known of a connection.
#[inline(always)]
pub(crate) fn find(key: ConnectionKey) -> Option<*mut Connection> {
    CONNECTIONS.get_ptr_mut(key).or_else(|| MORE_CONNECTIONS.get_ptr_mut(key))
}

/// Enters a connection, or what is known of it from now on.
#[inline(always)]
pub(crate) fn enter(key: ConnectionKey, connection: &Connection) -> Result<(), Skip> {
    // One that is among the others stays there.
    let among_others = MORE_CONNECTIONS.get_ptr(key).is_some();
    if !among_others && CONNECTIONS.insert(key, connection, 0).is_ok() {
        return Ok(());
    }
    MORE_CONNECTIONS.insert(key, connection, 0).map_err(|_| {
        count(|counters| counters.table_full += 1);
        Skip
    })
}

/// Takes a connection out; one that is not there is skipped.
#[inline(always)]
pub(crate) fn remove(key: ConnectionKey) -> Result<(), Skip> {
    CONNECTIONS.remove(key).or_else(|_| MORE_CONNECTIONS.remove(key)).map_err(|_| Skip)
}
