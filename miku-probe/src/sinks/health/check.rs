//! A check as it stands, and some of them together: in lines for people, in JSON for machines.

use std::fmt::{self, Write};
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::units::rfc_3339;

/// What is known of the thing that a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is well.
    Ok,
    /// It is not well.
    Failing,
    /// It cannot be told, or not yet.
    Unknown,
}

impl Status {
    /// The name in texts and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }

    /// The status of a whole of whose parts these are the statuses: one failing part fails it.
    pub(super) fn of_all(statuses: impl Iterator<Item = Self>) -> Self {
        statuses.fold(Self::Ok, |whole, part| match (whole, part) {
            (Self::Failing, _) | (_, Self::Failing) => Self::Failing,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Ok, Self::Ok) => Self::Ok,
        })
    }
}

/// One check as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What is looked at, such as `process`.
    pub name: &'static str,
    /// Whose, when it belongs to one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which shard's, when it belongs to a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// Which GPU's, when it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// How it is.
    pub status: Status,
    /// Why, in one line; empty when there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when the status is what it is, in UTC.
    #[serde(serialize_with = "as_rfc_3339")]
    pub since: SystemTime,
    /// For how many seconds the status has been what it is.
    pub seconds: f64,
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.status.as_str(), self.name)?;
        if let Some(service) = &self.service {
            write!(formatter, " of {}", OneLine(service))?;
        }
        if let Some(shard) = &self.shard {
            write!(formatter, ", shard {shard},")?;
        }
        if let Some(gpu) = &self.gpu {
            write!(formatter, " of GPU {}", OneLine(gpu))?;
        }
        write!(formatter, " since {} ({:.0} s)", rfc_3339(self.since), self.seconds)?;
        if self.reason.is_empty() { Ok(()) } else { write!(formatter, ": {}", OneLine(&self.reason)) }
    }
}

/// A text from elsewhere, as part of a line: control characters are spaces.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| formatter.write_char(if char.is_control() { ' ' } else { char }))
    }
}

/// Some checks, and what they come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Failing when any check fails, else unknown when any is unknown.
    pub status: Status,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    pub(super) fn of(checks: Vec<Check>) -> Self {
        Self { status: Status::of_all(checks.iter().map(|check| check.status)), checks }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.status.as_str())?;
        self.checks.iter().try_for_each(|check| writeln!(formatter, "{check}"))
    }
}

fn as_rfc_3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc_3339(*time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn texts_and_json_say_the_same() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let report = Report::of(vec![
            Check {
                name: "process",
                service: Some("bot".to_owned()),
                shard: None,
                gpu: None,
                status: Status::Failing,
                reason: "no process matches".to_owned(),
                since,
                seconds: 12.5,
            },
            Check {
                name: "gateway up",
                service: Some("bot".to_owned()),
                shard: Some("0".to_owned()),
                gpu: None,
                status: Status::Ok,
                reason: String::new(),
                since,
                seconds: 60.0,
            },
        ]);
        assert_eq!(
            report.to_string(),
            "failing\n\
             failing process of bot since 2023-11-14T22:13:20.250Z (12 s): no process matches\n\
             ok gateway up of bot, shard 0, since 2023-11-14T22:13:20.250Z (60 s)\n"
        );
        assert_eq!(
            serde_json::to_value(&report).expect("all of it is plain data"),
            serde_json::json!({"status": "failing", "checks": [
                {"name": "process", "service": "bot", "status": "failing", "reason": "no process matches",
                 "since": "2023-11-14T22:13:20.250Z", "seconds": 12.5},
                {"name": "gateway up", "service": "bot", "shard": "0", "status": "ok",
                 "since": "2023-11-14T22:13:20.250Z", "seconds": 60.0}
            ]})
        );
    }
}
