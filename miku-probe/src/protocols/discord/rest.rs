//! Route templates of Discord's REST API, from which every id, token, code and emoji is gone.
//!
//! A template is made of nothing but names that stand in this file, placeholders, and the API's version: no byte of a path
//! gets into it by another way. What a route's limit depends on (its channel, guild or webhook) is told apart by the resource
//! before it, as Discord documents its routes: <https://discord.com/developers/docs/reference>.

use std::fmt::Write as _;

/// Stands for a segment that is no name of the API's, where none of its routes has a parameter.
const UNKNOWN: &str = "{*}";

/// The most segments after the version; what follows them is `…`. The longest route has nine.
const SEGMENTS_MAX: usize = 12;

/// The first versions of the API are gone; a path with a lower one is another API's.
const VERSION_MIN: u8 = 6;

/// The names that a route begins with.
const ROOTS: [&str; 17] = [
    "applications",
    "auth",
    "channels",
    "gateway",
    "guilds",
    "interactions",
    "invites",
    "lobbies",
    "oauth2",
    "skus",
    "soundboard-default-sounds",
    "stage-instances",
    "sticker-packs",
    "stickers",
    "users",
    "voice",
    "webhooks",
];

/// A parameter of a route.
#[derive(Clone, Copy, Debug)]
enum Parameter {
    /// An id: <https://discord.com/developers/docs/reference#snowflakes>. A name may stand in its place.
    Id(&'static str),
    /// A small number. A name may stand in its place.
    Number(&'static str),
    /// Any text, such as a token: whatever stands there is never a name.
    Text(&'static str),
}

/// A name of the API's, and the parameters that follow it.
type Word = (&'static str, &'static [Parameter]);

/// Whether `name`, which may have a port, is a host of Discord's.
#[must_use]
pub fn is_host(name: &str) -> bool {
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    ["discord.com", "discordapp.com"].iter().any(|domain| {
        let Some(at) = name.len().checked_sub(domain.len()) else { return false };
        let (before, end) = (&name.as_bytes()[..at], &name.as_bytes()[at..]);
        end.eq_ignore_ascii_case(domain.as_bytes()) && (before.is_empty() || before.ends_with(b"."))
    })
}

/// Appends the template of `path`, which is without query and fragment, to `out`, and tells whether it is one of
/// Discord's REST API; if not, `out` is as it was.
///
/// With a server that `is_discord`, that is every path below `/api`. Elsewhere (a proxy may stand before Discord) only a
/// path counts that has a version, and of which every segment is a name or a parameter of the API's.
///
/// | path | template |
/// |---|---|
/// | `/api/v10/channels/1122…/messages/3344…` | `/api/v10/channels/{channel_id}/messages/{message_id}` |
/// | `/api/v10/webhooks/1122…/aW5ub2NlbnQ…/messages/@original` | `/api/v10/webhooks/{webhook_id}/{token}/messages/@original` |
/// | `/api/v10/channels/1122…/messages/3344…/reactions/%F0%9F…/@me` | `…/messages/{message_id}/reactions/{emoji}/@me` |
pub fn template(path: &str, is_discord: bool, out: &mut String) -> bool {
    let start = out.len();
    let taken = append(path, is_discord, out).is_some();
    if !taken {
        out.truncate(start);
    }
    taken
}

fn append(path: &str, lenient: bool, out: &mut String) -> Option<()> {
    let rest = path.strip_prefix("/api")?;
    out.push_str("/api");
    if rest.is_empty() {
        return lenient.then_some(());
    }
    let mut segments = rest.strip_prefix('/')?.split('/').peekable();
    match segments.peek().and_then(|segment| version(segment)) {
        Some(version) if lenient || version >= VERSION_MIN => {
            segments.next();
            write!(out, "/v{version}").ok()?;
        }
        _ if lenient => {}
        _ => return None,
    }
    if !lenient && !segments.peek().is_some_and(|root| ROOTS.contains(root)) {
        return None;
    }
    let mut expected: &[Parameter] = &[];
    for (at, segment) in segments.enumerate() {
        if at == SEGMENTS_MAX {
            out.push_str("/…");
            return lenient.then_some(());
        }
        let word = if matches!(expected, [Parameter::Text(_), ..]) { None } else { word(segment) };
        let name = match (word, expected) {
            (Some((name, parameters)), _) => {
                // `@me` takes the place of an id; any other name begins anew.
                expected = if name.starts_with('@') { expected.get(1..).unwrap_or_default() } else { parameters };
                name
            }
            (None, [parameter, more @ ..]) => {
                expected = more;
                let (name, fits) = match parameter {
                    Parameter::Id(name) => (name, is_number(segment, 15)),
                    Parameter::Number(name) => (name, is_number(segment, 1)),
                    Parameter::Text(name) => (name, !segment.is_empty()),
                };
                if !fits && !lenient {
                    return None;
                }
                name
            }
            (None, []) if !lenient => return None,
            (None, []) if segment.is_empty() => "",
            (None, []) if is_number(segment, 15) => "{id}",
            (None, []) => UNKNOWN,
        };
        out.push('/');
        out.push_str(name);
    }
    Some(())
}

/// The number of the API's version.
fn version(segment: &str) -> Option<u8> {
    let digits = segment.strip_prefix('v')?;
    let plain = (1..=2).contains(&digits.len()) && is_number(digits, 1) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

/// Whether it is a number of `least` to 20 digits, which is what 64 bits have.
fn is_number(segment: &str, least: usize) -> bool {
    (least..=20).contains(&segment.len()) && segment.bytes().all(|byte| byte.is_ascii_digit())
}

/// The API's name that reads so, and what follows it. Names that are not here become parameters or [`UNKNOWN`].
fn word(segment: &str) -> Option<Word> {
    use Parameter::{Id, Number, Text};
    if segment.starts_with(|first: char| first.is_ascii_digit()) {
        // An id, as most that is no name.
        return None;
    }
    Some(match segment {
        "activity-instances" => ("activity-instances", &[Text("{instance_id}")]),
        "answers" => ("answers", &[Number("{answer_id}")]),
        "applications" => ("applications", &[Id("{application_id}")]),
        "bans" => ("bans", &[Id("{user_id}")]),
        "channels" => ("channels", &[Id("{channel_id}")]),
        "commands" => ("commands", &[Id("{command_id}")]),
        "emojis" => ("emojis", &[Id("{emoji_id}")]),
        "entitlements" => ("entitlements", &[Id("{entitlement_id}")]),
        "guilds" => ("guilds", &[Id("{guild_id}")]),
        "integrations" => ("integrations", &[Id("{integration_id}")]),
        "interactions" => ("interactions", &[Id("{interaction_id}"), Text("{token}")]),
        "invites" => ("invites", &[Text("{code}")]),
        "lobbies" => ("lobbies", &[Id("{lobby_id}")]),
        "members" => ("members", &[Id("{user_id}")]),
        "messages" => ("messages", &[Id("{message_id}")]),
        "permissions" => ("permissions", &[Id("{overwrite_id}")]),
        "pins" => ("pins", &[Id("{message_id}")]),
        "polls" => ("polls", &[Id("{message_id}")]),
        "reactions" => ("reactions", &[Text("{emoji}"), Id("{user_id}")]),
        "recipients" => ("recipients", &[Id("{user_id}")]),
        "role-connection" => ("role-connection", &[]),
        "role-connections" => ("role-connections", &[]),
        "roles" => ("roles", &[Id("{role_id}")]),
        "rules" => ("rules", &[Id("{rule_id}")]),
        "scheduled-events" => ("scheduled-events", &[Id("{event_id}")]),
        "skus" => ("skus", &[Id("{sku_id}")]),
        "soundboard-sounds" => ("soundboard-sounds", &[Id("{sound_id}")]),
        "stage-instances" => ("stage-instances", &[Id("{channel_id}")]),
        "sticker-packs" => ("sticker-packs", &[Id("{pack_id}")]),
        "stickers" => ("stickers", &[Id("{sticker_id}")]),
        "subscriptions" => ("subscriptions", &[Id("{subscription_id}")]),
        "templates" => ("templates", &[Text("{code}")]),
        "thread-members" => ("thread-members", &[Id("{user_id}")]),
        "users" => ("users", &[Id("{user_id}")]),
        "voice-states" => ("voice-states", &[Id("{user_id}")]),
        "webhooks" => ("webhooks", &[Id("{webhook_id}"), Text("{token}")]),
        _ => (plain_word(segment)?, &[]),
    })
}

/// A name that no parameter follows.
fn plain_word(segment: &str) -> Option<&'static str> {
    const PLAIN: [&str; 56] = [
        "@me",
        "@original",
        "active",
        "archived",
        "attachments",
        "audit-logs",
        "auth",
        "authorize",
        "auto-moderation",
        "bot",
        "bulk",
        "bulk-ban",
        "bulk-delete",
        "callback",
        "channel-linking",
        "connections",
        "consume",
        "crosspost",
        "expire",
        "followers",
        "gateway",
        "github",
        "incident-actions",
        "job-status",
        "keys",
        "logout",
        "member",
        "member-counts",
        "member-verification",
        "metadata",
        "mfa",
        "nick",
        "oauth2",
        "onboarding",
        "preview",
        "private",
        "prune",
        "public",
        "regions",
        "revoke",
        "search",
        "send-soundboard-sound",
        "slack",
        "soundboard-default-sounds",
        "sync",
        "target-users",
        "threads",
        "token",
        "typing",
        "vanity-url",
        "voice",
        "voice-status",
        "welcome-screen",
        "widget",
        "widget.json",
        "widget.png",
    ];
    PLAIN.into_iter().find(|plain| *plain == segment)
}

#[cfg(test)]
mod tests;
