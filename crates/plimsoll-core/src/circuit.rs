//! How much a pool may have at once, and whose turn it is when there is room again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::stats::DestinationStats;

/// What one destination may have at once; 0 = no limit.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationLimits {
    /// Messages that hold an assignment.
    pub requests: u32,
    /// Connections, idle ones included.
    pub connections: u32,
}

/// What a pool may have at once over all its destinations; 0 = no limit, but for `pending`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolLimits {
    /// Messages that hold an assignment.
    pub requests: u32,
    /// Connections, idle ones included.
    pub connections: u32,
    /// Messages that wait for a place; 0 = nobody waits.
    pub pending: u32,
    /// Messages that are being tried again.
    pub retries: u32,
}

/// How many there are of something, and how many there may be. No caller ever finds more than that, whoever asks
/// at the same time.
#[derive(Debug)]
pub struct Gauge {
    now: AtomicU32,
    most: AtomicU32,
}

impl Default for Gauge {
    fn default() -> Self {
        Self { now: AtomicU32::new(0), most: AtomicU32::new(u32::MAX) }
    }
}

impl Gauge {
    /// There may be so many from now on; 0 = no limit. Those above it stay.
    pub fn set_most(&self, most: u32) {
        self.most.store(if most == 0 { u32::MAX } else { most }, Relaxed);
    }

    /// There may be none of them.
    fn forbid(&self) {
        self.most.store(0, Relaxed);
    }

    /// How many there may be; `None` = no limit.
    pub fn most(&self) -> Option<u32> {
        Some(self.most.load(Relaxed)).filter(|&most| most != u32::MAX)
    }

    /// How many there are.
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// No more fit.
    pub fn is_full(&self) -> bool {
        self.most().is_some_and(|most| self.now() >= most)
    }

    /// One more, if it fits. Answers how many there were.
    #[inline]
    pub fn enter(&self) -> Option<u32> {
        let most = self.most.load(Relaxed);
        if most == u32::MAX {
            return Some(self.now.fetch_add(1, SeqCst));
        }
        // Never more for a moment and then taken back: others would be refused for it.
        self.now.fetch_update(SeqCst, SeqCst, |now| (now < most).then_some(now + 1)).ok()
    }

    /// One less. Who reads [`Circuit::waiting`] after it cannot miss a message that began to wait because of it.
    #[inline]
    pub fn leave(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

/// Nobody's number in the line.
const NOBODY: u64 = u64::MAX;

/// One cache line (two: processors fetch them in pairs) for what one worker writes.
#[derive(Debug)]
#[repr(align(128))]
struct Front(AtomicU64);

/// What a pool has at once, over all workers, and who waits for it.
///
/// Each worker keeps a line of its own; here are only how many wait in all, and the number of the first of each.
/// Numbers grow with the order of arrival, so the oldest of all is the lowest of the firsts. Messages that wait for
/// nothing read one counter, and that only in pools with limits.
#[derive(Debug)]
pub struct Circuit {
    /// Messages that hold an assignment; counted only while the pool has a limit.
    pub requests: Gauge,
    /// Connections, idle ones included.
    pub connections: Gauge,
    /// Messages that are being tried again.
    pub retries: Gauge,
    waiting: Gauge,
    /// Connections that somebody waits to open.
    wanted: AtomicU32,
    /// Of those who wait the ones who would not go anywhere.
    picky: AtomicU32,
    next: AtomicU64,
    fronts: Box<[Front]>,
    bells: OnceLock<Box<[Waker]>>,
}

impl Circuit {
    /// Of a pool that `workers` workers serve, without limits.
    pub fn new(workers: usize) -> Self {
        Self {
            requests: Gauge::default(),
            connections: Gauge::default(),
            retries: Gauge::default(),
            waiting: Gauge::default(),
            wanted: AtomicU32::new(0),
            picky: AtomicU32::new(0),
            next: AtomicU64::new(0),
            fronts: (0..workers.max(1)).map(|_| Front(AtomicU64::new(NOBODY))).collect(),
            bells: OnceLock::new(),
        }
    }

    /// Other limits hold from now on; those who are in or wait already stay.
    pub fn set_limits(&self, limits: &PoolLimits) {
        self.requests.set_most(limits.requests);
        self.connections.set_most(limits.connections);
        self.retries.set_most(limits.retries);
        match limits.pending {
            0 => self.waiting.forbid(),
            some => self.waiting.set_most(some),
        }
    }

    /// What wakes each worker, so that it looks at its line. Once: later ones are ignored.
    pub fn hang_bells(&self, bells: Box<[Waker]>) {
        let _hung_before = self.bells.set(bells);
    }

    /// Room for one more connection to the destination of `stats`, if there is.
    pub fn berth(self: &Arc<Self>, stats: &Arc<DestinationStats>) -> Option<Berth> {
        stats.connections().enter()?;
        if self.connections.enter().is_none() {
            stats.connections().leave();
            return None;
        }
        Some(Berth { circuit: self.clone(), stats: stats.clone() })
    }

    /// Until this is dropped somebody waits for such room: all workers are told, and told again whenever a connection
    /// is closed.
    pub fn wish_berth(self: &Arc<Self>, stats: &Arc<DestinationStats>) -> Wish {
        self.wanted.fetch_add(1, SeqCst);
        stats.berths_wanted().fetch_add(1, SeqCst);
        self.ring_all();
        Wish { circuit: self.clone(), stats: stats.clone() }
    }

    /// Somebody waits for room for a connection.
    #[inline]
    pub fn wants_berths(&self) -> bool {
        self.wanted.load(SeqCst) > 0
    }

    /// A message is tried again, if no more than the limit are.
    pub fn retrying(self: &Arc<Self>) -> Option<Retrying> {
        self.retries.enter()?;
        Some(Retrying(self.clone()))
    }

    /// Messages that wait for a place, over all workers.
    pub fn waiting(&self) -> &Gauge {
        &self.waiting
    }

    /// Somebody waits: who comes now is not to pass them.
    #[inline]
    pub fn has_line(&self) -> bool {
        self.waiting.now.load(SeqCst) > 0
    }

    /// One more waits, `picky` if not every destination will do for it; its number in the order of arrival. `None`:
    /// too many wait.
    pub fn join_line(&self, picky: bool) -> Option<u64> {
        // Before it counts as waiting: who sees it wait sees that it is picky.
        self.picky.fetch_add(u32::from(picky), SeqCst);
        if self.waiting.enter().is_none() {
            self.picky.fetch_sub(u32::from(picky), SeqCst);
            return None;
        }
        Some(self.next.fetch_add(1, Relaxed))
    }

    /// One no longer waits.
    pub fn leave_line(&self, picky: bool) {
        self.waiting.leave();
        self.picky.fetch_sub(u32::from(picky), SeqCst);
    }

    /// The first of `worker`'s line who would go anywhere has this number.
    pub fn set_front(&self, worker: usize, number: Option<u64>) {
        self.front(worker).store(number.unwrap_or(NOBODY), SeqCst);
    }

    /// Nobody at another worker has waited for longer than who has `number`.
    pub fn is_next(&self, number: u64) -> bool {
        self.fronts.iter().all(|front| front.0.load(SeqCst) >= number)
    }

    /// There is room again: who has waited longest is told, if somebody waits.
    #[inline]
    pub fn freed(&self) {
        if self.has_line() {
            self.ring();
        }
    }

    /// Wakes the worker whose first has waited longest; all of them while somebody is picky, because what is free
    /// may be of use to that one only.
    #[cold]
    fn ring(&self) {
        match self.picky.load(SeqCst) {
            0 => self.ring_oldest(),
            _ => self.ring_all(),
        }
    }

    fn ring_all(&self) {
        self.bells.get().into_iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// Wakes the worker whose first has waited longest.
    pub fn ring_oldest(&self) {
        let fronts = self.fronts.iter().map(|front| front.0.load(SeqCst)).enumerate();
        let oldest = fronts.filter(|&(_, number)| number != NOBODY).min_by_key(|&(_, number)| number);
        if let (Some((worker, _)), Some(bells)) = (oldest, self.bells.get())
            && let Some(bell) = bells.get(worker)
        {
            bell.wake_by_ref();
        }
    }

    fn front(&self, worker: usize) -> &AtomicU64 {
        &self.fronts[worker % self.fronts.len()].0
    }
}

/// One connection's place among those there may be: given back when this is dropped.
#[derive(Debug)]
pub struct Berth {
    circuit: Arc<Circuit>,
    stats: Arc<DestinationStats>,
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.circuit.connections.leave();
        self.stats.connections().leave();
        if self.circuit.wants_berths() {
            self.circuit.ring_all();
        }
    }
}

/// Somebody waits for a [`Berth`].
#[derive(Debug)]
pub struct Wish {
    circuit: Arc<Circuit>,
    stats: Arc<DestinationStats>,
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.stats.berths_wanted().fetch_sub(1, SeqCst);
        self.circuit.wanted.fetch_sub(1, SeqCst);
    }
}

/// A message that is being tried again: counted until this is dropped.
#[derive(Debug)]
pub struct Retrying(Arc<Circuit>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use super::*;

    #[test]
    fn a_gauge_never_shows_more_than_it_may() {
        let gauge = Gauge::default();
        gauge.set_most(3);
        let (most, entered) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if gauge.enter().is_some() {
                            entered.fetch_add(1, Relaxed);
                            most.fetch_max(gauge.now(), Relaxed);
                            gauge.leave();
                        }
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 3 && entered.load(Relaxed) >= 20_000);
        assert_eq!(gauge.now(), 0);
    }

    #[test]
    fn a_lower_limit_takes_nobody_out_and_lets_nobody_in() {
        let gauge = Gauge::default();
        let enter = || gauge.enter().is_some();
        assert!((0..5).all(|_| enter()) && !gauge.is_full());
        gauge.set_most(4);
        assert_eq!((enter(), gauge.now(), gauge.is_full()), (false, 5, true));
        gauge.leave();
        assert!(!enter());
        gauge.leave();
        assert!(enter() && !enter());
        gauge.set_most(0);
        assert!(enter() && gauge.most().is_none());
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_bell_rings_where_somebody_has_waited_longest() {
        let circuit = Circuit::new(3);
        circuit.set_limits(&PoolLimits { pending: 2, ..PoolLimits::default() });
        let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
        circuit.hang_bells(bells.iter().cloned().map(Waker::from).collect());
        let rung = || bells.iter().map(|bell| bell.0.swap(0, Relaxed)).collect::<Vec<_>>();
        circuit.freed();
        assert_eq!(rung(), [0, 0, 0], "nobody waits");
        let [first, second] = [0, 1].map(|_| circuit.join_line(false).expect("room"));
        assert_eq!(
            (circuit.join_line(false), circuit.join_line(true)),
            (None, None),
            "no more than two wait"
        );
        circuit.set_front(2, Some(first));
        circuit.set_front(0, Some(second));
        circuit.freed();
        assert_eq!(rung(), [0, 0, 1]);
        assert!(circuit.is_next(first) && !circuit.is_next(second));
        circuit.leave_line(false);
        circuit.set_front(2, None);
        circuit.freed();
        assert_eq!((rung(), circuit.is_next(second)), (vec![1, 0, 0], true));
        circuit.join_line(true).expect("room");
        circuit.freed();
        assert_eq!(rung(), [1, 1, 1], "somebody does not go anywhere");
        circuit.leave_line(true);
        circuit.leave_line(false);
        circuit.freed();
        assert_eq!(rung(), [0, 0, 0]);
    }

    #[test]
    fn a_connection_counts_for_its_destination_and_for_the_pool() {
        let circuit = Arc::new(Circuit::new(1));
        circuit.set_limits(&PoolLimits { connections: 2, ..PoolLimits::default() });
        let [a, b] = [0, 1].map(|_| Arc::new(DestinationStats::new(1)));
        a.set_limits(DestinationLimits { requests: 0, connections: 1 });
        let first = circuit.berth(&a).expect("room");
        assert!(circuit.berth(&a).is_none(), "the destination is full");
        let second = circuit.berth(&b).expect("room");
        assert!(circuit.berth(&b).is_none(), "the pool is full");
        assert_eq!((circuit.connections.now(), a.connections().now(), b.connections().now()), (2, 1, 1));
        let wish = circuit.wish_berth(&b);
        assert!(circuit.wants_berths() && b.wants_berth() && !a.wants_berth());
        drop(first);
        assert!(circuit.berth(&b).is_some());
        drop((wish, second));
        assert!(!circuit.wants_berths() && !b.wants_berth() && circuit.connections.now() == 0);
    }

    #[test]
    fn without_a_queue_nobody_waits() {
        let circuit = Circuit::new(1);
        circuit.set_limits(&PoolLimits::default());
        assert_eq!(circuit.join_line(false), None);
    }
}
