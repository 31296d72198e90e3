//! `miku-probe run`: the exporter.

use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::{Signals, check, runtime};
use crate::config::RunConfig;
use crate::observations::{Names, Observation, Sink};
use crate::probes::{self, statistics_on};
use crate::sinks::health::{Health, Status};
use crate::sinks::metrics::{BuildInfo, Metrics};
use crate::sinks::web::{self, Site};
use crate::units::Nanos;
use crate::watch::Watch;

/// How often what is not an event is brought up to date.
const REFRESH: Duration = Duration::from_secs(1);

/// Watches and serves metrics until SIGINT or SIGTERM.
///
/// # Errors
/// When a port cannot be had or the kernel side not be attached; then nothing stays attached.
pub fn run(config: RunConfig) -> anyhow::Result<()> {
    runtime()?.block_on(export(config))
}

/// What observations end in.
struct Exported {
    metrics: Metrics,
    health: Health,
}

impl Sink for Exported {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        self.metrics.observe(observation, names);
        self.health.observe(observation, names);
    }
}

async fn export(config: RunConfig) -> anyhow::Result<()> {
    let RunConfig { settings, listen_addresses, telemetry_path, thresholds, bpf_stats } = config;
    check::preflight(probes::object())?;
    let mut signals = Signals::new()?;
    // Ports first: a port in use is found before anything is attached.
    let listeners = web::bind(&listen_addresses)?;
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();

    let statistics = bpf_stats.then(statistics_on).transpose().context("cannot turn on the kernel's BPF statistics")?;
    let health = Health::new(thresholds, Nanos::now());
    for service in settings.services.iter().filter(|service| service.required) {
        health.require(&service.name, Nanos::now());
    }
    let metrics = Metrics::new(&BuildInfo::current());
    let site = Site { registry: metrics.registry(), health: health.clone(), telemetry_path: telemetry_path.clone() };
    let mut watch = Watch::start(settings, Exported { metrics, health: health.clone() })?;
    report_probes(&mut watch, &health);

    let server = Server::start(listeners, site)?;
    for address in addresses {
        log::info!("listening on http://{address}{telemetry_path}");
    }

    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = signals.end() => break,
            _ = refresh.tick() => {
                report_health(&watch, &health);
                report_places(&mut watch);
                if statistics.is_some() {
                    report_costs(&mut watch);
                }
            }
            stepped = watch.step() => stepped.context("cannot poll the ring of records")?,
        }
    }
    drop(watch);
    server.stop()
}

/// The web server, on a thread of its own: a scrape of many series must not hold up the ring.
struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn start(listeners: Vec<TcpListener>, site: Site) -> anyhow::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            // It ends when it is told, and when the sender is dropped, whatever drops it.
            let stopped = async { stopped.await.unwrap_or(()) };
            Ok(runtime()?.block_on(web::serve(listeners, site, stopped))?)
        };
        let thread = thread::Builder::new().name("web".to_owned()).spawn(serve).context("cannot start a thread")?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the web server ended badly")))
    }
}

/// Tells what was attached and what could not be.
fn report_probes(watch: &mut Watch<Exported>, health: &Health) {
    let attached = watch.kernel().attached().clone();
    let failures: Vec<_> = watch.kernel().failures().iter().map(|failure| (failure.kind, failure.reason)).collect();
    let metrics = &mut watch.sink_mut().metrics;
    for (kind, count) in attached {
        metrics.set_sites("", kind, count);
    }
    for (kind, reason) in failures {
        metrics.attach_failed(kind, reason);
    }
    health.kernel(Status::Ok, "attached", Nanos::now());
}

fn report_health(watch: &Watch<Exported>, health: &Health) {
    let now = Nanos::now();
    health.beat(now);
    let names: &Names = watch.names();
    for (service, attached, failed) in watch.target_counts() {
        health.targets(names.service(service), attached, failed, "the log tells why", now);
    }
    health.judge(now);
}

fn report_places(watch: &mut Watch<Exported>) {
    let failures = watch.take_place_failures();
    let places = watch.places().into_iter();
    let places: Vec<_> =
        places.map(|((service, kind), count)| (watch.names().service(service).to_owned(), kind, count)).collect();
    let metrics = &mut watch.sink_mut().metrics;
    for (service, kind, count) in places {
        metrics.set_sites(&service, kind.as_str(), count);
    }
    for (kind, reason) in failures {
        metrics.attach_failed(kind, reason);
    }
}

fn report_costs(watch: &mut Watch<Exported>) {
    for program in watch.run_statistics() {
        watch.sink_mut().metrics.bpf_program(&program.program, Nanos(program.run_time_ns), program.runs);
    }
}
