//! Health checks of a pool: sending them, and handling their results.

use std::time::Duration;

use crate::destination::{Address, AdminState, DestinationId, Health};
use crate::event::Reason;
use crate::health::{Checker, ProbeRequest, ProbeResult, Start};
use crate::pool::Pool;
use crate::pool::member_state::MemberState;
use crate::time::Tick;

/// Number of first checks per millisecond; the others are delayed.
const FIRST_CHECKS_PER_MS: usize = 64;
/// Minimum time after which a check without a result is taken for lost.
const MIN_LOST_AFTER: Duration = Duration::from_millis(10);

impl Pool {
    /// Replaces the checks. Health is kept if checks were on before, and all members are checked at once.
    pub(super) fn replace_checks(&mut self, now: Tick, were_on: bool) {
        for nth in 0..self.members.len() {
            self.invalidate_check(self.members[nth].id);
            let due = self.first_check(now, nth);
            let member = &mut self.members[nth];
            if were_on && self.spec.health.is_some() {
                member.checker.check_by(due);
                member.stats.notify_next_failure();
                continue;
            }
            if member.checker.health() == Health::Down {
                member.clear_reason = Some(Reason::ChecksOff);
            }
            // A serving member keeps serving until a check fails.
            member.checker = Checker::new(due, Start::Serving);
            member.stats.notify_next_failure();
        }
    }

    /// Returns the time of the first check of the `nth` of several destinations: at once, but spread for many.
    pub(super) fn first_check(&self, now: Tick, nth: usize) -> Tick {
        let interval = self.spec.health.as_ref().map_or(Duration::ZERO, |health| health.check_interval);
        now + Duration::from_millis((nth / FIRST_CHECKS_PER_MS) as u64).min(interval)
    }

    /// Handles the timer of `id`: a due check, the end of an ejection time, or a lost result.
    pub(super) fn on_timer(&mut self, now: Tick, id: DestinationId) {
        if self.check_queue.running(id).is_some_and(|sent| sent.until <= now) {
            self.check_queue.finish(id);
            self.probe_requests.retain(|request| request.id != id);
        }
        if let Some(&rank) = self.index.get(&id) {
            self.touched |= self.members[rank].handle_timeout(now);
            if self.is_checked(rank)
                && self.members[rank].checker.due() <= now
                && !self.skips_check(now, rank)
            {
                self.check_queue.enqueue(id);
            }
        }
        self.plan(id);
    }

    /// Postpones the check of a member if traffic replaces it. Returns whether it did.
    fn skips_check(&mut self, now: Tick, rank: usize) -> bool {
        let (Some(health), member) = (&self.spec.health, &mut self.members[rank]) else { return false };
        if !health.schedule.adaptive {
            return false;
        }
        let traffic = member.traffic_since_check();
        member.checker.skip_check(now, health, traffic, &mut self.rng)
    }

    /// Sends queued checks up to the limit of concurrent ones.
    pub(super) fn send_checks(&mut self, now: Tick) {
        let Some(health) = &self.spec.health else { return };
        let max_concurrent = if self.spec.parallel_checks { health.schedule.max_concurrent } else { 1 };
        while let Some(id) = self.check_queue.next(max_concurrent) {
            let (Some(health), Some(&rank)) = (&self.spec.health, self.index.get(&id)) else { continue };
            let lost = health.timeout.saturating_add(health.check_interval).max(MIN_LOST_AFTER);
            self.check_queue.sent(id, now, now + lost);
            let MemberState { destination, checker, .. } = &self.members[rank];
            self.probe_requests.push_back(ProbeRequest {
                id,
                name: destination.name.clone(),
                address: at_port(&destination.address, health.port),
                host: destination.host.clone(),
                timeout: checker.probe_timeout(health),
                kind: checker.probe(health).clone(),
            });
            self.plan(id);
        }
    }

    pub(super) fn on_probe_result(&mut self, now: Tick, id: DestinationId, result: ProbeResult) {
        if self.probe_requests.iter().any(|request| request.id == id) {
            return; // The request was not fetched yet, so this cannot be its result.
        }
        let Some(sent) = self.check_queue.finish(id) else { return };
        if let (Some(health), Some(&rank), false) = (&self.spec.health, self.index.get(&id), sent.stale) {
            let member = &mut self.members[rank];
            let passed = matches!(result, ProbeResult::Passed { .. });
            member.stats.notify_next_failure();
            let succeeded = member.take_succeeded();
            if member.checker.record(now, health, result, &mut self.rng) {
                member.contradictions.failed +=
                    u64::from(succeeded && member.checker.health() == Health::Down);
                member.on_health_change(self.spec.recovery);
                self.touched = true;
            }
            let up = member.checker.health() != Health::Down;
            if passed && up && member.outlier.check_passed(now, sent.at) {
                member.clear_reason.get_or_insert(Reason::Reachable);
                self.touched = true;
            }
        }
        self.plan(id);
    }

    /// Brings the next check of the member at `rank` forward because its traffic fails; `unresponsive`: its messages wait
    /// without a response.
    pub(super) fn expedite_check(&mut self, now: Tick, rank: usize, unresponsive: bool) {
        if let (Some(health), true) = (&self.spec.health, self.is_checked(rank)) {
            let member = &mut self.members[rank];
            member.checker.expedite(now, health, unresponsive);
            let id = member.id;
            self.plan(id);
        }
    }

    /// Invalidates the current check of `id`; a request that was not fetched yet is withdrawn.
    pub(super) fn invalidate_check(&mut self, id: DestinationId) {
        match self.probe_requests.iter().position(|request| request.id == id) {
            Some(index) => {
                self.probe_requests.remove(index);
                self.check_queue.finish(id);
            }
            None => self.check_queue.invalidate(id),
        }
    }

    pub(super) fn plan_all(&mut self) {
        for rank in 0..self.members.len() {
            self.plan(self.members[rank].id);
        }
    }

    /// Sets the timer of `id`.
    pub(super) fn plan(&mut self, id: DestinationId) {
        let rank = self.index.get(&id).copied();
        let check = match (self.check_queue.running(id), rank) {
            (Some(sent), _) => sent.until,
            (None, Some(rank)) if self.is_checked(rank) && !self.check_queue.is_queued(id) => {
                self.members[rank].checker.due()
            }
            _ => Tick::NEVER,
        };
        let traffic = rank.map_or(Tick::NEVER, |rank| self.members[rank].poll_timeout());
        self.timers.set(id, check.min(traffic));
    }

    fn is_checked(&self, rank: usize) -> bool {
        let member = &self.members[rank];
        let can_be_checked =
            member.admin != AdminState::Maintenance && !member.destination.address.is_unresolved();
        self.spec.health.is_some() && can_be_checked
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
