//! Replies against the truth of a simulated bot.
//!
//! The bot runs on an event loop as asyncio's: what arrives is received in rounds, what is ready runs in order, and each
//! task takes a few rounds before it sends. Its conversations overlap in few channels and differ in all that matters:
//! references, typing, models that stream or not, tools, several parts, refusals, failures, sleeps that no network call
//! explains, and messages that are ignored. Beside them come heartbeats, other events, and messages of the bot's own accord.
//! Of each style of bot there are two runs: one in which it is told when the loop waits, and one in which it is not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::outcomes::ledger::Ledger;
use super::*;
use crate::observations::ReplyKind;

const TID: u32 = 4242;
const GATEWAY: Source = Source(1);
const MILLI: u64 = 1_000_000;

/// SplitMix64, by Sebastiano Vigna, in the public domain: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    fn percent(&mut self, share: u64) -> bool {
        self.next() % 100 < share
    }
}

/// What a bot is like, in percent.
#[derive(Clone, Copy)]
struct Style {
    conversations: usize,
    channels: u64,
    /// Mean time between two events, in milliseconds.
    pace: u64,
    ignored: u64,
    references: u64,
    typing: u64,
    models: u64,
    streams: u64,
    sleeps: u64,
    parts: u64,
    refusals: u64,
    failures: u64,
    interactions: u64,
    noise: u64,
    /// Calls that find no connection to use again.
    dials: u64,
    /// Whether it is told when the loop waits, and when it asks for a connection.
    waits: bool,
}

const BUSY: Style = Style {
    conversations: 60,
    channels: 4,
    pace: 300,
    ignored: 40,
    references: 60,
    typing: 70,
    models: 70,
    streams: 40,
    sleeps: 0,
    parts: 20,
    refusals: 10,
    failures: 5,
    interactions: 20,
    noise: 50,
    dials: 10,
    waits: false,
};

/// A step of a conversation's task.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Another round of the loop.
    Round,
    Sleep(u64),
    Typing,
    /// A call of a model, and how many parts of its answer the task awaits: all of them, or the first ones.
    Model {
        parts: u64,
        awaited: u64,
    },
    /// A message, its reference and how often it is refused before it goes through.
    Post {
        reference: bool,
        refused: u64,
        elsewhere: bool,
    },
    Callback(u64),
    FollowUp,
}

#[derive(Debug)]
struct Task {
    event: Nanos,
    channel: u64,
    interaction: bool,
    known: bool,
    steps: VecDeque<Step>,
    nonce: u64,
    /// When it did its first visible thing.
    first: Option<Nanos>,
    /// Tries of its first answer: start, end and whether it went through.
    tries: Vec<(Nanos, Nanos, bool)>,
    answered: bool,
    /// Its first answer has a reference.
    referred: bool,
    /// Its model calls that began before it was answered: start, first token, end.
    models: Vec<(Nanos, Option<Nanos>, Option<Nanos>)>,
    current: Option<(LlmId, u64, u64)>,
    /// The connection that was made for its next call.
    dialed: Option<Dial>,
}

#[derive(Clone, Copy)]
enum Arrival {
    Person(usize),
    Noise,
    Timer(usize),
    Connected(usize, Dial, Step),
    CallEnd(usize, CallId, Source, Step, Nanos),
    ModelPart(usize, LlmId, u64, u64),
}

/// One thing fed, and whose it is.
type Fed = (At, Input, Option<usize>);

struct World {
    random: Random,
    time: u64,
    arrivals: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, Arrival>,
    ready: VecDeque<usize>,
    tasks: Vec<Task>,
    fed: Vec<Fed>,
    number: u64,
    style: Style,
}

impl World {
    fn at(&self, source: Source) -> At {
        At { time: Nanos(self.time), tid: TID, source }
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn schedule(&mut self, time: u64, arrival: Arrival) {
        let number = self.number();
        self.arrivals.push(Reverse((time, number)));
        self.waiting.insert(number, arrival);
    }

    fn feed(&mut self, source: Source, input: Input, whose: Option<usize>) {
        let at = self.at(source);
        self.fed.push((at, input, whose));
        self.time += self.random.range(5_000, 40_000);
    }

    fn plan(&mut self) -> Task {
        let Self { random, style, .. } = self;
        let channel = 100 + random.range(0, style.channels);
        let interaction = random.percent(style.interactions);
        let mut steps = VecDeque::new();
        let rounds = |random: &mut Random, steps: &mut VecDeque<Step>| {
            steps.extend((0..random.range(1, 4)).map(|_| Step::Round));
            if random.percent(style.sleeps) {
                steps.push_back(Step::Sleep(random.range(MILLI, 400 * MILLI)));
            }
        };
        if !random.percent(style.ignored) {
            rounds(random, &mut steps);
            let deferred = interaction && random.percent(60);
            if deferred {
                steps.push_back(Step::Callback(5));
                rounds(random, &mut steps);
            } else if !interaction && random.percent(style.typing) {
                steps.push_back(Step::Typing);
                rounds(random, &mut steps);
            }
            if random.percent(style.models) {
                // Only the last answer is shown while it comes: an earlier one asks for a tool.
                for left in (0..random.range(1, 3)).rev() {
                    let parts = random.range(3, 12);
                    let streams = left == 0 && random.percent(style.streams);
                    let awaited = if streams { random.range(2, parts) } else { parts };
                    steps.push_back(Step::Model { parts, awaited });
                    rounds(random, &mut steps);
                }
            }
            if !random.percent(style.failures) {
                if deferred {
                    steps.push_back(Step::FollowUp);
                } else if interaction {
                    steps.push_back(Step::Callback(4));
                } else {
                    let reference = random.percent(style.references);
                    let refused = if random.percent(style.refusals) { random.range(1, 3) } else { 0 };
                    let elsewhere = reference && random.percent(15);
                    steps.push_back(Step::Post { reference, refused, elsewhere });
                    while random.percent(style.parts) {
                        rounds(random, &mut steps);
                        let reference = random.percent(style.references / 2);
                        steps.push_back(Step::Post { reference, refused: 0, elsewhere: false });
                    }
                }
            }
        }
        Task {
            event: Nanos(0),
            channel,
            interaction,
            known: true,
            steps,
            nonce: 0,
            first: None,
            tries: Vec::new(),
            answered: false,
            referred: false,
            models: Vec::new(),
            current: None,
            dialed: None,
        }
    }

    /// When what is received now had come: bots read late.
    fn earlier(&self) -> Nanos {
        // As good as any number below 8 ms, and not one of those that the simulation draws.
        Nanos(self.time - self.time.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (8 * MILLI))
    }

    fn receive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Person(who) => {
                let id = 10_000 + who as u64;
                let came = self.earlier();
                self.tasks[who].event = came;
                let came = Came::At(came);
                let Task { channel, interaction, .. } = self.tasks[who];
                let input = if interaction {
                    let kind = InteractionKind::Command;
                    Input::Interaction { interaction: id, token: Token(id), channel: Some(channel), kind, came }
                } else {
                    Input::Message { channel, message: id, author: Author::Person, came }
                };
                self.feed(GATEWAY, input, Some(who));
                self.ready.push_back(who);
            }
            Arrival::Noise => match self.random.range(0, 4) {
                0 => self.feed(GATEWAY, Input::Sent, None),
                1 => {
                    // Somebody joined, whom the bot welcomes; or it announces something where nobody talks.
                    let (welcome, channels) = (self.random.percent(50), self.style.channels);
                    let channel = if welcome { 100 + self.random.range(0, channels) } else { 98 };
                    if welcome {
                        self.feed(GATEWAY, Input::Received, None);
                    }
                    let who = self.tasks.len();
                    let steps = [Step::Round, Step::Post { reference: false, refused: 0, elsewhere: false }].into();
                    let event = Nanos(self.time);
                    let task = self.plan();
                    self.tasks.push(Task { event, channel, known: false, interaction: false, steps, ..task });
                    self.ready.push_back(who);
                }
                _ => self.feed(GATEWAY, Input::Received, None),
            },
            Arrival::Timer(who) => self.ready.push_back(who),
            Arrival::Connected(who, dial, step) => {
                self.tasks[who].dialed = Some(dial);
                self.tasks[who].steps.push_front(step);
                self.ready.push_back(who);
            }
            Arrival::CallEnd(who, call, source, step, start) => {
                let id = 10_000 + who as u64;
                let answered = self.earlier().max(start);
                let task = &mut self.tasks[who];
                let mut body = Body { reference: Reference::Absent, callback: None, nonce: Some(task.nonce) };
                let mut status = 200;
                match step {
                    Step::Post { reference, refused, elsewhere } => {
                        if reference {
                            body.reference = Reference::To(id);
                        }
                        if refused > 0 {
                            status = 429;
                            task.steps.push_front(Step::Post { reference, refused: refused - 1, elsewhere });
                            task.steps.push_front(Step::Sleep(self.random.range(MILLI, 900 * MILLI)));
                        }
                        if !task.answered {
                            task.referred = reference;
                            let end = if refused == 0 { answered } else { Nanos(self.time) };
                            task.tries.push((start, end, refused == 0));
                            task.answered = refused == 0;
                        }
                    }
                    Step::Callback(kind) => {
                        body.callback = Some(kind);
                        if kind == 4 {
                            task.tries.push((start, answered, true));
                            task.answered = true;
                        }
                    }
                    Step::FollowUp => {
                        task.tries.push((start, answered, true));
                        task.answered = true;
                    }
                    _ => {}
                }
                self.feed(
                    source,
                    Input::CallEnded { call, answered: Came::At(answered), status: Some(status), body },
                    Some(who),
                );
                self.ready.push_back(who);
            }
            Arrival::ModelPart(who, llm, part, parts) => {
                let source = Source(llm.0);
                let answered = self.tasks[who].answered;
                let now = Nanos(self.time);
                let last = self.tasks[who].models.last_mut().filter(|_| !answered);
                if let Some((_, first, _)) = last {
                    // The head comes before the first token.
                    if part == 1 {
                        *first = Some(now);
                    }
                }
                self.feed(source, Input::LlmReceived { llm, first_token: part == 1 }, Some(who));
                if part + 1 == parts {
                    let now = Nanos(self.time);
                    if let Some((.., end)) = self.tasks[who].models.last_mut().filter(|_| !answered) {
                        *end = Some(now);
                    }
                    self.feed(source, Input::LlmEnded { llm }, Some(who));
                }
                if let Some((current, arrived, awaited)) = &mut self.tasks[who].current
                    && *current == llm
                {
                    *arrived += 1;
                    if arrived == awaited {
                        self.tasks[who].current = None;
                        self.ready.push_back(who);
                    }
                }
            }
        }
    }

    /// What is sent next by a task goes over a new connection, if one was made for it. Of some it is not known which.
    fn open(&mut self, who: usize, source: Source) {
        let Some(dial) = self.tasks[who].dialed.take() else { return };
        let dial = Some(dial).filter(|_| self.style.waits && self.random.percent(70));
        self.fed.push((self.at(source), Input::Opens { dial }, Some(who)));
    }

    fn run(&mut self, who: usize) {
        self.time += self.random.range(10_000, 200_000);
        let id = 10_000 + who as u64;
        let Some(step) = self.tasks[who].steps.pop_front() else { return };
        let channel = self.tasks[who].channel;
        let calls = !matches!(step, Step::Round | Step::Sleep(_));
        if calls && self.tasks[who].dialed.is_none() && self.random.percent(self.style.dials) {
            let dial = Dial(self.number());
            if self.style.waits {
                self.feed(Source(dial.0), Input::Dials { dial }, Some(who));
            }
            let time = self.time + self.random.range(MILLI, 40 * MILLI);
            return self.schedule(time, Arrival::Connected(who, dial, step));
        }
        let action = match step {
            Step::Round => return self.ready.push_back(who),
            Step::Sleep(time) => {
                let time = self.time + time;
                return self.schedule(time, Arrival::Timer(who));
            }
            Step::Model { parts, awaited } => {
                let llm = LlmId(self.number());
                let task = &mut self.tasks[who];
                if !task.answered {
                    task.first.get_or_insert(Nanos(self.time));
                    task.models.push((Nanos(self.time), None, None));
                }
                task.current = Some((llm, 0, awaited));
                self.open(who, Source(llm.0));
                self.feed(Source(llm.0), Input::LlmBegan { llm, here: true }, Some(who));
                let mut time = self.time;
                for part in 0..parts {
                    time += if part == 1 { self.random.range(100, 900) } else { self.random.range(1, 90) } * MILLI;
                    self.schedule(time, Arrival::ModelPart(who, llm, part, parts));
                }
                return;
            }
            Step::Typing => Action::Typing { channel },
            Step::Post { elsewhere, .. } => Action::Create { channel: if elsewhere { 99 } else { channel } },
            Step::Callback(_) => Action::Callback { interaction: id, token: Token(id) },
            Step::FollowUp => Action::Webhook { token: Token(id) },
        };
        let again = self.tasks[who].tries.last().is_some_and(|(_, _, through)| !through);
        if !again {
            self.tasks[who].nonce = self.number();
        }
        self.tasks[who].first.get_or_insert(Nanos(self.time));
        let call = CallId(self.number());
        let source = Source(call.0);
        let start = Nanos(self.time);
        self.open(who, source);
        self.feed(source, Input::CallBegan { call, action }, Some(who));
        let end = self.time + self.random.range(2 * MILLI, 120 * MILLI);
        self.schedule(end, Arrival::CallEnd(who, call, source, step, start));
    }

    fn simulate(seed: u64, style: Style) -> Self {
        let mut world = Self {
            random: Random(seed),
            time: 0,
            arrivals: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            tasks: Vec::new(),
            fed: Vec::new(),
            number: 1_000_000,
            style,
        };
        let mut time = 1_000 * MILLI;
        for _ in 0..style.conversations {
            time += world.random.range(MILLI, 2 * style.pace * MILLI);
            let task = world.plan();
            world.schedule(time, Arrival::Person(world.tasks.len()));
            world.tasks.push(task);
            if world.random.percent(style.noise) {
                let noise = time + world.random.range(0, style.pace * MILLI);
                world.schedule(noise, Arrival::Noise);
            }
        }
        loop {
            if world.ready.is_empty() {
                let Some(Reverse((time, _))) = world.arrivals.peek().copied() else { break };
                if style.waits {
                    world.fed.push((world.at(GATEWAY), Input::Waits, None));
                }
                world.time = world.time.max(time);
            }
            while let Some(Reverse((time, number))) = world.arrivals.peek().copied()
                && time <= world.time
            {
                world.arrivals.pop();
                let arrival = world.waiting.remove(&number).expect("it was scheduled");
                world.receive(arrival);
            }
            for _ in 0..world.ready.len() {
                let who = world.ready.pop_front().expect("it was counted");
                world.run(who);
            }
        }
        world
    }

    /// Feeds everything, or what belongs to one task alone.
    fn told(&self, whose: Option<usize>) -> Vec<Event> {
        let mut replies = Replies::default();
        let mut told = Vec::new();
        let mut ticked = 0;
        for (at, input, owner) in &self.fed {
            if whose.is_some() && whose != *owner {
                continue;
            }
            while at.time.0 - ticked > 1_000 * MILLI {
                ticked += 1_000 * MILLI;
                replies.tick(Nanos(ticked), &mut |event| told.push(event));
            }
            replies.feed(*at, *input, &mut |event| told.push(event));
        }
        replies.tick(Nanos(self.time) + WINDOW + WINDOW, &mut |event| told.push(event));
        assert_eq!(replies.table.begun().count(), 0, "everybody was given up in the end");
        told
    }
}

/// How much was told, and how much could have been.
#[derive(Debug, Default)]
struct Score {
    replies: usize,
    true_replies: usize,
    with_model: usize,
    true_with_model: usize,
    unanswered: usize,
    true_unanswered: usize,
    acted: usize,
    nowhere: usize,
}

/// Holds what was told against what happened.
fn compare(world: &World, told: &[Event], seed: u64) -> Result<Score, String> {
    let mut score = Score::default();
    let tasks: BTreeMap<Nanos, &Task> =
        world.tasks.iter().filter(|task| task.known).map(|task| (task.event, task)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for event in told {
        let Event::Reply(reply) = event else { continue };
        let context = format!("seed {seed}: {reply:?}");
        let task = tasks.get(&reply.event).unwrap_or_else(|| panic!("nobody did anything then: {context}"));
        assert!(seen.insert(reply.event), "answered twice: {context}");
        assert_eq!(reply.kind == ReplyKind::Interaction, task.interaction, "{context}");
        assert_eq!(reply.phases.sum(), reply.duration, "{context}");
        let hold = |right: bool, what: &str| {
            if right { Ok(()) } else { Err(format!("{what} of {context}, which was {task:?}")) }
        };
        let last = task.tries.last().copied().filter(|(.., through)| *through);
        let Some((_, end, _)) = last else { return Err(format!("never answered: {context}")) };
        hold(reply.duration == end.since(task.event), "duration")?;

        let sum = |times: &mut dyn Iterator<Item = (Nanos, Nanos)>| {
            times.fold(Nanos(0), |sum, (from, to)| sum + to.since(from))
        };
        let post = sum(&mut task.tries.iter().map(|(start, end, _)| (*start, *end)));
        // Of tries without a reference that failed it may not be certain whose they were.
        let exact = task.referred || task.interaction;
        let told = reply.phases.get(Phase::Post).unwrap_or_default();
        hold(told == post || (!exact && told < post), "post")?;
        let slept = sum(&mut task.tries.windows(2).map(|pair| (pair[0].1, pair[1].0)));
        let told = reply.phases.get(Phase::RateLimit).unwrap_or_default();
        hold(told == slept || (!exact && told < slept), "rate limit")?;
        let pickup = task.first.map(|first| first.since(task.event));
        hold(reply.phases.get(Phase::Pickup) <= pickup, "pickup")?;

        // Each of the person's own model calls may have been told of or not, but nobody else's.
        let get = |phase| reply.phases.get(phase).unwrap_or_default();
        let seen = (get(Phase::LlmFirstToken), get(Phase::LlmGeneration));
        let fits = |posted: Nanos| {
            let model = |(start, first, end): (Nanos, Option<Nanos>, Option<Nanos>)| {
                let end = end.unwrap_or(posted).min(posted);
                let first = first.unwrap_or(end).min(end);
                (first.since(start), end.since(first))
            };
            let models: Vec<_> = task.models.iter().map(|one| model(*one)).collect();
            (0..1u32 << models.len()).any(|subset| {
                let chosen = models.iter().enumerate().filter(|(at, _)| subset >> at & 1 == 1);
                chosen.fold((Nanos(0), Nanos(0)), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1)) == seen
            })
        };
        let posts: Vec<Nanos> = task.tries.iter().map(|(start, ..)| *start).collect();
        hold(fits(posts[0]) || (!exact && posts.into_iter().any(fits)), "model")?;
        score.replies += 1;
        score.with_model += usize::from(seen.0 > Nanos(0));
    }
    let answered = |task: &&&Task| task.answered;
    score.true_replies = tasks.values().filter(answered).count();
    score.true_with_model = tasks.values().filter(answered).filter(|task| !task.models.is_empty()).count();
    score.unanswered = told.iter().filter(|event| matches!(event, Event::Unanswered(_))).count();
    score.true_unanswered = tasks.values().filter(|task| !task.answered && task.first.is_some()).count();
    let unmatched = told.iter().filter(|event| matches!(event, Event::Unmatched(_))).count();
    assert!(
        score.replies + unmatched >= score.true_replies,
        "seed {seed}: not all that is missing was counted: {score:?}"
    );
    (score.acted, score.nowhere) = accounts(&tasks, told, score.replies, seed);
    if score.unanswered > score.true_unanswered {
        return Err(format!("unanswered of seed {seed}: {score:?}"));
    }
    Ok(score)
}

/// On how many people the bot acted where Discord sees it, and how many of them are not accounted for. Each is, by how it
/// ended or by an answer of which it is only known that it went where nobody waits, unless the bot began to answer somebody
/// in the same channel whom it never answered: then an answer may be taken for that one's.
fn accounts(tasks: &BTreeMap<Nanos, &Task>, told: &[Event], replies: usize, seed: u64) -> (usize, usize) {
    let ledger = Ledger::of(told);
    assert!(ledger.closes() && ledger.open == 0, "seed {seed}: {ledger:?}");
    assert_eq!(ledger.ended(ConversationOutcome::Replied), replies, "seed {seed}: {ledger:?}");
    assert!(ledger.started <= tasks.len(), "seed {seed}: more than there are: {ledger:?}");
    let elsewhere = told.iter().filter(|event| **event == Event::Unmatched(Unmatched::AnswerUnknown)).count();
    let began = |task: &&&Task| {
        let thought = task.models.first().is_some_and(|(start, ..)| task.first == Some(*start));
        !task.tries.is_empty() || (task.first.is_some() && !thought)
    };
    let acted = tasks.values().filter(began).count();
    (acted, acted.saturating_sub(ledger.started + elsewhere))
}

/// The sum of all seeds' scores, of which at most so many may be told wrong somewhere.
fn score(seeds: std::ops::Range<u64>, style: Style, wrong: usize) -> Score {
    let mut sum = Score::default();
    let mut missed = Vec::new();
    for seed in seeds {
        let world = World::simulate(seed, style);
        let one = match compare(&world, &world.told(None), seed) {
            Ok(one) => one,
            Err(why) => {
                missed.push(why);
                continue;
            }
        };
        sum.replies += one.replies;
        sum.true_replies += one.true_replies;
        sum.with_model += one.with_model;
        sum.true_with_model += one.true_with_model;
        sum.unanswered += one.unanswered;
        sum.true_unanswered += one.true_unanswered;
        sum.acted += one.acted;
        sum.nowhere += one.nowhere;
    }
    eprintln!("{sum:?}");
    assert!(sum.nowhere * 50 <= sum.acted, "more than 2 % of people are not accounted for: {sum:?}");
    assert!(missed.len() <= wrong, "{} wrong, the first: {}", missed.len(), missed[0]);
    sum
}

/// Scores where it is not told when the loop waits, and where it is. In the first, at most so many may be told wrong somewhere;
/// in the second none.
fn scores(seeds: std::ops::Range<u64>, style: Style, wrong: usize) -> [Score; 2] {
    [(false, wrong), (true, 0)].map(|(waits, wrong)| score(seeds.clone(), Style { waits, ..style }, wrong))
}

/// Asserts that of so many per cent of what there was it was told, at least.
fn assert_told(score: &Score, replies: usize, models: usize) {
    assert!(score.replies * 100 >= score.true_replies * replies, "{score:?}");
    assert!(score.with_model * 100 >= score.true_with_model * models, "{score:?}");
}

#[test]
fn with_references_every_reply_is_told() {
    let [guessed, told] = scores(0..100, Style { references: 100, ignored: 60, parts: 0, noise: 0, ..BUSY }, 0);
    assert_told(&guessed, 100, 30);
    assert_told(&told, 100, 95);
}

#[test]
fn a_flood_with_references_is_told_whole() {
    let flood = Style { conversations: 400, channels: 50, pace: 5, references: 100, parts: 0, noise: 0, ..BUSY };
    let [guessed, told] = scores(0..10, flood, 1);
    assert_told(&guessed, 100, 1);
    assert_told(&told, 100, 50);
}

#[test]
fn with_some_references_and_in_few_channels_nothing_is_told_wrong() {
    let [guessed, told] = scores(0..300, BUSY, 1);
    assert_told(&guessed, 65, 20);
    assert_told(&told, 90, 80);
}

#[test]
fn without_references_hardly_anything_is_told_wrong() {
    let [guessed, told] = scores(0..300, Style { references: 0, ..BUSY }, 2);
    assert_told(&guessed, 30, 14);
    assert_told(&told, 75, 70);
}

/// What the rules cannot know: code that goes on in somebody else's turn.
#[test]
fn where_code_sleeps_hardly_anything_is_told_wrong() {
    for score in scores(0..300, Style { sleeps: 40, ..BUSY }, 3) {
        assert_told(&score, 60, 3);
    }
}

#[test]
fn of_a_flood_with_some_references_nothing_is_told_wrong() {
    let flood = Style { conversations: 400, channels: 50, pace: 5, noise: 20, ..BUSY };
    let [guessed, told] = scores(0..20, flood, 1);
    assert_told(&guessed, 50, 1);
    assert_told(&told, 60, 15);
    let [guessed, told] = scores(0..20, Style { pace: 50, ..flood }, 0);
    assert_told(&guessed, 65, 1);
    assert_told(&told, 80, 40);
}

/// Where hardly any connection is used twice, it is often not known which of several a call waited for.
#[test]
fn of_calls_over_new_connections_less_is_told_and_hardly_anything_wrong() {
    let style = Style { references: 0, dials: 60, ..BUSY };
    assert_told(&score(0..300, Style { waits: true, ..style }, 1), 65, 60);
    assert_told(&score(0..300, Style { waits: false, ..style }, 8), 20, 2);
}

#[test]
fn a_quiet_bot_without_references_is_told_whole() {
    let quiet = Style { references: 0, pace: 20_000, ignored: 0, parts: 0, noise: 0, conversations: 20, ..BUSY };
    let [guessed, told] = scores(0..100, quiet, 0);
    assert_told(&guessed, 90, 70);
    assert_told(&told, 94, 90);
    // Whose code sleeps is believed less.
    for score in scores(0..100, Style { sleeps: 50, ..quiet }, 0) {
        assert_told(&score, 80, 40);
    }
}

/// With references a conversation's reply does not depend on what goes on beside it.
#[test]
fn each_conversation_is_told_alike_alone_and_among_others() {
    for seed in 0..20 {
        let world = World::simulate(seed, Style { references: 100, sleeps: 20, parts: 0, noise: 0, ..BUSY });
        let whole = |told: Vec<Event>, event: Nanos| {
            let replies = told.into_iter().filter_map(|told| match told {
                Event::Reply(reply) if reply.event == event => Some(reply),
                _ => None,
            });
            replies
                .map(|one| (one.kind, one.duration, one.phases.get(Phase::Post), one.phases.get(Phase::RateLimit)))
                .collect::<Vec<_>>()
        };
        let among = world.told(None);
        for (who, task) in world.tasks.iter().enumerate().filter(|(_, task)| task.known) {
            let alone = whole(world.told(Some(who)), task.event);
            assert_eq!(alone, whole(among.clone(), task.event), "seed {seed}, {task:?}");
            assert_eq!(alone.len(), usize::from(task.answered));
        }
    }
}
