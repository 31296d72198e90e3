//! What happened to requests and waits for what GPUs tell next: records come late, and not in the order of what they tell.

use crate::units::Nanos;

/// Changes that wait. Where more do, none comes any more that they could wait for.
pub(super) const CHANGES_MAX: usize = 65_536;

/// Changes and when they happened.
#[derive(Clone, Debug)]
pub(super) struct Changes<C>(pub(super) Vec<(Nanos, C)>);

impl<C> Default for Changes<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C> Changes<C> {
    /// Takes in a change; says whether more wait now than may.
    pub(super) fn push(&mut self, time: Nanos, change: C) -> bool {
        self.0.push((time, change));
        self.0.len() > CHANGES_MAX
    }

    /// Takes out those until `to`, in their order.
    pub(super) fn take_until(&mut self, to: Nanos) -> Vec<(Nanos, C)> {
        self.0.sort_by_key(|(time, _)| *time);
        let due = self.0.partition_point(|(time, _)| *time <= to);
        self.0.drain(..due).collect()
    }

    /// Takes out all.
    pub(super) fn take(&mut self) -> impl Iterator<Item = C> + use<C> {
        std::mem::take(&mut self.0).into_iter().map(|(_, change)| change)
    }
}
