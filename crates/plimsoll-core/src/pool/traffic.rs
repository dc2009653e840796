//! Outlier detection of a pool: failure signals, comparison with peers, and unresponsive members.

use std::mem;
use std::time::Duration;

use crate::balance::Needs;
use crate::destination::{AdminState, Ejection, Health};
use crate::event::{Event, Reason};
use crate::health::baseline::{self, Baseline};
use crate::health::peer_comparison::{self, OutlierKind, Window};
use crate::health::unresponsive::{DetectionLimits, Observation, ResponseState};
use crate::health::{HealthSpec, OutlierDecision};
use crate::outcome::{Failure, Outcome};
use crate::pool::Pool;
use crate::pool::member_state::MemberState;
use crate::stats::{FailureSignal, Progress};
use crate::time::Tick;

/// Time from a skipped ejection to the first early trial.
const FIRST_EARLY_TRIAL: Duration = Duration::from_secs(1);

/// Minimum interval of the detection of unresponsive members.
const MIN_DETECTION_INTERVAL: Duration = Duration::from_millis(10);

impl Pool {
    pub(super) fn on_failure_signal(&mut self, now: Tick, signal: &FailureSignal) {
        let Some(&rank) = self.index.get(&signal.id) else { return };
        let member = &self.members[rank];
        // Failures of a draining or down member are expected.
        if member.admin != AdminState::Ready || member.checker.health() == Health::Down {
            return;
        }
        let unresponsive = signal.outcome == Outcome::Failed(Failure::Timeout);
        if signal.outcome.blames_destination() {
            self.expedite_check(now, rank, unresponsive);
        }
        let capacity = self.ejection_capacity(rank);
        let member = &mut self.members[rank];
        // A good response or a return since the signal has reset the streak.
        let signal = FailureSignal { streak: signal.streak.min(member.stats.streak()), ..*signal };
        let connects_only = member.stats.only_connects_failed();
        let decision = member.outlier.evaluate(now, &self.spec.outlier, &signal, connects_only, capacity);
        let last = match signal.outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Answered { .. } => None,
        };
        match decision {
            OutlierDecision::Unchanged => return,
            OutlierDecision::Skipped => {
                let (pool, destination) = (self.name.clone(), member.destination.name.clone());
                self.skip_ejection(now);
                return self.emit(Event::EjectionSkipped { pool, destination, streak: signal.streak });
            }
            OutlierDecision::Ejected(span) => {
                member.set_ejected(Reason::TrafficFailed { streak: signal.streak, last, span });
            }
            OutlierDecision::TrialFailed(span) => {
                member.ejected_reason = Some(Reason::TrialFailed { last, span })
            }
            OutlierDecision::TrialPassed => member.clear_reason = Some(Reason::TrialPassed),
        }
        self.touched = true;
        self.plan(signal.id);
    }

    /// Handles an ejection that the pool has no capacity for: either the whole pool fails, or another destination is worse
    /// by now than one that is ejected. So the ejected ones are tried early, and those that are well make room.
    fn skip_ejection(&mut self, now: Tick) {
        self.enter_panic(now);
        if self.early_trial_at == Tick::NEVER && self.members.iter().any(|member| member.outlier.is_ejected())
        {
            (self.early_trial_at, self.early_trial_wait) = (now + FIRST_EARLY_TRIAL, FIRST_EARLY_TRIAL);
        }
    }

    /// Begins an early trial of the ejected member with the earliest end of its time. The waits between early trials double, until
    /// trials at the end of ejections are as frequent.
    pub(super) fn begin_early_trial(&mut self, now: Tick) {
        let backup = self.spec.tiers.backup_tiers;
        let end = |member: &MemberState| match member.outlier.ejection() {
            Ejection::Until(until) if member.takes(member.status_if_unejected(), backup) => Some(until),
            _ => None,
        };
        let first = (0..self.members.len()).filter_map(|rank| Some((end(&self.members[rank])?, rank))).min();
        let ejected = self.members.iter().any(|member| member.outlier.is_ejected());
        self.early_trial_wait = self.early_trial_wait.saturating_mul(2);
        let goes_on = ejected && self.early_trial_wait < self.spec.outlier.base_ejection;
        self.early_trial_at = if goes_on { now + self.early_trial_wait } else { Tick::NEVER };
        if let Some((_, rank)) = first {
            let member = &mut self.members[rank];
            self.touched |= member.outlier.begin_early_trial();
            let id = member.id;
            self.plan(id);
        }
    }

    pub(super) fn plan_comparison(&mut self, now: Tick) {
        let on = self.spec.outlier.consecutive_failures > 0;
        let interval = self.spec.outlier.interval.filter(|_| on);
        self.compare_at = interval.map_or(Tick::NEVER, |interval| now + interval);
    }

    /// Compares the outcomes since the last comparison, and ejects outliers.
    pub(super) fn compare(&mut self, now: Tick) {
        let serving = |member: &MemberState| member.status.serves() && member.admin == AdminState::Ready;
        let window = |member: &mut MemberState| {
            let (counts, fit) = (member.stats.counts(), serving(member));
            let window = Window::between(&mem::replace(&mut member.compared, counts.clone()), &counts);
            // A member that did not serve has no outcomes to compare.
            if fit { window } else { Window::default() }
        };
        let windows: Vec<Window> = self.members.iter_mut().map(window).collect();
        for (rank, worse) in self.find_outliers(&windows) {
            self.eject(now, rank, |span| Reason::WorseThanPeers { worse, span });
        }
    }

    /// Finds outliers among peers and, with learning, by baselines: members that are as slow as usual are no outliers.
    fn find_outliers(&mut self, windows: &[Window]) -> Vec<(usize, OutlierKind)> {
        let mut found = peer_comparison::outliers(windows);
        let by_latency = self.spec.outlier.latency && self.policy.needs() != Needs::Key;
        if self.spec.outlier.learning {
            let baselines: Vec<Baseline> = self.members.iter().map(|member| member.baseline).collect();
            let slow = |worse: &OutlierKind| matches!(worse, OutlierKind::Latency { .. });
            found.retain(|(rank, worse)| {
                !(slow(worse) && baselines[*rank].is_within_baseline(&windows[*rank]))
            });
            for (rank, worse) in baseline::outliers(windows, &baselines) {
                if found.iter().all(|(known, _)| *known != rank) {
                    found.push((rank, worse));
                }
            }
            self.members.iter_mut().zip(windows).for_each(|(member, window)| member.baseline.learn(window));
        }
        found.retain(|(_, worse)| by_latency || !worse.is_latency());
        found
    }

    /// Ejects the member at `rank` for `reason`, if the pool has the capacity.
    fn eject(&mut self, now: Tick, rank: usize, reason: impl FnOnce(Duration) -> Reason) {
        let capacity = self.ejection_capacity(rank);
        let member = &mut self.members[rank];
        match member.outlier.eject_outlier(now, &self.spec.outlier, capacity) {
            OutlierDecision::Ejected(span) => {
                member.set_ejected(reason(span));
                self.touched = true;
                // The next ejection depends on the capacity that this one leaves.
                self.update_statuses(now);
            }
            OutlierDecision::Skipped => {
                let (pool, destination) = (self.name.clone(), member.destination.name.clone());
                let streak = member.stats.streak();
                self.skip_ejection(now);
                self.emit(Event::EjectionSkipped { pool, destination, streak });
            }
            _ => {}
        }
    }

    pub(super) fn plan_detection(&mut self, now: Tick) {
        let is_used = self.spec.outlier.consecutive_failures > 0 || self.spec.health.is_some();
        // The only member serves in any case.
        let silence = self.spec.outlier.unresponsive_after.filter(|_| is_used && self.members.len() > 1);
        self.detect_unresponsive_at = match silence {
            None => Tick::NEVER,
            // Frequent changes of members must not postpone the detection for ever.
            Some(_) if now < self.detect_unresponsive_at && self.detect_unresponsive_at != Tick::NEVER => {
                self.detect_unresponsive_at
            }
            Some(silence) => now + (silence / 2).max(MIN_DETECTION_INTERVAL),
        };
    }

    /// Returns the limits of the detection for the member at `rank`. Where a check that needs a response has passed since
    /// the suspicion, no message confirms it.
    fn detection_limits(&self, rank: usize, min_wait: Duration) -> DetectionLimits {
        let min_messages = self.spec.outlier.consecutive_failures;
        let needs_response = self.spec.health.as_ref().is_some_and(HealthSpec::needs_response);
        let contradicted = needs_response && self.members[rank].suspicion_passed_check();
        let min_later = if contradicted { u64::MAX } else { min_messages.into() };
        DetectionLimits { min_wait, min_messages, min_later }
    }

    /// Finds members that accept messages and respond to none.
    pub(super) fn detect_unresponsive(&mut self, now: Tick) {
        let Some(min_wait) = self.spec.outlier.unresponsive_after else { return };
        if self.members.iter().all(|member| member.stats.in_flight() == 0) {
            return self.members.iter_mut().for_each(|member| member.unresponsive.reset());
        }
        let progress: Vec<(Progress, u32)> =
            self.members.iter().map(|member| member.stats.progress()).collect();
        let (mut all, mut all_waiting) = (Progress::default(), 0_u32);
        for &(own, waiting) in &progress {
            all += own;
            all_waiting = all_waiting.saturating_add(waiting);
        }
        for (rank, (own, waiting)) in progress.into_iter().enumerate() {
            let limits = self.detection_limits(rank, min_wait);
            let (peers, peers_waiting) = (all.since(&own), all_waiting.saturating_sub(waiting));
            let seen = Observation { own, waiting, peers, peers_waiting };
            let member = &mut self.members[rank];
            let state = member.unresponsive.evaluate(now, &seen, &limits);
            if member.admin != AdminState::Ready || member.checker.health() == Health::Down {
                continue;
            }
            let observation = match state {
                ResponseState::Responsive => continue,
                ResponseState::Suspect => {
                    self.expedite_check(now, rank, true);
                    continue;
                }
                ResponseState::Overdue(observation) if member.suspicion_failed_check() => observation,
                ResponseState::Overdue(_) => continue,
                ResponseState::Unresponsive(observation) => observation,
            };
            if member.status.serves() {
                self.eject(now, rank, |span| Reason::Unresponsive { observation, span });
            }
        }
        // Checks may be due now.
        for id in self.timers.take_due(now) {
            self.on_timer(now, id);
        }
        self.send_checks(now);
    }
}
