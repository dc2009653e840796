//! When a message that takes long is sent to a second destination as well, as the proxy does it.

use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_core::measure::Quantile;

use super::message::Place;
use super::{Event, Run};
use crate::scenario::Scenario;

/// How long answers take: what each worker of each balancer has learned, and tells nobody.
#[derive(Debug, Default)]
pub(super) struct Paces {
    workers: usize,
    of: Vec<Quantile>,
}

impl Paces {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let share = scenario.hedge.and_then(|hedge| hedge.share());
        let count = scenario.balancers * scenario.workers;
        let of = share.map_or_else(Vec::new, |share| (0..count).map(|_| Quantile::new(share)).collect());
        Self { workers: scenario.workers, of }
    }

    pub(super) fn learn(&mut self, balancer: usize, worker: usize, took: Duration) {
        if let Some(pace) = self.of.get_mut(balancer * self.workers + worker) {
            pace.record(took);
        }
    }

    fn at(&self, balancer: usize, worker: usize) -> Option<Duration> {
        self.of.get(balancer * self.workers + worker)?.value()
    }
}

impl Run<'_> {
    /// Wakes it when it has waited alone for long enough.
    pub(super) fn plan_hedge(&mut self, place: Place) {
        let Some(hedge) = self.scenario.hedge else { return };
        let Some(message) = self.messages.at(place) else { return };
        if message.copies >= hedge.most {
            return;
        }
        if let Some(wait) = hedge.wait(self.paces.at(message.balancer, message.worker)) {
            self.agenda.set(self.now + wait, Event::Hedge(place));
        }
    }

    /// One more copy, if somebody else may serve and the budget has it.
    pub(super) fn hedge(&mut self, place: Place) {
        let Some(message) = self.messages.at_mut(place).filter(|message| message.waits()) else { return };
        let (balancer, worker, tried, planned) =
            (message.balancer, message.worker, message.tried, message.planned);
        if tried.is_full() {
            return;
        }
        message.copies += 1;
        let balancer = &mut self.balancers[balancer];
        if !balancer.budget.withdraw(self.now) {
            return;
        }
        let Ok(assignment) = balancer.choose(worker, &tried, self.now) else { return };
        let site = assignment.member();
        self.tally.second(self.now.since(Tick::ZERO)).taken[site] += 1;
        if self.is_measured(planned) {
            self.tally.taken[site] += 1;
            self.tally.copies += 1;
        }
        let copy = self.messages.begin_try(place, assignment);
        let at = self.half_way();
        self.agenda.set(at, Event::Reach(copy));
        self.plan_hedge(place);
    }

    /// Somebody has answered: the others are not waited for.
    pub(super) fn outrun(&mut self, place: Place) {
        while let Some((place, open)) = self.messages.end_any_try(place) {
            open.assignment.cancelled_by_hedge(self.now);
            self.call_off(place, open.site, open.there);
        }
    }
}
