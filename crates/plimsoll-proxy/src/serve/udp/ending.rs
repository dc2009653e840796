//! When a flow ends: after its client's silence, to make room, or with its pool.

use std::sync::atomic::Ordering::Relaxed;

use plimsoll_core::Tick;

use crate::serve::udp::Desk;

/// Idle flows ended at once: each is a socket to close.
const EXPIRED: usize = 256;

impl Desk {
    /// Ends flows whose client has been silent for too long, and trials that were not refused.
    pub(crate) fn expire(&mut self, now: Tick) {
        let idle = self.config().idle;
        for _ in 0..EXPIRED {
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
                path.replied(&self.rule, keeps_assignment, now);
            }
        }
        self.set_timer(now);
    }

    /// The timer rings for the flow idle longest; that others are touched meanwhile only makes it ring in vain.
    pub(crate) fn set_timer(&self, now: Tick) {
        let oldest = self.flows.oldest().map_or(Tick::NEVER, |(_, flow)| flow.last + self.config().idle);
        let trial = self.trials.front().map_or(Tick::NEVER, |(_, _, due)| *due);
        self.worker.timers.set(&self.timer, oldest.min(trial).max(now));
    }

    pub(crate) fn end(&mut self, slot: u32, now: Tick) {
        if let Some((key, flow)) = self.flows.remove(slot) {
            flow.end(&key, &self.rule, now);
        }
    }

    pub(crate) fn end_all(&mut self, now: Tick) {
        while let Some((slot, _)) = self.flows.oldest() {
            self.end(slot, now);
        }
    }

    /// Makes room for one more flow, if there is none: the one idle longest goes.
    pub(crate) fn evict_idle(&mut self, now: Tick) {
        let shared = self.view.table.shared.clone();
        let most = self.config().max_flows.min(self.room.flows);
        while shared.open.load(Relaxed) >= most && self.evict(now) {}
    }

    /// Ends the flow idle longest before its time. `false`: there is none.
    pub(crate) fn evict(&mut self, now: Tick) -> bool {
        let Some((slot, _)) = self.flows.oldest() else { return false };
        self.view.table.shared.counters.of(self.worker.number).evicted.add(1);
        self.end(slot, now);
        true
    }
}
