//! Lives of processes: the twin of `process.rs` on the kernel side.
//!
//! Hooks: `task:task_newtask`, `sched:sched_process_exec`, `sched:sched_process_exit`, `oom:mark_victim`,
//! `sock:inet_sock_set_state`. Metrics: `miku_probe_targets`, `miku_process_starts_total`, `miku_process_exits_total`,
//! `miku_process_oom_kills_total`. Without one of them the slow scan of `/proc` still finds what it would have told, but why
//! a process ended.

use super::{Form, Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "process";

const ORDINARY: &[Probe] = &[
    TASK_NEWTASK,
    SCHED_PROCESS_EXEC,
    SCHED_PROCESS_EXIT,
    MARK_VICTIM,
    optional("inet_sock_set_state", Hook::Tracepoint("sock", "inet_sock_set_state")),
];

const RAW: &[Probe] = &[
    TASK_NEWTASK,
    SCHED_PROCESS_EXEC,
    SCHED_PROCESS_EXIT,
    MARK_VICTIM,
    optional("inet_sock_set_state_raw", Hook::RawTracepoint("inet_sock_set_state")),
];

const TASK_NEWTASK: Probe = optional("task_newtask", Hook::Tracepoint("task", "task_newtask"));
const SCHED_PROCESS_EXEC: Probe = optional("sched_process_exec", Hook::Tracepoint("sched", "sched_process_exec"));
const SCHED_PROCESS_EXIT: Probe = optional("sched_process_exit", Hook::Tracepoint("sched", "sched_process_exit"));
const MARK_VICTIM: Probe = optional("mark_victim", Hook::Tracepoint("oom", "mark_victim"));

/// The probes of this family.
#[must_use]
pub const fn probes(form: Form) -> &'static [Probe] {
    match form {
        Form::Ordinary => ORDINARY,
        Form::Raw => RAW,
    }
}

const fn optional(program: &'static str, hook: Hook) -> Probe {
    Probe { program, kind: KIND, hook, intent: Intent::Optional }
}
