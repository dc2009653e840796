//! What traffic shows of destinations, and what that changes: a word of an assignment, a comparison with peers, a
//! silence.

use std::mem;
use std::time::Duration;

use crate::destination::{AdminState, Health};
use crate::event::{Event, Reason};
use crate::health::OutlierDecision;
use crate::health::baseline::{self, Baseline};
use crate::health::peer_comparison::{self, OutlierKind, Window};
use crate::health::unresponsive::ResponseState;
use crate::outcome::{Failure, Outcome};
use crate::pool::Pool;
use crate::pool::member_state::MemberState;
use crate::stats::{FailureSignal, Progress};
use crate::time::Tick;

/// Looks for silence are this far apart at least.
const LOOK_AT_LEAST: Duration = Duration::from_millis(10);

impl Pool {
    pub(super) fn signal(&mut self, now: Tick, signal: &FailureSignal) {
        let Some(&rank) = self.index.get(&signal.id) else { return };
        let entry = &self.entries[rank];
        // What goes wrong while it drains or is down anyway is no news.
        if entry.admin != AdminState::Ready || entry.checker.health() == Health::Down {
            return;
        }
        let silent = signal.outcome == Outcome::Failed(Failure::Timeout);
        if signal.outcome.blames_destination() {
            self.expedite_check(now, rank, silent);
        }
        let room = self.room(rank);
        let entry = &mut self.entries[rank];
        // A row that a good answer or a return has ended since the assignment spoke is no row.
        let signal = FailureSignal { streak: signal.streak.min(entry.stats.streak()), ..*signal };
        let connects_only = entry.stats.only_connects_failed();
        let verdict = entry.outlier.judge(now, &self.spec.outlier, &signal, connects_only, room);
        let last = match signal.outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Answered { .. } => None,
        };
        match verdict {
            OutlierDecision::Nothing => return,
            OutlierDecision::Spared => {
                let (pool, destination) = (self.name.clone(), entry.destination.name.clone());
                self.panic(now);
                return self.emit(Event::EjectionSkipped { pool, destination, streak: signal.streak });
            }
            OutlierDecision::Ejected(span) => {
                entry.ejected(Reason::TrafficFailed { streak: signal.streak, last, span });
            }
            OutlierDecision::TrialFailed(span) => {
                entry.ejected_reason = Some(Reason::TrialFailed { last, span })
            }
            OutlierDecision::TrialPassed => entry.clear_reason = Some(Reason::TrialPassed),
        }
        self.touched = true;
        self.plan(signal.id);
    }

    pub(super) fn plan_comparison(&mut self, now: Tick) {
        let on = self.spec.outlier.consecutive_failures > 0;
        let interval = self.spec.outlier.interval.filter(|_| on);
        self.compare_at = interval.map_or(Tick::NEVER, |interval| now + interval);
    }

    /// Compares what destinations did since the last time, and sets aside who did worse than the others.
    pub(super) fn compare(&mut self, now: Tick) {
        let serving = |entry: &MemberState| entry.status.serves() && entry.admin == AdminState::Ready;
        let window = |entry: &mut MemberState| {
            let (counts, fit) = (entry.stats.counts(), serving(entry));
            let window = Window::between(&mem::replace(&mut entry.counted, counts.clone()), &counts);
            // Who did not serve all the while has shown nothing.
            if fit { window } else { Window::default() }
        };
        let windows: Vec<Window> = self.entries.iter_mut().map(window).collect();
        for (rank, worse) in self.worse(&windows) {
            self.set_aside(now, rank, |span| Reason::WorseThanPeers { worse, span });
        }
    }

    /// Who did worse than the others; where each is known by its own past, also who did worse than it used to,
    /// and not who is slower than the others as ever.
    fn worse(&mut self, windows: &[Window]) -> Vec<(usize, OutlierKind)> {
        let mut found = peer_comparison::outliers(windows);
        if self.spec.outlier.learning {
            let baselines: Vec<Baseline> = self.entries.iter().map(|entry| entry.baseline).collect();
            let slow = |worse: &OutlierKind| matches!(worse, OutlierKind::Latency { .. });
            found.retain(|(rank, worse)| {
                !(slow(worse) && baselines[*rank].is_within_baseline(&windows[*rank]))
            });
            for (rank, worse) in baseline::outliers(windows, &baselines) {
                if found.iter().all(|(known, _)| *known != rank) {
                    found.push((rank, worse));
                }
            }
            self.entries.iter_mut().zip(windows).for_each(|(entry, window)| entry.baseline.learn(window));
        }
        found
    }

    /// Sets the destination at `rank` aside for what `reason` says, if the pool can spare it.
    fn set_aside(&mut self, now: Tick, rank: usize, reason: impl FnOnce(Duration) -> Reason) {
        let room = self.room(rank);
        let entry = &mut self.entries[rank];
        match entry.outlier.set_aside(now, &self.spec.outlier, room) {
            OutlierDecision::Ejected(span) => {
                entry.ejected(reason(span));
                self.touched = true;
                // Before the next is judged: what this one leaves must do.
                self.settle(now);
            }
            OutlierDecision::Spared => {
                let (pool, destination) = (self.name.clone(), entry.destination.name.clone());
                let streak = entry.stats.streak();
                self.panic(now);
                self.emit(Event::EjectionSkipped { pool, destination, streak });
            }
            _ => {}
        }
    }

    pub(super) fn plan_look(&mut self, now: Tick) {
        let heard = self.spec.outlier.consecutive_failures > 0 || self.spec.health.is_some();
        // The only destination serves whatever it is like.
        let silence = self.spec.outlier.unresponsive_after.filter(|_| heard && self.entries.len() > 1);
        self.look_at = match silence {
            None => Tick::NEVER,
            // Who comes and goes often must not put it off for ever.
            Some(_) if now < self.look_at && self.look_at != Tick::NEVER => self.look_at,
            Some(silence) => now + (silence / 2).max(LOOK_AT_LEAST),
        };
    }

    /// Looks for destinations that take messages and answer none.
    pub(super) fn look(&mut self, now: Tick) {
        let Some(least) = self.spec.outlier.unresponsive_after else { return };
        if self.entries.iter().all(|entry| entry.stats.in_flight() == 0) {
            return self.entries.iter_mut().for_each(|entry| entry.unresponsive.forget());
        }
        let progress: Vec<(Progress, u32)> =
            self.entries.iter().map(|entry| entry.stats.progress()).collect();
        let mut all = Progress::default();
        progress.iter().for_each(|&(own, _)| all += own);
        for (rank, (own, waiting)) in progress.into_iter().enumerate() {
            let row = self.spec.outlier.consecutive_failures;
            let entry = &mut self.entries[rank];
            match entry.unresponsive.look(now, &own, &all.since(&own), waiting, least, row) {
                _ if entry.admin != AdminState::Ready || entry.checker.health() == Health::Down => {}
                ResponseState::Fine => {}
                ResponseState::Doubtful => self.expedite_check(now, rank, true),
                ResponseState::Unresponsive(observation) if entry.status.serves() => {
                    self.set_aside(now, rank, |span| Reason::Unresponsive { observation, span });
                }
                ResponseState::Unresponsive(_) => {}
            }
        }
        // A check may be due by that.
        for id in self.timers.take_due(now) {
            self.wake(now, id);
        }
        self.send_checks(now);
    }
}
