//! Lives of processes: the twin of `process.rs` on the kernel side.
//!
//! Hooks: `task:task_newtask`, `sched:sched_process_exec`, `sched:sched_process_exit`, `oom:mark_victim`,
//! `sock:inet_sock_set_state`. Metrics: `miku_probe_targets`, `miku_process_starts_total`, `miku_process_exits_total`,
//! `miku_process_oom_kills_total`. Without one of them the slow scan of `/proc` still finds what it would have told, but why
//! a process ended.

use super::{Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "process";

/// The probes of this family.
pub const PROBES: &[Probe] = &[
    optional("task_newtask", "task"),
    optional("sched_process_exec", "sched"),
    optional("sched_process_exit", "sched"),
    optional("mark_victim", "oom"),
    optional("inet_sock_set_state", "sock"),
];

const fn optional(name: &'static str, category: &'static str) -> Probe {
    Probe { program: name, kind: KIND, hook: Hook::Tracepoint(category, name), intent: Intent::Optional }
}
