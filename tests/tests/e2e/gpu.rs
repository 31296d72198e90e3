//! What is told of GPUs, with stand-ins for the driver's libraries: what they are told to tell is the truth.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use miku_probe_tests::exposition::{Sample, Scrape};
use miku_probe_tests::harness::llm::{Client as Caller, LlmServer};
use miku_probe_tests::harness::probe::{Probe, catalogue, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::wait_sites;
use miku_probe_tests::harness::{PATIENCE, eventually};
use nvidia_ml_standin::script::{StandIn, built};
use serde_json::{Value, json};

use crate::discord_stage::{Compression, bot, discord, llm};
use crate::llm::python;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(without_a_driver),
        case!(values_and_faults),
        case!(a_call_that_hangs),
        case!(allocations),
        case!(commands),
        case!(phases_of_calls_that_are_served, Llm),
        case!(energy_of_replies, DiscordZstd, Hermetic),
    ]
}

/// What asks for memory.
const CLIENT: &str = env!("CARGO_BIN_EXE_cuda");

/// The names of all series of GPUs.
fn names(scrape: &Scrape) -> Vec<&str> {
    scrape.with_prefix("miku_gpu_").into_iter().map(Sample::name).collect()
}

/// All series of GPUs, for a message.
fn told(scrape: &Scrape) -> String {
    scrape.show(&["miku_gpu_"])
}

fn launch(library: &str) -> Probe {
    Probe::launch(&["self=comm:nobody-has-this"], &["--gpu-interval", "100ms", "--gpu-library", library])
}

/// The probe runs, says once that there is no driver, and exports that no GPU is up, and nothing else of any.
fn without_a_driver() {
    let mut probe = launch("/nonexistent/libnvidia-ml.so.1");
    let up = probe.wait_for("miku_gpu_up", |scrape| scrape.try_value("miku_gpu_up", &[]));
    assert_eq!(up, 0.0);
    // Many intervals.
    thread::sleep(Duration::from_millis(600));
    let scrape = probe.scrape();
    assert_eq!(names(&scrape), ["miku_gpu_up"]);
    let said = probe.process().complained();
    let said: Vec<_> = said.iter().filter(|line| line.contains("NVIDIA")).collect();
    assert!(said.len() == 1 && said[0].contains("no NVIDIA driver"), "{said:#?}");
}

/// Waits until the first GPU is up.
fn wait_up(probe: &Probe) {
    probe.wait_for("the GPU", |scrape| (scrape.try_value("miku_gpu_up", &[("gpu", "0")]) == Some(1.0)).then_some(()));
}

/// A GPU whose memory is held by these processes.
fn script(used: u64, processes: &str) -> String {
    format!(
        "version 580.65.06\ncount 1\ngpu0.uuid GPU-1\ngpu0.name A GPU\ngpu0.total 85899345920\ngpu0.used {used}\n\
         gpu0.free {}\ngpu0.reserved 7\ngpu0.busy 97\ngpu0.memory_busy 41\ngpu0.temperature 66\ngpu0.power 310123\n\
         gpu0.energy 123456789\ngpu0.throttle 4\ngpu0.compute {processes}\ngpu0.xid 0:0\n",
        85_899_345_920 - used
    )
}

/// Values, those of processes to the byte, and what becomes of them when the GPU is lost and comes back; and what all that
/// costs the probe.
fn values_and_faults() {
    let client = Client::start();
    let pid = client.process.pid().to_string();
    let processes = format!("{pid}:1073741825,1:17");
    let mut standin = StandIn::without(&[]);
    standin.tell(&script(2_147_483_649, &processes));
    let library = standin.library();
    let probe = Probe::launch(&[&client.service()], &["--gpu-library", library.to_str().expect("it is text")]);
    probe.wait_target("job");
    let memory = probe.wait_for("the client's memory", |scrape| {
        let labels = [("gpu", "0"), ("service", "job"), ("pid", &*pid), ("comm", "cuda")];
        scrape.try_value("miku_gpu_process_memory_bytes", &labels)
    });
    assert_eq!(memory, 1_073_741_825.0);
    let scrape = probe.scrape();
    let of_gpu = [("gpu", "0")];
    for (name, labels, expected) in [
        ("miku_gpu_up", &of_gpu[..], 1.0),
        ("miku_gpu_info", &[("gpu", "0"), ("uuid", "GPU-1"), ("name", "A GPU")], 1.0),
        ("miku_gpu_memory_total_bytes", &of_gpu, 85_899_345_920.0),
        ("miku_gpu_memory_used_bytes", &of_gpu, 2_147_483_649.0),
        ("miku_gpu_memory_reserved_bytes", &of_gpu, 7.0),
        ("miku_gpu_utilization_ratio", &[("task", "sm")], 0.97),
        ("miku_gpu_utilization_ratio", &[("task", "memory_bandwidth")], 0.41),
        ("miku_gpu_temperature_celsius", &[("sensor", "gpu")], 66.0),
        ("miku_gpu_power_watts", &of_gpu, 310.123),
        ("miku_gpu_energy_joules_total", &of_gpu, 123_456.789),
        ("miku_gpu_throttle_active", &[("reason", "software_power_cap")], 1.0),
        ("miku_gpu_throttle_active", &[("reason", "hardware_thermal")], 0.0),
        ("miku_gpu_process_memory_bytes", &[("pid", "1")], 17.0),
    ] {
        assert_eq!(scrape.value(name, labels), expected, "{name} {labels:?}: {}", told(&scrape));
    }
    assert!(scrape.value("miku_gpu_sample_age_seconds", &[]) < 3.0);
    // Not told by this driver.
    for name in ["miku_gpu_fan_ratio", "miku_gpu_pcie_bytes_total", "miku_gpu_memory_exhausted_in_seconds"] {
        scrape.assert_absent(name, &[]);
    }
    assert_light(&probe);
    standin.tell(&format!("{}gpu0 !15\n", script(3, &processes).replace("xid 0:0", "xid 1:79")));
    probe
        .wait_for("a GPU that is lost", |scrape| (scrape.try_value("miku_gpu_up", &of_gpu) == Some(0.0)).then_some(()));
    let scrape = probe.scrape();
    let mut names = names(&scrape);
    names.sort_unstable();
    assert_eq!(names, ["miku_gpu_sample_age_seconds", "miku_gpu_up", "miku_gpu_xid_errors_total"]);
    assert_eq!(scrape.value("miku_gpu_xid_errors_total", &[("gpu", "0"), ("xid", "79")]), 1.0);
    standin.tell(&script(5, &processes));
    let used = probe.wait_for("a GPU that is back", |scrape| scrape.try_value("miku_gpu_memory_used_bytes", &of_gpu));
    assert_eq!(used, 5.0);
}

/// Asserts that sampling once a second takes less than 0.2 percent of a processor, by the scheduler's own count.
fn assert_light(probe: &Probe) {
    const TIME: Duration = Duration::from_secs(5);
    let busy = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", probe.pid())).expect("it runs");
        let threads: Vec<u64> = tasks
            .filter_map(|task| {
                let task = task.ok()?.path();
                let name = fs::read_to_string(task.join("comm")).ok()?;
                let spent = fs::read_to_string(task.join("schedstat")).ok()?;
                name.starts_with("gpu").then(|| spent.split(' ').next()?.parse().ok()).flatten()
            })
            .collect();
        assert_eq!(threads.len(), 2, "one that samples and one that calls the driver");
        threads.iter().sum::<u64>()
    };
    let before = busy();
    thread::sleep(TIME);
    let part = (busy() - before) as f64 / TIME.as_nanos() as f64;
    eprintln!("sampling a GPU once a second takes {:.3} % of a processor", part * 100.0);
    assert!(part < 0.002, "{part}");
}

/// A call that does not come back leaves nothing behind, and the probe answers meanwhile.
fn a_call_that_hangs() {
    let mut standin = StandIn::without(&[]);
    standin.tell(&script(9, "1:1"));
    let probe = launch(standin.library().to_str().expect("it is text"));
    wait_up(&probe);
    standin.tell(&format!("{}gpu0.power hang\n", script(10, "1:1").replace("gpu0.power 310123\n", "")));
    probe.wait_for("a driver that hangs", |scrape| (scrape.try_value("miku_gpu_up", &[]) == Some(0.0)).then_some(()));
    let scrape = probe.scrape();
    let mut names = names(&scrape);
    names.sort_unstable();
    assert_eq!(names, ["miku_gpu_sample_age_seconds", "miku_gpu_up"]);
    // It ends as ever, with the call still under way.
    assert!(probe.stop().success());
    standin.tell("");
}

/// Asks for memory as it is told.
struct Client {
    process: Process,
    told: usize,
}

impl Client {
    fn start() -> Self {
        let process = Process::start("the client", Command::new(CLIENT).env("CUDA_STANDIN_BYTES", "1000000"));
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Self { process, told: 0 }
    }

    fn service(&self) -> String {
        format!("job=pid:{}", self.process.pid())
    }

    /// Has it do something, and tells how often it was refused.
    fn tell(&mut self, line: &str) -> u64 {
        self.process.tell(line);
        self.told += 1;
        let done = format!("done {} ", self.told);
        self.process.wait_said(PATIENCE, |line| line.strip_prefix(&done)?.parse().ok())
    }
}

/// The stand-in under the name that the driver's library has, in a folder that goes with it.
fn cuda() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("libcuda.so.1");
    fs::copy(built("libcuda_standin.so"), &path).expect("it was built");
    (folder, path)
}

/// What is asked for is counted, by each function, and so is what is refused, with its time and its size; and there is nothing
/// of it before the library is there.
fn allocations() {
    const FAILURES: &str = "miku_gpu_allocation_failures_total";
    const BYTES: &str = "miku_gpu_allocation_bytes_total";
    let mut client = Client::start();
    let probe = Probe::attach(&[&client.service()]);
    let of_job = [("service", "job")];
    let (_folder, library) = cuda();
    // It has not loaded the library.
    probe.scrape().assert_absent(FAILURES, &of_job);
    client.tell(&format!("load {}", library.display()));
    let sites = [("service", "job"), ("kind", "cuda")];
    let attached = |scrape: &Scrape| (scrape.try_count("miku_probe_sites", &sites) > Some(0)).then_some(());
    probe.wait_for("sites in the library", attached);
    probe.wait_for("none refused", |scrape| (scrape.try_value(FAILURES, &of_job) == Some(0.0)).then_some(()));
    let mut bytes = 0;
    let mut refused = 0;
    for (function, size, count) in [
        ("cuMemAlloc_v2", 1_000, 300),
        ("cuMemAllocAsync", 2_000, 100),
        ("cuMemCreate", 3_000, 100),
        ("cuMemAllocManaged", 4_000, 40),
        ("cuMemAlloc_v2", 777_777, 3),
        ("cuMemAllocAsync", 888_888, 2),
        ("cuMemCreate", 999_999, 1),
        ("cuMemAllocManaged", 123_456, 1),
    ] {
        refused += client.tell(&format!("{function} {size} {count}"));
        bytes += size * count;
    }
    assert_eq!(refused, 7, "the stand-in has a million bytes");
    probe.wait_for("all that was asked for", |scrape| {
        let told = (scrape.try_count(BYTES, &of_job), scrape.try_count(FAILURES, &of_job));
        (told == (Some(bytes), Some(refused))).then_some(())
    });
    let scrape = probe.scrape();
    assert_eq!(scrape.value("miku_gpu_last_allocation_failure_bytes", &of_job), 123_456.0);
    let failed = scrape.value("miku_gpu_last_allocation_failure_timestamp_seconds", &of_job);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64();
    assert!((0.0..20.0).contains(&(now - failed)), "{failed} is not just before {now}");
    // The probe leaves one alive that it leaves, and counts to the end what one asks for that ends.
    let other = Probe::attach(&[&client.service()]);
    other.wait_for("sites in the library", attached);
    assert!(other.stop().success());
    assert_eq!(client.tell("cuMemAlloc_v2 1 5"), 0);
    drop(client);
    probe.wait_for("what was asked for at last", |scrape| {
        (scrape.try_count(BYTES, &of_job) == Some(bytes + 5)).then_some(())
    });
}

/// What `check` and `gpu` say of a GPU, and of none.
fn commands() {
    let row = |library: &str| {
        let mut process = Process::start("the probe", &mut command(&["check", "--json", "--gpu-library", library]));
        process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.story()));
        process.wait_silent(PATIENCE);
        let report: Value = serde_json::from_str(&process.said().join("\n")).expect("it is JSON");
        let rows = report["checks"].as_array().expect("there are rows").clone();
        rows.into_iter().find(|row| row["name"] == "GPU").expect("there is one for the GPU")
    };
    let none = row("/nonexistent/libnvidia-ml.so.1");
    assert_eq!((&none["status"], &none["remedy"]), (&"pass".into(), &Value::Null), "{none}");
    assert!(none["detail"].as_str().is_some_and(|detail| detail.contains("no NVIDIA driver")), "{none}");
    let mut standin = StandIn::without(&[]);
    standin.tell(&script(1, "1:1"));
    let library = standin.library();
    let library = library.to_str().expect("it is text");
    let one = row(library);
    assert_eq!(one["detail"], "1 found: A GPU", "{one}");
    let metrics = |library: &str| {
        let mut process = Process::start("the probe", &mut command(&["gpu", "--gpu-library", library]));
        let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.story()));
        process.wait_silent(PATIENCE);
        let scrape = Scrape::parse(&(process.said().join("\n") + "\n"), catalogue());
        (status.code(), scrape.unwrap_or_else(|error| panic!("{error:#}: {}", process.story())))
    };
    let (code, scrape) = metrics(library);
    assert_eq!((code, scrape.value("miku_gpu_memory_used_bytes", &[("gpu", "0")])), (Some(0), 1.0));
    let (code, scrape) = metrics("/nonexistent/libnvidia-ml.so.1");
    assert_eq!((code, scrape.value("miku_gpu_up", &[])), (Some(1), 0.0));
    standin.tell("driver !18");
    let mismatch = row(library);
    assert_eq!(mismatch["status"], "warn", "{mismatch}");
    assert!(mismatch["remedy"].as_str().is_some_and(|remedy| remedy.contains("reboot")), "{mismatch}");
}

/// What a GPU does while a server of language models evaluates a prompt and while it generates, by metrics and by `hist --llm`.
fn phases_of_calls_that_are_served() {
    /// Seconds that the prompt's evaluation and the answer take, and from one sample to the next.
    const PROMPT: f64 = 1.5;
    const ANSWER: f64 = 2.0;
    const SAMPLE: f64 = 0.1;
    let python = python().expect("the case needs it");
    let folder = tempfile::tempdir().expect("a folder");
    let pace = ["--prompt-ms", "1500", "--token-ms", "100", "--tokens", "21"];
    let server = LlmServer::standin(&python, &folder.path().join("truth"), None, &pace);
    let mut standin = StandIn::without(&[]);
    standin.tell(&script(21_474_836_480, "1:1"));
    let library = standin.library();
    let gpus = ["--gpu-interval", "100ms", "--gpu-library", library.to_str().expect("it is text")];
    let probe = Probe::launch(&[&server.service("llm")], &gpus);
    probe.wait_target("llm");
    let service = server.service("llm");
    let shown = [&["hist", "--llm", "--json", "--interval", "0.5", "--service", &service][..], &gpus].concat();
    let hist = Process::start("hist", &mut command(&shown));
    let frame = || hist.said().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    eventually(PATIENCE, || (frame()?["gpus"][0]["busy_ratio"] == 0.97).then_some(())).expect("hist shows the GPU");
    wait_up(&probe);
    let calls = Caller::start(&mut server.client(&python, &["--calls", "1"])).go();
    assert_eq!(calls.iter().map(|call| call.status).collect::<Vec<_>>(), [Some(200)]);

    let count = |scrape: &Scrape, phase| {
        scrape.try_sum("miku_llm_gpu_utilization_ratio_count", &[("gpu", "0"), ("phase", phase)])
    };
    for (phase, seconds) in [("prompt", PROMPT), ("generation", ANSWER)] {
        // On a busy machine some samples come late.
        let wanted = seconds / SAMPLE * 0.5..=seconds / SAMPLE + 1.0;
        let told = || format!("{:?}", count(&probe.scrape(), phase));
        let scrape = eventually(PATIENCE, || {
            let scrape = probe.scrape();
            count(&scrape, phase).is_some_and(|count| wanted.contains(&count)).then_some(scrape)
        });
        let scrape = scrape.unwrap_or_else(|| panic!("{} samples of {phase} instead of {wanted:?}", told()));
        let samples = scrape.sum("miku_llm_gpu_utilization_ratio_count", &[("gpu", "0"), ("phase", phase)]);
        for (name, each) in [("utilization_ratio", 0.97), ("power_watts", 310.123), ("memory_ratio", 0.25)] {
            let sum = scrape.sum(&format!("miku_llm_gpu_{name}_sum"), &[("gpu", "0"), ("phase", phase)]);
            assert!((sum / samples - each).abs() < 1e-6, "{name} of {phase}: {sum} in {samples}");
        }
        let seen = eventually(PATIENCE, || {
            let frame = frame()?;
            let seen = &frame["gpus"][0][phase];
            (wanted.contains(&seen["samples"].as_f64()?)).then(|| seen.clone())
        });
        let seen = seen.unwrap_or_else(|| panic!("hist does not show {phase}: {:?}", frame()));
        let means = ["busy_ratio", "power_watts"].map(|name| seen[name].as_f64().expect("a mean"));
        assert!((means[0] - 0.97).abs() < 1e-6 && (means[1] - 310.123).abs() < 1e-6, "{seen}");
    }
    // Nothing is served any more, and so no further sample counts. What the GPU says now is in the first that is none of a call's.
    let mut sampled = |used: u64| {
        standin.tell(&script(used, "1:1"));
        probe.wait_for("the next sample", |scrape| {
            let shown = scrape.try_value("miku_gpu_memory_used_bytes", &[("gpu", "0")]);
            (shown == Some(used as f64)).then(|| ["prompt", "generation"].map(|phase| count(scrape, phase)))
        })
    };
    let before = sampled(1);
    assert_eq!([2, 3, 4].map(sampled), [before; 3], "samples of prompts and of generation");
}

/// A GPU that draws so many watts, until it is dropped.
struct Drawing {
    library: PathBuf,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drawing {
    fn start(watts: f64) -> Self {
        let mut standin = StandIn::without(&[]);
        let since = Instant::now();
        let mut draw = move || {
            let joules = 1_000.0 + watts * since.elapsed().as_secs_f64();
            standin.tell(&format!("version 580.65.06\ncount 1\ngpu0.uuid GPU-1\ngpu0.energy {:.0}\n", joules * 1e3));
            standin.library()
        };
        let library = draw();
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                draw();
            }
        });
        Self { library, ends, thread: Some(thread) }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it writes to a folder of its own");
        }
    }
}

/// What the GPUs draw while a model works for a reply is that reply's, by the model's own log.
fn energy_of_replies() {
    const WATTS: f64 = 200.0;
    const COUNT: u64 = 4;
    const ENERGY: &str = "miku_discord_reply_energy_joules";
    let mut discord = discord(&[]);
    let (model, url) = llm(&discord, &["--prompt-ms", "400", "--token-ms", "20", "--tokens", "20"]);
    let bot = discord.bot("a bot", &mut bot(Compression::Zlib, &["--llm", &url, "--stream-llm"]));
    let gpu = Drawing::start(WATTS);
    let library = gpu.library.to_str().expect("it is text");
    let services = [(&bot, "bot"), (&model, "llm")].map(|(process, name)| format!("{name}=pid:{}", process.pid()));
    let services = services.each_ref().map(String::as_str);
    let probe = Probe::launch(&services, &["--gpu-interval", "100ms", "--gpu-library", library]);
    wait_sites(&probe, "bot");
    wait_up(&probe);
    for number in 1..=COUNT as usize {
        discord.tell(&json!({"do": "messages", "text": "!replyllm hi"}));
        discord.wait_replies(number);
    }
    let scrape = probe.wait_for("the energy of each reply", |scrape| {
        (scrape.try_count(&format!("{ENERGY}_count"), &[("service", "bot")]) == Some(COUNT)).then(|| scrape.clone())
    });
    let worked: f64 = discord.llm_calls().iter().map(|call| call.until_last).sum();
    let joules = scrape.sum(&format!("{ENERGY}_sum"), &[("service", "bot")]);
    let share = joules / (WATTS * worked);
    assert!((0.9..1.1).contains(&share), "{joules} J for {worked} s at {WATTS} W");
}
