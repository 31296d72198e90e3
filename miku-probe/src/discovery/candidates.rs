//! Which processes are worth watching when nobody said which, and what to call them.

use std::path::Path;

use crate::discovery::process::Process;
use crate::discovery::selectors::listed;
use crate::discovery::tcp::{Holdings, Tables};

/// Programs that are LLM servers by their file name alone.
const LLM_PROGRAMS: [&str; 8] = [
    "llama-server",
    "llama-swap",
    "koboldcpp",
    "local-ai",
    "text-generation-launcher",
    "text-generation-router",
    "text-generation-server",
    "tritonserver",
];

/// Programs that are LLM servers under one of these first arguments; else they are command-line tools.
const LLM_COMMANDS: [(&str, &[&str]); 3] =
    [("ollama", &["serve", "runner"]), ("vllm", &["serve"]), ("sglang", &["serve"])];

/// Python modules that are LLM servers, with the name of the service.
const LLM_MODULES: [(&str, &str); 5] = [
    ("llama_cpp.server", "llama-cpp"),
    ("vllm.entrypoints", "vllm"),
    ("sglang.launch_server", "sglang"),
    ("text_generation_server", "text-generation-server"),
    ("fastchat.serve", "fastchat"),
];

/// Programs and modules that run an application named by their arguments.
const RUNNERS: [&str; 11] = [
    "uvicorn",
    "gunicorn",
    "hypercorn",
    "daphne",
    "granian",
    "fastapi",
    "flask",
    "celery",
    "streamlit",
    "sanic",
    "waitress-serve",
];

/// The longest name of a service that is derived.
const NAME_MAX: usize = 48;

/// What the automatic choice makes of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Worth watching, under this name, for this reason.
    Candidate {
        /// The name of the service.
        name: String,
        /// In a few words.
        why: String,
    },
    /// Python, but neither serving nor talking TLS now.
    IdlePython,
    /// Something else.
    Other,
}

/// Judges `process`. `is_python` is what [`is_python`] told of it.
#[must_use]
pub fn judge(process: &Process, is_python: bool, tables: &Tables) -> Judgement {
    if let Some(name) = llm_server(process) {
        return Judgement::Candidate { why: format!("LLM server ({name})"), name };
    }
    if !is_python {
        return Judgement::Other;
    }
    let holdings = tables.holdings(process);
    match python_at_work(&holdings) {
        Some(why) => Judgement::Candidate { name: script_name(process).unwrap_or_else(|| "python".to_owned()), why },
        None => Judgement::IdlePython,
    }
}

fn python_at_work(holdings: &Holdings) -> Option<String> {
    if !holdings.listens.is_empty() {
        return Some(format!("Python that listens on {}", listed(&holdings.listens)));
    }
    holdings.tls().map(|peer| format!("Python with a TLS connection to {peer}"))
}

/// Whether a process runs Python, by its program or its name, or with `deep` by the libraries it has mapped.
#[must_use]
pub fn is_python(process: &Process, deep: bool) -> bool {
    let by_name = |name: &str| {
        let rest = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"));
        rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b't'))
    };
    by_name(process.comm())
        || process.exe().is_some_and(|exe| by_name(exe.name()))
        || (deep && process.maps_library("libpython"))
}

/// The name of the LLM server that a process is by its program or arguments.
fn llm_server(process: &Process) -> Option<String> {
    let exe = process.exe().map_or("", |exe| exe.name());
    // A program that needs an interpreter or a loader has its own name among the first arguments.
    let arguments = process.arguments();
    let started = arguments.iter().take(2).map(|argument| file_name(argument));
    for (place, program) in started.enumerate().chain([(0, exe)]) {
        if place > 0 && !exe.starts_with("python") {
            continue;
        }
        if LLM_PROGRAMS.contains(&program) {
            return Some(program.to_owned());
        }
        let first = arguments.get(place + 1).map_or("", String::as_str);
        if LLM_COMMANDS.iter().any(|(name, commands)| *name == program && commands.contains(&first)) {
            return Some(program.to_owned());
        }
    }
    let module = module(arguments)?;
    LLM_MODULES.iter().find(|(name, _)| module.starts_with(name)).map(|(_, service)| (*service).to_owned())
}

/// The module of `python -m MODULE`.
fn module(arguments: &[String]) -> Option<&str> {
    match subject(arguments)? {
        Subject::Module(module, _) => Some(module),
        Subject::Script(..) => None,
    }
}

/// What an interpreter was told to run, with the arguments that follow.
enum Subject<'a> {
    Module(&'a str, &'a [String]),
    Script(&'a str, &'a [String]),
}

/// Reads an interpreter's command line (`python(1)`); `None` when it runs text of its command line or its input.
fn subject(arguments: &[String]) -> Option<Subject<'_>> {
    let mut place = 1;
    loop {
        let argument = arguments.get(place)?.as_str();
        let rest = arguments.get(place + 1..).unwrap_or_default();
        match argument {
            "-m" => return rest.first().map(|module| Subject::Module(module, &rest[1..])),
            "-c" | "-" => return None,
            "-W" | "-X" | "--check-hash-based-pycs" => place += 2,
            _ if argument.starts_with("-m") => return Some(Subject::Module(&argument[2..], rest)),
            _ if argument.starts_with('-') => place += 1,
            _ => return Some(Subject::Script(argument, rest)),
        }
    }
}

/// A stable name by what a Python process runs: its script, its module, or the application that its runner serves.
/// `None` when it runs text of its command line, as the children of `multiprocessing` do.
#[must_use]
pub fn script_name(process: &Process) -> Option<String> {
    let exe = process.exe().map_or("", |exe| exe.name());
    let arguments = process.arguments();
    if !exe.starts_with("python") && !exe.starts_with("pypy") && !exe.is_empty() {
        // Python is inside the program, which then has a name of its own.
        return Some(sanitised(exe));
    }
    let (name, rest) = match subject(arguments)? {
        Subject::Module(module, rest) => (module.trim_end_matches(".__main__"), rest),
        Subject::Script(path, rest) => {
            let path = Path::new(path);
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
            let folder = || path.parent()?.file_name()?.to_str();
            (if stem == "__main__" { folder().unwrap_or(stem) } else { stem }, rest)
        }
    };
    let mut parts = vec![name];
    if RUNNERS.contains(&name) {
        parts.extend(application(rest));
    }
    Some(sanitised(&parts.join("-"))).filter(|name| !name.is_empty())
}

/// The application in a runner's arguments: `app.main:app` of `uvicorn --port 80 app.main:app`, without what stands
/// after the colon.
fn application(arguments: &[String]) -> Option<&str> {
    let named = arguments.iter().find(|argument| {
        argument.split_once(':').is_some_and(|(module, _)| {
            !module.is_empty()
                && !module.starts_with('-')
                && module.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
                && !module.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
    });
    let named = named.map(|argument| argument.split(':').next().unwrap_or(argument));
    // A bare word may be an option's value; only at the front is it surely the application or the runner's own command.
    named.or_else(|| arguments.first().map(String::as_str).filter(|first| !first.starts_with('-')).map(stem))
}

fn stem(path: &str) -> &str {
    Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or(path)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `text` as a service's name: small letters, digits, `_` and `-`.
#[must_use]
pub fn sanitised(text: &str) -> String {
    let mut name = String::new();
    for character in text.chars().map(|character| character.to_ascii_lowercase()) {
        if character.is_ascii_alphanumeric() || character == '_' {
            name.push(character);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == NAME_MAX {
            break;
        }
    }
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use crate::units::Tgid;

    fn of(sketch: &Sketch<'_>) -> (Fixture, Process) {
        let fixture = Fixture::new();
        fixture.add(sketch);
        let process = fixture.proc.process(Tgid(sketch.tgid)).expect("it is in the fixture");
        (fixture, process)
    }

    #[test]
    fn names_come_from_what_python_runs() {
        for (arguments, expected) in [
            (&["python", "bot.py"][..], Some("bot")),
            (&["python3", "-u", "-X", "dev", "/srv/My Bot/bot.py", "--token-file=x"], Some("bot")),
            (&["python", "-m", "mybot"], Some("mybot")),
            (&["python", "-m", "my.bot.__main__"], Some("my-bot")),
            (&["python", "-mmybot"], Some("mybot")),
            (&["python", "/srv/mybot/__main__.py"], Some("mybot")),
            (&["/venv/bin/python", "/venv/bin/uvicorn", "app:app"], Some("uvicorn-app")),
            (
                &["python", "/venv/bin/uvicorn", "--host", "127.0.0.1:80", "src.main:app", "--workers", "2"],
                Some("uvicorn-src-main"),
            ),
            (&["python", "-m", "uvicorn", "app:app"], Some("uvicorn-app")),
            (&["python", "/usr/bin/gunicorn", "-b", "0.0.0.0:8000", "web.wsgi:application"], Some("gunicorn-web-wsgi")),
            (&["python", "/venv/bin/fastapi", "run", "api.py"], Some("fastapi-run")),
            (&["python", "-c", "from multiprocessing.spawn import spawn_main"], None),
            (&["python"], None),
            (&[], None),
        ] {
            let (_fixture, process) = of(&Sketch { exe: "/usr/bin/python3.11", arguments, ..Sketch::new(10) });
            assert_eq!(script_name(&process).as_deref(), expected, "{arguments:?}");
        }
        let (_fixture, process) = of(&Sketch { exe: "/opt/My Bot", arguments: &["./My Bot"], ..Sketch::new(10) });
        assert_eq!(script_name(&process).as_deref(), Some("my-bot"));
    }

    #[test]
    fn llm_servers_are_known_by_name() {
        for (exe, arguments, expected) in [
            ("/usr/local/bin/llama-server", &["llama-server", "-m", "m.gguf"][..], Some("llama-server")),
            ("/usr/bin/llama-swap", &["/usr/bin/llama-swap"], Some("llama-swap")),
            ("/usr/bin/ollama", &["/usr/bin/ollama", "serve"], Some("ollama")),
            ("/usr/bin/ollama", &["/usr/bin/ollama", "runner", "--port", "1"], Some("ollama")),
            ("/usr/bin/ollama", &["ollama", "run", "llama3"], None),
            ("/usr/bin/python3.11", &["python3", "/venv/bin/vllm", "serve", "m"], Some("vllm")),
            ("/usr/bin/python3.11", &["python3", "-m", "vllm.entrypoints.openai.api_server"], Some("vllm")),
            ("/usr/bin/python3.11", &["python3", "-m", "llama_cpp.server"], Some("llama-cpp")),
            (
                "/usr/bin/python3.11",
                &["python3", "/bin/text-generation-server", "serve"],
                Some("text-generation-server"),
            ),
            ("/usr/bin/less", &["less", "llama-server"], None),
            ("/usr/bin/vim", &["vim", "vllm", "serve"], None),
        ] {
            let (_fixture, process) = of(&Sketch { exe, arguments, ..Sketch::new(10) });
            assert_eq!(llm_server(&process).as_deref(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn python_counts_when_it_serves_or_talks_tls() {
        let listens = "0: 0100007F:1F40 00000000:0000 0A 0:0 0:0 0 0 0 501 1\n";
        let gateway = "0: 0100007F:C350 08080808:01BB 01 0:0 0:0 0 0 0 501 1\n";
        let plain = "0: 0100007F:C350 08080808:0050 01 0:0 0:0 0 0 0 501 1\n";
        for (tcp, expected) in [
            (listens, Some("Python that listens on 127.0.0.1:8000")),
            (gateway, Some("Python with a TLS connection to 8.8.8.8:443")),
            (plain, None),
            ("", None),
        ] {
            let arguments = &["python", "bot.py"][..];
            let sketch = Sketch { exe: "/usr/bin/python3.11", arguments, tcp, sockets: &[501], ..Sketch::new(10) };
            let (_fixture, process) = of(&sketch);
            let expected = match expected {
                Some(why) => Judgement::Candidate { name: "bot".to_owned(), why: why.to_owned() },
                None => Judgement::IdlePython,
            };
            assert_eq!(judge(&process, is_python(&process, false), &Tables::default()), expected);
        }
    }

    #[test]
    fn python_is_told_by_program_name_or_library() {
        let embedded = "7f00-7f01 r-xp 00000000 08:01 42 /opt/bot/libpython3.11.so.1.0\n";
        for (exe, comm, maps, shallow, deep) in [
            ("/usr/bin/python3.11", "uvicorn", "", true, true),
            ("/usr/bin/python3.13t", "x", "", true, true),
            ("/opt/pypy3", "x", "", true, true),
            ("/opt/bot", "python3", "", true, true),
            ("/opt/bot", "bot", embedded, false, true),
            ("/usr/bin/python-config", "x", "", false, false),
            ("/bin/sh", "sh", "", false, false),
        ] {
            let (_fixture, process) = of(&Sketch { exe, comm, maps, ..Sketch::new(10) });
            assert_eq!((is_python(&process, false), is_python(&process, true)), (shallow, deep), "{exe} {comm}");
        }
    }

    #[test]
    fn names_are_safe_labels() {
        assert_eq!(sanitised("My Bot!! (2)"), "my-bot-2");
        assert_eq!(sanitised("--a..b--"), "a-b");
        assert_eq!(sanitised("日本"), "");
        assert_eq!(sanitised(&"x".repeat(500)).len(), NAME_MAX);
    }
}
