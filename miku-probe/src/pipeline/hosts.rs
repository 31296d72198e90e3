//! Which host an address is, as far as a service has been told: by the answers to the names that it resolved, and by the names
//! that its TLS clients asked for at that address.
//!
//! An address of which two names were told, as those of large networks are, is believed of neither. Loopback addresses have
//! no names: whoever runs several services on one machine gives them all the same address.
//!
//! Bounds: [`HOSTS_MAX`] addresses a service, each for [`LIFE`] since it was told or used last.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::units::{Nanos, Symbol};

/// How many addresses of one service have a name.
const HOSTS_MAX: usize = 4096;

/// How long a name is believed that nobody tells or uses any more: answers of name servers mostly hold for some minutes.
const LIFE: Nanos = Nanos(600 * 1_000_000_000);

/// What was told of an address.
#[derive(Clone, Copy, Debug)]
struct Known {
    name: Symbol,
    until: Nanos,
    /// Until when another name was told for it too.
    contested: Nanos,
}

/// The names of one service's peers.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: HashMap<IpAddr, Known>,
}

impl Hosts {
    /// Takes in that an address is of this name.
    pub(super) fn learn(&mut self, ip: IpAddr, name: Symbol, now: Nanos) {
        if ip.is_loopback() || ip.is_unspecified() {
            return;
        }
        let until = now + LIFE;
        if let Some(known) = self.known.get_mut(&ip) {
            if known.name == name {
                known.until = until;
            } else if known.until > now {
                known.contested = until;
            } else {
                *known = Known { name, until, contested: Nanos(0) };
            }
            return;
        }
        if self.known.len() >= HOSTS_MAX {
            self.known.retain(|_, known| known.until > now);
        }
        if self.known.len() >= HOSTS_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.until).map(|(ip, _)| *ip)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(ip, Known { name, until, contested: Nanos(0) });
    }

    /// The name of an address that is used now.
    pub(super) fn name(&mut self, ip: IpAddr, now: Nanos) -> Option<Symbol> {
        let known = self.known.get_mut(&ip).filter(|known| known.until > now)?;
        known.until = now + LIFE;
        (known.contested <= now).then_some(known.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Symbols;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_has_the_name_that_was_told_until_nobody_uses_it() {
        let (mut hosts, mut symbols) = (Hosts::default(), Symbols::default());
        let name = symbols.intern("one.example");
        hosts.learn(address(1), name, Nanos(1));
        assert_eq!(hosts.name(address(1), Nanos(2)), Some(name));
        assert_eq!(hosts.name(address(2), Nanos(2)), None);
        assert_eq!(hosts.name(address(1), LIFE + Nanos(1)), Some(name), "it was used");
        assert_eq!(hosts.name(address(1), LIFE + LIFE + Nanos(1)), None);
    }

    #[test]
    fn an_address_of_two_names_has_none_until_one_is_forgotten() {
        let (mut hosts, mut symbols) = (Hosts::default(), Symbols::default());
        let [one, two] = ["one.example", "two.example"].map(|name| symbols.intern(name));
        hosts.learn(address(1), one, Nanos(0));
        hosts.learn(address(1), two, Nanos(5));
        assert_eq!(hosts.name(address(1), Nanos(6)), None);
        hosts.learn(address(1), one, LIFE);
        assert_eq!(hosts.name(address(1), LIFE + Nanos(4)), None);
        assert_eq!(hosts.name(address(1), LIFE + Nanos(5)), Some(one));
    }

    #[test]
    fn the_loopback_has_no_name() {
        let (mut hosts, mut symbols) = (Hosts::default(), Symbols::default());
        for ip in ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0"].map(|text| text.parse::<IpAddr>().expect("an address")) {
            hosts.learn(ip, symbols.intern("localhost"), Nanos(1));
            assert_eq!(hosts.name(ip, Nanos(1)), None, "{ip}");
        }
    }

    #[test]
    fn no_more_names_are_kept_than_there_may_be() {
        let (mut hosts, mut symbols) = (Hosts::default(), Symbols::default());
        let name = symbols.intern("many.example");
        let nth = |number: usize| IpAddr::from((0x0a00_0000 + number as u32).to_be_bytes());
        for number in 0..HOSTS_MAX * 2 {
            hosts.learn(nth(number), name, Nanos(number as u64));
        }
        assert_eq!(hosts.known.len(), HOSTS_MAX);
        assert_eq!(hosts.name(nth(HOSTS_MAX * 2 - 1), Nanos(0)), Some(name));
        assert_eq!(hosts.name(nth(0), Nanos(0)), None, "the one told longest ago makes room");
    }
}
