//! Seeds of failed property tests: kept in `proptest-regressions`, committed, and tried first in every later run.

use std::any::Any;
use std::fmt::Debug;
use std::path::Path;

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, FailurePersistence, FileFailurePersistence, PersistedSeed, TestCaseResult, TestRunner, contextualize_config,
};

/// Returns the configuration of every property test of this package.
pub(crate) fn config() -> Config {
    Config { failure_persistence: Some(Box::new(Regressions)), ..Config::default() }
}

/// Runs a property as `proptest!` does. For those that assert something of all their cases together, as that enough of them
/// came to what the property is about: random bytes that are refused at once show nothing.
///
/// # Panics
/// Panics with the smallest case that fails.
pub(crate) fn check<S: Strategy>(
    cases: u32,
    source_file: &'static str,
    strategy: &S,
    test: impl Fn(S::Value) -> TestCaseResult,
) {
    let config = contextualize_config(Config { cases, source_file: Some(source_file), ..config() });
    TestRunner::new(config).run(strategy, test).unwrap_or_else(|error| panic!("{error}"));
}

/// Keeps seeds where [`FileFailurePersistence`] does by default, but finds that place from any working directory.
///
/// The default looks for the source file from the working directory upwards. That misses it, with no more than a line on
/// standard error, in a test program that runs outside the checkout.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Regressions;

impl FailurePersistence for Regressions {
    fn load_persisted_failures2(&self, source_file: Option<&'static str>) -> Vec<PersistedSeed> {
        FileFailurePersistence::default().load_persisted_failures2(source_file.map(absolute))
    }

    fn save_persisted_failure2(
        &mut self,
        source_file: Option<&'static str>,
        seed: PersistedSeed,
        shrunken_value: &dyn Debug,
    ) {
        FileFailurePersistence::default().save_persisted_failure2(source_file.map(absolute), seed, shrunken_value);
    }

    fn box_clone(&self) -> Box<dyn FailurePersistence> {
        Box::new(*self)
    }

    fn eq(&self, other: &dyn FailurePersistence) -> bool {
        other.as_any().is::<Self>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Returns the absolute path of a source file that `file!()` names relative to the workspace. Proptest wants it for ever,
/// so its few bytes are leaked, once or twice a property.
fn absolute(source_file: &str) -> &'static str {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().expect("the package is in a folder of the workspace");
    workspace.join(source_file).into_os_string().into_string().expect("the path is UTF-8").leak()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                found.extend(files(&path, extension));
            } else if path.extension().is_some_and(|own| own == extension) {
                found.push(path);
            }
        }
        found
    }

    #[test]
    fn a_source_file_is_found_from_any_directory() {
        let path = Path::new(absolute(file!()));
        assert!(path.is_absolute() && path.is_file(), "{}", path.display());
    }

    #[test]
    fn every_committed_seed_is_tried() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = package.join("proptest-regressions");
        let committed = files(&folder, "txt");
        assert!(!committed.is_empty(), "none in {}", folder.display());
        for file in committed {
            let name = file.strip_prefix(&folder).expect("it was found there").with_extension("rs");
            let source = format!("miku-probe/src/{}", name.display());
            let text = fs::read_to_string(&file).expect("the file can be read");
            let seeds = text.lines().filter(|line| line.starts_with("cc ")).count();
            assert!(seeds > 0, "no seed in {}", file.display());
            let tried = Regressions.load_persisted_failures2(Some(source.clone().leak())).len();
            assert_eq!(tried, seeds, "of {source}");
            let code = fs::read_to_string(absolute(&source)).unwrap_or_else(|error| panic!("{source}: {error}"));
            assert!(code.contains("proptest! {"), "no property in {source}");
        }
    }

    #[test]
    fn every_property_keeps_the_seeds_of_its_failures() {
        let mut properties = 0;
        for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "rs") {
            let code = fs::read_to_string(&file).expect("the file can be read");
            let mut lines = code.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line == "proptest! {" {
                    let config = lines.next().unwrap_or_default();
                    let ours = config.starts_with("#![proptest_config(") && config.contains("regressions::config()");
                    assert!(ours, "{} has a property with `{config}`", file.display());
                    properties += 1;
                }
            }
        }
        assert!(properties > 0, "no property was found");
    }
}
