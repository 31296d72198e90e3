//! Voice connections: where a bot's voice goes. <https://discord.com/developers/docs/topics/voice-connections>
//!
//! A bot that speaks has a websocket to a voice server, compressed if both want it. By its first payload but one the server
//! says to which address the voice itself goes, over UDP.

use std::net::SocketAddr;

use crate::protocols::json::{Scanner, What};

/// The opcode of the payload that tells the address (Ready).
const READY: u64 = 2;

/// The opcodes of payloads that voice servers send and the gateway does not. Of others that come in over an inflated stream
/// it cannot be told whose they are.
const OWN: [u64; 6] = [READY, 4, 5, 6, 8, 12];

/// The longest text of an address, in bytes.
const ADDRESS_MAX: usize = 46;

/// Whether `name`, which may have a port, is a host of Discord's voice servers.
#[must_use]
pub fn is_host(name: &str) -> bool {
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    let name = name.as_bytes();
    let domain = b".discord.media";
    name.len() > domain.len() && name[name.len() - domain.len()..].eq_ignore_ascii_case(domain)
}

/// Whether a payload that came in, of which `bytes` are the first or all, is certainly a voice server's and not the gateway's.
#[must_use]
pub fn is_payload(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(bytes);
    while let Some(item) = scanner.next() {
        match (item.depth, item.what) {
            (1, what) if item.is("op") => return what.id().is_some_and(|op| OWN.contains(&op)),
            (depth, What::Object | What::Array) if depth > 0 => scanner.leave(),
            _ => {}
        }
    }
    false
}

/// The address to which a payload of a voice server says that voice goes, of which `bytes` are the first or all.
#[must_use]
pub fn destination(bytes: &[u8]) -> Option<SocketAddr> {
    let (mut op, mut ip, mut port) = (None, None, None);
    let mut scanner = Scanner::new(bytes);
    while let Some(item) = scanner.next() {
        match (item.depth, item.what) {
            (1, What::Object) if item.is("d") => {}
            (depth, What::Object | What::Array) if depth > 0 => scanner.leave(),
            (1, what) if item.is("op") => op = what.id(),
            (2, What::Text(text)) if item.is("ip") && text.is_whole() && text.raw().len() <= ADDRESS_MAX => {
                ip = std::str::from_utf8(text.raw()).ok().and_then(|text| text.parse().ok());
            }
            (2, what) if item.is("port") => port = what.id().and_then(|port| u16::try_from(port).ok()),
            _ => {}
        }
    }
    (op == Some(READY)).then_some(SocketAddr::new(ip?, port?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voice_servers_are_known_by_their_domain() {
        for host in ["rotterdam1234.discord.media", "c-ams07-abcd.Discord.Media:2096"] {
            assert!(is_host(host), "{host}");
        }
        for host in
            ["discord.media", ".discord.media", "gateway.discord.gg", "discord.media.example", "xdiscord.media", ""]
        {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn payloads_are_known_by_what_only_voice_servers_send() {
        for own in [&br#"{"op":8,"d":{"v":8,"heartbeat_interval":13750}}"#[..], br#"{"d":{"op":0},"seq":1,"op":6,"#] {
            assert!(is_payload(own), "{}", String::from_utf8_lossy(own));
        }
        for other in [
            &br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#[..],
            br#"{"t":"MESSAGE_CREATE","s":7,"op":0,"d":{"op":8}}"#,
            br#"{"op":11}"#,
            br#"{"op":9,"d":null}"#,
            br#"{"d":{"op":8"#,
            b"",
        ] {
            assert!(!is_payload(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn ready_tells_where_voice_goes() {
        let ready = br#"{"op":2,"d":{"ssrc":1,"ip":"127.0.0.1","port":1234,"modes":["xsalsa20_poly1305"],"heartbeat_interval":1}}"#;
        assert_eq!(destination(ready), Some("127.0.0.1:1234".parse().expect("an address")));
        let late = br#"{"d":{"port":50007,"modes":[{"ip":"10.0.0.1"}],"ip":"2001:db8::1"},"op":2}"#;
        assert_eq!(destination(late), Some("[2001:db8::1]:50007".parse().expect("an address")));
        for other in [
            &br#"{"op":8,"d":{"ip":"127.0.0.1","port":1234}}"#[..],
            br#"{"op":2,"d":{"ip":"127.0.0.1"}}"#,
            br#"{"op":2,"d":{"ip":"localhost","port":1}}"#,
            br#"{"op":2,"d":{"ip":"127.0.0.1","port":70000}}"#,
            br#"{"op":2,"d":{"ip":"127.0.0"#,
            b"{",
            b"",
        ] {
            assert_eq!(destination(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
