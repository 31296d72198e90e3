//! Calls as libraries make them, and as nobody should.

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::{Action, BODY_MAX, Reference, Response};
use crate::observations::Method;
use crate::protocols::http1::{Bytes, Collected, ExchangeId, Piece, Role};
use crate::units::Nanos;

const TOKEN: &str = "aW50ZXJhY3Rpb246MTI-_x";

fn collect(pieces: &[Bytes<'_>]) -> Collected {
    let mut body = Collected::new(BODY_MAX);
    for bytes in pieces {
        let (id, role, time) = (ExchangeId::default(), Role::Request, Nanos(1));
        body.push(&Piece { id, role, time, first: true, offset: 0, bytes: *bytes });
    }
    body
}

/// What is known of a message with this body.
fn posted(pieces: &[Bytes<'_>], hasher: &RandomState) -> (Reference, Option<u64>) {
    let mut action = Action::of(Method::Post, "/api/v10/channels/42/messages", hasher);
    action.read_body(&collect(pieces), hasher);
    match action {
        Action::Post { channel: 42, reference, nonce } => (reference, nonce),
        other => panic!("a message in channel 42 is posted: {other:?}"),
    }
}

fn posted_whole(body: &str) -> (Reference, bool) {
    let (reference, nonce) = posted(&[Bytes::Known(body.as_bytes())], &RandomState::new());
    (reference, nonce.is_some())
}

#[test]
fn paths() {
    let hasher = RandomState::new();
    let token = hasher.hash_one(TOKEN.as_bytes());
    let of = |method, path: &str| Action::of(method, &path.replace("TOKEN", TOKEN), &hasher);
    let (post, patch, put, delete) = (Method::Post, Method::Patch, Method::Put, Method::Delete);
    let cases = [
        (post, "/api/v10/channels/1/typing", Action::Typing { channel: 1 }),
        (post, "/api/channels/1/typing", Action::Typing { channel: 1 }),
        (post, "/api/v10/channels/1/messages", Action::Post { channel: 1, reference: Reference::Unknown, nonce: None }),
        (patch, "/api/v9/channels/1/messages/2", Action::Edit { channel: 1, message: 2 }),
        (delete, "/api/v9/channels/1/messages/2", Action::Delete { channel: 1, message: 2 }),
        (
            put,
            "/api/v10/channels/1/messages/18446744073709551615/reactions/%F0%9F%91%8D/@me",
            Action::React { channel: 1, message: u64::MAX },
        ),
        (post, "/api/v10/interactions/7/TOKEN/callback", Action::Respond { interaction: 7, token, response: None }),
        (post, "/api/v10/webhooks/8/TOKEN", Action::Followup { application: 8, token }),
        (
            patch,
            "/api/v10/webhooks/8/TOKEN/messages/@original",
            Action::EditFollowup { application: 8, token, message: None },
        ),
        (
            patch,
            "/api/v10/webhooks/8/TOKEN/messages/9",
            Action::EditFollowup { application: 8, token, message: Some(9) },
        ),
    ];
    for (method, path, expected) in cases {
        assert_eq!(of(method, path), expected, "{path}");
    }
    for (method, path) in [
        (Method::Get, "/api/v10/channels/1/messages"),
        (post, "/api/v10/users/@me/channels"),
        (post, "/api/v10/channels/1/messages/2/crosspost"),
        (post, "/api/v10/channels/1/messages/2/threads"),
        (post, "/api/v10/channels/18446744073709551616/typing"),
        (post, "/api/v10/channels/+1/typing"),
        (post, "/api/v10/channels//typing"),
        (post, "/api/v10/interactions/7//callback"),
        (post, "/api/v10/webhooks/8/TOKEN/github"),
        (post, "/channels/1/typing"),
        (post, "/api/v10/channels/1/typing/"),
        (post, "/api"),
        (post, ""),
        (post, "/api/v10/a/b/c/d/e/f/g/h/i/j"),
    ] {
        assert_eq!(of(method, path), Action::Other, "{path}");
    }
}

#[test]
fn references() {
    let to = |message, channel| Reference::To { message, channel };
    let cases = [
        (r#"{"content":"hi","nonce":5}"#, (Reference::Nothing, true)),
        (r#"{"message_reference":{"message_id":"7","channel_id":8},"nonce":"x"}"#, (to(7, Some(8)), true)),
        (r#"{"message_reference":{"message_id":7,"fail_if_not_exists":true}}"#, (to(7, None), false)),
        (r#"{"message_reference":{"type":0,"message_id":"7"}}"#, (to(7, None), false)),
        (r#"{"message_reference":{"message_id":"7","type":1}}"#, (Reference::Nothing, false)),
        (r#"{"message_reference":{"x":{"message_id":"1"},"y":[{"type":1}],"message_id":"7"}}"#, (to(7, None), false)),
        (r#"{"message_reference":null}"#, (Reference::Nothing, false)),
        (r#"{"embeds":[{"message_reference":{"message_id":"7"},"nonce":"x"}]}"#, (Reference::Nothing, false)),
        (r#"{"content":"\"message_reference\":{\"message_id\":\"7\"}"}"#, (Reference::Nothing, false)),
        (r#"{"content":"hi","message_reference":{"message_id":"7""#, (Reference::Unknown, false)),
        (r#"{"content":"hi"#, (Reference::Unknown, false)),
        (r#"["message_reference"]"#, (Reference::Unknown, false)),
        ("", (Reference::Unknown, false)),
    ];
    for (body, expected) in cases {
        assert_eq!(posted_whole(body), expected, "{body}");
    }
}

#[test]
fn a_reference_may_be_among_the_last_bytes() {
    let hasher = RandomState::new();
    let read = |tail: &str| {
        posted(&[Bytes::Known(br#"{"content":"a long"#), Bytes::Unknown(4000), Bytes::Known(tail.as_bytes())], &hasher)
    };
    let to = Reference::To { message: 7, channel: None };
    let reference = r#""message_reference": {"message_id": "7"}, "nonce": "n"}"#;
    let nonce = Some(hasher.hash_one(b"n".as_slice()));
    assert_eq!(read(&format!(r#"of text",{reference}"#)), (to, nonce));
    assert_eq!(read(reference), (to, nonce));
    assert_eq!(read(r#"\"message_reference\":{\"message_id\":\"7\"}"}"#), (Reference::Unknown, None));
    assert_eq!(read(r#"text","message_reference":{"message_id":"7"#), (Reference::Unknown, None));
    assert_eq!(read(r#"text","tts":false}"#), (Reference::Unknown, None), "what was between is not known");
}

fn form(parts: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, content) in parts {
        form.push_str(&format!(
            "--7e0f\r\nContent-Type: application/octet-stream\r\nContent-Disposition: form-data; name=\"{name}\"; \
             filename=\"x\"\r\n\r\n{content}\r\n"
        ));
    }
    form + "--7e0f--\r\n"
}

#[test]
fn forms_in_parts() {
    let payload = r#"{"content":"hi","message_reference":{"message_id":"7"}}"#;
    let decoy = r#"name="payload_json" {"message_reference":{"message_id":"9"}}"#;
    let to = Reference::To { message: 7, channel: None };
    for parts in [
        &[("payload_json", payload), ("files[0]", decoy)][..],
        &[("files[0]", decoy), ("payload_json", payload)],
        &[("files[0]", "\r\n\r\n--7e0"), ("payload_json", payload)],
    ] {
        assert_eq!(posted_whole(&form(parts)), (to, false), "{parts:?}");
    }
    assert_eq!(posted_whole(&form(&[("files[0]", decoy)])), (Reference::Unknown, false));
    assert_eq!(posted_whole("--"), (Reference::Unknown, false));
    assert_eq!(posted_whole("--\n"), (Reference::Unknown, false));
    assert_eq!(posted_whole(&"--\r\n".repeat(100)), (Reference::Unknown, false));
}

#[test]
fn answers_to_interactions() {
    let hasher = RandomState::new();
    let read = |body: &str| {
        let mut action = Action::of(Method::Post, &format!("/api/v10/interactions/7/{TOKEN}/callback"), &hasher);
        assert!(action.wants_body());
        action.read_body(&collect(&[Bytes::Known(body.as_bytes())]), &hasher);
        match action {
            Action::Respond { interaction: 7, response, .. } => response,
            other => panic!("an interaction is answered: {other:?}"),
        }
    };
    assert_eq!(read(r#"{"type":5,"data":{"flags":64}}"#), Some(Response::DeferredMessage));
    assert_eq!(read(r#"{"data":{"type":9},"type":4}"#), Some(Response::Message));
    assert_eq!(read(r#"{"data":{"content":"hi"#), None);
    assert_eq!(read(&form(&[("payload_json", r#"{"type":4}"#), ("files[0]", "x")])), Some(Response::Message));
    let numbers = [1, 4, 5, 6, 7, 8, 9, 12].map(|number| read(&format!(r#"{{"type":{number}}}"#)));
    use Response::{Choices, DeferredMessage, DeferredUpdate, Message, Modal, Other, Pong, Update};
    let named = [Pong, Message, DeferredMessage, DeferredUpdate, Update, Choices, Modal, Other];
    assert_eq!(numbers, named.map(Some));
}

/// What bodies are made of.
const FRAGMENTS: &[&str] = &[
    "--a\r\n",
    "name=\"payload_json\"\r\n\r\n",
    "{\"message_reference\":",
    "\"nonce\":",
    "\"type\":1",
    "{",
    "}",
    "\"",
    "\\",
    "7",
    ",",
];

fn message(content: &str, reference: Option<u64>, late: bool) -> String {
    let mut members = vec![format!(r#""content":{}"#, Value::from(content))];
    if let Some(reference) = reference {
        let reference = json!({"message_id": reference.to_string(), "channel_id": "8", "fail_if_not_exists": false});
        members.insert(usize::from(late), format!(r#""message_reference":{reference}"#));
    }
    members.push(r#""allowed_mentions":{"parse":[]},"nonce":"1234""#.into());
    format!("{{{}}}", members.join(","))
}

proptest! {
    #![proptest_config(crate::regressions::config())]

    #[test]
    fn any_split_reads_the_same(
        content in any::<String>(),
        reference in any::<Option<u64>>(),
        late in any::<bool>(),
        in_form in any::<bool>(),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let hasher = RandomState::new();
        let body = message(&content, reference, late);
        let body = if in_form { form(&[("files[0]", &content), ("payload_json", &body)]) } else { body };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| Bytes::Known(&body.as_bytes()[cut[0]..cut[1]])).collect();
        let expected = reference.map_or(Reference::Nothing, |message| Reference::To { message, channel: Some(8) });
        let nonce = Some(hasher.hash_one(b"1234".as_slice()));
        prop_assert_eq!(posted(&pieces, &hasher), (expected, nonce));
    }

    /// What is read of less is never something else.
    #[test]
    fn what_is_not_known_is_unknown(
        content in any::<String>(),
        reference in any::<Option<u64>>(),
        late in any::<bool>(),
        cuts in [any::<Index>(), any::<Index>()],
    ) {
        let hasher = RandomState::new();
        let body = message(&content, reference, late);
        let mut cuts = cuts.map(|cut| cut.index(body.len() + 1));
        cuts.sort_unstable();
        let [start, end] = cuts;
        prop_assume!(start < end);
        let pieces = [
            Bytes::Known(&body.as_bytes()[..start]),
            Bytes::Unknown((end - start) as u64),
            Bytes::Known(&body.as_bytes()[end..]),
        ];
        let (read, nonce) = posted(&pieces, &hasher);
        let truth = reference.map_or(Reference::Nothing, |message| Reference::To { message, channel: Some(8) });
        prop_assert!(read == truth || read == Reference::Unknown, "{read:?}");
        // What stands whole before the hole was read.
        let known = |member: &str| body.find(member).is_some_and(|at| body[at..].find('}').is_some_and(|end| at + end < start));
        prop_assert!(read == truth || !known(r#""message_reference":{"#), "{read:?}");
        prop_assert!(nonce.is_none_or(|nonce| nonce == hasher.hash_one(b"1234".as_slice())));
    }

    #[test]
    fn nothing_breaks_it(
        path in "(/(api|v10|channels|1|messages|interactions|webhooks|@original|callback|)){0,9}",
        pieces in vec((vec(select(FRAGMENTS), 1..20), any::<bool>()), 0..5),
    ) {
        let hasher = RandomState::new();
        let pieces: Vec<_> = pieces.into_iter().map(|(parts, known)| (parts.concat().into_bytes(), known)).collect();
        let pieces: Vec<_> = pieces
            .iter()
            .map(|(bytes, known)| if *known { Bytes::Known(bytes) } else { Bytes::Unknown(bytes.len() as u64) })
            .collect();
        for method in [Method::Post, Method::Patch, Method::Put, Method::Delete, Method::Get] {
            Action::of(method, &path, &hasher).read_body(&collect(&pieces), &hasher);
        }
        posted(&pieces, &hasher);
    }
}
