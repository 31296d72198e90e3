//! The scanner against `serde_json`, which reads the same texts.

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use super::{DEPTH_MAX, Item, Number, Scanner, Stop, Text, What};

fn decoded(text: Text<'_>) -> String {
    String::from_utf8(text.decoded().collect()).expect("a string that was UTF-8 stays UTF-8")
}

/// Puts together again what the scanner took apart.
fn value(bytes: &[u8]) -> Value {
    let mut scanner = Scanner::new(bytes);
    let mut open: Vec<(Option<String>, Value)> = Vec::new();
    while let Some(item) = scanner.next() {
        let (mut key, mut value) = (item.key.map(decoded), Value::Null);
        match item.what {
            What::Object => value = Value::Object(serde_json::Map::new()),
            What::Array => value = Value::Array(Vec::new()),
            What::End => (key, value) = open.pop().expect("what ends has begun"),
            What::Text(text) => value = Value::String(decoded(text)),
            What::Number(number) => {
                value = match number.unsigned() {
                    Some(number) => number.into(),
                    None => number.float().expect("a number is one").into(),
                }
            }
            What::Bool(truth) => value = truth.into(),
            What::Null => {}
        }
        assert_eq!(item.depth as usize, open.len());
        if matches!(item.what, What::Object | What::Array) {
            open.push((key, value));
            continue;
        }
        match (open.last_mut(), key) {
            (Some((_, Value::Object(members))), Some(key)) => _ = members.insert(key, value),
            (Some((_, Value::Array(elements))), None) => elements.push(value),
            (None, None) => {
                assert_eq!(scanner.next(), None);
                assert_eq!(scanner.stop(), Some(Stop::Whole));
                return value;
            }
            other => panic!("a value without a place: {other:?}"),
        }
    }
    panic!("no whole value: {:?}", scanner.stop());
}

/// Writes every character outside ASCII as an escape, as Python's `json` does.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no such number", |number| number.fract() != 0.0).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\\\\"{}\\[\\],:\n\u{1f600}é]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All items, texts and numbers of which the end is not known left out.
fn whole_items(bytes: &[u8]) -> Vec<Item<'_>> {
    let cut = |item: &Item<'_>| match item.what {
        What::Text(text) => !text.is_whole(),
        What::Number(Number { whole, .. }) => !whole,
        _ => false,
    };
    Scanner::new(bytes).filter(|item| !cut(item)).collect()
}

proptest! {
    #![proptest_config(crate::regressions::config())]

    #[test]
    fn it_reads_what_serde_reads(truth in any_value()) {
        // A number alone might go on, as far as anyone can tell.
        let text = format!("[{truth}]");
        prop_assert_eq!(&value(text.as_bytes())[0], &truth);
        prop_assert_eq!(&value(escaped(&text).as_bytes())[0], &truth);
        let pretty = serde_json::to_string_pretty(&[&truth]).expect("a value can be written");
        prop_assert_eq!(&value(pretty.as_bytes())[0], &truth);
    }

    #[test]
    fn a_prefix_tells_the_first_of_what_the_whole_tells(truth in any_value(), cut in any::<Index>()) {
        let text = format!("[{truth}]");
        let end = cut.index(text.len());
        let (whole, part) = (whole_items(text.as_bytes()), whole_items(&text.as_bytes()[..end]));
        prop_assert!(whole.starts_with(&part), "{part:?}");
        let mut scanner = Scanner::new(&text.as_bytes()[..end]);
        while scanner.next().is_some() {}
        prop_assert_eq!(scanner.stop(), Some(Stop::Truncated));
    }

    #[test]
    fn leaving_a_container_goes_on_behind_it(truth in any_value(), after in any::<u64>()) {
        let text = format!(r#"{{"first":[{truth},{truth}],"after":{after}}}"#);
        for steps in 0..3 {
            let mut scanner = Scanner::new(text.as_bytes());
            for _ in 0..2 + steps {
                scanner.next();
            }
            while scanner.depth() > 1 {
                scanner.leave();
            }
            let item = scanner.next().expect("more is to come");
            prop_assert!(item.is("after") && item.depth == 1, "{item:?}");
            prop_assert_eq!(item.what.id(), Some(after));
        }
    }

    #[test]
    fn nothing_breaks_it(pieces in vec(prop_oneof![
        Just(b"{".to_vec()), Just(b"[".to_vec()), Just(b"}".to_vec()), Just(b"]".to_vec()), Just(b"\"".to_vec()),
        Just(b"\\".to_vec()), Just(b"\\ud83d".to_vec()), Just(b"\\u".to_vec()), Just(b":".to_vec()), Just(b",".to_vec()),
        Just(b"\"a\":".to_vec()), Just(b"tru".to_vec()), Just(b"null".to_vec()), Just(b"-1e+".to_vec()),
        Just(b"99999999999999999999999".to_vec()), vec(any::<u8>(), 1..6),
    ], 0..60), leaves in vec(any::<bool>(), 60)) {
        let bytes = pieces.concat();
        let hasher = RandomState::new();
        let mut scanner = Scanner::new(&bytes);
        for leave in leaves.iter().cycle().take(bytes.len() + 2) {
            let Some(item) = scanner.next() else { break };
            prop_assert!(item.depth <= DEPTH_MAX);
            if let What::Text(text) = item.what {
                let _ = (text.hash(&hasher), text.id());
            }
            if *leave {
                scanner.leave();
            }
        }
        // Every item takes a byte at least.
        prop_assert!(scanner.stop().is_some());
        prop_assert!(scanner.offset() <= bytes.len());
    }
}

#[test]
fn what_is_too_deep_reads_as_empty() {
    let depth = 100_000;
    let deep = format!(r#"{{"a":{}{},"b":7}}"#, "[{\"x\":".repeat(depth), "}]".repeat(depth));
    // The innermost member has no value, which nobody looks at.
    let items: Vec<_> = Scanner::new(deep.as_bytes()).collect();
    assert_eq!(items.iter().filter(|item| matches!(item.what, What::End)).count(), DEPTH_MAX as usize + 1);
    assert_eq!(items.iter().find(|item| item.is("b")).and_then(|item| item.what.id()), Some(7));
    assert_eq!(items.last().map(|item| (item.depth, item.what)), Some((0, What::End)));
    let mut bomb = Scanner::new(&deep.as_bytes()[..depth]);
    while bomb.next().is_some() {}
    assert_eq!(bomb.stop(), Some(Stop::Truncated));
}

#[test]
fn what_is_no_json_stops() {
    for text in ["{]", "[1 2]", "{1:2}", "{\"a\" 1}", "[truth]", "x", "{\"a\":}", "[}", ",", "{,}"] {
        let mut scanner = Scanner::new(text.as_bytes());
        while scanner.next().is_some() {}
        assert_eq!(scanner.stop(), Some(Stop::Malformed), "{text}");
    }
}

#[test]
fn texts() {
    let only = |text: &'static str| match Scanner::new(text.as_bytes()).next().expect("there is a value").what {
        What::Text(text) => text,
        what => panic!("no text: {what:?}"),
    };
    assert!(only(r#""na\u006d\u0065""#).is("name") && only(r#""name""#).is("name") && !only(r#""name"#).is("name"));
    assert_eq!((only(r#""12""#).id(), only(r#""12"#).id(), only(r#""""#).id()), (Some(12), None, None));
    assert_eq!(only(r#""18446744073709551616""#).id(), None, "it does not fit");
    assert_eq!(decoded(only(r#""\ud83d\ude00 \ud83d! \n\/\"""#)), "\u{1f600} \u{fffd}! \n/\"");
    assert_eq!(decoded(only(r#""\b\f\r\t\\""#)), "\u{8}\u{c}\r\t\\");
    assert_eq!(decoded(only(r#""a\ud8"#)), "a", "an escape that is cut off is nothing yet");
    let hasher = RandomState::new();
    let truth = hasher.hash_one("tökén".as_bytes());
    assert_eq!(only(r#""tökén""#).hash(&hasher), Some(truth));
    assert_eq!(only(r#""t\u00f6k\u00e9n""#).hash(&hasher), Some(truth));
    assert_eq!(only(r#""tök"#).hash(&hasher), None);
    assert!(!format!("{:?}", only(r#""canary""#)).contains("canary"));
}
