//! The same by property: how bytes are split over system calls, and how much of them is known, changes nothing of what
//! is told; and nothing that comes off a socket breaks the machine.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::testing::{Capture, Exchange, Piece, Told, Watched};
use super::{Direction, End, Interest, RateLimit, Role};
use crate::observations::{Method, Outcome};
use crate::units::Side;

/// How a generated message says where it ends.
#[derive(Clone, Debug)]
enum Body {
    None,
    Length(usize),
    /// Sizes of the chunks, whether they have extensions, and whether a trailer follows.
    Chunked(Vec<usize>, bool, bool),
}

impl Body {
    fn header(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Length(length) => format!("cOnTent-length: {length}\r\n"),
            Self::Chunked(..) => "Transfer-Encoding: chunked\r\n".into(),
        }
    }

    /// So many bytes of what bodies are filled with.
    fn filling(length: usize) -> Vec<u8> {
        (0..length).map(|at| b"body\r\n\r\n"[at % 8]).collect()
    }

    /// Without framing.
    fn plain(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Length(length) => Self::filling(*length),
            Self::Chunked(chunks, ..) => chunks.iter().flat_map(|length| Self::filling(*length)).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let filling = Self::filling;
        match self {
            Self::None => Vec::new(),
            Self::Length(length) => filling(*length),
            Self::Chunked(chunks, extensions, trailer) => {
                let extension = if *extensions { ";a=\"b\"" } else { "" };
                let mut bytes = Vec::new();
                for length in chunks {
                    bytes.extend(format!("{length:X}{extension}\r\n").into_bytes());
                    bytes.extend(filling(*length));
                    bytes.extend(b"\r\n");
                }
                bytes.extend(format!("0\r\n{}\r\n", if *trailer { "Digest: x\r\n" } else { "" }).into_bytes());
                bytes
            }
        }
    }
}

/// A generated exchange.
#[derive(Clone, Debug)]
struct Planned {
    method: &'static str,
    path: String,
    query: bool,
    asks: Body,
    interims: usize,
    status: u16,
    answers: Body,
    /// Lines of both heads end in a line feed alone.
    bare: bool,
}

impl Planned {
    fn lines(&self, head: &str) -> Vec<u8> {
        if self.bare { head.replace("\r\n", "\n").into_bytes() } else { head.as_bytes().to_vec() }
    }

    fn request(&self) -> (Vec<u8>, Vec<u8>) {
        let query = if self.query { "?q=secret" } else { "" };
        let (method, path, header) = (self.method, &self.path, self.asks.header());
        (self.lines(&format!("{method} {path}{query} HTTP/1.1\r\nhost: h.local\r\n{header}\r\n")), self.asks.bytes())
    }

    /// The interim answers, the final answer's head, and its body.
    fn response(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let bodiless = self.method == "HEAD" || matches!(self.status, 204 | 304);
        // An answer that may have a body must say how long it is, or the connection's end would.
        let answers = match &self.answers {
            Body::None if !bodiless => Body::Length(0),
            answers => answers.clone(),
        };
        let interims = "HTTP/1.1 100 Continue\r\n\r\n".repeat(self.interims);
        let head = format!("HTTP/1.1 {} Reason\r\nServer: x\r\n{}\r\n", self.status, answers.header());
        let body = if bodiless { Vec::new() } else { answers.bytes() };
        (self.lines(&interims), self.lines(&head), body)
    }
}

fn body(sizes: std::ops::Range<usize>, trailers: bool) -> impl Strategy<Value = Body> {
    let chunk = (1..2usize).prop_union(sizes.start.max(1)..sizes.end).boxed();
    prop_oneof![
        Just(Body::None),
        sizes.prop_map(Body::Length),
        (vec(chunk, 0..6), any::<bool>(), any::<bool>()).prop_map(move |(chunks, extensions, trailer)| Body::Chunked(
            chunks,
            extensions && trailers,
            trailer && trailers
        )),
    ]
}

fn planned(sizes: std::ops::Range<usize>, trailers: bool) -> impl Strategy<Value = Planned> {
    (
        select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
        "/[a-z]{0,8}(/[a-z0-9]{1,8}){0,3}",
        any::<bool>(),
        body(sizes.clone(), trailers),
        prop_oneof![4 => Just(0..1usize), 1 => Just(1..3usize)].prop_flat_map(|range| range),
        select(vec![200u16, 201, 204, 304, 404, 500]),
        body(sizes, trailers),
        prop_oneof![4 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(method, path, query, asks, interims, status, answers, bare)| Planned {
            method,
            path,
            query,
            asks,
            interims,
            status,
            answers,
            bare,
        })
}

/// Some requests, then the answers to them; `early` when the answer to a single request comes before its last byte.
type Turn = (Vec<Planned>, bool);

/// What one side sends before the other does, and where in it messages begin.
struct Flight {
    to_server: bool,
    bytes: Vec<u8>,
    /// Offsets of messages' beginnings, interim answers included.
    starts: Vec<usize>,
}

/// A place in the conversation: which flight, and which byte of it.
type Place = (usize, usize);

/// What has to be told of an exchange, with places for times.
struct Truth {
    planned: Planned,
    start: Place,
    first_byte: Place,
    last_byte: Place,
    request_bytes: u64,
    response_bytes: u64,
}

fn conversation(turns: &[Turn]) -> (Vec<Flight>, Vec<Truth>) {
    let (mut flights, mut truths): (Vec<Flight>, Vec<Truth>) = Default::default();
    for (turn, early) in turns {
        let first = truths.len();
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        let mut held_back = Vec::new();
        for planned in turn {
            let (head, mut body) = planned.request();
            let request_bytes = (head.len() + body.len()) as u64;
            let start = (flights.len(), bytes.len());
            starts.push(bytes.len());
            bytes.extend(head);
            if *early && turn.len() == 1 {
                held_back = body.split_off(body.len() / 2);
            }
            bytes.extend(body);
            let planned = planned.clone();
            truths.push(Truth {
                planned,
                start,
                first_byte: start,
                last_byte: start,
                request_bytes,
                response_bytes: 0,
            });
        }
        flights.push(Flight { to_server: true, bytes, starts });
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for truth in &mut truths[first..] {
            let (interims, head, body) = truth.planned.response();
            truth.response_bytes = (interims.len() + head.len() + body.len()) as u64;
            if !interims.is_empty() {
                starts.push(bytes.len());
                bytes.extend(interims);
            }
            truth.first_byte = (flights.len(), bytes.len());
            starts.push(bytes.len());
            bytes.extend(head);
            bytes.extend(body);
            truth.last_byte = (flights.len(), bytes.len() - 1);
        }
        flights.push(Flight { to_server: false, bytes, starts });
        if !held_back.is_empty() {
            flights.push(Flight { to_server: true, bytes: held_back, starts: Vec::new() });
        }
    }
    (flights, truths)
}

/// Sends the flights, cut at the given places, and holds what is told against the truth.
fn check(side: Side, flights: &[Flight], cuts: &[Vec<usize>], truths: &[Truth], capture: Capture) {
    for interest in [Interest::Nothing, Interest::Request, Interest::Whole] {
        check_wanting(interest, side, flights, cuts, truths, capture);
    }
}

fn check_wanting(
    interest: Interest,
    side: Side,
    flights: &[Flight],
    cuts: &[Vec<usize>],
    truths: &[Truth],
    capture: Capture,
) {
    let mut watched = Watched::wanting(interest, capture);
    let mut times: Vec<Vec<(usize, u64)>> = Vec::new();
    for (flight, cuts) in flights.iter().zip(cuts) {
        let direction = if flight.to_server == (side == Side::Server) { Direction::In } else { Direction::Out };
        let mut ends: Vec<usize> = cuts.iter().copied().filter(|cut| *cut > 0 && *cut < flight.bytes.len()).collect();
        ends.push(flight.bytes.len());
        ends.sort_unstable();
        ends.dedup();
        let mut begin = 0;
        let mut timed = Vec::new();
        for end in ends {
            watched.moved(direction, &flight.bytes[begin..end]);
            timed.push((end, watched.time));
            begin = end;
        }
        times.push(timed);
    }
    let time = |(flight, byte): Place| -> u64 {
        let segment = times[flight].iter().find(|(end, _)| byte < *end);
        segment.unwrap_or_else(|| panic!("byte {byte} of flight {flight} was sent")).1
    };
    let expected: Vec<Exchange> = truths
        .iter()
        .map(|truth| Exchange {
            side,
            method: Method::from_token(truth.planned.method.as_bytes()),
            path: truth.planned.path.clone(),
            host: "h.local".into(),
            status: Some(truth.planned.status),
            start: time(truth.start),
            first_byte: Some(time(truth.first_byte)),
            end: time(truth.last_byte),
            request_bytes: truth.request_bytes,
            response_bytes: truth.response_bytes,
            outcome: Outcome::Complete,
            limits: RateLimit::default(),
        })
        .collect();
    let told: Vec<Exchange> = watched.finished().into_iter().cloned().collect();
    assert_eq!(told, expected, "{:?}", watched.told);
    assert_eq!(watched.unmatched(), []);
    let began = watched.told.iter().filter(|told| **told == Told::Began).count();
    assert_eq!(began, expected.len());
    assert!(watched.machine.allocated() <= 256, "an idle machine holds {} bytes", watched.machine.allocated());
    let asked = watched.told.iter().filter(|told| matches!(told, Told::Asked(_))).count();
    let answered = watched.told.iter().filter(|told| matches!(told, Told::Answered(_))).count();
    let wanted = if interest == Interest::Nothing { 0 } else { expected.len() };
    assert_eq!((asked, answered), (wanted, wanted));
    for (truth, id) in truths.iter().zip(&watched.ids) {
        let body_of = |role| watched.pieces.iter().filter(move |piece| piece.id == *id && piece.role == role);
        if interest == Interest::Nothing {
            assert_eq!(body_of(Role::Request).count(), 0);
        } else {
            check_body(body_of(Role::Request), &truth.planned.asks, capture);
        }
        if interest == Interest::Whole {
            let bodiless = truth.planned.method == "HEAD" || matches!(truth.planned.status, 204 | 304);
            let answers = if bodiless { &Body::None } else { &truth.planned.answers };
            check_body(body_of(Role::Response), answers, capture);
            let last = body_of(Role::Response).next_back().map_or(0, |piece| piece.time);
            assert!(last <= time(truth.last_byte));
        } else {
            assert_eq!(body_of(Role::Response).count(), 0);
        }
    }
}

/// Holds the pieces of a body against the body.
fn check_body<'a>(pieces: impl Iterator<Item = &'a Piece>, body: &Body, capture: Capture) {
    let plain = body.plain();
    let (mut offset, mut told_at, mut framed) = (0, None, true);
    for piece in pieces {
        assert_eq!(piece.offset, offset);
        assert_eq!(piece.first, told_at != Some(piece.time));
        told_at = Some(piece.time);
        match &piece.bytes {
            Ok(bytes) => {
                let start = usize::try_from(offset).expect("a body is short");
                assert_eq!(plain.get(start..start + bytes.len()), Some(bytes.as_slice()), "at {start}");
                offset += bytes.len() as u64;
            }
            Err(size) => {
                assert_ne!(capture, Capture::Whole);
                framed = !matches!(body, Body::Chunked(..));
                offset += size;
            }
        }
    }
    if framed {
        assert_eq!(offset, plain.len() as u64, "all of it is told");
    }
}

fn side() -> impl Strategy<Value = Side> {
    select(vec![Side::Server, Side::Client])
}

/// Pieces that hostile bytes are made of: enough of HTTP to get deep into the machine.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\nContent-Length: 7\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HEAD http://u:p@h/ HTTP/1.0\n\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 101 Up\r\n\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: \xff\xc3\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"0\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"5\r\nhello\r\n",
        b"G",
        b"H",
        b"HTTP/1.",
        b"\0",
        b"\x16\x03\x01",
    ];
    prop_oneof![
        6 => select(pieces).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..40),
        1 => (any::<u8>(), 1..9000usize).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

/// One thing that may happen to a connection.
#[derive(Clone, Debug)]
enum Happening {
    /// Bytes of which the first are known; so many more are not, then the tail.
    Moved(bool, Vec<u8>, u64, Vec<u8>),
    Gap,
    Ended(End),
}

fn happening() -> impl Strategy<Value = Happening> {
    let hidden = prop_oneof![6 => Just(0u64), 1 => 1..100u64, 1 => 100..100_000u64, 1 => Just(u64::MAX / 2)];
    let moved = (any::<bool>(), vec(fragment(), 0..5), hidden, vec(any::<u8>(), 0..9))
        .prop_map(|(inward, parts, hidden, tail)| Happening::Moved(inward, parts.concat(), hidden, tail));
    prop_oneof![
        30 => moved,
        1 => Just(Happening::Gap),
        1 => select(vec![End::PeerFinished, End::LocalClosed, End::Reset, End::Timeout, End::Over, End::Detached])
            .prop_map(Happening::Ended),
    ]
}

fn happen(watched: &mut Watched, happening: &Happening) {
    match happening {
        Happening::Moved(inward, prefix, hidden, tail) => {
            let direction = if *inward { Direction::In } else { Direction::Out };
            let size = prefix.len() as u64 + hidden;
            watched.partly(direction, size, prefix, if *hidden > 0 { tail } else { b"" });
        }
        Happening::Gap => drop(watched.gap()),
        Happening::Ended(end) => drop(watched.ends(*end)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..crate::regressions::config() })]

    #[test]
    fn any_split_tells_the_same(
        side in side(),
        turns in vec((vec(planned(0..40, true), 1..4), any::<bool>()), 1..4),
        cuts in vec(vec(any::<Index>(), 0..12), 12),
    ) {
        let (flights, truths) = conversation(&turns);
        let cuts: Vec<Vec<usize>> = flights
            .iter()
            .zip(&cuts)
            .map(|(flight, cuts)| cuts.iter().map(|cut| cut.index(flight.bytes.len())).collect())
            .collect();
        let unsplit = vec![Vec::new(); flights.len()];
        check(side, &flights, &unsplit, &truths, Capture::Whole);
        check(side, &flights, &cuts, &truths, Capture::Whole);
    }

    #[test]
    fn byte_by_byte_tells_the_same(
        side in side(),
        turns in vec((vec(planned(0..10, true), 1..3), any::<bool>()), 1..3),
    ) {
        let (flights, truths) = conversation(&turns);
        let cuts: Vec<Vec<usize>> = flights.iter().map(|flight| (1..flight.bytes.len()).collect()).collect();
        check(side, &flights, &cuts, &truths, Capture::Whole);
    }

    /// With what the kernel side copies: exact as long as a segment holds no more than one message, or is known whole,
    /// and the first bytes of a message are in one segment, by which the kernel side knows a start.
    #[test]
    fn what_is_not_known_changes_nothing(
        side in side(),
        turns in vec((vec(planned(0..20_000, false), 1..3), Just(false)), 1..4),
        cuts in vec(vec(any::<Index>(), 0..12), 12),
    ) {
        let (flights, truths) = conversation(&turns);
        let cuts: Vec<Vec<usize>> = flights
            .iter()
            .zip(&cuts)
            .map(|(flight, cuts)| {
                let recognised = |cut: &usize| flight.starts.iter().all(|start| !(*start..start + 8).contains(cut));
                let cuts = cuts.iter().map(|cut| cut.index(flight.bytes.len())).filter(recognised);
                cuts.chain(flight.starts.iter().copied()).collect()
            })
            .collect();
        check(side, &flights, &cuts, &truths, Capture::KERNEL);
    }

    #[test]
    fn nothing_breaks_the_machine(happenings in vec(happening(), 0..60)) {
        let mut watched = Watched::new(Capture::Whole);
        let mut curious = Watched::wanting(Interest::Whole, Capture::Whole);
        for happening in &happenings {
            happen(&mut watched, happening);
            happen(&mut curious, happening);
            prop_assert!((0..=64).contains(&watched.in_flight()), "{:?}", watched.told);
            let most = 2 * (9 << 10) + (16 << 10) + 64 * 256;
            prop_assert!(watched.machine.allocated() < most, "{} bytes", watched.machine.allocated());
        }
        let upgraded = watched.told.contains(&Told::Upgraded);
        watched.ends(End::LocalClosed);
        prop_assert_eq!(watched.in_flight(), 0);
        prop_assert!(!upgraded || watched.told.last() == Some(&Told::Upgraded));
        prop_assert!(upgraded || watched.others.is_empty());
        curious.ends(End::LocalClosed);
        let ends = |told: &&Told| !matches!(told, Told::Asked(_) | Told::Answered(_));
        prop_assert!(curious.told.iter().filter(ends).eq(&watched.told), "interest changes nothing else");
        prop_assert_eq!(&curious.others, &watched.others);
        for told in watched.finished() {
            prop_assert!(told.path.len() <= 1024 && told.host.len() <= 255);
            prop_assert!(!told.path.contains('?') && !told.host.contains('@'));
            prop_assert!(told.first_byte.is_none_or(|first| first >= told.start));
            prop_assert!(told.end >= told.start);
        }
    }
}
