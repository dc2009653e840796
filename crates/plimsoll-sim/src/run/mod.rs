//! How a scenario runs: one event after the other, in virtual time, from nothing but its seed.

mod background;
mod hedge;
mod message;
mod weight_updater;

use std::time::Duration;

use plimsoll_core::{DestinationId, Failure, Outcome, Rng, Tick};

use self::hedge::Paces;
use self::message::{Messages, Place, Try};
use self::weight_updater::Scales;
use crate::antagonist::STEP;
use crate::arrivals::Stream;
use crate::balancer::Balancer;
use crate::candidates::Contender;
use crate::distributions::exponential;
use crate::event_queue::Agenda;
use crate::run_stats::Tally;
use crate::scenario::Scenario;
use crate::sim_destination::{Reading, Site, Welcome};

/// Loads are sampled so often.
const SAMPLE: Duration = Duration::from_millis(100);
/// Of so many picks one is compared with the oracle's: comparing asks every destination.
const COMPARED: u64 = 50;

/// What happens.
#[derive(Copy, Clone, Debug)]
enum Event {
    /// The next message comes.
    Arrival,
    /// A try reaches its destination.
    Reach(Place),
    /// A destination is done with something.
    Done { site: usize, version: u32 },
    /// An answer is back.
    Answer(Place, u16),
    /// The word that a try failed is back.
    Fails(Place, Failure),
    /// The client has waited long enough.
    GiveUp(Place),
    /// An answer is late enough to ask somebody else as well.
    Hedge(Place),
    /// Neighbours go on.
    Neighbours,
    /// Troubles begin or end.
    Turn(usize),
    /// A pool has something to do.
    Wake { balancer: usize },
    /// A check is over.
    Checked { balancer: usize, id: DestinationId, latency: Option<Duration> },
    /// A probe is there.
    Probe { balancer: usize, site: usize },
    /// Its answer is back.
    Heard { balancer: usize, site: usize, reading: Reading },
    /// Everybody is asked.
    Poll { balancer: usize },
    /// Weights follow use.
    Weigh,
    /// Loads are looked at.
    Sample,
}

/// Runs `scenario` for `contender`. The same seed gives every contender the same messages, the same work and
/// the same neighbours.
pub fn simulate(scenario: &Scenario, contender: &Contender, seed: u64) -> Tally {
    let mut run = Run::new(scenario, contender, seed);
    run.start();
    run.finish()
}

struct Run<'a> {
    scenario: &'a Scenario,
    now: Tick,
    agenda: Agenda<Event>,
    sites: Vec<Site>,
    balancers: Vec<Balancer>,
    /// Until when each is known to sleep.
    asleep_until: Vec<Tick>,
    messages: Messages,
    stream: Stream,
    /// Work of the next message.
    work: f64,
    /// Who gets a message; the same for every contender.
    fate: Rng,
    /// What chance adds on the way.
    road: Rng,
    scales: Option<Scales>,
    paces: Paces,
    picks: u64,
    measured_from: Tick,
    end: Tick,
    used_before: Vec<f64>,
    tally: Tally,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, contender: &Contender, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut draw = || Rng::new(rng.next_u64());
        let (arrivals, fate, road, mut places, mut dice) = (draw(), draw(), draw(), draw(), draw());
        let count = scenario.sites.len();
        let new_balancer = |_| Balancer::new(scenario, contender, &mut dice);
        let new_site = |(index, spec)| Site::new(spec, index, Rng::new(places.next_u64()));
        let measured_from = Tick::ZERO + scenario.warm_up;
        Self {
            now: Tick::ZERO,
            agenda: Agenda::default(),
            sites: scenario.sites.iter().enumerate().map(new_site).collect(),
            balancers: (0..scenario.balancers).map(new_balancer).collect(),
            asleep_until: vec![Tick::NEVER; scenario.balancers],
            messages: Messages::default(),
            stream: Stream::new(scenario.arrivals.clone(), scenario.work, scenario.rate(), arrivals),
            work: 0.0,
            fate,
            road,
            scales: (*contender == Contender::WeightedByUse).then(|| Scales::new(scenario)),
            paces: Paces::new(scenario),
            picks: 0,
            measured_from,
            end: measured_from + scenario.duration,
            used_before: vec![0.0; count],
            tally: Tally::new(count),
            scenario,
        }
    }

    fn start(&mut self) {
        self.plan_arrival();
        self.agenda.set(self.measured_from, Event::Sample);
        if self.sites.iter().any(Site::has_neighbours) {
            self.agenda.set(Tick::ZERO, Event::Neighbours);
        }
        for (index, site) in self.sites.iter().enumerate() {
            self.agenda.set(site.turns_at(Tick::ZERO), Event::Turn(index));
        }
        for balancer in 0..self.balancers.len() {
            self.heed(balancer);
            if let Some(every) = self.balancers[balancer].ear().and_then(|ear| ear.polls_every()) {
                let first = every.mul_f64(self.road.share());
                self.agenda.set(Tick::ZERO + first, Event::Poll { balancer });
            }
        }
        if self.scales.is_some() {
            self.agenda.set(Tick::ZERO + weight_updater::EVERY, Event::Weigh);
        }
    }

    /// To the end, and on until the last message that was measured has ended.
    fn finish(mut self) -> Tally {
        let last = self.end + self.scenario.deadline;
        while let Some((at, event)) = self.agenda.take()
            && at <= last
        {
            self.now = at;
            self.happen(event);
        }
        self.tally.events = self.balancers.iter().map(Balancer::events).sum();
        self.tally
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrival(),
            Event::Reach(place) => self.reach(place),
            Event::Done { site, version } => {
                if self.sites[site].version == version {
                    self.settle(site);
                }
            }
            Event::Answer(place, status) => self.answer(place, status),
            Event::Fails(place, failure) => self.fails(place, failure),
            Event::GiveUp(place) => self.give_up(place),
            Event::Hedge(place) => self.hedge(place),
            Event::Neighbours => self.neighbours(),
            Event::Turn(site) => self.turn(site),
            Event::Wake { balancer } => self.wake(balancer),
            Event::Checked { balancer, id, latency } => self.checked(balancer, id, latency),
            Event::Probe { balancer, site } => self.probe(balancer, site),
            Event::Heard { balancer, site, reading } => self.heard(balancer, site, reading),
            Event::Poll { balancer } => self.poll(balancer),
            Event::Weigh => self.weigh(),
            Event::Sample => self.sample(),
        }
    }

    /// Half of a round trip, with what chance adds to it.
    fn half_way(&mut self) -> Tick {
        let mean = self.scenario.jitter / 2;
        self.now + self.scenario.round_trip / 2 + mean.mul_f64(exponential(&mut self.road))
    }

    fn plan_arrival(&mut self) {
        let (at, work) = self.stream.next(self.now);
        self.work = work;
        if at < self.end {
            self.agenda.set(at, Event::Arrival);
        }
    }

    fn is_measured(&self, planned: Tick) -> bool {
        planned >= self.measured_from
    }

    fn arrival(&mut self) {
        let balancer = self.fate.index(self.balancers.len());
        let worker = self.fate.index(self.scenario.workers);
        let place = self.messages.enter(self.now, balancer, worker, self.work);
        self.tally.messages += u64::from(self.is_measured(self.now));
        self.balancers[balancer].budget.earn(worker);
        self.agenda.set(self.now + self.scenario.deadline, Event::GiveUp(place));
        self.ask(balancer);
        self.choose(place);
        self.plan_hedge(place);
        self.plan_arrival();
    }

    /// One more try of the message at `place`.
    fn choose(&mut self, place: Place) {
        let Some(message) = self.messages.at(place) else { return };
        let (balancer, worker, tried, work) = (message.balancer, message.worker, message.tried, message.work);
        let (first, planned) = (message.tries == 0, message.planned);
        self.picks += 1;
        let omniscient = self.balancers[balancer].ear().is_some_and(|ear| ear.is_omniscient());
        let compared = omniscient || (self.picks.is_multiple_of(COMPARED) && self.is_measured(planned));
        let forecasts = compared.then(|| self.forecasts(work));
        if let (true, Some((best, _, _))) = (omniscient, &forecasts) {
            let best = *best;
            self.balancers[balancer].ear().into_iter().for_each(|ear| ear.is_told(best));
        }
        let Ok(assignment) = self.balancers[balancer].choose(worker, &tried, self.now) else {
            return self.end_badly(place);
        };
        let site = assignment.member();
        if let Some((_, least, all)) = forecasts {
            self.tally.regret.0 += all[site] - least;
            self.tally.regret.1 += 1;
        }
        let now = self.now;
        self.tally.second(now.since(Tick::ZERO)).taken[site] += 1;
        if self.is_measured(planned) {
            self.tally.taken[site] += 1;
            self.tally.retries += u64::from(!first);
        }
        let place = self.messages.begin_try(place, assignment);
        let at = self.half_way();
        self.agenda.set(at, Event::Reach(place));
    }

    /// Who would answer a message of `work` first, in how many seconds, and in how many each of them would.
    fn forecasts(&self, work: f64) -> (usize, f64, Vec<f64>) {
        let never = self.scenario.deadline.as_secs_f64();
        let all: Vec<f64> = self.sites.iter().map(|site| site.forecast(self.now, work, never)).collect();
        let best = (0..all.len()).min_by(|&a, &b| all[a].total_cmp(&all[b])).unwrap_or(0);
        (best, all[best], all)
    }

    fn reach(&mut self, place: Place) {
        let Some(work) = self.messages.at(place).map(|message| message.work) else { return };
        let Some(site) = self.messages.open_try(place).map(|open| open.site) else { return };
        match self.sites[site].arrive(self.now, place.job(), work) {
            Welcome::Taken => {
                self.is_there(place, true);
                self.plan_done(site);
            }
            Welcome::Refused => {
                let at = self.half_way();
                self.agenda.set(at, Event::Fails(place, Failure::Connect));
            }
            Welcome::Failed(after, status) => {
                let at = self.half_way() + after;
                self.agenda.set(at, Event::Answer(place, status));
            }
        }
    }

    fn is_there(&mut self, place: Place, there: bool) -> bool {
        self.messages.open_try(place).map(|open| open.there = there).is_some()
    }

    fn plan_done(&mut self, site: usize) {
        let event = Event::Done { site, version: self.sites[site].version };
        self.agenda.set(self.sites[site].next(), event);
    }

    /// Sends home what a destination is done with.
    fn settle(&mut self, site: usize) {
        for place in self.sites[site].advance(self.now).into_iter().map(Place::of_job) {
            if self.is_there(place, false) {
                let at = self.half_way();
                self.agenda.set(at, Event::Answer(place, 200));
            }
        }
        self.plan_done(site);
    }

    fn answer(&mut self, place: Place, status: u16) {
        let Some(Try { assignment, site, is_copy, .. }) = self.messages.end_try(place) else { return };
        let Some(message) = self.messages.at(place) else { return };
        let (balancer, worker, planned) = (message.balancer, message.worker, message.planned);
        let first_byte = self.now.since(assignment.started());
        let signal = assignment.finish(self.now, Outcome::Answered { status, first_byte });
        self.signal(balancer, signal);
        if status >= 500 {
            return self.again_or_end(place, message::Ended::Status(status));
        }
        if let Some(scales) = &mut self.scales {
            scales.served(site);
        }
        self.paces.learn(balancer, worker, self.now.since(planned));
        self.outrun(place);
        self.messages.leave(place);
        self.ended(planned, true);
        if self.is_measured(planned) {
            self.tally.copies_won += u64::from(is_copy);
            self.tally.answered(self.now.since(planned));
        }
    }

    fn fails(&mut self, place: Place, failure: Failure) {
        let Some(Try { assignment, .. }) = self.messages.end_try(place) else { return };
        let Some(balancer) = self.messages.at(place).map(|message| message.balancer) else { return };
        let signal = assignment.finish(self.now, Outcome::Failed(failure));
        self.signal(balancer, signal);
        self.again_or_end(place, message::Ended::Failed(failure));
    }

    /// As the product decides; who has asked two waits for the other one first.
    fn again_or_end(&mut self, place: Place, ended: message::Ended) {
        let Some(message) = self.messages.at(place) else { return };
        if message.waits() {
            return;
        }
        let budget = &self.balancers[message.balancer].budget;
        if message.may_go_on(&self.scenario.retry, ended, budget, self.now) {
            self.choose(place);
        } else {
            self.end_badly(place);
        }
    }

    fn end_badly(&mut self, place: Place) {
        let Some(planned) = self.messages.at(place).map(|message| message.planned) else { return };
        self.tally.failed += u64::from(self.is_measured(planned));
        self.messages.leave(place);
        self.ended(planned, false);
    }

    fn give_up(&mut self, place: Place) {
        let Some(message) = self.messages.at(place) else { return };
        let (balancer, planned) = (message.balancer, message.planned);
        while let Some((place, open)) = self.messages.end_any_try(place) {
            let signal = open.assignment.finish(self.now, Outcome::Failed(Failure::Timeout));
            self.signal(balancer, signal);
            if let Some(scales) = &mut self.scales {
                scales.failed(open.site);
            }
            self.call_off(place, open.site, open.there);
        }
        self.messages.leave(place);
        self.ended(planned, false);
        if self.is_measured(planned) {
            self.tally.late += 1;
            self.tally.answered(self.scenario.deadline);
        }
    }

    /// Nobody waits for this try any more.
    fn call_off(&mut self, place: Place, site: usize, there: bool) {
        if there && self.scenario.cancels {
            self.sites[site].leave(self.now, place.job());
            self.plan_done(site);
        }
    }

    fn ended(&mut self, planned: Tick, well: bool) {
        let second = self.tally.second(planned.since(Tick::ZERO));
        second.ended += 1;
        second.errors += u32::from(!well);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributions::Work;
    use crate::scenario::Volume;
    use crate::sim_destination::{Engine, SiteSpec};

    fn site(engine: Engine) -> SiteSpec {
        SiteSpec { group: "a".to_owned(), engine, weight: 1, priority: 0, troubles: Vec::new() }
    }

    fn named(name: &str) -> Contender {
        name.parse().expect("a contender")
    }

    #[test]
    fn one_server_with_one_queue_is_as_queueing_theory_says() {
        // M/M/1 at rho 0.8: 10 ms / (1 - 0.8) on average, and of a sojourn that is exponential the median is
        // ln 2 of that. Processor sharing has the same mean.
        for engine in [Engine::Slots(1), Engine::Sharing(1.0)] {
            let mut scenario = Scenario::of("mm1", vec![site(engine)], Work::Exponential(0.010));
            scenario.volume = Volume::Load(0.8);
            (scenario.round_trip, scenario.jitter) = (Duration::ZERO, Duration::ZERO);
            (scenario.warm_up, scenario.duration) = (Duration::from_secs(20), Duration::from_secs(1_000));
            let tally = simulate(&scenario, &named("random"), 1);
            let mean = tally.latency.mean() / 1e6;
            assert!((0.044..0.056).contains(&mean), "{engine:?}: {mean}");
            if engine == Engine::Slots(1) {
                let median = tally.quantile(0.5);
                assert!((0.030..0.039).contains(&median), "{median}");
            }
            let use_ = tally.used[0] / 1_000.0;
            assert!((0.78..0.82).contains(&use_), "{use_}");
        }
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let mut scenario = Scenario::of("seeds", vec![site(Engine::Slots(2)); 5], Work::Exponential(0.010));
        scenario.duration = Duration::from_secs(3);
        let told = |seed| {
            let tally = simulate(&scenario, &named("hcl"), seed);
            (tally.taken.clone(), tally.quantile(0.99).to_bits(), tally.probes)
        };
        assert_eq!(told(1), told(1));
        assert_ne!(told(1), told(2));
    }

    #[test]
    fn nobody_beats_who_knows_everything() {
        let mut sites = vec![site(Engine::Slots(2)); 10];
        sites[3].troubles.push(crate::fault::Trouble {
            kind: crate::fault::Kind::Slow(4.0),
            from: Tick::ZERO,
            until: Tick::NEVER,
        });
        let mut scenario = Scenario::of("oracle", sites, Work::Exponential(0.010));
        scenario.duration = Duration::from_secs(10);
        let run = |name: &str| simulate(&scenario, &named(name), 1);
        let oracle = run("oracle");
        assert!(oracle.mean_regret() < 1e-9);
        for name in ["round_robin", "random", "p2c", "least_connections", "hcl", "yarp", "c3", "linear:0.5"] {
            let tally = run(name);
            assert!(tally.mean_regret() > 0.0, "{name}");
            assert!(tally.latency.mean() > oracle.latency.mean(), "{name}");
        }
    }

    #[test]
    fn what_is_late_is_given_up_and_frees_its_destination() {
        let mut scenario = Scenario::of("late", vec![site(Engine::Slots(1))], Work::Fixed(0.030));
        scenario.volume = Volume::Load(2.0);
        scenario.deadline = Duration::from_millis(100);
        scenario.duration = Duration::from_secs(20);
        let tally = simulate(&scenario, &named("round_robin"), 1);
        assert!((0.5..0.9).contains(&tally.error_share()), "{}", tally.error_share());
        assert_eq!(tally.failed, 0);
        assert_eq!(tally.latency.max() / 1_000, 100);
        assert!(tally.in_flight.max() < 20, "{}", tally.in_flight.max());
    }
}
