//! What GPUs do while prompts are evaluated and while answers are generated: pure.
//!
//! A sample of a GPU tells of the time since the one before. So it is put down to a phase only if all calls that were served in
//! that time were in that one phase: until the first token of a streamed answer its prompt is evaluated, or waits for that; from
//! then on the answer is generated. What falls between two phases, or into two at once, is put down to neither, as is all that
//! happens beside a call whose phases nobody can tell.

use super::changes::Changes;
use crate::observations::{GpuSample, LlmPhase};
use crate::units::Nanos;

/// The least part of the time between two samples that a phase must fill, alone.
const FILLED: f64 = 0.95;

/// What is done for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// One of the next two, but nobody can tell which: its answer is not streamed, or that is not known yet.
    Unclear,
    /// Its prompt is evaluated, or waits for that.
    Prompt,
    /// Its answer is generated.
    Answer,
}

/// A call goes from one stage to another: from none when it begins, to none when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: Option<Stage>,
    pub(super) to: Option<Stage>,
}

/// How many calls are in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnderWay([u32; 3]);

impl UnderWay {
    /// What one whose beginning was not seen does, is nobody's.
    pub(super) fn take_in(&mut self, Change { from, to }: Change) {
        if let Some(stage) = from {
            self.0[stage as usize] = self.0[stage as usize].saturating_sub(1);
        }
        if let Some(stage) = to {
            self.0[stage as usize] = self.0[stage as usize].saturating_add(1);
        }
    }

    /// The one phase that all of them are in.
    fn phase(self) -> Option<LlmPhase> {
        match self.0 {
            [0, prompts, 0] if prompts > 0 => Some(LlmPhase::Prompt),
            [0, 0, answers] if answers > 0 => Some(LlmPhase::Generation),
            _ => None,
        }
    }
}

/// Puts samples down to phases.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    /// At the end of the time that was looked at last.
    under_way: UnderWay,
    changes: Changes<Change>,
    last: Option<Nanos>,
    /// The latest sample. It is looked at when the next one comes: by then all is known that happened before it.
    next: Option<GpuSample>,
}

impl Phases {
    /// With these under way.
    pub(super) fn new(under_way: UnderWay) -> Self {
        Self { under_way, changes: Changes::default(), last: None, next: None }
    }

    /// Takes in that a call goes on to another stage.
    pub(super) fn change(&mut self, time: Nanos, change: Change) {
        if self.changes.push(time, change) {
            (self.last, self.next) = (None, None);
            self.changes.take().for_each(|change| self.under_way.take_in(change));
        }
    }

    /// Takes in a sample; returned is the one before it, if it belongs to one phase.
    pub(super) fn sample(&mut self, sample: GpuSample) -> Option<(LlmPhase, GpuSample)> {
        let looked_at = self.next.replace(sample)?;
        let to = looked_at.time;
        let from = self.last.replace(to);
        let mut filled = [Nanos(0); LlmPhase::ALL.len()];
        let mut at = from.unwrap_or(to);
        let changes = self.changes.take_until(to).into_iter().map(|(time, change)| (time, Some(change)));
        for (time, change) in changes.chain([(to, None)]) {
            let time = time.max(at);
            if let Some(phase) = self.under_way.phase() {
                let filled = &mut filled[phase as usize];
                *filled = *filled + time.since(at);
            }
            at = time;
            change.into_iter().for_each(|change| self.under_way.take_in(change));
        }
        let whole = to.since(from?).seconds();
        let fills = |phase: &&LlmPhase| whole > 0.0 && filled[**phase as usize].seconds() >= FILLED * whole;
        LlmPhase::ALL.iter().find(fills).map(|phase| (*phase, looked_at))
    }
}

#[cfg(test)]
mod tests {
    use super::Stage::{Answer, Prompt, Unclear};
    use super::*;
    use crate::pipeline::changes::CHANGES_MAX;

    fn second(seconds: f64) -> Nanos {
        Nanos((seconds * 1e9).round() as u64 + 1)
    }

    /// The phases of ten samples, one a second, in which this happens; `.` is none.
    fn phases(under_way: UnderWay, changes: &[(f64, Change)]) -> String {
        let mut phases = Phases::new(under_way);
        for (time, change) in changes {
            phases.change(second(*time), *change);
        }
        let sample = |number: u32| GpuSample {
            time: second(f64::from(number)),
            valid_until: Nanos(0),
            devices: Ok(Vec::new()),
            xids: Vec::new(),
        };
        let told = |(number, told): (u32, Option<(LlmPhase, GpuSample)>)| match told {
            Some((phase, told)) => {
                assert_eq!(told.time, second(f64::from(number) - 1.0), "it is told once the next one is there");
                phase.as_str()[..1].to_owned()
            }
            None => ".".to_owned(),
        };
        (0..=11).map(|number| (number, phases.sample(sample(number)))).skip(2).map(told).collect()
    }

    const BEGINS: Change = Change { from: None, to: Some(Prompt) };
    const ANSWERS: Change = Change { from: Some(Prompt), to: Some(Answer) };
    const ENDS: Change = Change { from: Some(Answer), to: None };
    const FAILS: Change = Change { from: Some(Prompt), to: None };

    #[test]
    fn a_sample_belongs_to_the_phase_that_fills_the_time_before_it() {
        let call = [(1.5, BEGINS), (4.01, ANSWERS), (7.5, ENDS)];
        assert_eq!(phases(UnderWay::default(), &call), "..ppggg...");
    }

    #[test]
    fn two_phases_at_once_are_none_and_two_calls_in_one_are() {
        let calls = [(0.0, BEGINS), (0.0, BEGINS), (3.0, ANSWERS), (5.0, ANSWERS), (7.0, ENDS), (9.0, ENDS)];
        assert_eq!(phases(UnderWay::default(), &calls), "ppp..gggg.");
        assert_eq!(phases(UnderWay::default(), &[(0.0, BEGINS), (2.0, FAILS)]), "pp........");
    }

    #[test]
    fn beside_what_is_unclear_nothing_is_clear() {
        let [begins, ends] = [(None, Some(Unclear)), (Some(Unclear), None)].map(|(from, to)| Change { from, to });
        let calls = [(0.0, BEGINS), (2.0, begins), (5.0, ends), (8.0, FAILS)];
        assert_eq!(phases(UnderWay::default(), &calls), "pp...ppp..");
        let known_later = Change { from: Some(Unclear), to: Some(Prompt) };
        assert_eq!(phases(UnderWay::default(), &[(0.0, begins), (1.02, known_later), (3.0, FAILS)]), ".pp.......");
    }

    #[test]
    fn what_was_under_way_before_counts_and_an_end_without_a_beginning_does_not() {
        let mut before = UnderWay::default();
        before.take_in(Change { from: None, to: Some(Answer) });
        assert_eq!(phases(before, &[(4.0, ENDS)]), "gggg......");
        assert_eq!(phases(UnderWay::default(), &[(1.0, ENDS), (2.0, BEGINS), (4.0, FAILS)]), "..pp......");
    }

    #[test]
    fn nothing_piles_up_where_no_sample_comes() {
        let mut phases = Phases::new(UnderWay::default());
        for number in 0..CHANGES_MAX as u64 * 3 {
            phases.change(Nanos(number), if number % 2 == 0 { BEGINS } else { FAILS });
        }
        assert!(phases.changes.0.len() <= CHANGES_MAX);
        assert!(phases.under_way.0[Prompt as usize] <= 1, "{:?}", phases.under_way);
    }
}
