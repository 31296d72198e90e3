//! What watched processes ask the CUDA driver for: the twin of `cuda.rs` on the kernel side.
//!
//! Hooks: uprobes in `libcuda.so.1` where [`crate::discovery::libraries`] found it. Metrics: `miku_gpu_allocation_*`. They are
//! absent while no watched process has that library.

use std::collections::{HashMap, HashSet};

use aya::maps::{HashMap as BpfHashMap, MapData};
use miku_probe_abi::CudaAllocations;

use crate::observations::Allocations;
use crate::units::{Nanos, ServiceId, Tgid};

/// The programs of this family.
pub(super) const PROGRAMS: &[&str] = &[ALLOCATE, ALLOCATE_RETURN];

pub(super) const ALLOCATE: &str = "cuda_allocate";
pub(super) const ALLOCATE_RETURN: &str = "cuda_allocate_return";

/// What processes asked for, and how much of that has been told.
pub struct AllocationTable {
    map: BpfHashMap<MapData, u32, CudaAllocations>,
    told: HashMap<Tgid, CudaAllocations>,
}

impl AllocationTable {
    pub(super) fn new(map: BpfHashMap<MapData, u32, CudaAllocations>) -> Self {
        Self { map, told: HashMap::new() }
    }

    /// What the processes of `watched`, whose library is attached to, asked for since this was last asked; of a process that
    /// is new here, also that it asked for nothing.
    pub fn growth(&mut self, watched: impl Iterator<Item = (Tgid, ServiceId)>) -> Vec<Allocations> {
        let watched: HashSet<_> = watched.collect();
        watched.into_iter().filter_map(|(tgid, service)| self.growth_of(tgid, service)).collect()
    }

    fn growth_of(&mut self, tgid: Tgid, service: ServiceId) -> Option<Allocations> {
        let now = self.map.get(&tgid.0, 0).unwrap_or_default();
        let before = self.told.insert(tgid, now);
        let growth = growth(service, before, now)?;
        if let Some((_, bytes)) = growth.last_failure {
            log::warn!(
                "process {tgid} was refused GPU memory {} times, the last time {bytes} bytes (CUDA error {})",
                growth.failures,
                now.failed_result
            );
        }
        Some(growth)
    }

    /// Forgets a process, and tells what it asked for at last.
    pub fn forget(&mut self, tgid: Tgid, service: ServiceId) -> Option<Allocations> {
        // One that never asked for anything is in neither table.
        let last = self.map.get(&tgid.0, 0).ok().and_then(|_| self.growth_of(tgid, service));
        self.told.remove(&tgid);
        let _gone: Result<(), _> = self.map.remove(&tgid.0);
        last
    }
}

/// What came between two readings; none when nothing did.
fn growth(service: ServiceId, before: Option<CudaAllocations>, now: CudaAllocations) -> Option<Allocations> {
    let known = before.unwrap_or_default();
    if before.is_some() && known.calls == now.calls {
        return None;
    }
    let failures = now.failures.saturating_sub(known.failures);
    Some(Allocations {
        service,
        bytes: now.bytes.saturating_sub(known.bytes),
        failures,
        last_failure: (failures > 0).then_some((Nanos(now.failed_ns), now.failed_bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_came_since() {
        let service = ServiceId(3);
        let none = CudaAllocations::default();
        let told = |bytes, failures, last_failure| Some(Allocations { service, bytes, failures, last_failure });
        assert_eq!(growth(service, None, none), told(0, 0, None), "that nothing was asked for is a count");
        assert_eq!(growth(service, Some(none), none), None);
        let first = CudaAllocations { bytes: 100, calls: 2, ..none };
        assert_eq!(growth(service, Some(none), first), told(100, 0, None));
        let failed =
            CudaAllocations { bytes: 150, calls: 4, failures: 1, failed_ns: 9, failed_bytes: 30, failed_result: 2 };
        assert_eq!(growth(service, Some(first), failed), told(50, 1, Some((Nanos(9), 30))));
        assert_eq!(growth(service, Some(failed), failed), None);
        let later = CudaAllocations { bytes: 151, calls: 5, ..failed };
        assert_eq!(growth(service, Some(failed), later), told(1, 0, None), "the old failure is told once");
    }
}
