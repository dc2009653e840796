//! The promises of a pool, in virtual time.

use std::time::Duration;

use super::*;
use crate::destination::{Address, Standing};
use crate::live::{Failure, Ticket};
use crate::snapshot::{NoDestination, Want, balance_load};

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
        port: None,
    }
}

fn spec() -> PoolSpec {
    let outlier = OutlierSpec {
        consecutive_failures: 5,
        base_ejection: SEC * 30,
        max_ejection: SEC * 300,
        max_ejected: 0.5,
    };
    PoolSpec {
        algorithm: Algorithm::RoundRobin,
        health: Some(checks()),
        parallel_checks: true,
        outlier,
        backup_tiers: true,
    }
}

/// `a b*0 c!1`: names, weights after `*`, priorities after `!`, ports after `:`.
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

/// A pool and everything that came out of it.
struct Bench {
    pool: Pool,
    now: Tick,
    published: Vec<Arc<Snapshot>>,
    orders: Vec<ProbeOrder>,
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

    /// Without checks, for promises about traffic.
    fn unchecked(members: &str) -> Self {
        Self::new(members, PoolSpec { health: None, ..spec() })
    }

    /// With every first check passed.
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
                Action::Tell(event) => self.lines.push(event.to_string()),
            }
        }
    }

    fn tell(&mut self, input: Input) {
        self.pool.handle(self.now, input);
        self.fetch();
    }

    fn members(&mut self, text: &str) {
        self.tell(Input::Members(destinations(text)));
    }

    fn admin(&mut self, name: &str, state: AdminState) {
        self.tell(Input::Admin { name: name.into(), state });
    }

    fn advance(&mut self, span: Duration) {
        self.now += span;
        self.pool.handle_timeout(self.now);
        self.fetch();
    }

    fn answer(&mut self, order: &ProbeOrder, ok: bool) {
        let result = if ok {
            ProbeResult::Passed { latency: Duration::from_millis(3) }
        } else {
            ProbeResult::Failed { detail: "connection refused".into() }
        };
        self.tell(Input::Probed { id: order.id, result });
    }

    fn answer_all(&mut self, ok: bool) {
        for order in mem::take(&mut self.orders) {
            self.answer(&order, ok);
        }
    }

    /// Waits for the next checks and answers them: those of `bad` fail.
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
        self.report(name).standing.word()
    }

    /// The last snapshot's tiers, `a b | c`.
    fn tiers(&self) -> String {
        let tier = |slots: &[crate::balance::Slot]| {
            slots.iter().map(|slot| &*slot.name).collect::<Vec<_>>().join(" ")
        };
        let snapshot = self.published.last().expect("published");
        snapshot.tiers.iter().map(|t| tier(&t.slots)).collect::<Vec<_>>().join(" | ")
    }

    fn ticket(&self, name: &str) -> Ticket {
        let members = &self.pool.snapshot().members;
        let rank = members.iter().position(|member| &*member.destination.name == name).expect(name);
        Ticket::new(members[rank].id, rank, 0, None, members[rank].live.clone(), self.now)
    }

    /// So many messages of `name` end so.
    fn traffic(&mut self, name: &str, outcome: Outcome, count: usize) {
        for _ in 0..count {
            if let Some(suspect) = self.ticket(name).finish(outcome) {
                self.tell(Input::Suspect(suspect));
            }
        }
    }

    fn trial(&self, repeatable: bool) -> Option<Ticket> {
        let want = Want { repeatable, ..Want::default() };
        balance_load(self.pool.snapshot(), &want, self.now, &mut Rng::new(1)).ok().filter(Ticket::is_trial)
    }

    fn try_out(&mut self, outcome: Outcome) {
        let suspect = self.trial(true).expect("a trial is open").finish(outcome).expect("a trial speaks");
        self.tell(Input::Suspect(suspect));
    }
}

#[test]
fn a_pool_starts_serving_and_checks_at_once() {
    let bench = Bench::new("a b c", spec());
    assert_eq!(bench.published.len(), 1);
    assert_eq!(bench.tiers(), "a b c");
    assert_eq!(bench.orders.len(), 3);
    assert!(bench.lines.is_empty());
    fn is_send<T: Send>(_: &T) {}
    is_send(&bench.pool);
}

#[test]
fn one_failure_at_the_first_check_takes_out_and_later_three_do() {
    let mut bench = Bench::new("a b", spec());
    let order = bench.orders.remove(0);
    bench.answer(&order, false);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("down", "b"));
    bench.answer_all(true);
    bench.round("");
    assert_eq!(bench.tiers(), "b", "one pass is not enough");
    bench.round("");
    assert_eq!(bench.tiers(), "a b");
    bench.round("a");
    bench.round("a");
    assert_eq!(bench.tiers(), "a b");
    bench.round("a");
    assert_eq!(bench.tiers(), "b");
    assert_eq!(
        bench.lines,
        [
            "pool api: destination a is down (was serving): a check failed: connection refused",
            "pool api: destination a is serving (was down): 2 checks passed in a row",
            "pool api: destination a is down (was serving): \
             3 checks failed in a row, last: connection refused",
        ]
    );
    let report = bench.report("a");
    assert_eq!((report.health, report.consecutive_failures), (Health::Down, 3));
    assert!(report.last_check.is_some_and(|check| !check.ok && check.detail == "connection refused"));
}

#[test]
fn when_checks_took_everyone_out_the_answer_is_quick() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    assert_eq!(bench.tiers(), "");
    let answer = balance_load(bench.pool.snapshot(), &Want::default(), bench.now, &mut Rng::new(1));
    assert_eq!(answer.err(), Some(NoDestination::NoneServing));
}

#[test]
fn a_lone_destination_serves_whatever_is_seen_and_what_was_seen_counts_when_company_comes() {
    let mut bench = Bench::new("a", spec());
    bench.answer_all(false);
    bench.traffic("a", RESET, 20);
    assert_eq!(bench.tiers(), "a");
    assert_eq!(bench.report("a").health, Health::Down);
    bench.members("a b");
    assert_eq!(bench.tiers(), "b");
    bench.members("a");
    assert_eq!((bench.word("a"), &*bench.tiers()), ("serving", "a"));
    assert_eq!(
        bench.lines.last().expect("told"),
        "pool api: destination a is serving (was down): it is the pool's only destination now"
    );
}

#[test]
fn enough_bad_outcomes_eject_and_one_good_trial_brings_back() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 4);
    bench.traffic("a", OK, 1);
    bench.traffic("a", RESET, 4);
    assert_eq!(bench.tiers(), "a b");
    bench.traffic("a", RESET, 1);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("ejected", "b"));
    bench.advance(SEC * 29);
    assert!(bench.trial(true).is_none());
    bench.advance(SEC);
    assert_eq!(bench.tiers(), "b");
    bench.try_out(OK);
    assert_eq!(bench.tiers(), "a b");
    assert_eq!(bench.ticket("a").finish(RESET), None, "the row starts anew");
    assert_eq!(
        bench.lines,
        [
            "pool api: destination a is ejected (was serving): \
             5 messages failed in a row, last: connection reset; trial in 30s",
            "pool api: destination a is on trial: its time is over, one message may try it",
            "pool api: destination a is serving (was ejected): its trial went well",
        ]
    );
}

#[test]
fn exactly_one_message_is_the_trial_and_for_a_second_only_a_repeatable_one() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 5);
    bench.advance(SEC * 30);
    assert!(bench.trial(false).is_none());
    bench.now += SEC;
    let held = bench.trial(false).expect("after a second anyone may");
    assert!(bench.trial(true).is_none());
    drop(held);
    let held = bench.trial(true).expect("a cancelled trial proves nothing");
    let suspect = held.finish(Outcome::Answered { status: 503, first_byte: SEC }).expect("a trial speaks");
    bench.tell(Input::Suspect(suspect));
    assert!(bench.trial(true).is_none());
    bench.advance(SEC * 59);
    assert!(bench.trial(true).is_none(), "the second time is twice as long");
    bench.advance(SEC);
    assert!(bench.trial(true).is_some());
}

#[test]
fn late_results_of_old_snapshots_neither_extend_nor_repeat_an_ejection() {
    let mut bench = Bench::unchecked("a b");
    let late: Vec<Ticket> = (0..10).map(|_| bench.ticket("a")).collect();
    bench.traffic("a", RESET, 5);
    let before = bench.report("a").ejection;
    bench.advance(SEC * 10);
    let mut late: Vec<Suspect> = late.into_iter().filter_map(|ticket| ticket.finish(RESET)).collect();
    let very_late = late.split_off(5);
    late.into_iter().for_each(|suspect| bench.tell(Input::Suspect(suspect)));
    assert_eq!(bench.report("a").ejection, before);
    bench.advance(SEC * 20);
    bench.try_out(OK);
    very_late.into_iter().for_each(|suspect| bench.tell(Input::Suspect(suspect)));
    assert_eq!(bench.tiers(), "a b", "that row had ended");
}

#[test]
fn a_passing_check_ends_an_ejection_for_failed_connects_only() {
    for (outcomes, word) in
        [(&[REFUSED; 5], "serving"), (&[RESET, REFUSED, REFUSED, REFUSED, REFUSED], "ejected")]
    {
        let mut bench = Bench::up("a b", spec());
        outcomes.iter().for_each(|&outcome| bench.traffic("a", outcome, 1));
        assert_eq!(bench.word("a"), "ejected");
        bench.round("");
        assert_eq!(bench.word("a"), word, "{outcomes:?}");
    }
}

#[test]
fn a_check_asked_before_the_failures_proves_nothing() {
    let mut bench = Bench::up("a b", spec());
    bench.advance(SEC * 11);
    bench.now += SEC;
    bench.traffic("a", REFUSED, 5);
    bench.answer_all(true);
    assert_eq!(bench.word("a"), "ejected");
    bench.round("");
    assert_eq!(bench.word("a"), "serving");
}

#[test]
fn what_checks_bring_back_may_still_be_ejected() {
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    let story = ["a", "a", "a", "", ""].map(|bad| {
        bench.round(bad);
        bench.word("a")
    });
    assert_eq!(story, ["ejected", "ejected", "down", "down", "ejected"]);
    bench.try_out(OK);
    assert_eq!(bench.word("a"), "serving");
}

#[test]
fn traffic_results_do_not_matter_while_checks_fail_or_the_operator_has_it_out() {
    let mut bench = Bench::up("a b c", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("a", RESET, 9);
    bench.admin("b", AdminState::Drain);
    bench.traffic("b", RESET, 9);
    assert_eq!([bench.report("a").ejection, bench.report("b").ejection], [Ejection::None; 2]);
    bench.admin("b", AdminState::Ready);
    (0..2).for_each(|_| bench.round(""));
    bench.traffic("a", RESET, 4);
    bench.traffic("b", RESET, 4);
    assert_eq!(bench.tiers(), "a b c", "a return starts the row anew");
}

#[test]
fn ejections_stop_where_the_pool_cannot_bear_them() {
    let mut bench = Bench::unchecked("a b c d");
    for name in ["a", "b", "c", "d"] {
        bench.traffic(name, RESET, 8);
    }
    assert_eq!(bench.tiers(), "c d");
    let spared =
        "pool api: destination c failed 5 messages in a row and is kept: too few others would be left";
    assert_eq!(bench.lines.iter().filter(|line| *line == spared).count(), 1, "{:?}", bench.lines);
    bench.members("a b d");
    assert_eq!(bench.tiers(), "a d", "a pool of three bears one");
}

#[test]
fn traffic_alone_never_leaves_a_pool_without_a_destination() {
    let mut bench = Bench::up("a b", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("b", RESET, 20);
    assert_eq!(bench.tiers(), "b", "checks have the other");
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    (0..2).for_each(|_| bench.round("b"));
    assert_eq!(bench.tiers(), "b");
    bench.admin("b", AdminState::Maintenance);
    assert_eq!(bench.tiers(), "a", "readmitted: {:?}", bench.lines);
}

#[test]
fn detection_switched_off_never_ejects_and_forgives() {
    let mut bench = Bench::unchecked("a b c d");
    bench.traffic("a", RESET, 5);
    let mut off = PoolSpec { health: None, ..spec() };
    off.outlier.consecutive_failures = 0;
    bench.tell(Input::Spec(off));
    assert_eq!(bench.tiers(), "a b c d");
    bench.traffic("a", RESET, 1000);
    assert_eq!(bench.tiers(), "a b c d");
}

#[test]
fn whose_name_stays_keeps_everything() {
    let mut bench = Bench::up("a b c", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("b", RESET, 5);
    bench.admin("c", AdminState::Drain);
    let (before, seen) = (bench.pool.snapshot().clone(), bench.pool.reports());
    bench.members("c*5 b!1 a*0");
    let after = bench.pool.snapshot();
    for (old, name) in before.members.iter().zip(["a", "b", "c"]) {
        let new = after.members.iter().find(|m| &*m.destination.name == name).expect(name);
        assert!(Arc::ptr_eq(&old.live, &new.live), "{name}");
        assert_eq!((old.id, old.standing, old.since), (new.id, new.standing, new.since), "{name}");
    }
    for old in seen {
        let new = bench.report(&old.name);
        assert_eq!((new.health, new.ejection, new.last_check), (old.health, old.ejection, old.last_check));
    }
    let published = bench.published.len();
    bench.members("c*5 b!1 a*0");
    assert_eq!(bench.published.len(), published, "the same again is no news");
    bench.members("b!1 c*5 a*0");
    assert_eq!(bench.published.len(), published + 1, "the order is");
}

#[test]
fn a_new_address_is_a_new_endpoint() {
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    let id = bench.report("a").id;
    bench.advance(SEC * 11);
    let old = bench.orders.iter().find(|order| order.id == id).expect("a check is out").clone();
    bench.orders.clear();
    bench.members("a:81 b");
    assert_eq!((bench.word("a"), bench.report("a").id), ("serving", id));
    bench.answer(&old, false);
    assert_eq!(bench.word("a"), "serving", "the answer was about the old address");
    let new = bench.orders.remove(0);
    assert_eq!(new.address.to_string(), "127.0.0.97:81");
    bench.answer(&new, false);
    assert_eq!(bench.word("a"), "down", "a first check counts alone");
}

#[test]
fn a_departure_is_published_at_once_and_its_number_is_never_used_again() {
    let mut bench = Bench::up("a b", spec());
    let (id, ticket) = (bench.report("a").id, bench.ticket("a"));
    bench.advance(SEC * 11);
    let order = bench.orders.iter().find(|order| order.id == id).expect("asked").clone();
    let published = bench.published.len();
    bench.members("b");
    assert_eq!((bench.published.len(), &*bench.tiers()), (published + 1, "b"));
    bench.members("a b");
    assert_ne!(bench.report("a").id, id);
    bench.answer(&order, false);
    ticket.finish(RESET).into_iter().for_each(|suspect| bench.tell(Input::Suspect(suspect)));
    assert_eq!(bench.tiers(), "a b");
    let told = ["pool api: destination a left, was serving", "pool api: destination a joined, serving"];
    assert_eq!(bench.lines, told);
}

#[test]
fn weight_zero_takes_nothing_new_and_stands_as_it_did() {
    let mut bench = Bench::unchecked("a b");
    bench.tell(Input::Weight { name: "a".into(), weight: Weight::new(0) });
    assert_eq!((bench.word("a"), &*bench.tiers()), ("serving", "b"));
    bench.tell(Input::Weight { name: "b".into(), weight: Weight::new(0) });
    assert_eq!(bench.tiers(), "");
    bench.tell(Input::Weight { name: "a".into(), weight: Weight::new(3) });
    assert_eq!(bench.published.last().expect("published").tiers[0].slots[0].weight, 3 * 256);
}

#[test]
fn tiers_follow_priority_and_the_switch() {
    let mut bench = Bench::up("a!2 b c!1 d", spec());
    assert_eq!(bench.tiers(), "b d | c | a");
    (0..3).for_each(|_| bench.round("bd"));
    assert_eq!(bench.tiers(), "c | a", "the backups take over");
    bench.tell(Input::Spec(PoolSpec { backup_tiers: false, ..spec() }));
    assert_eq!(bench.tiers(), "");
    (0..2).for_each(|_| bench.round(""));
    assert_eq!(bench.tiers(), "b d");
}

#[test]
fn draining_is_still_checked_and_maintenance_is_not() {
    let mut bench = Bench::up("a b c", spec());
    bench.admin("a", AdminState::Drain);
    bench.admin("b", AdminState::Maintenance);
    assert_eq!((bench.word("a"), bench.word("b"), &*bench.tiers()), ("draining", "maintenance", "c"));
    bench.advance(SEC * 60);
    let asked: Vec<&str> = bench.orders.iter().map(|order| &*order.name).collect();
    assert_eq!(asked.len(), 2);
    assert!(!asked.contains(&"b"));
    bench.orders.clear();
    bench.admin("b", AdminState::Ready);
    assert_eq!(bench.tiers(), "b c", "it serves at once");
    bench.answer_all(false);
    assert_eq!(bench.tiers(), "c", "and its first check counts alone");
}

#[test]
fn checks_switched_off_forget_and_switched_on_begin_anew() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    bench.advance(SEC * 11);
    let out = mem::take(&mut bench.orders);
    bench.tell(Input::Spec(PoolSpec { health: None, ..spec() }));
    assert_eq!(bench.tiers(), "a b");
    bench.answer(&out[0], false);
    assert_eq!((bench.report("a").health, bench.pool.poll_timeout().is_some()), (Health::Unknown, true));
    bench.answer(&out[1], false);
    assert_eq!(bench.pool.poll_timeout(), None);
    bench.tell(Input::Spec(spec()));
    assert_eq!(bench.orders.len(), 2);
}

#[test]
fn changed_checks_are_asked_at_once_and_what_is_known_stays() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    let health = Some(HealthSpec { port: Some(9000), ..checks() });
    bench.tell(Input::Spec(PoolSpec { health, ..spec() }));
    assert_eq!(bench.tiers(), "");
    let asked: Vec<String> = bench.orders.iter().map(|order| order.address.to_string()).collect();
    assert_eq!(asked, ["127.0.0.97:9000", "127.0.0.98:9000"]);
}

#[test]
fn the_same_algorithm_keeps_its_policy_and_another_brings_its_own() {
    let mut bench = Bench::unchecked("a b");
    let policy = |bench: &Bench| std::ptr::from_ref(&*bench.pool.policy).cast::<()>();
    let before = policy(&bench);
    bench.tell(Input::Spec(spec()));
    bench.members("a b c");
    assert_eq!(policy(&bench), before);
    bench.tell(Input::Spec(PoolSpec { algorithm: Algorithm::P2c, ..spec() }));
    assert_eq!(bench.pool.snapshot().algorithm, "p2c");
}

#[test]
fn one_at_a_time_means_one_check_under_way() {
    let mut bench = Bench::new("a b c", PoolSpec { parallel_checks: false, ..spec() });
    let mut asked = Vec::new();
    for _ in 0..6 {
        assert_eq!(bench.orders.len(), 1);
        let order = bench.orders.remove(0);
        asked.push(order.name.to_string());
        bench.answer(&order, true);
        if bench.orders.is_empty() {
            bench.advance(SEC * 11);
        }
    }
    asked[3..].sort();
    assert_eq!(asked, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn a_check_nobody_answers_is_asked_again_and_blocks_nobody_for_ever() {
    let mut bench = Bench::new("a b", PoolSpec { parallel_checks: false, ..spec() });
    let lost = bench.orders.remove(0);
    bench.advance(SEC * 10);
    assert!(bench.orders.is_empty());
    bench.advance(SEC);
    assert_eq!(bench.orders.remove(0).name, "b".into());
    bench.answer(&lost, false);
    assert_eq!(bench.word("a"), "serving", "its time is over");
}

#[test]
fn a_crowd_is_checked_at_once_but_not_in_one_moment() {
    let now = Tick::ZERO;
    let crowd =
        (0..5000).map(|n: u16| Destination::new(&n.to_string(), Address::Socket(([127, 0, 0, 1], n).into())));
    let mut pool = Pool::new("api".into(), spec(), crowd.collect(), 1, Rng::new(1), now);
    let probes = |pool: &mut Pool| {
        std::iter::from_fn(|| pool.poll_action()).filter(|a| matches!(a, Action::Probe(_))).count()
    };
    assert_eq!(probes(&mut pool), 64);
    pool.handle_timeout(now + Duration::from_millis(1));
    assert_eq!(probes(&mut pool), 64);
    pool.handle_timeout(now + Duration::from_millis(100));
    assert_eq!(probes(&mut pool), PARALLEL_CHECKS_MAX - 128, "no more sockets than that");
}

#[test]
fn an_order_not_fetched_is_taken_back_when_its_subject_goes() {
    let now = Tick::ZERO;
    let mut pool = Pool::new("api".into(), spec(), destinations("a b"), 1, Rng::new(1), now);
    pool.handle(now, Input::Members(destinations("b:81")));
    let orders: Vec<String> = std::iter::from_fn(|| pool.poll_action())
        .filter_map(|action| match action {
            Action::Probe(order) => Some(format!("{} {}", order.name, order.address)),
            _ => None,
        })
        .collect();
    assert_eq!(orders, ["b 127.0.0.98:81"]);
}

#[test]
fn one_input_makes_one_snapshot_and_it_comes_first() {
    let now = Tick::ZERO;
    let mut pool = Pool::new("api".into(), spec(), destinations("a b"), 1, Rng::new(1), now);
    pool.handle(now, Input::Members(destinations("c d e!1")));
    let actions: Vec<Action> = std::iter::from_fn(|| pool.poll_action()).collect();
    let publications = actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
    assert!(matches!(&actions[0], Action::Publish(snapshot) if snapshot.members.len() == 3));
    assert_eq!(publications, 1, "an unfetched one is replaced");
}

#[test]
fn a_name_given_twice_counts_once() {
    let mut bench = Bench::unchecked("a b");
    bench.members("a a*9 b");
    assert_eq!(bench.tiers(), "a b");
    assert_eq!(bench.report("a").weight, Weight::ONE);
}

#[test]
fn ejected_and_on_trial_is_one_standing_since_one_moment() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 5);
    let since = bench.report("a").since;
    bench.advance(SEC * 30);
    assert_eq!(bench.report("a").standing, Standing::Ejected { until: Tick::ZERO });
    bench.try_out(RESET);
    assert_eq!((bench.report("a").since, bench.report("a").ejections), (since, 2));
}
