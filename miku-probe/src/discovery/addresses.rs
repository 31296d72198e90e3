//! Addresses of sockets: decoded from the bytes that system calls carry, and sorted into classes for labels.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The address of one end of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address with a port; an IPv4 address in IPv6 form is an IPv4 address here.
    Ip(SocketAddr),
    /// A Unix socket's path; `None` when it has none, or one outside the file system.
    Unix(Option<PathBuf>),
}

impl Address {
    /// Where the address is, as coarse as a label may be: see [`class`]. A Unix socket never leaves the machine, so
    /// it is `loopback`.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Ip(address) => class(address.ip()),
            Self::Unix(_) => "loopback",
        }
    }

    /// The port; `None` for a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix(Some(path)) => write!(formatter, "unix:{}", path.display()),
            Self::Unix(None) => formatter.write_str("unix"),
        }
    }
}

/// Where `ip` is, as coarse as a label may be.
///
/// `loopback`: this machine (RFC 1122, RFC 4291, and the unspecified address, which connects to it). `lan`: private
/// (RFC 1918, RFC 4193), link-local (RFC 3927, RFC 4291) or shared behind a carrier's translation (RFC 6598).
/// `internet`: all others.
#[must_use]
pub fn class(ip: IpAddr) -> &'static str {
    match ip.to_canonical() {
        ip if ip.is_loopback() || ip.is_unspecified() => "loopback",
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_shared(ip) => "lan",
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => "lan",
        _ => "internet",
    }
}

/// 100.64.0.0/10 (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64
}

/// The address in the bytes of a `sockaddr_in`, `sockaddr_in6` or `sockaddr_un`, as system calls carry them (`ip(7)`,
/// `ipv6(7)`, `unix(7)`); `None` when they are of another family or too few.
#[must_use]
pub fn decode_address(bytes: &[u8]) -> Option<Address> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(Address::Ip(SocketAddr::new(Ipv4Addr::from(octets).into(), port()?)))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(Address::Ip(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), port()?)))
        }
        libc::AF_UNIX => {
            let path = bytes[2..].split(|byte| *byte == 0).next().unwrap_or_default();
            Some(Address::Unix((!path.is_empty()).then(|| OsStr::from_bytes(path).into())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn classes_follow_the_registries() {
        for (ip, expected) in [
            ("127.0.0.1", "loopback"),
            ("127.255.0.3", "loopback"),
            ("0.0.0.0", "loopback"),
            ("::1", "loopback"),
            ("::", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("10.1.2.3", "lan"),
            ("172.16.0.1", "lan"),
            ("172.31.255.255", "lan"),
            ("172.32.0.1", "internet"),
            ("192.168.1.1", "lan"),
            ("169.254.1.1", "lan"),
            ("100.64.0.1", "lan"),
            ("100.127.255.255", "lan"),
            ("100.128.0.1", "internet"),
            ("fd00::1", "lan"),
            ("fe80::1", "lan"),
            ("::ffff:192.168.0.1", "lan"),
            ("162.159.128.233", "internet"),
            ("2606:4700::1", "internet"),
        ] {
            assert_eq!(class(ip.parse().expect("an address")), expected, "{ip}");
        }
        assert_eq!(Address::Unix(None).class(), "loopback");
    }

    #[test]
    fn addresses_are_read_from_the_kernel_s_bytes() {
        let ipv4 = [&2_u16.to_ne_bytes()[..], &[0x1F, 0x90, 10, 0, 0, 7], &[0; 8]].concat();
        assert_eq!(decode_address(&ipv4).expect("whole").to_string(), "10.0.0.7:8080");
        let mapped = Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
        let ipv6 = [&10_u16.to_ne_bytes()[..], &[0x1F, 0x90], &[0; 4], &mapped, &[0; 4]].concat();
        assert_eq!(decode_address(&ipv6), decode_address(&ipv4));
        let unix = [&1_u16.to_ne_bytes()[..], b"/run/llm.sock\0", &[0x55; 4]].concat();
        assert_eq!(decode_address(&unix), Some(Address::Unix(Some("/run/llm.sock".into()))));
        assert_eq!(decode_address(&1_u16.to_ne_bytes()), Some(Address::Unix(None)));
        let hidden = [&1_u16.to_ne_bytes()[..], b"\0hidden"].concat();
        assert_eq!(decode_address(&hidden), Some(Address::Unix(None)));
        assert_eq!(decode_address(&16_u16.to_ne_bytes()), None, "netlink");
        assert_eq!(decode_address(&ipv4[..7]), None);
        assert_eq!(decode_address(&ipv6[..23]), None);
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn any_bytes_are_an_address_or_none(
            family in prop_oneof![select(vec![libc::AF_INET, libc::AF_INET6, libc::AF_UNIX]), 0..50],
            rest in proptest::collection::vec(any::<u8>(), 0..130),
        ) {
            let bytes = [&u16::try_from(family).expect("small").to_ne_bytes()[..], &rest].concat();
            let least = match family {
                libc::AF_INET => 8,
                libc::AF_INET6 => 24,
                libc::AF_UNIX => 2,
                _ => usize::MAX,
            };
            let address = decode_address(&bytes);
            prop_assert_eq!(address.is_some(), bytes.len() >= least, "{:?}", address);
            let class = address.map(|address| address.class());
            prop_assert!(class.is_none_or(|class| ["loopback", "lan", "internet"].contains(&class)), "{class:?}");
        }
    }
}
