//! What the server answers, route by route.

use std::fmt::Write as _;
use std::time::Duration;

use miku_probe_tests::wire::Message;

/// What is done about a request, in order.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send these bytes.
    Write(Vec<u8>),
    /// Wait.
    Pause(Duration),
    /// From now on, the connection carries something else: send back what comes.
    Upgrade,
    /// Close the connection.
    Close,
    /// Reset the connection.
    Reset,
}

/// The steps of a whole answer of known length.
pub(crate) fn whole(status: u16, kind: &str, body: &[u8]) -> [Step; 1] {
    [Step::Write(
        [head(status, &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len())), body.into()].concat(),
    )]
}

fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} {}\r\n{headers}\r\n", reason(status)).into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        404 => "Not Found",
        500 => "Internal Server Error",
        _ => "Other",
    }
}

/// A number of the query, as in `?n=3&ms=10`.
fn number(target: &str, name: &str, default: u64) -> u64 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The steps that answer a request; the status, unless the answer is cut short on purpose.
pub(crate) fn reply(method: &str, target: &str, request: &Message, steps: &mut Vec<Step>) -> Option<u16> {
    let path = target.split('?').next().unwrap_or(target);
    let pause = Duration::from_millis(number(target, "ms", 10));
    let count = number(target, "n", 5);
    let before = steps.len();
    let mut segments = path.trim_start_matches('/').split('/');
    let plain = "text/plain";
    let mut status = 200;
    match (segments.next().unwrap_or(""), segments.next()) {
        ("fast" | "items", _) => steps.extend(whole(200, plain, b"ok\n")),
        ("slow", _) => {
            steps.push(Step::Pause(pause));
            steps.extend(whole(200, plain, b"slow\n"));
        }
        ("bytes", Some(length)) => {
            steps.extend(whole(200, plain, &vec![b'b'; length.parse().unwrap_or(0)]));
        }
        ("status", Some(code)) => {
            status = code.parse().unwrap_or(500);
            match status {
                204 | 304 => steps.push(Step::Write(head(status, ""))),
                _ => steps.extend(whole(status, plain, b"status\n")),
            }
        }
        ("echo", _) => steps.extend(whole(200, plain, &request.body)),
        ("chunked", _) => {
            steps.push(Step::Write(head(200, "Transfer-Encoding: chunked\r\n")));
            steps.extend((0..count).map(|_| Step::Write(b"6\r\nchunk\n\r\n".to_vec())));
            steps.push(Step::Write(b"0\r\n\r\n".to_vec()));
        }
        ("sse", _) => {
            steps.push(Step::Write(head(200, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n")));
            for event in 0..count {
                let mut text = String::new();
                // Writing to a String cannot fail.
                let _ = write!(text, "data: {event}\n\n");
                steps.extend([Step::Pause(pause), Step::Write(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())]);
            }
            steps.push(Step::Write(b"0\r\n\r\n".to_vec()));
        }
        ("close", _) => {
            steps.extend([Step::Write(head(200, "Connection: close\r\n")), Step::Write(b"until the end".to_vec())]);
            steps.push(Step::Close);
        }
        ("upgrade", _) => {
            status = 101;
            let headers = "Connection: Upgrade\r\nUpgrade: echo\r\n";
            steps.extend([Step::Write(head(101, headers)), Step::Upgrade]);
        }
        ("abort", _) => {
            steps.extend([
                Step::Write(head(200, "Content-Length: 1000\r\n")),
                Step::Write(b"part".to_vec()),
                Step::Close,
            ]);
            return None;
        }
        ("reset", _) => {
            steps.extend([Step::Write(head(200, "Content-Length: 1000\r\n")), Step::Pause(pause), Step::Reset]);
            return None;
        }
        _ => {
            status = 404;
            steps.extend(whole(404, plain, b"nothing here\n"));
        }
    }
    if method == "HEAD" {
        let written = steps[before..].iter().position(|step| matches!(step, Step::Write(_)));
        steps.truncate(before + written.map_or(0, |place| place + 1));
        if let Some(Step::Write(bytes)) = steps.last_mut() {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            bytes.truncate(end.map_or(0, |end| end + 4));
        }
    }
    Some(status)
}

/// Adds to a sum of bytes, as long as it is known.
pub(crate) fn add(sum: &mut Option<u64>, bytes: usize) {
    *sum = sum.map(|sum| sum + bytes as u64);
}
