//! A balancer of a simulation: the product's pool and the product's choice, in virtual time.

use std::sync::Arc;

use plimsoll_core::balance::Policy;
use plimsoll_core::pool::{Action, Input, Pool, PoolSpec, ProbeOrder};
use plimsoll_core::retry::Budget;
use plimsoll_core::{
    Address, Assignment, Destination, NoDestination, Rng, Snapshot, Tick, Tried, Want, Weight, balance_load,
};

use crate::candidates::{Contender, Ear};
use crate::scenario::{NEVER_EJECTS, Scenario};

/// One balancer. Nothing it knows is known to another one.
pub struct Balancer {
    pool: Pool,
    snapshot: Arc<Snapshot>,
    /// Of a policy on trial, which the pool itself cannot be configured with.
    trial: Option<Box<dyn Policy>>,
    ear: Option<Arc<dyn Ear>>,
    dice: Vec<Rng>,
    /// What it may repeat.
    pub budget: Budget,
    members: Vec<Destination>,
    orders: Vec<ProbeOrder>,
    events: u64,
}

impl Balancer {
    /// A balancer of `scenario` at its start. Destinations are numbered in configured order, here and there.
    pub fn new(scenario: &Scenario, contender: &Contender, rng: &mut Rng) -> Self {
        let members: Vec<Destination> =
            scenario.sites.iter().enumerate().map(|(index, site)| member(index, site)).collect();
        let plain = matches!(contender, Contender::Peer(_));
        let spec = PoolSpec {
            algorithm: contender.algorithm(),
            health: scenario.health.clone().filter(|_| !plain),
            parallel_checks: true,
            outlier: if plain { NEVER_EJECTS } else { scenario.outlier },
            spread: Default::default(),
            settings: contender.settings(),
            slow_start: scenario.slow_start,
            panic_threshold: scenario.panic_threshold,
            recovery: scenario.recovery,
            load: Default::default(),
            keeps_lone: true,
            limits: Default::default(),
        };
        let mut draw = || Rng::new(rng.next_u64());
        let pool = Pool::new("simulated".into(), spec, members.clone(), scenario.workers, draw(), Tick::ZERO);
        let ear = contender.ear(scenario.balancers, scenario.sites.len());
        let mut balancer = Self {
            snapshot: pool.snapshot().clone(),
            pool,
            trial: ear.clone().map(Ear::policy),
            ear,
            dice: (0..scenario.workers).map(|_| draw()).collect(),
            budget: Budget::new(scenario.retry.budget, scenario.workers),
            members,
            orders: Vec::new(),
            events: 0,
        };
        balancer.act();
        balancer
    }

    /// Chooses for one message: the product's own choice.
    ///
    /// # Errors
    /// As [`balance_load`].
    pub fn choose(&mut self, worker: usize, tried: &Tried, now: Tick) -> Result<Assignment, NoDestination> {
        let want = Want { worker, tried: Some(tried), repeatable: true, ..Want::default() };
        balance_load(&self.snapshot, &want, now, &mut self.dice[worker])
    }

    /// Tells the pool something.
    pub fn handle(&mut self, now: Tick, input: Input) {
        self.pool.handle(now, input);
        self.act();
    }

    /// Lets the pool do what is due.
    pub fn wake(&mut self, now: Tick) {
        self.pool.handle_timeout(now);
        self.act();
    }

    /// When the pool has something to do next.
    pub fn wakes_at(&self) -> Option<Tick> {
        self.pool.poll_timeout()
    }

    /// Checks to make now.
    pub fn orders(&mut self) -> Vec<ProbeOrder> {
        std::mem::take(&mut self.orders)
    }

    /// What it is told beyond outcomes, if it is on trial.
    pub fn ear(&self) -> Option<&Arc<dyn Ear>> {
        self.ear.as_ref()
    }

    /// Dice of its own, for what it asks.
    pub fn dice(&mut self) -> &mut Rng {
        &mut self.dice[0]
    }

    /// What its pool has told so far: ejections, returns, checks that failed.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Gives every destination another weight, all at once.
    pub fn weigh(&mut self, now: Tick, weights: &[u16]) {
        for (member, &weight) in self.members.iter_mut().zip(weights) {
            member.weight = Weight::new(weight);
        }
        self.handle(now, Input::Members(self.members.clone()));
    }

    fn act(&mut self) {
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => self.snapshot = self.on_trial(snapshot),
                Action::Probe(order) => self.orders.push(order),
                Action::Tell(_) => self.events += 1,
                // A later action of the product that a simulation has no part in changes nothing here.
                #[allow(unreachable_patterns)]
                _ => {}
            }
        }
    }

    /// The same picture with a picker on trial.
    fn on_trial(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let Some(policy) = &self.trial else { return snapshot };
        let (pool, generation) = (snapshot.pool.clone(), snapshot.generation);
        let mut built = Snapshot::build(pool, generation, &**policy, snapshot.members.to_vec());
        (built.trials, built.trials_for_all) = (snapshot.trials.clone(), snapshot.trials_for_all);
        Arc::new(built)
    }
}

fn member(index: usize, site: &crate::sim_destination::SiteSpec) -> Destination {
    let address = Address::Socket(([127, 0, 0, 1], 9000).into());
    Destination {
        weight: Weight::new(site.weight),
        priority: site.priority,
        ..Destination::new(&format!("{}-{index}", site.group), address)
    }
}
