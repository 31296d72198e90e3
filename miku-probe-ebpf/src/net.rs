//! How the TCP connections of watched processes come about, fail and suffer, and the names that these processes resolve.
//!
//! Hooks: `sock:inet_sock_set_state` and `tcp:tcp_destroy_sock`, for the lives of sockets; `tcp:tcp_retransmit_skb`,
//! `tcp:tcp_send_reset`, `tcp:tcp_receive_reset`, each in either of its forms (`socket/by_socket.rs` says why there are two);
//! uprobes on libc's `getaddrinfo` and `connect`. All are rare.
//!
//! A `connect` begins within the call of the process, whose socket is then known; it ends whenever the network says so, in
//! whoever's context that is. A connection that is accepted is made before anybody asks for it, so it is counted for who
//! listens on its port in its network namespace: in the kernel when `listen` is called, by user space for those that did
//! before. What fails within `connect` before a packet is sent, for want of a route or of a permission, changes no socket's
//! state: it is known by the call's return alone, which does not tell the error.
//!
//! Bounds: sockets and ports of which nothing was heard longest make room for others; [`ANSWERS_MAX`] addresses an answer.
//!
//! Uprobes run preemptibly: nothing of theirs uses memory of the processor's.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_user_str};
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint, uprobe};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, TracePointContext};
use miku_probe_abi::{
    ANSWERS_MAX, DialCall, DialRecord, ERRNO_UNTOLD, FILTER_TURNS, ListenerKey, NAME_MAX, NetEvent, NetOffsets,
    NetRecord, NetSocket, RecordKind, ResolveCall, ResolvedRecord, TARGET_TURNS,
};

use crate::maps::{
    RECORDS, SOCKETS, Skip, Wake, count, current, field, filter, header, is_told, lost_record, maybe_watched, offsets,
    put, socket_offsets, submit, watched,
};
use crate::memory::{read_kernel, read_user};
use crate::state::{Change, states};
use crate::tls::{now, table_full, thread};

/// The TCP sockets of watched processes, by the kernel's address of them. User space sets the size.
#[map]
static NET_SOCKETS: LruHashMap<u64, NetSocket> = LruHashMap::with_max_entries(32768, 0);

/// The processes that listen, the last one of each port.
#[map]
static NET_LISTENERS: LruHashMap<ListenerKey, u32> = LruHashMap::with_max_entries(1024, 0);

/// Calls that resolve a name, by thread; an entry stays, as in `TLS_CALLS`.
#[map]
static NET_RESOLVING: LruHashMap<u64, ResolveCall> = LruHashMap::with_max_entries(4096, 0);

/// Calls that connect, by thread; alike.
#[map]
static NET_DIALING: LruHashMap<u64, DialCall> = LruHashMap::with_max_entries(4096, 0);

/// Where this kernel keeps what is read here.
#[unsafe(no_mangle)]
static NET_OFFSETS: NetOffsets = NetOffsets {
    retransmit_skaddr: 0,
    retransmit_skbaddr: 0,
    send_reset_skaddr: 0,
    receive_reset_skaddr: 0,
    sock_error: 0,
    net: 0,
    net_inum: 0,
    skb_segments: 0,
    files: 0,
    table: 0,
    table_length: 0,
    table_files: 0,
    file_data: 0,
    socket_file: 0,
    socket_sock: 0,
};

pub(crate) const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

const SOCK_STREAM: u16 = 1;

/// `EADDRNOTAVAIL` of `asm-generic/errno.h`.
const EADDRNOTAVAIL: u16 = 99;

#[inline(always)]
fn places() -> NetOffsets {
    // SAFETY: a static of this object; volatile, because user space sets it before the program is loaded.
    unsafe { core::ptr::read_volatile(&raw const NET_OFFSETS) }
}

#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn net_set_state(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = Change::of_event(&ctx).and_then(|change| try_set_state(&change));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn net_set_state_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_set_state(&Change::of_arguments(&ctx));
    0
}

#[inline(always)]
fn try_set_state(change: &Change) -> Result<(), Skip> {
    if !matches!(change.now, states::ESTABLISHED | states::SYN_SENT | states::CLOSE | states::LISTEN)
        || change.protocol()? != IPPROTO_TCP
    {
        return Err(Skip);
    }
    match change.now {
        states::SYN_SENT => began(change.socket),
        states::LISTEN => listens(change.socket, change.port()?),
        states::CLOSE => closed(change.socket, change.port()?),
        _ => established(change),
    }
}

/// The process that runs now, if it is watched.
#[inline(always)]
fn caller() -> Result<u32, Skip> {
    let (tgid, _) = current();
    if maybe_watched(tgid) && watched(tgid) { Ok(tgid) } else { Err(Skip) }
}

/// A process calls `connect`.
#[inline(always)]
fn began(socket: u64) -> Result<(), Skip> {
    let tgid = caller()?;
    enter(socket, NetSocket { connecting: now(), tgid, padding: 0 })?;
    if filter(tgid) & FILTER_TURNS != 0 && is_told(tgid, TARGET_TURNS) {
        let header = header(RecordKind::Dials, size_of::<DialRecord>());
        put(RecordKind::Dials, Wake::Late, &DialRecord { header, socket });
    }
    Ok(())
}

/// A process calls `listen`.
#[inline(always)]
fn listens(socket: u64, port: u16) -> Result<(), Skip> {
    let tgid = caller()?;
    NET_LISTENERS.insert(listener(socket, port)?, tgid, 0).map_err(|_| Skip)
}

#[inline(always)]
fn listener(socket: u64, port: u16) -> Result<ListenerKey, Skip> {
    let places = places();
    let net: u64 = read_kernel(socket + u64::from(places.net))?;
    let namespace: u32 = read_kernel(net + u64::from(places.net_inum))?;
    Ok(ListenerKey { namespace, port: u32::from(port) })
}

#[inline(always)]
fn enter(socket: u64, entry: NetSocket) -> Result<(), Skip> {
    if NET_SOCKETS.insert(socket, entry, 0).is_err() {
        count(|counters| counters.table_full += 1);
        return Err(Skip);
    }
    Ok(())
}

/// A connection is made, by this side or the other.
#[inline(always)]
fn established(change: &Change) -> Result<(), Skip> {
    let socket = change.socket;
    if change.before == states::SYN_RECV {
        let tgid = NET_LISTENERS.get_ptr(listener(socket, change.port()?)?).ok_or(Skip)?;
        // SAFETY: the pointer is to a live map value.
        let tgid = unsafe { *tgid };
        if !watched(tgid) {
            return Err(Skip);
        }
        enter(socket, NetSocket { connecting: 0, tgid, padding: 0 })?;
        return tell(socket, tgid, NetEvent::Accepted, Told { count: 1, ..Told::default() });
    }
    let known = NET_SOCKETS.get_ptr_mut(socket).ok_or(Skip)?;
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. Only one processor at a time
    // changes a socket's state.
    let known = unsafe { &mut *known };
    let started = core::mem::replace(&mut known.connecting, 0);
    if started == 0 {
        return Err(Skip);
    }
    let duration_ns = now() - started;
    tell(socket, known.tgid, NetEvent::Connected, Told { duration_ns, count: 1, errno: 0 })
}

/// A socket is of no connection any more. One that was connecting never came to be of any.
#[inline(always)]
fn closed(socket: u64, port: u16) -> Result<(), Skip> {
    let known = NET_SOCKETS.get_ptr_mut(socket).ok_or(Skip)?;
    // SAFETY: as in `established`.
    let known = unsafe { &mut *known };
    let started = core::mem::replace(&mut known.connecting, 0);
    if started == 0 {
        return Err(Skip);
    }
    let mut errno = read_kernel::<u32>(socket + u64::from(places().sock_error))? as u16;
    // It never had a port of its own: there was none left.
    if errno == 0 && port == 0 {
        errno = EADDRNOTAVAIL;
    }
    tell(socket, known.tgid, NetEvent::Failed, Told { duration_ns: now() - started, count: 1, errno })
}

#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
pub(crate) fn net_destroy(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = field(&ctx, offsets().destroy_skaddr).and_then(destroyed);
    0
}

/// By `TP_PROTO(struct sock *sk)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub(crate) fn net_destroy_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = destroyed(ctx.arg(0));
    0
}

#[inline(always)]
fn destroyed(socket: u64) -> Result<(), Skip> {
    NET_SOCKETS.remove(socket).map_err(|_| Skip)
}

#[tracepoint(category = "tcp", name = "tcp_retransmit_skb")]
pub(crate) fn net_retransmit(ctx: TracePointContext) -> u32 {
    let places = places();
    let _: Result<(), Skip> = field(&ctx, places.retransmit_skaddr)
        .and_then(|socket| retransmitted(socket, field(&ctx, places.retransmit_skbaddr)?));
    0
}

/// By `TP_PROTO(const struct sock *sk, const struct sk_buff *skb, …)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub(crate) fn net_retransmit_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = retransmitted(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn retransmitted(socket: u64, buffer: u64) -> Result<(), Skip> {
    let (tgid, _) = owner(socket)?;
    // What goes to the network card at once may be several segments.
    let segments: u16 = read_kernel(buffer + u64::from(places().skb_segments))?;
    let count = if segments == 0 { 1 } else { u32::from(segments) };
    tell(socket, tgid, NetEvent::Retransmitted, Told { count, ..Told::default() })
}

#[tracepoint(category = "tcp", name = "tcp_send_reset")]
pub(crate) fn net_send_reset(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> =
        field(&ctx, places().send_reset_skaddr).and_then(|socket| reset(socket, NetEvent::ResetSent));
    0
}

/// By `TP_PROTO(const struct sock *sk, …)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub(crate) fn net_send_reset_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = reset(ctx.arg(0), NetEvent::ResetSent);
    0
}

#[tracepoint(category = "tcp", name = "tcp_receive_reset")]
pub(crate) fn net_receive_reset(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> =
        field(&ctx, places().receive_reset_skaddr).and_then(|socket| reset(socket, NetEvent::ResetReceived));
    0
}

/// By `TP_PROTO(struct sock *sk)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub(crate) fn net_receive_reset_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = reset(ctx.arg(0), NetEvent::ResetReceived);
    0
}

/// A connection was reset. One that is only tried is refused by the same means, and told as that.
#[inline(always)]
fn reset(socket: u64, event: NetEvent) -> Result<(), Skip> {
    let (tgid, connecting) = owner(socket)?;
    if connecting {
        return Err(Skip);
    }
    tell(socket, tgid, event, Told { count: 1, ..Told::default() })
}

/// Whose a socket is, and whether it is connecting. One that was open before its process was watched is known by the bytes
/// that it has moved since.
#[inline(always)]
fn owner(socket: u64) -> Result<(u32, bool), Skip> {
    if let Some(known) = NET_SOCKETS.get_ptr(socket) {
        // SAFETY: as in `established`.
        let known = unsafe { &*known };
        return Ok((known.tgid, known.connecting != 0));
    }
    let key = SOCKETS.get_ptr(socket).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value.
    Ok((unsafe { (*key).tgid }, false))
}

/// What is told of a socket beside who is at its other end.
#[derive(Clone, Copy, Default)]
struct Told {
    duration_ns: u64,
    count: u32,
    errno: u16,
}

#[inline(always)]
fn tell(socket: u64, tgid: u32, event: NetEvent, told: Told) -> Result<(), Skip> {
    let at = socket_offsets();
    let family: u16 = read_kernel(socket + u64::from(at.family))?;
    let port: [u8; 2] = read_kernel(socket + u64::from(at.dport))?;
    let mut address = [0; 16];
    if family == AF_INET {
        let four: [u8; 4] = read_kernel(socket + u64::from(at.daddr))?;
        address[..4].copy_from_slice(&four);
    } else {
        address = read_kernel(socket + u64::from(at.v6_daddr))?;
    }
    put_event(tgid, event, told, Peer { family, port, address })
}

/// The other side of a connection, its port in network order.
struct Peer {
    family: u16,
    port: [u8; 2],
    address: [u8; 16],
}

#[inline(always)]
fn put_event(tgid: u32, event: NetEvent, told: Told, peer: Peer) -> Result<(), Skip> {
    let Peer { family, port, address } = peer;
    let mut header = header(RecordKind::Net, size_of::<NetRecord>());
    header.tgid = tgid;
    let Told { duration_ns, count, errno } = told;
    let port = u16::from_be_bytes(port);
    let record =
        NetRecord { header, duration_ns, count, errno, port, family, event: event as u8, padding: [0; 5], address };
    put(RecordKind::Net, Wake::Late, &record);
    Ok(())
}

/// `int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen)`
#[uprobe]
pub(crate) fn net_dial(ctx: ProbeContext) -> u32 {
    // SAFETY: the kernel passes the registers, and the verifier holds the loads to their places.
    let (fd, address) = unsafe { ((*ctx.regs).rdi as i32, (*ctx.regs).rsi) };
    let call = DialCall { address, fd, pending: 1 };
    let thread = thread();
    if let Some(known) = NET_DIALING.get_ptr_mut(thread) {
        // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this
        // thread uses.
        unsafe { *known = call };
    } else if NET_DIALING.insert(thread, call, 0).is_err() {
        table_full();
    }
    0
}

#[uprobe]
pub(crate) fn net_dial_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `net_dial`.
    let _: Result<(), Skip> = try_dial_return(unsafe { (*ctx.regs).rax } as i32);
    0
}

#[inline(always)]
fn try_dial_return(result: i32) -> Result<(), Skip> {
    let known = NET_DIALING.get_ptr_mut(thread()).ok_or(Skip)?;
    // SAFETY: as in `net_dial`.
    let known = unsafe { &mut *known };
    let DialCall { address, fd, pending } = core::mem::replace(known, DialCall { address: 0, fd: 0, pending: 0 });
    if pending == 0 || result != -1 {
        return Err(Skip);
    }
    let socket = socket_of(fd)?;
    // What the socket's states tell is told by them.
    if NET_SOCKETS.get_ptr(socket).is_some() {
        return Err(Skip);
    }
    let family: u16 = read_user(address)?;
    let port: [u8; 2] = read_user(address + 2)?;
    let mut to = [0; 16];
    if family == AF_INET {
        let four: [u8; 4] = read_user(address + INET_AT)?;
        to[..4].copy_from_slice(&four);
    } else if family == AF_INET6 {
        to = read_user(address + INET6_AT)?;
    } else {
        return Err(Skip);
    }
    let told = Told { duration_ns: 0, count: 1, errno: ERRNO_UNTOLD };
    put_event(current().0, NetEvent::Failed, told, Peer { family, port, address: to })
}

/// The TCP socket that a descriptor of the running task is, by the kernel's own tables.
#[inline(always)]
fn socket_of(fd: i32) -> Result<u64, Skip> {
    let places = places();
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read_kernel(task + u64::from(places.files))?;
    let table: u64 = read_kernel(files + u64::from(places.table))?;
    let length: u32 = read_kernel(table + u64::from(places.table_length))?;
    if fd < 0 || fd as u32 >= length {
        return Err(Skip);
    }
    let entries: u64 = read_kernel(table + u64::from(places.table_files))?;
    let file: u64 = read_kernel(entries + fd as u64 * 8)?;
    let socket: u64 = read_kernel(file + u64::from(places.file_data))?;
    // Only a socket points back to its file from there.
    if read_kernel::<u64>(socket + u64::from(places.socket_file))? != file {
        return Err(Skip);
    }
    let sock: u64 = read_kernel(socket + u64::from(places.socket_sock))?;
    let at = socket_offsets();
    let family: u16 = read_kernel(sock + u64::from(at.family))?;
    let kind: u16 = read_kernel(sock + u64::from(at.socket_type))?;
    if kind == SOCK_STREAM && (family == AF_INET || family == AF_INET6) { Ok(sock) } else { Err(Skip) }
}

/// `struct addrinfo` of `netdb.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct AddressInfo {
    flags: i32,
    family: i32,
    socket_type: i32,
    protocol: i32,
    length: u64,
    address: u64,
    canonical_name: u64,
    next: u64,
}

/// Where the address is in a `sockaddr_in` and a `sockaddr_in6`.
const INET_AT: u64 = 4;
const INET6_AT: u64 = 8;

/// `int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)`
#[uprobe]
pub(crate) fn net_resolve(ctx: ProbeContext) -> u32 {
    // SAFETY: the kernel passes the registers, and the verifier holds the loads to their places.
    let (node, answer) = unsafe { ((*ctx.regs).rdi, (*ctx.regs).rcx) };
    // Without a name nothing is resolved.
    let call = ResolveCall { started: if node == 0 { 0 } else { now() }, node, answer };
    let thread = thread();
    if let Some(known) = NET_RESOLVING.get_ptr_mut(thread) {
        // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this
        // thread uses.
        unsafe { *known = call };
    } else if NET_RESOLVING.insert(thread, call, 0).is_err() {
        table_full();
    }
    0
}

/// Whether the running thread is within `getaddrinfo`.
#[inline(always)]
pub(crate) fn resolves() -> bool {
    // SAFETY: as in `net_resolve`.
    NET_RESOLVING.get_ptr(thread()).is_some_and(|call| unsafe { (*call).started } != 0)
}

#[uprobe]
pub(crate) fn net_resolve_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `net_resolve`.
    let _: Result<(), Skip> = try_resolve_return(unsafe { (*ctx.regs).rax } as i32);
    0
}

#[inline(always)]
fn try_resolve_return(result: i32) -> Result<(), Skip> {
    let known = NET_RESOLVING.get_ptr_mut(thread()).ok_or(Skip)?;
    // SAFETY: as in `net_resolve`.
    let known = unsafe { &mut *known };
    let started = core::mem::replace(&mut known.started, 0);
    let (node, answer) = (known.node, known.answer);
    if started == 0 {
        return Err(Skip);
    }
    let Some(mut entry) = RECORDS.reserve::<ResolvedRecord>(0) else {
        lost_record(RecordKind::Resolved);
        return Err(Skip);
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the pointer is to the entry's memory, which has room for as many bytes as are asked for; the helper checks the
    // source itself.
    let length = unsafe {
        bpf_probe_read_user_str((&raw mut (*to).name).cast::<c_void>(), NAME_MAX as u32, node as *const c_void)
    };
    // It counts the zero at its end.
    if length <= 1 || length > NAME_MAX as i64 {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return Err(Skip);
    }
    let header = header(RecordKind::Resolved, size_of::<ResolvedRecord>());
    // SAFETY: as above.
    unsafe {
        (&raw mut (*to).duration_ns).write(header.time_ns - started);
        (&raw mut (*to).header).write(header);
        (&raw mut (*to).result).write(result);
        (&raw mut (*to).length).write(length as u32 - 1);
        (&raw mut (*to).padding).write(0);
    }
    let mut next = if result == 0 { read_user::<u64>(answer).unwrap_or(0) } else { 0 };
    let mut answers = 0;
    for place in 0..ANSWERS_MAX {
        let Some((family, address)) = answer_at(&mut next) else { break };
        // SAFETY: as above; the place is one of the array's.
        unsafe {
            (&raw mut (*to).addresses[place].family).write(family);
            (&raw mut (*to).addresses[place].address).write(address);
        }
        answers = place as u32 + 1;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*to).answers).write(answers) };
    submit(entry);
    Ok(())
}

/// The address in the list's item at `next`, which then is the one behind it.
#[inline(always)]
fn answer_at(next: &mut u64) -> Option<(u32, [u8; 16])> {
    if *next == 0 {
        return None;
    }
    let info: AddressInfo = read_user(*next).ok()?;
    *next = info.next;
    let mut address = [0; 16];
    if info.family == i32::from(AF_INET) {
        let four: [u8; 4] = read_user(info.address + INET_AT).ok()?;
        address[..4].copy_from_slice(&four);
    } else if info.family == i32::from(AF_INET6) {
        address = read_user(info.address + INET6_AT).ok()?;
    }
    Some((info.family as u32, address))
}
