//! Names of the servers that a service calls: the labels `server_address` and `server_port`, and `peer` of a handshake.
//!
//! OpenTelemetry's `server.address` asks for the host of the request's URL. That is, in this order:
//!
//! 1. The `Host` header, with its port, or the scheme's own where it has none. It comes first since it is there for every
//!    request, also on a TLS stream whose beginning was not seen: so one server has one name throughout.
//! 2. The name that a TLS client asked for (SNI), without a port, since it tells none.
//! 3. The address that was connected to.
//!
//! All come off the wire, so they are capped, and what is no name is none.

use std::collections::HashMap;
use std::net::IpAddr;

use super::services::Link;
use crate::units::{Symbol, Symbols};

/// The longest name that may be a label: that of DNS (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// What stands for all names over the cap.
const OTHER: &str = "other";

/// What a server is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) address: Symbol,
    /// 0 when there is none.
    pub(super) port: u16,
    /// Whether its own name was over the cap, so that it is called `other`.
    pub(super) overflow: bool,
}

/// The names of one service's servers. Each way of naming has places of its own, so that none can change another's port.
#[derive(Debug)]
pub(super) struct Servers {
    cap: usize,
    /// By the `Host` header as it came, for each scheme.
    hosts: [HashMap<Box<str>, Named>; 2],
    addresses: HashMap<(IpAddr, u16), Named>,
    /// By the name that TLS clients asked for.
    asked: HashMap<Box<str>, Symbol>,
}

impl Servers {
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, hosts: Default::default(), addresses: HashMap::new(), asked: HashMap::new() }
    }

    /// What the server is called that a request with this `Host` went to.
    pub(super) fn name(&mut self, host: &str, link: Link<'_>, symbols: &mut Symbols) -> Named {
        if let Some(named) = self.hosts[link.scheme as usize].get(host) {
            return *named;
        }
        if let Some((name, port)) = split(host) {
            let port = port.unwrap_or(link.scheme.default_port());
            return match self.admit(&name, port, symbols) {
                Ok(named) => *self.hosts[link.scheme as usize].entry(host.into()).or_insert(named),
                Err(other) => other,
            };
        }
        if let Some(name) = link.server_name {
            let (address, overflow) = self.peer(name, symbols);
            return Named { address, port: 0, overflow };
        }
        let Some((ip, port)) = link.peer.and_then(|peer| Some((peer.ip?, peer.port))) else {
            return Named { address: Symbol::EMPTY, port: 0, overflow: false };
        };
        if let Some(named) = self.addresses.get(&(ip, port)) {
            return *named;
        }
        match self.admit(&ip.to_string(), port, symbols) {
            Ok(named) => *self.addresses.entry((ip, port)).or_insert(named),
            Err(other) => other,
        }
    }

    /// A new name, or what stands for it when there are too many.
    fn admit(&self, name: &str, port: u16, symbols: &mut Symbols) -> Result<Named, Named> {
        if self.hosts.iter().map(HashMap::len).sum::<usize>() + self.addresses.len() >= self.cap {
            return Err(Named { address: symbols.intern(OTHER), port: 0, overflow: true });
        }
        Ok(Named { address: symbols.intern(name), port, overflow: false })
    }

    /// What the peer is called that a TLS client asked for by `name`, and whether its own name was over the cap.
    pub(super) fn peer(&mut self, name: &str, symbols: &mut Symbols) -> (Symbol, bool) {
        if let Some(peer) = self.asked.get(name) {
            return (*peer, false);
        }
        if self.asked.len() >= self.cap {
            return (symbols.intern(OTHER), true);
        }
        let peer = symbols.intern(name);
        self.asked.insert(name.into(), peer);
        (peer, false)
    }
}

/// A host's name as it may be a label: in lower case, without the root's dot; `None` when it is not fit.
pub(super) fn host_name(bytes: &[u8]) -> Option<Box<str>> {
    let name = str::from_utf8(bytes).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!name.is_empty() && name.len() <= LONGEST && name.bytes().all(fit)).then(|| name.to_ascii_lowercase().into())
}

/// The name, in lower case, and the port of a `Host` header's value; `None` when it is not fit to be a label.
fn split(host: &str) -> Option<(String, Option<u16>)> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            (name, port.strip_prefix(':'))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    (!name.is_empty() && name.len() <= LONGEST && name.bytes().all(fit)).then(|| (name.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Peer;
    use crate::units::{Scheme, ServiceId, Transport};

    fn link(scheme: Scheme) -> Link<'static> {
        Link { service: ServiceId(0), scheme, peer: None, server_name: None }
    }

    fn to(ip: &str, port: u16) -> Link<'static> {
        let ip = Some(ip.parse().expect("an address"));
        let peer = Peer { class: Symbol::EMPTY, ip, port, transport: Transport::Tcp, resolved: true };
        Link { peer: Some(peer), ..link(Scheme::Http) }
    }

    fn asking(name: &str) -> Link<'_> {
        Link { server_name: Some(name), ..link(Scheme::Https) }
    }

    #[test]
    fn a_host_is_split_into_name_and_port() {
        assert_eq!(split("Example.com"), Some(("example.com".to_owned(), None)));
        assert_eq!(split("127.0.0.1:8300"), Some(("127.0.0.1".to_owned(), Some(8300))));
        assert_eq!(split("[::1]:80"), Some(("::1".to_owned(), Some(80))));
        assert_eq!(split("[::1]"), Some(("::1".to_owned(), None)));
        for unfit in ["", ":80", "a b", "a:port", "a:70000", "[::1", "ex\u{e4}mple", "a/b", "a\"b"] {
            assert_eq!(split(unfit), None, "{unfit}");
        }
    }

    #[test]
    fn a_host_is_named_in_lower_case_or_not_at_all() {
        assert_eq!(host_name(b"Gateway.Discord.GG.").as_deref(), Some("gateway.discord.gg"));
        assert_eq!(host_name(b"a_b-1").as_deref(), Some("a_b-1"));
        let long = [b'a'; LONGEST + 1];
        for unfit in [&b""[..], b".", b"a b", b"a\0", b"a/b", b"a:1", b"\xff", "\u{e4}".as_bytes(), &long] {
            assert_eq!(host_name(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn without_a_fit_host_the_address_names_the_server() {
        let (mut servers, mut symbols) = (Servers::new(10), Symbols::default());
        let mut name = |host, link| {
            let named = servers.name(host, link, &mut symbols);
            (symbols.text(named.address).to_owned(), named.port)
        };
        assert_eq!(name("", to("10.0.0.7", 9000)), ("10.0.0.7".into(), 9000));
        assert_eq!(name("a\"b", to("10.0.0.8", 9001)), ("10.0.0.8".into(), 9001));
        assert_eq!(name("a\"b", to("10.0.0.9", 9002)), ("10.0.0.9".into(), 9002));
        assert_eq!(name("", to("10.0.0.7", 9001)), ("10.0.0.7".into(), 9001));
        assert_eq!(name("10.0.0.7", to("10.0.0.7", 9001)), ("10.0.0.7".into(), 80));
        assert_eq!(name("", link(Scheme::Http)), (String::new(), 0));
    }

    #[test]
    fn the_host_header_names_the_server_and_what_the_client_asked_for_stands_in_for_it() {
        let (mut servers, mut symbols) = (Servers::new(10), Symbols::default());
        let mut name = |host, link| {
            let named = servers.name(host, link, &mut symbols);
            (symbols.text(named.address).to_owned(), named.port)
        };
        assert_eq!(name("discord.com", asking("discord.com")), ("discord.com".into(), 443));
        assert_eq!(name("discord.com", link(Scheme::Https)), ("discord.com".into(), 443));
        assert_eq!(name("discord.com", link(Scheme::Http)), ("discord.com".into(), 80));
        assert_eq!(name("Llm.Local:8443", asking("front.example")), ("llm.local".into(), 8443));
        assert_eq!(name("", asking("one.example")), ("one.example".into(), 0));
        assert_eq!(name("one.example", asking("one.example")), ("one.example".into(), 443));
        assert_eq!(name("no name", asking("two.example")), ("two.example".into(), 0));
        assert_eq!(name("no name", asking("three.example")), ("three.example".into(), 0));
    }

    #[test]
    fn names_over_the_cap_are_other() {
        let (mut servers, mut symbols) = (Servers::new(2), Symbols::default());
        for (host, scheme) in [("a", Scheme::Http), ("b", Scheme::Https)] {
            assert!(!servers.name(host, link(scheme), &mut symbols).overflow);
            assert!(!servers.peer(host, &mut symbols).1);
        }
        let other = servers.name("c", link(Scheme::Http), &mut symbols);
        assert_eq!((symbols.text(other.address), other.overflow), ("other", true));
        let (peer, overflow) = servers.peer("c", &mut symbols);
        assert_eq!((symbols.text(peer), overflow), ("other", true));
        assert!(!servers.name("a", link(Scheme::Http), &mut symbols).overflow, "a known name stays known");
        assert!(!servers.peer("a", &mut symbols).1);
    }
}
