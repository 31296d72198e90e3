//! Services as they are written: `NAME=KIND:VALUE` on the command line, `[[service]]` in the file.

use std::collections::HashSet;

use crate::config::{ConfigError, SERVICES_MAX};
use crate::discovery::candidates::sanitised;
use crate::discovery::selectors::{Kind, Selector, ServiceSpec};

/// The longest name of a service.
const NAME_MAX: usize = 64;

/// One value of `--service`.
#[derive(Debug)]
pub enum ServiceFlag {
    /// With a selector.
    Selection(Selection),
    /// A plain name, which filters.
    Name(String),
}

/// A selector for a service.
#[derive(Debug)]
pub struct Selection {
    /// The service's name.
    pub name: String,
    /// What finds its processes.
    pub selector: Selector,
}

impl ServiceFlag {
    /// Takes `text` apart: with a `=` or a `:` it selects (`bot=cmdline:bot\.py`, `port:8000`), else it is a name.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let place = || format!("--service `{text}`");
        // No name holds a colon, so in `cmdline:a=b` the sign belongs to the value.
        let (name, selector) = match text.split_once('=') {
            Some((name, selector)) if !name.contains(':') => (Some(name), selector),
            _ if text.contains(':') => (None, text),
            _ => return Ok(Self::Name(checked_name(place(), text)?)),
        };
        let Some((kind, value)) = selector.split_once(':') else {
            let message = format!("`{selector}` is not a selector; write KIND:VALUE, as in `cmdline:bot\\.py`");
            return Err(ConfigError::value(place(), message));
        };
        let Some(kind) = Kind::from_text(kind) else {
            let kinds = Kind::ALL.map(Kind::as_str);
            let message = format!("there is no kind `{kind}`{}; kinds are {}", similar(kind, &kinds), kinds.join(", "));
            return Err(ConfigError::value(place(), message));
        };
        let selector =
            Selector::parse(kind, value).map_err(|source| ConfigError::Selector { place: place(), source })?;
        let name = match name {
            Some(name) => checked_name(place(), name)?,
            None => derived_name(kind, value),
        };
        Ok(Self::Selection(Selection { name, selector }))
    }
}

/// Puts the selectors of the flags into services, and behind them those of the file that the flags do not name.
///
/// # Errors
/// When a selector stands twice in a service, or there are too many services.
pub fn merge(flags: Vec<Selection>, file: Vec<ServiceSpec>) -> Result<Vec<ServiceSpec>, ConfigError> {
    let mut services: Vec<ServiceSpec> = Vec::new();
    for Selection { name, selector } in flags {
        match services.iter_mut().find(|service| service.name == name) {
            Some(service) => service.selectors.push(selector),
            None => {
                let named = file.iter().find(|service| service.name == name);
                let (routes, required) =
                    named.map_or((Vec::new(), false), |named| (named.routes.clone(), named.required));
                services.push(ServiceSpec { name, selectors: vec![selector], routes, required });
            }
        }
    }
    for service in file {
        if services.iter().all(|known| known.name != service.name) {
            services.push(service);
        }
    }
    for service in &services {
        if !service.selects() {
            let place = format!("service `{}`", service.name);
            return Err(ConfigError::value(
                place,
                "`exec:any` only widens `cmdline`; give it a selector that finds a process",
            ));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = service.selectors.iter().map(ToString::to_string).find(|text| !seen.insert(text.clone())) {
            let place = format!("service `{}`", service.name);
            return Err(ConfigError::value(place, format!("`{twice}` is named twice; leave one out")));
        }
    }
    if services.len() > SERVICES_MAX {
        let message =
            format!("{} services are too many; each is a label value, and {SERVICES_MAX} may be", services.len());
        return Err(ConfigError::value("services", message));
    }
    Ok(services)
}

/// Checks a service's name.
///
/// # Errors
/// When it cannot be one.
pub(crate) fn checked_name(place: impl Into<String>, name: &str) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(plain) {
        let message = format!("`{name}` cannot name a service; write 1 to {NAME_MAX} letters, digits, `_`, `-` or `.`");
        return Err(ConfigError::value(place, message));
    }
    Ok(name.to_owned())
}

/// A name for a selector that was given none.
fn derived_name(kind: Kind, value: &str) -> String {
    let name = match kind {
        Kind::Pid | Kind::Port => format!("{}-{value}", kind.as_str()),
        Kind::Exe => sanitised(value.rsplit('/').next().unwrap_or(value)),
        Kind::Comm | Kind::Cmdline | Kind::Container | Kind::Exec => sanitised(value),
    };
    if name.is_empty() { kind.as_str().to_owned() } else { name }
}

/// `, did you mean …`, when one of `known` is close to `word`.
pub(crate) fn similar(word: &str, known: &[&str]) -> String {
    const CLOSE: f64 = 0.8;
    let scored = known.iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    let best = scored.filter(|(score, _)| *score >= CLOSE).max_by(|one, other| one.0.total_cmp(&other.0));
    best.map_or(String::new(), |(_, candidate)| format!(", did you mean `{candidate}`?"))
}
