//! What one run of the end-to-end suite is for, as the environment says.

use std::env;

/// What one run of the end-to-end suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every case runs; one whose needs are not met fails.
    Required,
    /// Every case runs; one whose needs are not met is ignored, with the reason. The default, for a run by hand.
    Allowed,
    /// No case runs: another run covers the suite.
    Elsewhere,
    /// The cases that compare times run, one after the other, held to the bounds that the documentation promises. One
    /// whose needs are not met fails.
    Accuracy,
}

impl Mode {
    /// The environment variable that holds the mode.
    pub const VARIABLE: &str = "MIKU_PROBE_E2E";

    const ALL: [Self; 4] = [Self::Required, Self::Allowed, Self::Elsewhere, Self::Accuracy];

    /// The mode's name, as in [`Mode::VARIABLE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Allowed => "allowed",
            Self::Elsewhere => "elsewhere",
            Self::Accuracy => "accuracy",
        }
    }

    /// Reads [`Mode::VARIABLE`].
    ///
    /// # Errors
    /// Fails on a value that is no mode's name: a misspelt one must not pass for the default.
    pub fn from_env() -> Result<Self, String> {
        let value = env::var_os(Self::VARIABLE).map(|value| value.to_string_lossy().into_owned());
        Self::parse(value.as_deref())
    }

    fn parse(value: Option<&str>) -> Result<Self, String> {
        let Some(value) = value else { return Ok(Self::Allowed) };
        Self::ALL.into_iter().find(|mode| mode.name() == value).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{} is {value:?}; it must be one of {names}", Self::VARIABLE)
        })
    }

    /// Whether a case whose needs are not met fails.
    #[must_use]
    pub const fn forbids_skips(self) -> bool {
        matches!(self, Self::Required | Self::Accuracy)
    }

    /// Whether this run is for a case, which compares times or does not.
    #[must_use]
    pub const fn includes(self, compares_times: bool) -> bool {
        match self {
            Self::Required | Self::Allowed => true,
            Self::Elsewhere => false,
            Self::Accuracy => compares_times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_mode_and_nothing_else() {
        assert_eq!(Mode::parse(None), Ok(Mode::Allowed));
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(Some(mode.name())), Ok(mode));
        }
        let expected = "MIKU_PROBE_E2E is \"require\"; it must be one of required, allowed, elsewhere, accuracy";
        assert_eq!(Mode::parse(Some("require")), Err(expected.to_owned()));
        assert!(Mode::parse(Some("")).is_err(), "an empty value is a mistake too");
    }

    #[test]
    fn accuracy_runs_only_what_compares_times_and_skips_nothing() {
        assert!(Mode::Accuracy.includes(true) && !Mode::Accuracy.includes(false));
        assert!(Mode::Accuracy.forbids_skips() && Mode::Required.forbids_skips());
        assert!(!Mode::Allowed.forbids_skips());
        assert!(
            [true, false].into_iter().all(|times| Mode::Required.includes(times) && !Mode::Elsewhere.includes(times))
        );
    }
}
