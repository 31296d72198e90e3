//! The kernel side's maps, each behind the few things user space does with it.

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};
use miku_probe_abi::{
    CONNECTION_TOLD, Connection, ConnectionKey, Counters, FILTER_ARRIVALS, FILTER_SLOTS, FILTER_TURNS, FILTER_WATCHED,
    InflateCall, InflateStream, Stream, StreamKey, TARGET_ARRIVALS, TARGET_TURNS, TlsCall,
};

use super::ProbeError;
use super::cuda::AllocationTable;
use super::event_loop::EventLoops;
use super::net::ListenerTable;
use super::unpreempted::Unpreempted;
use crate::units::{ConnId, Handle, Nanos, Tgid};

/// All maps, taken out of the loaded object.
pub struct Maps {
    /// The records.
    pub records: RingBuf<MapData>,
    /// Which processes are watched.
    pub targets: TargetTable,
    /// Their open connections.
    pub connections: ConnectionTable,
    /// Their TLS streams and those that they decompress.
    pub streams: StreamTable,
    /// What their processes asked the CUDA driver for.
    pub allocations: AllocationTable,
    /// The threads that wait in selectors.
    pub loops: EventLoops,
    /// What the kernel side has counted.
    pub counters: CounterTable,
    /// Who listens on which port.
    pub listeners: ListenerTable,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(ProbeError::Map { name });
        Ok(Self {
            records: RingBuf::try_from(take("RECORDS")?)?,
            targets: TargetTable {
                watched: HashMap::try_from(take("TARGETS")?)?,
                filter: Array::try_from(take("FILTER")?)?,
            },
            connections: ConnectionTable {
                few: HashMap::try_from(take("CONNECTIONS")?)?,
                more: HashMap::try_from(take("MORE_CONNECTIONS")?)?,
            },
            streams: StreamTable {
                streams: HashMap::try_from(take("STREAMS")?)?,
                calls: HashMap::try_from(take("TLS_CALLS")?)?,
                handshakes: HashMap::try_from(take("TLS_HANDSHAKES")?)?,
                inflated: HashMap::try_from(take("INFLATE_STREAMS")?)?,
                inflating: HashMap::try_from(take("INFLATE_CALLS")?)?,
            },
            allocations: AllocationTable::new(HashMap::try_from(take("CUDA_ALLOCATIONS")?)?),
            loops: EventLoops::new(HashMap::try_from(take("LOOPS")?)?, Array::try_from(take("LOOP_FILTER")?)?),
            counters: CounterTable(PerCpuArray::try_from(take("COUNTERS")?)?),
            listeners: ListenerTable::new(take("NET_LISTENERS")?)?,
        })
    }
}

/// Which processes are watched.
pub struct TargetTable {
    watched: HashMap<MapData, u32, u32>,
    filter: Array<MapData, u64>,
}

impl TargetTable {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the table is full.
    pub fn insert(&mut self, tgid: Tgid) -> Result<(), ProbeError> {
        let _unpreempted = Unpreempted::new();
        self.watched.insert(tgid.0, 0, 0)?;
        // The slot is set last: while it is 0 the kernel side looks no further.
        self.filter(tgid, FILTER_WATCHED)
    }

    /// Has it told when what a watched process reads had come, and with `turns` when its event loops wait.
    ///
    /// # Errors
    /// When it is not watched.
    pub fn tell_more(&mut self, tgid: Tgid, turns: bool) -> Result<(), ProbeError> {
        let _unpreempted = Unpreempted::new();
        let value = self.watched.get(&tgid.0, 0)?;
        let (target, filter) = if turns { (TARGET_TURNS, FILTER_TURNS) } else { (0, 0) };
        self.watched.insert(tgid.0, value | TARGET_ARRIVALS | target, 0)?;
        self.filter(tgid, FILTER_ARRIVALS | filter)
    }

    fn filter(&mut self, tgid: Tgid, more: u64) -> Result<(), ProbeError> {
        let slot = tgid.0 & (FILTER_SLOTS - 1);
        let value = self.filter.get(&slot, 0)?;
        Ok(self.filter.set(slot, value | more, 0)?)
    }

    /// Ends to watch; a process that was not watched is no error.
    pub fn remove(&mut self, tgid: Tgid) {
        // The slot stays set, for another watched process may share it; a false positive costs one look-up a call.
        match self.watched.remove(&tgid.0) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => log::debug!("cannot forget process {tgid}: {error}"),
        }
    }
}

/// The open connections of watched processes: those that the first of the kernel side's two tables has room for, and the others.
pub struct ConnectionTable {
    few: HashMap<MapData, ConnectionKey, Connection>,
    more: HashMap<MapData, ConnectionKey, Connection>,
}

impl ConnectionTable {
    /// Enters a connection that was open before its process was watched; false when the kernel side knows it already.
    ///
    /// # Errors
    /// When the table is full.
    pub fn seed(&mut self, id: ConnId) -> Result<bool, ProbeError> {
        let Some(key) = key(id).filter(|key| self.find(*key).is_none()) else { return Ok(false) };
        let connection = Connection::new(id.generation.0, CONNECTION_TOLD, 0);
        let outcome = match insert_new(&mut self.few, key, connection) {
            Err(error) if errno(&error) == Some(libc::E2BIG) => insert_new(&mut self.more, key, connection),
            outcome => outcome,
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn find(&self, key: ConnectionKey) -> Option<Connection> {
        self.few.get(&key, 0).or_else(|_| self.more.get(&key, 0)).ok()
    }

    /// Bytes in and out of a connection that is still open.
    #[must_use]
    pub fn bytes(&self, id: ConnId) -> Option<(u64, u64)> {
        let _unpreempted = Unpreempted::new();
        let connection = self.find(key(id)?)?;
        (Nanos(connection.generation) == id.generation).then_some((connection.bytes_in, connection.bytes_out))
    }

    /// Forgets a connection whose process ended without closing it.
    pub fn remove(&mut self, id: ConnId) {
        let _unpreempted = Unpreempted::new();
        if let Some(key) = key(id).filter(|_| self.bytes(id).is_some()) {
            // A connection that is closed by its process in between is gone already.
            let _gone: Result<(), _> = self.few.remove(&key).or_else(|_| self.more.remove(&key));
        }
    }
}

/// Inserts a key that must not exist yet.
pub(super) fn insert_new<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: K, value: V) -> Result<(), MapError> {
    const NO_EXIST: u64 = 1; // BPF_NOEXIST of linux/bpf.h
    map.insert(key, value, NO_EXIST)
}

/// What the kernel said against the use of a map.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// The key of a socket; a stream is not in this table.
const fn key(id: ConnId) -> Option<ConnectionKey> {
    match id.handle {
        Handle::Socket(fd) => Some(ConnectionKey { tgid: id.tgid.0, fd }),
        Handle::Tls(_) | Handle::Inflate(_) => None,
    }
}

impl ConnectionTable {
    /// Forgets all connections of a process, those included that were never told: sockets that were only made, or listen.
    pub fn forget(&mut self, tgid: Tgid) {
        remove_all(&mut self.few, |key| key.tgid == tgid.0);
        remove_all(&mut self.more, |key| key.tgid == tgid.0);
    }
}

/// The TLS streams of watched processes, and those that they decompress.
pub struct StreamTable {
    streams: HashMap<MapData, StreamKey, Stream>,
    /// Calls that have begun, by process and thread.
    calls: HashMap<MapData, u64, TlsCall>,
    /// Handshakes that are being worked on, by process and thread.
    handshakes: HashMap<MapData, u64, u64>,
    inflated: HashMap<MapData, StreamKey, InflateStream>,
    /// Calls that decompress and have begun, by process and thread.
    inflating: HashMap<MapData, u64, InflateCall>,
}

impl StreamTable {
    /// Forgets all streams of a process, and calls that its end or our leaving cut off.
    pub fn forget(&mut self, tgid: Tgid) {
        remove_all(&mut self.streams, |key| key.tgid == tgid.0);
        remove_all(&mut self.calls, |thread| thread >> 32 == u64::from(tgid.0));
        remove_all(&mut self.handshakes, |thread| thread >> 32 == u64::from(tgid.0));
        remove_all(&mut self.inflated, |key| key.tgid == tgid.0);
        remove_all(&mut self.inflating, |thread| thread >> 32 == u64::from(tgid.0));
    }
}

/// Removes the entries whose keys are `unwanted`.
fn remove_all<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, unwanted: impl Fn(&K) -> bool) {
    let _unpreempted = Unpreempted::new();
    let keys: Vec<K> = map.keys().filter_map(Result::ok).filter(unwanted).collect();
    for key in keys {
        // One that the kernel side removes in between is gone already.
        let _gone: Result<(), _> = map.remove(&key);
    }
}

/// What the kernel side has counted.
pub struct CounterTable(PerCpuArray<MapData, Counters>);

impl CounterTable {
    /// The sum over all processors.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn sum(&self) -> Result<Counters, ProbeError> {
        let _unpreempted = Unpreempted::new();
        let mut sum = Counters::default();
        for counters in self.0.get(&0, 0)?.iter() {
            for (total, count) in sum.lost.iter_mut().zip(counters.lost) {
                *total += count;
            }
            sum.lost_starts_in += counters.lost_starts_in;
            sum.lost_starts_out += counters.lost_starts_out;
            sum.table_full += counters.table_full;
            sum.targets_full += counters.targets_full;
            sum.unreadable += counters.unreadable;
            sum.sent += counters.sent;
        }
        Ok(sum)
    }
}
