//! What goes on beside the messages: troubles and neighbours, pools and their checks, probes, samples.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::pool::{Input, ProbeResult};
use plimsoll_core::{DestinationId, Failure, FailureSignal, Tick};

use super::message::Place;
use super::weight_updater;
use super::{Event, Run, SAMPLE, STEP};
use crate::sim_destination::Reading;

impl Run<'_> {
    pub(super) fn signal(&mut self, balancer: usize, signal: Option<FailureSignal>) {
        if let Some(signal) = signal {
            self.balancers[balancer].handle(self.now, Input::FailureSignal(signal));
            self.heed(balancer);
        }
    }

    /// Does what a pool wants done, and wakes it when it asks for that.
    pub(super) fn heed(&mut self, balancer: usize) {
        for order in self.balancers[balancer].orders() {
            let site = order.id.0 as usize;
            let passes = self.sites[site].passes_checks();
            let took = if passes { self.scenario.round_trip } else { order.timeout };
            let latency = passes.then_some(took);
            self.agenda.set(self.now + took, Event::Checked { balancer, id: order.id, latency });
        }
        let at = self.balancers[balancer].wakes_at().unwrap_or(Tick::NEVER);
        if at != self.asleep_until[balancer] {
            self.asleep_until[balancer] = at;
            self.agenda.set(at.max(self.now), Event::Wake { balancer });
        }
    }

    pub(super) fn wake(&mut self, balancer: usize) {
        if self.asleep_until[balancer] <= self.now {
            self.asleep_until[balancer] = Tick::NEVER;
            self.balancers[balancer].wake(self.now);
            self.heed(balancer);
        }
    }

    pub(super) fn checked(&mut self, balancer: usize, id: DestinationId, latency: Option<Duration>) {
        let result = latency.map_or_else(
            || ProbeResult::Failed { detail: "no good answer".to_owned() },
            |latency| ProbeResult::Passed { latency },
        );
        self.balancers[balancer].handle(self.now, Input::Probed { id, result });
        self.heed(balancer);
    }

    pub(super) fn neighbours(&mut self) {
        for site in 0..self.sites.len() {
            self.settle_quietly(site);
            if self.sites[site].step(self.now) {
                self.plan_done(site);
            }
        }
        if self.now < self.end + self.scenario.deadline {
            self.agenda.set(self.now + STEP, Event::Neighbours);
        }
    }

    /// Before its speed changes, a destination is done with what is done.
    fn settle_quietly(&mut self, site: usize) {
        if self.sites[site].next() <= self.now {
            self.settle(site);
        }
    }

    pub(super) fn turn(&mut self, site: usize) {
        self.settle_quietly(site);
        for job in self.sites[site].turn(self.now) {
            let place = Place::of_job(job);
            self.is_there(place, false);
            let at = self.half_way();
            self.agenda.set(at, Event::Fails(place, Failure::Reset));
        }
        self.plan_done(site);
        self.agenda.set(self.sites[site].turns_at(self.now), Event::Turn(site));
    }

    /// Sends the probes that go out with a message.
    pub(super) fn ask(&mut self, balancer: usize) {
        let Some(ear) = self.balancers[balancer].ear().map(Arc::clone) else { return };
        let mut whom = Vec::new();
        ear.asks(self.sites.len(), self.balancers[balancer].dice(), &mut whom);
        self.tally.probes += if self.is_measured(self.now) { whom.len() as u64 } else { 0 };
        for site in whom {
            let at = self.half_way();
            self.agenda.set(at, Event::Probe { balancer, site });
        }
    }

    pub(super) fn probe(&mut self, balancer: usize, site: usize) {
        // Who says nothing is no probe: it takes longer than the few milliseconds it would be waited for.
        if let Some(reading) = self.sites[site].reading() {
            let at = self.half_way();
            self.agenda.set(at, Event::Heard { balancer, site, reading });
        }
    }

    pub(super) fn heard(&mut self, balancer: usize, site: usize, reading: Reading) {
        if let Some(ear) = self.balancers[balancer].ear() {
            ear.hears(self.now, site, reading);
        }
    }

    pub(super) fn poll(&mut self, balancer: usize) {
        let Some(ear) = self.balancers[balancer].ear().map(Arc::clone) else { return };
        for (index, site) in self.sites.iter().enumerate() {
            if let Some(reading) = site.reading() {
                ear.hears(self.now, index, reading);
            }
        }
        self.tally.probes += if self.is_measured(self.now) { self.sites.len() as u64 } else { 0 };
        if let (true, Some(every)) = (self.now < self.end, ear.polls_every()) {
            self.agenda.set(self.now + every, Event::Poll { balancer });
        }
    }

    pub(super) fn weigh(&mut self) {
        let used: Vec<f64> = self.sites.iter().map(|site| site.used()).collect();
        if let Some(weights) = self.scales.as_mut().map(|scales| scales.weigh(&used)) {
            for balancer in 0..self.balancers.len() {
                self.balancers[balancer].weigh(self.now, &weights);
                self.heed(balancer);
            }
        }
        if self.now < self.end {
            self.agenda.set(self.now + weight_updater::EVERY, Event::Weigh);
        }
    }

    pub(super) fn sample(&mut self) {
        for site in 0..self.sites.len() {
            self.tally.in_flight.saturating_record(self.sites[site].load() as u64);
            let used = self.sites[site].used();
            if self.now == self.measured_from {
                self.used_before[site] = used;
            }
            self.tally.used[site] = used - self.used_before[site];
        }
        if self.now + SAMPLE < self.end {
            self.agenda.set(self.now + SAMPLE, Event::Sample);
        }
    }
}
