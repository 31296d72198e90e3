//! `cargo xtask gpu-check`: what the probe tells of real GPUs, held against `nvidia-smi`, while a job runs on one.
//!
//! Where the kernel lets the probe attach, that is `miku-probe run`; else, as in most containers, `miku-probe gpu`, and what is
//! asked of the CUDA driver is not looked at.
//!
//! It builds nothing, so that a machine with a GPU needs neither compilers nor the network: carry this program and the release
//! binary there and run `xtask gpu-check --binary PATH`. The job loads the driver's library by itself and needs no toolkit.
//!
//! `nvidia-smi` and the probe do not ask at the same moment. So each round asks the probe before and after it, and a value
//! agrees when it lies between both, give or take what `nvidia-smi` rounds. What stands still must agree in every round, what
//! moves in a third of them at least: a wrong unit or a stale value would in none.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use miku_probe_tests::cuda::{Cuda, TOO_MUCH};
use miku_probe_tests::exposition::{Catalogue, Scrape};
use miku_probe_tests::wire::{self, Address};

use crate::build::release_binary;
use crate::sh::{Background, Sh, say, workspace};

/// How often both are asked.
const ROUNDS: usize = 12;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The library of the CUDA driver.
const LIBRARY: &str = "libcuda.so.1";

/// Hold what the probe tells of this machine's NVIDIA GPUs against nvidia-smi, while a job runs
#[derive(Args)]
pub(crate) struct GpuCheck {
    /// The probe's program
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Keep the first GPU busy, as gpu-check has it done
#[derive(Args)]
pub(crate) struct GpuLoad {
    /// How much memory to take
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    bytes: usize,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    seconds: u64,
}

impl GpuLoad {
    pub(crate) fn run(self) -> Result<()> {
        let ready = || {
            println!("ready");
            // A pipe that is gone is found by what is written to it next.
            let _gone: Result<(), _> = std::io::stdout().flush();
        };
        Cuda::load(Path::new(LIBRARY))?.work(self.bytes, Duration::from_secs(self.seconds), ready)
    }
}

/// A value of `nvidia-smi` and the probe's.
struct Field {
    /// What `--query-gpu` calls it.
    query: &'static str,
    metric: &'static str,
    label: Option<(&'static str, &'static str)>,
    /// The probe's unit in `nvidia-smi`'s.
    unit: f64,
    /// What `nvidia-smi` rounds, in its own unit.
    rounding: f64,
    /// Whether it stands still while nothing changes.
    still: bool,
}

const fn field(
    query: &'static str,
    metric: &'static str,
    label: Option<(&'static str, &'static str)>,
    unit: f64,
    rounding: f64,
    still: bool,
) -> Field {
    Field { query, metric, label, unit, rounding, still }
}

const MIB: f64 = 1_048_576.0;
const UTILIZATION: &str = "miku_gpu_utilization_ratio";
const TEMPERATURE: &str = "miku_gpu_temperature_celsius";
const CLOCK: &str = "miku_gpu_clock_hertz";
const ECC: &str = "miku_gpu_ecc_errors_total";
const REMAPPED: &str = "miku_gpu_remapped_rows";

const FIELDS: [Field; 22] = [
    field("memory.total", "miku_gpu_memory_total_bytes", None, MIB, 1.0, true),
    field("memory.used", "miku_gpu_memory_used_bytes", None, MIB, 1.0, true),
    field("memory.free", "miku_gpu_memory_free_bytes", None, MIB, 1.0, true),
    field("memory.reserved", "miku_gpu_memory_reserved_bytes", None, MIB, 1.0, true),
    field("enforced.power.limit", "miku_gpu_power_limit_watts", None, 1.0, 0.01, true),
    field("power.draw", "miku_gpu_power_watts", None, 1.0, 0.01, false),
    field("utilization.gpu", UTILIZATION, Some(("task", "sm")), 0.01, 0.5, false),
    field("utilization.memory", UTILIZATION, Some(("task", "memory_bandwidth")), 0.01, 0.5, false),
    field("utilization.encoder", UTILIZATION, Some(("task", "encoder")), 0.01, 0.5, false),
    field("utilization.decoder", UTILIZATION, Some(("task", "decoder")), 0.01, 0.5, false),
    field("temperature.gpu", TEMPERATURE, Some(("sensor", "gpu")), 1.0, 0.5, false),
    field("temperature.memory", TEMPERATURE, Some(("sensor", "memory")), 1.0, 0.5, false),
    field("clocks.gr", CLOCK, Some(("domain", "graphics")), 1e6, 0.5, false),
    field("clocks.sm", CLOCK, Some(("domain", "sm")), 1e6, 0.5, false),
    field("clocks.mem", CLOCK, Some(("domain", "memory")), 1e6, 0.5, false),
    field("clocks.video", CLOCK, Some(("domain", "video")), 1e6, 0.5, false),
    field("fan.speed", "miku_gpu_fan_ratio", Some(("fan", "0")), 0.01, 0.5, false),
    field("ecc.errors.corrected.volatile.device_memory", ECC, Some(("location", "device_memory")), 1.0, 0.0, true),
    field(
        "clocks_event_reasons.sw_power_cap",
        "miku_gpu_throttle_active",
        Some(("reason", "software_power_cap")),
        1.0,
        0.0,
        false,
    ),
    field("clocks_event_reasons.gpu_idle", "miku_gpu_throttle_active", Some(("reason", "idle")), 1.0, 0.0, false),
    field("remapped_rows.correctable", REMAPPED, Some(("cause", "corrected")), 1.0, 0.0, true),
    field("remapped_rows.uncorrectable", REMAPPED, Some(("cause", "uncorrected")), 1.0, 0.0, true),
];

/// What came of one value of one GPU.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    agreed: usize,
    disagreed: usize,
    /// Rounds in which one of both told nothing and the other did.
    one_sided: usize,
    last: Option<(String, String)>,
}

impl Tally {
    fn take(&mut self, smi: Option<f64>, probe: [Option<f64>; 2], rounding: f64) {
        match (smi, probe) {
            (None, [None, None]) => {}
            (Some(smi), [Some(before), Some(after)]) => {
                let agrees = smi >= before.min(after) - rounding && smi <= before.max(after) + rounding;
                *if agrees { &mut self.agreed } else { &mut self.disagreed } += 1;
                self.last = Some((smi.to_string(), format!("{before} … {after}")));
            }
            (smi, [before, after]) => {
                self.one_sided += 1;
                self.last = Some((shown(smi), format!("{} … {}", shown(before), shown(after))));
            }
        }
    }

    /// What is to be said of it; none where neither tells anything.
    fn verdict(&self, still: bool) -> Option<bool> {
        let rounds = self.agreed + self.disagreed + self.one_sided;
        let needed = if still { rounds } else { rounds.div_ceil(3) };
        (rounds > 0).then_some(self.one_sided == 0 && self.agreed >= needed)
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

/// A cell of `nvidia-smi`'s tables; none for what it does not know, as `[N/A]` and `[Not Supported]`.
fn cell(text: &str) -> Option<f64> {
    match text.trim() {
        "Active" => Some(1.0),
        "Not Active" => Some(0.0),
        text => text.parse().ok(),
    }
}

impl GpuCheck {
    pub(crate) fn run(self) -> Result<()> {
        let gpus = nvidia_smi().arg("-L").output().context(
            "there is no NVIDIA GPU to check here, or its driver does not work; run this on a machine on which `nvidia-smi` works",
        )?;
        ensure!(!gpus.trim().is_empty(), "`nvidia-smi -L` names no GPU");
        let binary = self.binary.unwrap_or_else(release_binary);
        ensure!(binary.is_file(), "no program at {}: build it with `cargo xtask build --release`", binary.display());
        // It is run from elsewhere.
        let binary = binary.canonicalize().with_context(|| format!("cannot find {}", binary.display()))?;
        let folder = std::env::temp_dir().join(format!("miku-gpu-check-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let told = check(&binary, &folder, gpus.trim());
        // What it could not remove is small and in the folder for such things.
        let _left: Result<(), _> = fs::remove_dir_all(&folder);
        let (text, wrong) = told?;
        let report = self.report.unwrap_or_else(|| workspace().join("docs/gpu-check.md"));
        if let Some(folder) = report.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&report, &text).with_context(|| format!("cannot write {}", report.display()))?;
        say(format_args!("{text}\nwritten to {}", report.display()));
        ensure!(wrong == 0, "{wrong} values disagree");
        Ok(())
    }
}

/// Runs job and probe, and compares; tells the report and how many values disagree.
fn check(binary: &Path, folder: &Path, gpus: &str) -> Result<(String, usize)> {
    let job_log = folder.join("job.log");
    let mut load = Command::new(std::env::current_exe().context("a program knows where it is")?);
    load.arg("gpu-load");
    let mut job = Background::start(load, &job_log)?;
    wait(&mut job, &job_log, |log| log.lines().any(|line| line == "ready").then_some(()))?;
    let pid = job.pid().to_string();
    let probe = Looker::start(binary, folder, &pid)?;
    if let Looker::Command { reason, .. } = &probe {
        say(format_args!("the probe cannot attach here, so only what the driver tells is compared: {reason}"));
    }
    let of_job = [("pid", pid.as_str())];
    let deadline = Instant::now() + PATIENCE;
    while probe.look()?.try_matching("miku_gpu_process_memory_bytes", &of_job).is_empty() {
        ensure!(Instant::now() < deadline, "the job's memory does not show in the metrics");
        thread::sleep(Duration::from_millis(200));
    }
    let mut tallies: Vec<(String, &Field, Tally)> = Vec::new();
    let mut memory = Tally::default();
    let query: Vec<&str> = FIELDS.iter().map(|field| field.query).filter(|query| knows(query)).collect();
    for _ in 0..ROUNDS {
        let before = probe.look()?;
        let table = smi(&format!("--query-gpu=index,{}", query.join(",")))?;
        let apps = smi("--query-compute-apps=pid,used_gpu_memory")?;
        // A sample that began after `nvidia-smi` had answered.
        thread::sleep(Duration::from_millis(400));
        let after = probe.look()?;
        for row in table.lines() {
            let cells: Vec<&str> = row.split(',').map(str::trim).collect();
            let Some((gpu, cells)) = cells.split_first() else { continue };
            for (text, query) in cells.iter().zip(&query) {
                let Some(field) = FIELDS.iter().find(|field| field.query == *query) else { continue };
                let told = [&before, &after].map(|scrape| value(scrape, gpu, field));
                let at = tallies.iter().position(|(index, known, _)| index == gpu && known.query == *query);
                let at = at.unwrap_or_else(|| {
                    tallies.push(((*gpu).to_owned(), field, Tally::default()));
                    tallies.len() - 1
                });
                tallies[at].2.take(cell(text), told, field.rounding);
            }
        }
        let of_smi = apps.lines().filter_map(|row| row.split_once(',')).find(|(number, _)| number.trim() == pid);
        let told = [&before, &after].map(|scrape| {
            let samples = scrape.try_matching("miku_gpu_process_memory_bytes", &of_job);
            samples.first().map(|sample| sample.value / MIB)
        });
        memory.take(of_smi.and_then(|(_, used)| cell(used)), told, 1.0);
    }
    let refusals = match &probe {
        Looker::Command { .. } => Refusals::NotSeen,
        Looker::Exporter { .. } => {
            let (last, of_job) = (probe.look()?, [("service", "job")]);
            let seen = last.try_value("miku_gpu_allocation_failures_total", &of_job).unwrap_or(0.0);
            let size = last.try_value("miku_gpu_last_allocation_failure_bytes", &of_job);
            #[allow(clippy::cast_precision_loss, reason = "it is a power of two")]
            let right = seen > 0.0 && size == Some(TOO_MUCH as f64);
            Refusals::Seen { seen, right }
        }
    };
    Ok(report(gpus, &tallies, &memory, &refusals))
}

/// Whether this `nvidia-smi` knows a field: older ones call some otherwise or do not have them, and refuse the whole query.
fn knows(query: &str) -> bool {
    smi(&format!("--query-gpu={query}")).is_ok()
}

/// Wherever the program was built, that folder need not be here.
fn nvidia_smi() -> Sh {
    Sh::new("nvidia-smi").dir("/")
}

fn smi(query: &str) -> Result<String> {
    nvidia_smi().args([query, "--format=csv,noheader,nounits"]).output()
}

fn value(scrape: &Scrape, gpu: &str, field: &Field) -> Option<f64> {
    let mut labels = vec![("gpu", gpu)];
    labels.extend(field.label);
    if field.metric == ECC {
        labels.push(("type", "corrected"));
    }
    scrape.try_matching(field.metric, &labels).first().map(|sample| sample.value / field.unit)
}

/// How the probe is asked.
enum Looker {
    /// It runs, attached to the job.
    Exporter { _probe: Background, address: Address, catalogue: &'static Catalogue },
    /// It cannot, for this reason: it is asked by a command for each look.
    Command { binary: PathBuf, reason: String, catalogue: &'static Catalogue },
}

impl Looker {
    fn start(binary: &Path, folder: &Path, pid: &str) -> Result<Self> {
        let log = folder.join("probe.log");
        let mut command = Command::new(binary);
        command.args(["run", "--web.listen-address", "127.0.0.1:0", "--gpu-interval", "200ms"]);
        command.args(["--service", &format!("job=pid:{pid}")]).env("NO_COLOR", "1");
        let mut probe = Background::start(command, &log)?;
        let address = wait(&mut probe, &log, |log| {
            let (_, url) = log.split_once("listening on http://")?;
            url.split(['/', ' ', '\n']).next()?.parse().ok()
        });
        let catalogue = Catalogue::of(binary)?;
        Ok(match address {
            Ok(address) => Self::Exporter { _probe: probe, address, catalogue },
            Err(reason) => Self::Command { binary: binary.to_owned(), reason: reason.to_string(), catalogue },
        })
    }

    fn look(&self) -> Result<Scrape> {
        let (text, catalogue) = match self {
            Self::Exporter { address, catalogue, .. } => {
                let message = wire::get(address, "/metrics", "Connection: close\r\n");
                let body = message.context("the probe does not answer")?.body;
                (String::from_utf8(body).context("metrics are UTF-8")?, catalogue)
            }
            Self::Command { binary, catalogue, .. } => (Sh::new(binary).dir("/").arg("gpu").output()?, catalogue),
        };
        Scrape::parse(&text, catalogue)
    }
}

/// Waits for what `pick` makes of a log.
fn wait<T>(process: &mut Background, log: &Path, pick: impl Fn(&str) -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some(found) = pick(&text) {
            return Ok(found);
        }
        if process.ended()?.is_some() || Instant::now() >= deadline {
            bail!("it did not start: {}", text.lines().last().unwrap_or("it says nothing"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What was seen of the job's asking for more than there is, once a second.
enum Refusals {
    /// Nothing is attached.
    NotSeen,
    Seen {
        seen: f64,
        /// Whether there were any, of the size that it asks for.
        right: bool,
    },
}

fn report(gpus: &str, tallies: &[(String, &Field, Tally)], memory: &Tally, refusals: &Refusals) -> (String, usize) {
    let mut text = format!(
        "# The probe beside nvidia-smi\n\nMade by `cargo xtask gpu-check`: {ROUNDS} rounds, while a job runs on the first GPU.\n\n\
         ```\n{gpus}\n```\n\n| GPU | value | agreed | disagreed | told by one alone | nvidia-smi, last | probe, last | |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    let mut wrong = 0;
    let mut row = |gpu: &str, name: &str, tally: &Tally, still: bool| {
        let verdict = match tally.verdict(still) {
            Some(true) => "ok",
            Some(false) => {
                wrong += 1;
                "**wrong**"
            }
            None => "neither tells it",
        };
        let (smi, probe) = tally.last.clone().unwrap_or_default();
        let Tally { agreed, disagreed, one_sided, .. } = tally;
        // Writing to a text cannot fail.
        let _fits =
            writeln!(text, "| {gpu} | {name} | {agreed} | {disagreed} | {one_sided} | {smi} | {probe} | {verdict} |");
    };
    for (gpu, field, tally) in tallies {
        row(gpu, field.query, tally, field.still);
    }
    row("", "the job's memory, MiB", memory, true);
    let seen = match refusals {
        Refusals::NotSeen => "The probe could not attach, so this was not looked at".to_owned(),
        Refusals::Seen { seen, right } => {
            wrong += usize::from(!right);
            format!("Seen so far: {seen} refusals, {}", if *right { "ok" } else { "**wrong**" })
        }
    };
    let _fits = writeln!(text, "\nThe job asks for more memory than there is once a second. {seen}.");
    (text, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rounds: &[(Option<f64>, [Option<f64>; 2])]) -> Tally {
        let mut tally = Tally::default();
        rounds.iter().for_each(|(smi, probe)| tally.take(*smi, *probe, 0.5));
        tally
    }

    #[test]
    fn a_value_agrees_between_two_looks_and_within_the_rounding() {
        let told = |smi: f64, before: f64, after: f64| tally(&[(Some(smi), [Some(before), Some(after)])]).agreed == 1;
        assert!(told(5.0, 5.0, 5.0) && told(5.0, 3.0, 9.0) && told(5.0, 9.0, 3.0) && told(5.0, 5.4, 5.5));
        assert!(!told(5.0, 5.6, 7.0) && !told(5.0, 1.0, 4.4));
    }

    #[test]
    fn what_stands_still_must_always_agree_and_what_moves_sometimes() {
        let (good, bad) = ((Some(1.0), [Some(1.0); 2]), (Some(1.0), [Some(9.0); 2]));
        assert_eq!(tally(&[good, bad, bad]).verdict(false), Some(true));
        assert_eq!(tally(&[good, bad, bad]).verdict(true), Some(false));
        assert_eq!(tally(&[bad; 3]).verdict(false), Some(false));
        assert_eq!(tally(&[(None, [None; 2]); 3]).verdict(true), None);
        assert_eq!(
            tally(&[good, (Some(1.0), [None; 2])]).verdict(false),
            Some(false),
            "one tells it, the other does not"
        );
    }

    #[test]
    fn what_is_not_supported_is_no_number() {
        let cells = ["97", " 310.12", "Active", "Not Active", "[N/A]", "[Not Supported]", ""].map(cell);
        assert_eq!(cells, [Some(97.0), Some(310.12), Some(1.0), Some(0.0), None, None, None]);
    }

    #[test]
    fn a_report_counts_what_is_wrong() {
        let (good, bad) = (tally(&[(Some(1.0), [Some(1.0); 2])]), tally(&[(Some(1.0), [Some(9.0); 2])]));
        let refusals = Refusals::Seen { seen: 0.0, right: false };
        let (text, wrong) = report("GPU 0: A GPU", &[("0".to_owned(), &FIELDS[0], bad)], &good, &refusals);
        assert_eq!(wrong, 2);
        assert!(text.contains("| 0 | memory.total | 0 | 1 | 0 | 1 | 9 … 9 | **wrong** |"), "{text}");
        assert!(text.contains("|  | the job's memory, MiB | 1 | 0 | 0 | 1 | 1 … 1 | ok |"), "{text}");
    }
}
