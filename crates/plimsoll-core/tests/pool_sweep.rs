//! Random tests of a pool: invariants under thousands of inputs over many seeds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, AlgorithmSettings, HashSpec, HashTable};
use plimsoll_core::destination::{Ejection, Health};
use plimsoll_core::health::{CheckSchedule, HealthSpec, OutlierSpec, Start};
use plimsoll_core::pool::{
    Action, DestinationReport, Input, Pool, PoolSpec, ProbeKind, ProbeRequest, ProbeResult,
};
use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::{
    Address, AdminState, Assignment, AttemptedSet, Destination, DestinationId, Failure, FailureSignal, Name,
    Outcome, PickRequest, Rng, Snapshot, Status, Tick, Weight, balance_load,
};

const SEEDS: u64 = 150;
const STEPS: u32 = 1500;
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

struct World {
    seed: u64,
    rng: Rng,
    now: Tick,
    pool: Pool,
    /// Last inputs, as the pool must report them.
    members: Vec<Destination>,
    sick: HashSet<Name>,
    /// Recent snapshots: workers may still use old ones.
    snapshots: VecDeque<Arc<Snapshot>>,
    orders: Vec<ProbeRequest>,
    /// Whether checks ran concurrently since the last fetch.
    parallel: bool,
    held: Vec<Assignment>,
    signals: VecDeque<FailureSignal>,
    ids: HashMap<DestinationId, Name>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (spec, members) = (random_spec(&mut rng), random_members(&mut rng));
        let now = Tick::ZERO + Duration::from_secs(rng.below(1000));
        let pool = Pool::new("sweep".into(), spec, members.clone(), 2, Rng::new(rng.next_u64()), now);
        let mut world = Self {
            seed,
            rng,
            now,
            pool,
            members,
            sick: HashSet::new(),
            snapshots: VecDeque::new(),
            orders: Vec::new(),
            parallel: true,
            held: Vec::new(),
            signals: VecDeque::new(),
            ids: HashMap::new(),
        };
        world.fetch();
        world
    }

    fn fetch(&mut self) {
        let (mut published, mut probes) = (0, 0);
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => {
                    published += 1;
                    let last = self.snapshots.back().map_or(0, |last| last.generation);
                    assert!(snapshot.generation > last, "seed {}: generations grow", self.seed);
                    self.snapshots.push_back(snapshot);
                }
                Action::Probe(order) => {
                    probes += 1;
                    self.orders.push(order);
                }
                Action::Emit(event) => assert!(!event.to_string().contains('\n')),
            }
        }
        assert!(
            published <= 1 && probes <= CheckSchedule::MAX_CONCURRENT,
            "seed {}: {probes} probes",
            self.seed
        );
        assert!(self.parallel || probes <= 1, "seed {}: one at a time", self.seed);
        self.parallel = self.pool.spec().parallel_checks;
        while self.snapshots.len() > 4 {
            self.snapshots.pop_front();
        }
        // The driver loses some results, which also bounds the list of this test.
        if self.orders.len() > 64 {
            self.orders.drain(..32);
        }
    }

    fn handle(&mut self, input: Input) {
        self.parallel |= matches!(&input, Input::Spec(spec) if spec.parallel_checks);
        self.pool.handle(self.now, input);
    }

    fn name(&mut self) -> Name {
        NAMES[self.rng.index(NAMES.len())].into()
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..4 => {
                self.members = random_members(&mut self.rng);
                self.handle(Input::Members(self.members.clone()));
            }
            4..6 => {
                let spec = random_spec(&mut self.rng);
                self.handle(Input::Spec(spec));
            }
            6..9 => {
                let states =
                    [AdminState::Ready, AdminState::Ready, AdminState::Drain, AdminState::Maintenance];
                let (name, state) = (self.name(), states[self.rng.index(4)]);
                self.handle(Input::Admin { name, state });
            }
            9..11 => {
                let (name, weight) = (self.name(), Weight::new(self.rng.below(4) as u16));
                if let Some(member) = self.members.iter_mut().find(|member| member.name == name) {
                    member.weight = weight;
                }
                self.handle(Input::Weight { name, weight });
            }
            11..15 => {
                let name = self.name();
                if !self.sick.remove(&name) {
                    self.sick.insert(name);
                }
            }
            15..35 => self.report_result(),
            35..38 => {
                let id = DestinationId(self.rng.below(40) as u32);
                self.handle(Input::Probed { id, result: ProbeResult::Failed("stray\r\n".into()) });
            }
            38..75 => self.message(),
            75..88 => {
                if let Some(signal) = self.signals.pop_front() {
                    self.handle(Input::FailureSignal(signal));
                }
            }
            _ => self.pass_time(),
        }
    }

    fn report_result(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let at = self.rng.index(self.orders.len());
        let order = self.orders.swap_remove(at);
        let result = if self.sick.contains(&order.name) {
            ProbeResult::Failed("refused".into())
        } else {
            ProbeResult::Passed { latency: Duration::from_millis(1) }
        };
        self.handle(Input::Probed { id: order.id, result });
    }

    fn message(&mut self) {
        let latest = self.rng.below(4) > 0;
        let at = if latest { self.snapshots.len() - 1 } else { self.rng.index(self.snapshots.len()) };
        let snapshot = self.snapshots[at].clone();
        let mut tried = AttemptedSet::default();
        if self.rng.below(4) == 0 && !snapshot.members.is_empty() {
            tried.add(snapshot.members[self.rng.index(snapshot.members.len())].id);
        }
        let repeatable = self.rng.below(2) == 0;
        let want = PickRequest {
            worker: self.rng.index(2),
            tried: Some(&tried),
            repeatable,
            ..PickRequest::default()
        };
        let Ok(assignment) = balance_load(&snapshot, &want, self.now, &mut self.rng) else { return };
        assert!(!tried.contains(assignment.id()), "seed {}: tried already", self.seed);
        assert!(assignment.is_trial() || snapshot.members[assignment.member()].status.serves());
        self.held.push(assignment);
        while self.rng.below(3) > 0 && !self.held.is_empty() || self.held.len() > 40 {
            let at = self.rng.index(self.held.len());
            let assignment = self.held.swap_remove(at);
            if self.rng.below(10) == 0 {
                continue; // cancelled
            }
            let sick = self.ids.get(&assignment.id()).is_some_and(|name| self.sick.contains(name));
            let outcome = self.outcome(sick);
            self.signals.extend(assignment.finish(self.now, outcome));
        }
    }

    fn outcome(&mut self, sick: bool) -> Outcome {
        let first_byte = Duration::from_millis(self.rng.below(100));
        match (sick, self.rng.below(10)) {
            (true, 0..6) => Outcome::Failed(Failure::Connect),
            (true, 6..8) => Outcome::Failed(Failure::Reset),
            (true, 8) => Outcome::Answered { status: 503, first_byte },
            _ => Outcome::Answered { status: 200, first_byte },
        }
    }

    fn pass_time(&mut self) {
        self.now = match (self.rng.below(3), self.pool.poll_timeout()) {
            (0, Some(next)) => next.max(self.now),
            (1, _) => self.now + Duration::from_millis(self.rng.below(1000)),
            _ => self.now + Duration::from_millis(self.rng.below(40_000)),
        };
        self.pool.handle_timeout(self.now);
        let next = self.pool.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "seed {}: a busy loop", self.seed);
    }

    fn check(&mut self, step: u32) {
        let (snapshot, reports) = (self.pool.snapshot().clone(), self.pool.reports());
        let context = |what: &str| format!("seed {}, step {step}: {what}\n{snapshot:#?}", self.seed);
        assert!(snapshot.members.iter().map(|m| &m.destination).eq(&self.members), "{}", context("members"));
        for (member, report) in snapshot.members.iter().zip(&reports) {
            let same = (member.id, member.status, member.since) == (report.id, report.status, report.since);
            assert!(same, "{}", context("reports and snapshot differ"));
        }
        check_tiers(&snapshot, self.pool.spec(), &context);
        check_signals(&reports, self.pool.spec(), &snapshot, &context);
        let most = self.ids.keys().max().copied();
        for report in &reports {
            if let Some(name) = self.ids.insert(report.id, report.name.clone()) {
                assert_eq!(name, report.name, "{}", context("an id was given to another"));
            } else {
                assert!(Some(report.id) > most, "{}", context("an id was used again"));
            }
        }
    }

    /// Checks that all members serve after enough time without failures.
    fn recover(&mut self) {
        self.sick.clear();
        let mut spec = random_spec(&mut self.rng);
        spec.health.get_or_insert(health(1, 2));
        spec.tiers.backup_tiers = true;
        self.handle(Input::Spec(spec));
        for name in NAMES {
            self.handle(Input::Admin { name: name.into(), state: AdminState::Ready });
            self.handle(Input::Weight { name: name.into(), weight: Weight::ONE });
        }
        self.held.clear();
        self.signals.clear();
        for _ in 0..3000 {
            self.fetch();
            for order in std::mem::take(&mut self.orders) {
                self.handle(Input::Probed {
                    id: order.id,
                    result: ProbeResult::Passed { latency: Duration::ZERO },
                });
            }
            let want = PickRequest { repeatable: true, ..PickRequest::default() };
            if let Ok(assignment) = balance_load(self.pool.snapshot(), &want, self.now, &mut self.rng)
                && let Some(signal) =
                    assignment.finish(self.now, Outcome::Answered { status: 200, first_byte: Duration::ZERO })
            {
                self.handle(Input::FailureSignal(signal));
            }
            self.now = self.pool.poll_timeout().expect("checks are on").max(self.now);
            self.pool.handle_timeout(self.now);
        }
        for report in self.pool.reports() {
            assert_eq!(report.status, Status::Serving, "seed {}: {report:#?}", self.seed);
        }
        let members = &self.pool.snapshot().members;
        assert!(members.iter().all(|member| member.stats.in_flight() == 0), "seed {}", self.seed);
    }
}

/// Checks that exactly the serving members have slots, in tiers by priority, and those in probation are trials.
fn check_tiers(snapshot: &Snapshot, spec: &PoolSpec, context: &dyn Fn(&str) -> String) {
    let used = |priority| spec.tiers.backup_tiers || priority == 0;
    let mut slots = HashSet::new();
    let mut above = None;
    for tier in &snapshot.pool_tiers.tiers {
        assert!(above < Some(tier.priority) && used(tier.priority), "{}", context("order of tiers"));
        above = Some(tier.priority);
        assert!(!tier.slots.is_empty(), "{}", context("an empty tier"));
        assert!(tier.slots.is_sorted_by(|a, b| a.rank < b.rank), "{}", context("order of slots"));
        for slot in tier.slots.iter() {
            let member = &snapshot.members[slot.rank as usize];
            assert_eq!((slot.id, &slot.address), (member.id, &member.destination.address));
            assert_eq!(tier.priority, member.destination.priority);
            assert!(member.status.serves() && slot.weight > 0, "{}", context("a slot that may not serve"));
            assert!(slots.insert(slot.id), "{}", context("two slots"));
        }
    }
    for member in &snapshot.members {
        let fit = member.weight > 0 && used(member.destination.priority);
        assert_eq!(slots.contains(&member.id), fit && member.status.serves(), "{}", context("no slot"));
        let trial = snapshot.trials.iter().any(|slot| slot.id == member.id);
        let probation = member.status == Status::Ejected { until: Tick::ZERO };
        assert_eq!(trial, probation && fit, "{}", context("trials"));
    }
    assert_eq!(
        snapshot.trials.is_empty(),
        snapshot.trials_for_all == Tick::NEVER,
        "{}",
        context("trial time")
    );
}

fn check_signals(
    reports: &[DestinationReport],
    spec: &PoolSpec,
    snapshot: &Snapshot,
    context: &dyn Fn(&str) -> String,
) {
    let out = reports.iter().filter(|report| report.ejection != Ejection::None).count();
    let most = ((reports.len() as f64 * spec.outlier.max_ejected) as usize).max(1);
    assert!(out <= most, "{}", context("too many ejected"));
    assert!(
        out == 0 || spec.recovery || spec.outlier.consecutive_failures > 0,
        "{}",
        context("ejected while off")
    );
    if let [only] = reports {
        let serves = only.status.serves() || only.admin != AdminState::Ready;
        assert!(serves && out == 0, "{}", context("the only destination was taken out"));
    }
    let may_serve = |report: &&DestinationReport| {
        report.admin == AdminState::Ready
            && report.health != Health::Down
            && report.weight.get() > 0
            && (spec.tiers.backup_tiers || report.priority == 0)
    };
    let some = reports.iter().any(|report| may_serve(&report));
    assert!(!some || !snapshot.pool_tiers.tiers.is_empty(), "{}", context("traffic alone emptied the pool"));
    let unknown = reports.iter().all(|report| report.health == Health::Unknown);
    assert!(spec.health.is_some() || unknown, "{}", context("health without checks"));
}

fn health(failure_threshold: u32, seconds: u64) -> HealthSpec {
    HealthSpec {
        check_interval: Duration::from_secs(seconds),
        timeout: Duration::from_millis(700),
        failure_threshold,
        recovery_threshold: 1 + failure_threshold / 2,
        probe: ProbeKind::Tcp,
        probe_if_unresponsive: None,
        port: None,
        schedule: CheckSchedule::default(),
    }
}

fn random_rhythm(rng: &mut Rng) -> CheckSchedule {
    let perhaps = |rng: &mut Rng| (rng.below(2) == 0).then(|| Duration::from_millis(100 + rng.below(60_000)));
    CheckSchedule {
        fast: perhaps(rng),
        down: perhaps(rng),
        jitter: [0.0, 0.05, 0.5][rng.index(3)],
        max_concurrent: 1 + rng.index(4),
        start: [Start::Serving, Start::Down][rng.index(2)],
        adaptive: rng.below(2) == 0,
    }
}

fn random_spec(rng: &mut Rng) -> PoolSpec {
    PoolSpec {
        algorithm: Algorithm::ALL[rng.index(Algorithm::ALL.len())],
        // The only table that is built in no time.
        settings: AlgorithmSettings {
            hash: HashSpec { table: HashTable::Rendezvous, bound: None },
            ..AlgorithmSettings::default()
        },
        health: (rng.below(4) > 0).then(|| HealthSpec {
            schedule: random_rhythm(rng),
            ..health(1 + rng.below(3) as u32, 1 + rng.below(20))
        }),
        parallel_checks: rng.below(2) == 0,
        outlier: OutlierSpec {
            consecutive_failures: rng.below(4) as u32,
            base_ejection: Duration::from_secs(1 + rng.below(30)),
            max_ejection: Duration::from_secs(1 + rng.below(100)),
            max_ejected: [0.0, 0.1, 0.5, 1.0][rng.index(4)],
            interval: (rng.below(2) == 0).then(|| Duration::from_secs(1 + rng.below(20))),
            latency: rng.below(2) == 0,
            learning: rng.below(2) == 0,
            unresponsive_after: (rng.below(2) == 0).then(|| Duration::from_millis(1 + rng.below(5000))),
        },
        tiers: TierSpec { backup_tiers: rng.below(4) > 0, ..TierSpec::default() },
        slow_start: (rng.below(2) == 0).then(|| Duration::from_secs(1 + rng.below(40))),
        panic_threshold: [0.0, 0.5, 1.0][rng.index(3)],
        recovery: rng.below(3) == 0,
        load: Default::default(),
        keep_only_member: true,
        limits: Default::default(),
    }
}

fn random_members(rng: &mut Rng) -> Vec<Destination> {
    let mut names: Vec<&str> = NAMES.into_iter().filter(|_| rng.below(3) > 0).collect();
    if rng.below(4) == 0 {
        names.truncate(1);
    }
    if rng.below(4) == 0 {
        names.reverse();
    }
    names
        .into_iter()
        .map(|name| Destination {
            weight: Weight::new([1, 1, 1, 0, 5][rng.index(5)]),
            priority: [0, 0, 0, 1, 3][rng.index(5)],
            ..Destination::new(name, Address::Socket(([127, 0, 0, 1], [80, 80, 80, 81][rng.index(4)]).into()))
        })
        .collect()
}

#[test]
fn invariants_hold_for_random_inputs() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.check(0);
        for step in 1..=STEPS {
            world.step();
            world.check(step);
            if world.rng.below(8) > 0 {
                world.fetch();
            }
        }
        world.recover();
    }
}

#[test]
fn unfetched_actions_are_bounded() {
    let mut world = World::new(1);
    for _ in 0..20_000 {
        world.step();
    }
    let pending = std::iter::from_fn(|| world.pool.poll_action())
        .filter(|action| !matches!(action, Action::Emit(_)))
        .count();
    assert!(pending <= 1 + NAMES.len(), "{pending}");
}
