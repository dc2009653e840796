//! Retry budget of a pool.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::Tick;

/// Period that messages and retries count for: the default time to live of a deposit in Finagle.
const HORIZON_SECONDS: u64 = 10;
/// Time in which one retry is always allowed: the floor of 10 per second.
const RESERVE_STEP: u64 = 100_000_000;
/// Depth of the reserve: 10 seconds of the floor, 100 retries. It is full at the start.
const RESERVE_DEPTH: u64 = HORIZON_SECONDS * 1_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Limits the retries of a pool, so that they never multiply an overload. Allowed are a share of the messages of the
/// last 10 seconds, less the retries of the last 10 seconds, plus a reserve of up to 100 that refills at 10 per second:
/// Finagle's `RetryBudget`, without a lock.
///
/// No credit is spent twice, however many threads withdraw at the same time. The window moves by whole seconds, so it
/// covers the last 9 to 10.
#[derive(Debug)]
pub struct RetryBudget {
    /// Share of retries per message, as the bits of an `f64`.
    share: AtomicU64,
    /// Number of messages of each worker since the start.
    earned: Box<[Padded]>,
    /// Number of retries charged to the share since the start.
    spent: AtomicU64,
    /// Number of completed seconds since the start.
    completed: AtomicU64,
    /// `earned` and `spent` at the end of each of the last 10 completed seconds, at `second % 10`.
    history: [(AtomicU64, AtomicU64); HORIZON_SECONDS as usize],
    /// Time at which the reserve is full (GCRA, ITU-T I.371); it is empty at `RESERVE_DEPTH` ahead of now.
    reserve: AtomicU64,
}

/// Returns the index of a second in the history; until it ends, the entry is that of the second 10 before.
const fn slot_of(second: u64) -> usize {
    (second % HORIZON_SECONDS) as usize
}

/// A counter with a cache line of its own (two: processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl RetryBudget {
    /// Creates a budget of `share` retries per message for `workers` workers (at least one), with a full reserve.
    pub fn new(share: f64, workers: usize) -> Self {
        Self {
            share: AtomicU64::new(share.to_bits()),
            earned: (0..workers.max(1)).map(|_| Padded::default()).collect(),
            spent: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            history: Default::default(),
            reserve: AtomicU64::new(0),
        }
    }

    /// Changes the share, also for messages already counted.
    pub fn set_share(&self, share: f64) {
        self.share.store(share.to_bits(), Relaxed);
    }

    /// Counts a message. A worker writes only its own counter, with a plain load and store.
    pub fn earn(&self, worker: usize) {
        let counter = &self.earned[worker % self.earned.len()].0;
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Charges one retry, to the share first and then to the reserve. Returns `false` if both are spent.
    pub fn withdraw(&self, now: Tick) -> bool {
        self.roll(now);
        let (earned_before, spent_before) = {
            let (earned, spent) = &self.history[slot_of(self.completed.load(Relaxed))];
            (earned.load(Relaxed), spent.load(Relaxed))
        };
        let recent = self.total_earned().saturating_sub(earned_before);
        let credit = (recent as f64 * f64::from_bits(self.share.load(Relaxed)) + 1e-9) as u64;
        let from_share = self.spent.fetch_update(Relaxed, Relaxed, |spent| {
            (spent.saturating_sub(spent_before) < credit).then_some(spent + 1)
        });
        from_share.is_ok() || self.draw_on_reserve(now)
    }

    /// Completes every second that is over. Called about once a second by the slow loop, and by
    /// [`withdraw`](Self::withdraw) in case it was not. Messages of seconds that were completed late count for the
    /// first of them, so a delayed slow loop makes the budget smaller, never larger.
    pub fn roll(&self, now: Tick) {
        let second = now.as_nanos() / SECOND;
        let completed = self.completed.load(Relaxed);
        if second <= completed
            || self.completed.compare_exchange(completed, second, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let (earned, spent) = (self.total_earned(), self.spent.load(Relaxed));
        for over in completed.max(second.saturating_sub(HORIZON_SECONDS))..second {
            let (earned_then, spent_then) = &self.history[slot_of(over)];
            earned_then.store(earned, Relaxed);
            spent_then.store(spent, Relaxed);
        }
    }

    fn total_earned(&self) -> u64 {
        self.earned.iter().map(|worker| worker.0.load(Relaxed)).sum()
    }

    fn draw_on_reserve(&self, now: Tick) -> bool {
        let now = now.as_nanos();
        self.reserve
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let after = full_at.max(now) + RESERVE_STEP;
                (after <= now.saturating_add(RESERVE_DEPTH)).then_some(after)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Tick {
        Tick::from_nanos((seconds * 1e9) as u64)
    }

    /// Number of retries granted at one time, up to `max`.
    fn drain(budget: &RetryBudget, now: Tick, max: u32) -> u32 {
        (0..max).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn the_reserve_allows_a_hundred_retries_and_refills_at_ten_per_second() {
        let budget = RetryBudget::new(0.2, 4);
        assert_eq!(drain(&budget, at(0.0), 1000), 100);
        assert_eq!(drain(&budget, at(0.5), 1000), 5);
        assert_eq!(drain(&budget, at(1.5), 1000), 10);
        assert_eq!(drain(&budget, at(3600.0), 1000), 100, "never more than 10 seconds' worth");
    }

    #[test]
    fn messages_count_for_ten_seconds() {
        let budget = RetryBudget::new(0.2, 4);
        for worker in 0..4 {
            (0..250).for_each(|_| budget.earn(worker));
        }
        assert_eq!(drain(&budget, at(0.9), 1000), 200 + 100);
        let budget = RetryBudget::new(0.2, 1);
        (0..1000).for_each(|_| budget.earn(0));
        (1..=9).for_each(|second| budget.roll(at(f64::from(second))));
        assert_eq!(drain(&budget, at(9.5), 150), 150, "still within ten seconds");
        assert_eq!(drain(&budget, at(10.0), 1000), 100, "after it only the reserve is left");
    }

    #[test]
    fn a_new_share_holds_at_once() {
        let budget = RetryBudget::new(0.0, 1);
        (0..1000).for_each(|_| budget.earn(0));
        assert_eq!(drain(&budget, at(0.0), 1000), 100);
        budget.set_share(0.5);
        assert_eq!(drain(&budget, at(0.0), 1000), 500);
        budget.set_share(f64::NAN);
        assert_eq!(drain(&budget, at(0.0), 1000), 0);
    }

    #[test]
    fn over_any_ten_seconds_retries_stay_within_share_and_floor() {
        for seed in 0..50 {
            let mut rng = crate::Rng::new(seed);
            let budget = RetryBudget::new(0.2, 3);
            let (mut messages, mut granted) = (vec![0_u64; 120], vec![0_u64; 120]);
            for step in 0..12_000_u64 {
                let (now, second) = (Tick::from_nanos(step * 10_000_000), (step / 100) as usize);
                if rng.below(20) == 0 {
                    budget.roll(now);
                }
                for _ in 0..rng.below(if second % 30 < 10 { 40 } else { 3 }) {
                    budget.earn(rng.index(3));
                    messages[second] += 1;
                }
                for _ in 0..rng.below(12) {
                    granted[second] += u64::from(budget.withdraw(now));
                }
            }
            for from in 0..110 {
                let (all, repeated): (u64, u64) =
                    (messages[from..from + 10].iter().sum(), granted[from..from + 10].iter().sum());
                // The reserve may be full at the start of the ten seconds, and refills during them; credit of the ten
                // seconds before may be spent in the first of them.
                let before: u64 = messages[from.saturating_sub(10)..from].iter().sum();
                let most = (all + before) / 5 + 200;
                assert!(repeated <= most, "seed {seed}, from {from}: {repeated} > {most}");
            }
            let sum: u64 = granted.iter().sum();
            let floor = 100 + 10 * 115;
            assert!(sum >= floor, "seed {seed}: the floor was not granted: {sum}");
        }
    }

    #[test]
    fn no_credit_is_spent_twice() {
        let budget = RetryBudget::new(0.5, 4);
        (0..2000).for_each(|n| budget.earn(n));
        let granted: u32 = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| drain(&budget, at(0.1), 5000))).collect();
            all.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        // The reserve at 0.1 s is still the full hundred.
        assert_eq!(granted, 1000 + 100);
    }
}
