//! Runs a scenario event by event in virtual time; the result depends on the random seed alone.

mod background;
mod hedge;
mod message;
mod weight_updater;

use std::time::Duration;

use plimsoll_core::{Assignment, DestinationId, Failure, Outcome, Rng, Tick, UnsettledFailures};

use self::hedge::HedgeDelays;
use self::message::{AttemptId, Messages, OpenAttempt};
use self::weight_updater::WeightUpdater;
use crate::antagonist::STEP;
use crate::arrivals::ArrivalStream;
use crate::balancer::SimBalancer;
use crate::candidates::CandidatePolicy;
use crate::distributions::exponential;
use crate::event_queue::EventQueue;
use crate::run_stats::RunStats;
use crate::scenario::Scenario;
use crate::sim_destination::{ArrivalResult, ProbeResponse, SimDestination};

/// Interval at which the load of destinations is sampled.
const SAMPLE: Duration = Duration::from_millis(100);
/// One pick of this many is compared with the oracle's, because the comparison asks every destination.
const REGRET_SAMPLING: u64 = 50;

/// Event of a simulation.
#[derive(Copy, Clone, Debug)]
enum SimEvent {
    /// Arrival of the next message at a balancer.
    Arrival,
    /// Arrival of an attempt at its destination.
    Reach(AttemptId),
    /// Completion of a message at a destination.
    Done { destination: usize, version: u32 },
    /// Arrival of a response at the balancer.
    Response(AttemptId, u16),
    /// Arrival of a connection failure at the balancer.
    Failure(AttemptId, Failure),
    /// Deadline of a message.
    Deadline(AttemptId),
    /// Hedge delay of a message has passed.
    Hedge(AttemptId),
    /// Next step of the neighbours.
    Neighbours,
    /// Start or end of a fault.
    FaultChange(usize),
    /// Timeout of a pool.
    PoolTimer { balancer: usize },
    /// Result of a health check.
    CheckResult { balancer: usize, id: DestinationId, latency: Option<Duration> },
    /// Arrival of a probe at a destination.
    Probe { balancer: usize, destination: usize },
    /// Arrival of a probe response at the balancer.
    ProbeResponse { balancer: usize, destination: usize, response: ProbeResponse },
    /// Poll of all destinations.
    Poll { balancer: usize },
    /// Update of the weights by use.
    UpdateWeights,
    /// Sample of the loads.
    Sample,
}

/// Runs `scenario` for `candidate`. With the same seed every candidate gets the same messages, the same work
/// and the same neighbours.
pub fn simulate(scenario: &Scenario, candidate: &CandidatePolicy, seed: u64) -> RunStats {
    let mut run = Run::new(scenario, candidate, seed);
    run.start();
    run.finish()
}

struct Run<'a> {
    scenario: &'a Scenario,
    now: Tick,
    events: EventQueue<SimEvent>,
    destinations: Vec<SimDestination>,
    balancers: Vec<SimBalancer>,
    /// Time of each pool's scheduled timeout event.
    pool_timers: Vec<Tick>,
    messages: Messages,
    stream: ArrivalStream,
    /// Work of the next message.
    work: f64,
    /// Chooses the balancer and worker of a message; the same sequence for every candidate.
    route_rng: Rng,
    /// Adds jitter to the network.
    network_rng: Rng,
    weight_updater: Option<WeightUpdater>,
    hedge_delays: HedgeDelays,
    picks: u64,
    measured_from: Tick,
    end: Tick,
    used_before: Vec<f64>,
    stats: RunStats,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, candidate: &CandidatePolicy, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut draw = || Rng::new(rng.next_u64());
        let (arrivals, route_rng, network_rng, mut destination_rng, mut balancer_rng) =
            (draw(), draw(), draw(), draw(), draw());
        let count = scenario.destinations.len();
        let new_balancer = |_| SimBalancer::new(scenario, candidate, &mut balancer_rng);
        let new_destination =
            |(index, spec)| SimDestination::new(spec, index, Rng::new(destination_rng.next_u64()));
        let measured_from = Tick::ZERO + scenario.warm_up;
        Self {
            now: Tick::ZERO,
            events: EventQueue::default(),
            destinations: scenario.destinations.iter().enumerate().map(new_destination).collect(),
            balancers: (0..scenario.balancers).map(new_balancer).collect(),
            pool_timers: vec![Tick::NEVER; scenario.balancers],
            messages: Messages::default(),
            stream: ArrivalStream::new(scenario.arrivals.clone(), scenario.work, scenario.rate(), arrivals),
            work: 0.0,
            route_rng,
            network_rng,
            weight_updater: (*candidate == CandidatePolicy::WeightedByUse)
                .then(|| WeightUpdater::new(scenario)),
            hedge_delays: HedgeDelays::new(scenario),
            picks: 0,
            measured_from,
            end: measured_from + scenario.duration,
            used_before: vec![0.0; count],
            stats: RunStats::new(count),
            scenario,
        }
    }

    fn start(&mut self) {
        self.plan_arrival();
        self.events.schedule(self.measured_from, SimEvent::Sample);
        if self.destinations.iter().any(SimDestination::has_neighbours) {
            self.events.schedule(Tick::ZERO, SimEvent::Neighbours);
        }
        for (index, destination) in self.destinations.iter().enumerate() {
            self.events.schedule(destination.next_fault_change(Tick::ZERO), SimEvent::FaultChange(index));
        }
        for balancer in 0..self.balancers.len() {
            self.schedule_pool(balancer);
            if let Some(every) =
                self.balancers[balancer].feedback().and_then(|feedback| feedback.poll_interval())
            {
                let first = every.mul_f64(self.network_rng.share());
                self.events.schedule(Tick::ZERO + first, SimEvent::Poll { balancer });
            }
        }
        if self.weight_updater.is_some() {
            self.events.schedule(Tick::ZERO + weight_updater::EVERY, SimEvent::UpdateWeights);
        }
    }

    /// Runs until the last measured message has ended.
    fn finish(mut self) -> RunStats {
        let last = self.end + self.scenario.deadline;
        while let Some((at, event)) = self.events.pop()
            && at <= last
        {
            self.now = at;
            self.dispatch(event);
        }
        self.stats.pool_events = self.balancers.iter().map(SimBalancer::events).sum();
        self.stats
    }

    fn dispatch(&mut self, event: SimEvent) {
        match event {
            SimEvent::Arrival => self.arrival(),
            SimEvent::Reach(id) => self.reach(id),
            SimEvent::Done { destination, version } => {
                if self.destinations[destination].version == version {
                    self.complete(destination);
                }
            }
            SimEvent::Response(id, status) => self.on_response(id, status),
            SimEvent::Failure(id, failure) => self.on_failure(id, failure),
            SimEvent::Deadline(id) => self.on_deadline(id),
            SimEvent::Hedge(id) => self.hedge(id),
            SimEvent::Neighbours => self.neighbours(),
            SimEvent::FaultChange(destination) => self.apply_faults(destination),
            SimEvent::PoolTimer { balancer } => self.on_pool_timer(balancer),
            SimEvent::CheckResult { balancer, id, latency } => self.on_check_result(balancer, id, latency),
            SimEvent::Probe { balancer, destination } => self.probe(balancer, destination),
            SimEvent::ProbeResponse { balancer, destination, response } => {
                self.on_probe_response(balancer, destination, response)
            }
            SimEvent::Poll { balancer } => self.poll(balancer),
            SimEvent::UpdateWeights => self.update_weights(),
            SimEvent::Sample => self.sample(),
        }
    }

    /// Arrival time of what is sent now: half of a round trip, with jitter.
    fn one_way_arrival(&mut self) -> Tick {
        let mean = self.scenario.jitter / 2;
        self.now + self.scenario.round_trip / 2 + mean.mul_f64(exponential(&mut self.network_rng))
    }

    fn plan_arrival(&mut self) {
        let (at, work) = self.stream.next(self.now);
        self.work = work;
        if at < self.end {
            self.events.schedule(at, SimEvent::Arrival);
        }
    }

    fn is_measured(&self, planned: Tick) -> bool {
        planned >= self.measured_from
    }

    fn arrival(&mut self) {
        let balancer = self.route_rng.index(self.balancers.len());
        let worker = self.route_rng.index(self.scenario.workers);
        let id = self.messages.add(self.now, balancer, worker, self.work);
        self.stats.messages += u64::from(self.is_measured(self.now));
        self.balancers[balancer].budget.earn(worker);
        self.events.schedule(self.now + self.scenario.deadline, SimEvent::Deadline(id));
        self.send_probes(balancer);
        self.choose(id);
        self.plan_hedge(id);
        self.plan_arrival();
    }

    /// Starts one more attempt of the message at `id`.
    fn choose(&mut self, id: AttemptId) {
        let Some(message) = self.messages.at(id) else { return };
        let (balancer, worker, tried, work) = (message.balancer, message.worker, message.tried, message.work);
        let (first, planned) = (message.tries == 0, message.planned);
        self.picks += 1;
        let needs_forecast =
            self.balancers[balancer].feedback().is_some_and(|feedback| feedback.needs_forecast());
        let compare =
            needs_forecast || (self.picks.is_multiple_of(REGRET_SAMPLING) && self.is_measured(planned));
        let forecasts = compare.then(|| self.forecasts(work));
        if let (true, Some((best, _, _))) = (needs_forecast, &forecasts) {
            let best = *best;
            self.balancers[balancer].feedback().into_iter().for_each(|feedback| feedback.set_fastest(best));
        }
        let Ok(assignment) = self.balancers[balancer].choose(worker, &tried, self.now) else {
            return self.fail_message(id);
        };
        let destination = assignment.member();
        if let Some((_, least, all)) = forecasts {
            self.stats.regret.0 += all[destination] - least;
            self.stats.regret.1 += 1;
        }
        let now = self.now;
        self.stats.second(now.since(Tick::ZERO)).attempts[destination] += 1;
        if self.is_measured(planned) {
            self.stats.attempts[destination] += 1;
            self.stats.retries += u64::from(!first);
        }
        let id = self.messages.begin_attempt(id, assignment);
        let at = self.one_way_arrival();
        self.events.schedule(at, SimEvent::Reach(id));
    }

    /// Returns the destination that would respond to a message of `work` first, its seconds, and the seconds
    /// of each.
    fn forecasts(&self, work: f64) -> (usize, f64, Vec<f64>) {
        let never = self.scenario.deadline.as_secs_f64();
        let all: Vec<f64> =
            self.destinations.iter().map(|destination| destination.forecast(self.now, work, never)).collect();
        let best = (0..all.len()).min_by(|&a, &b| all[a].total_cmp(&all[b])).unwrap_or(0);
        (best, all[best], all)
    }

    fn reach(&mut self, id: AttemptId) {
        let Some(work) = self.messages.at(id).map(|message| message.work) else { return };
        let Some(destination) = self.messages.open_attempt(id).map(|open| open.destination) else { return };
        match self.destinations[destination].arrive(self.now, id.job(), work) {
            ArrivalResult::Accepted => {
                self.set_at_destination(id, true);
                self.plan_done(destination);
            }
            ArrivalResult::Refused => {
                let at = self.one_way_arrival();
                self.events.schedule(at, SimEvent::Failure(id, Failure::Connect));
            }
            ArrivalResult::Failed(after, status) => {
                let at = self.one_way_arrival() + after;
                self.events.schedule(at, SimEvent::Response(id, status));
            }
        }
    }

    fn set_at_destination(&mut self, id: AttemptId, at_destination: bool) -> bool {
        self.messages.open_attempt(id).map(|open| open.at_destination = at_destination).is_some()
    }

    fn plan_done(&mut self, destination: usize) {
        let event = SimEvent::Done { destination, version: self.destinations[destination].version };
        self.events.schedule(self.destinations[destination].next_completion(), event);
    }

    /// Sends the responses of the messages completed at a destination.
    fn complete(&mut self, destination: usize) {
        for id in self.destinations[destination].advance(self.now).into_iter().map(AttemptId::from_job) {
            if self.set_at_destination(id, false) {
                let at = self.one_way_arrival();
                self.events.schedule(at, SimEvent::Response(id, 200));
            }
        }
        self.plan_done(destination);
    }

    fn on_response(&mut self, id: AttemptId, status: u16) {
        let Some(OpenAttempt { assignment, destination, is_hedge, .. }) = self.messages.end_attempt(id)
        else {
            return;
        };
        let first_byte = self.now.since(assignment.started());
        self.record(id, assignment, Outcome::Answered { status, first_byte });
        if status >= 500 {
            return self.retry_or_fail(id, message::AttemptResult::Status(status));
        }
        self.settle(id, true);
        let Some(message) = self.messages.at(id) else { return };
        let (balancer, worker, planned) = (message.balancer, message.worker, message.planned);
        if let Some(weight_updater) = &mut self.weight_updater {
            weight_updater.record_success(destination);
        }
        self.hedge_delays.record(balancer, worker, self.now.since(planned));
        self.cancel_others(id);
        self.messages.remove(id);
        self.ended(planned, true);
        if self.is_measured(planned) {
            self.stats.hedges_won += u64::from(is_hedge);
            self.stats.record_latency(self.now.since(planned));
        }
    }

    fn on_failure(&mut self, id: AttemptId, failure: Failure) {
        let Some(OpenAttempt { assignment, .. }) = self.messages.end_attempt(id) else { return };
        self.record(id, assignment, Outcome::Failed(failure));
        self.retry_or_fail(id, message::AttemptResult::Failed(failure));
    }

    /// Retries or ends a message as the product decides; a hedged message waits for its other attempts first.
    fn retry_or_fail(&mut self, id: AttemptId, ended: message::AttemptResult) {
        let Some(message) = self.messages.at(id) else { return };
        if message.has_open_attempts() {
            return;
        }
        let budget = &self.balancers[message.balancer].budget;
        if message.may_retry(&self.scenario.retry, ended, budget, self.now) {
            self.choose(id);
        } else {
            self.fail_message(id);
        }
    }

    /// Records an outcome, which is decided with the message if it may be the message's own fault.
    fn record(&mut self, id: AttemptId, mut assignment: Assignment, outcome: Outcome) {
        let now = self.now;
        let Some(message) = self.messages.at_mut(id) else { return };
        if UnsettledFailures::may_be_of_message(outcome) {
            return message.unsettled.add(&mut assignment, outcome);
        }
        let (balancer, signal) = (message.balancer, assignment.finish(now, outcome));
        self.report_failure(balancer, signal);
    }

    /// Decides the failures of a message that has ended.
    fn settle(&mut self, id: AttemptId, succeeded: bool) {
        let now = self.now;
        let Some(message) = self.messages.at_mut(id) else { return };
        let (balancer, mut signals) = (message.balancer, Vec::new());
        message.unsettled.settle(now, succeeded, |signal| signals.push(signal));
        signals.into_iter().for_each(|signal| self.report_failure(balancer, Some(signal)));
    }

    fn fail_message(&mut self, id: AttemptId) {
        self.settle(id, false);
        let Some(planned) = self.messages.at(id).map(|message| message.planned) else { return };
        self.stats.failed += u64::from(self.is_measured(planned));
        self.messages.remove(id);
        self.ended(planned, false);
    }

    fn on_deadline(&mut self, id: AttemptId) {
        let Some(message) = self.messages.at(id) else { return };
        let (balancer, planned) = (message.balancer, message.planned);
        self.settle(id, false);
        while let Some((id, open)) = self.messages.pop_attempt(id) {
            let signal = open.assignment.finish(self.now, Outcome::Failed(Failure::Timeout));
            self.report_failure(balancer, signal);
            if let Some(weight_updater) = &mut self.weight_updater {
                weight_updater.record_failure(open.destination);
            }
            self.cancel_at_destination(id, open.destination, open.at_destination);
        }
        self.messages.remove(id);
        self.ended(planned, false);
        if self.is_measured(planned) {
            self.stats.timed_out += 1;
            self.stats.record_latency(self.scenario.deadline);
        }
    }

    /// Cancels an attempt at its destination, if destinations notice that.
    fn cancel_at_destination(&mut self, id: AttemptId, destination: usize, at_destination: bool) {
        if at_destination && self.scenario.cancels {
            self.destinations[destination].cancel(self.now, id.job());
            self.plan_done(destination);
        }
    }

    fn ended(&mut self, planned: Tick, well: bool) {
        let second = self.stats.second(planned.since(Tick::ZERO));
        second.ended += 1;
        second.errors += u32::from(!well);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributions::WorkDistribution;
    use crate::scenario::OfferedLoad;
    use crate::sim_destination::{DestinationSpec, ServiceModel};

    fn destination(service_model: ServiceModel) -> DestinationSpec {
        DestinationSpec { group: "a".to_owned(), service_model, weight: 1, priority: 0, faults: Vec::new() }
    }

    fn named(name: &str) -> CandidatePolicy {
        name.parse().expect("a candidate")
    }

    #[test]
    fn one_server_matches_the_m_m_1_formulas() {
        // M/M/1 at a utilization of 0.8: a mean of 10 ms / (1 - 0.8), and the median of an exponential
        // sojourn time is ln 2 of that. Processor sharing has the same mean.
        for service_model in [ServiceModel::Slots(1), ServiceModel::Sharing(1.0)] {
            let mut scenario =
                Scenario::new("mm1", vec![destination(service_model)], WorkDistribution::Exponential(0.010));
            scenario.offered_load = OfferedLoad::Utilization(0.8);
            (scenario.round_trip, scenario.jitter) = (Duration::ZERO, Duration::ZERO);
            (scenario.warm_up, scenario.duration) = (Duration::from_secs(20), Duration::from_secs(1_000));
            let stats = simulate(&scenario, &named("random"), 1);
            let mean = stats.latency.mean() / 1e6;
            assert!((0.044..0.056).contains(&mean), "{service_model:?}: {mean}");
            if service_model == ServiceModel::Slots(1) {
                let median = stats.quantile(0.5);
                assert!((0.030..0.039).contains(&median), "{median}");
            }
            let utilization = stats.used[0] / 1_000.0;
            assert!((0.78..0.82).contains(&utilization), "{utilization}");
        }
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let mut scenario = Scenario::new(
            "seeds",
            vec![destination(ServiceModel::Slots(2)); 5],
            WorkDistribution::Exponential(0.010),
        );
        scenario.duration = Duration::from_secs(3);
        let summary = |seed| {
            let stats = simulate(&scenario, &named("hcl"), seed);
            (stats.attempts.clone(), stats.quantile(0.99).to_bits(), stats.probes)
        };
        assert_eq!(summary(1), summary(1));
        assert_ne!(summary(1), summary(2));
    }

    #[test]
    fn no_policy_beats_the_oracle() {
        let mut destinations = vec![destination(ServiceModel::Slots(2)); 10];
        destinations[3].faults.push(crate::fault::SimFault {
            kind: crate::fault::FaultKind::Slow(4.0),
            from: Tick::ZERO,
            until: Tick::NEVER,
        });
        let mut scenario = Scenario::new("oracle", destinations, WorkDistribution::Exponential(0.010));
        scenario.duration = Duration::from_secs(10);
        let run = |name: &str| simulate(&scenario, &named(name), 1);
        let oracle = run("oracle");
        assert!(oracle.mean_regret() < 1e-9);
        for name in ["round_robin", "random", "p2c", "least_connections", "hcl", "yarp", "c3", "linear:0.5"] {
            let stats = run(name);
            assert!(stats.mean_regret() > 0.0, "{name}");
            assert!(stats.latency.mean() > oracle.latency.mean(), "{name}");
        }
    }

    #[test]
    fn a_message_past_its_deadline_frees_its_destination() {
        let mut scenario =
            Scenario::new("late", vec![destination(ServiceModel::Slots(1))], WorkDistribution::Fixed(0.030));
        scenario.offered_load = OfferedLoad::Utilization(2.0);
        scenario.deadline = Duration::from_millis(100);
        scenario.duration = Duration::from_secs(20);
        let stats = simulate(&scenario, &named("round_robin"), 1);
        assert!((0.5..0.9).contains(&stats.error_share()), "{}", stats.error_share());
        assert_eq!(stats.failed, 0);
        assert_eq!(stats.latency.max() / 1_000, 100);
        assert!(stats.in_flight.max() < 20, "{}", stats.in_flight.max());
    }
}
