//! A Discord of the suite's own: the stand-in, an LLM server, and bots, in a place that nothing leaves.
//!
//! The stand-in writes down what happened, by the clock that the kernel stamps its records with; [`Log`] reads that and
//! tells what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::hermetic::Hermetic;
use super::process::Process;
use super::python::Python;
use super::tls::Authority;
use super::{PATIENCE, eventually};

/// Names under which the stand-in is found.
const NAMES: [&str; 5] = [
    "discord.com",
    "gateway.discord.gg",
    "gateway-us-east1-b.discord.gg",
    "cdn.discord.com",
    "rotterdam1.discord.media",
];

/// Where the LLM server listens.
pub const LLM: &str = "127.0.0.1:8300";

/// The environment of the stand-in, of the LLM server, and of bots on discord.py that have the library for zstd, and
/// FastAPI.
///
/// # Errors
/// When there is no Python with `venv`, or the packages cannot be had.
pub fn environment() -> Result<Python> {
    Python::with("discord-zstd", &["aiohttp.txt", "discord.txt", "uvicorn.txt", "zstandard.txt"])
}

/// Where all of this lives: names, certificates, and logs.
#[derive(Debug)]
pub struct Stage {
    place: Hermetic,
    authority: Authority,
    folder: TempDir,
}

impl Stage {
    /// Sets one up.
    ///
    /// # Errors
    /// When namespaces cannot be made, or certificates.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        Ok(Self { place: Hermetic::new(&NAMES, folder.path())?, authority: Authority::new()?, folder })
    }

    /// Has a command run here, and trust the stand-in.
    pub fn contain<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.place.contain(command.env("SSL_CERT_FILE", self.authority.root()))
    }

    /// Where the stand-in writes down what happened.
    #[must_use]
    pub fn truth(&self) -> PathBuf {
        self.folder.path().join("truth")
    }

    fn llm_truth(&self) -> PathBuf {
        self.folder.path().join("llm")
    }

    /// A command that starts the stand-in on the port of HTTPS.
    #[must_use]
    pub fn standin(&self, python: &Python) -> Command {
        let mut command = python.script("discord_standin.py");
        command.arg("--truth").arg(self.truth());
        command.arg("--ssl-certfile").arg(self.authority.certificate()).arg("--ssl-keyfile").arg(self.authority.key());
        self.contain(&mut command);
        command
    }

    /// A command that starts the LLM server.
    #[must_use]
    pub fn llm(&self, python: &Python) -> Command {
        let mut command = python.script("llm_standin.py");
        let port = LLM.rsplit(':').next().unwrap_or_default();
        command.args(["--port", port, "--truth"]).arg(self.llm_truth());
        self.contain(&mut command);
        command
    }
}

/// A running stand-in.
#[derive(Debug)]
pub struct Discord {
    stage: Stage,
    process: Process,
    told: usize,
    log: Log,
    read: u64,
}

impl Discord {
    /// Starts one that `python` runs, with these options of the script's.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(python: &Python, options: &[&str]) -> Self {
        let stage = Stage::new().expect("a place of its own");
        let process = Process::start("the stand-in", stage.standin(python).args(options));
        process.wait_said(PATIENCE, |line| (line == "listening").then_some(()));
        Self { stage, process, told: 0, log: Log::default(), read: 0 }
    }

    /// Has it do something, and waits until that is done: `{"do": …}` as the script's head lists them.
    ///
    /// # Panics
    /// When it is not done within `limit`.
    pub fn tell_within(&mut self, limit: Duration, command: &Value) {
        self.process.tell(&command.to_string());
        self.told += 1;
        let done = format!("done {}", self.told);
        self.process.wait_said(limit, |line| (line == done).then_some(()));
    }

    /// [`Discord::tell_within`] for what takes no time.
    ///
    /// # Panics
    /// When it takes longer.
    pub fn tell(&mut self, command: &Value) {
        self.tell_within(PATIENCE, command);
    }

    /// Starts a bot here, and waits until it says that it is ready and has identified.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn bot(&mut self, what: &str, command: &mut Command) -> Process {
        let process = Process::start(what, self.stage.contain(command));
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        self.tell(&serde_json::json!({"do": "ready"}));
        process
    }

    /// Starts a program here that is told what to do later.
    #[must_use]
    pub fn program(&self, what: &str, command: &mut Command) -> Process {
        Process::start(what, self.stage.contain(command))
    }

    /// Starts the LLM server.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn llm(&self, python: &Python, options: &[&str]) -> Process {
        let process = Process::start("the LLM server", self.stage.llm(python).args(options));
        process.wait_said(PATIENCE, |line| (line == "listening").then_some(()));
        process
    }

    /// What has happened so far.
    ///
    /// # Panics
    /// When the log is not what the stand-in writes.
    pub fn log(&mut self) -> &Log {
        let mut file = File::open(self.stage.truth()).expect("the stand-in has made its log");
        file.seek(SeekFrom::Start(self.read)).expect("a file can be read from anywhere");
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        // What does not end is being written.
        while reader.read_line(&mut line).expect("the log is UTF-8") > 0 && line.ends_with('\n') {
            self.read += line.len() as u64;
            self.log.add(&line);
            line.clear();
        }
        &self.log
    }

    /// What the LLM server wrote down of its calls that came to their end.
    ///
    /// # Panics
    /// When that is not what it writes.
    #[must_use]
    pub fn llm_calls(&self) -> Vec<LlmCall> {
        let text = fs::read_to_string(self.stage.llm_truth()).expect("the LLM server has made its log");
        let call = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line} is no JSON: {error}"));
            let since_received = |name: &str| {
                let (from, to) = (value["received"].as_u64()?, value[name].as_u64()?);
                Some(Duration::from_nanos(to.saturating_sub(from)).as_secs_f64())
            };
            Some(LlmCall { until_first: since_received("first")?, until_last: since_received("last")? })
        };
        text.lines().filter_map(call).collect()
    }

    /// Waits until `look` finds something in what has happened.
    ///
    /// # Panics
    /// When it does not in time; `what` says what was looked for.
    pub fn wait<T>(&mut self, what: &str, look: impl Fn(&Log) -> Option<T>) -> T {
        let found = eventually(PATIENCE, || look(self.log()));
        found.unwrap_or_else(|| panic!("{what} did not come to be: {:#?}", self.log().summary()))
    }

    /// Waits until so many of what people wrote and did have been answered.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn wait_replies(&mut self, count: usize) {
        self.wait(&format!("{count} replies"), |log| (log.replies().len() >= count).then_some(()));
    }

    /// The folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.stage.folder.path()
    }
}

/// One call of the LLM, in seconds since the request was received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlmCall {
    /// Until its first token was written.
    pub until_first: f64,
    /// Until all was.
    pub until_last: f64,
}

/// What a person did that a bot may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Wrote a message.
    Message,
    /// Used a command, a button, or a form.
    Interaction,
}

impl Kind {
    /// As metrics label it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Interaction => "interaction",
        }
    }
}

/// A message that the stand-in sent over a gateway connection.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Which connection.
    pub connection: u64,
    /// The shard of its session, for events.
    pub shard: Option<u64>,
    /// Its operation; none for what is no payload.
    pub op: Option<u64>,
    /// The event's name.
    pub name: Option<String>,
    /// Bytes of its JSON.
    pub size: u64,
    /// Nanoseconds of the monotonic clock before it was written.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// What a person did, with the id of the message or interaction.
    pub by_person: Option<(Kind, String)>,
    /// The name of the command, component or form that a person used.
    pub used: Option<String>,
    /// The channel of what a person did.
    pub channel: Option<String>,
    /// What only the two ends should know: the token of an interaction, the id of a session.
    pub secret: Option<String>,
}

/// A message that a bot sent over a gateway connection.
#[derive(Clone, Debug)]
pub struct Received {
    /// Which connection.
    pub connection: u64,
    /// Its operation.
    pub op: u64,
    /// Nanoseconds of the monotonic clock.
    pub at: u64,
}

/// The start of a gateway connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The compression that was asked for.
    pub compress: Option<String>,
    /// Whether it is encrypted.
    pub tls: bool,
}

/// The end of a gateway connection.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Which connection.
    pub connection: u64,
    /// The websocket's close code; 1006 when there was none.
    pub code: Option<u64>,
    /// `bot`, `standin` or `network`.
    pub by: String,
}

/// One REST call.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its route, as Discord's documentation writes it.
    pub route: String,
    /// Its path.
    pub path: String,
    /// The status of its answer.
    pub status: u64,
    /// Nanoseconds of the monotonic clock when its first byte was there.
    pub received: u64,
    /// When its answer was written.
    pub answered: u64,
    /// What remains of the route's quota.
    pub remaining: f64,
    /// Whose limit it was, with status 429.
    pub scope: Option<String>,
    /// The type of an interaction's callback.
    pub callback: Option<u64>,
    /// The id of the person's message or interaction that it is about.
    pub about: Option<String>,
}

impl Request {
    /// Whether a person sees an answer by it: not that one is on its way.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        // With a message, or by changing the one that was acted on: others promise, offer a choice, or ask back.
        const SHOWN: [Option<u64>; 2] = [Some(4), Some(7)];
        if !(200..300).contains(&self.status) {
            return false;
        }
        if self.route.ends_with("/callback") {
            return SHOWN.contains(&self.callback);
        }
        let posts = self.route.ends_with("/messages") || self.route.ends_with("/webhooks/{webhook_id}/{token}");
        (self.method == "POST" && posts) || (self.method == "PATCH" && self.route.ends_with("/messages/@original"))
    }
}

/// What a person waited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// What the person did.
    pub kind: Kind,
    /// The id of that.
    pub id: String,
    /// Nanoseconds of the monotonic clock before the event was written.
    pub asked: u64,
    /// From before the event was written to after the answer to the call was.
    pub seconds: f64,
    /// From after the event was written to before the answer was: the stand-in may have waited for a processor meanwhile.
    pub least: f64,
}

/// Everything that happened, in the order in which it was written down.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// What went out over the gateway.
    pub sent: Vec<Sent>,
    /// What came in over the gateway.
    pub received: Vec<Received>,
    /// Which gateway connections ended.
    pub closed: Vec<Closed>,
    /// The REST calls.
    pub requests: Vec<Request>,
    /// The gateway connections that there have been.
    pub connected: Vec<Connected>,
    /// Bytes of voice, by direction as metrics label it.
    pub voice: BTreeMap<String, u64>,
    waits: BTreeMap<String, Wait>,
    replies: Vec<Reply>,
}

/// What is known of a person's waiting, in nanoseconds of the monotonic clock: before and after something was written.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    asked: Option<(Kind, [u64; 2])>,
    answered: Option<[u64; 2]>,
}

impl Log {
    fn add(&mut self, line: &str) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line} is no JSON: {error}"));
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"));
        let word = |name: &str| text(name).unwrap_or_else(|| panic!("no {name} in {line}"));
        match value["what"].as_str() {
            Some("connected") => {
                self.connected.push(Connected { compress: text("compress"), tls: value["tls"] == true });
            }
            Some("sent") => {
                let kinds = [(Kind::Message, "message"), (Kind::Interaction, "interaction")];
                let person = value["person"] == true;
                let done = kinds.into_iter().find_map(|(kind, name)| Some((kind, text(name)?))).filter(|_| person);
                if let Some((kind, id)) = &done {
                    self.wait_of(id, |wait| {
                        wait.asked = wait.asked.or(Some((*kind, [number("before"), number("after")])));
                    });
                }
                self.sent.push(Sent {
                    connection: number("connection"),
                    shard: value["shard"].as_u64(),
                    op: value["op"].as_u64(),
                    name: text("t"),
                    size: number("size"),
                    before: number("before"),
                    after: number("after"),
                    by_person: done,
                    used: text("name"),
                    channel: text("channel"),
                    secret: text("token").or_else(|| text("session")),
                });
            }
            Some("received") => {
                let (connection, op, at) = (number("connection"), number("op"), number("at"));
                self.received.push(Received { connection, op, at });
            }
            Some("closed") => {
                let (connection, code, by) = (number("connection"), value["code"].as_u64(), word("by"));
                self.closed.push(Closed { connection, code, by });
            }
            Some("request") => {
                #[allow(clippy::cast_precision_loss, reason = "a quota is a small number")]
                let remaining = number("remaining") as f64 / number("limit") as f64;
                let request = Request {
                    method: word("method"),
                    route: word("route"),
                    path: word("path"),
                    status: number("status"),
                    received: number("received"),
                    answered: number("answered"),
                    remaining,
                    scope: text("scope"),
                    callback: value["kind"].as_u64(),
                    about: text("answers"),
                };
                if let Some(id) = request.about.as_deref().filter(|_| request.is_answer()) {
                    let answered = [number("answering"), request.answered];
                    self.wait_of(id, |wait| wait.answered = wait.answered.or(Some(answered)));
                }
                self.requests.push(request);
            }
            Some("voice") => *self.voice.entry(word("direction")).or_default() += number("size"),
            _ => panic!("the stand-in writes nothing like {line}"),
        }
    }

    /// How many of each event went out.
    #[must_use]
    pub fn events(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for name in self.sent.iter().filter_map(|sent| sent.name.clone()) {
            *counts.entry(name).or_default() += 1;
        }
        counts
    }

    /// How many REST calls there were, by method, route and status.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            *counts.entry(format!("{} {} {}", request.method, request.route, request.status)).or_default() += 1;
        }
        counts
    }

    /// What people got answers to.
    #[must_use]
    pub fn replies(&self) -> &[Reply] {
        &self.replies
    }

    /// What people did of which a REST call of the bot's says that it is about it, and that a bot answers: neither what a person
    /// still types, nor what is answered by a form.
    #[must_use]
    pub fn acted_on(&self) -> BTreeMap<Kind, usize> {
        const AUTOCOMPLETE: u64 = 8;
        let kinds: BTreeMap<&str, Kind> = self
            .sent
            .iter()
            .filter_map(|sent| sent.by_person.as_ref())
            .map(|(kind, id)| (id.as_str(), *kind))
            .collect();
        let about = self.requests.iter().filter(|request| request.callback != Some(AUTOCOMPLETE));
        let ids: BTreeSet<&str> = about.filter_map(|request| request.about.as_deref()).collect();
        let mut counts = BTreeMap::new();
        for kind in ids.into_iter().filter_map(|id| kinds.get(id)) {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }

    /// Whether everything that the bot's calls made happen has gone out as events.
    #[must_use]
    pub fn settled(&self) -> bool {
        let events = |name: &str| {
            let sent = self.sent.iter().filter(|sent| sent.name.as_deref() == Some(name) && sent.by_person.is_none());
            sent.count()
        };
        let calls = |method: &str, ends: [&str; 3]| {
            let good = self.requests.iter().filter(|request| request.method == method && request.status == 200);
            good.filter(|request| ends.iter().any(|end| request.route.ends_with(end))).count()
        };
        events("MESSAGE_CREATE") == calls("POST", ["/messages", "/{token}", "/{token}"])
            && events("MESSAGE_UPDATE") == calls("PATCH", ["/messages/{message_id}", "/@original", "/@original"])
    }

    /// Notes that a person asked, or was answered; only the first of each counts. The order is that of the log, which
    /// may have an answer before what was asked, if that took long to write.
    fn wait_of(&mut self, id: &str, what: impl FnOnce(&mut Wait)) {
        let wait = self.waits.entry(id.to_owned()).or_default();
        let was_over = wait.asked.is_some() && wait.answered.is_some();
        what(wait);
        if let (false, Some((kind, asked)), Some(answered)) = (was_over, wait.asked, wait.answered) {
            let between = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from)).as_secs_f64();
            let (least, seconds) = (between(asked[1], answered[0]), between(asked[0], answered[1]));
            self.replies.push(Reply { kind, id: id.to_owned(), asked: asked[0], seconds, least });
        }
    }

    /// For each heartbeat, in their order, the seconds until its ack was written; none for one that had none before
    /// the next or the connection's end.
    #[must_use]
    pub fn heartbeats(&self) -> Vec<Option<f64>> {
        const HEARTBEAT: u64 = 1;
        const ACK: u64 = 11;
        let beats: Vec<&Received> = self.received.iter().filter(|received| received.op == HEARTBEAT).collect();
        let until_ack = |(place, beat): (usize, &&Received)| {
            let next = beats[place + 1..].iter().find(|next| next.connection == beat.connection);
            let before_next = |sent: &&Sent| next.is_none_or(|next| sent.before < next.at);
            let acks = self.sent.iter().filter(|sent| sent.op == Some(ACK) && sent.connection == beat.connection);
            let ack = acks.into_iter().filter(before_next).find(|ack| ack.before >= beat.at)?;
            Some(Duration::from_nanos(ack.before - beat.at).as_secs_f64())
        };
        beats.iter().enumerate().map(until_ack).collect()
    }

    /// What there is of each, for a message.
    #[must_use]
    pub fn summary(&self) -> BTreeMap<String, u64> {
        let closed = self.closed.iter().map(|closed| (format!("closed by {}: {:?}", closed.by, closed.code), 1));
        self.events().into_iter().chain(self.calls()).chain(closed).collect()
    }
}
