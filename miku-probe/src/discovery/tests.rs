//! The life of processes, as a [`Discovery`] tells it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;
use crate::discovery::fixture::{Fixture, Sketch};
use crate::discovery::selectors::Kind;

const PYTHON: &str = "/usr/bin/python3.11";
const LISTENS: &str = "0: 0100007F:1F40 00000000:0000 0A 0:0 0:0 0 0 0 501 1\n";

fn spec(name: &str, kind: Kind, value: &str) -> ServiceSpec {
    let selector = Selector::parse(kind, value).unwrap_or_else(|error| panic!("{error}"));
    ServiceSpec { name: name.to_owned(), selectors: vec![selector], routes: vec![], required: false }
}

fn bot() -> ServiceSpec {
    spec("bot", Kind::Cmdline, r"bot\.py")
}

fn python<'a>(tgid: u32, arguments: &'a [&'a str]) -> Sketch<'a> {
    Sketch { exe: PYTHON, comm: "python", arguments, ..Sketch::new(tgid) }
}

/// Changes in one line each: `+10 bot` found, `-10` gone, `!10 reason` rejected, `*name` a new service.
fn told(discovery: &Discovery, changes: &[Change]) -> Vec<String> {
    let name = |service: ServiceId| discovery.services()[usize::from(service.0)].as_str();
    let line = |change: &Change| match change {
        Change::NewService { name, .. } => format!("*{name}"),
        Change::Found(target) => format!("+{} {}", target.tgid, name(target.service)),
        Change::Gone { tgid } => format!("-{tgid}"),
        Change::Rejected { tgid, reason, .. } => format!("!{tgid} {}", reason.as_str()),
    };
    changes.iter().map(line).collect()
}

fn scanned(discovery: &mut Discovery) -> Vec<String> {
    let changes = discovery.scan().expect("the fixture can be read");
    told(discovery, &changes)
}

fn examined(discovery: &mut Discovery, tgid: u32, event: Event) -> Vec<String> {
    let changes = discovery.examine(Tgid(tgid), event);
    told(discovery, &changes)
}

#[test]
fn a_scan_tells_of_every_change_once() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    fixture.add(&python(11, &["python", "other.py"]));
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), ["+10 bot"]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    assert_eq!(discovery.count(ServiceId(0)), 1);
    fixture.remove(10);
    assert_eq!(scanned(&mut discovery), ["-10"]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
}

#[test]
fn the_first_service_wins_and_alternatives_are_any() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    fixture.add(&python(11, &["python", "llm.py"]));
    let mut both = spec("second", Kind::Cmdline, "llm");
    both.selectors.extend(spec("", Kind::Comm, "python").selectors);
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot(), both]);
    assert_eq!(scanned(&mut discovery), ["+10 bot", "+11 second"]);
}

#[test]
fn a_number_that_is_used_again_is_another_process() {
    let fixture = Fixture::new();
    let first = python(10, &["python", "bot.py"]);
    fixture.add(&first);
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), ["+10 bot"]);
    fixture.add(&Sketch { start: 99_999, ..python(10, &["python", "bot.py"]) });
    assert_eq!(examined(&mut discovery, 10, Event::Exec), ["-10", "+10 bot"]);
    fixture.add(&Sketch { start: 111_111, ..python(10, &["python", "other.py"]) });
    assert_eq!(scanned(&mut discovery), ["-10"]);
}

#[test]
fn a_pid_selector_means_one_process_and_no_later_one() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    let mut discovery =
        Discovery::new(fixture.proc.clone(), vec![spec("x", Kind::Pid, "10"), spec("y", Kind::Pid, "20")]);
    let unknown = discovery.check_pids().expect_err("there is no 20").to_string();
    assert_eq!(unknown, "service y: there is no process 20; `miku-probe ps` lists those that can be watched");
    assert_eq!(scanned(&mut discovery), ["+10 x"]);
    fixture.add(&Sketch { start: 99_999, ..python(10, &["python", "bot.py"]) });
    fixture.add(&python(20, &["python"]));
    assert_eq!(scanned(&mut discovery), ["-10"]);
}

#[test]
fn a_program_that_starts_later_is_found_by_its_exec() {
    let fixture = Fixture::new();
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    fixture.add(&python(10, &["python", "bot.py"]));
    assert_eq!(examined(&mut discovery, 10, Event::Exec), ["+10 bot"]);
    assert_eq!(examined(&mut discovery, 10, Event::Exec), [""; 0]);
    assert_eq!(examined(&mut discovery, 404, Event::Exec), [""; 0], "it has ended before it was looked at");
}

#[test]
fn a_port_is_found_when_it_is_listened_on() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![spec("api", Kind::Port, "8000")]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    fixture.add(&Sketch { sockets: &[501], tcp: LISTENS, ..python(10, &["python", "bot.py"]) });
    assert_eq!(examined(&mut discovery, 10, Event::Dial(443)), [""; 0], "who dials listens no more than before");
    assert_eq!(examined(&mut discovery, 10, Event::Listen(1)), [""; 0], "nobody asked for that port");
    assert_eq!(examined(&mut discovery, 10, Event::Listen(8000)), ["+10 api"]);
}

#[test]
fn forked_workers_belong_until_they_become_another_program() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), ["+10 bot"]);
    // One worker starts Python anew, as multiprocessing does, the other becomes ffmpeg.
    for worker in [11, 12] {
        fixture.add(&Sketch { parent: 10, ..python(worker, &["python", "bot.py"]) });
        let changes = discovery.forked(Tgid(10), Tgid(worker));
        assert_eq!(told(&discovery, &changes), [format!("+{worker} bot")]);
    }
    fixture.add(&Sketch { parent: 10, ..python(11, &["python", "-c", "from multiprocessing.spawn import …"]) });
    assert_eq!(examined(&mut discovery, 11, Event::Exec), [""; 0]);
    fixture.add(&Sketch { parent: 10, exe: "/usr/bin/ffmpeg", arguments: &["ffmpeg"], ..Sketch::new(12) });
    assert_eq!(examined(&mut discovery, 12, Event::Exec), ["-12"]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    // Their parent's end changes nothing for the worker that is left.
    let changes = discovery.exited(Tgid(10));
    assert_eq!(told(&discovery, &changes), ["-10"]);
    fixture.remove(10);
    fixture.add(&Sketch { parent: 1, ..python(11, &["python", "-c", "from multiprocessing.spawn import …"]) });
    assert_eq!(scanned(&mut discovery), [""; 0]);
    assert_eq!(discovery.exited(Tgid(404)), []);
}

#[test]
fn workers_that_were_there_before_are_found_with_their_parent() {
    let fixture = Fixture::new();
    // The number of the worker is the smaller one, as after the numbers wrapped.
    fixture.add(&Sketch { start: 5_000, ..python(3_000, &["python", "bot.py"]) });
    fixture.add(&Sketch { start: 5_001, parent: 3_000, ..python(20, &["python", "-c", "spawn"]) });
    fixture.add(&Sketch { start: 5_002, parent: 3_000, exe: "/bin/sh", ..Sketch::new(21) });
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), ["+3000 bot", "+20 bot"]);
}

#[test]
fn a_selected_process_that_becomes_another_program_is_gone() {
    let fixture = Fixture::new();
    fixture.add(&python(10, &["python", "bot.py"]));
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot(), spec("tool", Kind::Exe, "tool")]);
    assert_eq!(scanned(&mut discovery), ["+10 bot"]);
    fixture.add(&python(10, &["renamed: idle"]));
    assert_eq!(scanned(&mut discovery), [""; 0], "a new name is no new program");
    fixture.add(&Sketch { exe: "/usr/bin/tool", ..Sketch::new(10) });
    assert_eq!(scanned(&mut discovery), ["-10", "+10 tool"], "even when its exec was not told");
    fixture.add(&Sketch { exe: "/usr/bin/other", ..Sketch::new(10) });
    assert_eq!(examined(&mut discovery, 10, Event::Exec), ["-10"]);
}

#[test]
fn kernel_threads_and_32_bit_programs_are_not_watched() {
    let fixture = Fixture::new();
    let program = fixture.file("bot.py", b"\x7fELF\x01\x01\x01");
    let program = program.to_str().expect("temporary paths are text");
    fixture.add(&Sketch { exe: program, arguments: &["bot.py"], ..Sketch::new(10) });
    fixture.add(&Sketch { flags: 0x20_8040, arguments: &["bot.py"], ..Sketch::new(11) });
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![bot()]);
    assert_eq!(scanned(&mut discovery), ["!10 32_bit"]);
    assert_eq!(scanned(&mut discovery), [""; 0], "it is told once");
}

#[test]
fn without_services_those_worth_watching_are_chosen() {
    let fixture = Fixture::new();
    fixture.add(&Sketch { sockets: &[501], tcp: LISTENS, ..python(10, &["python", "/venv/bin/uvicorn", "app:app"]) });
    fixture.add(&Sketch { parent: 10, ..python(11, &["python", "-c", "from multiprocessing.spawn import …"]) });
    fixture.add(&python(12, &["python", "bot.py"]));
    fixture.add(&Sketch { exe: "/usr/bin/llama-server", arguments: &["llama-server"], ..Sketch::new(13) });
    fixture.add(&Sketch { exe: "/usr/sbin/nginx", sockets: &[501], tcp: LISTENS, ..Sketch::new(14) });
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![]);
    assert_eq!(
        scanned(&mut discovery),
        ["*uvicorn-app", "+10 uvicorn-app", "+11 uvicorn-app", "!12 idle", "*llama-server", "+13 llama-server"]
    );
    assert_eq!(scanned(&mut discovery), [""; 0]);
    let gateway = "0: 0100007F:C350 08080808:01BB 02 0:0 0:0 0 0 0 501 1\n";
    fixture.add(&Sketch { sockets: &[501], tcp: gateway, ..python(12, &["python", "bot.py"]) });
    assert_eq!(examined(&mut discovery, 12, Event::Dial(443)), ["*bot", "+12 bot"]);
    // A restart in place has no connection yet, and is still the bot.
    fixture.add(&python(12, &["python", "bot.py"]));
    assert_eq!(examined(&mut discovery, 12, Event::Exec), [""; 0]);
    // One that was of no interest becomes a bot: its exec tells, or its new name.
    let bot = Sketch { start: 1_400, sockets: &[501], tcp: LISTENS, ..python(14, &["python", "web.py"]) };
    fixture.add(&bot);
    assert_eq!(examined(&mut discovery, 14, Event::Exec), ["*web", "+14 web"]);
    fixture.add(&Sketch { exe: "/usr/sbin/sshd", ..Sketch::new(15) });
    assert_eq!(scanned(&mut discovery), [""; 0]);
    fixture.add(&Sketch { tgid: 15, start: 1_500, ..bot });
    assert_eq!(scanned(&mut discovery), ["+15 web"]);
}

#[test]
fn a_supervisor_s_bots_are_services_of_their_own() {
    let fixture = Fixture::new();
    fixture.add(&Sketch { sockets: &[501], tcp: LISTENS, ..python(10, &["python", "/usr/bin/supervisord"]) });
    fixture.add(&Sketch { parent: 10, sockets: &[501], tcp: LISTENS, ..python(11, &["python", "bot.py"]) });
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![]);
    assert_eq!(scanned(&mut discovery), ["*supervisord", "+10 supervisord", "*bot", "+11 bot"]);
}

#[test]
fn services_that_are_made_up_have_a_cap() {
    let fixture = Fixture::new();
    for tgid in 1..=40 {
        let script = format!("bot{tgid}.py");
        fixture.add(&Sketch { parent: 0, sockets: &[501], tcp: LISTENS, ..python(tgid, &["python", &script]) });
    }
    let mut discovery = Discovery::new(fixture.proc.clone(), vec![]);
    let lines = scanned(&mut discovery);
    let count = |sign: char| lines.iter().filter(|line| line.starts_with(sign)).count();
    assert_eq!((count('*'), count('+'), count('!')), (AUTOMATIC_SERVICES_MAX, AUTOMATIC_SERVICES_MAX, 8));
    assert_eq!(discovery.services().len(), AUTOMATIC_SERVICES_MAX);
}

/// A child that runs until its input closes, and answers once so that its exec is known to be over.
fn cat(argument: &str) -> (Child, ChildStdin) {
    let mut command = Command::new("cat");
    command.args(["-", argument]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("cat is on every machine");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"x").expect("it reads");
    child.stdout.as_mut().expect("it is piped").read_exact(&mut [0]).expect("it answers");
    (child, input)
}

#[test]
fn real_children_are_found_and_their_end_is_noticed() {
    let marker = format!("miku-discovery-test-{}", std::process::id());
    let mut specs = vec![spec("cat", Kind::Cmdline, &format!("^cat - {marker}$"))];
    specs[0].selectors.push(Selector::AnyProgram);
    let mut discovery = Discovery::new(ProcFs::default(), specs);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    let (mut child, input) = cat(&marker);
    let tgid = child.id();
    assert_eq!(examined(&mut discovery, tgid, Event::Exec), [format!("+{tgid} cat")]);
    assert_eq!(scanned(&mut discovery), [""; 0]);
    drop(input);
    child.wait().expect("it is ours");
    assert_eq!(scanned(&mut discovery), [format!("-{tgid}")]);
}

#[test]
fn the_probe_never_watches_itself() {
    let own = std::process::id();
    let mut discovery = Discovery::new(ProcFs::default(), vec![spec("x", Kind::Pid, &own.to_string())]);
    assert!(File::open(format!("/proc/{own}/stat")).is_ok(), "this machine's /proc tells of this test");
    assert_eq!(scanned(&mut discovery), [""; 0]);
    assert_eq!(examined(&mut discovery, own, Event::Exec), [""; 0]);
}

#[test]
fn wrappers_match_only_with_exec_any() {
    let fixture = Fixture::new();
    let wrapper = |tgid, exe, arguments| Sketch { exe, arguments, ..Sketch::new(tgid) };
    fixture.add(&python(10, &["python", "bot.py"]));
    fixture.add(&wrapper(11, "/usr/bin/tail", &["tail", "-f", "bot.py"]));
    fixture.add(&wrapper(12, "/usr/bin/vim.basic", &["vim", "bot.py"]));
    fixture.add(&wrapper(13, "/usr/bin/bash", &["bash", "-c", "python bot.py"]));
    fixture.add(&wrapper(14, "/usr/bin/timeout", &["timeout", "9", "python", "bot.py"]));
    let watched = |spec: ServiceSpec| {
        let mut discovery = Discovery::new(fixture.proc.clone(), vec![spec]);
        let changes = discovery.scan().expect("the fixture can be read");
        let found = changes.iter().filter_map(|change| match change {
            Change::Found(target) => Some(target.tgid.0),
            _ => None,
        });
        (found.collect::<Vec<_>>(), discovery.mixed_services().iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(watched(bot()), (vec![10], vec![]));
    let mut any = bot();
    any.selectors.push(Selector::AnyProgram);
    let all = "bot matches different programs: bash (13), python3.11 (10), tail (11), timeout (14), vim.basic (12)";
    assert_eq!(watched(any), (vec![10, 11, 12, 13, 14], vec![all.to_owned()]));
}
