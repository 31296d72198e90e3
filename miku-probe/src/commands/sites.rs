//! What there is of TLS, zlib and zstd in processes, as `ps` shows it and `check` explains it.

use std::io;

use serde::Serialize;

use super::check::Outcome;
use crate::discovery::libraries::{Kind, Library, LibraryFinder, Seen};
use crate::discovery::process::{ProcFs, Process};
use crate::discovery::{Change, Discovery};

/// What was found in a process.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sites {
    pub(super) tls: Found,
    pub(super) inflate: Found,
}

/// What was found of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Found {
    pub(super) libraries: Vec<FoundLibrary>,
    /// Files that may be such libraries and in which nothing can be seen, with the reason.
    pub(super) faults: Vec<String>,
}

/// A library in a process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FoundLibrary {
    pub(super) path: String,
    /// Whether it is gone from its folder, as after an upgrade.
    pub(super) deleted: bool,
    pub(super) flavour: &'static str,
    /// What told where its functions are.
    pub(super) symbols: &'static str,
    /// Places where calls of interest pass.
    pub(super) sites: usize,
}

impl FoundLibrary {
    fn of(library: &Library) -> Self {
        Self {
            path: library.shown_path.display().to_string(),
            deleted: library.deleted,
            flavour: library.build.flavour.as_str(),
            symbols: library.build.symbols.as_str(),
            sites: library.build.sites.len(),
        }
    }
}

impl Sites {
    /// What there is in a process; `None` when its mappings cannot be read.
    pub(super) fn of(finder: &mut LibraryFinder, process: &Process) -> Option<Self> {
        let scan = finder.scan(process, &mut Seen::default()).ok()?;
        let of_kind = |kind| {
            let libraries = scan.libraries.iter().filter(|library| library.build.flavour.kind() == kind);
            let faults = scan.faults.iter().filter(|fault| fault.kind == kind);
            Found {
                libraries: libraries.map(FoundLibrary::of).collect(),
                faults: faults.map(ToString::to_string).collect(),
            }
        };
        Some(Self { tls: of_kind(Kind::Tls), inflate: of_kind(Kind::Inflate) })
    }
}

impl Found {
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

/// Looks at the processes that would be watched by themselves, and says of those without TLS why that is; then of those in
/// which nothing of what is decompressed can be seen. One that has no zlib or zstd, or has not loaded it yet, is well.
pub(super) fn outcomes(proc: &ProcFs) -> [Outcome; 2] {
    match look(proc) {
        Ok(looked) => [judge(&looked), judge_inflate(&looked)],
        Err(error) => [(); 2].map(|()| Outcome::Unknown(format!("the processes cannot be looked at: {error}"))),
    }
}

/// Processes in words, and what there is in each.
fn look(proc: &ProcFs) -> io::Result<Vec<(String, Option<Sites>)>> {
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let mut finder = LibraryFinder::new();
    let changes = discovery.scan()?;
    let found = changes.into_iter().filter_map(|change| match change {
        Change::Found(target) => proc.process(target.tgid),
        _ => None,
    });
    Ok(found
        .map(|process| (format!("{} (pid {})", process.comm(), process.tgid), Sites::of(&mut finder, &process)))
        .collect())
}

fn judge(looked: &[(String, Option<Sites>)]) -> Outcome {
    let without: Vec<String> = looked
        .iter()
        .filter_map(|(process, sites)| match sites {
            None => Some(format!("the mappings of {process} cannot be read")),
            Some(Sites { tls, .. }) if !tls.libraries.is_empty() => None,
            Some(Sites { tls, .. }) if tls.faults.is_empty() => {
                Some(format!("no file that {process} has mapped defines TLS functions"))
            }
            Some(Sites { tls, .. }) => Some(format!("nothing can be seen in {process}: {}", tls.faults.join(", "))),
        })
        .collect();
    if !without.is_empty() {
        let remedy = "one that loads a library later is noticed then; one without symbols needs those of its debug package, \
                      or a build that keeps them";
        return Outcome::Bad { what: without.join("; "), remedy: remedy.to_owned() };
    }
    let sites = looked.iter().flat_map(|(_, sites)| sites).flat_map(|sites| &sites.tls.libraries).count();
    Outcome::Good(match looked.len() {
        0 => "no process would be watched by itself, so none was looked at".to_owned(),
        processes => format!("{sites} in {processes} processes that would be watched"),
    })
}

fn judge_inflate(looked: &[(String, Option<Sites>)]) -> Outcome {
    let known = || looked.iter().filter_map(|(process, sites)| Some((process, &sites.as_ref()?.inflate)));
    let blind: Vec<String> = known()
        .filter(|(_, inflate)| !inflate.faults.is_empty())
        .map(|(process, inflate)| format!("nothing can be seen in {process}: {}", inflate.faults.join(", ")))
        .collect();
    if !blind.is_empty() {
        let remedy = "a build that keeps its symbols, or those of its debug package".to_owned();
        return Outcome::Bad { what: blind.join("; "), remedy };
    }
    let libraries: usize = known().map(|(_, inflate)| inflate.libraries.len()).sum();
    Outcome::Good(format!("{libraries} in {} processes that would be watched", looked.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> FoundLibrary {
        let path = "/lib/libssl.so.3".to_owned();
        FoundLibrary { path, deleted: false, flavour: "openssl", symbols: "dynsym", sites: 6 }
    }

    #[test]
    fn a_zero_is_explained() {
        let tls = |tls| Sites { tls, ..Sites::default() };
        let stripped = tls(Found { libraries: vec![], faults: vec!["libssl.so.3 has no symbols".to_owned()] });
        let well = tls(Found { libraries: vec![library()], faults: vec![] });
        let named = |name: &str, tls| (name.to_owned(), tls);
        for (looked, expected) in [
            (
                named("late (pid 1)", Some(Sites::default())),
                "no file that late (pid 1) has mapped defines TLS functions",
            ),
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

    #[test]
    fn a_module_without_symbols_is_explained_and_none_is_well() {
        let stripped = Found { libraries: vec![], faults: vec!["backend_c.so has no symbols".to_owned()] };
        let blind = Sites { inflate: stripped, ..Sites::default() };
        let none = ("idle (pid 4)".to_owned(), Some(Sites::default()));
        let looked = [none.clone(), ("bot (pid 5)".to_owned(), Some(blind)), ("gone (pid 6)".to_owned(), None)];
        let Outcome::Bad { what, .. } = judge_inflate(&looked) else { panic!("{looked:?} is not well") };
        assert_eq!(what, "nothing can be seen in bot (pid 5): backend_c.so has no symbols");
        assert_eq!(judge_inflate(&[none]), Outcome::Good("0 in 1 processes that would be watched".to_owned()));
    }
}
