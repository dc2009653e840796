//! The end of flows: after the idle timeout, by eviction, or with their pool.

use std::sync::atomic::Ordering::Relaxed;

use plimsoll_core::Tick;

use crate::serve::udp::UdpListenerTask;

/// Flows ended per call: each has a socket to close.
const MAX_EXPIRED: usize = 256;

impl UdpListenerTask {
    /// Ends flows of clients that were idle for too long, and passes trials that were not refused.
    pub(crate) fn expire_flows(&mut self, now: Tick) {
        let idle = self.config().idle;
        for _ in 0..MAX_EXPIRED {
            match self.flows.oldest() {
                Some((slot, flow)) if now.since(flow.last) >= idle => self.end(slot, now),
                _ => break,
            }
        }
        while let Some((slot, number, _)) = self.trials.pop_front_if(|(_, _, due)| *due <= now) {
            let keeps_assignment = self.keeps_assignment();
            if let Some((_, flow)) = self.flows.get_mut(slot)
                && flow.number == number
                && let Some(path) = flow.path.as_mut().filter(|path| path.is_trial())
            {
                path.replied(&self.route, keeps_assignment, now);
            }
        }
        self.set_timer(now);
    }

    /// Sets the timer for the flow that was idle longest. If others are used meanwhile, it fires once without
    /// effect.
    pub(crate) fn set_timer(&self, now: Tick) {
        let oldest = self.flows.oldest().map_or(Tick::NEVER, |(_, flow)| flow.last + self.config().idle);
        let trial = self.trials.front().map_or(Tick::NEVER, |(_, _, due)| *due);
        self.worker.timers.set(&self.timer, oldest.min(trial).max(now));
    }

    pub(crate) fn end(&mut self, slot: u32, now: Tick) {
        if let Some((key, flow)) = self.flows.remove(slot) {
            flow.end(&key, &self.route, now);
        }
    }

    pub(crate) fn end_all(&mut self, now: Tick) {
        while let Some((slot, _)) = self.flows.oldest() {
            self.end(slot, now);
        }
    }

    /// Ends the flows that were idle longest until one more is within the limit.
    pub(crate) fn evict_idle(&mut self, now: Tick) {
        let shared = self.routes.table.shared.clone();
        let max = self.config().max_flows.min(self.fd_budget.max_flows);
        while shared.open.load(Relaxed) >= max && self.evict(now) {}
    }

    /// Ends the flow that was idle longest; `false` if there is none.
    pub(crate) fn evict(&mut self, now: Tick) -> bool {
        let Some((slot, _)) = self.flows.oldest() else { return false };
        self.routes.table.shared.counters.of(self.worker.number).evicted.add(1);
        self.end(slot, now);
        true
    }
}
