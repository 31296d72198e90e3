//! Whether the gateway is up, shard by shard: what the connections say, and those that went without another in their place.

use std::collections::BTreeMap;

/// How many shards are told apart; all others count as one whose number is not known.
const SHARDS_MAX: usize = 1024;

/// A shard by its number, once that is known.
pub(super) type Label = Option<u32>;

#[derive(Debug, Default)]
struct State {
    told: Option<bool>,
    /// Connections that went, and in whose place none has come.
    missing: u32,
}

#[derive(Debug, Default)]
pub(super) struct Labels {
    states: BTreeMap<Label, State>,
}

impl Labels {
    /// The label of a shard.
    pub(super) fn of(&self, shard: Option<u32>) -> Label {
        shard.filter(|_| self.states.len() <= SHARDS_MAX || self.states.contains_key(&shard))
    }

    /// Takes in that a connection went; `settled` tells whether it had been up.
    pub(super) fn went(&mut self, label: Label, settled: bool) {
        let missing = &mut self.states.entry(label).or_default().missing;
        // A shard has one connection at a time. And what never was up has taken nobody's place.
        *missing = if label.is_none() && settled { missing.saturating_add(1) } else { 1.max(*missing) };
    }

    /// Takes in that a connection came up: it takes the place of one that went, of its own shard or of one that is not known.
    pub(super) fn came(&mut self, label: Label) {
        for label in [label, None] {
            if let Some(state) = self.states.get_mut(&label)
                && state.missing > 0
            {
                state.missing -= 1;
                return;
            }
        }
    }

    /// Tells what has changed. `connections` are those that are not over: their labels, and whether they are up.
    pub(super) fn changes(
        &mut self,
        connections: impl Iterator<Item = (Label, bool)>,
        mut tell: impl FnMut(Label, Option<bool>),
    ) {
        let mut now: BTreeMap<Label, bool> = BTreeMap::new();
        for (label, up) in connections {
            now.entry(label).and_modify(|all| *all &= up).or_insert(up);
            self.states.entry(label).or_default();
        }
        self.states.retain(|label, state| {
            let up = if state.missing > 0 { Some(false) } else { now.get(label).copied() };
            if up != state.told {
                state.told = up;
                tell(*label, up);
            }
            up.is_some()
        });
    }
}
