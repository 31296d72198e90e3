//! Routes by example and by property.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{DEFAULT_CAP, OTHER, RouteError, RoutePattern, RouteTable, SEGMENTS_MAX, TEMPLATE_MAX, template};
use crate::units::{Symbol, Symbols};

fn automatic(path: &str) -> String {
    let mut out = String::new();
    template(path, &mut out);
    out
}

/// A table, and the texts of what it gives.
struct Service {
    table: RouteTable,
    symbols: Symbols,
}

impl Service {
    fn new(patterns: &[&str], cap: usize) -> Self {
        let patterns = patterns.iter().map(|text| text.parse().expect("a pattern"));
        let table = RouteTable::new(patterns.collect(), cap).expect("few patterns");
        Self { table, symbols: Symbols::default() }
    }

    fn route(&mut self, path: &str, status: u16) -> (&str, bool) {
        let (symbol, overflow) = self.table.route(path, (status != 0).then_some(status), &mut self.symbols);
        (self.symbols.text(symbol), overflow)
    }
}

#[test]
fn patterns_match_as_in_starlette() {
    let patterns = [
        "/users/me",
        "/users/{id}",
        "/items/{n:int}/rate/{x:float}",
        "/by/{u:uuid}",
        "/by/{name}.json",
        "/by/{rest:str}",
        "/files/{path:path}",
        "/a+b",
    ];
    let mut service = Service::new(&patterns, 100);
    for (path, expected) in [
        ("/users/me", "/users/me"),
        ("/users/17", "/users/{id}"),
        ("/users/a%2Fb", "/users/{id}"),
        ("/users/", "/users/"),
        ("/users/1/2", "/users/{id}/{id}"),
        ("/items/7/rate/2.5", "/items/{n:int}/rate/{x:float}"),
        ("/items/x/rate/2.5", "/items/x/rate/{id}"),
        ("/by/6f1d4f0e-3b1c-4c86-9f5e-0a6c1a2b3c4d", "/by/{u:uuid}"),
        ("/by/6f1d4f0e3b1c4c869f5e0a6c1a2b3c4d", "/by/{u:uuid}"),
        ("/by/x.json", "/by/{name}.json"),
        ("/by/x", "/by/{rest:str}"),
        ("/files/", "/files/{path:path}"),
        ("/files/a/b/c.txt", "/files/{path:path}"),
        ("/a+b", "/a+b"),
        ("/aab", "/aab"),
    ] {
        assert_eq!(service.route(path, 200), (expected, false), "{path}");
        assert_eq!(service.route(path, 200), (expected, false), "{path} again");
    }
}

#[test]
fn the_first_pattern_wins_whatever_the_status() {
    let mut service = Service::new(&["/{any}", "/health"], 0);
    assert_eq!(service.route("/health", 404), ("/{any}", false));
    assert_eq!(service.route("/health", 0), ("/{any}", false));
}

#[test]
fn what_is_no_pattern() {
    let error = |text: &str| RoutePattern::parse(text).expect_err("no pattern");
    let owned = String::from;
    assert_eq!(error("users"), RouteError::NoSlash("users".into()));
    assert_eq!(error(""), RouteError::NoSlash(String::new()));
    for text in ["/{id", "/id}", "/{a{b}}", "/a}{b}", "/{a}}"] {
        assert_eq!(error(text), RouteError::Unbalanced(text.into()));
    }
    for name in ["", "1a", "a b"] {
        let route = format!("/{{{name}}}");
        assert_eq!(error(&route), RouteError::Name { route: route.clone(), name: name.into() });
    }
    assert_eq!(error("/{a}/{a:int}"), RouteError::Duplicate { route: owned("/{a}/{a:int}"), name: owned("a") });
    assert_eq!(error("/{a:date}"), RouteError::Convertor { route: owned("/{a:date}"), convertor: owned("date") });
}

#[test]
fn automatic_templates() {
    for (path, expected) in [
        ("/", "/"),
        ("/users", "/users"),
        ("/users/", "/users/"),
        ("/users/@me", "/users/@me"),
        ("/api/v10/gateway/bot", "/api/v10/gateway/bot"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/models/llama-3.1-8b", "/models/llama-3.1-8b"),
        ("/oauth2/authorization-callback", "/oauth2/authorization-callback"),
        ("/getUserPermissionsByName", "/getUserPermissionsByName"),
        ("/facade/deadbeef", "/facade/deadbeef"),
        ("/items/7", "/items/{id}"),
        ("/on/2026-11-22", "/on/{id}"),
        ("/channels/112233445566778899/messages/998877665544332211", "/channels/{id}/messages/{id}"),
        ("/by/6F1D4F0E-3b1c-4c86-9f5e-0a6c1a2b3c4d/x", "/by/{uuid}/x"),
        ("/commit/deadbee1", "/commit/{token}"),
        ("/t/aGVsbG8gd29ybGQx", "/t/{token}"),
        ("/t/ab12cd34", "/t/{token}"),
        ("/t/QmFzZUhlbGxvV29ybGQ", "/t/{token}"),
        ("/t/xkqjzvwpfhgbtmnd", "/t/{token}"),
        ("/t/aSdFgHjKlQwErTyU", "/t/{token}"),
        ("/t/wVqO-mcaT_kLdXz-GtaePsBn", "/t/{token}"),
        ("/t/getUserPerms-byWorkspcMember-forTeams", "/t/{token}"),
        ("/getUserPermissions-byWorkspaceMember", "/getUserPermissions-byWorkspaceMember"),
        ("/DeepSeek-R1-Distill-Qwen-32B-GGUF", "/DeepSeek-R1-Distill-Qwen-32B-GGUF"),
        ("/models/Qwen2.5-Coder-32B-Instruct-GGUF", "/models/Qwen2.5-Coder-32B-Instruct-GGUF"),
        ("/list_all_conversations_for_workspace", "/list_all_conversations_for_workspace"),
        ("/createChatCompletionStream", "/createChatCompletionStream"),
        ("/.well-known/openid-configuration", "/.well-known/openid-configuration"),
        ("/internationalization", "/internationalization"),
        ("/posts/my-first-post-12345", "/posts/{token}"),
        ("/u/miku@example.org", "/u/{email}"),
        ("/q/a%20b", "/q/{token}"),
        ("/q/日本", "/q/{token}"),
        ("/q/\"quoted\"", "/q/{token}"),
        ("/q/{id}", "/q/{token}"),
        ("/static/app.3f2a9c.js", "/static/{file}.js"),
        ("/static/app.js", "/static/{file}.js"),
        ("/assets/img/logo-2x.png", "/assets/img/{file}.png"),
        ("/main-3f2a9c1b.css", "/{file}.css"),
        ("/favicon.ico", "/favicon.ico"),
        ("/openapi.json", "/openapi.json"),
        ("/exports/report-20261122.json", "/exports/{file}.json"),
        ("/.env", "/.env"),
        ("*", "*"),
        ("no/slash", "{target}"),
        ("/1/2/3/4/5/6/7/8/9", "/{id}/{id}/{id}/{id}/{id}/{id}/{id}/{id}/…"),
    ] {
        assert_eq!(automatic(path), expected, "{path}");
    }
    let long = format!("/q/{}", "x".repeat(65));
    assert_eq!(automatic(&long), "/q/{token}");
    let (one, other) = ("name-".repeat(12), "word-".repeat(12));
    assert_eq!(automatic(&format!("/{one}/{other}/end")), format!("/{one}/…"));
}

#[test]
fn the_cap_holds_and_says_so() {
    let mut service = Service::new(&["/always/{id}"], 2);
    assert_eq!(service.route("/a", 200), ("/a", false));
    assert_eq!(service.route("/b/1", 101), ("/b/{id}", false));
    assert_eq!(service.route("/c", 200), (OTHER, true));
    assert_eq!(service.route("/always/1", 200), ("/always/{id}", false));
    assert_eq!(service.route("/b/2", 404), ("/b/{id}", false), "a place once taken stays");
}

#[test]
fn trying_out_paths_takes_no_places() {
    let mut service = Service::new(&[], 2);
    for path in ["/wp-login.php", "/.env", "/admin", "/phpmyadmin"] {
        assert_eq!(service.route(path, 404), (OTHER, false));
        assert_eq!(service.route(path, 405), (OTHER, false));
        assert_eq!(service.route(path, 0), (OTHER, false));
    }
    assert_eq!(service.route("/admin", 200), ("/admin", false));
    assert_eq!(service.route("/admin", 0), ("/admin", false));
}

#[test]
fn targets_that_are_no_paths() {
    let mut service = Service::new(&[], DEFAULT_CAP);
    assert_eq!(service.table.route("", Some(200), &mut service.symbols), (Symbol::EMPTY, false));
    assert_eq!(service.route("*", 200), ("*", false));
    assert_eq!(service.route("/ws", 101), ("/ws", false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..crate::regressions::config() })]

    #[test]
    fn templates_are_short_and_clean(path in "\\PC{0,200}|/[a-z0-9/.%@-]{0,200}|(/[a-zA-Z0-9]{1,20}){0,20}") {
        let template = automatic(&path);
        prop_assert!(template.len() <= TEMPLATE_MAX, "{} bytes: {template}", template.len());
        prop_assert!(template.matches('/').count() <= SEGMENTS_MAX + 1);
        let clean = |character: char| character.is_ascii_graphic() || character == '…';
        prop_assert!(template.chars().all(clean), "{template}");
        prop_assert!(!template.contains(['"', '\\', '<', '%', '?', '#']), "{template}");
        let mut longer = String::from("before");
        super::template(&path, &mut longer);
        prop_assert_eq!(longer, format!("before{template}"));
    }

    #[test]
    fn secrets_are_in_no_template(
        // Tokens of Discord's webhooks, interactions, bots and OAuth; of Telegram's bots; API keys; Python's
        // `secrets.token_urlsafe`, `token_hex` and UUIDs.
        secret in "[A-Za-z0-9_-]{68}|[A-Za-z0-9_-]{150,230}|[MNO][A-Za-z]{3}[0-9][A-Za-z0-9]{19,23}\\.[A-Za-z0-9_-]{6}\\.[A-Za-z0-9_-]{27,38}|\
            [1-9][0-9]{8,9}:[A-Za-z0-9_-]{35}|sk-[A-Za-z0-9]{48}|sk-proj-[A-Za-z0-9_-]{60,150}|[A-Za-z0-9_-]{48,64}|[0-9a-f]{32,64}|\
            [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        before in "(/[a-z]{1,10}){0,3}",
        after in "(/[a-z]{1,10}){0,2}",
    ) {
        let template = automatic(&format!("{before}/{secret}{after}"));
        prop_assert!(
            secret.split(|character: char| !character.is_ascii_alphanumeric())
                .all(|part| part.len() < 4 || !template.split('/').any(|segment| segment.contains(part))),
            "{template}"
        );
        prop_assert!(template == format!("{before}/{{token}}{after}") || template == format!("{before}/{{uuid}}{after}"), "{template}");
    }

    #[test]
    fn no_paths_exceed_the_cap(
        cap in 0..20usize,
        paths in vec(("(/[a-z]{1,3}){1,3}|\\PC{0,30}", 200..600u16), 0..200),
    ) {
        let mut service = Service::new(&["/a/{id}"], cap);
        let mut routes = std::collections::HashSet::new();
        for (path, status) in &paths {
            let (route, overflow) = service.route(path, *status);
            prop_assert!(!overflow || route == OTHER);
            routes.insert(route.to_owned());
        }
        // The configured one, `other`, and the empty one come on top.
        prop_assert!(routes.len() <= cap + 3, "{routes:?}");
        prop_assert!(service.table.templates.len() <= cap);
        prop_assert!(service.table.scratch.capacity() <= 2 * TEMPLATE_MAX);
    }
}
