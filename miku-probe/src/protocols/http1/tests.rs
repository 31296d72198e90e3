//! Every rule by example.

mod bodies;

use super::testing::{Capture, Exchange, Told, Watched};
use super::{Direction, End, Machine, RateLimit};
use crate::observations::{AbortReason, Method, Outcome, RateLimitScope, Unmatched};
use crate::units::{Nanos, Side};

const GET: &str = "GET /items/7?q=1 HTTP/1.1\r\nHost: bot.local:8000\r\nAuthorization: Bearer canary\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn watched() -> Watched {
    Watched::new(Capture::Whole)
}

/// The only exchange that was told.
fn only(watched: &Watched) -> &Exchange {
    let finished = watched.finished();
    assert_eq!(finished.len(), 1, "one exchange is told: {:?}", watched.told);
    finished[0]
}

fn outcome(watched: &Watched) -> Outcome {
    only(watched).outcome
}

const ABORTED_BY_CLIENT: Outcome = Outcome::Aborted(AbortReason::ClientClosed);
const ABORTED_BY_SERVER: Outcome = Outcome::Aborted(AbortReason::ServerClosed);

#[test]
fn a_server_exchange() {
    let mut bot = watched();
    bot.receives(GET).sends("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").sends("he").sends("llo");
    let expected = Exchange {
        side: Side::Server,
        method: Method::Get,
        path: "/items/7".into(),
        host: "bot.local:8000".into(),
        status: Some(200),
        start: 1,
        first_byte: Some(2),
        end: 4,
        request_bytes: GET.len() as u64,
        response_bytes: OK.len() as u64,
        outcome: Outcome::Complete,
        limits: RateLimit::default(),
    };
    assert_eq!(bot.told, [Told::Began, Told::Finished(expected)]);
    bot.ends(End::PeerFinished).ends(End::LocalClosed);
    assert_eq!(bot.told.len(), 2, "the end of an idle connection is nothing to tell");
}

#[test]
fn a_client_exchange() {
    let mut bot = watched();
    bot.sends("POST /v1/chat HTTP/1.1\r\nhost: llm\r\ncontent-length: 3\r\n\r\n").sends("abc").receives(OK);
    let told = only(&bot);
    assert_eq!((told.side, told.method, told.path.as_str()), (Side::Client, Method::Post, "/v1/chat"));
    assert_eq!((told.start, told.first_byte, told.end), (1, Some(3), 3));
    assert_eq!(told.outcome, Outcome::Complete);
}

#[test]
fn keep_alive_and_pipelining() {
    let mut bot = watched();
    bot.receives(GET.repeat(3)).sends(OK).sends(OK.repeat(2)).receives(GET).sends(OK);
    assert_eq!(bot.finished().len(), 4);
    assert!(bot.finished().iter().all(|told| told.request_bytes == GET.len() as u64
        && told.response_bytes == OK.len() as u64
        && told.outcome == Outcome::Complete));
    assert_eq!(bot.finished().iter().map(|told| told.end).collect::<Vec<_>>(), [2, 3, 3, 5]);
    assert_eq!(bot.in_flight(), 0);
}

#[test]
fn more_requests_than_are_followed() {
    let mut bot = watched();
    bot.receives("GET / HTTP/1.1\r\n\r\n".repeat(70));
    assert_eq!(bot.unmatched(), [Unmatched::PipelineTooDeep; 6]);
    assert_eq!(bot.in_flight(), 64);
    bot.sends(OK.repeat(66)).receives("GET /late HTTP/1.1\r\n\r\n").sends(OK.repeat(5)).receives(GET).sends(OK);
    assert_eq!(bot.in_flight(), 0);
    assert_eq!(bot.finished().len(), 65, "a request behind one that is not followed is not followed either");
    assert_eq!(bot.finished()[64].path, "/items/7");
    assert_eq!(bot.unmatched(), [Unmatched::PipelineTooDeep; 7]);
}

#[test]
fn long_pipelined_paths_do_not_pile_up() {
    let mut bot = watched();
    let request = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2000));
    bot.receives(request.repeat(64));
    assert!(bot.unmatched().contains(&Unmatched::PipelineTooDeep));
    assert!(bot.machine.allocated() < 40 << 10, "{} bytes", bot.machine.allocated());
    bot.sends(OK.repeat(64));
    assert_eq!(bot.in_flight(), 0);
    assert!(bot.finished().iter().all(|told| told.path.len() == 1024));
}

#[test]
fn chunked_bodies() {
    let body = "4;name=\"a;b\"\r\nWiki\r\nA \r\n0123456789\r\n0\r\nExpires: never\r\n\r\n";
    let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n{body}");
    let mut bot = watched();
    bot.receives(GET).sends(&response).receives(GET);
    for byte in response.as_bytes() {
        bot.sends([*byte]);
    }
    bot.receives(GET).sends(response.replace("\r\n", "\n"));
    assert_eq!(bot.finished().len(), 3);
    assert_eq!(bot.finished()[0].response_bytes, response.len() as u64);
    assert_eq!(bot.finished()[1].response_bytes, response.len() as u64);
    assert_eq!(bot.finished()[2].outcome, Outcome::Complete);
    assert_eq!(bot.unmatched(), []);
}

#[test]
fn chunked_wins_over_a_length() {
    let mut bot = watched();
    bot.receives(GET);
    bot.sends("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(outcome(&bot), Outcome::Complete);
    bot.receives(GET).sends(OK);
    assert_eq!(bot.finished().len(), 2);
}

#[test]
fn a_broken_chunk_leaves_the_end_unknown() {
    let mut bot = watched();
    bot.receives(GET).sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n").receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::Malformed]);
    assert_eq!(
        bot.finished().iter().map(|told| told.outcome).collect::<Vec<_>>(),
        [Outcome::Unknown, Outcome::Complete]
    );
}

#[test]
fn answers_without_a_body() {
    for (request, response) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        ("HEAD / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        ("HEAD / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut bot = watched();
        bot.receives(request).sends(response);
        assert_eq!(outcome(&bot), Outcome::Complete, "{request:?} {response:?}");
        bot.receives(GET).sends(OK);
        assert_eq!(bot.finished().len(), 2, "{request:?} {response:?}");
    }
}

#[test]
fn interim_answers_are_not_the_first_byte() {
    let mut bot = watched();
    let (interim, hints) = ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    bot.receives("PUT /f HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    bot.sends(interim).receives("ab").sends(hints).sends(OK);
    let told = only(&bot);
    assert_eq!((told.status, told.first_byte, told.end), (Some(200), Some(5), 5));
    assert_eq!(told.response_bytes, (interim.len() + hints.len() + OK.len()) as u64);
}

#[test]
fn an_early_answer_waits_for_the_request() {
    let mut bot = watched();
    let head = "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n";
    bot.receives(head).sends(OK);
    assert_eq!(bot.in_flight(), 1);
    bot.receives("0123456789");
    let told = only(&bot);
    assert_eq!((told.end, told.outcome), (2, Outcome::Complete));
    assert_eq!(told.request_bytes, head.len() as u64 + 10);
    // The request's rest never comes: the answer was whole all the same.
    for end in [End::PeerFinished, End::LocalClosed, End::Reset, End::Timeout, End::Detached] {
        let mut bot = watched();
        bot.receives(head).sends(OK).ends(end);
        assert_eq!(outcome(&bot), Outcome::Complete, "{end:?}");
        assert_eq!(bot.unmatched(), []);
    }
    let mut bot = watched();
    bot.receives(head).sends("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").receives(GET).sends(OK);
    assert_eq!(bot.finished().iter().map(|told| told.status).collect::<Vec<_>>(), [Some(417), Some(200)]);
    assert_eq!(bot.unmatched(), [], "a client may leave out the body that was refused");
}

#[test]
fn upgrades_end_http() {
    let ask = "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let mut bot = watched();
    bot.receives(ask).sends(format!("{switch}\u{1}GET / HTTP/1.1")).receives(GET).gap().ends(End::LocalClosed);
    assert_eq!(only(&bot).status, Some(101));
    assert_eq!(only(&bot).response_bytes, switch.len() as u64);
    assert_eq!(bot.told.last(), Some(&Told::Upgraded));
    assert_eq!(bot.told.len(), 3);
}

#[test]
fn connect_makes_a_tunnel_only_when_granted() {
    let ask = "CONNECT api.local:443 HTTP/1.1\r\nHost: api.local:443\r\n\r\n";
    let mut bot = watched();
    bot.sends(ask).receives("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    bot.sends(ask).receives("HTTP/1.1 200 Connection established\r\n\r\n").sends(b"\x16\x03\x01\x02").receives("junk");
    let finished = bot.finished();
    assert_eq!(finished.iter().map(|told| told.status).collect::<Vec<_>>(), [Some(407), Some(200)]);
    assert_eq!((finished[1].method, finished[1].path.as_str()), (Method::Connect, ""));
    assert_eq!((finished[1].host.as_str(), finished[1].outcome), ("api.local:443", Outcome::Complete));
    assert_eq!(bot.told.last(), Some(&Told::Upgraded));
}

#[test]
fn bodies_that_the_connection_ends() {
    let response = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nsome ";
    let mut client = watched();
    client.sends("GET / HTTP/1.0\r\n\r\n").receives(response).receives("text").ends(End::PeerFinished);
    assert_eq!((only(&client).outcome, only(&client).end), (Outcome::Complete, 3));
    assert_eq!(only(&client).response_bytes, response.len() as u64 + 4);
    client.ends(End::LocalClosed);

    let mut stream = watched();
    stream.sends("GET / HTTP/1.0\r\n\r\n").receives(response).receives("text").ends(End::Over);
    assert_eq!(outcome(&stream), Outcome::Complete);
    assert_eq!(client.told.len(), 2);

    let mut server = watched();
    server.receives("GET / HTTP/1.0\r\n\r\n").sends(response).sends("text").ends(End::LocalClosed);
    assert_eq!((only(&server).outcome, only(&server).end), (Outcome::Complete, 3));

    let mut half_closed = watched();
    half_closed.receives("GET / HTTP/1.0\r\n\r\n").ends(End::PeerFinished).sends(response).ends(End::LocalClosed);
    assert_eq!(outcome(&half_closed), Outcome::Complete);

    let mut left = watched();
    left.receives("GET / HTTP/1.0\r\n\r\n").sends(response).ends(End::PeerFinished).ends(End::LocalClosed);
    assert_eq!(outcome(&left), ABORTED_BY_CLIENT);

    let mut given_up = watched();
    given_up.sends("GET / HTTP/1.0\r\n\r\n").receives(response).ends(End::LocalClosed);
    assert_eq!(outcome(&given_up), ABORTED_BY_CLIENT);
}

#[test]
fn aborts() {
    use End::{Detached, LocalClosed, Over, PeerFinished, Reset, Timeout};
    let half = &OK[..OK.len() - 2];
    let cases: [(&[End], Outcome, Outcome); 7] = [
        (&[PeerFinished, LocalClosed], ABORTED_BY_CLIENT, ABORTED_BY_SERVER),
        (&[LocalClosed], ABORTED_BY_SERVER, ABORTED_BY_CLIENT),
        (&[Reset], Outcome::Aborted(AbortReason::Reset), Outcome::Aborted(AbortReason::Reset)),
        (&[PeerFinished, Reset], Outcome::Aborted(AbortReason::Reset), ABORTED_BY_SERVER),
        (&[Timeout], Outcome::Aborted(AbortReason::Timeout), Outcome::Aborted(AbortReason::Timeout)),
        (&[Over], Outcome::Aborted(AbortReason::Unknown), Outcome::Aborted(AbortReason::Unknown)),
        (&[Detached], Outcome::Unknown, Outcome::Unknown),
    ];
    for (ends, server, client) in cases {
        for response in ["", "HTTP/1.1 2", half] {
            let mut bots = [watched(), watched()];
            bots[0].receives(GET);
            bots[1].sends(GET);
            if !response.is_empty() {
                bots[0].sends(response);
                bots[1].receives(response);
            }
            for (mut bot, expected) in bots.into_iter().zip([server, client]) {
                for end in ends {
                    bot.ends(*end);
                }
                let told = only(&bot);
                assert_eq!(told.outcome, expected, "{ends:?} after {response:?}");
                assert_eq!(told.response_bytes, response.len() as u64);
                assert_eq!(told.status, (response == half).then_some(200));
                let detached = usize::from(ends == [Detached]);
                assert_eq!(bot.unmatched(), vec![Unmatched::Detached; detached]);
            }
        }
    }
}

#[test]
fn half_closing_is_no_abort() {
    let mut bot = watched();
    bot.receives(GET).ends(End::PeerFinished).sends(OK).ends(End::LocalClosed);
    assert_eq!(outcome(&bot), Outcome::Complete);
}

#[test]
fn attaching_in_mid_connection() {
    let mut bot = watched();
    bot.sends("rest of an answer").sends("more of it").receives("X").receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::MidMessage]);
    assert_eq!(outcome(&bot), Outcome::Complete);

    let mut between = watched();
    between.sends(OK).receives(GET).sends(OK);
    assert_eq!(between.unmatched(), [Unmatched::ResponseWithoutRequest]);
    assert_eq!((only(&between).side, only(&between).outcome), (Side::Server, Outcome::Complete));

    let mut client = watched();
    client.receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel").receives("lo\r\n0\r\n\r\n");
    client.sends(GET).receives(OK);
    assert_eq!(client.unmatched(), [Unmatched::ResponseWithoutRequest]);
    assert_eq!((only(&client).side, only(&client).outcome), (Side::Client, Outcome::Complete));
}

#[test]
fn what_began_before_the_request_is_no_answer_to_it() {
    let mut bot = watched();
    bot.sends("HTTP/1.1 200 OK\r\n").receives(GET).sends("Content-Length: 0\r\n\r\n");
    assert_eq!(bot.unmatched(), [Unmatched::ResponseWithoutRequest]);
    assert_eq!(bot.in_flight(), 1);
    bot.sends(OK);
    assert_eq!((outcome(&bot), only(&bot).first_byte), (Outcome::Complete, Some(4)));
}

#[test]
fn an_answer_to_an_unseen_head_has_no_body() {
    let mut bot = watched();
    bot.sends("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n").receives(GET).sends(OK);
    assert_eq!(outcome(&bot), Outcome::Complete);
}

#[test]
fn other_protocols_are_told_once() {
    let mut tls = watched();
    tls.sends(b"\x16\x03\x01\x02\x00\x01")
        .receives(b"\x16\x03\x03\x00\x7a")
        .sends(b"\x17\x03\x03")
        .ends(End::LocalClosed);
    assert_eq!(tls.told, [Told::Unmatched(Unmatched::MidMessage)]);
    let mut http2 = watched();
    http2.receives("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").sends(b"\x00\x00\x12\x04");
    assert_eq!(http2.told, [Told::Unmatched(Unmatched::MidMessage)]);
}

#[test]
fn losing_records() {
    let mut bot = watched();
    bot.receives(GET.repeat(2)).sends("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123").gap();
    assert_eq!(bot.finished().iter().map(|told| told.outcome).collect::<Vec<_>>(), [Outcome::Unknown; 2]);
    assert_eq!(bot.told.last(), Some(&Told::Unmatched(Unmatched::Gap)));
    bot.sends("456789").sends("junk").receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::Gap]);
    assert_eq!(bot.finished()[2].outcome, Outcome::Complete);
}

#[test]
fn garbage() {
    let mut bot = watched();
    bot.receives(GET).sends(OK).receives("\u{16}\u{3}garbage").receives("more").receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::Malformed]);
    assert_eq!(bot.finished().len(), 2);

    let mut answer = watched();
    answer.receives(GET).sends("nonsense").ends(End::LocalClosed);
    assert_eq!(answer.unmatched(), [Unmatched::Malformed]);
    assert_eq!(outcome(&answer), Outcome::Unknown);

    let mut version = watched();
    version.receives(GET).sends(OK).receives("GET / HTTP/3.7\r\n\r\n").sends("HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(version.unmatched(), [Unmatched::Malformed, Unmatched::ResponseWithoutRequest]);
}

#[test]
fn lenient_heads() {
    let cases = [
        ("GET /a HTTP/1.1\nHost: h\n\n", "/a", "h"),
        ("GET /a HTTP/1.1\r\nHost: h\r\nX-Long: one\r\n two\r\n\r\n", "/a", "h"),
        ("GET /a HTTP/1.1\r\nhOST:h\r\nBad Header: x\r\n\r\n", "/a", "h"),
        ("GET /a#frag?x HTTP/1.1\r\n\r\n", "/a", ""),
        ("GET http://proxied.local:81/a/b?secret HTTP/1.1\r\nHost: other\r\n\r\n", "/a/b", "proxied.local:81"),
        ("GET http://user:password@proxied.local HTTP/1.1\r\n\r\n", "/", "proxied.local"),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "*", "h"),
    ];
    for (request, path, host) in cases {
        let mut bot = watched();
        bot.receives(request).sends("HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 2\n\nok");
        let told = only(&bot);
        assert_eq!((told.path.as_str(), told.host.as_str()), (path, host), "{request:?}");
        assert_eq!((told.outcome, told.request_bytes), (Outcome::Complete, request.len() as u64), "{request:?}");
        assert_eq!(bot.unmatched(), []);
    }
}

#[test]
fn unusual_methods_and_blank_lines() {
    let mut bot = watched();
    bot.receives(GET).sends(OK).receives("\r\n\r\nbrew /pot HTTP/1.1\r\n\r\n").sends(OK).receives("\r\n").receives(GET);
    assert_eq!(bot.finished()[1].method, Method::Other);
    assert_eq!(bot.finished()[1].request_bytes, 22, "the blank lines are nobody's");
    assert_eq!(bot.unmatched(), []);
    assert_eq!(bot.in_flight(), 1);
}

#[test]
fn content_lengths() {
    for (headers, whole) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", true),
        ("Content-Length: 5, 5\r\n", true),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", false),
        ("Content-Length: 5, 6\r\n", false),
        ("Content-Length: +5\r\n", false),
        ("Content-Length:\r\n", false),
        ("Content-Length: 99999999999999999999\r\n", false),
    ] {
        let mut bot = watched();
        bot.receives(GET).sends(format!("HTTP/1.1 200 OK\r\n{headers}\r\nhello"));
        bot.receives(GET).sends(OK);
        let outcomes: Vec<_> = bot.finished().iter().map(|told| told.outcome).collect();
        let first = if whole { Outcome::Complete } else { Outcome::Unknown };
        assert_eq!(outcomes, [first, Outcome::Complete], "{headers:?}");
        let malformed = usize::from(!whole);
        assert_eq!(bot.unmatched(), vec![Unmatched::Malformed; malformed]);

        let mut bot = watched();
        bot.receives(format!("POST / HTTP/1.1\r\n{headers}\r\nhello"));
        bot.sends("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((only(&bot).status, only(&bot).outcome), (Some(400), Outcome::Complete), "{headers:?}");
    }
}

#[test]
fn texts_are_bounded_and_valid() {
    let mut bot = watched();
    let mut request = b"GET /".to_vec();
    request.extend("é".repeat(700).as_bytes());
    request.extend(b" HTTP/1.1\r\nHost: a\xff\xfeb");
    request.extend([b'h'; 400]);
    request.extend(b"\r\n\r\n");
    bot.receives(request).sends(OK);
    assert_eq!(only(&bot).path, format!("/{}", "é".repeat(511)));
    assert_eq!(only(&bot).host, format!("a\u{fffd}\u{fffd}b{}", "h".repeat(247)));
}

#[test]
fn heads_longer_than_what_is_known() {
    let cookie = "c".repeat(5000);
    let long = format!("GET /long?{} HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n", "q".repeat(100));
    let mut bot = Watched::new(Capture::KERNEL);
    bot.receives(&long).sends(OK).receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    let finished = bot.finished();
    assert_eq!((finished[0].path.as_str(), finished[0].host.as_str()), ("/long", "h"));
    assert_eq!((finished[0].request_bytes, finished[0].outcome), (long.len() as u64, Outcome::Complete));
    assert_eq!(finished[1].outcome, Outcome::Complete);

    let target = format!("GET /{}?{cookie} HTTP/1.1\r\n\r\n", "p".repeat(2000));
    let mut bot = Watched::new(Capture::KERNEL);
    bot.receives(&target).sends(OK);
    assert_eq!((only(&bot).path.len(), only(&bot).method), (1024, Method::Get));

    let answer = format!("HTTP/1.1 302 Found\r\nSet-Cookie: {cookie}\r\nContent-Length: 0\r\n\r\n");
    let mut bot = Watched::new(Capture::KERNEL);
    bot.receives(GET).sends(&answer).receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    let finished = bot.finished();
    assert_eq!((finished[0].status, finished[0].outcome), (Some(302), Outcome::Unknown));
    assert_eq!((finished[0].response_bytes, finished[0].end), (answer.len() as u64, 2));
    assert_eq!(finished[1].outcome, Outcome::Complete);
}

#[test]
fn a_head_in_pieces_is_bounded() {
    let mut bot = watched();
    bot.receives("GET /slow HTTP/1.1\r\n");
    for _ in 0..2000 {
        bot.receives("X-Filler: 0123456789\r\n");
        assert!(bot.machine.allocated() < 10 << 10);
    }
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    bot.sends(OK);
    assert_eq!(only(&bot).path, "/slow");
}

#[test]
fn many_headers() {
    let with = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    let mut bot = watched();
    bot.receives(with(200)).sends(OK).receives(with(300)).sends(OK);
    assert_eq!(bot.finished().len(), 2);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);

    let request = with(300);
    let mut bot = watched();
    bot.receives(&request[..1000]).receives(&request[1000..]).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    assert_eq!((only(&bot).path.as_str(), only(&bot).status), ("/", Some(200)));

    let answer = with(300).replace("GET / HTTP/1.1", "HTTP/1.1 302 Found");
    let mut bot = watched();
    bot.receives(GET).sends(&answer[..1000]).sends(&answer[1000..]).receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    let statuses: Vec<_> = bot.finished().iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [Some(302), Some(200)]);
}

#[test]
fn messages_that_start_in_what_is_not_known() {
    let mut bot = watched();
    let post = "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n";
    bot.receives(post).partly(Direction::In, 300, b"body", b"\r\n\r\n").sends(OK.repeat(2)).receives(GET).sends(OK);
    assert_eq!(bot.unmatched(), [Unmatched::HeadTruncated]);
    let told = bot.finished();
    assert_eq!(told.iter().map(|told| told.path.as_str()).collect::<Vec<_>>(), ["/", "", "/items/7"]);
    assert_eq!(told[0].request_bytes, post.len() as u64 + 100);
    assert_eq!(told[1].request_bytes, 200);

    let mut unreadable = watched();
    unreadable.receives(GET).sends(OK).partly(Direction::In, 80, b"", b"\r\n\r\n").sends(OK);
    assert_eq!(unreadable.unmatched(), [Unmatched::HeadTruncated]);
    assert_eq!(unreadable.finished().len(), 2);
}

#[test]
fn lengths_are_counted_by_size_alone() {
    let mut bot = watched();
    bot.sends("GET /big HTTP/1.1\r\n\r\n").receives("HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n");
    for _ in 0..5 {
        bot.partly(Direction::In, 1_000_000_000, b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n\r\n");
    }
    assert_eq!((outcome(&bot), only(&bot).end), (Outcome::Complete, 7));
}

#[test]
fn chunks_that_cover_what_is_not_known_stay_exact() {
    let mut bot = watched();
    bot.sends(GET).receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    // The data ends like a body does; the framing says it is data.
    bot.partly(Direction::In, 0x1000 + 8, b"1000\r\ndata", b"0\r\n\r\n\r\n");
    bot.partly(Direction::In, 0x1000 + 6, b"1000\r\ndata", b"\r\n0\r\n\r\n").receives("\r\n");
    assert_eq!(bot.in_flight(), 1);
    bot.partly(Direction::In, 0x1000 + 13, b"1000\r\ndata", b"x\r\n0\r\n\r\n");
    assert_eq!((outcome(&bot), only(&bot).end), (Outcome::Complete, 6));
}

#[test]
fn the_terminator_ends_a_body_whose_framing_was_lost() {
    let terminators: [&[&str]; 4] =
        [&["\r\n0\r\n\r\n"], &["\r\n", "0\r\n", "\r\n"], &["\r\n0\r\n", "\r\n"], &["\r", "\n0", "\r\n\r", "\n"]];
    for pieces in terminators {
        let mut bot = watched();
        bot.sends(GET).receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        bot.partly(Direction::In, 65536, b"20\r\n", b"..more..").partly(Direction::In, 65536, b"data", b"..data..");
        for piece in pieces {
            assert_eq!(bot.in_flight(), 1, "{pieces:?}");
            bot.receives(piece);
        }
        assert_eq!(outcome(&bot), Outcome::Complete, "{pieces:?}");
        bot.sends(GET).receives(OK);
        assert_eq!(bot.finished().len(), 2);
    }
    let mut trailers = watched();
    trailers.sends(GET).receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    trailers.partly(Direction::In, 65536, b"20\r\n", b"A: b\r\n\r\n").sends(GET).receives(OK);
    let outcomes: Vec<_> = trailers.finished().iter().map(|told| told.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Complete]);
    assert_eq!(trailers.finished()[0].end, 3);
}

#[test]
fn header_values_are_not_kept() {
    let mut bot = watched();
    bot.receives(GET).receives("GET /next HTTP/1.1\r\nCookie: canary\r\n");
    let (debug, bytes) = (format!("{bot:?}"), format!("{:?}", b"canary").replace(['[', ']'], ""));
    assert!(debug.contains("PartialHead { length: 36") && debug.contains("request_bytes: 81"), "{debug}");
    assert!(!debug.contains("canary") && !debug.contains(&bytes), "{debug}");
}

#[test]
fn what_a_client_is_told_of_rate_limits_is_kept_until_its_exchange_ends() {
    let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nX-RateLimit-Scope: global\r\nX-RateLimit-Limit: 5\r\n\
        X-RateLimit-Remaining: 0\r\nContent-Length: 5\r\n\r\n";
    let mut client = watched();
    client.sends(GET.repeat(2)).receives(&head[..40]).receives(&head[40..]).receives("hello").receives(OK);
    let [refused, served] = client.finished()[..] else { panic!("not two: {:?}", client.told) };
    assert_eq!(refused.limits.retry_after(), Some(Nanos(2_000_000_000)));
    assert_eq!((refused.limits.scope, refused.limits.remaining), (Some(RateLimitScope::Global), Some(0)));
    assert_eq!(served.limits, RateLimit::default());

    let mut server = watched();
    server.receives(GET).sends(head).sends("hello");
    assert_eq!(only(&server).limits, RateLimit::default(), "what a server says is its own business");
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Machine>() <= 216, "{} bytes", size_of::<Machine>());
    let mut bot = watched();
    bot.receives(GET.repeat(20)).sends(OK.repeat(20));
    assert!(bot.machine.allocated() <= 256, "{} bytes", bot.machine.allocated());
}

#[test]
fn what_a_body_is_by_its_type() {
    use super::Media::{EventStream, Json, JsonLines, Multipart, Other, Undeclared};
    for (value, media) in [
        ("", Undeclared),
        (" ; charset=utf-8", Undeclared),
        ("application/json", Json),
        ("Application/JSON ; charset=utf-8", Json),
        ("text/event-stream", EventStream),
        ("application/jsonl", JsonLines),
        ("application/ndjson", JsonLines),
        ("application/x-ndjson", JsonLines),
        ("multipart/form-data; boundary=x", Multipart),
        ("application/jsow", Other),
        ("application/jsonx", Other),
        ("application/ndjsox", Other),
        ("multipart/form-dato", Other),
        ("application/x-ndjsox", Other),
        ("text/html", Other),
    ] {
        assert_eq!(super::Media::of(value.as_bytes()), media, "{value}");
    }
}

#[test]
fn targets_of_requests_that_begin_in_mid_connection() {
    use super::head::{Start, plausible_start};
    const REQUEST: Start = Start::Message(super::Role::Request);
    for (bytes, start) in [
        ("GET /", REQUEST),
        ("OPTIONS *", REQUEST),
        ("GET *", Start::Neither),
        ("CONNECT [::1]:443", REQUEST),
        ("CONNECT a:443", REQUEST),
        ("CONNECT -", Start::Neither),
        ("GET a", Start::Neither),
        ("GET ", Start::Unclear),
        ("GET HT", Start::Unclear),
        ("GET HTTP://", REQUEST),
        ("GET htt:", Start::Neither),
        ("OPTI", Start::Unclear),
        ("OPTIX", Start::Neither),
        ("GETS /", Start::Neither),
    ] {
        assert_eq!(plausible_start(bytes.as_bytes()), start, "{bytes}");
    }
}
