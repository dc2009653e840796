//! Hedged attempts: when a slow message is sent to a second destination too, as in the proxy.

use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_core::measure::Quantile;

use super::message::AttemptId;
use super::{Run, SimEvent};
use crate::scenario::Scenario;

/// Learned hedge delay of each worker of each balancer; workers do not share it.
#[derive(Debug, Default)]
pub(super) struct HedgeDelays {
    workers: usize,
    of: Vec<Quantile>,
}

impl HedgeDelays {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let share = scenario.hedge.and_then(|hedge| hedge.quantile());
        let count = scenario.balancers * scenario.workers;
        let of = share.map_or_else(Vec::new, |share| (0..count).map(|_| Quantile::new(share)).collect());
        Self { workers: scenario.workers, of }
    }

    pub(super) fn record(&mut self, balancer: usize, worker: usize, took: Duration) {
        if let Some(delay) = self.of.get_mut(balancer * self.workers + worker) {
            delay.record(took);
        }
    }

    fn at(&self, balancer: usize, worker: usize) -> Option<Duration> {
        self.of.get(balancer * self.workers + worker)?.value()
    }
}

impl Run<'_> {
    /// Schedules a hedged attempt after the hedge delay.
    pub(super) fn plan_hedge(&mut self, id: AttemptId) {
        let Some(hedge) = self.scenario.hedge else { return };
        let Some(message) = self.messages.at(id) else { return };
        if message.hedges >= hedge.max {
            return;
        }
        if let Some(wait) = hedge.delay(self.hedge_delays.at(message.balancer, message.worker)) {
            self.events.schedule(self.now + wait, SimEvent::Hedge(id));
        }
    }

    /// Sends one hedged attempt if another destination is available and the budget allows it.
    pub(super) fn hedge(&mut self, id: AttemptId) {
        let Some(message) = self.messages.at_mut(id).filter(|message| message.has_open_attempts()) else {
            return;
        };
        let (balancer, worker, tried, planned) =
            (message.balancer, message.worker, message.tried, message.planned);
        if tried.is_full() {
            return;
        }
        message.hedges += 1;
        let balancer = &mut self.balancers[balancer];
        if !balancer.budget.withdraw(self.now) {
            return;
        }
        let Ok(assignment) = balancer.choose(worker, &tried, self.now) else { return };
        let destination = assignment.member();
        self.stats.second(self.now.since(Tick::ZERO)).attempts[destination] += 1;
        if self.is_measured(planned) {
            self.stats.attempts[destination] += 1;
            self.stats.hedges += 1;
        }
        let hedge = self.messages.begin_attempt(id, assignment);
        let at = self.one_way_arrival();
        self.events.schedule(at, SimEvent::Reach(hedge));
        self.plan_hedge(id);
    }

    /// Cancels the other attempts after the first response.
    pub(super) fn cancel_others(&mut self, id: AttemptId) {
        while let Some((id, open)) = self.messages.pop_attempt(id) {
            open.assignment.cancelled_by_hedge(self.now);
            self.cancel_at_destination(id, open.destination, open.at_destination);
        }
    }
}
