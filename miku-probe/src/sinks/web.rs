//! The HTTP server: metrics, health and a landing page, read-only.
//!
//! Ports are claimed by [`bind`] before anything is attached, and served by [`serve`] afterwards. Whoever can reach
//! the port may be slow or hostile, so connections, their times, their heads, and answers in memory are all bounded.

use std::fmt;
use std::future::Future;
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::health::{Health, Report, Status};
use super::negotiation::{Offer, preferred, takes_gzip};
use super::openmetrics;
use crate::units::Nanos;

/// Where the server listens when nothing else is said.
pub const DEFAULT_LISTEN_ADDRESS: &str = "127.0.0.1:10039";

/// The path of the metrics when nothing else is said.
pub const DEFAULT_TELEMETRY_PATH: &str = "/metrics";

/// How many scrapes are answered at once, from the gathering to the last byte; more are sent away with 503.
const SCRAPE_LIMIT: usize = 4;

/// What connections may take of the probe.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How many are served at once; more wait in the kernel's queue.
    connections: usize,
    /// How long a request's head may take, and how long a connection may be idle.
    head: Duration,
    /// How long an answer may take from the start of its request to its last byte.
    answer: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    // Between the usual scrape intervals of 10 and 15 seconds, so that no scraper finds its connection closing just as
    // it uses it.
    head: Duration::from_secs(12),
    answer: Duration::from_secs(30),
};

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// How long answers under way may still take at shutdown.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// How long nothing is accepted after the kernel refused to, as when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

const LIVE_PATH: &str = "/livez";
const READY_PATH: &str = "/readyz";
const HEALTH_PATH: &str = "/healthz";
const PROMETHEUS_HEALTHY_PATH: &str = "/-/healthy";
const PROMETHEUS_READY_PATH: &str = "/-/ready";

/// The media type of the older text format, which is always UTF-8; the `prometheus` crate's constant does not say so.
const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

const METRICS_OFFERS: [(Format, Offer); 2] = [
    (Format::Text, Offer { media: "text/plain", version: Some("0.0.4") }),
    (Format::OpenMetrics, Offer { media: "application/openmetrics-text", version: Some("1.0.0") }),
];

const REPORT_OFFERS: [Offer; 2] =
    [Offer { media: "text/plain", version: None }, Offer { media: "application/json", version: None }];

/// What went wrong with the server.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// An address that is none.
    #[error("{text:?} is not an address to listen on: give HOST:PORT, [IPv6]:PORT, or :PORT for all addresses")]
    Address {
        /// What was given.
        text: String,
    },
    /// A path that cannot be served.
    #[error("{text:?} cannot be the path of the metrics: {why}")]
    TelemetryPath {
        /// What was given.
        text: String,
        /// Why not, and what to give instead.
        why: &'static str,
    },
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({remedy})")]
    Listen {
        /// The address.
        address: ListenAddress,
        /// What to do.
        remedy: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A listener that the runtime cannot take.
    #[error("cannot serve a listening socket")]
    Serve(#[source] io::Error),
}

/// An address to listen on: `HOST:PORT`, `[IPv6]:PORT`, or `:PORT` for all addresses of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// None for all addresses.
    host: Option<String>,
    port: u16,
}

impl FromStr for ListenAddress {
    type Err = WebError;

    fn from_str(text: &str) -> Result<Self, WebError> {
        let error = || WebError::Address { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => {
                let address = bracketed.strip_suffix(']').ok_or_else(error)?;
                Some(address.parse::<Ipv6Addr>().map_err(|_| error())?.to_string())
            }
            // More colons are an IPv6 address without its brackets.
            None if host.contains([':', '/', ' ']) => return Err(error()),
            None => (!host.is_empty()).then(|| host.to_owned()),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(formatter, "[{host}]:{}", self.port),
            Some(host) => write!(formatter, "{host}:{}", self.port),
            None => write!(formatter, ":{}", self.port),
        }
    }
}

impl ListenAddress {
    fn listen(&self) -> io::Result<TcpListener> {
        let Some(host) = &self.host else {
            // A socket of IPv6 takes connections of IPv4 too; where there is no IPv6, one of IPv4 is all there is.
            return TcpListener::bind((Ipv6Addr::UNSPECIFIED, self.port)).or_else(|error| match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.port)),
                _ => Err(error),
            });
        };
        let addresses: Vec<SocketAddr> = (host.as_str(), self.port).to_socket_addrs()?.collect();
        TcpListener::bind(&addresses[..])
    }
}

/// The path under which the metrics are served: `/`, or segments of unreserved characters that no other page has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryPath(String);

impl FromStr for TelemetryPath {
    type Err = WebError;

    fn from_str(text: &str) -> Result<Self, WebError> {
        let error = |why| Err(WebError::TelemetryPath { text: text.to_owned(), why });
        if !text.starts_with('/') {
            return error("it has to start with /");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)) {
            return error("it may hold letters, digits and - . _ ~ / only");
        }
        if text.contains("//") {
            return error("it may hold no empty segment");
        }
        if [LIVE_PATH, READY_PATH, HEALTH_PATH, PROMETHEUS_HEALTHY_PATH, PROMETHEUS_READY_PATH].contains(&text) {
            return error("a health page has it; choose another");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TelemetryPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What the server shows.
#[derive(Clone, Debug)]
pub struct Site {
    /// The metrics, gathered anew for each scrape.
    pub registry: Registry,
    /// The state of health.
    pub health: Health,
    /// Where the metrics are.
    pub telemetry_path: TelemetryPath,
}

/// Claims all `addresses`, so that a port in use is found before anything is attached.
///
/// # Errors
/// [`WebError::Listen`] for the first address that cannot be had; those claimed before it are given back.
pub fn bind(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, WebError> {
    addresses
        .iter()
        .map(|address| {
            let listener = address.listen().and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(|source| WebError::Listen {
                address: address.clone(),
                remedy: match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        "stop the program that listens there, or choose another port with --web.listen-address"
                    }
                    io::ErrorKind::PermissionDenied => "choose a port above 1023 with --web.listen-address",
                    _ => "choose an address of this machine with --web.listen-address",
                },
                source,
            })
        })
        .collect()
}

/// Serves `site` on all `listeners` until `shutdown` is done, then ends within half a second.
///
/// # Errors
/// [`WebError::Serve`] when a listener is no socket that can be served.
///
/// # Panics
/// Outside a tokio runtime with I/O and time.
pub async fn serve(
    listeners: Vec<TcpListener>,
    site: Site,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WebError> {
    serve_within(LIMITS, listeners, site, shutdown).await
}

async fn serve_within(
    limits: Limits,
    listeners: Vec<TcpListener>,
    site: Site,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WebError> {
    let app = router(site);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopped) = watch::channel(());
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(WebError::Serve)?;
        acceptors.spawn(accept(limits, listener, app.clone(), Arc::clone(&slots), stopped.clone()));
    }
    shutdown.await;
    drop(stop);
    while acceptors.join_next().await.is_some() {}
    Ok(())
}

/// Accepts connections until `stop` closes, then waits a little for those that are left.
async fn accept(
    limits: Limits,
    listener: tokio::net::TcpListener,
    app: Router,
    slots: Arc<Semaphore>,
    mut stop: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let (stream, _) = listener.accept().await?;
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((stream, slot))
        };
        tokio::select! {
            _ = stop.changed() => break,
            accepted = next => match accepted {
                Ok((stream, slot)) => {
                    connections.spawn(converse(limits, stream, slot, app.clone(), stop.clone()));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_LIMIT, rest).await.is_err() {
        log::debug!("connections were still open at shutdown");
    }
}

/// Serves one connection until either side ends it, or its time is over.
async fn converse(
    limits: Limits,
    stream: tokio::net::TcpStream,
    slot: OwnedSemaphorePermit,
    app: Router,
    mut stop: watch::Receiver<()>,
) {
    let _slot = slot;
    let (began, mut begins) = watch::channel(());
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request| {
        began.send_replace(());
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut deadline = std::pin::pin!(sleep_until(Instant::now() + limits.answer));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    log::debug!("a connection to the web server ended early: {error}");
                }
                return;
            }
            Ok(()) = begins.changed() => deadline.as_mut().reset(Instant::now() + limits.answer),
            () = deadline.as_mut() => return,
            _ = stop.changed(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The pages, and what they need.
#[derive(Clone)]
struct Pages {
    site: Site,
    scrapes: Arc<Semaphore>,
}

fn router(site: Site) -> Router {
    let telemetry_path = site.telemetry_path.0.clone();
    let mut router = Router::new()
        .route(LIVE_PATH, get(live))
        .route(READY_PATH, get(ready))
        .route(HEALTH_PATH, get(healthy))
        .route(PROMETHEUS_HEALTHY_PATH, get(prometheus_healthy))
        .route(PROMETHEUS_READY_PATH, get(prometheus_ready))
        .route(&telemetry_path, get(metrics));
    if telemetry_path != "/" {
        router = router.route("/", get(landing));
    }
    router.fallback(nowhere).with_state(Pages { site, scrapes: Arc::new(Semaphore::new(SCRAPE_LIMIT)) })
}

async fn nowhere(method: Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        text(StatusCode::NOT_FOUND, "There is no such page; / lists those that there are.\n".to_owned())
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET,HEAD")]).into_response()
    }
}

async fn landing(State(pages): State<Pages>) -> Response {
    // The path holds no character that HTML gives a meaning to.
    let page = format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\">\n\
         <head><meta charset=\"utf-8\"><title>miku-probe</title></head>\n\
         <body>\n\
         <h1>miku-probe</h1>\n\
         <p>Out-of-process profiler for AI chat bots, version {}</p>\n\
         <ul>\n\
         <li><a href=\"{}\">Metrics</a></li>\n\
         <li><a href=\"{HEALTH_PATH}\">Health of the watched services</a></li>\n\
         <li><a href=\"{READY_PATH}\">Whether the probe is attached</a></li>\n\
         <li><a href=\"{LIVE_PATH}\">Whether the probe lives</a></li>\n\
         </ul>\n\
         </body>\n\
         </html>\n",
        env!("CARGO_PKG_VERSION"),
        pages.site.telemetry_path
    );
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

async fn live(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let report = pages.site.health.liveness(Nanos::now());
    let well = report.status == Status::Ok;
    tell(&report, well, &headers)
}

async fn ready(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let report = pages.site.health.readiness(Nanos::now());
    let well = report.status == Status::Ok;
    tell(&report, well, &headers)
}

async fn healthy(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let report = pages.site.health.report(Nanos::now());
    let well = report.status != Status::Failing;
    tell(&report, well, &headers)
}

async fn prometheus_healthy(State(pages): State<Pages>) -> Response {
    let report = pages.site.health.liveness(Nanos::now());
    if report.status == Status::Ok {
        text(StatusCode::OK, "miku-probe is Healthy.\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, report.to_string())
    }
}

async fn prometheus_ready(State(pages): State<Pages>) -> Response {
    let report = pages.site.health.readiness(Nanos::now());
    if report.status == Status::Ok {
        text(StatusCode::OK, "miku-probe is Ready.\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, report.to_string())
    }
}

/// A report, as JSON or as lines.
fn tell(report: &Report, well: bool, headers: &HeaderMap) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = if preferred(&values(headers, &header::ACCEPT), &REPORT_OFFERS) == 1 {
        match serde_json::to_string(report) {
            Ok(json) => (status, [(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
            Err(error) => broken("a report", &error),
        }
    } else {
        text(status, report.to_string())
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Which text format the metrics are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// That of Prometheus, version 0.0.4.
    Text,
    OpenMetrics,
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let Ok(permit) = Arc::clone(&pages.scrapes).try_acquire_owned() else {
        let mut response =
            text(StatusCode::SERVICE_UNAVAILABLE, "Too many scrapes at once; try again later.\n".to_owned());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    let (format, _) =
        METRICS_OFFERS[preferred(&values(&headers, &header::ACCEPT), &METRICS_OFFERS.map(|(_, offer)| offer))];
    let compress = takes_gzip(&values(&headers, &header::ACCEPT_ENCODING));
    let body = match render(&pages.site.registry.gather(), format, compress) {
        Ok(body) => body,
        Err(error) => return broken("the metrics", &error),
    };
    let content_type = match format {
        Format::Text => TEXT_CONTENT_TYPE,
        Format::OpenMetrics => openmetrics::CONTENT_TYPE,
    };
    let body = Bytes::from_owner(Scrape { body, _permit: permit });
    let mut response =
        ([(header::CONTENT_TYPE, content_type), (header::VARY, "Accept, Accept-Encoding")], Body::from(body))
            .into_response();
    if compress {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The bytes of an answer, which hold a place among the scrapes until the last of them is sent.
struct Scrape {
    body: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Scrape {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn render(families: &[MetricFamily], format: Format, compress: bool) -> io::Result<Vec<u8>> {
    if !compress {
        let mut body = Vec::new();
        encode(families, format, &mut body)?;
        return Ok(body);
    }
    // Compressed as it is written, so that the whole text, up to twenty times as long, never stands in memory.
    let mut writer = BufWriter::with_capacity(16 * 1024, GzEncoder::new(Vec::new(), Compression::fast()));
    encode(families, format, &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

fn encode(families: &[MetricFamily], format: Format, writer: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Text => TextEncoder::new().encode(families, writer).map_err(io::Error::other),
        Format::OpenMetrics => openmetrics::encode(families, writer),
    }
}

/// The values of all fields of this name; one that is no text is no wish.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
}

fn text(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, PLAIN_TEXT)], text).into_response()
}

fn broken(what: &str, error: &dyn std::error::Error) -> Response {
    log::error!("cannot write {what}: {error}");
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("Cannot write {what}: {error}\n"))
}

#[cfg(test)]
mod tests;
