//! What is told of a bot on Discord: replies, the gateway, and what is used of it. Rate limits are in `limits.rs`.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::catalog::{Catalog, FAST_BUCKETS, HTTP_BUCKETS, family};
use super::keys::{OTHER, Text};
use super::{FastMap, io_direction};
use crate::observations::{
    ConversationOutcome, Discord, GatewayChange, Names, Phase, Phases, ReconnectReason, ReplyKind, Shard,
};
use crate::sinks::families::Family;
use crate::units::{ServiceId, Symbol};

/// How many different combinations of labels the families of events and of commands have before these become `other`.
const SERIES_LIMIT: usize = 1_000;

/// How many shards of all services are told apart before the rest is `other`.
const SHARD_LIMIT: usize = 500;

/// How many different combinations of shard, reason and close code are told apart before codes become `other`.
const RECONNECT_LIMIT: usize = 500;

/// Joules: what a GPU of 100 W draws in a tenth of a second to what eight of 700 W draw in ten.
const ENERGY_BUCKETS: &[f64] =
    &[10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0];

/// A label that was over its cap, if any.
type Overflow = Option<&'static str>;

/// The families of Discord.
struct Families {
    reply_duration: Family<Histogram, 2>,
    reply_phase: Family<Histogram, 2>,
    energy: Family<Histogram, 1>,
    unanswered: Family<IntCounter, 2>,
    started: Family<IntCounter, 2>,
    ended: Family<IntCounter, 3>,
    open: Family<IntGauge, 2>,
    up: Family<IntGauge, 2>,
    heartbeat: Family<Histogram, 2>,
    missed: Family<IntCounter, 2>,
    reconnects: Family<IntCounter, 4>,
    sessions: Family<IntCounter, 2>,
    events: Family<IntCounter, 2>,
    commands: Family<IntCounter, 2>,
    active_users: Family<IntGauge, 2>,
    active_channels: Family<IntGauge, 2>,
    guilds: Family<IntGauge, 1>,
    voice: Family<IntCounter, 2>,
}

impl Families {
    fn new(catalog: &Catalog) -> Self {
        Self {
            reply_duration: family(
                catalog,
                "miku_discord_reply_duration_seconds",
                "Time that a person waited for the bot's answer, from when the gateway's event had come to its socket to when \
                 the end of the first REST call that answers it had. Typing is no answer.",
                ["service", "kind"],
                HTTP_BUCKETS,
            ),
            reply_phase: family(
                catalog,
                "miku_discord_reply_phase_seconds",
                "Where the time of miku_discord_reply_duration_seconds went; the phases of a reply add up to it. What is \
                 not certain is in the phase other, and a phase that a reply did not have is not observed.",
                ["service", "phase"],
                HTTP_BUCKETS,
            ),
            energy: family(
                catalog,
                "miku_discord_reply_energy_joules",
                "What this machine's GPUs drew for a reply: for the calls of language models that the bot certainly made for it \
                 to a server on this machine that is watched too, by the same shares as miku_llm_energy_joules_total.",
                ["service"],
                ENERGY_BUCKETS,
            ),
            unanswered: family(
                catalog,
                "miku_discord_unanswered_total",
                "Messages and interactions that the bot certainly began to answer, and then did not for five minutes, or \
                 until its process ended.",
                ["service", "kind"],
                &[],
            ),
            started: family(
                catalog,
                "miku_discord_conversations_started_total",
                "Messages and interactions of people on which the bot acted: it typed, called a language model, deferred, or \
                 answered. What the bot ignores does not count.",
                ["service", "kind"],
                &[],
            ),
            ended: family(
                catalog,
                "miku_discord_conversations_ended_total",
                "Those of miku_discord_conversations_started_total that are over, each once: replied (its duration is in \
                 miku_discord_reply_duration_seconds), form (the person was shown one), ambiguous (the bot wrote what may answer \
                 this person or another), unanswered, or unknown (too much was not seen).",
                ["service", "kind", "outcome"],
                &[],
            ),
            open: family(
                catalog,
                "miku_discord_conversations_open",
                "Those of miku_discord_conversations_started_total that are not over, as of the last second.",
                ["service", "kind"],
                &[],
            ),
            up: family(
                catalog,
                "miku_discord_gateway_up",
                "1 while the gateway acknowledges the bot's heartbeats, 0 while it does not or is not connected.",
                ["service", "shard"],
                &[],
            ),
            heartbeat: family(
                catalog,
                "miku_discord_gateway_heartbeat_seconds",
                "Time from a heartbeat of the bot's to the gateway's acknowledgement.",
                ["service", "shard"],
                FAST_BUCKETS,
            ),
            missed: family(
                catalog,
                "miku_discord_gateway_missed_heartbeats_total",
                "Heartbeats of the bot's that the gateway did not acknowledge before the next one.",
                ["service", "shard"],
                &[],
            ),
            reconnects: family(
                catalog,
                "miku_discord_gateway_reconnects_total",
                "Times that the bot had to connect to the gateway anew, by the reason and the close frame's code if there \
                 was one.",
                ["service", "shard", "reason", "close_code"],
                &[],
            ),
            sessions: family(
                catalog,
                "miku_discord_gateway_session_starts_total",
                "Sessions that began anew at the gateway. Discord allows a bot only so many a day; resumed ones do not \
                 count.",
                ["service", "shard"],
                &[],
            ),
            events: family(
                catalog,
                "miku_discord_gateway_events_total",
                "Events that the gateway dispatched to the bot.",
                ["service", "event"],
                &[],
            ),
            commands: family(
                catalog,
                "miku_discord_commands_total",
                "Commands that people used.",
                ["service", "command"],
                &[],
            ),
            active_users: family(
                catalog,
                "miku_discord_active_users",
                "People who wrote where the bot listens, or used it, within the window, as far as the probe has watched. \
                 Above 65,536 an estimate within 5 percent.",
                ["service", "window"],
                &[],
            ),
            active_channels: family(
                catalog,
                "miku_discord_active_channels",
                "Channels in which they did, counted alike.",
                ["service", "window"],
                &[],
            ),
            guilds: family(
                catalog,
                "miku_discord_guilds",
                "Guilds that the bot is in; absent until a session began while the probe watched.",
                ["service"],
                &[],
            ),
            voice: family(
                catalog,
                "miku_discord_voice_bytes_total",
                "Bytes that voice connections received or transmitted.",
                ["service", "direction"],
                &[],
            ),
        }
    }
}

/// A shard's label, or that there are too many.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ShardText {
    Shard(Shard),
    Other,
}

impl ShardText {
    fn text(self) -> String {
        match self {
            Self::Shard(shard) => shard.label(),
            Self::Other => OTHER.to_owned(),
        }
    }
}

/// The code of a close frame, or that there are too many.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum CloseCode {
    None,
    Code(u16),
    Other,
}

impl CloseCode {
    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Code(code) => code.to_string(),
            Self::Other => OTHER.to_owned(),
        }
    }
}

/// The series of one kind of replies.
struct ReplySeries {
    duration: Histogram,
    unanswered: IntCounter,
    started: IntCounter,
    ended: [IntCounter; ConversationOutcome::ALL.len()],
    open: IntGauge,
}

/// The series of a shard's gateway; none until there is something to tell.
#[derive(Default)]
struct ShardSeries {
    up: Option<IntGauge>,
    heartbeat: Option<Histogram>,
    missed: Option<IntCounter>,
    sessions: Option<IntCounter>,
}

/// The series of Discord.
pub(super) struct Series {
    families: Families,
    replies: FastMap<(ServiceId, ReplyKind), ReplySeries>,
    phases: FastMap<(ServiceId, Phase), Histogram>,
    shards: FastMap<(ServiceId, ShardText), ShardSeries>,
    reconnects: FastMap<(ServiceId, ShardText, ReconnectReason, CloseCode), IntCounter>,
    events: FastMap<(ServiceId, Text), IntCounter>,
    commands: FastMap<(ServiceId, Text), IntCounter>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self {
            families: Families::new(catalog),
            replies: FastMap::default(),
            phases: FastMap::default(),
            shards: FastMap::default(),
            reconnects: FastMap::default(),
            events: FastMap::default(),
            commands: FastMap::default(),
        }
    }

    /// Takes one observation in, and tells whether a label was over its cap.
    pub(super) fn observe(&mut self, service: ServiceId, what: &Discord, names: &Names) -> Overflow {
        let name = names.service(service);
        match *what {
            Discord::Reply { kind, duration, ref phases } => {
                self.replies(service, kind, name).duration.observe(duration.seconds());
                self.phases(service, phases, name);
                None
            }
            Discord::Energy { joules } => {
                self.families.energy.get([name]).observe(joules);
                None
            }
            Discord::Unanswered { kind } => {
                self.replies(service, kind, name).unanswered.inc();
                None
            }
            Discord::ConversationStarted { kind } => {
                self.replies(service, kind, name).started.inc();
                None
            }
            Discord::ConversationEnded { kind, outcome } => {
                self.replies(service, kind, name).ended[outcome as usize].inc();
                None
            }
            Discord::ConversationsOpen { kind, change } => {
                self.replies(service, kind, name).open.add(change);
                None
            }
            Discord::Gateway { shard, change, .. } => self.gateway(service, shard, change, name),
            Discord::Event { name: event } => {
                count(&mut self.events, &self.families.events, service, event, names).then_some("event")
            }
            Discord::Command { name: command } => {
                count(&mut self.commands, &self.families.commands, service, command, names).then_some("command")
            }
            Discord::Active(active) => {
                let labels = [name, active.window.as_str()];
                self.families.active_users.get(labels).set(gauge(active.users));
                self.families.active_channels.get(labels).set(gauge(active.channels));
                None
            }
            Discord::Guilds(guilds) => {
                match guilds {
                    Some(guilds) => self.families.guilds.get([name]).set(gauge(guilds)),
                    None => self.families.guilds.remove([name]),
                }
                None
            }
            Discord::Voice { direction, bytes } => {
                self.families.voice.get([name, io_direction(direction)]).inc_by(bytes);
                None
            }
        }
    }

    fn replies(&mut self, service: ServiceId, kind: ReplyKind, name: &str) -> &ReplySeries {
        self.replies.entry((service, kind)).or_insert_with(|| ReplySeries {
            duration: self.families.reply_duration.get([name, kind.as_str()]),
            unanswered: self.families.unanswered.get([name, kind.as_str()]),
            started: self.families.started.get([name, kind.as_str()]),
            ended: ConversationOutcome::ALL
                .map(|outcome| self.families.ended.get([name, kind.as_str(), outcome.as_str()])),
            open: self.families.open.get([name, kind.as_str()]),
        })
    }

    fn phases(&mut self, service: ServiceId, phases: &Phases, name: &str) {
        for (phase, time) in phases.seen() {
            self.phases
                .entry((service, phase))
                .or_insert_with(|| self.families.reply_phase.get([name, phase.as_str()]))
                .observe(time.seconds());
        }
    }

    fn gateway(&mut self, service: ServiceId, shard: Shard, change: GatewayChange, name: &str) -> Overflow {
        let Self { families, shards, .. } = self;
        let mut key = (service, ShardText::Shard(shard));
        if change == GatewayChange::Gone {
            families.up.remove([name, &key.1.text()]);
            if let Some(series) = shards.get_mut(&key) {
                series.up = None;
            }
            return None;
        }
        let over = shards.len() >= SHARD_LIMIT && !shards.contains_key(&key);
        if over {
            key.1 = ShardText::Other;
        }
        let shard = key.1.text();
        let labels = [name, &*shard];
        let series = shards.entry(key).or_default();
        // No value would be true of all shards over the cap.
        let up = |series: &mut ShardSeries, up: i64| {
            if !over {
                series.up.get_or_insert_with(|| families.up.get(labels)).set(up);
            }
        };
        let mut overflow = over.then_some("shard");
        match change {
            GatewayChange::Gone => {}
            GatewayChange::Up => up(series, 1),
            GatewayChange::Down => up(series, 0),
            GatewayChange::Heartbeat(time) => {
                series.heartbeat.get_or_insert_with(|| families.heartbeat.get(labels)).observe(time.seconds());
                // Heartbeats are seen, so none missed is a count.
                series.missed.get_or_insert_with(|| families.missed.get(labels));
            }
            GatewayChange::Missed => series.missed.get_or_insert_with(|| families.missed.get(labels)).inc(),
            GatewayChange::SessionStarted => {
                series.sessions.get_or_insert_with(|| families.sessions.get(labels)).inc();
            }
            GatewayChange::Reconnect { reason, close_code } => {
                overflow = overflow.or(self.reconnect(key, reason, close_code, labels));
            }
        }
        overflow
    }

    fn reconnect(
        &mut self,
        (service, shard): (ServiceId, ShardText),
        reason: ReconnectReason,
        close_code: Option<u16>,
        [name, shard_label]: [&str; 2],
    ) -> Overflow {
        let mut code = close_code.map_or(CloseCode::None, CloseCode::Code);
        let full = self.reconnects.len() >= RECONNECT_LIMIT;
        let over = full
            && matches!(code, CloseCode::Code(_))
            && !self.reconnects.contains_key(&(service, shard, reason, code));
        if over {
            code = CloseCode::Other;
        }
        self.reconnects
            .entry((service, shard, reason, code))
            .or_insert_with(|| self.families.reconnects.get([name, shard_label, reason.as_str(), &code.text()]))
            .inc();
        over.then_some("close_code")
    }
}

/// Counts one under a name, and tells whether that is over the cap.
fn count(
    series: &mut FastMap<(ServiceId, Text), IntCounter>,
    family: &Family<IntCounter, 2>,
    service: ServiceId,
    name: Symbol,
    names: &Names,
) -> bool {
    let mut key = (service, Text::Symbol(name));
    let over = series.len() >= SERIES_LIMIT && !series.contains_key(&key);
    if over {
        key.1 = Text::Other;
    }
    series.entry(key).or_insert_with(|| family.get([names.service(service), key.1.text(names)])).inc();
    over
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{Active, Observation, Sink, Window};
    use crate::units::{Direction, Nanos};

    const BOT: ServiceId = ServiceId(0);
    const FIRST: Shard = Shard(Some(0));

    fn sink() -> (Metrics, Names) {
        (Metrics::new(&BuildInfo::current()), Names { services: vec!["bot".to_owned()], ..Names::default() })
    }

    fn see(metrics: &mut Metrics, names: &Names, what: Discord) {
        metrics.observe(&Observation::Discord { service: BOT, what }, names);
    }

    fn gateway(shard: Shard, change: GatewayChange) -> Discord {
        Discord::Gateway { shard, time: Nanos(5), change }
    }

    /// The samples that start so, without buckets.
    fn told(metrics: &Metrics, start: &str) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let lines = text.lines().filter(|line| line.starts_with(start) && !line.contains("_bucket{"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn nothing_is_told_before_it_is_seen() {
        assert_eq!(told(&sink().0, "miku_discord_"), Vec::<String>::new());
    }

    #[test]
    fn a_reply_counts_with_the_phases_that_it_had() {
        let (mut metrics, names) = sink();
        let mut phases = Phases::default();
        phases.add(Phase::Pickup, Nanos(500_000_000));
        phases.add(Phase::RateLimit, Nanos(1_000_000_000));
        phases.add(Phase::Other, Nanos(0));
        let duration = phases.sum();
        see(&mut metrics, &names, Discord::Reply { kind: ReplyKind::Message, duration, phases });
        see(&mut metrics, &names, Discord::Unanswered { kind: ReplyKind::Interaction });
        see(&mut metrics, &names, Discord::Energy { joules: 160.0 });
        assert_eq!(
            ["reply_", "unanswered_"].map(|of| told(&metrics, &format!("miku_discord_{of}"))).concat(),
            [
                "miku_discord_reply_duration_seconds_sum{kind=\"interaction\",service=\"bot\"} 0",
                "miku_discord_reply_duration_seconds_count{kind=\"interaction\",service=\"bot\"} 0",
                "miku_discord_reply_duration_seconds_sum{kind=\"message\",service=\"bot\"} 1.5",
                "miku_discord_reply_duration_seconds_count{kind=\"message\",service=\"bot\"} 1",
                "miku_discord_reply_energy_joules_sum{service=\"bot\"} 160",
                "miku_discord_reply_energy_joules_count{service=\"bot\"} 1",
                "miku_discord_reply_phase_seconds_sum{phase=\"other\",service=\"bot\"} 0",
                "miku_discord_reply_phase_seconds_count{phase=\"other\",service=\"bot\"} 1",
                "miku_discord_reply_phase_seconds_sum{phase=\"pickup\",service=\"bot\"} 0.5",
                "miku_discord_reply_phase_seconds_count{phase=\"pickup\",service=\"bot\"} 1",
                "miku_discord_reply_phase_seconds_sum{phase=\"rate_limit\",service=\"bot\"} 1",
                "miku_discord_reply_phase_seconds_count{phase=\"rate_limit\",service=\"bot\"} 1",
                "miku_discord_unanswered_total{kind=\"interaction\",service=\"bot\"} 1",
                "miku_discord_unanswered_total{kind=\"message\",service=\"bot\"} 0",
            ]
        );
    }

    #[test]
    fn conversations_stand_at_zero_for_every_outcome_and_count_once() {
        let (mut metrics, names) = sink();
        let kind = ReplyKind::Message;
        see(&mut metrics, &names, Discord::ConversationStarted { kind });
        see(&mut metrics, &names, Discord::ConversationStarted { kind });
        see(&mut metrics, &names, Discord::ConversationsOpen { kind, change: 2 });
        see(&mut metrics, &names, Discord::ConversationEnded { kind, outcome: ConversationOutcome::Ambiguous });
        see(&mut metrics, &names, Discord::ConversationsOpen { kind, change: -1 });
        assert_eq!(
            told(&metrics, "miku_discord_conversations_"),
            [
                "miku_discord_conversations_ended_total{kind=\"message\",outcome=\"ambiguous\",service=\"bot\"} 1",
                "miku_discord_conversations_ended_total{kind=\"message\",outcome=\"form\",service=\"bot\"} 0",
                "miku_discord_conversations_ended_total{kind=\"message\",outcome=\"replied\",service=\"bot\"} 0",
                "miku_discord_conversations_ended_total{kind=\"message\",outcome=\"unanswered\",service=\"bot\"} 0",
                "miku_discord_conversations_ended_total{kind=\"message\",outcome=\"unknown\",service=\"bot\"} 0",
                "miku_discord_conversations_open{kind=\"message\",service=\"bot\"} 1",
                "miku_discord_conversations_started_total{kind=\"message\",service=\"bot\"} 2",
            ]
        );
    }

    #[test]
    fn a_gateway_is_up_or_down_while_it_is_there() {
        let (mut metrics, names) = sink();
        let shown = |metrics: &Metrics| told(metrics, "miku_discord_gateway_up");
        for (shard, change, expected) in [
            (Shard(None), GatewayChange::Missed, vec![]),
            (Shard(None), GatewayChange::Up, vec!["miku_discord_gateway_up{service=\"bot\",shard=\"unknown\"} 1"]),
            (Shard(None), GatewayChange::Gone, vec![]),
            (FIRST, GatewayChange::Up, vec!["miku_discord_gateway_up{service=\"bot\",shard=\"0\"} 1"]),
            (FIRST, GatewayChange::Down, vec!["miku_discord_gateway_up{service=\"bot\",shard=\"0\"} 0"]),
            (FIRST, GatewayChange::Gone, vec![]),
            (FIRST, GatewayChange::Up, vec!["miku_discord_gateway_up{service=\"bot\",shard=\"0\"} 1"]),
        ] {
            see(&mut metrics, &names, gateway(shard, change));
            assert_eq!(shown(&metrics), expected, "after {change:?}");
        }
    }

    #[test]
    fn heartbeats_reconnects_and_sessions_count_by_shard() {
        let (mut metrics, names) = sink();
        for change in [
            GatewayChange::Heartbeat(Nanos(40_000_000)),
            GatewayChange::Missed,
            GatewayChange::Missed,
            GatewayChange::Reconnect { reason: ReconnectReason::Closed, close_code: Some(4000) },
            GatewayChange::Reconnect { reason: ReconnectReason::Network, close_code: None },
            GatewayChange::SessionStarted,
        ] {
            see(&mut metrics, &names, gateway(FIRST, change));
        }
        see(&mut metrics, &names, gateway(Shard(Some(1)), GatewayChange::Heartbeat(Nanos(1))));
        let labels = "service=\"bot\",shard=\"0\"";
        assert_eq!(
            told(&metrics, "miku_discord_gateway_"),
            [
                format!("miku_discord_gateway_heartbeat_seconds_sum{{{labels}}} 0.04"),
                format!("miku_discord_gateway_heartbeat_seconds_count{{{labels}}} 1"),
                "miku_discord_gateway_heartbeat_seconds_sum{service=\"bot\",shard=\"1\"} 0.000000001".to_owned(),
                "miku_discord_gateway_heartbeat_seconds_count{service=\"bot\",shard=\"1\"} 1".to_owned(),
                format!("miku_discord_gateway_missed_heartbeats_total{{{labels}}} 2"),
                "miku_discord_gateway_missed_heartbeats_total{service=\"bot\",shard=\"1\"} 0".to_owned(),
                format!("miku_discord_gateway_reconnects_total{{reason=\"network\",{labels}}} 1"),
                format!("miku_discord_gateway_reconnects_total{{close_code=\"4000\",reason=\"closed\",{labels}}} 1"),
                format!("miku_discord_gateway_session_starts_total{{{labels}}} 1"),
            ]
        );
    }

    #[test]
    fn gauges_stand_as_they_were_told_last() {
        let (mut metrics, names) = sink();
        for users in [3, 2] {
            see(&mut metrics, &names, Discord::Active(Active { window: Window::Day, users, channels: users + 1 }));
        }
        see(&mut metrics, &names, Discord::Guilds(Some(7)));
        see(&mut metrics, &names, Discord::Voice { direction: Direction::Out, bytes: 100 });
        see(&mut metrics, &names, Discord::Voice { direction: Direction::Out, bytes: 11 });
        assert_eq!(
            told(&metrics, "miku_discord_"),
            [
                "miku_discord_active_channels{service=\"bot\",window=\"24h\"} 3",
                "miku_discord_active_users{service=\"bot\",window=\"24h\"} 2",
                "miku_discord_guilds{service=\"bot\"} 7",
                "miku_discord_voice_bytes_total{direction=\"transmit\",service=\"bot\"} 111",
            ]
        );
        see(&mut metrics, &names, Discord::Guilds(None));
        assert_eq!(told(&metrics, "miku_discord_guilds"), Vec::<String>::new(), "not known any more");
    }

    #[test]
    fn names_shards_and_codes_over_their_caps_are_other() {
        let (mut metrics, mut names) = sink();
        for number in 0..SERIES_LIMIT + 10 {
            let name = names.symbols.intern(&format!("NAME_{number}"));
            see(&mut metrics, &names, Discord::Command { name });
            see(&mut metrics, &names, Discord::Event { name });
            let index = u32::try_from(number).expect("a small number");
            see(&mut metrics, &names, gateway(Shard(Some(index)), GatewayChange::Up));
            see(&mut metrics, &names, gateway(Shard(Some(index)), GatewayChange::SessionStarted));
            let close_code = u16::try_from(number).ok();
            let change = GatewayChange::Reconnect { reason: ReconnectReason::Closed, close_code };
            see(&mut metrics, &names, gateway(FIRST, change));
        }
        for (family, series, other) in [
            ("miku_discord_commands_total", SERIES_LIMIT + 1, 10),
            ("miku_discord_gateway_events_total", SERIES_LIMIT + 1, 10),
            ("miku_discord_gateway_up", SHARD_LIMIT, 0),
            ("miku_discord_gateway_session_starts_total", SHARD_LIMIT + 1, SERIES_LIMIT + 10 - SHARD_LIMIT),
            ("miku_discord_gateway_reconnects_total", RECONNECT_LIMIT + 1, SERIES_LIMIT + 10 - RECONNECT_LIMIT),
        ] {
            let told = told(&metrics, family);
            assert_eq!(told.len(), series, "{family}");
            let rest: Vec<_> = told.iter().filter(|line| line.contains("\"other\"")).collect();
            assert_eq!(rest.len(), usize::from(other > 0), "{family}");
            assert!(rest.iter().all(|line| line.ends_with(&format!(" {other}"))), "{rest:?}");
        }
        for label in ["command", "event", "shard", "close_code"] {
            let overflow = told(&metrics, &format!("miku_probe_label_overflow_total{{label=\"{label}\"}}"));
            assert_eq!(overflow.len(), 1, "{label}");
        }
    }
}
