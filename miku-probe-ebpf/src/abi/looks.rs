//! What bytes look like where they start: as much as both sides must agree on before anything is parsed.
//!
//! The kernel side decides by it what is reported and how much of it is copied. All of a start is looked at as one number, so
//! that it takes few instructions.

/// How many bytes tell what a segment may be.
pub const LOOK: usize = 8;

/// How many bytes of a message's start tell what follows it.
pub const START: usize = 16;

/// One bit, and the top bit, in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
const TOP: u64 = 0x8080_8080_8080_8080;

/// Whether a segment that begins so may be the start of an HTTP/1 message: three capital letters, as methods and `HTTP/`
/// begin with, and no control character or other byte that no line of one begins with. `length` of the bytes are there.
///
/// All bytes are looked at as one number, so that it takes few instructions and no way through it is another to the kernel's
/// verifier: to a byte below 0x80 is added what makes it reach 0x80 just where its range begins or ends.
#[inline(always)]
#[must_use]
pub fn looks_like_start(first: &[u8; LOOK], length: usize) -> bool {
    const LETTERS: u64 = 0x80_8080;
    let mut word = u64::from_le_bytes(*first);
    if length < LOOK {
        // What is not there may be anything; let it be letters.
        let absent = u64::MAX << (length * 8);
        word = (word & !absent) | ((ONES * 0x41) & absent);
    }
    let printable = !(word.wrapping_add(ONES * (0x80 - 0x20))) | word.wrapping_add(ONES) | word;
    let letters = !(word.wrapping_add(ONES * (0x80 - 0x41))) | word.wrapping_add(ONES * (0x80 - 0x5b));
    length != 0 && (printable & TOP) | (letters & LETTERS) == 0
}

/// Whether a segment that begins so is the start of a TLS record: its kind, and the version that all since SSL 3 claim.
#[inline(always)]
#[must_use]
pub fn looks_like_tls(first: &[u8; LOOK], length: usize) -> bool {
    length >= 3 && (0x14 <= first[0] && first[0] <= 0x17) && first[1] == 3 && first[2] <= 4
}

/// Whether a segment that begins so is the start of a websocket's frame (RFC 6455, section 5.2) which holds a JSON object with
/// a member. Of a masked frame of 126 bytes or more that cannot be seen.
#[inline(always)]
#[must_use]
pub fn looks_like_object(first: &[u8; LOOK], length: usize) -> bool {
    let whole_or_first = first[0] == 0x81 || first[0] == 0x82;
    let object = match first[1] {
        2..=125 => [first[2], first[3]],
        126 => [first[4], first[5]],
        // What it begins with stands too far behind to be seen here: a length below 4 GiB has to do.
        127 if first[2] | first[3] | first[4] | first[5] == 0 => *b"{\"",
        0x82..=0xfd => [first[6] ^ first[2], first[7] ^ first[3]],
        _ => [0, 0],
    };
    length >= LOOK && whole_or_first && object[0] == b'{' && object[1] == b'"'
}

/// Whether a segment that begins so may be the start of any frame of a websocket, without extensions.
#[inline(always)]
#[must_use]
pub fn looks_like_frame(first: &[u8; LOOK], length: usize) -> bool {
    length >= 2 && matches!(first[0], 0x80..=0x82 | 0x88..=0x8a | 0..=2)
}

/// Whether a message that begins so is a call that may post something by Discord's API.
#[inline(always)]
#[must_use]
pub fn looks_like_call(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && begins(u64::from_le_bytes(*first), b"POST /ap")
}

/// Whether a message that begins so may be a call of a language model, by its path; unless that stands behind more of a
/// proxy's than is looked at. Of Discord's API none is.
#[inline(always)]
#[must_use]
pub fn looks_like_model_call(first: &[u8; LOOK], then: &[u8; LOOK], length: usize) -> bool {
    const V1: u16 = u16::from_le_bytes(*b"v1");
    const API: u16 = u16::from_le_bytes(*b"ap");
    const CHAT: u16 = u16::from_le_bytes(*b"ch");
    const COMPLETION: u16 = u16::from_le_bytes(*b"co");
    const EMBEDDING: u16 = u16::from_le_bytes(*b"em");
    const OPENAI: u16 = u16::from_le_bytes(*b"op");
    const UPSTREAM: u16 = u16::from_le_bytes(*b"up");
    let (first, then) = (u64::from_le_bytes(*first), u64::from_le_bytes(*then));
    if length < START || !begins(first, b"POST /") {
        return false;
    }
    match (first >> 48) as u16 {
        // OpenAI's `/v1/chat/completions`, `completions`, `responses` and `embeddings`, and Anthropic's `/v1/messages`.
        V1 => begins(then, b"/c") || begins(then, b"/r") || begins(then, b"/e") || begins(then, b"/m"),
        // Ollama's `/api/chat`, `generate`, `embed` and `embeddings`, and all of the above behind `/api`.
        API => begins(then, b"i/ch") || begins(then, b"i/ge") || begins(then, b"i/em") || begins(then, b"i/v1/"),
        // The same without a version, llama.cpp's `/completion` and `/embedding`, Azure's `/openai`, llama-swap's `/upstream`.
        first => matches!(first, CHAT | COMPLETION | EMBEDDING | OPENAI | UPSTREAM),
    }
}

/// Whether a segment that begins so may be the start of an event of an event stream, perhaps behind the size of a chunk.
#[inline(always)]
#[must_use]
pub fn looks_like_event(first: &[u8; LOOK], length: usize) -> bool {
    let line = line(first);
    length >= LOOK && (begins(line, b"\nda") || begins(line, b"\nev"))
}

/// Whether a segment that begins so may be the start of a JSON object with a member, perhaps behind the size of a chunk.
#[inline(always)]
#[must_use]
pub fn looks_like_json(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && begins(line(first), b"\n{\"")
}

/// The first line of what a segment begins with, from the line feed before it on: behind the size of a chunk (RFC 9112,
/// section 7.1), if that is there. Of a size of more than four digits nothing is told that is long enough to be compared.
#[inline(always)]
const fn line(first: &[u8; LOOK]) -> u64 {
    let word = u64::from_le_bytes(*first);
    if begins(word, b"data:") || begins(word, b"event:") || begins(word, b"{\"") {
        return (word << 8) | b'\n' as u64;
    }
    if !first[0].is_ascii_hexdigit() {
        return 0;
    }
    // The lowest byte that is a carriage return has its top bit set in this, and nothing else does that is lower.
    let returns = word ^ (ONES * b'\r' as u64);
    let returns = returns.wrapping_sub(ONES) & !returns & TOP;
    // What is above the carriage return comes down, by a division since no instruction tells where a bit is.
    let one_above = (returns & returns.wrapping_neg()) << 1;
    match word.checked_div(one_above) {
        Some(line) => line,
        None => 0,
    }
}

/// Whether the bytes of a word, the lowest first, begin so.
#[inline(always)]
const fn begins<const LENGTH: usize>(word: u64, text: &[u8; LENGTH]) -> bool {
    let (mut wanted, mut mask, mut at) = (0, 0, 0);
    while at < LENGTH {
        wanted |= (text[at] as u64) << (8 * at);
        mask |= 0xff << (8 * at);
        at += 1;
    }
    word & mask == wanted
}

/// Whether a message that begins so is a request, and no answer.
#[inline(always)]
#[must_use]
pub fn looks_like_request(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && !begins(u64::from_le_bytes(*first), b"HTTP/") && looks_like_start(first, LOOK)
}

/// Whether a message that begins so is the answer after which the connection carries something else.
#[inline(always)]
#[must_use]
pub fn looks_like_upgrade(first: &[u8; LOOK], then: &[u8; LOOK], length: usize) -> bool {
    length >= START && begins(u64::from_le_bytes(*first), b"HTTP/1.1") && begins(u64::from_le_bytes(*then), b" 101")
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    fn look(bytes: &[u8]) -> ([u8; LOOK], usize) {
        let mut first = [0xff; LOOK];
        let length = bytes.len().min(LOOK);
        first[..length].copy_from_slice(&bytes[..length]);
        (first, bytes.len())
    }

    #[test]
    fn messages_start_in_capital_letters() {
        let starts: [&[u8]; 6] = [b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK", b"G", b"GE", b"OPTIONS *", b"PROPFIND /x"];
        for bytes in starts {
            let (first, length) = look(bytes);
            assert!(looks_like_start(&first, length), "{bytes:?}");
        }
        let others: [&[u8]; 6] = [b"", b"get /", b"{\"a\":1}", b"QX\x01", b"QXZ\x01\x02", b"\x17\x03\x03\x00\x20"];
        for bytes in others {
            let (first, length) = look(bytes);
            assert!(!looks_like_start(&first, length), "{bytes:?}");
        }
    }

    #[test]
    fn every_byte_of_a_start_is_held_to_its_range() {
        let fits =
            |place: usize, byte: u8| if place < 3 { byte.is_ascii_uppercase() } else { (b' '..=b'~').contains(&byte) };
        for (one, other) in (0..LOOK).flat_map(|one| (0..LOOK).map(move |other| (one, other))) {
            for byte in 0..=u8::MAX {
                for more in [0x00, 0x1f, 0x20, 0x41, 0x5a, 0x5b, 0x7e, 0x7f, 0x80, 0xff] {
                    let mut first = [b'A'; LOOK];
                    first[one] = byte;
                    first[other] = more;
                    for length in 1..=LOOK {
                        let expected = first[..length].iter().enumerate().all(|(place, byte)| fits(place, *byte));
                        assert_eq!(looks_like_start(&first, length), expected, "{length} of {first:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn frames_with_objects_are_known_masked_and_not() {
        let masked = |payload: &[u8]| {
            let mask = [0xde, 0xad, 0xbe, 0xef];
            let head = [0x81, 0x80 | payload.len() as u8, mask[0], mask[1], mask[2], mask[3]];
            let body = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            head.into_iter().chain(body).collect::<std::vec::Vec<u8>>()
        };
        let objects = [
            masked(b"{\"op\":1,\"d\":251}"),
            b"\x82\x10{\"op\":11,\"d\":null".to_vec(),
            b"\x81\x7e\x10\x00{\"t\":\"RE".to_vec(),
            b"\x81\x7f\0\0\0\0\0\x01\x90\0{\"t\":\"GU".to_vec(),
        ];
        for bytes in objects {
            let (first, length) = look(&bytes);
            assert!(looks_like_object(&first, length) && looks_like_frame(&first, length), "{bytes:?}");
        }
        for bytes in [
            &masked(b"hello there")[..],
            b"\x82\x7e\x01\x00\x28\xb5\x2f\xfd",
            b"\x88\x02\x0f\xa0",
            b"GET / HTTP/1.1",
            b"\x82\x7f\x40\0\0\0\0\0",
        ] {
            let (first, length) = look(bytes);
            assert!(!looks_like_object(&first, length), "{bytes:?}");
        }
        let (first, length) = look(b"GET / HTTP/1.1");
        assert!(!looks_like_frame(&first, length));
    }

    /// The first two words of a text, blanks behind it.
    fn words(text: &str) -> ([u8; LOOK], [u8; LOOK]) {
        let text = format!("{text:16}");
        let (words, _) = text.as_bytes().as_chunks();
        (words[0], words[1])
    }

    #[test]
    fn calls_and_upgrades_are_known_by_their_start() {
        let call = |text: &str, length| looks_like_call(&words(text).0, length);
        let upgrade = |text: &str, length| looks_like_upgrade(&words(text).0, &words(text).1, length);
        assert!(call("POST /api/v10/ch", START));
        assert!(!call("POST /other/path", START));
        assert!(!call("POST /api/v10/ch", 7));
        assert!(upgrade("HTTP/1.1 101 Swi", START));
        assert!(!upgrade("HTTP/1.1 200 OK\r", START));
        assert!(!upgrade("HTTP/1.1 101 Swi", 12));
    }

    #[test]
    fn calls_of_models_are_known_by_their_path() {
        let call = |text: &str, length| looks_like_model_call(&words(text).0, &words(text).1, length);
        for path in [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/embeddings",
            "/v1/messages",
            "/api/chat",
            "/api/generate",
            "/api/embed",
            "/api/v1/chat/completions",
            "/chat/completions",
            "/completion HTTP/1.1",
            "/embedding HTTP/1.1",
            "/openai/deployments/m/chat/completions",
            "/upstream/m/completion",
        ] {
            assert!(call(&format!("POST {path}"), START), "{path}");
            assert!(!call(&format!("POST {path}"), START - 1), "{path}");
            assert!(!call(&format!("GET {path}"), START), "{path}");
        }
        for path in ["/api/v10/channels/1", "/v1/users", "/users", "/api/users", "/v2/chat", "/", "/api/webhooks/1"] {
            assert!(!call(&format!("POST {path}"), START), "{path}");
        }
    }

    #[test]
    fn events_are_known_with_and_without_chunks() {
        let looks = |bytes: &[u8]| {
            let (first, length) = look(bytes);
            (looks_like_event(&first, length), looks_like_json(&first, length))
        };
        for bytes in [
            &b"data: {\"choices\""[..],
            b"data:{\"a\"",
            b"event: ping\n",
            b"a\r\ndata: ",
            b"1a3\r\ndata",
            b"FFFF\r\neve",
        ] {
            assert_eq!(looks(bytes), (true, false), "{bytes:?}");
        }
        for bytes in [&b"{\"model\":"[..], b"f5\r\n{\"model", b"1a3f\r\n{\""] {
            assert_eq!(looks(bytes), (false, true), "{bytes:?}");
        }
        for bytes in [
            &b"{\"a\":1}"[..7],
            b"0\r\n\r\n",
            b"database",
            b"{ \"a\": 1",
            b"[{\"a\":1}]",
            b"xyz\r\ndata: ",
            b"12345\r\ndata: ",
            b"GET / HTTP",
            b"\r\ndata: {",
            b"\x81\x7e{\"a\":1",
        ] {
            assert_eq!(looks(bytes), (false, false), "{bytes:?}");
        }
    }

    #[test]
    fn records_of_tls_are_known_by_kind_and_version() {
        for bytes in
            [b"\x16\x03\x01\x02\x00", b"\x17\x03\x03\x00\x20", b"\x15\x03\x03\x00\x02", b"\x14\x03\x03\x00\x01"]
        {
            let (first, length) = look(bytes);
            assert!(looks_like_tls(&first, length), "{bytes:?}");
        }
        for bytes in [&b"\x16\x03"[..], b"GET /", b"\x17\x04\x03\x00", b"\x18\x03\x03\x00", b""] {
            let (first, length) = look(bytes);
            assert!(!looks_like_tls(&first, length), "{bytes:?}");
        }
    }
}
