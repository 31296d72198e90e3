//! What there is of TLS in processes, as `ps` shows it and `check` explains it.

use std::io;

use serde::Serialize;

use super::check::Outcome;
use crate::discovery::process::{ProcFs, Process};
use crate::discovery::tls::{Library, Seen, TlsFinder};
use crate::discovery::{Change, Discovery};

/// What was found of TLS in a process.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tls {
    pub(super) libraries: Vec<TlsLibrary>,
    /// Files that may be TLS libraries and in which nothing can be seen, with the reason.
    pub(super) faults: Vec<String>,
}

/// A TLS library in a process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TlsLibrary {
    pub(super) path: String,
    /// Whether it is gone from its folder, as after an upgrade.
    pub(super) deleted: bool,
    pub(super) flavour: &'static str,
    /// What told where its functions are.
    pub(super) symbols: &'static str,
    /// Places where calls of interest pass.
    pub(super) sites: usize,
}

impl Tls {
    /// What there is of TLS in a process; `None` when its mappings cannot be read.
    pub(super) fn of(finder: &mut TlsFinder, process: &Process) -> Option<Self> {
        let scan = finder.scan(process, &mut Seen::default()).ok()?;
        let library = |library: Library| TlsLibrary {
            path: library.shown_path.display().to_string(),
            deleted: library.deleted,
            flavour: library.build.flavour.as_str(),
            symbols: library.build.symbols.as_str(),
            sites: library.build.sites.len(),
        };
        Some(Self {
            libraries: scan.libraries.into_iter().map(library).collect(),
            faults: scan.faults.iter().map(ToString::to_string).collect(),
        })
    }

    /// Libraries and their sites in short: `2 (15)`; a `!` when there are some in which nothing can be seen.
    pub(super) fn cell(&self) -> String {
        let sites: usize = self.libraries.iter().map(|library| library.sites).sum();
        let fault = if self.faults.is_empty() { "" } else { " !" };
        match self.libraries.len() {
            0 => format!("0{fault}"),
            libraries => format!("{libraries} ({sites}){fault}"),
        }
    }
}

/// Looks at the processes that would be watched by themselves, and says of those without TLS why that is.
pub(super) fn outcome(proc: &ProcFs) -> Outcome {
    let looked = look(proc).map_err(|error| format!("the processes cannot be looked at: {error}"));
    looked.map_or_else(Outcome::Unknown, |looked| judge(&looked))
}

/// Processes in words, and what there is of TLS in each.
fn look(proc: &ProcFs) -> io::Result<Vec<(String, Option<Tls>)>> {
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let mut finder = TlsFinder::new();
    let changes = discovery.scan()?;
    let found = changes.into_iter().filter_map(|change| match change {
        Change::Found(target) => proc.process(target.tgid),
        _ => None,
    });
    Ok(found
        .map(|process| (format!("{} (pid {})", process.comm(), process.tgid), Tls::of(&mut finder, &process)))
        .collect())
}

fn judge(looked: &[(String, Option<Tls>)]) -> Outcome {
    let without: Vec<String> = looked
        .iter()
        .filter_map(|(process, tls)| match tls {
            None => Some(format!("the mappings of {process} cannot be read")),
            Some(tls) if !tls.libraries.is_empty() => None,
            Some(tls) if tls.faults.is_empty() => {
                Some(format!("no file that {process} has mapped defines TLS functions"))
            }
            Some(tls) => Some(format!("nothing can be seen in {process}: {}", tls.faults.join(", "))),
        })
        .collect();
    if !without.is_empty() {
        let remedy = "one that loads a library later is noticed then; one without symbols needs those of its debug package, \
                      or a build that keeps them";
        return Outcome::Bad { what: without.join("; "), remedy: remedy.to_owned() };
    }
    let sites = looked.iter().flat_map(|(_, tls)| tls).flat_map(|tls| &tls.libraries).count();
    Outcome::Good(match looked.len() {
        0 => "no process would be watched by itself, so none was looked at".to_owned(),
        processes => format!("{sites} in {processes} processes that would be watched"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> TlsLibrary {
        let path = "/lib/libssl.so.3".to_owned();
        TlsLibrary { path, deleted: false, flavour: "openssl", symbols: "dynsym", sites: 6 }
    }

    #[test]
    fn a_zero_is_explained() {
        let stripped = Tls { libraries: vec![], faults: vec!["libssl.so.3 has no symbols".to_owned()] };
        let well = Tls { libraries: vec![library()], faults: vec![] };
        let named = |name: &str, tls| (name.to_owned(), tls);
        for (looked, expected) in [
            (named("late (pid 1)", Some(Tls::default())), "no file that late (pid 1) has mapped defines TLS functions"),
            (named("bare (pid 2)", Some(stripped)), "nothing can be seen in bare (pid 2): libssl.so.3 has no symbols"),
            (named("gone (pid 3)", None), "the mappings of gone (pid 3) cannot be read"),
        ] {
            let both = [named("bot (pid 4)", Some(well.clone())), looked];
            let Outcome::Bad { what, .. } = judge(&both) else { panic!("{both:?} is not well") };
            assert_eq!(what, expected);
        }
        assert_eq!(
            judge(&[named("bot (pid 4)", Some(well))]),
            Outcome::Good("1 in 1 processes that would be watched".to_owned())
        );
        assert!(matches!(judge(&[]), Outcome::Good(_)));
    }
}
