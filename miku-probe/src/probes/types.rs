//! Where the kernel's own structures keep their fields, as its type information (BTF) tells.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`.

use std::collections::HashMap;
use std::fs;

use miku_probe_abi::{ArrivalOffsets, NetOffsets, SocketOffsets, SwitchOffsets, TaskOffsets};

/// The kernel's own type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why a field's place is not known.
#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    /// The kernel does not tell its types.
    #[error("cannot read {VMLINUX}")]
    Unreadable(#[source] std::io::Error),
    /// What it tells is not in the format that is known.
    #[error("{VMLINUX} is not what it should be")]
    Malformed,
    /// The structure has no such field.
    #[error("this kernel's `struct {structure}` has no field `{field}`")]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// What is read of the kernel's structures, each by whoever needs it.
pub(super) struct KernelOffsets {
    /// Of sockets.
    pub(super) sockets: Result<SocketOffsets, TypesError>,
    /// Of tasks.
    pub(super) tasks: Result<TaskOffsets, TypesError>,
    /// Of TCP's sockets and packets; the tracepoints' fields are not among it.
    pub(super) net: Result<NetOffsets, TypesError>,
    /// Of tasks that are switched.
    pub(super) switches: Result<SwitchOffsets, TypesError>,
    /// Of what TCP has received.
    pub(super) arrivals: Result<ArrivalOffsets, TypesError>,
}

/// Finds all of them at once: reading the kernel's types takes some MiB for a while.
pub(super) fn kernel_offsets() -> Result<KernelOffsets, TypesError> {
    let bytes = fs::read(VMLINUX).map_err(TypesError::Unreadable)?;
    let types = Types::parse(&bytes).ok_or(TypesError::Malformed)?;
    Ok(KernelOffsets {
        sockets: socket_offsets(&types),
        tasks: task_offsets(&types),
        net: net_offsets(&types),
        switches: switch_offsets(&types),
        arrivals: arrival_offsets(&types),
    })
}

fn socket_offsets(types: &Types<'_>) -> Result<SocketOffsets, TypesError> {
    // `struct sock` begins with its `struct sock_common`.
    Ok(SocketOffsets {
        socket_type: types.find("sock", "sk_type")?,
        family: types.find("sock_common", "skc_family")?,
        dport: types.find("sock_common", "skc_dport")?,
        daddr: types.find("sock_common", "skc_daddr")?,
        v6_daddr: types.find("sock_common", "skc_v6_daddr")?,
        protocol: types.find("sock", "sk_protocol")?,
        sport: types.find("inet_sock", "inet_sport")?,
    })
}

fn task_offsets(types: &Types<'_>) -> Result<TaskOffsets, TypesError> {
    Ok(TaskOffsets {
        known: 1,
        group_leader: types.find("task_struct", "group_leader")?,
        exit_code: types.find("task_struct", "exit_code")?,
        signal: types.find("task_struct", "signal")?,
        live: types.find("signal_struct", "live")?,
        flags: types.find("signal_struct", "flags")?,
        group_exit_code: types.find("signal_struct", "group_exit_code")?,
    })
}

fn switch_offsets(types: &Types<'_>) -> Result<SwitchOffsets, TypesError> {
    Ok(SwitchOffsets { pid: types.find("task_struct", "pid")?, stack: types.find("task_struct", "stack")? })
}

fn arrival_offsets(types: &Types<'_>) -> Result<ArrivalOffsets, TypesError> {
    // `struct tcp_sock` begins with its `struct sock`.
    Ok(ArrivalOffsets {
        rcv_nxt: types.find("tcp_sock", "rcv_nxt")?,
        copied_seq: types.find("tcp_sock", "copied_seq")?,
        end_seq: types.find("sk_buff", "cb")? + types.find("tcp_skb_cb", "end_seq")?,
    })
}

fn net_offsets(types: &Types<'_>) -> Result<NetOffsets, TypesError> {
    let offset = |structure, field| types.find(structure, field);
    Ok(NetOffsets {
        sock_error: offset("sock", "sk_err")?,
        net: offset("sock_common", "skc_net")?,
        net_inum: offset("net", "ns")? + offset("ns_common", "inum")?,
        skb_segments: offset("sk_buff", "cb")? + offset("tcp_skb_cb", "tcp_gso_segs")?,
        files: offset("task_struct", "files")?,
        table: offset("files_struct", "fdt")?,
        table_length: offset("fdtable", "max_fds")?,
        table_files: offset("fdtable", "fd")?,
        file_data: offset("file", "private_data")?,
        socket_file: offset("socket", "file")?,
        socket_sock: offset("socket", "sk")?,
        ..NetOffsets::default()
    })
}

/// `BTF_KIND_*` of `linux/btf.h`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// The structures and unions among all types.
struct Types<'a> {
    strings: &'a [u8],
    /// Members of each, by the number of its type.
    members: HashMap<u32, Members<'a>>,
    /// Numbers of the structures that have a name, by that name's place among the strings.
    named: HashMap<u32, u32>,
}

/// Records of 12 bytes: the name's place, the type's number, the offset in bits.
#[derive(Clone, Copy)]
struct Members<'a> {
    records: &'a [u8],
    /// Whether the upper byte of an offset is a bit field's size.
    bit_fields: bool,
}

impl<'a> Types<'a> {
    const MAGIC: u16 = 0xeb9f;
    const MEMBER: usize = 12;

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != Self::MAGIC {
            return None;
        }
        let section = |at: usize| {
            let [header, start, length] = [word(bytes, 4)?, word(bytes, at)?, word(bytes, at + 4)?];
            let start = header as usize + start as usize;
            bytes.get(start..start.checked_add(length as usize)?)
        };
        let (mut types, strings) = (section(8)?, section(16)?);
        let mut this = Self { strings, members: HashMap::new(), named: HashMap::new() };
        let mut number = 0;
        while !types.is_empty() {
            number += 1;
            let [name, info] = [word(types, 0)?, word(types, 4)?];
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let rest = types.get(12..)?;
            let size = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => Self::MEMBER * count,
                _ => 0,
            };
            if matches!(kind, kind::STRUCT | kind::UNION) {
                let members = Members { records: rest.get(..size)?, bit_fields: info >> 31 != 0 };
                this.members.insert(number, members);
                if kind == kind::STRUCT && name != 0 {
                    this.named.insert(name, number);
                }
            }
            types = rest.get(size..)?;
        }
        Some(this)
    }

    fn find(&self, structure: &'static str, field: &'static str) -> Result<u32, TypesError> {
        self.offset(structure, field).ok_or(TypesError::NoField { structure, field })
    }

    /// Bytes from the start of a structure to a field of it, or of a structure or union without a name within it.
    fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let (_, number) = self.named.iter().find(|(name, _)| self.string(**name) == structure.as_bytes())?;
        self.offset_in(*number, field, 0)
    }

    fn offset_in(&self, number: u32, field: &str, depth: u32) -> Option<u32> {
        /// Deeper than any structure of the kernel; what is deeper still goes around in a circle.
        const DEEPEST: u32 = 16;
        let members = self.members.get(&number).filter(|_| depth < DEEPEST)?;
        members.records.chunks_exact(Self::MEMBER).find_map(|member| {
            let [name, kind, bits] = [word(member, 0)?, word(member, 4)?, word(member, 8)?];
            let at = if members.bit_fields { bits & 0x00ff_ffff } else { bits } / 8;
            if name == 0 {
                return Some(at + self.offset_in(kind, field, depth + 1)?);
            }
            (self.string(name) == field.as_bytes()).then_some(at)
        })
    }

    fn string(&self, at: u32) -> &'a [u8] {
        let string = self.strings.get(at as usize..).unwrap_or_default();
        string.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// `struct outer { int a; union { long b; struct { int c, d; }; }; }`, with an `int` before it.
    fn example() -> Vec<u8> {
        const STRINGS: &[u8] = b"\0int\0outer\0a\0b\0c\0d\0";
        let at = |name: &str| {
            let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
            STRINGS.windows(wanted.len()).position(|window| window == wanted).map_or(0, |place| place as u32 + 1)
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types: Vec<u32> = [
            vec![at("int"), info(kind::INT, 0), 4, 32],
            vec![0, info(kind::STRUCT, 2), 8, at("c"), 1, 0, at("d"), 1, 32],
            vec![0, info(kind::UNION, 2), 8, at("b"), 1, 0, 0, 2, 0],
            vec![at("outer"), info(kind::STRUCT, 2), 16, at("a"), 1, 0, 0, 3, 64],
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let words = [24, 0, types.len() as u32, types.len() as u32, STRINGS.len() as u32];
        let header: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        [&Types::MAGIC.to_ne_bytes()[..], &[1, 0], &header, &types, STRINGS].concat()
    }

    #[test]
    fn finds_fields_through_what_has_no_name() {
        let bytes = example();
        let types = Types::parse(&bytes).expect("the example is well-formed");
        assert_eq!(types.offset("outer", "a"), Some(0));
        assert_eq!(types.offset("outer", "b"), Some(8));
        assert_eq!(types.offset("outer", "d"), Some(12));
        assert_eq!(types.offset("outer", "e"), None);
        assert_eq!(types.offset("int", "a"), None, "not a structure");
    }

    #[test]
    fn refuses_every_truncation() {
        let bytes = example();
        for length in 0..bytes.len() {
            assert!(Types::parse(&bytes[..length]).is_none(), "took {length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn this_kernels_sockets_and_tasks_are_laid_out_as_ever() {
        let offsets = match kernel_offsets() {
            Err(TypesError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                return test_skips::skip("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)");
            }
            offsets => offsets.expect("the kernel's BTF is of the documented format"),
        };
        let KernelOffsets { sockets, tasks, net, switches, arrivals } = offsets;
        let at = sockets.expect("they have been there since Linux 3.8");
        // `skc_daddr` has been the first field since then, and the port is behind the pair of addresses and the hash.
        assert_eq!((at.daddr, at.dport, at.family), (0, 12, 16));
        assert!(at.v6_daddr > 16 && at.socket_type > at.v6_daddr, "{at:?}");
        // A `struct inet_sock` begins with a `struct sock`.
        assert!(at.protocol > at.v6_daddr && at.sport > at.socket_type, "{at:?}");
        let net = net.expect("a kernel that tells of sockets tells of packets");
        // Of the control block's 48 bytes it is the ninth, behind two sequence numbers.
        assert_eq!(net.skb_segments % 8, 0, "{net:?}");
        let at = tasks.expect("they have been there since Linux 2.6");
        // `sigcnt` and `live` have begun it ever since.
        assert_eq!(at.live, 4);
        assert!(at.group_exit_code > 4 && at.exit_code > 0 && at.signal > at.exit_code, "{at:?}");
        let at = switches.expect("they have been there since Linux 2.6");
        // `thread_info` has come first since Linux 4.9, and `stack` soon after it.
        assert!(at.stack > 0 && at.stack < at.pid, "{at:?}");
        let at = arrivals.expect("they have been there since Linux 2.6");
        // `seq` and `end_seq` begin the control block, which is on a word's boundary.
        assert_eq!(at.end_seq % 8, 4, "{at:?}");
        assert!(at.rcv_nxt > 0 && at.copied_seq > 0 && at.rcv_nxt != at.copied_seq, "{at:?}");
    }
}
