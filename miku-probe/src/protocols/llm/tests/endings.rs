//! When a stream is complete, and when it was cut short.

use super::*;

/// A stream of these events, cut off by the client.
fn aborted(events: &[String]) -> Call {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    for event in events {
        bot.receives(chunk(event));
    }
    bot.ends(End::LocalClosed);
    bot.call()
}

/// An event of the choice with this index, that adds a word and gives a reason to stop.
fn choice(index: u64, reason: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"word\"}},\"finish_reason\":{reason}}}]}}\n\n"
    )
}

#[test]
fn a_reason_that_says_nothing_ends_no_stream() {
    for nothing in ["null", "\"\"", "\"null\"", "\"none\""] {
        let call = aborted(&[choice(0, nothing), choice(0, nothing)]);
        assert_eq!((call.outcome, call.finish), (CallOutcome::Aborted, None), "{nothing}");
        let call = aborted(&[choice(0, nothing), choice(0, "\"stop\"")]);
        assert_eq!((call.outcome, call.finish), (CallOutcome::Complete, Some(Finish::Stop)), "{nothing}");
    }
}

#[test]
fn a_stream_goes_on_while_any_choice_brings_content() {
    let call = aborted(&[choice(0, "null"), choice(1, "null"), choice(0, "\"stop\""), choice(1, "null")]);
    assert_eq!(call.outcome, CallOutcome::Aborted, "one of two choices had ended");
    let call = aborted(&[choice(0, "\"stop\""), choice(1, "null"), choice(1, "\"stop\"")]);
    assert_eq!(call.outcome, CallOutcome::Complete);
}

#[test]
fn whatever_gives_a_reason_in_each_event_is_complete_by_its_end_alone() {
    let each = || choice(0, "\"stop\"");
    // By the last reason, as nothing came after it.
    assert_eq!(aborted(&[each(), each()]).outcome, CallOutcome::Complete);
    let done = "data: [DONE]\n\n".to_owned();
    assert_eq!(aborted(&[each(), choice(0, "null"), done]).outcome, CallOutcome::Complete);
}
