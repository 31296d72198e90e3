//! What the tests share: a bot's process whose connections say and hear payloads, and what was told of it, as lines.

use std::hash::RandomState;

use super::{Event, Gateways, Piece, Told};
use crate::protocols::http1::End;
use crate::protocols::websocket::{self, Kind, Message};
use crate::units::{ConnId, Direction, Handle, Nanos, Tgid};

/// Before this, in milliseconds, nothing was watched.
pub(super) const SINCE: u64 = 1_000_000;

/// The websocket of this number.
pub(super) fn socket(number: u64) -> ConnId {
    ConnId { tgid: Tgid(1), handle: Handle::Tls(number), generation: Nanos(number) }
}

/// The stream of this number.
pub(super) fn stream(number: u64) -> ConnId {
    socket(1_000_000 + number)
}

/// An event from Discord, as it writes it.
pub(super) fn dispatch(name: &str, sequence: u64, data: &str) -> String {
    format!(r#"{{"t":"{name}","s":{sequence},"op":0,"d":{data}}}"#)
}

/// A payload from Discord that is no event.
pub(super) fn control(op: u64, data: &str) -> String {
    format!(r#"{{"t":null,"s":null,"op":{op},"d":{data}}}"#)
}

/// A heartbeat of a bot.
pub(super) fn beat(data: impl std::fmt::Display) -> String {
    format!(r#"{{"op":1,"d":{data}}}"#)
}

pub(super) const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[]"]}}"#;
pub(super) const ACK: &str = r#"{"t":null,"s":null,"op":11,"d":null}"#;

/// A watched process.
#[derive(Debug)]
pub(super) struct Bot {
    pub(super) gateways: Gateways,
    pub(super) lines: Vec<String>,
    /// In milliseconds.
    pub(super) time: u64,
}

/// In a line: the shard or `?`, then what happened; spans in milliseconds.
pub(super) fn line(told: &Told<'_>) -> String {
    let shard = told.shard.map_or("?".to_string(), |shard| shard.index.to_string());
    match told.event {
        Event::Up { shard, up } => {
            let label = shard.map_or("?".to_string(), |shard| shard.to_string());
            format!("{label} is {}", up.map_or("gone", |up| if up { "up" } else { "down" }))
        }
        Event::Dispatch { payload, .. } => format!("{shard} {}", payload.event.as_deref().unwrap_or("nameless")),
        Event::SessionStarted => format!("{shard} started"),
        Event::Resumed => format!("{shard} resumed"),
        Event::Heartbeat(took) => format!("{shard} beat {}", took.0 / 1_000_000),
        Event::Missed => format!("{shard} missed"),
        Event::Reconnect { reason, close_code } => {
            let code = close_code.map_or("-".to_string(), |code| code.to_string());
            format!("{shard} reconnects: {} {code}", reason.as_str())
        }
        Event::Unreadable => format!("{shard} unreadable"),
        Event::Refused => format!("{shard} refused"),
    }
}

impl Bot {
    /// A process that has been watched for a minute.
    pub(super) fn new() -> Self {
        let gateways = Gateways::new(Nanos(SINCE * 1_000_000), RandomState::new());
        Self { gateways, lines: Vec::new(), time: SINCE + 60_000 }
    }

    fn now(&self) -> Nanos {
        Nanos(self.time * 1_000_000)
    }

    fn tell(&mut self, input: impl FnOnce(&mut Gateways, Nanos, &mut dyn FnMut(Told<'_>))) -> &mut Self {
        let (now, lines) = (self.now(), &mut self.lines);
        input(&mut self.gateways, now, &mut |told| lines.push(line(&told)));
        self
    }

    /// Lets milliseconds go by.
    pub(super) fn waits(&mut self, milliseconds: u64) -> &mut Self {
        self.time += milliseconds;
        self
    }

    pub(super) fn opens(&mut self, number: u64, host: &str) -> &mut Self {
        self.gateways.opened(socket(number), host);
        self
    }

    fn message(&mut self, number: u64, direction: Direction, text: &str) -> &mut Self {
        self.tell(|gateways, now, mut tell| {
            let message = Message {
                direction,
                started: now,
                time: now,
                kind: Kind::Text,
                compressed: false,
                size: text.len() as u64,
                bytes: text.as_bytes(),
                whole: true,
            };
            gateways.websocket(socket(number), &websocket::Event::Message(message), None, &mut tell);
        })
    }

    /// The bot says something over a websocket.
    pub(super) fn says(&mut self, number: u64, text: &str) -> &mut Self {
        self.message(number, Direction::Out, text)
    }

    /// Something comes over a websocket in the clear.
    pub(super) fn reads(&mut self, number: u64, text: &str) -> &mut Self {
        self.message(number, Direction::In, text)
    }

    /// A stream inflates a message.
    pub(super) fn hears(&mut self, number: u64, text: &str) -> &mut Self {
        self.hears_piece(number, text, true, true, text.len())
    }

    pub(super) fn hears_piece(&mut self, number: u64, text: &str, starts: bool, ends: bool, size: usize) -> &mut Self {
        self.tell(|gateways, time, mut tell| {
            let piece = Piece { time, came: None, starts, ends, size: size as u64, bytes: text.as_bytes() };
            gateways.inflated(stream(number), &piece, &mut tell);
        })
    }

    pub(super) fn closes(&mut self, number: u64, direction: Direction, code: u16) -> &mut Self {
        self.tell(|gateways, time, mut tell| {
            let event = websocket::Event::Close { direction, time, code: Some(code) };
            gateways.websocket(socket(number), &event, None, &mut tell);
        })
    }

    pub(super) fn loses_frames(&mut self, number: u64, direction: Direction) -> &mut Self {
        self.tell(|gateways, time, mut tell| {
            gateways.websocket(socket(number), &websocket::Event::Lost { direction, time }, None, &mut tell);
        })
    }

    pub(super) fn ends(&mut self, number: u64, end: End) -> &mut Self {
        self.tell(|gateways, now, mut tell| gateways.ended(socket(number), now, end, &mut tell))
    }

    pub(super) fn frees(&mut self, number: u64) -> &mut Self {
        self.tell(|gateways, now, mut tell| gateways.stream_ended(stream(number), now, &mut tell))
    }

    pub(super) fn loses_pieces(&mut self, number: u64) -> &mut Self {
        self.tell(|gateways, _, mut tell| gateways.stream_gap(stream(number), &mut tell))
    }

    pub(super) fn ticks(&mut self) -> &mut Self {
        self.tell(|gateways, now, mut tell| gateways.tick(now, &mut tell))
    }

    /// A connection that is seen from its opening, as discord.py makes it, until its session has begun. Websocket and stream
    /// have the same number.
    pub(super) fn connects(&mut self, number: u64, shard: Option<(u32, u32)>) -> &mut Self {
        let shard = shard.map_or(String::new(), |(index, count)| format!(r#""shard":[{index},{count}],"#));
        self.opens(number, "gateway.discord.gg").hears(number, HELLO).says(number, &beat("null"));
        self.says(number, &format!(r#"{{"op":2,"d":{{{shard}"token":"secret","intents":1}}}}"#)).waits(90);
        let ready = format!(r#"{{"user":{{"id":"1"}},{shard}"session_id":"session {number}","guilds":[]}}"#);
        self.hears(number, ACK).hears(number, &dispatch("READY", 1, &ready))
    }

    /// What was told since the last call.
    pub(super) fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
