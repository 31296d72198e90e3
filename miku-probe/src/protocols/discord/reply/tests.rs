//! Replies by example: what one bot does, told in the order in which it happens.

use proptest::prelude::*;

use super::outcomes::ledger::Ledger;
use super::*;
use crate::observations::ReplyKind;

const GATEWAY: u64 = 1;
const MODEL: u64 = 2;
const REST: u64 = 3;
const ROOM: u64 = 77;

/// A process whose one thread is told of step by step, at times in milliseconds.
#[derive(Default)]
struct Bot {
    replies: Replies,
    told: Vec<Event>,
    /// What came of each conversation, with what was told before.
    accounts: Vec<Event>,
    calls: u64,
    source: u64,
}

impl Bot {
    fn feed(&mut self, millis: u64, source: u64, input: Input) {
        let at = At { time: ms(millis), tid: 1, source: Source(source) };
        self.replies.feed(at, input, &mut |event| self.told.push(event));
    }

    fn writes(&mut self, millis: u64, channel: u64, message: u64) {
        let came = Came::Read(ms(millis));
        self.feed(millis, GATEWAY, Input::Message { channel, message, author: Author::Person, came });
    }

    fn uses(&mut self, millis: u64, id: u64, kind: InteractionKind) {
        let came = Came::Read(ms(millis));
        let input = Input::Interaction { interaction: id, token: Token(id), channel: Some(ROOM), kind, came };
        self.feed(millis, GATEWAY, input);
    }

    fn begins(&mut self, millis: u64, action: Action) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        self.feed(millis, REST + self.calls, Input::CallBegan { call, action });
        call
    }

    fn ends(&mut self, millis: u64, call: CallId, status: u16, body: Body) {
        let answered = Came::Read(ms(millis));
        self.feed(millis, REST + call.0, Input::CallEnded { call, answered, status: Some(status), body });
    }

    fn calls(&mut self, from: u64, to: u64, action: Action, status: u16, body: Body) {
        let call = self.begins(from, action);
        self.ends(to, call, status, body);
    }

    fn types(&mut self, from: u64, to: u64, channel: u64) {
        self.calls(from, to, Action::Typing { channel }, 204, Body::default());
    }

    fn posts(&mut self, from: u64, to: u64, channel: u64, reference: Reference) {
        self.calls(from, to, Action::Create { channel }, 200, Body { reference, ..Body::default() });
    }

    fn thinks(&mut self, from: u64, first: u64, to: u64) {
        self.source += 1;
        let (llm, source) = (LlmId(self.source), MODEL + 1_000 * self.source);
        self.feed(from, source, Input::LlmBegan { llm, here: true });
        self.feed(first, source, Input::LlmReceived { llm, first_token: true });
        self.feed(to, source, Input::LlmEnded { llm });
    }

    fn other(&mut self, millis: u64) {
        self.feed(millis, GATEWAY, Input::Received);
    }

    fn waits_until(&mut self, millis: u64) {
        self.replies.tick(ms(millis), &mut |event| self.told.push(event));
    }

    /// What was told since this was last asked, but for the accounts.
    fn took(&mut self) -> Vec<Event> {
        let told = std::mem::take(&mut self.told);
        let is_account = |event: &Event| matches!(event, Event::Started(_) | Event::Ended(..) | Event::Open(..));
        let (accounts, rest): (Vec<_>, Vec<_>) = told.into_iter().partition(is_account);
        self.accounts.extend(accounts);
        rest
    }

    /// The accounts of all so far, which close.
    fn ledger(&mut self) -> Ledger {
        self.replies.tell_open(&mut |event| self.told.push(event));
        let rest = self.took();
        self.told.extend(rest);
        let ledger = Ledger::of(&self.accounts);
        assert!(ledger.closes(), "{ledger:?}");
        ledger
    }

    /// The only thing that was told: a reply, its duration and phases in milliseconds.
    fn reply(&mut self) -> (u64, Vec<(Phase, u64)>) {
        let told = self.took();
        let [Event::Reply(reply)] = told[..] else { panic!("not one reply: {told:?}") };
        assert_eq!(reply.phases.sum(), reply.duration);
        (reply.duration.0 / 1_000_000, reply.phases.seen().map(|(phase, time)| (phase, time.0 / 1_000_000)).collect())
    }
}

fn ms(millis: u64) -> Nanos {
    Nanos(millis * 1_000_000)
}

fn callback(kind: u64) -> Body {
    Body { callback: Some(kind), ..Body::default() }
}

fn nonce(nonce: u64) -> Body {
    Body { reference: Reference::Absent, nonce: Some(nonce), ..Body::default() }
}

const UNSURE: fn(Unmatched) -> Event = Event::Unmatched;

#[test]
fn when_models_worked_for_a_reply_is_told_where_all_of_it_is_certain() {
    fn worked(bot: &mut Bot) -> Vec<(u64, u64)> {
        bot.posts(2_003, 2_100, ROOM, Reference::To(5));
        let told = bot.took();
        let [Event::Reply(reply)] = told[..] else { panic!("not one reply: {told:?}") };
        reply.worked.into_iter().flatten().map(|(start, end)| (start.0 / 1_000_000, end.0 / 1_000_000)).collect()
    }
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.thinks(1_001, 1_100, 1_200);
    bot.thinks(1_201, 1_500, 2_000);
    assert_eq!(worked(&mut bot), [(1_001, 1_200), (1_201, 2_000)]);
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.thinks(1_001, 1_100, 1_200);
    let elsewhere = LlmId(77);
    bot.feed(1_201, MODEL, Input::LlmBegan { llm: elsewhere, here: false });
    bot.feed(1_300, MODEL, Input::LlmReceived { llm: elsewhere, first_token: true });
    bot.feed(2_000, MODEL, Input::LlmEnded { llm: elsewhere });
    assert_eq!(worked(&mut bot), [], "who knows what the other one drew");
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    for from in [1_001, 1_201, 1_401, 1_601, 1_801] {
        bot.thinks(from, from + 100, from + 199);
    }
    assert_eq!(worked(&mut bot), [], "more than are told");
}

#[test]
fn a_whole_reply_is_parted_to_the_last_nanosecond() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.types(1_002, 1_050, ROOM);
    bot.thinks(1_052, 1_500, 2_900);
    bot.posts(2_903, 3_000, ROOM, Reference::To(5));
    let (duration, phases) = bot.reply();
    assert_eq!(duration, 2_000);
    assert_eq!(
        phases,
        [
            (Phase::Pickup, 2),
            (Phase::LlmFirstToken, 448),
            (Phase::LlmGeneration, 1_400),
            (Phase::Post, 97),
            (Phase::Other, 53)
        ]
    );
}

#[test]
fn only_the_first_answer_counts_and_edits_are_none() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.posts(1_002, 1_100, ROOM, Reference::To(5));
    assert_eq!(bot.reply().0, 100);
    bot.posts(1_101, 1_200, ROOM, Reference::Absent);
    bot.calls(1_201, 1_300, Action::Edit { channel: ROOM }, 200, Body::default());
    bot.posts(1_301, 1_400, ROOM, Reference::To(5));
    assert_eq!(bot.took(), []);
}

#[test]
fn a_streamed_answer_ends_with_its_first_message() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    let (llm, source) = (LlmId(9), 900);
    bot.feed(1_001, source, Input::LlmBegan { llm, here: true });
    bot.feed(1_400, source, Input::LlmReceived { llm, first_token: true });
    let call = bot.begins(1_402, Action::Create { channel: ROOM });
    bot.feed(1_450, source, Input::LlmReceived { llm, first_token: false });
    bot.ends(1_500, call, 200, nonce(1));
    let (duration, phases) = bot.reply();
    assert_eq!(duration, 500);
    assert_eq!(
        phases,
        [
            (Phase::Pickup, 1),
            (Phase::LlmFirstToken, 399),
            (Phase::LlmGeneration, 2),
            (Phase::Post, 98),
            (Phase::Other, 0)
        ]
    );
}

#[test]
fn a_refused_answer_sleeps_and_ends_with_its_retry() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.calls(1_001, 1_051, Action::Create { channel: ROOM }, 429, nonce(3));
    bot.writes(1_100, ROOM, 6);
    bot.calls(2_051, 2_151, Action::Create { channel: ROOM }, 200, nonce(3));
    let (duration, phases) = bot.reply();
    assert_eq!(duration, 1_151);
    assert_eq!(phases, [(Phase::Pickup, 1), (Phase::Post, 150), (Phase::RateLimit, 1_000), (Phase::Other, 0)]);
}

#[test]
fn typing_that_is_refused_sleeps_too_and_a_failed_answer_does_not() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.calls(1_001, 1_010, Action::Typing { channel: ROOM }, 429, Body::default());
    bot.calls(1_510, 1_520, Action::Typing { channel: ROOM }, 204, Body::default());
    let to = Body { reference: Reference::To(5), ..Body::default() };
    bot.calls(1_521, 1_530, Action::Create { channel: ROOM }, 500, to);
    bot.calls(2_530, 2_540, Action::Create { channel: ROOM }, 200, to);
    let (_, phases) = bot.reply();
    assert_eq!(phases, [(Phase::Pickup, 1), (Phase::Post, 19), (Phase::RateLimit, 500), (Phase::Other, 1_020)]);
}

#[test]
fn an_interaction_is_answered_by_its_callback_or_by_what_follows() {
    let answers = |kind: u64| {
        let mut bot = Bot::default();
        bot.uses(1_000, 8, InteractionKind::Command);
        bot.calls(1_010, 1_100, Action::Callback { interaction: 8, token: Token(8) }, 204, callback(kind));
        let first = bot.took();
        bot.calls(2_000, 2_100, Action::Webhook { token: Token(8) }, 200, Body::default());
        bot.calls(2_200, 2_300, Action::Webhook { token: Token(8) }, 200, Body::default());
        [first, bot.took()].map(|told| {
            told.iter()
                .map(|event| match event {
                    Event::Reply(reply) => reply.duration.0 / 1_000_000,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(answers(4), [vec![100], vec![]], "a message");
    assert_eq!(answers(7), [vec![100], vec![]], "an update");
    assert_eq!(answers(5), [vec![], vec![1_100]], "deferred");
    assert_eq!(answers(6), [vec![], vec![1_100]], "deferred quietly");
    assert_eq!(answers(9), [Vec::<u64>::new(), Vec::new()], "a form");
}

#[test]
fn unanswered_is_who_was_begun_to_be_answered_and_nobody_else() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.types(1_001, 1_002, ROOM);
    bot.writes(2_000, ROOM + 1, 6);
    bot.uses(3_000, 7, InteractionKind::Command);
    bot.calls(3_010, 3_100, Action::Callback { interaction: 7, token: Token(7) }, 204, callback(5));
    bot.uses(3_200, 8, InteractionKind::Component);
    bot.calls(3_210, 3_300, Action::Callback { interaction: 8, token: Token(8) }, 204, callback(6));
    bot.uses(3_400, 9, InteractionKind::Autocomplete);
    bot.calls(3_410, 3_500, Action::Callback { interaction: 9, token: Token(9) }, 200, callback(8));
    bot.waits_until(300_000);
    assert_eq!(bot.took(), []);
    bot.waits_until(400_000);
    bot.waits_until(400_001);
    assert_eq!(bot.took(), [Event::Unanswered(ReplyKind::Message), Event::Unanswered(ReplyKind::Interaction)]);
    assert_eq!(bot.replies.table.sizes(), [0; 7]);
}

#[test]
fn who_waits_when_the_process_ends_is_not_answered() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.writes(1_100, ROOM + 1, 6);
    bot.types(1_101, 1_102, ROOM + 1);
    assert_eq!(bot.ledger().open, 1);
    std::mem::take(&mut bot.replies).finish(&mut |event| bot.told.push(event));
    assert_eq!(bot.took(), [Event::Unanswered(ReplyKind::Message)]);
    let ledger = bot.ledger();
    assert_eq!((ledger.open, ledger.ended(ConversationOutcome::Unanswered)), (0, 1));
}

#[test]
fn everybody_on_whom_the_bot_acted_ends_in_one_way() {
    use ConversationOutcome::{Ambiguous, Form, Replied, Unanswered, Unknown};
    let of = |bot: &mut Bot| {
        let ledger = bot.ledger();
        let ended = [Replied, Form, Ambiguous, Unanswered, Unknown].map(|outcome| ledger.ended(outcome));
        (ledger.started, ended, ledger.open)
    };
    // What is ignored counts nowhere; one is answered, and one is typed for.
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 1);
    bot.writes(2_000, ROOM, 2);
    bot.posts(2_001, 2_100, ROOM, Reference::To(2));
    bot.writes(3_000, ROOM + 1, 3);
    bot.types(3_001, 3_002, ROOM + 1);
    assert_eq!(of(&mut bot), (2, [1, 0, 0, 0, 0], 1));
    bot.waits_until(400_000);
    assert_eq!(of(&mut bot), (2, [1, 0, 0, 1, 0], 0));

    // Three who wait and three answers that may be for any of them: each counts once, and so does who was typed for before.
    let mut bot = Bot::default();
    for (at, message) in [(1_000, 1), (1_000, 2), (1_000, 3)] {
        bot.writes(at, ROOM, message);
    }
    bot.posts(1_900, 1_950, ROOM, Reference::Absent);
    assert_eq!(of(&mut bot), (1, [0, 0, 1, 0, 0], 0));
    bot.posts(2_000, 2_050, ROOM, Reference::Absent);
    bot.posts(2_100, 2_150, ROOM, Reference::Absent);
    bot.posts(2_200, 2_250, ROOM, Reference::Absent);
    assert_eq!(of(&mut bot), (3, [0, 0, 3, 0, 0], 0), "there are no more than three");

    // Two for whom the bot types at once, nobody can say for whom first, and one whom it ignores.
    let mut bot = Bot::default();
    for message in [1, 2, 3] {
        bot.writes(1_000, ROOM, message);
    }
    bot.types(1_900, 1_910, ROOM);
    bot.types(1_950, 1_960, ROOM);
    assert_eq!(bot.took(), [UNSURE(Unmatched::TypingAmbiguous); 2]);
    assert_eq!(of(&mut bot), (0, [0; 5], 0), "nothing is certain yet");
    bot.waits_until(400_000);
    assert_eq!(of(&mut bot), (2, [0, 0, 0, 0, 2], 0));

    // A form is no answer, and what was not seen is unknown.
    let mut bot = Bot::default();
    bot.uses(1_000, 1, InteractionKind::Command);
    bot.calls(1_001, 1_100, Action::Callback { interaction: 1, token: Token(1) }, 200, callback(9));
    bot.writes(2_000, ROOM, 2);
    bot.posts(2_001, 2_100, ROOM, Reference::Unseen);
    assert_eq!(of(&mut bot), (2, [0, 1, 0, 0, 1], 0));
}

#[test]
fn something_stray_makes_an_end_in_vain_unsure() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.types(1_001, 1_002, ROOM);
    bot.calls(2_000, 2_100, Action::Webhook { token: Token(99) }, 200, Body::default());
    bot.waits_until(400_000);
    assert_eq!(bot.took(), [UNSURE(Unmatched::UnansweredUnsure)]);
}

#[test]
fn in_a_busy_channel_the_turn_says_whom_the_bot_answers() {
    let mut bot = Bot::default();
    for index in 0..100 {
        bot.writes(1_000 + 100 * index, ROOM, index);
    }
    bot.writes(11_000, ROOM, 500);
    bot.types(11_001, 11_030, ROOM);
    bot.thinks(11_031, 11_200, 11_300);
    let call = bot.begins(11_301, Action::Create { channel: ROOM });
    bot.writes(11_350, ROOM, 501);
    bot.ends(11_400, call, 200, nonce(1));
    let (duration, phases) = bot.reply();
    assert_eq!(duration, 400);
    assert_eq!(phases[0], (Phase::Pickup, 1));
    bot.waits_until(900_000);
    assert_eq!(bot.took(), [], "who was ignored counts nowhere");
}

#[test]
fn without_a_turn_several_who_wait_are_ambiguous_and_stay_so() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.writes(1_100, ROOM, 6);
    bot.posts(1_500, 1_600, ROOM, Reference::Absent);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerAmbiguous)]);
    bot.posts(1_700, 1_800, ROOM, Reference::To(5));
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerNotFirst)]);
    bot.posts(1_900, 2_000, ROOM, Reference::To(5));
    assert_eq!(bot.took(), [], "it is counted once");
}

#[test]
fn an_answer_elsewhere_is_tied_by_its_reference_alone() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.posts(1_001, 1_100, ROOM + 1, Reference::Absent);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerUnknown)]);
    bot.posts(1_200, 1_300, ROOM + 1, Reference::To(5));
    assert_eq!(bot.reply().0, 300);
    bot.posts(1_400, 1_500, ROOM, Reference::To(4));
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerUnknown)], "nobody saw that message");
}

#[test]
fn what_something_else_made_the_bot_write_is_no_answer() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.other(2_000);
    bot.posts(2_001, 2_100, ROOM, Reference::Absent);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerAmbiguous)]);
}

#[test]
fn an_old_message_that_the_bot_showed_no_interest_in_is_not_taken_to_be_answered() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.posts(60_000, 60_100, ROOM, Reference::Absent);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerAmbiguous)]);
    let mut typed = Bot::default();
    typed.writes(1_000, ROOM, 5);
    typed.types(1_001, 1_002, ROOM);
    typed.posts(60_000, 60_100, ROOM, Reference::Absent);
    assert_eq!(typed.reply().0, 59_100);
}

#[test]
fn after_a_gap_nobody_is_believed_to_be_alone() {
    let mut bot = Bot::default();
    bot.replies.gap(ms(500));
    bot.writes(1_000, ROOM, 5);
    bot.posts(1_500, 1_600, ROOM, Reference::Absent);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerAmbiguous)]);
    bot.writes(301_000, ROOM + 1, 6);
    bot.posts(301_500, 301_600, ROOM + 1, Reference::Absent);
    assert_eq!(bot.reply().0, 600);
}

#[test]
fn what_was_not_seen_is_not_taken_for_what_it_may_have_been() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.posts(1_001, 1_100, ROOM, Reference::Unseen);
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerHalfSeen)], "it may name another message");
    bot.writes(20_000, ROOM + 1, 6);
    let call = bot.begins(20_001, Action::Create { channel: ROOM + 1 });
    let body = Body { reference: Reference::To(6), ..Body::default() };
    let answered = Came::Read(ms(20_100));
    bot.feed(20_100, REST, Input::CallEnded { call, answered, status: None, body });
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerHalfSeen)], "it may have been refused");
    bot.uses(40_000, 7, InteractionKind::Command);
    let action = Action::Callback { interaction: 7, token: Token(7) };
    bot.calls(40_001, 40_100, action, 204, Body::default());
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerHalfSeen)], "it may have been deferred");
}

#[test]
fn a_call_that_waits_for_a_connection_is_whose_turn_asked_for_it() {
    const OTHER: u64 = 78;
    let (dial, llm) = (Dial(9), LlmId(9));
    for known in [true, false] {
        let mut bot = Bot::default();
        bot.feed(990, GATEWAY, Input::Waits);
        bot.writes(1_000, ROOM, 5);
        bot.feed(1_001, 900, Input::Dials { dial });
        bot.feed(1_001, GATEWAY, Input::Waits);
        bot.writes(1_003, OTHER, 6);
        // The connection is there in the turn in which another person wrote.
        bot.feed(1_004, 900, Input::Opens { dial: Some(dial).filter(|_| known) });
        bot.feed(1_004, 900, Input::LlmBegan { llm, here: true });
        bot.feed(1_005, GATEWAY, Input::Waits);
        bot.feed(1_500, 900, Input::LlmReceived { llm, first_token: true });
        bot.feed(1_900, 900, Input::LlmEnded { llm });
        bot.posts(1_901, 2_000, ROOM, Reference::To(5));
        let (_, phases) = bot.reply();
        let expected =
            [(Phase::Pickup, 4), (Phase::LlmFirstToken, 496), (Phase::LlmGeneration, 400), (Phase::Post, 99)];
        assert_eq!(phases, [&expected[..], &[(Phase::Other, 1)]].concat(), "known: {known}");
    }
}

#[test]
fn of_several_connections_it_is_not_guessed_which_one_a_call_waited_for() {
    let llm = LlmId(9);
    let mut bot = Bot::default();
    bot.feed(990, GATEWAY, Input::Waits);
    for (millis, message, dial) in [(1_000, 5, Dial(1)), (1_010, 6, Dial(2))] {
        bot.writes(millis, ROOM, message);
        bot.feed(millis + 1, 900, Input::Dials { dial });
        bot.feed(millis + 2, GATEWAY, Input::Waits);
    }
    bot.feed(1_020, 900, Input::Opens { dial: None });
    bot.feed(1_020, 900, Input::LlmBegan { llm, here: true });
    bot.feed(1_021, GATEWAY, Input::Waits);
    bot.feed(1_500, 900, Input::LlmReceived { llm, first_token: true });
    bot.feed(1_900, 900, Input::LlmEnded { llm });
    // Its end does not tell either.
    bot.feed(1_900, GATEWAY, Input::Waits);
    bot.posts(1_901, 2_000, ROOM, Reference::To(5));
    let (_, phases) = bot.reply();
    assert!(
        phases.iter().all(|(phase, _)| !matches!(phase, Phase::LlmFirstToken | Phase::LlmGeneration)),
        "{phases:?}"
    );
}

#[test]
fn an_answer_is_made_by_the_model_call_of_its_own_among_several_that_arrive() {
    const OTHER: u64 = 78;
    let mut bot = Bot::default();
    for (millis, channel, message, llm) in [(1_000, ROOM, 5, LlmId(1)), (1_010, OTHER, 6, LlmId(2))] {
        bot.feed(millis - 1, GATEWAY, Input::Waits);
        bot.writes(millis, channel, message);
        bot.feed(millis + 1, llm.0, Input::LlmBegan { llm, here: true });
    }
    bot.feed(1_400, GATEWAY, Input::Waits);
    bot.feed(1_500, 1, Input::LlmReceived { llm: LlmId(1), first_token: true });
    bot.feed(1_501, 1, Input::LlmEnded { llm: LlmId(1) });
    bot.feed(1_501, 2, Input::LlmReceived { llm: LlmId(2), first_token: true });
    bot.posts(1_502, 1_600, ROOM, Reference::To(5));
    let (_, phases) = bot.reply();
    assert!(phases.contains(&(Phase::LlmFirstToken, 499)), "{phases:?}");
}

#[test]
fn a_model_that_could_be_anybody_s_is_nobody_s() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.writes(1_001, ROOM + 1, 6);
    bot.thinks(1_002, 1_100, 1_200);
    bot.other(1_201);
    bot.posts(1_202, 1_300, ROOM, Reference::To(5));
    let (_, phases) = bot.reply();
    assert_eq!(phases, [(Phase::Pickup, 2), (Phase::Post, 98), (Phase::Other, 200)]);
    bot.waits_until(20_000);
    assert_eq!(bot.took(), [UNSURE(Unmatched::LlmAmbiguous)]);
}

#[test]
fn if_start_and_end_of_a_model_call_disagree_it_is_nobody_s() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.writes(1_100, ROOM + 1, 6);
    bot.thinks(1_101, 1_200, 1_300);
    bot.posts(1_301, 1_400, ROOM, Reference::To(5));
    let (_, phases) = bot.reply();
    assert!(phases.iter().all(|(phase, _)| *phase != Phase::LlmGeneration), "{phases:?}");
}

#[test]
fn a_message_that_comes_twice_is_one() {
    let mut bot = Bot::default();
    bot.writes(1_000, ROOM, 5);
    bot.writes(1_500, ROOM, 5);
    bot.posts(1_600, 1_700, ROOM, Reference::To(5));
    assert_eq!(bot.reply().0, 700, "from the first");
    bot.writes(1_800, ROOM, 5);
    bot.posts(1_900, 2_000, ROOM, Reference::To(5));
    assert_eq!(bot.took(), []);
}

#[test]
fn machines_are_no_people() {
    let mut bot = Bot::default();
    for (message, author) in [(5, Author::Itself), (6, Author::Machine)] {
        bot.feed(1_000, GATEWAY, Input::Message { channel: ROOM, message, author, came: Came::Read(ms(1_000)) });
        bot.posts(1_001, 1_100, ROOM, Reference::To(message));
    }
    assert_eq!(bot.took(), [UNSURE(Unmatched::AnswerUnknown); 2]);
}

#[test]
fn floods_are_bounded_and_counted() {
    let mut bot = Bot::default();
    let many = table::CONVERSATIONS_MAX as u64 + 100;
    for index in 0..many {
        bot.writes(1_000 + index / 100, index % 50, index);
    }
    for index in 0..2 * CALLS_MAX as u64 {
        bot.begins(2_000, Action::Create { channel: index });
        bot.feed(2_000, MODEL, Input::LlmBegan { llm: LlmId(index), here: true });
    }
    let full = bot.took().iter().filter(|event| **event == UNSURE(Unmatched::TableFull)).count();
    assert_eq!(full, 100 + 2 * CALLS_MAX);
    assert!(bot.replies.table.sizes().iter().all(|size| *size <= table::CONVERSATIONS_MAX));
    assert_eq!((bot.replies.calls.len(), bot.replies.llms.len()), (CALLS_MAX, CALLS_MAX));
    assert!(bot.replies.uncertain.len() <= UNCERTAIN_MAX);
    bot.waits_until(2_000_000);
    assert_eq!(bot.replies.table.sizes(), [0; 7]);
    assert_eq!((bot.replies.calls.len(), bot.replies.llms.len()), (0, 0));
}

fn any_input() -> impl Strategy<Value = Input> {
    let small = 0..6u64;
    let action = (0..6u8, small.clone()).prop_map(|(kind, id)| match kind {
        0 => Action::Typing { channel: id },
        1 => Action::Create { channel: id },
        2 => Action::Edit { channel: id },
        3 => Action::Callback { interaction: id, token: Token(id) },
        4 => Action::Webhook { token: Token(id) },
        _ => Action::Other,
    });
    let status = prop::option::of(prop::sample::select(vec![200, 204, 429, 500, 404]));
    let reference =
        prop_oneof![Just(Reference::Unseen), Just(Reference::Absent), small.clone().prop_map(Reference::To)];
    let body = (reference, prop::option::of(0..12u64), prop::option::of(small.clone()))
        .prop_map(|(reference, callback, nonce)| Body { reference, callback, nonce });
    // Before what happens, after it, or not to be believed at all.
    let came = (0..40_000_000u64).prop_map(|millis| Came::At(ms(millis)));
    prop_oneof![
        (small.clone(), small.clone(), came.clone()).prop_map(|(channel, message, came)| Input::Message {
            channel,
            message,
            author: Author::Person,
            came
        }),
        (small.clone(), small.clone(), 0..7u64, came.clone()).prop_map(|(id, channel, kind, came)| {
            Input::Interaction {
                interaction: id,
                token: Token(id),
                channel: Some(channel),
                kind: InteractionKind::from_number(kind),
                came,
            }
        }),
        Just(Input::Received),
        Just(Input::Bytes),
        Just(Input::Sent),
        Just(Input::Waits),
        small.clone().prop_map(|dial| Input::Dials { dial: Dial(dial) }),
        prop::option::of(small.clone()).prop_map(|dial| Input::Opens { dial: dial.map(Dial) }),
        (small.clone(), action).prop_map(|(call, action)| Input::CallBegan { call: CallId(call), action }),
        (small.clone(), came, status, body).prop_map(|(call, answered, status, body)| Input::CallEnded {
            call: CallId(call),
            answered,
            status,
            body
        }),
        small.clone().prop_map(|llm| Input::LlmBegan { llm: LlmId(llm), here: true }),
        (small.clone(), any::<bool>())
            .prop_map(|(llm, first_token)| Input::LlmReceived { llm: LlmId(llm), first_token }),
        small.prop_map(|llm| Input::LlmEnded { llm: LlmId(llm) }),
        Just(Input::ServingBegan),
        Just(Input::ServingEnded),
    ]
}

proptest! {
    /// Numbers that come again, ends without beginnings, and times that jump.
    #[test]
    fn nothing_breaks_it_and_phases_are_the_whole(
        steps in prop::collection::vec((0..400_000u64, 0..3u32, 0..5u64, any_input()), 0..200),
    ) {
        let mut replies = Replies::default();
        let mut told = Vec::new();
        let mut answered = std::collections::HashSet::new();
        let mut time = 1_000;
        for (later, tid, source, input) in steps {
            time += if later % 10 == 0 { later } else { later % 50 };
            replies.feed(At { time: ms(time), tid, source: Source(source) }, input, &mut |event| told.push(event));
            if later % 7 == 0 {
                replies.tick(ms(time), &mut |event| told.push(event));
            }
        }
        for event in &told {
            if let Event::Reply(reply) = event {
                prop_assert_eq!(reply.phases.sum(), reply.duration);
                answered.insert((reply.event, reply.duration));
            }
        }
        replies.tick(ms(time), &mut |event| told.push(event));
        let ledger = Ledger::of(&told);
        prop_assert!(ledger.closes(), "{:?}", ledger);
        replies.tick(ms(time) + CALL_MAX + WINDOW, &mut |event| told.push(event));
        let ledger = Ledger::of(&told);
        prop_assert!(ledger.closes() && ledger.open == 0, "{:?}", ledger);
        let replied = told.iter().filter(|event| matches!(event, Event::Reply(_))).count();
        prop_assert_eq!(replied, ledger.ended(ConversationOutcome::Replied));
        prop_assert_eq!(replies.table.sizes()[0], 0);
        prop_assert_eq!(replies.calls.len() + replies.llms.len(), 0);
    }
}
