//! Where this kernel's tracepoints keep their fields, as tracefs tells.

use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use miku_probe_abi::{LengthEvent, NetOffsets, SwitchEvent, TracepointOffsets, WaitEvent};

use crate::mounts::TRACEFS;

/// Why a field's place is not known.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// tracefs is not mounted, or cannot be read.
    #[error(
        "cannot read {path}: is tracefs mounted (`mount -t tracefs tracefs /sys/kernel/tracing`), and is this root?"
    )]
    Unreadable {
        /// The format file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The tracepoint has no such field.
    #[error("the tracepoint {event} of this kernel has no field `{field}`")]
    NoField {
        /// Category and name.
        event: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The tracepoint has the field where the programs do not look.
    #[error("the tracepoint {event} of this kernel has its field `{field}` in another place")]
    Elsewhere {
        /// Category and name.
        event: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// All offsets that the programs need.
pub(super) fn read() -> Result<TracepointOffsets, OffsetError> {
    let events = Path::new(TRACEFS.path).join("events");
    Ok(TracepointOffsets {
        newtask_pid: offset(&events, "task/task_newtask", "pid")?,
        newtask_clone_flags: offset(&events, "task/task_newtask", "clone_flags")?,
        set_state_oldstate: offset(&events, "sock/inet_sock_set_state", "oldstate")?,
        set_state_newstate: offset(&events, "sock/inet_sock_set_state", "newstate")?,
        close_fd: offset(&events, "syscalls/sys_enter_close", "fd")?,
        set_state_skaddr: offset(&events, "sock/inet_sock_set_state", "skaddr")?,
        destroy_skaddr: offset(&events, "tcp/tcp_destroy_sock", "skaddr").unwrap_or_default(),
        // Without it the program reads what is no process's number, and finds nobody.
        mark_victim_pid: offset(&events, "oom/mark_victim", "pid").unwrap_or_default(),
    })
}

/// What the programs of TCP's tracepoints need beyond that, put into what is known of the kernel's types.
pub(super) fn net(types: NetOffsets) -> Result<NetOffsets, OffsetError> {
    let events = Path::new(TRACEFS.path).join("events");
    Ok(NetOffsets {
        retransmit_skaddr: offset(&events, "tcp/tcp_retransmit_skb", "skaddr")?,
        retransmit_skbaddr: offset(&events, "tcp/tcp_retransmit_skb", "skbaddr")?,
        send_reset_skaddr: offset(&events, "tcp/tcp_send_reset", "skaddr")?,
        receive_reset_skaddr: offset(&events, "tcp/tcp_receive_reset", "skaddr")?,
        ..types
    })
}

/// Whether this kernel's sockets tell by themselves what moves, in the layout that the programs know. The fields are the
/// arguments too, which programs in the raw form see.
pub(super) fn sockets_tell() -> bool {
    let events = Path::new(TRACEFS.path).join("events");
    let is_at = |event, field, place: usize| {
        offset(&events, event, field).is_ok_and(|offset| usize::try_from(offset).is_ok_and(|offset| offset == place))
    };
    offset(&events, "tcp/tcp_destroy_sock", "skaddr").is_ok()
        && ["sock/sock_recv_length", "sock/sock_send_length"].into_iter().all(|event| {
            is_at(event, "sk", offset_of!(LengthEvent, sk))
                && is_at(event, "ret", offset_of!(LengthEvent, ret))
                && is_at(event, "flags", offset_of!(LengthEvent, flags))
        })
}

/// Whether this kernel has a tracepoint.
pub(super) fn exists(category: &str, name: &str) -> bool {
    Path::new(TRACEFS.path).join("events").join(category).join(name).is_dir()
}

/// Sees to it that the tracepoints of event loops keep their fields where the programs load them.
pub(super) fn loops_tell() -> Result<(), OffsetError> {
    let events = Path::new(TRACEFS.path).join("events");
    let switch = "sched/sched_switch";
    // Of the calls that wait, all are laid out alike.
    let wait = "syscalls/sys_enter_epoll_wait";
    for (event, field, place) in [
        (switch, "prev_pid", offset_of!(SwitchEvent, prev_pid)),
        (switch, "prev_state", offset_of!(SwitchEvent, prev_state)),
        (switch, "next_pid", offset_of!(SwitchEvent, next_pid)),
        (wait, "__syscall_nr", offset_of!(WaitEvent, call)),
        (wait, "epfd", offset_of!(WaitEvent, first)),
        (wait, "events", offset_of!(WaitEvent, second)),
    ] {
        if offset(&events, event, field)? as usize != place {
            return Err(OffsetError::Elsewhere { event, field });
        }
    }
    Ok(())
}

fn offset(events: &Path, event: &'static str, field: &'static str) -> Result<u32, OffsetError> {
    let path = events.join(event).join("format");
    let format = fs::read_to_string(&path).map_err(|source| OffsetError::Unreadable { path, source })?;
    field_offset(&format, field).ok_or(OffsetError::NoField { event, field })
}

/// The offset of a field in a format file, whose lines are `field:TYPE NAME; offset:N; size:N; signed:N;`.
fn field_offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let name = parts.next()?.rsplit([' ', '*']).next()?;
        let name = name.split('[').next()?;
        if name != field {
            return None;
        }
        parts.find_map(|part| part.strip_prefix("offset:"))?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWTASK: &str = "name: task_newtask\nID: 171\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;\n\
        \tfield:unsigned long clone_flags;\toffset:32;\tsize:8;\tsigned:0;\n";

    #[test]
    fn finds_fields_by_their_whole_name() {
        assert_eq!(field_offset(NEWTASK, "pid"), Some(8), "not common_pid");
        assert_eq!(field_offset(NEWTASK, "comm"), Some(12), "an array's name is without its length");
        assert_eq!(field_offset(NEWTASK, "clone_flags"), Some(32));
        assert_eq!(field_offset(NEWTASK, "oom"), None);
    }
}
