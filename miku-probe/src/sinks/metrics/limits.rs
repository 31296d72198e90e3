//! What Discord's rate limits cost: the series by route.

use prometheus::{Counter, Gauge, IntCounter};

use super::catalog::Families;
use super::keys::Text;
use super::{FastMap, SERIES_LIMIT};
use crate::observations::{Names, RateLimitScope};
use crate::units::{Nanos, ServiceId, Symbol};

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
