//! Simulated balancer: the product's pool and `balance_load`, in virtual time.

use std::sync::Arc;

use plimsoll_core::balance::Policy;
use plimsoll_core::health::OutlierSpec;
use plimsoll_core::pool::{Action, Input, Pool, PoolSpec, ProbeRequest};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::{
    Address, Assignment, AttemptedSet, Destination, NoDestination, PickRequest, Rng, Snapshot, Tick, Weight,
    balance_load,
};

use crate::candidates::{CandidatePolicy, PolicyFeedback};
use crate::scenario::Scenario;

/// One balancer; it shares no state with other balancers.
pub struct SimBalancer {
    pool: Pool,
    snapshot: Arc<Snapshot>,
    /// Policy of a candidate that the pool itself cannot be configured with.
    policy: Option<Box<dyn Policy>>,
    feedback: Option<Arc<dyn PolicyFeedback>>,
    worker_rngs: Vec<Rng>,
    /// Retry budget of this balancer.
    pub budget: RetryBudget,
    members: Vec<Destination>,
    checks: Vec<ProbeRequest>,
    events: u64,
}

impl SimBalancer {
    /// Creates a balancer of `scenario`. Destinations are numbered in configured order here and in the
    /// scenario.
    pub fn new(scenario: &Scenario, candidate: &CandidatePolicy, rng: &mut Rng) -> Self {
        let members: Vec<Destination> =
            scenario.destinations.iter().enumerate().map(|(index, spec)| member(index, spec)).collect();
        let without_health = matches!(candidate, CandidatePolicy::OtherProxy(_));
        let spec = PoolSpec {
            algorithm: candidate.algorithm(),
            health: scenario.health.clone().filter(|_| !without_health),
            parallel_checks: true,
            outlier: if without_health { OutlierSpec::OFF } else { scenario.outlier },
            tiers: Default::default(),
            settings: candidate.settings(),
            slow_start: scenario.slow_start,
            panic_threshold: scenario.panic_threshold,
            recovery: scenario.recovery,
            load: Default::default(),
            keep_only_member: true,
            limits: Default::default(),
        };
        let mut draw = || Rng::new(rng.next_u64());
        let pool = Pool::new("simulated".into(), spec, members.clone(), scenario.workers, draw(), Tick::ZERO);
        let feedback = candidate.feedback(scenario.balancers, scenario.destinations.len());
        let mut balancer = Self {
            snapshot: pool.snapshot().clone(),
            pool,
            policy: feedback.clone().map(PolicyFeedback::policy),
            feedback,
            worker_rngs: (0..scenario.workers).map(|_| draw()).collect(),
            budget: RetryBudget::new(scenario.retry.budget, scenario.workers),
            members,
            checks: Vec::new(),
            events: 0,
        };
        balancer.run_actions();
        balancer
    }

    /// Chooses a destination for one message with the product's `balance_load`.
    ///
    /// # Errors
    /// The error of [`balance_load`].
    pub fn choose(
        &mut self,
        worker: usize,
        tried: &AttemptedSet,
        now: Tick,
    ) -> Result<Assignment, NoDestination> {
        let want = PickRequest { worker, tried: Some(tried), repeatable: true, ..PickRequest::default() };
        balance_load(&self.snapshot, &want, now, &mut self.worker_rngs[worker])
    }

    /// Passes an input to the pool.
    pub fn handle(&mut self, now: Tick, input: Input) {
        self.pool.handle(now, input);
        self.run_actions();
    }

    /// Runs the pool's work that is due.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.pool.handle_timeout(now);
        self.run_actions();
    }

    /// Returns the time of the pool's next timeout.
    pub fn next_timeout(&self) -> Option<Tick> {
        self.pool.poll_timeout()
    }

    /// Returns the health checks to start now.
    pub fn take_checks(&mut self) -> Vec<ProbeRequest> {
        std::mem::take(&mut self.checks)
    }

    /// Returns the feedback interface of a candidate that is not an algorithm of the product.
    pub fn feedback(&self) -> Option<&Arc<dyn PolicyFeedback>> {
        self.feedback.as_ref()
    }

    /// Returns the random numbers of this balancer.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.worker_rngs[0]
    }

    /// Returns how many events the pool has emitted: ejections, returns, failed checks.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Sets the weights of all destinations at once.
    pub fn set_weights(&mut self, now: Tick, weights: &[u16]) {
        for (member, &weight) in self.members.iter_mut().zip(weights) {
            member.weight = Weight::new(weight);
        }
        self.handle(now, Input::Members(self.members.clone()));
    }

    fn run_actions(&mut self) {
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => self.snapshot = self.with_policy(snapshot),
                Action::Probe(order) => self.checks.push(order),
                Action::Emit(_) => self.events += 1,
                // Actions added to the product later have no effect in a simulation.
                #[allow(unreachable_patterns)]
                _ => {}
            }
        }
    }

    /// Rebuilds the snapshot with the candidate's picker.
    fn with_policy(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let Some(policy) = &self.policy else { return snapshot };
        let (pool, generation) = (snapshot.pool.clone(), snapshot.generation);
        let mut built = Snapshot::build(pool, generation, &**policy, snapshot.members.to_vec());
        (built.trials, built.trials_for_all) = (snapshot.trials.clone(), snapshot.trials_for_all);
        Arc::new(built)
    }
}

fn member(index: usize, spec: &crate::sim_destination::DestinationSpec) -> Destination {
    let address = Address::Socket(([127, 0, 0, 1], 9000).into());
    Destination {
        weight: Weight::new(spec.weight),
        priority: spec.priority,
        ..Destination::new(&format!("{}-{index}", spec.group), address)
    }
}
