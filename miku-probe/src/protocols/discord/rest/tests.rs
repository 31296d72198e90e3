//! Templates by the routes that two libraries use, by example, and by property.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Every route of discord.py 2.7.1 and hikari 2.7.0, as their sources have them, with parameters by kind.
const ROUTES: &str = include_str!("routes.txt");

const SNOWFLAKE: &str = "1122334455667788990";
const WEBHOOK_TOKEN: &str = "3sHfvvBcmQYsXqIo4xZyVbKx-aWpTgRzLrmD_xoJkEjUhTnQwPyCvGiFlSdAbNeM0123";
const EMOJI: &str = "%F0%9F%8E%A4";

fn of(path: &str, is_discord: bool) -> Option<String> {
    let mut out = String::from("before");
    let taken = template(path, is_discord, &mut out);
    let template = out.strip_prefix("before").expect("what was there stays").to_owned();
    assert!(taken || template.is_empty(), "{path} left {template}");
    taken.then_some(template)
}

#[test]
fn every_route_of_the_libraries_has_a_template_of_its_own() {
    let mut templates = std::collections::HashMap::new();
    for route in ROUTES.lines() {
        let filled = |id: &str| {
            route
                .replace("{id}", id)
                .replace("{token}", WEBHOOK_TOKEN)
                .replace("{emoji}", EMOJI)
                .replace("{code}", "hgM48av5Q69A")
                .replace("{number}", "1")
                .replace("{text}", "i-1122-gc-3344-55")
        };
        let path = format!("/api/v10{}", filled(SNOWFLAKE));
        let told = of(&path, false).unwrap_or_else(|| panic!("{route} is not recognised"));
        assert_eq!(of(&path, true).as_ref(), Some(&told), "{route}");
        assert_eq!(of(&format!("/api/v10{}", filled("175928847299117063")), false).as_ref(), Some(&told), "{route}");
        let mut segments = told.strip_prefix("/api/v10/").expect("the version stays").split('/');
        for segment in route.split('/').skip(1) {
            let told = segments.next().unwrap_or_else(|| panic!("{route} lost {segment}"));
            match segment {
                "{token}" | "{emoji}" | "{code}" => assert_eq!(told, segment, "of {route}"),
                "{number}" | "{text}" | "{id}" => {
                    assert!(told.starts_with('{') && told.ends_with("_id}"), "of {route}");
                }
                name => assert_eq!(told, name, "of {route}"),
            }
        }
        assert_eq!(segments.next(), None, "of {route}");
        let before = templates.insert(told, route);
        assert_eq!(before, None, "{route} has the template of another");
    }
    assert!(templates.len() > 100, "{} routes", templates.len());
}

#[test]
fn templates() {
    for (path, expected) in [
        ("/api/v10/channels/1122334455667788990/messages/17", "/api/v10/channels/{channel_id}/messages/{message_id}"),
        ("/api/v10/users/@me", "/api/v10/users/@me"),
        (
            "/api/v10/applications/1122334455667788990/guilds/1122334455667788990/commands",
            "/api/v10/applications/\
            {application_id}/guilds/{guild_id}/commands",
        ),
        ("/api/v10/lobbies/1122334455667788990", "/api/v10/lobbies/{lobby_id}"),
        ("/api/webhooks/1122334455667788990/messages", "/api/webhooks/{webhook_id}/{token}"),
        ("/api/webhooks/1122334455667788990/@me/slack", "/api/webhooks/{webhook_id}/{token}/slack"),
        ("/api/v10/interactions/1/aW50/callback", "/api/v10/interactions/{interaction_id}/{token}/callback"),
        ("/api/v9/invites/channels", "/api/v9/invites/{code}"),
        ("/api/v10/secret/1122334455667788990/thing", "/api/v10/{*}/{id}/{*}"),
        ("/api/v10/channels/1122334455667788990/typing/", "/api/v10/channels/{channel_id}/typing/"),
        ("/api/v010/users", "/api/{*}/users"),
        ("/api/v100/users", "/api/{*}/users"),
        ("/api/v10", "/api/v10"),
        ("/api", "/api"),
        ("/api/v10/a/a/a/a/a/a/a/a/a/a/a/a/a", "/api/v10/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/…"),
    ] {
        assert_eq!(of(path, true).as_deref(), Some(expected), "{path}");
    }
    for path in ["/", "", "/apiary", "/channels/1122334455667788990", "*", "/login"] {
        assert_eq!(of(path, true), None, "{path}");
    }
}

#[test]
fn another_servers_paths_count_only_when_they_are_wholly_the_apis() {
    for path in [
        "/api/v10",
        "/api/v1/users/@me",
        "/api/v2/channels/1122334455667788990/messages",
        "/api/users/@me",
        "/api/v10/users/42",
        "/api/v10/users/1122334455667788990/orders",
        "/api/v10/orders/1122334455667788990",
        "/api/v10/messages/1122334455667788990",
        "/api/v10/users/",
        "/api/v10/webhooks/1122334455667788990/",
        "/prefix/api/v10/users/@me",
    ] {
        assert_eq!(of(path, false), None, "{path}");
    }
    assert_eq!(of("/api/v10/gateway/bot", false).as_deref(), Some("/api/v10/gateway/bot"));
}

#[test]
fn hosts_of_discord() {
    for host in ["discord.com", "Discord.com:443", "canary.discord.com", "ptb.discord.com", "discordapp.com"] {
        assert!(is_host(host), "{host}");
    }
    for host in ["", "evildiscord.com", "discord.com.example", "discord.gg", "com", "example:discord.com", "örd.com"] {
        assert!(!is_host(host), "{host}");
    }
}

/// A segment as it may stand in a path: a name of the API's, an id, a token, or anything.
fn segment() -> impl Strategy<Value = String> {
    let names: Vec<&str> = ROUTES.split(['/', '\n']).filter(|segment| !segment.contains('{')).collect();
    prop_oneof![
        4 => select(names).prop_map(str::to_owned),
        2 => "[0-9]{1,22}",
        2 => "[A-Za-z0-9_-]{20,90}",
        1 => "[A-Za-z0-9_.-]{150,250}",
        1 => "\\PC{0,20}",
        1 => "v[0-9]{1,3}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..crate::regressions::config() })]

    #[test]
    fn nothing_of_a_path_but_names_and_a_version_is_in_its_template(
        segments in vec(segment(), 0..16),
        is_discord in any::<bool>(),
    ) {
        let path = format!("/api/{}", segments.join("/"));
        let told = of(&path, is_discord);
        // Of another server's paths only those that are wholly the API's.
        prop_assert!(told.is_some() || !is_discord, "{path}");
        let told = told.unwrap_or_default();
        prop_assert!(told.len() <= 400, "{} bytes", told.len());
        prop_assert!(!told.bytes().collect::<Vec<_>>().windows(3).any(|run| run.iter().all(u8::is_ascii_digit)), "{told}");
        for (at, segment) in told.split('/').skip(2).enumerate() {
            let own = segment.is_empty() || segment == "…" || (segment.starts_with('{') && segment.ends_with('}'));
            let is_version = at == 0 && version(segment).is_some();
            let is_name = segment.len() <= 25 && ROOTS.contains(&segment) || word(segment).is_some();
            prop_assert!(own || is_version || is_name, "{segment} of {told}");
        }
    }

    #[test]
    fn what_stands_for_a_token_is_never_told(token in "[A-Za-z0-9_.-]{16,200}|[a-z]{5,12}|@me", rest in vec(segment(), 0..4)) {
        for resource in ["webhooks", "interactions"] {
            let path = format!("/api/v10/{resource}/{SNOWFLAKE}/{token}/{}", rest.join("/"));
            let told = of(&path, true);
            prop_assert!(told.as_deref().and_then(|told| told.split('/').nth(5)) == Some("{token}"), "{told:?}");
        }
    }
}
