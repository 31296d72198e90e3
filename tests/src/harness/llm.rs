//! The real llama.cpp, a stand-in for other servers of language models, and a client that times what it gets.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::process::{Process, free_port};
use super::python::Python;
use super::tls::Authority;
use super::{PATIENCE, eventually};

/// The environment of the servers and of the client.
///
/// # Errors
/// When there is no Python that they are made for, or the packages cannot be had.
pub fn environment() -> Result<Python> {
    Python::with("llm", &["aiohttp.txt", "llm.txt"])
}

/// A server of language models.
#[derive(Debug)]
pub struct LlmServer {
    /// It.
    pub process: Process,
    /// Where it listens, on the loopback.
    pub port: u16,
}

impl LlmServer {
    /// The real llama.cpp on a tiny model, with these options of `llm_server.py`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn llamacpp(python: &Python, options: &[&str]) -> Self {
        let process = Process::start("llama.cpp", python.script("llm_server.py").args(options));
        let port = process.wait_said(PATIENCE, |line| line.strip_prefix("listening ")?.parse().ok());
        Self { process, port }
    }

    /// The stand-in, with these options of `llm_standin.py`; it writes what it knows of each call to `truth`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn standin(python: &Python, truth: &Path, authority: Option<&Authority>, options: &[&str]) -> Self {
        let port = free_port();
        let mut command = python.script("llm_standin.py");
        command.args(["--port", &port.to_string(), "--truth"]).arg(truth).args(options);
        if let Some(authority) = authority {
            command.arg("--certificate").arg(authority.certificate()).arg("--key").arg(authority.key());
        }
        Self::listening(Process::start("the stand-in", &mut command), port)
    }

    /// A proxy in front of others, by the model that each serves, with these options of `llm_swap.py`; it writes what it knows of
    /// each call to `truth`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn swap(python: &Python, truth: &Path, servers: &[(&str, &Self)], options: &[&str]) -> Self {
        let port = free_port();
        let mut command = python.script("llm_swap.py");
        command.args(["--port", &port.to_string(), "--truth"]).arg(truth).args(options);
        for (model, server) in servers {
            command.args(["--upstream", &format!("{model}={}", server.port)]);
        }
        Self::listening(Process::start("the proxy", &mut command), port)
    }

    fn listening(process: Process, port: u16) -> Self {
        let up = eventually(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
        assert!(up.is_some(), "nobody listens: {}", process.story());
        Self { process, port }
    }

    /// A service `name` that is this process.
    #[must_use]
    pub fn service(&self, name: &str) -> String {
        format!("{name}=pid:{}", self.process.pid())
    }

    /// A command of the client, which asks this server.
    #[must_use]
    pub fn client(&self, python: &Python, options: &[&str]) -> Command {
        let mut command = python.script("llm_client.py");
        command.args(["--port", &self.port.to_string()]).args(options);
        command
    }
}

/// What the client saw of one call, in seconds from its request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its place among all.
    pub number: u64,
    /// The model that it asked for.
    pub model: String,
    /// From when to when it lasted, in nanoseconds of `CLOCK_MONOTONIC`.
    pub span: (u64, u64),
    /// Whether the answer came as a stream.
    pub streaming: bool,
    /// The answer's status; nothing if there was no whole answer.
    pub status: Option<u64>,
    /// To the first event with content.
    pub first_token: Option<f64>,
    /// From one event with content to the next; of those that were read together, all but the first came at once.
    pub gaps: Vec<f64>,
    /// Events with content.
    pub tokens: u64,
    /// To the end of the answer.
    pub duration: f64,
    /// Output tokens, as the server told.
    pub output: Option<u64>,
    /// Tokens of the prompt, as the server told.
    pub input: Option<u64>,
    /// How long the server says that it evaluated the prompt, and that it generated, in seconds.
    pub timings: Option<(f64, f64)>,
}

impl Call {
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line} is no JSON: {error}"));
        let start = value["start"].as_u64().unwrap_or_else(|| panic!("a call has a start: {value}"));
        let since = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from)).as_secs_f64();
        let reads: Vec<(u64, u64)> = value["tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|read| Some((read[0].as_u64()?, read[1].as_u64()?)))
            .collect();
        let mut gaps = Vec::new();
        for (place, (at, count)) in reads.iter().enumerate() {
            gaps.extend(place.checked_sub(1).map(|before| since(reads[before].0, *at)));
            gaps.extend((1..*count).map(|_| 0.0));
        }
        let first = |names: &[(&str, &str)]| names.iter().find_map(|(part, name)| value[part][name].as_u64());
        let timing = |name: &str| Some(value["timings"][name].as_f64()? / 1e3);
        let end = value["end"].as_u64().unwrap_or_else(|| panic!("a call has an end: {value}"));
        Self {
            span: (start, end),
            number: value["number"].as_u64().expect("a number"),
            model: value["model"].as_str().expect("a model").to_owned(),
            streaming: value["streaming"] == true,
            status: value["status"].as_u64(),
            first_token: reads.first().map(|(at, _)| since(start, *at)),
            gaps,
            tokens: reads.iter().map(|(_, count)| count).sum(),
            duration: since(start, end),
            output: first(&[("timings", "predicted_n"), ("usage", "completion_tokens"), ("usage", "output_tokens")]),
            input: first(&[("usage", "prompt_tokens"), ("usage", "input_tokens")]),
            timings: timing("prompt_ms").zip(timing("predicted_ms")),
        }
    }
}

/// A client that has opened its connections and waits for a word.
#[derive(Debug)]
pub struct Client {
    /// It.
    pub process: Process,
}

impl Client {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let process = Process::start("the client", command);
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Self { process }
    }

    /// A service `name` that is this process.
    #[must_use]
    pub fn service(&self, name: &str) -> String {
        format!("{name}=pid:{}", self.process.pid())
    }

    /// Lets it make its calls, one at least, and tells what it saw of them.
    ///
    /// # Panics
    /// When it does not come to an end, or makes none.
    #[must_use]
    pub fn go(&mut self) -> Vec<Call> {
        self.ask("go")
    }

    /// The same with a question, if it was started to ask that.
    ///
    /// # Panics
    /// When it does not come to an end.
    #[must_use]
    pub fn ask(&mut self, question: &str) -> Vec<Call> {
        self.process.tell(question);
        let count: usize =
            self.process.wait_said(Duration::from_secs(60), |line| line.strip_prefix("done ")?.parse().ok());
        let said = self.process.said();
        let calls: Vec<Call> = said.iter().filter(|line| line.starts_with('{')).map(|line| Call::parse(line)).collect();
        assert!(count > 0 && calls.len() == count, "{count} calls, of which it tells {}: {said:#?}", calls.len());
        calls
    }
}
