//! What tells one series from another, as numbers that are cheap to compare.

use crate::observations::{AbortReason, Exchange, Method, Names, Outcome};
use crate::units::{Direction, Scheme, ServiceId, Side, Symbol, Transport};

/// The label value of what is over a cap, or of what is no value at all.
pub(super) const OTHER: &str = "other";

/// OpenTelemetry's value of `error.type` for an error without a name of its own.
const OTHER_ERROR: &str = "_OTHER";

/// A label's text, or that it is over a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Text {
    Symbol(Symbol),
    Other,
}

impl Text {
    pub(super) fn text(self, names: &Names) -> &str {
        match self {
            Self::Symbol(symbol) => names.symbols.text(symbol),
            Self::Other => OTHER,
        }
    }

    /// The same, or [`Text::Other`] where there is a text.
    pub(super) fn collapsed(self) -> Self {
        if self == Self::Symbol(Symbol::EMPTY) { self } else { Self::Other }
    }
}

/// The status of an answer, as far as labels tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Status {
    /// No status was seen.
    Unseen,
    /// One of the five classes of RFC 9110.
    Code(u16),
    /// Any other number, or one over the cap.
    Other,
}

impl Status {
    pub(super) fn label(self) -> String {
        match self {
            Self::Unseen => String::new(),
            Self::Code(code) => code.to_string(),
            Self::Other => OTHER.to_owned(),
        }
    }
}

/// What made an exchange an error, if it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Failure {
    None,
    /// Its status.
    Status,
    /// It was cut short.
    Aborted(AbortReason),
}

/// Everything that tells an exchange's series from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ExchangeKey {
    pub(super) service: ServiceId,
    pub(super) side: Side,
    pub(super) scheme: Scheme,
    pub(super) method: Method,
    pub(super) route: Text,
    pub(super) server: Text,
    /// 0 when there is none.
    pub(super) port: u16,
    pub(super) status: Status,
    pub(super) failure: Failure,
}

impl ExchangeKey {
    /// The key of an exchange; none when its outcome is unknown.
    pub(super) fn of(exchange: &Exchange) -> Option<Self> {
        let failure = match (exchange.outcome, exchange.side, exchange.status) {
            (Outcome::Unknown, ..) => return None,
            (Outcome::Aborted(reason), ..) => Failure::Aborted(reason),
            // A status of no class is to be taken for one of 500 (RFC 9110, section 15); OpenTelemetry takes the
            // client's errors for the client's only.
            (Outcome::Complete, Side::Server, Some(500..)) | (Outcome::Complete, Side::Client, Some(400..)) => {
                Failure::Status
            }
            (Outcome::Complete, _, Some(..100)) => Failure::Status,
            (Outcome::Complete, ..) => Failure::None,
        };
        Some(Self {
            service: exchange.service,
            side: exchange.side,
            scheme: exchange.scheme,
            method: exchange.method,
            route: Text::Symbol(exchange.route),
            server: Text::Symbol(exchange.server),
            port: exchange.port,
            status: match exchange.status {
                None => Status::Unseen,
                Some(code @ 100..=599) => Status::Code(code),
                Some(_) => Status::Other,
            },
            failure,
        })
    }

    pub(super) fn without_route(self) -> Self {
        Self { route: self.route.collapsed(), ..self }
    }

    /// With nothing left that the other side chooses, so that only so many are possible.
    pub(super) fn without_texts(self) -> Self {
        Self {
            method: Method::Other,
            route: self.route.collapsed(),
            server: self.server.collapsed(),
            port: 0,
            status: if self.status == Status::Unseen { Status::Unseen } else { Status::Other },
            ..self
        }
    }

    pub(super) fn error_type(&self) -> String {
        match (self.failure, self.status) {
            (Failure::None, _) => String::new(),
            (Failure::Status, Status::Code(code)) => code.to_string(),
            (Failure::Status, _) => OTHER_ERROR.to_owned(),
            (Failure::Aborted(reason), _) => reason.as_str().to_owned(),
        }
    }
}

/// Everything that tells a series of network bytes from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TransferKey {
    pub(super) service: ServiceId,
    pub(super) direction: Direction,
    pub(super) peer: Text,
    pub(super) transport: Transport,
}
