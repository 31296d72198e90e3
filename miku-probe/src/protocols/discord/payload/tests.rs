//! The scanner of payloads by example, and against `serde_json`.

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use super::{Data, Kind, NAME_MAX, Op, Payload, Shard};
use crate::protocols::json::{DEPTH_MAX, Stop};

fn scan(text: &str) -> Payload {
    Payload::scan(text.as_bytes(), true, &RandomState::new())
}

#[test]
fn a_message() {
    let payload = scan(
        r#"{"t":"MESSAGE_CREATE","s":4,"op":0,"d":{"type":19,"content":"{\"id\":\"9\"} \\\" \ud83d\ude00","mentions":[{"id":"7"}],
        "id":"1161000000000000001","author":{"username":"x","id":"77","bot":true,"avatar":null},"message_reference":
        {"type":0,"message_id":"55","channel_id":"8"},"referenced_message":{"id":"55","channel_id":"8","author":{"id":"6"}},
        "member":{"nick":null,"roles":["1"]},"webhook_id":"12","channel_id":"42","guild_id":"41","nonce":"3"}}"#,
    );
    let data = Data {
        kind: Kind::Object,
        id: Some(1_161_000_000_000_000_001),
        channel: Some(42),
        guild: Some(41),
        webhook: Some(12),
        r#type: Some(19),
        author: Some(77),
        author_is_bot: Some(true),
        refers_to: Some(55),
        ..Data::default()
    };
    let expected = Payload {
        op: Some(Op::Dispatch),
        event: Some("MESSAGE_CREATE".into()),
        sequence: Some(4),
        is_inbound: true,
        data,
        stop: Stop::Whole,
    };
    assert_eq!(payload, expected);
}

#[test]
fn an_interaction() {
    let hasher = RandomState::new();
    let text = r#"{"t":"INTERACTION_CREATE","s":5,"op":0,"d":{"type":2,"token":"aW\u0035-secret","id":"10","member":{"user":
        {"id":"3"}},"data":{"type":1,"name":"gr\u00fcße","id":"2","options":[{"name":"text","value":"hello"}]},"channel_id":"4"}}"#;
    let data = Payload::scan(text.as_bytes(), true, &hasher).data;
    assert_eq!((data.r#type, data.id, data.member, data.user), (Some(2), Some(10), Some(3), None));
    assert_eq!((data.command.as_deref(), data.has_custom_id), (Some("grüße"), false));
    assert_eq!(data.token, Some(hasher.hash_one(b"aW5-secret".as_slice())));

    let button = scan(
        r#"{"t":"INTERACTION_CREATE","s":5,"op":0,"d":{"user":{"id":"3"},"data":{"custom_id":"x","component_type":2}}}"#,
    );
    assert_eq!((button.data.user, button.data.has_custom_id, button.data.command), (Some(3), true, None));
}

#[test]
fn the_beginning_of_a_session() {
    let hasher = RandomState::new();
    let hash = |text: &str| Some(hasher.hash_one(text.as_bytes()));
    let scan = |text: &str| Payload::scan(text.as_bytes(), true, &hasher);
    let hello = scan(r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"gateway\"]"]}}"#);
    assert_eq!((hello.op, hello.is_inbound, hello.event, hello.sequence), (Some(Op::Hello), true, None, None));
    assert_eq!(hello.data.heartbeat_interval, Some(41_250));
    let ready = scan(
        r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"99","bot":true},"shard":[1,3],"session_id":"ab",
        "guilds":[{"id":"1","unavailable":true},{"id":"2","unavailable":true}],"application":{"id":"98"}}}"#,
    );
    let data = ready.data;
    assert_eq!((data.user, data.shard, data.guilds), (Some(99), Some(Shard { index: 1, count: 3 }), Some(2)));
    assert_eq!((data.session, data.id, data.unavailable), (hash("ab"), None, None));
    let identify = scan(r#"{"op":2,"d":{"token":"secret","properties":{"os":"linux"},"shard":[0,1],"intents":513}}"#);
    assert_eq!((identify.op, identify.is_inbound), (Some(Op::Identify), false));
    assert_eq!((identify.data.has_token, identify.data.token), (true, None), "a bot's own token is not even hashed");
    let resume = scan(r#"{"op":6,"d":{"token":"secret","session_id":"ab","seq":251}}"#);
    assert_eq!((resume.op, resume.data.session, resume.data.token), (Some(Op::Resume), hash("ab"), None));
}

#[test]
fn what_is_no_object() {
    let kind = |text: &str| scan(&format!(r#"{{"op":1,"d":{text}}}"#)).data.kind;
    for (text, expected) in [
        ("251", Kind::Number(251)),
        ("null", Kind::Null),
        ("true", Kind::Bool(true)),
        ("-1", Kind::Other),
        ("1.5", Kind::Other),
        ("\"1\"", Kind::Other),
        ("[1]", Kind::Other),
        ("{}", Kind::Object),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
    assert_eq!(scan(r#"{"op":1}"#).data.kind, Kind::Absent);
    for text in ["[{\"op\":1}]", "\"op\"", "1", "null"] {
        assert_eq!(scan(text).op, None, "{text}");
    }
}

#[test]
fn names_that_are_none() {
    let event = |name: &str| scan(&format!(r#"{{"t":"{name}"}}"#)).event;
    assert_eq!(event(&"A".repeat(64)).as_deref(), Some(&*"A".repeat(64)));
    assert_eq!(event(r"MESSAGE\u005fCREATE").as_deref(), Some("MESSAGE_CREATE"));
    for name in [&*"A".repeat(65), "", "message_create", "A B", "Ä", "A1", &"A".repeat(1 << 20)] {
        assert_eq!(event(name), None, "{} bytes", name.len());
    }
    let command =
        |name: &str| scan(&format!(r#"{{"t":"INTERACTION_CREATE","d":{{"data":{{"name":"{name}"}}}}}}"#)).data.command;
    assert_eq!(command(&"ü".repeat(NAME_MAX)).as_deref(), Some(&*"ü".repeat(NAME_MAX)));
    for name in [&*"ü".repeat(NAME_MAX + 1), "", &"x".repeat(1 << 20)] {
        assert_eq!(command(name), None, "{} bytes", name.len());
    }
}

#[test]
fn where_it_stops() {
    let stop = |text: &str, whole| Payload::scan(text.as_bytes(), whole, &RandomState::new()).stop;
    let half = r#"{"op":0,"d":{"content":"ab"#;
    assert_eq!([stop(half, false), stop(half, true)], [Stop::Truncated, Stop::Malformed]);
    assert_eq!(
        [stop("{} \r\n", true), stop("{}{", true), stop("{}{", false)],
        [Stop::Whole, Stop::Malformed, Stop::Whole]
    );
    assert_eq!(
        [stop(r#"{"op":0,,}"#, false), stop("", true), stop("", false)],
        [Stop::Malformed, Stop::Malformed, Stop::Truncated]
    );
}

#[test]
fn numbers_cut_off_are_not_told() {
    let scan = |text: &str| Payload::scan(text.as_bytes(), false, &RandomState::new());
    assert_eq!(scan(r#"{"op":1"#).op, None, "it may be 10");
    assert_eq!(scan(r#"{"op":1,"#).op, Some(Op::Heartbeat));
    let ready = scan(r#"{"d":{"guilds":[{"id":"1"},{"id":"2"}"#);
    assert_eq!(ready.data.guilds, None, "there may be more of them");
}

#[test]
fn hostile_depth_and_length() {
    for depth in [DEPTH_MAX as usize, 1000, 1_000_000] {
        let deep = |open: &str, close: &str| {
            format!(r#"{{"op":0,"t":"A","d":{{"x":{}1{},"id":"5"}}}}"#, open.repeat(depth), close.repeat(depth))
        };
        for text in [deep("[", "]"), deep(r#"{"d":"#, "}")] {
            let payload = scan(&text);
            assert_eq!((payload.data.id, payload.stop), (Some(5), Stop::Whole));
        }
        let half = format!(r#"{{"op":0,"d":{}"#, r#"{"d":"#.repeat(depth));
        assert_eq!(scan(&half).op, Some(Op::Dispatch));
    }
    let many = format!(r#"{{"op":0,"d":{{{}"id":"5"}}}}"#, r#""id":"4","author":{"id":"1"},"#.repeat(100_000));
    assert_eq!((scan(&many).data.id, scan(&many).data.author), (Some(5), Some(1)));
    let escapes = format!(r#"{{"t":"{}","{}":1,"op":7}}"#, r"\u0041".repeat(200_000), r"\\".repeat(200_000));
    assert_eq!((scan(&escapes).op, scan(&escapes).event), (Some(Op::Reconnect), None));
}

/// JSON in which names may stand twice, as text: `serde_json` could not hold it.
#[derive(Clone, Debug)]
enum Json {
    Leaf(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, escape: bool, out: &mut String) {
        match self {
            Self::Leaf(leaf) => out.push_str(leaf),
            Self::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    out.push_str(if at > 0 { " , " } else { "" });
                    element.write(escape, out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    let name = if escape { name.replace('d', "\\u0064") } else { name.clone() };
                    out.push_str(&format!("\"{name}\":"));
                    value.write(escape, out);
                }
                out.push('}');
            }
        }
    }
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "0", "1", "2", "251", "-1", "1.5", "1e3", "18446744073709551616"])
            .prop_map(|leaf| Json::Leaf(leaf.into())),
        any::<u64>().prop_map(|id| Json::Leaf(format!("\"{id}\""))),
        "[A-Z_]{1,8}".prop_map(|name| Json::Leaf(format!("\"{name}\""))),
        any::<String>().prop_map(|text| Json::Leaf(Value::from(text).to_string())),
        Just(Json::Leaf("\"INTERACTION_CREATE\"".into())),
    ];
    let name = select(vec![
        "op",
        "t",
        "s",
        "d",
        "id",
        "channel_id",
        "guild_id",
        "webhook_id",
        "type",
        "token",
        "session_id",
        "bot",
        "name",
        "heartbeat_interval",
        "unavailable",
        "author",
        "message_reference",
        "message_id",
        "user",
        "member",
        "data",
        "shard",
        "guilds",
        "custom_id",
        "x",
        "a_name_that_is_longer_than_any",
    ]);
    let array = |inner: BoxedStrategy<Json>| vec(inner, 0..4).prop_map(Json::Array);
    let inner = leaf.prop_recursive(4, 60, 8, move |inner| {
        let members = vec((name.clone(), inner.clone()), 0..8);
        let object = members.prop_map(|members| {
            Json::Object(members.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
        });
        prop_oneof![4 => object, 1 => array(inner.boxed())]
    });
    // Mostly a payload.
    let inner = inner.boxed();
    let payload =
        (inner.clone(), inner.clone(), vec(inner.clone(), 3), any::<bool>()).prop_map(|(d, again, rest, twice)| {
            let names = ["t", "s", "op"].map(String::from);
            let mut members: Vec<_> = names.into_iter().zip(rest).collect();
            members.push(("d".into(), d));
            if twice {
                members.push(("d".into(), again));
            }
            Json::Object(members)
        });
    prop_oneof![1 => inner, 4 => payload]
}

/// What `serde_json` finds.
fn truth(value: &Value, hasher: &RandomState) -> Payload {
    let at = |path: &str| value.pointer(path);
    let number = |path: &str| at(path).and_then(Value::as_u64);
    let id = |path: &str| {
        at(path).and_then(|value| match value {
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            value => value.as_u64(),
        })
    };
    let truth = |path: &str| at(path).and_then(Value::as_bool);
    let text = |path: &str| at(path).and_then(Value::as_str);
    let hash = |path: &str| text(path).map(|text| hasher.hash_one(text.as_bytes()));
    let event = text("/t").filter(|name| {
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    });
    let interaction = event == Some("INTERACTION_CREATE");
    let shard = at("/d/shard").and_then(Value::as_array).and_then(|shard| {
        let [index, count] = &shard[..] else { return None };
        let small = |value: &Value| u32::try_from(value.as_u64()?).ok();
        Some(Shard { index: small(index)?, count: small(count)? }).filter(|shard| shard.index < shard.count)
    });
    let object = |path: &str| at(path).is_some_and(Value::is_object);
    Payload {
        op: value.is_object().then(|| number("/op")).flatten().map(Op::from),
        event: event.map(Into::into),
        sequence: number("/s"),
        is_inbound: at("/t").is_some() && at("/s").is_some(),
        data: Data {
            kind: match at("/d") {
                None => Kind::Absent,
                Some(Value::Null) => Kind::Null,
                Some(Value::Bool(truth)) => Kind::Bool(*truth),
                Some(Value::Number(number)) => number.as_u64().map_or(Kind::Other, Kind::Number),
                Some(Value::Object(_)) => Kind::Object,
                Some(_) => Kind::Other,
            },
            id: id("/d/id"),
            channel: id("/d/channel_id"),
            guild: id("/d/guild_id"),
            webhook: id("/d/webhook_id"),
            r#type: number("/d/type"),
            author: id("/d/author/id"),
            author_is_bot: truth("/d/author/bot"),
            refers_to: id("/d/message_reference/message_id"),
            user: id("/d/user/id"),
            member: id("/d/member/user/id"),
            command: text("/d/data/name")
                .filter(|name| interaction && (1..=NAME_MAX).contains(&name.chars().count()))
                .map(Into::into),
            has_custom_id: object("/d/data") && at("/d/data/custom_id").is_some(),
            has_token: text("/d/token").is_some(),
            token: hash("/d/token").filter(|_| interaction),
            session: hash("/d/session_id"),
            heartbeat_interval: number("/d/heartbeat_interval"),
            shard,
            guilds: at("/d/guilds").and_then(Value::as_array).map(|guilds| guilds.len() as u32),
            unavailable: truth("/d/unavailable"),
        },
        stop: Stop::Whole,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..crate::regressions::config() })]

    #[test]
    fn it_finds_what_serde_json_finds(json in json(), escape in any::<bool>()) {
        let (mut text, hasher) = (String::new(), RandomState::new());
        json.write(escape, &mut text);
        let value: Value = serde_json::from_str(&text).expect("what was written is JSON");
        if value.is_object() {
            prop_assert_eq!(Payload::scan(text.as_bytes(), true, &hasher), truth(&value, &hasher), "{}", text);
        }
    }

    #[test]
    fn a_part_never_breaks_it(json in json(), cut in any::<Index>(), whole in any::<bool>(), flip in any::<(Index, u8)>()) {
        let (mut text, hasher) = (String::new(), RandomState::new());
        json.write(false, &mut text);
        let mut bytes = text.into_bytes();
        let part = &bytes[..cut.index(bytes.len() + 1)];
        let of_part = Payload::scan(part, whole, &hasher);
        let may_be_whole = part.len() == bytes.len() || bytes[0] != b'{';
        prop_assert!(may_be_whole || of_part.stop != Stop::Whole);
        let at = flip.0.index(bytes.len());
        bytes[at] = flip.1;
        let _ = Payload::scan(&bytes, whole, &hasher);
    }

    #[test]
    fn nothing_breaks_it(bytes in vec(prop_oneof![any::<u8>(), select(b"{}[]\",:\\u0dt".to_vec())], 0..200)) {
        let _ = Payload::scan(&bytes, true, &RandomState::new());
        let mut payload = br#"{"t":"READY","op":0,"d":{"#.to_vec();
        payload.extend(&bytes);
        let found = Payload::scan(&payload, false, &RandomState::new());
        // What came before stays known, unless its object ends and it is told anew.
        let may_change = bytes.contains(&b'}');
        prop_assert!(may_change || found.event.is_some() && found.op.is_some());
    }
}
