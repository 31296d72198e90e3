//! Requests in flight on one connection, the oldest first.

use std::collections::VecDeque;

use zeroize::{Zeroize, Zeroizing};

use super::head::{Coding, Media, Protocol, RequestHead};
use super::{Answer, ExchangeId, Finished, Interest, RateLimit, Request, Upgraded};
use crate::observations::{Method, Outcome};
use crate::units::{Nanos, Side};

/// The most bytes of a path that are kept.
pub(super) const PATH_MAX: usize = 1024;

/// The most bytes of a host that are kept.
pub(super) const HOST_MAX: usize = 255;

/// The most requests in flight on one connection that are followed.
pub(super) const IN_FLIGHT_MAX: usize = 64;

/// The most bytes of paths and hosts that the requests behind the oldest hold together.
const TEXT_MAX: usize = 16 << 10;

/// The most bytes that an idle connection keeps allocated for the next request's path and host.
const TEXT_KEPT: usize = 256;

/// A request and what is known of its answer.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) id: ExchangeId,
    pub(super) interest: Interest,
    pub(super) method: Option<Method>,
    pub(super) status: Option<u16>,
    pub(super) start: Nanos,
    pub(super) first_byte: Option<Nanos>,
    /// When the answer's last byte so far moved.
    pub(super) last_byte: Nanos,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// The request was seen to its last byte.
    pub(super) asked: bool,
    /// The final answer was seen to its last byte.
    pub(super) answered: bool,
    /// What the final answer said of rate limits.
    pub(super) limits: RateLimit,
    /// The path, then the host. They may hold secrets: `Zeroizing` wipes them, and shows none of them.
    text: Zeroizing<String>,
    path_length: u16,
}

impl Exchange {
    /// Makes it the exchange of a request that began at `start`.
    pub(super) fn begin(&mut self, head: &RequestHead<'_>, start: Nanos) {
        self.method = Some(head.method);
        self.start = start;
        let (path, authority) = split_target(head.method, head.target);
        let host = without_userinfo(authority.unwrap_or(head.host));
        let mut plain = Zeroizing::default();
        let path = decoded(path, &mut plain);
        // Room for all at once: a text that grew would leave its first bytes behind in freed memory.
        self.text.reserve_exact(lossy_size(path, PATH_MAX) + lossy_size(host, HOST_MAX));
        push_lossy(&mut self.text, path, PATH_MAX);
        self.path_length = u16::try_from(self.text.len()).expect("a path is bounded");
        push_lossy(&mut self.text, host, HOST_MAX);
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Some(Method::Head)
    }

    pub(super) fn is_connect(&self) -> bool {
        self.method == Some(Method::Connect)
    }

    fn path_and_host(&self) -> (&str, &str) {
        self.text.split_at(usize::from(self.path_length))
    }

    /// What is told of it when it begins.
    pub(super) fn request(&self, side: Side) -> Request<'_> {
        let (path, host) = self.path_and_host();
        let method = self.method.unwrap_or(Method::Other);
        Request { id: self.id, side, method, path, host, start: self.start }
    }

    /// What is told of it when its answer began at `time`.
    pub(super) fn answer(&self, time: Nanos, media: Media, coding: Coding) -> Answer {
        Answer { id: self.id, status: self.status, time, media, coding }
    }

    /// What is told of it when it gave the connection another protocol.
    pub(super) fn upgraded(&self, side: Side, protocol: Protocol, time: Nanos) -> Upgraded<'_> {
        let (path, host) = self.path_and_host();
        Upgraded { side, protocol, path, host, time }
    }

    /// What is told of it when it ends at `end`.
    pub(super) fn finished(&self, side: Side, outcome: Outcome, end: Nanos) -> Finished<'_> {
        let (path, host) = self.path_and_host();
        Finished {
            id: self.id,
            side,
            method: self.method.unwrap_or(Method::Other),
            path,
            host,
            status: self.status,
            start: self.start,
            first_byte: self.first_byte,
            end,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            outcome,
            limits: self.limits,
        }
    }

    /// Forgets everything, and keeps a small allocation for the next request.
    fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.as_mut_str().zeroize();
        text.clear();
        if text.capacity() > TEXT_KEPT {
            text = Zeroizing::default();
        }
        *self = Self { text, ..Self::default() };
    }
}

/// The path of a request's target, and the authority when the target holds one (RFC 9112, section 3.2).
fn split_target(method: Method, target: &[u8]) -> (&[u8], Option<&[u8]>) {
    if method == Method::Connect {
        return (b"", Some(target));
    }
    let cut = |path: &'_ [u8]| path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    if !target.starts_with(b"/") {
        let scheme = target.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        if let Some(rest) = target[scheme..].strip_prefix(b"://") {
            let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let path = &path[..cut(path)];
            return (if path.is_empty() { b"/" } else { path }, Some(authority));
        }
    }
    (&target[..cut(target)], None)
}

/// Percent-decodes the characters that a path segment may contain literally (`pchar` of RFC 3986, section 3.3), so that routes and
/// ids are matched against one spelling: discord.js sends `@original` as `%40original`. Slashes, braces, spaces and control
/// characters stay encoded. `plain` holds the result if it differs from `path`.
fn decoded<'a>(path: &'a [u8], plain: &'a mut Zeroizing<Vec<u8>>) -> &'a [u8] {
    if !path.contains(&b'%') {
        return path;
    }
    let path = &path[..path.len().min(3 * PATH_MAX)];
    plain.reserve_exact(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let byte = match after {
            [high, low, ..] if *first == b'%' => hexadecimal(*high, *low).filter(|byte| stands_for_itself(*byte)),
            _ => None,
        };
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    plain
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

const fn stands_for_itself(byte: u8) -> bool {
    matches!(
        byte,
        b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
    ) || matches!(byte, b':' | b'@')
        || byte.is_ascii_alphanumeric()
}

/// A URL may hold a user's name and password before its host: they are nobody's business.
fn without_userinfo(authority: &[u8]) -> &[u8] {
    let start = authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    &authority[start..]
}

/// No fewer bytes than [`push_lossy`] appends.
fn lossy_size(bytes: &[u8], most: usize) -> usize {
    let size = if bytes.is_ascii() { bytes.len() } else { bytes.len() * char::REPLACEMENT_CHARACTER.len_utf8() };
    size.min(most)
}

/// Appends at most `most` bytes of `bytes` to `text`, what is no UTF-8 replaced.
fn push_lossy(text: &mut String, bytes: &[u8], most: usize) {
    let end = text.len() + most;
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let fits = (0..=valid.len().min(end - text.len())).rev().find(|at| valid.is_char_boundary(*at)).unwrap_or(0);
        text.push_str(&valid[..fits]);
        if fits < valid.len() {
            return;
        }
        if !chunk.invalid().is_empty() {
            if text.len() + char::REPLACEMENT_CHARACTER.len_utf8() > end {
                return;
            }
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// The exchanges in flight. One is the rule, and needs no allocation but its texts.
#[derive(Debug, Default)]
pub(super) struct Queue {
    oldest: Exchange,
    occupied: bool,
    rest: VecDeque<Exchange>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        usize::from(self.occupied) + self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.occupied
    }

    /// A blank exchange behind the others, unless there are too many already.
    pub(super) fn push(&mut self) -> Option<&mut Exchange> {
        if !self.occupied {
            self.occupied = true;
            return Some(&mut self.oldest);
        }
        let full = self.len() >= IN_FLIGHT_MAX
            || (self.rest.len() + 1) * (PATH_MAX + HOST_MAX) > TEXT_MAX
                && self.rest.iter().map(|exchange| exchange.text.len()).sum::<usize>() + PATH_MAX + HOST_MAX > TEXT_MAX;
        if full {
            return None;
        }
        self.rest.push_back(Exchange::default());
        self.rest.back_mut()
    }

    pub(super) fn oldest(&self) -> Option<&Exchange> {
        self.occupied.then_some(&self.oldest)
    }

    pub(super) fn oldest_mut(&mut self) -> Option<&mut Exchange> {
        self.occupied.then_some(&mut self.oldest)
    }

    pub(super) fn newest_mut(&mut self) -> Option<&mut Exchange> {
        if self.rest.is_empty() { self.oldest_mut() } else { self.rest.back_mut() }
    }

    /// Bytes allocated beside the queue itself.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        let texts = self.rest.iter().map(|exchange| exchange.text.capacity()).sum::<usize>();
        self.oldest.text.capacity() + texts + self.rest.capacity() * size_of::<Exchange>()
    }

    /// Takes the oldest out.
    pub(super) fn take(&mut self) -> Exchange {
        let oldest = std::mem::take(&mut self.oldest);
        self.pop();
        oldest
    }

    /// Forgets the oldest.
    pub(super) fn pop(&mut self) {
        self.oldest.clear();
        match self.rest.pop_front() {
            Some(exchange) => self.oldest = exchange,
            None => self.occupied = false,
        }
        if self.rest.is_empty() {
            self.rest = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn path(path: &str) -> String {
        let mut plain = Zeroizing::default();
        String::from_utf8(decoded(path.as_bytes(), &mut plain).to_vec()).expect("it stays UTF-8")
    }

    #[test]
    fn a_path_has_one_spelling() {
        let original = "/api/v10/webhooks/8/TOKEN/messages/@original";
        for spelling in
            [original, &original.replace('@', "%40"), &original.replace("app", "%61pp").replace("api", "%61%70i")]
        {
            assert_eq!(path(spelling), original);
        }
        assert_eq!(path("/v1/chat/completions%3Fa"), "/v1/chat/completions%3Fa", "a question mark would begin a query");
        for kept in
            ["/a%2Fb", "/a%2fb", "/%7Bid%7D", "/a%20b", "/a%00", "/caf%C3%A9", "/100%", "/%4", "/%zz", "/%+1", "/%2540"]
        {
            assert_eq!(path(kept), kept);
        }
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn a_text_never_outgrows_the_room_that_was_made_for_it(
            bytes in vec(prop_oneof![Just(b'a'), Just(0xff), any::<u8>()], 0..1500),
            most in select(vec![0, 7, HOST_MAX, PATH_MAX]),
        ) {
            let mut text = String::new();
            push_lossy(&mut text, &bytes, most);
            prop_assert!(text.len() <= lossy_size(&bytes, most), "{} bytes", text.len());
        }

        #[test]
        fn what_is_decoded_is_no_longer_and_has_the_same_segments(bytes in vec(select(b"/%40aF2f?{\xff".to_vec()), 0..200)) {
            let mut plain = Zeroizing::default();
            let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
            let told = decoded(&bytes, &mut plain);
            prop_assert!(told.len() <= bytes.len());
            prop_assert_eq!(slashes(told), slashes(&bytes));
        }
    }
}
