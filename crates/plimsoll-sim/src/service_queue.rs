//! Completion times of the messages at a destination: slots with a queue, or processor sharing. Both follow
//! one rule with different numbers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Duration;

use plimsoll_core::Tick;

/// Seconds beyond every run: work that long counts as never completed.
const NEVER_SECONDS: f64 = 1e8;

/// Message at a destination, numbered by its sender.
pub type JobId = u64;

/// Service of messages: at most `slots` at once, each at most at the speed of one core, all together at most
/// at the speed of `capacity` cores. Other messages wait in order.
///
/// Slots with a queue are `capacity = slots`; processor sharing has unlimited slots. All messages in service
/// get equal speed, so one sum, the attained service per message since the start (`attained`), gives each
/// completion: on arrival a message's end is that sum plus its work. A change of speed then changes one
/// number, not a list.
#[derive(Debug)]
pub struct ServiceQueue {
    slots: usize,
    capacity: f64,
    speed: f64,
    attained: f64,
    at: Tick,
    running: BinaryHeap<Reverse<Running>>,
    waiting: VecDeque<(JobId, f64)>,
    /// Jobs cancelled while running; their heap entries are removed when they reach the top.
    cancelled: HashSet<JobId>,
    /// Core seconds spent so far.
    used: f64,
}

#[derive(Copy, Clone, Debug, PartialEq)]
struct Running {
    end: f64,
    job: JobId,
}

impl Eq for Running {}

impl PartialOrd for Running {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Running {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.end.total_cmp(&other.end).then(self.job.cmp(&other.job))
    }
}

impl ServiceQueue {
    /// Creates `slots` that serve one message each at full speed; the others wait in order of arrival.
    pub fn slots(slots: usize) -> Self {
        Self::new(slots.max(1), slots.max(1) as f64)
    }

    /// Creates a server that works on all messages at once, sharing `capacity` cores.
    pub fn sharing(capacity: f64) -> Self {
        Self::new(usize::MAX, capacity)
    }

    fn new(slots: usize, capacity: f64) -> Self {
        Self {
            slots,
            capacity,
            speed: 1.0,
            attained: 0.0,
            at: Tick::ZERO,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            cancelled: HashSet::new(),
            used: 0.0,
        }
    }

    /// Returns the messages at the destination, waiting ones included.
    pub fn load(&self) -> usize {
        self.in_service() + self.waiting.len()
    }

    /// Returns the core seconds spent so far.
    pub fn used(&self) -> f64 {
        self.used
    }

    /// Adds a message of `work` core seconds.
    pub fn arrive(&mut self, now: Tick, job: JobId, work: f64) {
        self.progress_to(now);
        if self.in_service() < self.slots {
            self.running.push(Reverse(Running { end: self.attained + work, job }));
        } else {
            self.waiting.push_back((job, work));
        }
    }

    /// Removes a message that its sender has given up.
    pub fn cancel(&mut self, now: Tick, job: JobId) {
        self.progress_to(now);
        if let Some(place) = self.waiting.iter().position(|&(waiting, _)| waiting == job) {
            self.waiting.remove(place);
            return;
        }
        self.cancelled.insert(job);
        self.discard_cancelled();
        self.start_waiting();
    }

    /// Removes all messages and returns them.
    pub fn drain(&mut self, now: Tick) -> Vec<JobId> {
        self.progress_to(now);
        let mut jobs: Vec<JobId> = self.running.drain().map(|Reverse(running)| running.job).collect();
        jobs.retain(|job| !self.cancelled.contains(job));
        jobs.extend(self.waiting.drain(..).map(|(job, _)| job));
        jobs.sort_unstable();
        self.cancelled.clear();
        jobs
    }

    /// Sets the cores available from now on.
    pub fn set_capacity(&mut self, now: Tick, capacity: f64) {
        self.progress_to(now);
        self.capacity = capacity;
    }

    /// Sets the speed as a share of full speed; 0 stalls.
    pub fn set_speed(&mut self, now: Tick, speed: f64) {
        self.progress_to(now);
        self.speed = speed;
    }

    /// Returns when the next message completes if nothing changes.
    pub fn next_completion(&self) -> Tick {
        let Some(Reverse(first)) = self.running.peek() else { return Tick::NEVER };
        let seconds = (first.end - self.attained).max(0.0) / self.rate(self.in_service());
        if seconds < NEVER_SECONDS { self.at + round_up(seconds) } else { Tick::NEVER }
    }

    /// Appends the messages completed by `now` to `done`, in order.
    pub fn advance(&mut self, now: Tick, done: &mut Vec<JobId>) {
        while self.next_completion() <= now {
            let at = self.next_completion();
            self.progress_to(at);
            if let Some(Reverse(first)) = self.running.pop() {
                self.attained = self.attained.max(first.end);
                done.push(first.job);
            }
            self.discard_cancelled();
            self.start_waiting();
        }
        self.progress_to(now);
    }

    /// Returns the seconds until a message of `work` arriving now would complete, if nothing else arrived and
    /// nothing changed.
    pub fn forecast(&self, now: Tick, work: f64) -> f64 {
        if self.speed <= 0.0 {
            return NEVER_SECONDS;
        }
        let since = now.since(self.at).as_secs_f64() * self.rate(self.in_service());
        let mut rest: Vec<f64> = (self.running.iter())
            .filter(|Reverse(running)| !self.cancelled.contains(&running.job))
            .map(|Reverse(running)| (running.end - self.attained - since).max(0.0))
            .collect();
        let full = self.slots.saturating_sub(rest.len()) <= self.waiting.len();
        if full {
            let queued: f64 =
                rest.iter().sum::<f64>() + self.waiting.iter().map(|&(_, work)| work).sum::<f64>();
            return queued / (self.capacity * self.speed) + work / self.speed;
        }
        rest.sort_unstable_by(f64::total_cmp);
        let (mut seconds, mut attained, mut others) = (0.0, 0.0, rest.len());
        for end in rest {
            let until = end.min(work);
            seconds += (until - attained) / self.rate(others + 1);
            attained = until;
            if end >= work {
                return seconds;
            }
            others -= 1;
        }
        seconds + (work - attained) / self.rate(1)
    }

    fn in_service(&self) -> usize {
        self.running.len() - self.cancelled.len()
    }

    /// Speed of each message with `in_service` of them in service, in cores.
    fn rate(&self, in_service: usize) -> f64 {
        self.speed * (self.capacity / in_service.max(1) as f64).min(1.0)
    }

    fn progress_to(&mut self, now: Tick) {
        let (seconds, in_service) = (now.since(self.at).as_secs_f64(), self.in_service());
        self.at = self.at.max(now);
        if in_service > 0 {
            let attained = seconds * self.rate(in_service);
            self.attained += attained;
            self.used += attained * in_service as f64;
        } else {
            // No message is in service: restarting the sum keeps its numbers small and exact.
            self.attained = 0.0;
        }
    }

    fn discard_cancelled(&mut self) {
        while let Some(Reverse(first)) = self.running.peek()
            && self.cancelled.remove(&first.job)
        {
            self.running.pop();
        }
    }

    fn start_waiting(&mut self) {
        while self.in_service() < self.slots
            && let Some((job, work)) = self.waiting.pop_front()
        {
            self.running.push(Reverse(Running { end: self.attained + work, job }));
        }
    }
}

/// Rounds up to a nanosecond, so that the message is complete when its event fires.
fn round_up(seconds: f64) -> Duration {
    Duration::from_nanos((seconds * 1e9).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(ms)
    }

    /// Runs to the end; returns each job with its completion in whole milliseconds.
    fn ends(mut queue: ServiceQueue) -> Vec<(JobId, u64)> {
        let (mut ends, mut done) = (Vec::new(), Vec::new());
        while queue.next_completion() != Tick::NEVER {
            let now = queue.next_completion();
            queue.advance(now, &mut done);
            ends.extend(done.drain(..).map(|job| (job, (now.as_nanos() + 500_000) / 1_000_000)));
        }
        ends
    }

    #[test]
    fn one_slot_serves_jobs_in_order() {
        let mut queue = ServiceQueue::slots(1);
        queue.arrive(ms(0), 1, 0.010);
        queue.arrive(ms(2), 2, 0.001);
        assert!((queue.forecast(ms(2), 0.005) - 0.014).abs() < 1e-9);
        assert_eq!(ends(queue), [(1, 10), (2, 11)]);
    }

    #[test]
    fn jobs_sharing_a_core_take_longer_by_the_number_of_jobs() {
        let mut queue = ServiceQueue::sharing(1.0);
        queue.arrive(ms(0), 1, 0.010);
        queue.arrive(ms(0), 2, 0.002);
        assert!((queue.forecast(ms(0), 0.002) - 0.006).abs() < 1e-9, "three share until it is done");
        assert_eq!(ends(queue), [(2, 4), (1, 12)]);
    }

    #[test]
    fn a_job_never_uses_more_than_one_core() {
        let mut queue = ServiceQueue::sharing(3.0);
        queue.arrive(ms(0), 1, 0.010);
        queue.arrive(ms(0), 2, 0.010);
        assert_eq!(ends(queue), [(1, 10), (2, 10)]);
    }

    #[test]
    fn a_speed_change_applies_to_the_remaining_work() {
        let mut queue = ServiceQueue::sharing(1.0);
        queue.arrive(ms(0), 1, 0.010);
        queue.set_speed(ms(4), 0.5);
        assert_eq!(queue.next_completion(), ms(16));
        queue.set_speed(ms(6), 0.0);
        assert_eq!(queue.next_completion(), Tick::NEVER);
        queue.set_speed(ms(100), 1.0);
        assert_eq!(ends(queue), [(1, 105)]);
    }

    #[test]
    fn a_cancelled_job_frees_its_slot() {
        let mut queue = ServiceQueue::slots(1);
        for job in 1..=4 {
            queue.arrive(ms(0), job, 0.010);
        }
        queue.cancel(ms(5), 1);
        queue.cancel(ms(6), 3);
        assert_eq!(queue.load(), 2);
        assert_eq!(ends(queue), [(2, 15), (4, 25)]);
        let mut shared = ServiceQueue::sharing(1.0);
        shared.arrive(ms(0), 1, 0.010);
        shared.arrive(ms(0), 2, 0.020);
        shared.cancel(ms(10), 2);
        assert_eq!(shared.load(), 1);
        assert_eq!(ends(shared), [(1, 15)]);
    }

    #[test]
    fn core_seconds_are_counted() {
        let mut queue = ServiceQueue::sharing(1.0);
        queue.arrive(ms(0), 1, 0.010);
        queue.arrive(ms(0), 2, 0.010);
        queue.advance(ms(50), &mut Vec::new());
        assert!((queue.used() - 0.020).abs() < 1e-9, "{}", queue.used());
    }
}
