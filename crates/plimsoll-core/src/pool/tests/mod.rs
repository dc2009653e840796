//! Tests of a pool in virtual time, with their test bench.

mod checks;
mod load_reports;
mod members;
mod recovery;
mod traffic;
mod unresponsive;

use std::time::Duration;

use super::*;
use crate::balance::PickRequest;
use crate::destination::{Address, Health, Status};
use crate::health::CheckSchedule;
use crate::outcome::{Failure, Outcome};
use crate::snapshot::{NoDestination, balance_load};
use crate::stats::Assignment;

const REFUSED: Outcome = Outcome::Failed(Failure::Connect);
const RESET: Outcome = Outcome::Failed(Failure::Reset);
const OK: Outcome = Outcome::Answered { status: 200, first_byte: Duration::ZERO };
const SEC: Duration = Duration::from_secs(1);

fn checks() -> HealthSpec {
    HealthSpec {
        check_interval: SEC * 10,
        timeout: SEC,
        failure_threshold: 3,
        recovery_threshold: 2,
        probe: ProbeKind::Tcp,
        probe_if_unresponsive: None,
        port: None,
        schedule: CheckSchedule::default(),
    }
}

fn spec() -> PoolSpec {
    PoolSpec { health: Some(checks()), ..PoolSpec::new(Algorithm::RoundRobin) }
}

/// Parses `a b*0 c!1`: names, weights after `*`, priorities after `!`, ports after `:`.
fn destinations(text: &str) -> Vec<Destination> {
    let one = |word: &str| {
        let after = |mark| word.split(mark).nth(1).map(|n| n.parse::<u16>().expect("a number"));
        let (name, port) = (&word[..1], after(':').unwrap_or(80));
        Destination {
            weight: Weight::new(after('*').unwrap_or(1)),
            priority: after('!').unwrap_or(0) as u8,
            ..Destination::new(name, Address::Socket(([127, 0, 0, word.as_bytes()[0]], port).into()))
        }
    };
    text.split_whitespace().map(one).collect()
}

/// A pool with all actions that it returned.
struct Bench {
    pool: Pool,
    now: Tick,
    published: Vec<Arc<Snapshot>>,
    orders: Vec<ProbeRequest>,
    lines: Vec<String>,
}

impl Bench {
    fn new(members: &str, spec: PoolSpec) -> Self {
        let now = Tick::ZERO + SEC * 1000;
        let pool = Pool::new("api".into(), spec, destinations(members), 2, Rng::new(7), now);
        let mut bench = Self { pool, now, published: Vec::new(), orders: Vec::new(), lines: Vec::new() };
        bench.fetch();
        bench
    }

    /// Creates a pool without checks, for tests of traffic.
    fn unchecked(members: &str) -> Self {
        Self::new(members, PoolSpec { health: None, ..spec() })
    }

    /// Creates a pool with every first check passed.
    fn up(members: &str, spec: PoolSpec) -> Self {
        let mut bench = Self::new(members, spec);
        bench.answer_all(true);
        bench
    }

    fn fetch(&mut self) {
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => self.published.push(snapshot),
                Action::Probe(order) => self.orders.push(order),
                Action::Emit(event) => self.lines.push(event.to_string()),
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.pool.handle(self.now, input);
        self.fetch();
    }

    fn members(&mut self, text: &str) {
        self.handle(Input::Members(destinations(text)));
    }

    fn admin(&mut self, name: &str, state: AdminState) {
        self.handle(Input::Admin { name: name.into(), state });
    }

    fn advance(&mut self, span: Duration) {
        self.now += span;
        self.pool.handle_timeout(self.now);
        self.fetch();
    }

    fn answer(&mut self, order: &ProbeRequest, ok: bool) {
        let result = if ok {
            ProbeResult::Passed { latency: Duration::from_millis(3) }
        } else {
            ProbeResult::Failed("connection refused".into())
        };
        self.handle(Input::Probed { id: order.id, result });
    }

    fn answer_all(&mut self, ok: bool) {
        for order in mem::take(&mut self.orders) {
            self.answer(&order, ok);
        }
    }

    /// Waits for the next checks and reports results: those of `bad` fail.
    fn round(&mut self, bad: &str) {
        self.advance(SEC * 11);
        for order in mem::take(&mut self.orders) {
            self.answer(&order, !bad.contains(&*order.name));
        }
    }

    fn report(&self, name: &str) -> DestinationReport {
        self.pool.reports().into_iter().find(|report| &*report.name == name).expect(name)
    }

    fn word(&self, name: &str) -> &'static str {
        self.report(name).status.as_str()
    }

    /// Returns the tiers of the last snapshot as `a b | c`.
    fn tiers(&self) -> String {
        let tier = |slots: &[crate::balance::Slot]| {
            slots.iter().map(|slot| &*slot.name).collect::<Vec<_>>().join(" ")
        };
        let snapshot = self.published.last().expect("published");
        snapshot.pool_tiers.tiers.iter().map(|t| tier(&t.slots)).collect::<Vec<_>>().join(" | ")
    }

    fn assignment(&self, name: &str) -> Assignment {
        let members = &self.pool.snapshot().members;
        let rank = members.iter().position(|member| &*member.destination.name == name).expect(name);
        Assignment::take(members[rank].id, rank, 0, &members[rank].stats, self.now).expect("no limit")
    }

    /// Ends `count` messages of `name` with `outcome`.
    fn traffic(&mut self, name: &str, outcome: Outcome, count: usize) {
        for _ in 0..count {
            if let Some(signal) = self.assignment(name).finish(self.now, outcome) {
                self.handle(Input::FailureSignal(signal));
            }
        }
    }

    fn trial(&self, repeatable: bool) -> Option<Assignment> {
        let want = PickRequest { repeatable, ..PickRequest::default() };
        balance_load(self.pool.snapshot(), &want, self.now, &mut Rng::new(1))
            .ok()
            .filter(Assignment::is_trial)
    }

    fn try_out(&mut self, outcome: Outcome) {
        let signal =
            self.trial(true).expect("a trial is open").finish(self.now, outcome).expect("a trial speaks");
        self.handle(Input::FailureSignal(signal));
    }
}
