//! Names of the servers that a service calls: the labels `server_address` and `server_port`.
//!
//! The `Host` header names the server as the caller knows it (OpenTelemetry's `server.address` asks for that before an
//! address); without one it is the address that was connected to. Both come off the wire, so they are capped.

use std::collections::HashMap;

use super::Peer;
use crate::units::{Symbol, Symbols};

/// The longest name that may be a label: that of DNS (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// What a server is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) address: Symbol,
    /// 0 when there is none.
    pub(super) port: u16,
    /// Whether its own name was over the cap, so that it is called `other`.
    pub(super) overflow: bool,
}

/// The names of one service's servers.
#[derive(Debug)]
pub(super) struct Servers {
    cap: usize,
    known: HashMap<Box<str>, Named>,
}

impl Servers {
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, known: HashMap::new() }
    }

    /// What the server is called that a request with this `Host` went to.
    pub(super) fn name(&mut self, host: &str, peer: Option<Peer>, symbols: &mut Symbols) -> Named {
        let address = peer.and_then(|peer| peer.ip).map(|ip| ip.to_string());
        let key = if host.is_empty() { address.as_deref().unwrap_or_default() } else { host };
        if let Some(named) = self.known.get(key) {
            return *named;
        }
        if self.known.len() >= self.cap {
            return Named { address: symbols.intern("other"), port: 0, overflow: true };
        }
        let (name, port) = match split(host) {
            Some((name, port)) => (name, port.unwrap_or(80)),
            None => (address.clone().unwrap_or_default(), peer.map_or(0, |peer| peer.port)),
        };
        let named = Named { address: symbols.intern(&name), port, overflow: false };
        self.known.insert(key.into(), named);
        named
    }
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

    fn peer(ip: &str, port: u16) -> Peer {
        let ip = Some(ip.parse().expect("an address"));
        let transport = crate::units::Transport::Tcp;
        Peer { class: Symbol::EMPTY, ip, port, transport, resolved: true }
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
    fn without_a_fit_host_the_address_names_the_server() {
        let (mut servers, mut symbols) = (Servers::new(10), Symbols::default());
        let named = servers.name("", Some(peer("10.0.0.7", 9000)), &mut symbols);
        assert_eq!((symbols.text(named.address), named.port), ("10.0.0.7", 9000));
        let named = servers.name("a\"b", Some(peer("10.0.0.8", 9001)), &mut symbols);
        assert_eq!((symbols.text(named.address), named.port), ("10.0.0.8", 9001));
        let named = servers.name("", None, &mut symbols);
        assert_eq!((symbols.text(named.address), named.port), ("", 0));
    }

    #[test]
    fn names_over_the_cap_are_other() {
        let (mut servers, mut symbols) = (Servers::new(2), Symbols::default());
        for host in ["a", "b"] {
            assert!(!servers.name(host, None, &mut symbols).overflow);
        }
        let other = servers.name("c", None, &mut symbols);
        assert_eq!((symbols.text(other.address), other.overflow), ("other", true));
        assert!(!servers.name("a", None, &mut symbols).overflow, "a known name stays known");
    }
}
