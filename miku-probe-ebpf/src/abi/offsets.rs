//! Where kernels keep what is read of them: found by user space before the programs are loaded.

/// Offsets of the tracepoint fields that move between kernels, read from tracefs by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracepointOffsets {
    /// `task:task_newtask`, `pid`.
    pub newtask_pid: u32,
    /// `task:task_newtask`, `clone_flags`.
    pub newtask_clone_flags: u32,
    /// `sock:inet_sock_set_state`, `oldstate`.
    pub set_state_oldstate: u32,
    /// `sock:inet_sock_set_state`, `newstate`.
    pub set_state_newstate: u32,
    /// `syscalls:sys_enter_close`, `fd`.
    pub close_fd: u32,
    /// `sock:inet_sock_set_state`, `skaddr`.
    pub set_state_skaddr: u32,
    /// `tcp:tcp_destroy_sock`, `skaddr`.
    pub destroy_skaddr: u32,
    /// `oom:mark_victim`, `pid`.
    pub mark_victim_pid: u32,
}

/// What `sock:sock_recv_length` and `sock:sock_send_length` tell in their ordinary form. They are so hot that their fields
/// are loaded where they have been since they came, in Linux 6.3, and not read by a helper; user space sees to it that they
/// are there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LengthEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// The kernel's address of the socket.
    pub sk: u64,
    /// `AF_*`.
    pub family: u16,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Bytes, or the negative error.
    pub ret: i32,
    /// `MSG_*`.
    pub flags: i32,
}

/// What `syscalls:sys_enter_*` tell of a call that waits. Its fields are loaded where they stand, as those of
/// [`LengthEvent`] are; user space sees to it that they are there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WaitEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// Which call.
    pub call: u32,
    /// Nothing.
    pub padding: u32,
    /// Its first argument.
    pub first: u64,
    /// Its second.
    pub second: u64,
}

/// What `sched:sched_switch` tells: alike.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SwitchEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// The name of the thread that is taken off.
    pub prev_comm: [u8; 16],
    /// Which thread it is, in the initial PID namespace.
    pub prev_pid: u32,
    /// Its priority.
    pub prev_prio: i32,
    /// `TASK_*`, or nothing of that where it could go on running.
    pub prev_state: u64,
    /// The name of the thread that is put on.
    pub next_comm: [u8; 16],
    /// Which thread it is.
    pub next_pid: u32,
}

/// Offsets in the kernel's `struct task_struct` of what is read when tasks are switched, read from its type information by user
/// space before loading; 0 where they are not needed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchOffsets {
    /// `pid`.
    pub pid: u32,
    /// `stack`.
    pub stack: u32,
}

/// Offsets in the kernel's `struct sock`, read from its type information by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `sk_type`.
    pub socket_type: u32,
    /// `skc_family` of its `__sk_common`.
    pub family: u32,
    /// The same, `skc_dport`.
    pub dport: u32,
    /// The same, `skc_daddr`.
    pub daddr: u32,
    /// The same, `skc_v6_daddr`.
    pub v6_daddr: u32,
    /// `sk_protocol`.
    pub protocol: u32,
    /// `inet_sport` of the `struct inet_sock` that it begins.
    pub sport: u32,
}

/// Offsets in the kernel's structures of a task and of what its threads share, read from its type information by user space
/// before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// 1 when the others are known.
    pub known: u32,
    /// `task_struct`, `group_leader`.
    pub group_leader: u32,
    /// `task_struct`, `exit_code`.
    pub exit_code: u32,
    /// `task_struct`, `signal`.
    pub signal: u32,
    /// `signal_struct`, `live`.
    pub live: u32,
    /// `signal_struct`, `flags`.
    pub flags: u32,
    /// `signal_struct`, `group_exit_code`.
    pub group_exit_code: u32,
}
/// Where this kernel keeps what the programs of `net.rs` read, found by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetOffsets {
    /// `tcp:tcp_retransmit_skb`, `skaddr`.
    pub retransmit_skaddr: u32,
    /// The same, `skbaddr`.
    pub retransmit_skbaddr: u32,
    /// `tcp:tcp_send_reset`, `skaddr`.
    pub send_reset_skaddr: u32,
    /// `tcp:tcp_receive_reset`, `skaddr`.
    pub receive_reset_skaddr: u32,
    /// `struct sock`, `sk_err`.
    pub sock_error: u32,
    /// `struct sock_common`, `skc_net`.
    pub net: u32,
    /// `struct net`, the `inum` of its `ns`.
    pub net_inum: u32,
    /// `struct sk_buff`, the `tcp_gso_segs` of the `struct tcp_skb_cb` in its `cb`.
    pub skb_segments: u32,
    /// `struct task_struct`, `files`.
    pub files: u32,
    /// `struct files_struct`, `fdt`.
    pub table: u32,
    /// `struct fdtable`, `max_fds`.
    pub table_length: u32,
    /// The same, `fd`.
    pub table_files: u32,
    /// `struct file`, `private_data`.
    pub file_data: u32,
    /// `struct socket`, `file`.
    pub socket_file: u32,
    /// The same, `sk`.
    pub socket_sock: u32,
}
