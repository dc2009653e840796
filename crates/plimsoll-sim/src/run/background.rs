//! Events beside the messages: faults, neighbours, pool timers, health checks, probes, samples.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::pool::{Input, ProbeResult};
use plimsoll_core::{DestinationId, Failure, FailureSignal, Tick};

use super::message::AttemptId;
use super::weight_updater;
use super::{Run, SAMPLE, STEP, SimEvent};
use crate::sim_destination::ProbeResponse;

impl Run<'_> {
    pub(super) fn report_failure(&mut self, balancer: usize, signal: Option<FailureSignal>) {
        if let Some(signal) = signal {
            self.balancers[balancer].handle(self.now, Input::FailureSignal(signal));
            self.schedule_pool(balancer);
        }
    }

    /// Starts the health checks a pool asks for and schedules its next timeout.
    pub(super) fn schedule_pool(&mut self, balancer: usize) {
        for order in self.balancers[balancer].take_checks() {
            let destination = order.id.0 as usize;
            let passes = self.destinations[destination].passes_checks();
            let took = if passes { self.scenario.round_trip } else { order.timeout };
            let latency = passes.then_some(took);
            self.events.schedule(self.now + took, SimEvent::CheckResult { balancer, id: order.id, latency });
        }
        let at = self.balancers[balancer].next_timeout().unwrap_or(Tick::NEVER);
        if at != self.pool_timers[balancer] {
            self.pool_timers[balancer] = at;
            self.events.schedule(at.max(self.now), SimEvent::PoolTimer { balancer });
        }
    }

    pub(super) fn on_pool_timer(&mut self, balancer: usize) {
        if self.pool_timers[balancer] <= self.now {
            self.pool_timers[balancer] = Tick::NEVER;
            self.balancers[balancer].handle_timeout(self.now);
            self.schedule_pool(balancer);
        }
    }

    pub(super) fn on_check_result(&mut self, balancer: usize, id: DestinationId, latency: Option<Duration>) {
        let result = latency.map_or_else(
            || ProbeResult::Failed("no successful response".into()),
            |latency| ProbeResult::Passed { latency },
        );
        self.balancers[balancer].handle(self.now, Input::Probed { id, result });
        self.schedule_pool(balancer);
    }

    pub(super) fn neighbours(&mut self) {
        for destination in 0..self.destinations.len() {
            self.complete_due(destination);
            if self.destinations[destination].step_neighbours(self.now) {
                self.plan_done(destination);
            }
        }
        if self.now < self.end + self.scenario.deadline {
            self.events.schedule(self.now + STEP, SimEvent::Neighbours);
        }
    }

    /// Completes what is due before the speed of a destination changes.
    fn complete_due(&mut self, destination: usize) {
        if self.destinations[destination].next_completion() <= self.now {
            self.complete(destination);
        }
    }

    pub(super) fn apply_faults(&mut self, destination: usize) {
        self.complete_due(destination);
        for job in self.destinations[destination].apply_faults(self.now) {
            let id = AttemptId::from_job(job);
            self.set_at_destination(id, false);
            let at = self.one_way_arrival();
            self.events.schedule(at, SimEvent::Failure(id, Failure::Reset));
        }
        self.plan_done(destination);
        self.events.schedule(
            self.destinations[destination].next_fault_change(self.now),
            SimEvent::FaultChange(destination),
        );
    }

    /// Sends the probes that go out with a message.
    pub(super) fn send_probes(&mut self, balancer: usize) {
        let Some(feedback) = self.balancers[balancer].feedback().map(Arc::clone) else { return };
        let mut targets = Vec::new();
        feedback.choose_probes(self.destinations.len(), self.balancers[balancer].rng(), &mut targets);
        self.stats.probes += if self.is_measured(self.now) { targets.len() as u64 } else { 0 };
        for destination in targets {
            let at = self.one_way_arrival();
            self.events.schedule(at, SimEvent::Probe { balancer, destination });
        }
    }

    pub(super) fn probe(&mut self, balancer: usize, destination: usize) {
        // A destination that does not respond sends no probe response: probes are waited for a few
        // milliseconds only.
        if let Some(response) = self.destinations[destination].probe_response() {
            let at = self.one_way_arrival();
            self.events.schedule(at, SimEvent::ProbeResponse { balancer, destination, response });
        }
    }

    pub(super) fn on_probe_response(&mut self, balancer: usize, destination: usize, response: ProbeResponse) {
        if let Some(feedback) = self.balancers[balancer].feedback() {
            feedback.on_probe_response(self.now, destination, response);
        }
    }

    pub(super) fn poll(&mut self, balancer: usize) {
        let Some(feedback) = self.balancers[balancer].feedback().map(Arc::clone) else { return };
        for (index, destination) in self.destinations.iter().enumerate() {
            if let Some(response) = destination.probe_response() {
                feedback.on_probe_response(self.now, index, response);
            }
        }
        self.stats.probes += if self.is_measured(self.now) { self.destinations.len() as u64 } else { 0 };
        if let (true, Some(every)) = (self.now < self.end, feedback.poll_interval()) {
            self.events.schedule(self.now + every, SimEvent::Poll { balancer });
        }
    }

    pub(super) fn update_weights(&mut self) {
        let used: Vec<f64> = self.destinations.iter().map(|destination| destination.used()).collect();
        if let Some(weights) = self.weight_updater.as_mut().map(|weight_updater| weight_updater.update(&used))
        {
            for balancer in 0..self.balancers.len() {
                self.balancers[balancer].set_weights(self.now, &weights);
                self.schedule_pool(balancer);
            }
        }
        if self.now < self.end {
            self.events.schedule(self.now + weight_updater::EVERY, SimEvent::UpdateWeights);
        }
    }

    pub(super) fn sample(&mut self) {
        for destination in 0..self.destinations.len() {
            self.stats.in_flight.saturating_record(self.destinations[destination].load() as u64);
            let used = self.destinations[destination].used();
            if self.now == self.measured_from {
                self.used_before[destination] = used;
            }
            self.stats.used[destination] = used - self.used_before[destination];
        }
        if self.now + SAMPLE < self.end {
            self.events.schedule(self.now + SAMPLE, SimEvent::Sample);
        }
    }
}
