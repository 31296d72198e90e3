//! Heads of messages: where one may start, and what of it matters.
//!
//! The grammar is httparse's. Header values are looked at in place and never kept.

use std::fmt;
use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};
use zeroize::Zeroizing;

use super::RateLimit;
use super::collected::append;
use crate::observations::Method;
use crate::units::Nanos;

/// The longest head that is put together from several segments, in bytes.
pub(super) const HEAD_MAX: usize = 8192;

/// Headers of a head that are parsed without a second try.
const HEADERS_USUAL: usize = 64;

/// Headers of a head that are parsed at all.
const HEADERS_MAX: usize = 256;

/// Bytes of a segment's start that decide whether it is a message's start: the longest method, a space and `http`.
const DECIDES_WITHIN: usize = 32;

/// Methods that are believed to be one where the stream is not known to be at a message's start: those of RFC 9110 and
/// RFC 5789, then the common ones of the IANA registry.
const METHODS: [&[u8]; 20] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"PATCH",
    b"HEAD",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
    b"SEARCH",
    b"QUERY",
    b"PURGE",
];

/// Which of the two messages of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The request.
    Request,
    /// The answer.
    Response,
}

/// What a body is, by the type that its head declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// Nothing was declared, or it was not seen.
    #[default]
    Undeclared,
    /// A JSON text: `application/json`.
    Json,
    /// Server-sent events: `text/event-stream`.
    EventStream,
    /// A JSON text a line: `application/x-ndjson` and its like.
    JsonLines,
    /// A form in parts: `multipart/form-data`.
    Multipart,
    /// Another type.
    Other,
}

impl Media {
    /// What a `Content-Type` value declares.
    pub(super) fn of(value: &[u8]) -> Self {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or(b"").trim_ascii();
        let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
        match essence.len() {
            0 => Self::Undeclared,
            16 if is("application/json") => Self::Json,
            17 if is("text/event-stream") => Self::EventStream,
            17 if is("application/jsonl") => Self::JsonLines,
            18 if is("application/ndjson") => Self::JsonLines,
            19 if is("multipart/form-data") => Self::Multipart,
            20 if is("application/x-ndjson") => Self::JsonLines,
            _ => Self::Other,
        }
    }
}

/// How a body is coded, framing apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// It is not, as far as was declared.
    #[default]
    Plain,
    /// `Content-Encoding: gzip`.
    Gzip,
    /// Otherwise, or several times.
    Other,
}

impl Coding {
    /// What a `Content-Encoding` value declares.
    fn of(value: &[u8]) -> Self {
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        if value.is_empty() || is("identity") {
            Self::Plain
        } else if is("gzip") || is("x-gzip") {
            Self::Gzip
        } else {
            Self::Other
        }
    }

    /// This, and then another.
    const fn and(self, then: Self) -> Self {
        match (self, then) {
            (Self::Plain, other) | (other, Self::Plain) => other,
            _ => Self::Other,
        }
    }
}

/// What a connection carries after an answer that gives it another protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// `Upgrade: websocket` (RFC 6455).
    WebSocket,
    /// What a `CONNECT` asked for.
    Tunnel,
    /// Another protocol, or nobody said which.
    #[default]
    Other,
}

impl Protocol {
    /// What an `Upgrade` value names.
    fn of(value: &[u8]) -> Self {
        if value.trim_ascii().eq_ignore_ascii_case(b"websocket") { Self::WebSocket } else { Self::Other }
    }
}

/// What some first bytes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The start of a message.
    Message(Role),
    /// Too few bytes to tell.
    Unclear,
    /// No start of a message.
    Neither,
}

/// What `bytes` start with, where the stream is not known to be at a message's start: only well-known methods followed
/// by a plausible target count, and a status line.
pub(super) fn plausible_start(bytes: &[u8]) -> Start {
    let status_line = status_line_start(bytes);
    if status_line != Start::Neither {
        // `H` may still become `HEAD`: both answers are the same.
        return status_line;
    }
    let within = &bytes[..bytes.len().min(DECIDES_WITHIN)];
    let Some(space) = within.iter().position(|byte| *byte == b' ') else {
        let prefix = METHODS.iter().any(|method| method.starts_with(within));
        return if prefix { Start::Unclear } else { Start::Neither };
    };
    let method = &within[..space];
    if !METHODS.contains(&method) {
        return Start::Neither;
    }
    let target = &within[space + 1..];
    let plausible = match target.first() {
        None => return Start::Unclear,
        Some(b'/') => true,
        Some(b'*') => method == b"OPTIONS",
        Some(byte) if method == b"CONNECT" => byte.is_ascii_alphanumeric() || *byte == b'[',
        Some(_) => {
            let scheme = &target[..target.len().min(4)];
            if scheme.len() < 4 && b"http"[..scheme.len()].eq_ignore_ascii_case(scheme) {
                return Start::Unclear;
            }
            scheme.eq_ignore_ascii_case(b"http")
        }
    };
    if plausible { Start::Message(Role::Request) } else { Start::Neither }
}

/// What `bytes` start with, where a message of `role` has to start: any method token will do.
pub(super) fn expected_start(role: Role, bytes: &[u8]) -> Start {
    match role {
        Role::Response => status_line_start(bytes),
        Role::Request => {
            let within = &bytes[..bytes.len().min(DECIDES_WITHIN)];
            let token = within.iter().take_while(|byte| is_token(**byte)).count();
            match within.get(token) {
                None if within.len() < DECIDES_WITHIN => Start::Unclear,
                Some(b' ') if token > 0 => Start::Message(Role::Request),
                _ => Start::Neither,
            }
        }
    }
}

fn status_line_start(bytes: &[u8]) -> Start {
    const VERSION: &[u8] = b"HTTP/1.";
    let length = bytes.len().min(VERSION.len());
    if bytes[..length] != VERSION[..length] {
        return Start::Neither;
    }
    match (bytes.get(7), bytes.get(8)) {
        (None, _) => Start::Unclear,
        (Some(b'0' | b'1'), None) => Start::Unclear,
        (Some(b'0' | b'1'), Some(b' ')) => Start::Message(Role::Response),
        _ => Start::Neither,
    }
}

/// Whether `byte` may stand in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What the headers declare about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// Neither a length nor a coding.
    Nothing,
    /// A body of so many bytes.
    Length(u64),
    /// Chunked is the last transfer coding; it overrides a length (RFC 9112, section 6.3).
    Chunked,
    /// Another transfer coding is the last: a response goes on until the connection ends, a request is an error.
    OtherCoding,
    /// Lengths that contradict each other, or are no numbers.
    Invalid,
}

/// What matters of a request's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestHead<'a> {
    pub(super) method: Method,
    pub(super) target: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) declared: Declared,
    pub(super) coding: Coding,
}

/// What matters of a response's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseHead<'a> {
    /// Absent when too little of the head was seen.
    pub(super) status: Option<u16>,
    pub(super) declared: Declared,
    pub(super) coding: Coding,
    /// `Content-Type`, for [`Media::of`].
    pub(super) content_type: &'a [u8],
    pub(super) upgrade: Protocol,
    /// Read only where it is asked for.
    pub(super) limits: RateLimit,
}

/// What came of parsing a head.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parsed<T> {
    /// The head, and its length in bytes.
    Whole(T, usize),
    /// More bytes are wanted.
    Partial,
    /// More headers than are parsed.
    TooMany,
    /// No head.
    Invalid,
}

/// Parses the request's head that `bytes` start with.
pub(super) fn parse_request(bytes: &[u8]) -> Parsed<RequestHead<'_>> {
    match parse_request_within::<HEADERS_USUAL>(bytes) {
        Parsed::TooMany => parse_request_within::<HEADERS_MAX>(bytes),
        parsed => parsed,
    }
}

fn parse_request_within<const HEADERS: usize>(bytes: &[u8]) -> Parsed<RequestHead<'_>> {
    let mut headers = [MaybeUninit::<Header<'_>>::uninit(); HEADERS];
    let mut request = httparse::Request::new(&mut []);
    // One bad header line does not undo the exchange: the server's answer to it is still worth knowing.
    let result = ParserConfig::default().ignore_invalid_headers_in_requests(true).parse_request_with_uninit_headers(
        &mut request,
        bytes,
        &mut headers,
    );
    match result {
        Ok(Status::Complete(length)) => {
            let Fields { host, declared, coding, .. } = fields(request.headers);
            let method = Method::from_token(request.method.unwrap_or("").as_bytes());
            let target = request.path.unwrap_or("").as_bytes();
            Parsed::Whole(RequestHead { method, target, host, declared, coding }, length)
        }
        Ok(Status::Partial) => Parsed::Partial,
        Err(Error::TooManyHeaders) => Parsed::TooMany,
        Err(_) => Parsed::Invalid,
    }
}

/// Parses the response's head that `bytes` start with; what it says of rate limits only if `limits` are wanted.
pub(super) fn parse_response(bytes: &[u8], limits: bool) -> Parsed<ResponseHead<'_>> {
    match parse_response_within::<HEADERS_USUAL>(bytes, limits) {
        Parsed::TooMany => parse_response_within::<HEADERS_MAX>(bytes, limits),
        parsed => parsed,
    }
}

fn parse_response_within<const HEADERS: usize>(bytes: &[u8], limits: bool) -> Parsed<ResponseHead<'_>> {
    let mut headers = [MaybeUninit::<Header<'_>>::uninit(); HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let result = ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
    match result {
        Ok(Status::Complete(length)) => {
            let Fields { declared, coding, content_type, upgrade, .. } = fields(response.headers);
            let limits = if limits { RateLimit::of(response.headers) } else { RateLimit::default() };
            Parsed::Whole(
                ResponseHead { status: response.code, declared, coding, content_type, upgrade, limits },
                length,
            )
        }
        Ok(Status::Partial) => Parsed::Partial,
        Err(Error::TooManyHeaders) => Parsed::TooMany,
        Err(_) => Parsed::Invalid,
    }
}

/// The headers that matter in both messages.
struct Fields<'a> {
    host: &'a [u8],
    declared: Declared,
    coding: Coding,
    content_type: &'a [u8],
    upgrade: Protocol,
}

fn fields<'a>(headers: &[Header<'a>]) -> Fields<'a> {
    let mut host: &[u8] = b"";
    let mut length = Declared::Nothing;
    let mut framing = None;
    let mut coding = Coding::Plain;
    let mut content_type: &[u8] = b"";
    let mut upgrade = Protocol::Other;
    for header in headers {
        let name = header.name;
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => host = header.value,
            7 if name.eq_ignore_ascii_case("upgrade") => upgrade = Protocol::of(header.value),
            12 if name.eq_ignore_ascii_case("content-type") => content_type = header.value,
            14 if name.eq_ignore_ascii_case("content-length") => {
                let next = content_length(header.value);
                length = if length == Declared::Nothing || length == next { next } else { Declared::Invalid };
            }
            16 if name.eq_ignore_ascii_case("content-encoding") => {
                coding = coding.and(Coding::of(header.value.trim_ascii()));
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                let mut codings = header.value.rsplit(|byte| *byte == b',');
                let chunked = codings.next().unwrap_or(b"").trim_ascii().eq_ignore_ascii_case(b"chunked");
                // What stands before the last one is in the body, as the last one is if it is no framing.
                if !chunked || codings.next().is_some() {
                    coding = Coding::Other;
                }
                framing = Some(if chunked { Declared::Chunked } else { Declared::OtherCoding });
            }
            _ => {}
        }
    }
    Fields { host, declared: framing.unwrap_or(length), coding, content_type, upgrade }
}

/// The length that a `Content-Length` value declares; the same number several times over is one (RFC 9110, section 8.6).
fn content_length(value: &[u8]) -> Declared {
    let mut declared = Declared::Nothing;
    for item in value.split(|byte| *byte == b',') {
        let item = item.trim_ascii();
        let digits = !item.is_empty() && item.iter().all(u8::is_ascii_digit);
        let number = if digits { str::from_utf8(item).ok().and_then(|text| text.parse().ok()) } else { None };
        match (declared, number) {
            (Declared::Nothing, Some(number)) => declared = Declared::Length(number),
            (Declared::Length(before), Some(number)) if before == number => {}
            _ => return Declared::Invalid,
        }
    }
    declared
}

/// What can be told of a request from the start of its head.
///
/// `head` is a whole head's front; its last, unfinished line is cut off to read the lines before it.
pub(super) fn with_truncated_request<T>(head: &[u8], use_it: impl FnOnce(RequestHead<'_>) -> T) -> T {
    if let Some(newline) = head.iter().rposition(|byte| *byte == b'\n') {
        let mut lines = Zeroizing::new(Vec::with_capacity(newline + 3));
        lines.extend_from_slice(&head[..=newline]);
        lines.extend_from_slice(b"\r\n");
        if let Parsed::Whole(request, _) = parse_request(&lines) {
            return use_it(request);
        }
    }
    let (method, target) = match head.iter().position(|byte| *byte == b' ') {
        Some(space) => (Method::from_token(&head[..space]), &head[space + 1..]),
        None => (Method::Other, &b""[..]),
    };
    // A target that is cut off is none, unless what is missing would not be kept anyway.
    let end = target.iter().position(|byte| b" ?#".contains(byte));
    let target = match end {
        Some(end) => &target[..end],
        None if target.len() > super::exchange::PATH_MAX + super::exchange::HOST_MAX => target,
        None => b"",
    };
    use_it(RequestHead { method, target, host: b"", declared: Declared::Nothing, coding: Coding::Plain })
}

/// The status that the start of a response's head tells, if it goes that far.
pub(super) fn truncated_status(head: &[u8]) -> Option<u16> {
    let digits = head.get(9..12)?;
    (status_line_start(head) == Start::Message(Role::Response) && digits.iter().all(u8::is_ascii_digit))
        .then(|| digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

/// A head of which more is to come. Its bytes hold secrets, and are wiped when it is dropped.
pub(super) struct PartialHead {
    /// When its first byte moved.
    pub(super) time: Nanos,
    bytes: Zeroizing<Vec<u8>>,
    line: Line,
}

/// Where in a line a partial head stands.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// In one that is not empty.
    Inside,
    /// At the first byte of one.
    First,
    /// After a carriage return that is the first byte of one.
    Return,
}

impl fmt::Debug for PartialHead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PartialHead").field("length", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl PartialHead {
    pub(super) fn new(time: Nanos) -> Self {
        Self { time, bytes: Zeroizing::default(), line: Line::Inside }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }

    /// Takes from `bytes` what belongs to the head: how much it took, and whether the head is now whole.
    /// It takes nothing when the head would become longer than [`HEAD_MAX`].
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        let mut line = self.line;
        let mut used = bytes.len();
        let mut whole = false;
        for (at, byte) in bytes.iter().enumerate() {
            line = match (line, byte) {
                (Line::First | Line::Return, b'\n') => {
                    used = at + 1;
                    whole = true;
                    break;
                }
                (_, b'\n') => Line::First,
                (Line::First, b'\r') => Line::Return,
                _ => Line::Inside,
            };
        }
        if self.bytes.len() + used > HEAD_MAX {
            return None;
        }
        self.line = line;
        append(&mut self.bytes, &bytes[..used]);
        Some((used, whole))
    }
}
