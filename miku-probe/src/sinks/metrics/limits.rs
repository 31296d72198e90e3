//! What Discord's rate limits cost: the series by route.

use prometheus::{Counter, Gauge, IntCounter};

use super::FastMap;
use super::catalog::Families;
use super::keys::Text;
use crate::observations::{Names, RateLimitScope};
use crate::units::{Nanos, ServiceId, Symbol};

/// How many different combinations of labels each family has before routes become `other`.
const SERIES_LIMIT: usize = 1_000;

/// The series of rate limits. Each method tells whether it met a route over the cap.
#[derive(Default)]
pub(super) struct RateLimits {
    refused: FastMap<(ServiceId, RateLimitScope, Text), IntCounter>,
    remaining: FastMap<(ServiceId, Symbol), Gauge>,
    waits: FastMap<(ServiceId, Text), Counter>,
}

impl RateLimits {
    /// Counts a refused request.
    pub(super) fn refused(
        &mut self,
        families: &Families,
        (service, scope, route): (ServiceId, RateLimitScope, Symbol),
        names: &Names,
    ) -> bool {
        let full = self.refused.len() >= SERIES_LIMIT;
        let over = full && !self.refused.contains_key(&(service, scope, Text::Symbol(route)));
        let route = if over { Text::Other } else { Text::Symbol(route) };
        self.refused
            .entry((service, scope, route))
            .or_insert_with(|| families.rate_limited.get([names.service(service), scope.as_str(), route.text(names)]))
            .inc();
        over
    }

    /// Sets how much is left. Routes over the cap are left out: no value would be true of all of them.
    pub(super) fn remaining(
        &mut self,
        families: &Families,
        (service, route): (ServiceId, Symbol),
        ratio: f64,
        names: &Names,
    ) -> bool {
        if self.remaining.len() >= SERIES_LIMIT && !self.remaining.contains_key(&(service, route)) {
            return true;
        }
        self.remaining
            .entry((service, route))
            .or_insert_with(|| families.rate_limit_remaining.get([names.service(service), names.symbols.text(route)]))
            .set(ratio);
        false
    }

    /// Adds the time before a second try.
    pub(super) fn waited(
        &mut self,
        families: &Families,
        (service, route): (ServiceId, Symbol),
        wait: Nanos,
        names: &Names,
    ) -> bool {
        let over = self.waits.len() >= SERIES_LIMIT && !self.waits.contains_key(&(service, Text::Symbol(route)));
        let route = if over { Text::Other } else { Text::Symbol(route) };
        self.waits
            .entry((service, route))
            .or_insert_with(|| families.rate_limit_wait.get([names.service(service), route.text(names)]))
            .inc_by(wait.seconds());
        over
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{Observation, Sink};

    const BOT: ServiceId = ServiceId(0);

    fn told(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        text.lines().filter(|line| line.starts_with("miku_discord_")).map(str::to_owned).collect()
    }

    fn sink() -> (Metrics, Names) {
        let names = Names { services: vec!["bot".to_owned()], ..Names::default() };
        (Metrics::new(&BuildInfo::current()), names)
    }

    #[test]
    fn refusals_and_waits_add_up_and_the_latest_quota_stands() {
        let (mut metrics, mut names) = sink();
        let route = names.symbols.intern("/api/v10/gateway");
        assert_eq!(told(&metrics), Vec::<String>::new());
        for observation in [
            Observation::RateLimited { service: BOT, scope: RateLimitScope::Global, route },
            Observation::RateLimited { service: BOT, scope: RateLimitScope::Shared, route },
            Observation::RateLimited { service: BOT, scope: RateLimitScope::Global, route },
            Observation::RateLimitWait { service: BOT, route, wait: Nanos(500_000_000) },
            Observation::RateLimitWait { service: BOT, route, wait: Nanos(750_000_000) },
            Observation::RateLimitRemaining { service: BOT, route, ratio: 0.8 },
            Observation::RateLimitRemaining { service: BOT, route, ratio: 0.2 },
        ] {
            metrics.observe(&observation, &names);
        }
        let labels = "http_route=\"/api/v10/gateway\"";
        assert_eq!(
            told(&metrics),
            [
                format!("miku_discord_rate_limit_remaining_ratio{{{labels},service=\"bot\"}} 0.2"),
                format!("miku_discord_rate_limit_wait_seconds_total{{{labels},service=\"bot\"}} 1.25"),
                format!("miku_discord_rate_limited_total{{{labels},scope=\"global\",service=\"bot\"}} 2"),
                format!("miku_discord_rate_limited_total{{{labels},scope=\"shared\",service=\"bot\"}} 1"),
            ]
        );
    }

    #[test]
    fn routes_over_the_cap_are_other_and_have_no_quota() {
        let (mut metrics, mut names) = sink();
        for number in 0..SERIES_LIMIT + 10 {
            let route = names.symbols.intern(&format!("/{number}"));
            for observation in [
                Observation::RateLimited { service: BOT, scope: RateLimitScope::User, route },
                Observation::RateLimitWait { service: BOT, route, wait: Nanos(1_000_000_000) },
                Observation::RateLimitRemaining { service: BOT, route, ratio: 1.0 },
            ] {
                metrics.observe(&observation, &names);
            }
        }
        let told = told(&metrics);
        assert_eq!(told.len(), 3 * SERIES_LIMIT + 2);
        let other = "http_route=\"other\"";
        assert_eq!(
            told.iter().filter(|line| line.contains(other)).collect::<Vec<_>>(),
            [
                &format!("miku_discord_rate_limit_wait_seconds_total{{{other},service=\"bot\"}} 10"),
                &format!("miku_discord_rate_limited_total{{{other},scope=\"user\",service=\"bot\"}} 10"),
            ]
        );
    }
}
