//! Which checks go out now, and what their answers change.

use std::time::Duration;

use crate::destination::{Address, AdminState, DestinationId, Health};
use crate::event::Reason;
use crate::health::{Checker, ProbeRequest, ProbeResult, Start};
use crate::pool::Pool;
use crate::pool::member_state::MemberState;
use crate::time::Tick;

/// First checks run at once, so many of them in each millisecond.
const FIRST_CHECKS_PER_MS: usize = 64;
/// A check is not taken for lost sooner than this.
const LOST_AT_LEAST: Duration = Duration::from_millis(10);

impl Pool {
    /// Other checks than before: what they said of a destination stays if both are on, and all are asked anew.
    pub(super) fn replace_checks(&mut self, now: Tick, were_on: bool) {
        for nth in 0..self.entries.len() {
            self.invalidate(self.entries[nth].id);
            let due = self.first_check(now, nth);
            let entry = &mut self.entries[nth];
            if were_on && self.spec.health.is_some() {
                entry.checker.hurry(due);
                entry.stats.notify_next_failure();
                continue;
            }
            if entry.checker.health() == Health::Down {
                entry.clear_reason = Some(Reason::ChecksOff);
            }
            // Who serves already goes on until a check speaks against it.
            entry.checker = Checker::new(due, Start::Serving);
            entry.stats.notify_next_failure();
        }
    }

    /// When the `nth` of several destinations is first checked: at once, but for a crowd.
    pub(super) fn first_check(&self, now: Tick, nth: usize) -> Tick {
        let interval = self.spec.health.as_ref().map_or(Duration::ZERO, |health| health.check_interval);
        now + Duration::from_millis((nth / FIRST_CHECKS_PER_MS) as u64).min(interval)
    }

    /// The moment of `id` has come: a check to make, an ejection that is over, an answer that is not coming.
    pub(super) fn wake(&mut self, now: Tick, id: DestinationId) {
        if self.check_queue.out(id).is_some_and(|sent| sent.until <= now) {
            self.check_queue.answered(id);
            self.orders.retain(|order| order.id != id);
        }
        if let Some(&rank) = self.index.get(&id) {
            self.touched |= self.entries[rank].handle_timeout(now);
            if self.is_checked(rank) && self.entries[rank].checker.due() <= now && !self.spares(now, rank) {
                self.check_queue.ask(id);
            }
        }
        self.plan(id);
    }

    /// Traffic has shown what the check would, and it is put off.
    fn spares(&mut self, now: Tick, rank: usize) -> bool {
        let (Some(health), entry) = (&self.spec.health, &mut self.entries[rank]) else { return false };
        if !health.schedule.adaptive {
            return false;
        }
        let shown = entry.shown();
        entry.checker.skip_check(now, health, shown, &mut self.rng)
    }

    /// Sends as many of the waiting checks as there are lanes for.
    pub(super) fn send_checks(&mut self, now: Tick) {
        let Some(health) = &self.spec.health else { return };
        let width = if self.spec.parallel_checks { health.schedule.max_concurrent } else { 1 };
        while let Some(id) = self.check_queue.next(width) {
            let (Some(health), Some(&rank)) = (&self.spec.health, self.index.get(&id)) else { continue };
            let lost = health.timeout.saturating_add(health.check_interval).max(LOST_AT_LEAST);
            self.check_queue.sent(id, now, now + lost);
            let MemberState { destination, checker, .. } = &self.entries[rank];
            self.orders.push_back(ProbeRequest {
                id,
                name: destination.name.clone(),
                address: at_port(&destination.address, health.port),
                timeout: checker.probe_timeout(health),
                kind: checker.probe(health).clone(),
            });
            self.plan(id);
        }
    }

    pub(super) fn probed(&mut self, now: Tick, id: DestinationId, result: ProbeResult) {
        if self.orders.iter().any(|order| order.id == id) {
            return; // The order is still here: nobody can have answered it.
        }
        let Some(sent) = self.check_queue.answered(id) else { return };
        if let (Some(health), Some(&rank), false) = (&self.spec.health, self.index.get(&id), sent.stale) {
            let entry = &mut self.entries[rank];
            let passed = matches!(result, ProbeResult::Passed { .. });
            entry.stats.notify_next_failure();
            let well = entry.went_well();
            if entry.checker.record(now, health, result, &mut self.rng) {
                entry.contradictions.failed += u64::from(well && entry.checker.health() == Health::Down);
                entry.health_flipped(self.spec.recovery);
                self.touched = true;
            }
            let up = entry.checker.health() != Health::Down;
            if passed && up && entry.outlier.check_passed(now, sent.at) {
                entry.clear_reason.get_or_insert(Reason::Reachable);
                self.touched = true;
            }
        }
        self.plan(id);
    }

    /// Traffic speaks against the destination at `rank`: its next check is brought forward. `silent`: its
    /// messages wait in vain.
    pub(super) fn expedite_check(&mut self, now: Tick, rank: usize, silent: bool) {
        if let (Some(health), true) = (&self.spec.health, self.is_checked(rank)) {
            let entry = &mut self.entries[rank];
            entry.checker.expedite(now, health, silent);
            let id = entry.id;
            self.plan(id);
        }
    }

    /// What a check of `id` would say no longer counts; one the driver has not fetched yet is taken back.
    pub(super) fn invalidate(&mut self, id: DestinationId) {
        match self.orders.iter().position(|order| order.id == id) {
            Some(place) => {
                self.orders.remove(place);
                self.check_queue.answered(id);
            }
            None => self.check_queue.invalidate(id),
        }
    }

    pub(super) fn plan_all(&mut self) {
        for rank in 0..self.entries.len() {
            self.plan(self.entries[rank].id);
        }
    }

    /// Puts the next moment of `id` on the agenda.
    pub(super) fn plan(&mut self, id: DestinationId) {
        let rank = self.index.get(&id).copied();
        let check = match (self.check_queue.out(id), rank) {
            (Some(sent), _) => sent.until,
            (None, Some(rank)) if self.is_checked(rank) && !self.check_queue.waits(id) => {
                self.entries[rank].checker.due()
            }
            _ => Tick::NEVER,
        };
        let traffic = rank.map_or(Tick::NEVER, |rank| self.entries[rank].next());
        self.timers.set(id, check.min(traffic));
    }

    fn is_checked(&self, rank: usize) -> bool {
        self.spec.health.is_some() && self.entries[rank].admin != AdminState::Maintenance
    }
}

fn at_port(address: &Address, port: Option<u16>) -> Address {
    match (address, port) {
        (Address::Socket(socket), Some(port)) => {
            let mut socket = *socket;
            socket.set_port(port);
            Address::Socket(socket)
        }
        _ => address.clone(),
    }
}
