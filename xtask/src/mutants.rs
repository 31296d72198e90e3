//! `cargo xtask mutants`: changes miku-probe in small ways and reports the changes that no unit test notices.
//!
//! Which changes there are is said by cargo-mutants and its settings in `.cargo/mutants.toml`. It would build the program once
//! for each, which takes most of a minute, and there are thousands. So all of them are woven into one copy of the program,
//! each behind a switch (see [`weave`]); that is built once, under `target/mutants`. One run of the unit tests shows which
//! test reaches which mutant, and then each mutant is judged by the tests that reach it, quick ones first, until one fails.
//!
//! What the compiler refuses in this form is listed as `unbuilt`; cargo-mutants itself can still build some of it one by one.

mod weave;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::setup::{self, CargoTool, Need};
use crate::sh::{Sh, say, workspace};
use weave::{Genre, Mutant, Woven};

/// By how long they take the tests are run in rounds: most mutants are noticed in the first.
const ROUNDS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// How much longer than without a mutant the tests may take, in CPU time and by the clock.
const SLOWER: u64 = 10;
const CPU_FLOOR: u64 = 5;
const CLOCK_FLOOR: Duration = Duration::from_secs(120);

/// How much memory a mutant may take, in bytes.
const MEMORY: u64 = 4 << 30;

/// Change miku-probe in small ways and report the changes that no unit test notices
#[derive(Args)]
pub(crate) struct Mutants {
    /// Only list the changes
    #[arg(long)]
    list: bool,
    /// Make only every Nth change
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// Judge without the tests of which the name contains this word; repeat it for several
    #[arg(long, value_name = "WORD")]
    skip: Vec<String>,
    /// Change only files of which the path contains one of these words, in this order
    paths: Vec<String>,
}

impl Mutants {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(&[Need::Mutants])?;
        let mutants = self.mutants()?;
        if self.list {
            mutants.values().flatten().for_each(|mutant| println!("{}", mutant.name));
            return Ok(());
        }
        let tree = Tree::new(&mutants)?;
        let mut unbuilt = BTreeSet::new();
        let tests = loop {
            let woven = tree.weave(&mutants, &unbuilt)?;
            match tree.build(&woven)? {
                Built::Tests(program) => {
                    let woven: BTreeSet<usize> = woven.values().flat_map(Woven::mutants).collect();
                    unbuilt.extend(mutants.values().flatten().map(|mutant| mutant.id).filter(|id| !woven.contains(id)));
                    break Tests::new(&program, &tree.folder, &self.skip)?;
                }
                Built::Refused(refused) => unbuilt.extend(refused),
            }
        };
        let mut wanted: Vec<(usize, &String)> = Vec::new();
        for file in mutants.keys() {
            match self.paths.iter().position(|path| file.contains(path)) {
                Some(order) => wanted.push((order, file)),
                None if self.paths.is_empty() => wanted.push((0, file)),
                None => {}
            }
        }
        wanted.sort();
        judge(wanted.into_iter().map(|(_, file)| (file, &mutants[file])), &unbuilt, &tests, self.every)
    }

    /// All mutants, by file.
    fn mutants(&self) -> Result<BTreeMap<String, Vec<Mutant>>> {
        let command = CargoTool::Mutants.command()?.args(["mutants", "--package", "miku-probe", "--list", "--json"]);
        let list: Vec<Value> = serde_json::from_str(&command.output()?).context("cannot read the list of mutants")?;
        let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
        for (id, entry) in list.iter().enumerate() {
            let (file, mutant) = mutant(id, entry).with_context(|| format!("cannot read the mutant {entry}"))?;
            files.entry(file).or_default().push(mutant);
        }
        Ok(files)
    }
}

/// The file and the mutant that an entry of the list stands for.
fn mutant(id: usize, entry: &Value) -> Option<(String, Mutant)> {
    let start = |field: &str| usize::try_from(entry["span"]["start"][field].as_u64()?).ok();
    let genre = match entry["genre"].as_str()? {
        "FnValue" => Genre::FnValue,
        "BinaryOperator" => Genre::BinaryOperator,
        "UnaryOperator" => Genre::UnaryOperator,
        "MatchArm" => Genre::MatchArm,
        "MatchArmGuard" => Genre::MatchArmGuard,
        _ => Genre::Other,
    };
    let mutant = Mutant {
        id,
        name: entry["name"].as_str()?.to_owned(),
        genre,
        start: (start("line")?, start("column")?),
        replacement: entry["replacement"].as_str()?.to_owned(),
    };
    Some((entry["file"].as_str()?.to_owned(), mutant))
}

/// The file that names the modules of miku-probe.
const LIBRARY: &str = "miku-probe/src/lib.rs";

/// A copy of the workspace.
struct Tree {
    folder: PathBuf,
}

/// What came of a build.
enum Built {
    /// The program that runs the unit tests.
    Tests(PathBuf),
    /// The mutants that the compiler complained about.
    Refused(BTreeSet<usize>),
}

impl Tree {
    /// Copies what git knows or would add, but for the files that are woven into.
    fn new(mutants: &BTreeMap<String, Vec<Mutant>>) -> Result<Self> {
        let folder = workspace().join("target/mutants/tree");
        let files = Sh::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output()?;
        let tree = Self { folder };
        for file in files.split_terminator('\0').filter(|file| *file != LIBRARY && !mutants.contains_key(*file)) {
            // One that was deleted may still be in the index.
            if let Ok(bytes) = fs::read(workspace().join(file)) {
                tree.write(file, &bytes)?;
            }
        }
        tree.write("miku-probe/src/mutants.rs", include_bytes!("mutants/switch.rs"))?;
        let library = fs::read_to_string(workspace().join(LIBRARY)).context("cannot read the library")?;
        tree.write(LIBRARY, format!("{library}pub mod mutants;\n").as_bytes())?;
        Ok(tree)
    }

    /// Writes a file, unless it is the same already: cargo looks at its time.
    fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(file);
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let folder = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Weaves all mutants in, but for those that cannot be built.
    fn weave(
        &self,
        mutants: &BTreeMap<String, Vec<Mutant>>,
        unbuilt: &BTreeSet<usize>,
    ) -> Result<BTreeMap<String, Woven>> {
        let weave = |(file, mutants): (&String, &Vec<Mutant>)| {
            let source = fs::read_to_string(workspace().join(file)).with_context(|| format!("cannot read {file}"))?;
            let mutants: Vec<Mutant> = mutants.iter().filter(|mutant| !unbuilt.contains(&mutant.id)).cloned().collect();
            let woven = weave::weave(&source, &mutants).with_context(|| format!("cannot weave into {file}"))?;
            self.write(file, woven.text.as_bytes())?;
            Ok((file.clone(), woven))
        };
        mutants.iter().map(weave).collect()
    }

    fn build(&self, woven: &BTreeMap<String, Woven>) -> Result<Built> {
        let command = Sh::new("cargo")
            .args(["test", "--package", "miku-probe", "--lib", "--no-run", "--message-format", "json"])
            // Each test runs often.
            .args(["--config", "profile.dev.package.miku-probe.opt-level=1"])
            .env("CARGO_TARGET_DIR", workspace().join("target"))
            .dir(&self.folder);
        say(format_args!("$ {command}"));
        let output = command.command().stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let messages: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if output.status.success() {
            let program = messages.iter().filter(|message| message["target"]["name"] == "miku_probe");
            let program = program.filter_map(|message| message["executable"].as_str()).next_back();
            return Ok(Built::Tests(program.context("cargo names no program")?.into()));
        }
        let mut refused = BTreeSet::new();
        for message in messages.iter().map(|message| &message["message"]).filter(|message| message["level"] == "error")
        {
            let mutants = spans(message).into_iter().find_map(|(file, bytes)| {
                let woven = woven.get(&file)?;
                let mutants = if message["code"]["code"] == "E0004" { woven.arms_at(&bytes) } else { woven.at(&bytes) };
                (!mutants.is_empty()).then_some(mutants)
            });
            match mutants {
                Some(mutants) => refused.extend(mutants),
                // Its last words, and those about what follows from other errors.
                None => say(format_args!("{}", message["rendered"].as_str().unwrap_or_default())),
            }
        }
        if refused.is_empty() {
            bail!("the woven program does not build, for a reason that is not in its mutants");
        }
        say(format_args!("the compiler refuses {} mutants", refused.len()));
        Ok(Built::Refused(refused))
    }
}

/// The places that a message of the compiler is about, the most important first.
fn spans(message: &Value) -> Vec<(String, Range<usize>)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut spans = list(&message["spans"]);
    spans.sort_by_key(|span| span["is_primary"] != true);
    spans.extend(list(&message["children"]).iter().flat_map(|child| list(&child["spans"])));
    let place = |span: &Value| {
        let number = |field: &str| usize::try_from(span[field].as_u64()?).ok();
        Some((span["file_name"].as_str()?.to_owned(), number("byte_start")?..number("byte_end")?))
    };
    spans.iter().filter_map(place).collect()
}

/// The unit tests, and what is known of them.
struct Tests {
    program: PathBuf,
    folder: PathBuf,
    /// How long each takes without a mutant.
    times: HashMap<String, Duration>,
    /// Which tests reach a mutant, the quickest first.
    reach: HashMap<usize, Vec<String>>,
}

/// How a run of tests ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    TimedOut,
}

impl Tests {
    /// Runs all of them without a mutant, but for those to skip.
    fn new(program: &Path, tree: &Path, skip: &[String]) -> Result<Self> {
        let folder = tree.join("miku-probe");
        let trace = workspace().join("target/mutants/trace");
        let _ = fs::remove_file(&trace);
        let mut tests = Self { program: program.to_owned(), folder, times: HashMap::new(), reach: HashMap::new() };
        let mut command = tests.command();
        // The thread of a test has its name only where there are several.
        command.args(["--test-threads", "2", "--report-time", "--format", "json"]).env("MUTANT_TRACE", &trace);
        command.args(skip.iter().flat_map(|word| ["--skip", word]));
        say("running the unit tests without a mutant");
        let output = command.output().context("cannot run the unit tests")?;
        let report = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("unit tests fail without a mutant:\n{report}");
        }
        for event in report.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if event["type"] == "test" && event["event"] == "ok" {
                let name = event["name"].as_str().context("a test has a name")?.to_owned();
                let time = Duration::from_secs_f64(event["exec_time"].as_f64().unwrap_or_default());
                tests.times.insert(name, time);
            }
        }
        let trace = fs::read_to_string(&trace).context("cannot read which test reaches which mutant")?;
        let mut reach: HashMap<usize, BTreeSet<&str>> = HashMap::new();
        for line in trace.lines() {
            let (id, thread) = line.split_once(' ').context("a line of the trace has two words")?;
            let names = reach.entry(id.parse().context("a mutant has a number")?).or_default();
            match tests.times.get_key_value(thread) {
                Some((name, _)) => {
                    names.insert(name);
                }
                // What a thread of a test's own reaches may be any test's.
                None => names.extend(tests.times.keys().map(String::as_str)),
            }
        }
        let quick_first = |names: &BTreeSet<&str>| {
            let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
            names.sort_by_key(|name| tests.times[name]);
            names
        };
        tests.reach = reach.iter().map(|(id, names)| (*id, quick_first(names))).collect();
        Ok(tests)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // To stop at the first failure, and to say how long a test took, are options of the test harness that are not
        // stable. A random test is to do the same each time, and a failing one need not be made smaller.
        command.args(["-Z", "unstable-options"]).env("RUSTC_BOOTSTRAP", "1").current_dir(&self.folder);
        command.env("PROPTEST_RNG_SEED", "39").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Runs these tests with a mutant.
    fn run(&self, mutant: usize, names: &[String]) -> Result<Outcome> {
        let expected: Duration = names.iter().map(|name| self.times[name]).sum();
        let cpu = CPU_FLOOR + SLOWER * (expected.as_secs() + 1);
        let clock = CLOCK_FLOOR + expected * 20;
        let mut command = self.command();
        command.args(["--test-threads", "1", "--fail-fast", "--exact"]).args(names).env("MUTANT", mutant.to_string());
        command.stdout(Stdio::null());
        // SAFETY: between fork and exec the closure makes two system calls, which are async-signal-safe, and allocates
        // nothing.
        unsafe {
            command.pre_exec(move || {
                for (resource, limit) in [(libc::RLIMIT_CPU, cpu), (libc::RLIMIT_AS, MEMORY)] {
                    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                    if libc::setrlimit(resource, &raw const limit) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().context("cannot run the unit tests")?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the unit tests")? {
                return Ok(match status.signal() {
                    _ if status.success() => Outcome::Passed,
                    Some(libc::SIGXCPU | libc::SIGKILL) => Outcome::TimedOut,
                    _ => Outcome::Failed,
                });
            }
            if start.elapsed() > clock {
                child.kill().context("cannot end the unit tests")?;
                child.wait().context("cannot wait for the unit tests")?;
                return Ok(Outcome::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Runs the tests that reach a mutant, quick ones first.
    fn judge(&self, mutant: usize) -> Result<Verdict> {
        let Some(names) = self.reach.get(&mutant) else { return Ok(Verdict::Unreached) };
        let round = |name: &String| ROUNDS.iter().position(|limit| self.times[name] < *limit);
        for names in names.chunk_by(|one, next| round(one) == round(next)) {
            match self.run(mutant, names)? {
                Outcome::Passed => {}
                Outcome::Failed => return Ok(Verdict::Noticed),
                Outcome::TimedOut => return Ok(Verdict::TimedOut),
            }
        }
        Ok(Verdict::Survived)
    }
}

/// What was found of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Noticed,
    TimedOut,
    Survived,
    /// No test runs it at all.
    Unreached,
    Unbuilt,
}

impl Verdict {
    const ALL: [Self; 5] = [Self::Noticed, Self::TimedOut, Self::Survived, Self::Unreached, Self::Unbuilt];

    fn name(self) -> &'static str {
        match self {
            Self::Noticed => "noticed",
            Self::TimedOut => "timed out",
            Self::Survived => "survived",
            Self::Unreached => "unreached",
            Self::Unbuilt => "unbuilt",
        }
    }
}

fn judge<'a>(
    mutants: impl Iterator<Item = (&'a String, &'a Vec<Mutant>)>,
    unbuilt: &BTreeSet<usize>,
    tests: &Tests,
    every: usize,
) -> Result<()> {
    let path = workspace().join("target/mutants/verdicts");
    let mut file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let start = Instant::now();
    let mut total = 0_usize;
    let mut table = String::new();
    for (source, mutants) in mutants {
        let mut counts = BTreeMap::new();
        for mutant in mutants.iter().filter(|mutant| mutant.id.is_multiple_of(every)) {
            let verdict = if unbuilt.contains(&mutant.id) { Verdict::Unbuilt } else { tests.judge(mutant.id)? };
            *counts.entry(verdict).or_insert(0_usize) += 1;
            total += 1;
            let line = format!("{:<9} {}", verdict.name(), mutant.name);
            writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
            if verdict != Verdict::Noticed {
                println!("{line}");
            }
        }
        let count = |verdict| counts.get(&verdict).copied().unwrap_or_default();
        let _ = write!(table, "{source:<60}");
        for verdict in Verdict::ALL {
            let _ = write!(table, " {:>5} {}", count(verdict), verdict.name());
        }
        table.push('\n');
        say(format_args!("{source}: {total} mutants after {:.0} s", start.elapsed().as_secs_f64()));
    }
    let each = start.elapsed().as_secs_f64() / total.max(1) as f64;
    say(format_args!("{table}{total} mutants, {each:.2} s each; all verdicts are in {}", path.display()));
    Ok(())
}
