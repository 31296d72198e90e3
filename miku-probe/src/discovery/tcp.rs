//! Which TCP sockets a process holds, by the kernel's tables of its network namespace: no privilege but that of reading
//! `/proc`, and no descriptor of the process touched.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use crate::discovery::process::Process;

/// `TCP_LISTEN` of the kernel's `include/net/tcp_states.h`.
const LISTEN: u8 = 0x0A;

/// The port of HTTP over TLS.
pub const TLS_PORT: u16 = 443;

/// One socket as `/proc/PID/net/tcp` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

impl Entry {
    /// Parses one line: `sl local rem st tx:rx tr:when retrnsmt uid timeout inode …`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Self { local, remote, state, inode })
    }
}

/// The kernel prints every 32-bit word of an address as a number, so its digits stand in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    if !digits.is_ascii() || !matches!(digits.len(), 8 | 32) {
        return None;
    }
    for (word, target) in digits.as_bytes().chunks(8).zip(bytes.chunks_mut(4)) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        target.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = match digits.len() {
        8 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

/// The sockets of one network namespace, by inode.
type Table = HashMap<u64, Entry>;

/// How much of the tables is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    /// Sockets that listen; the kernel lists them before all others, so a table of many connections need not be read.
    Listening,
    /// All.
    All,
}

/// The TCP sockets that one process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Where it listens.
    pub listens: Vec<SocketAddr>,
    /// The other ends of its connections, begun or accepted.
    pub connections: Vec<SocketAddr>,
}

impl Holdings {
    /// A connection to [`TLS_PORT`].
    #[must_use]
    pub fn tls(&self) -> Option<SocketAddr> {
        self.connections.iter().copied().find(|remote| remote.port() == TLS_PORT)
    }
}

/// The tables of every network namespace that was asked for, each read once. Made for one scan: it soon goes stale.
#[derive(Debug, Default)]
pub struct Tables {
    tables: RefCell<HashMap<(PathBuf, Scope), Rc<Table>>>,
}

impl Tables {
    /// What `process` holds; nothing when its descriptors cannot be read.
    #[must_use]
    pub fn holdings(&self, process: &Process) -> Holdings {
        let mut holdings = Holdings::default();
        let inodes = process.socket_inodes();
        // Most processes hold no socket at all, and then no table need be read.
        if inodes.is_empty() {
            return holdings;
        }
        let Some(table) = self.table(process, Scope::All) else { return holdings };
        for entry in inodes.iter().filter_map(|inode| table.get(inode)) {
            let (list, address) = if entry.state == LISTEN {
                (&mut holdings.listens, entry.local)
            } else {
                (&mut holdings.connections, entry.remote)
            };
            list.push(address);
        }
        holdings.listens.sort_unstable();
        holdings.listens.dedup();
        holdings.connections.sort_unstable();
        holdings
    }

    /// The address on which `process` listens with this port.
    ///
    /// A table once read tells at once that nobody in the network namespace listens there, without a look at the
    /// process's descriptors. The first reading is the dearer part, though (the kernel walks all its buckets, which
    /// takes milliseconds), so it waits for a process that holds any socket.
    #[must_use]
    pub fn listener(&self, process: &Process, port: u16) -> Option<SocketAddr> {
        let listens = |table: &Table| table.values().any(|entry| entry.local.port() == port);
        let namespace = process.network_namespace()?;
        let known = self.tables.borrow().get(&(namespace, Scope::Listening)).map(|table| listens(table));
        if known == Some(false) {
            return None;
        }
        let inodes = process.socket_inodes();
        if inodes.is_empty() {
            return None;
        }
        let table = self.table(process, Scope::Listening)?;
        let entries = inodes.iter().filter_map(|inode| table.get(inode));
        entries.filter(|entry| entry.local.port() == port).map(|entry| entry.local).min()
    }

    fn table(&self, process: &Process, scope: Scope) -> Option<Rc<Table>> {
        let key = (process.network_namespace()?, scope);
        if let Some(table) = self.tables.borrow().get(&key) {
            return Some(Rc::clone(table));
        }
        let mut table = Table::new();
        for name in ["net/tcp", "net/tcp6"] {
            // A kernel without IPv6 has no second table.
            let Ok(file) = File::open(process.file(name)) else { continue };
            let entries = BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| Entry::parse(&line));
            let entries = entries.take_while(|entry| scope == Scope::All || entry.state == LISTEN);
            table.extend(entries.map(|entry| (entry.inode, entry)));
        }
        let table = Rc::new(table);
        self.tables.borrow_mut().insert(key, Rc::clone(&table));
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use crate::discovery::process::ProcFs;
    use crate::units::Tgid;
    use std::net::{TcpListener, TcpStream};

    const TCP: &str = "\
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 501 1 0 100 0 0 10 0
   1: 0100007F:C350 08080808:01BB 01 00000000:00000000 00:00000000 00000000     0        0 502 1 0 20 4 30 10 -1
   2: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 503 1 0 100 0 0 10 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_the_kernel_s_table_are_read() {
        let entry = Entry::parse(TCP.lines().nth(1).expect("it has three lines")).expect("it is whole");
        assert_eq!(entry.local, "127.0.0.1:50000".parse().expect("an address"));
        assert_eq!(entry.remote, "8.8.8.8:443".parse().expect("an address"));
        assert_eq!((entry.state, entry.inode), (1, 502));
        assert_eq!(
            address("B80D01200000000067452301EFCDAB89:0050"),
            Some("[2001:db8::123:4567:89ab:cdef]:80".parse().expect("an address"))
        );
        assert_eq!(
            address("0000000000000000FFFF00000100007F:1F40"),
            Some("127.0.0.1:8000".parse().expect("an address")),
            "an IPv4 address in IPv6 form is the IPv4 address"
        );
        for torn in ["", ":", "0100007F", "0100007F:XX", "01:0050", "0100007G:0050"] {
            assert_eq!(address(torn), None, "{torn:?}");
        }
    }

    #[test]
    fn a_process_holds_only_the_sockets_of_its_descriptors() {
        let fixture = Fixture::new();
        fixture.add(&Sketch { sockets: &[501, 502, 999], tcp: TCP, ..Sketch::new(10) });
        let process = fixture.proc.process(Tgid(10)).expect("it is in the fixture");
        let all = Tables::default().holdings(&process);
        assert_eq!(all.listens, ["127.0.0.1:8000".parse().expect("an address")]);
        assert_eq!(all.tls(), Some("8.8.8.8:443".parse().expect("an address")));
        assert_eq!(Tables::default().listener(&process, 8000), Some(all.listens[0]));
        assert_eq!(Tables::default().listener(&process, 8001), None, "that is another process's");
        assert_eq!(Tables::default().listener(&process, 50000), None, "a connection's own port");
    }

    #[test]
    fn a_table_of_another_namespace_does_not_count() {
        let fixture = Fixture::new();
        fixture.add(&Sketch { sockets: &[501], tcp: TCP, namespace: 1, ..Sketch::new(10) });
        fixture.add(&Sketch { sockets: &[501], tcp: "", namespace: 2, ..Sketch::new(11) });
        let tables = Tables::default();
        let found = |tgid| {
            let process = fixture.proc.process(Tgid(tgid)).expect("it is in the fixture");
            (tables.holdings(&process).listens.len(), tables.listener(&process, 8000).is_some())
        };
        assert_eq!((found(10), found(11)), ((1, true), (0, false)));
    }

    #[test]
    fn the_kernel_lists_this_test_s_own_sockets_and_the_listening_ones_first() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("the listener has room");
        // It begins to listen after a connection is open, and must still come before it.
        let late = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let process = ProcFs::default().process(Tgid(std::process::id())).expect("this process is alive");
        let all = Tables::default().holdings(&process);
        assert!(all.listens.contains(&address) && all.connections.contains(&address), "{all:?}");
        for address in [address, late.local_addr().expect("it is bound")] {
            assert_eq!(Tables::default().listener(&process, address.port()), Some(address));
        }
        drop(client);
    }
}
