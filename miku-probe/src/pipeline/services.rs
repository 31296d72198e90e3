//! What is kept of a service: the names of what it serves and calls, and the calls that Discord made wait.

use super::hosts::Hosts;
use super::models::Answering;
use super::servers::Servers;
use super::{Caps, Peer};
use crate::observations::{Exchange, Names, Observation, RateLimitScope, Sink};
use crate::protocols::discord::reply::Worked;
use crate::protocols::discord::usage::{Usage, Vocabulary};
use crate::protocols::discord::{Waits, rest};
use crate::protocols::http1::Finished;
use crate::protocols::routes::{RouteError, RoutePattern, RouteTable};
use crate::units::{Scheme, ServiceId, Side, Symbol};

/// The status of a refusal by a rate limit (RFC 6585, section 4).
const TOO_MANY_REQUESTS: u16 = 429;

/// What is known of a connection when an exchange on it ends.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) service: ServiceId,
    pub(super) scheme: Scheme,
    pub(super) peer: Option<Peer>,
    /// The host that a TLS client asked for.
    pub(super) server_name: Option<&'a str>,
}

/// What is kept of one service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) servers: Servers,
    pub(super) hosts: Hosts,
    routes: RouteTable,
    /// Calls of Discord's API that were refused.
    waits: Waits,
    /// The template of Discord's API at hand.
    template: String,
    pub(super) community: Community,
    pub(super) answering: Answering,
}

/// What is kept of those who use a bot on Discord.
#[derive(Debug)]
pub(super) struct Community {
    pub(super) usage: Usage,
    pub(super) events: Vocabulary,
    pub(super) commands: Vocabulary,
    /// When models on this machine worked for replies that nobody has put an energy to yet.
    pub(super) worked: Vec<Worked>,
}

impl Community {
    /// Discord has some 80 events.
    const EVENTS_MAX: usize = 128;

    /// An application may have 100 commands of each of three types for all guilds.
    const COMMANDS_MAX: usize = 200;

    /// Replies that wait for the GPUs to be asked, which is soon if there are any.
    const WORKED_MAX: usize = 1024;

    fn new() -> Self {
        Self {
            usage: Usage::default(),
            events: Vocabulary::new(Self::EVENTS_MAX),
            commands: Vocabulary::new(Self::COMMANDS_MAX),
            worked: Vec::new(),
        }
    }

    /// Keeps in mind when models worked for a reply, if any did.
    pub(super) fn worked(&mut self, worked: Worked) {
        if worked[0].is_some() && self.worked.len() < Self::WORKED_MAX {
            self.worked.push(worked);
        }
    }
}

impl Service {
    pub(super) fn new(patterns: Vec<RoutePattern>, caps: Caps) -> Result<Self, RouteError> {
        let routes = RouteTable::new(patterns, caps.routes)?;
        let (waits, template, community) = (Waits::default(), String::new(), Community::new());
        let (servers, hosts) = (Servers::new(caps.servers), Hosts::default());
        let answering = Answering::new();
        Ok(Self { routes, servers, hosts, waits, template, community, answering })
    }

    /// Names what the state machine found, and observes it.
    pub(super) fn finished(
        &mut self,
        link: Link<'_>,
        finished: &Finished<'_>,
        names: &mut Names,
        sink: &mut impl Sink,
    ) {
        let to_discord = self.is_discords(link, finished.side, finished.path, finished.host);
        let (route, overflow) = if to_discord {
            self.routes.known(&self.template, &mut names.symbols)
        } else {
            self.routes.route(finished.path, finished.status, &mut names.symbols)
        };
        if overflow {
            sink.observe(&Observation::LabelOverflow { label: "http_route" }, names);
        }
        let (server, port) = match finished.side {
            Side::Server => (Symbol::EMPTY, 0),
            Side::Client => {
                let named = self.servers.name(finished.host, link, &mut names.symbols);
                if named.overflow {
                    sink.observe(&Observation::LabelOverflow { label: "server_address" }, names);
                }
                (named.address, named.port)
            }
        };
        if to_discord {
            if let Some(ratio) = finished.limits.remaining_ratio()
                && !overflow
            {
                sink.observe(&Observation::RateLimitRemaining { service: link.service, route, ratio }, names);
            }
            self.limited(link.service, route, finished, names, sink);
        }
        let exchange = Exchange {
            service: link.service,
            side: finished.side,
            scheme: link.scheme,
            method: finished.method,
            route,
            server,
            port,
            status: finished.status,
            start: finished.start,
            first_byte: finished.first_byte.map(|first| first.since(finished.start)),
            duration: finished.end.since(finished.start),
            request_bytes: finished.request_bytes,
            response_bytes: finished.response_bytes,
            outcome: finished.outcome,
        };
        sink.observe(&Observation::Exchange(exchange), names);
    }

    /// Whether a request to `host` is a call of Discord's API, of which the template is then at hand.
    pub(super) fn is_discords(&mut self, link: Link<'_>, side: Side, path: &str, host: &str) -> bool {
        if side == Side::Server || !path.starts_with("/api") {
            return false;
        }
        let is_host = rest::is_host(host) || link.server_name.is_some_and(rest::is_host);
        self.template.clear();
        rest::template(path, is_host, &mut self.template)
    }

    /// Observes whether a call of Discord's API was refused by a rate limit, or is the second try of one that was.
    fn limited(
        &mut self,
        service: ServiceId,
        route: Symbol,
        finished: &Finished<'_>,
        names: &Names,
        sink: &mut impl Sink,
    ) {
        let refused = finished.status == Some(TOO_MANY_REQUESTS);
        if !refused && self.waits.is_empty() {
            return;
        }
        let call = self.waits.call(finished.method, finished.path);
        if let Some((route, wait)) = self.waits.made(call, finished.start) {
            sink.observe(&Observation::RateLimitWait { service, route, wait }, names);
        }
        if refused {
            let scope = finished.limits.scope.unwrap_or(RateLimitScope::User);
            sink.observe(&Observation::RateLimited { service, scope, route }, names);
            self.waits.refused(call, route, finished.end, finished.limits.retry_after());
        }
    }
}
