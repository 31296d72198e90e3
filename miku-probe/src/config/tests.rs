//! What is accepted, and the exact line for what is not.

use std::time::Duration;

use clap::Parser;

use super::*;

fn config(arguments: &[&str]) -> Result<Command, ConfigError> {
    let cli = Cli::try_parse_from([&["miku-probe"], arguments].concat()).unwrap_or_else(|error| panic!("{error}"));
    Config::new(cli, None).map(|config| config.command)
}

fn ran(arguments: &[&str]) -> RunConfig {
    match config(&[&["run"], arguments].concat()) {
        Ok(Command::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

fn wrong(arguments: &[&str]) -> String {
    match config(arguments) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{command:?}"),
    }
}

fn shown(services: &[ServiceSpec]) -> Vec<String> {
    let shown = |spec: &ServiceSpec| {
        let selectors: Vec<String> = spec.selectors.iter().map(ToString::to_string).collect();
        format!("{} = {}", spec.name, selectors.join(" | "))
    };
    services.iter().map(shown).collect()
}

/// Writes `text` to a file and gives its path, for as long as the folder lives.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("c.toml");
    std::fs::write(&path, text).expect("it is ours");
    let path = path.to_str().expect("temporary paths are text").to_owned();
    (folder, path)
}

#[test]
fn nothing_given_is_the_defaults() {
    let run = ran(&[]);
    assert!(run.settings.services.is_empty() && !run.bpf_stats);
    assert_eq!(run.listen_addresses, ["127.0.0.1:10039".parse().expect("an address")]);
    assert_eq!(run.telemetry_path.to_string(), "/metrics");
    let Settings { sizes, caps, .. } = run.settings;
    assert_eq!((sizes.ring_bytes, sizes.connections), (4_194_304, 32_768));
    assert_eq!((caps.routes, caps.servers, caps.connections), (100, 100, 32_768));
}

#[test]
fn thresholds_of_health_are_the_file_s_where_it_names_them() {
    let usual = ran(&[]);
    assert_eq!(
        (usual.thresholds, usual.settings.process_interval),
        (Thresholds::default(), Some(Duration::from_secs(5)))
    );
    let (_folder, path) = file(
        "[process]\ninterval_seconds = 60\n[health]\nloop_stall_seconds = 0.5\nllm_failures = 1\nmemory_ratio = 0.75\n\
         memory_growth_mib_per_hour = 10.0\n",
    );
    let run = ran(&["--config", &path]);
    let expected = Thresholds {
        loop_stall: Duration::from_millis(500),
        llm_failures: 1,
        memory_ratio: 0.75,
        memory_growth: 10_485_760.0,
        stale: Duration::from_secs(195),
        ..Thresholds::default()
    };
    assert_eq!((run.thresholds, run.settings.process_interval), (expected, Some(Duration::from_secs(60))));
}

#[test]
fn services_are_named_or_get_a_name() {
    let run = ran(&[
        "--service=bot=cmdline:bot\\.py",
        "--service=llm=port:8080",
        "--service=bot=comm:bot",
        "--service=port:9000",
        "--service=cmdline:a=b",
        "--service=exe:/usr/bin/llama-server",
    ]);
    assert_eq!(
        shown(&run.settings.services),
        [
            "bot = cmdline:bot\\.py | comm:bot",
            "llm = port:8080",
            "port-9000 = port:9000",
            "a-b = cmdline:a=b",
            "llama-server = exe:/usr/bin/llama-server",
        ]
    );
}

#[test]
fn flags_win_over_the_file() {
    let (_folder, path) = file(
        r#"
        [web]
        listen_addresses = ["127.0.0.1:1", "[::1]:2"]
        telemetry_path = "/m"
        [limits]
        routes = 7
        connections = 1000
        [[service]]
        name = "bot"
        cmdline = 'bot\.py'
        pid = [1, 2]
        routes = ["/users/{id}"]
        required = true
        [[service]]
        name = "llm"
        port = 8080
        "#,
    );
    let run = ran(&["--config", &path]);
    assert_eq!(shown(&run.settings.services), ["bot = pid:1 | pid:2 | cmdline:bot\\.py", "llm = port:8080"]);
    assert!(run.settings.services[0].required && !run.settings.services[1].required);
    assert_eq!(run.listen_addresses.len(), 2);
    assert_eq!(
        (run.telemetry_path.to_string().as_str(), run.settings.caps.routes, run.settings.sizes.connections),
        ("/m", 7, 1000)
    );

    let run = ran(&[
        "--config",
        &path,
        "--service=bot=comm:bot",
        "--web.listen-address=:9100",
        "--web.telemetry-path=/x",
        "--limit.routes=9",
    ]);
    assert_eq!(shown(&run.settings.services), ["bot = comm:bot", "llm = port:8080"]);
    assert_eq!(run.settings.services[0].routes, ["/users/{id}"]);
    assert_eq!(run.listen_addresses, [":9100".parse().expect("an address")]);
    assert_eq!((run.telemetry_path.to_string().as_str(), run.settings.caps.routes), ("/x", 9));
}

#[test]
fn hist_tells_filters_from_selections() {
    let Ok(Command::Hist(hist)) = config(&[
        "hist",
        "--service=bot=comm:x",
        "--service=bot",
        "--side=client",
        "--route=/users/*",
        "--interval=0.5",
        "--count=3",
    ]) else {
        panic!("it makes sense");
    };
    assert_eq!(shown(&hist.settings.services), ["bot = comm:x"]);
    let options = hist.options;
    assert_eq!(options.interval.duration(), Duration::from_millis(500));
    assert_eq!((options.count, options.color), (NonZero::new(3), ColorChoice::Auto));
    assert_eq!(options.filter.parts(), ["service bot", "client side", "route /users/*"]);
    assert!(matches!(config(&["hist", "--service=bot"]), Ok(Command::Hist(hist)) if hist.settings.services.is_empty()));
}

#[test]
fn colour_is_refused_by_flag_or_environment() {
    for (flag, environment, expected) in
        [(false, None, true), (false, Some(""), true), (false, Some("1"), false), (true, None, false)]
    {
        let arguments: &[&str] = if flag { &["miku-probe", "check", "--no-color"] } else { &["miku-probe", "check"] };
        let cli = Cli::try_parse_from(arguments).expect("it parses");
        let config = Config::new(cli, environment).expect("it makes sense");
        assert!(matches!(config.command, Command::Check(check) if check.color == expected), "{flag} {environment:?}");
    }
}

#[test]
fn verbosity_goes_both_ways() {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    for (verbose, quiet, expected) in
        [(0, 0, Info), (0, 1, Warn), (0, 2, Error), (1, 0, Debug), (2, 0, Trace), (9, 0, Trace)]
    {
        assert_eq!(verbosity(verbose, quiet), expected);
    }
}

#[test]
fn flags_that_make_no_sense_are_told_in_one_line() {
    for (arguments, line) in [
        (
            &["run", "--service=bot"][..],
            "--service: `bot` has no selector; write NAME=KIND:VALUE, as in `bot=cmdline:bot`",
        ),
        (
            &["run", "--service=bot=bot.py"],
            "--service `bot=bot.py`: `bot.py` is not a selector; write KIND:VALUE, as in `cmdline:bot\\.py`",
        ),
        (
            &["run", "--service=bot=cmd:x"],
            "--service `bot=cmd:x`: there is no kind `cmd`, did you mean `cmdline`?; kinds are pid, comm, cmdline, exe, port, container, exec",
        ),
        (
            &["run", "--service=bot=exec:any"],
            "service `bot`: `exec:any` only widens `cmdline`; give it a selector that finds a process",
        ),
        (
            &["run", "--service=my bot=pid:1"],
            "--service `my bot=pid:1`: `my bot` cannot name a service; write 1 to 64 letters, digits, `_`, `-` or `.`",
        ),
        (
            &["run", "--service=b=cmdline:("],
            "--service `b=cmdline:(`: the regular expression `(` does not compile: unclosed group; put a backslash before a character that is meant as it stands",
        ),
        (
            &["run", "--service=b=pid:x"],
            "--service `b=pid:x`: `x` is not a process number; write one, as in `pid:1234`",
        ),
        (&["run", "--service=b=pid:1", "--service=b=pid:1"], "service `b`: `pid:1` is named twice; leave one out"),
        (
            &["run", "--web.listen-address=nonsense"],
            "--web.listen-address: \"nonsense\" is not an address to listen on: give HOST:PORT, [IPv6]:PORT, or :PORT for all addresses",
        ),
        (
            &["run", "--web.listen-address=127.0.0.1:1", "--web.listen-address=127.0.0.1:1"],
            "--web.listen-address: `127.0.0.1:1` is named twice; leave one out",
        ),
        (
            &["run", "--web.telemetry-path=metrics"],
            "--web.telemetry-path: \"metrics\" cannot be the path of the metrics: it has to start with /",
        ),
        (
            &["run", "--web.telemetry-path=/livez"],
            "--web.telemetry-path: \"/livez\" cannot be the path of the metrics: a health page has it; choose another",
        ),
        (
            &["run", "--limit.ring-bytes=5000000"],
            "--limit.ring-bytes: 5000000 is not a power of two; the next is 8388608",
        ),
        (&["run", "--limit.routes=0"], "--limit.routes: 0 is out of range; write 1 to 10000"),
        (&["hist", "--service=b=pid:1", "--service=c"], "--service: no service has the name `c`; there is only `b`"),
        (&["hist", "--interval=0"], "--interval: `0` is no interval: an interval is from 100ms to 1h"),
        (
            &["hist", "--interval=nan"],
            "--interval: `nan` is no interval: expected a number of seconds, or a number with one of the units ms, s, m and h, such as `500ms`",
        ),
        (&["hist", "--count=0"], "--count: 0 intervals show nothing; write 1 or more"),
        (
            &["run", "--config=/nonexistent.toml"],
            "cannot read the configuration /nonexistent.toml: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(wrong(arguments), line, "{arguments:?}");
    }
}

#[test]
fn files_that_make_no_sense_are_told_in_one_line() {
    for (text, line) in [
        (
            "[web]\nlisten_adresses = []",
            ":2: unknown key `listen_adresses`, did you mean `listen_addresses`?; keys here are listen_addresses, telemetry_path",
        ),
        (
            "\n[weeb]",
            ":2: unknown key `weeb`, did you mean `web`?; keys here are web, limits, process, health, gpu, event_loops, service",
        ),
        ("[web]\nlisten_addresses = []", "web.listen_addresses: the list is empty; leave the key out for the default"),
        ("[limits]\nroutes = 0", "limits.routes: 0 is out of range; write 1 to 10000"),
        ("[process]\ninterval_seconds = 0", "process.interval_seconds: 0 is out of range; write 1 to 3600"),
        ("[health]\nmemory_ratio = 90.0", "health.memory_ratio: 90 is out of range; write 0.01 to 1"),
        ("[health]\nllm_failures = 0", "health.llm_failures: 0 is out of range; write 1 to 1000"),
        (
            "[health]\nloop_stall = 3",
            ":2: unknown key `loop_stall`, did you mean `loop_stall_seconds`?; keys here are loop_stall_seconds, llm_failures, memory_ratio, memory_growth_mib_per_hour, descriptors_ratio, gpu_memory_ratio",
        ),
        ("[limits]\nring_bytes = 100000", "limits.ring_bytes: 100000 is not a power of two; the next is 131072"),
        (
            "[[service]]\nname = \"b\"",
            ": service `b`: it has no selector; give it at least one of pid, comm, cmdline, exe, port, container",
        ),
        ("[[service]]\nport = 1", ":1: missing field `name`"),
        (
            "[[service]]\nname = \"b\"\nport = true",
            ":3: invalid type: boolean `true`, expected a string, a whole number, or a list of them",
        ),
        (
            "[[service]]\nname = \"b\"\nport = 70000",
            ": service `b`: `70000` is not a TCP port; write 1 to 65535, as in `port:8000`",
        ),
        (
            "[[service]]\nname = \"b\"\nport = 1\nroutes = [\"users\"]",
            ": service `b`: the route `users` does not begin with `/`, as in `/users/{id}`",
        ),
        (
            "[[service]]\nname = \"b\"\nport = 1\n[[service]]\nname = \"b\"\nport = 2",
            ": service `b`: the name is used twice; put the selectors of both into one",
        ),
    ] {
        let (_folder, path) = file(text);
        let told = wrong(&["run", "--config", &path]);
        assert_eq!(told.strip_prefix(path.as_str()).unwrap_or(&told), line, "{text}");
    }
}

#[test]
fn gpus_are_asked_once_a_second_unless_told_otherwise() {
    let gpu = |arguments: &[&str]| ran(arguments).settings.gpu;
    let usual = gpu(&[]).expect("they are asked");
    assert_eq!((usual.interval, usual.library), (Duration::from_secs(1), None));
    assert!(gpu(&["--gpu-interval=off"]).is_none());
    let (_folder, path) = file("[gpu]\ninterval = \"500ms\"\nlibrary = \"/l/libnvidia-ml.so.1\"");
    let config = format!("--config={path}");
    let of_file = gpu(&[&config]).expect("they are asked");
    assert_eq!((of_file.interval, of_file.library), (Duration::from_millis(500), Some("/l/libnvidia-ml.so.1".into())));
    let of_flags = gpu(&[&config, "--gpu-interval=2", "--gpu-library=/m"]).expect("they are asked");
    assert_eq!((of_flags.interval, of_flags.library), (Duration::from_secs(2), Some("/m".into())));
    assert!(gpu(&[&config, "--gpu-interval=off"]).is_none());
    assert_eq!(
        wrong(&["run", "--gpu-interval=1ms"]),
        "--gpu-interval: `1ms` is no interval: an interval is from 100ms to 1h; `off` leaves GPUs alone"
    );
    let (_folder, path) = file("[gpu]\ninterval = \"never\"");
    let config = format!("--config={path}");
    assert!(wrong(&["run", &config]).starts_with("gpu.interval: `never` is no interval: "));
}

#[test]
fn event_loops_are_watched_unless_told_otherwise() {
    let watched = |arguments: &[&str]| ran(arguments).settings.event_loops;
    assert!(watched(&[]));
    assert!(!watched(&["--event-loops=off"]));
    let (_folder, path) = file("[event_loops]\nwatch = false");
    let config = format!("--config={path}");
    assert!(!watched(&[&config]));
    assert!(watched(&[&config, "--event-loops=on"]), "flags win");
}

#[test]
fn a_profile_s_form_is_told_by_its_file_s_name() {
    let form = |arguments: &[&str]| match config(&[&["profile"], arguments].concat()) {
        Ok(Command::Profile(profile)) => profile.form,
        other => panic!("{other:?}"),
    };
    assert_eq!(form(&[]), Form::Folded);
    assert_eq!(form(&["--output", "/tmp/bot.svg"]), Form::Svg);
    assert_eq!(form(&["--output", "bot.pb.gz"]), Form::Pprof);
    assert_eq!(form(&["--output", "bot.txt"]), Form::Folded);
    assert_eq!(form(&["--output", "bot.svg", "--format", "pprof"]), Form::Pprof, "what is said counts more");
    assert_eq!(wrong(&["profile", "--seconds", "0"]), "--seconds: 0 is out of range; write 1 to 86400");
    assert_eq!(wrong(&["profile", "--rate", "0"]), "--rate: 0 is out of range; write 1 to 1000");
    assert_eq!(
        wrong(&["stalls", "--service", "bot"]),
        "--service: `bot` has no selector; write NAME=KIND:VALUE, as in `bot=cmdline:bot`"
    );
}
