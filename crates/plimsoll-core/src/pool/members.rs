//! What is ordered of a pool: other members, other rules, a destination taken out or weighed anew.

use std::collections::{HashMap, HashSet};
use std::mem;

use super::member_state::MemberState;
use super::{Pool, PoolSpec, signal_threshold};
use crate::balance::AlgorithmSettings;
use crate::destination::{AdminState, Destination, DestinationId, Name, Weight};
use crate::event::{Event, Reason};
use crate::health::{Checker, Start};
use crate::stats::DestinationStats;
use crate::time::Tick;

impl Pool {
    pub(super) fn replace_members(&mut self, now: Tick, members: Vec<Destination>) {
        let order: Vec<DestinationId> = self.entries.iter().map(|entry| entry.id).collect();
        let mut left: HashMap<Name, MemberState> =
            self.entries.drain(..).map(|entry| (entry.destination.name.clone(), entry)).collect();
        let (mut seen, mut joined) = (HashSet::new(), 0);
        for destination in members {
            if !seen.insert(destination.name.clone()) {
                continue;
            }
            let entry = match left.remove(&destination.name) {
                Some(entry) => self.keep(now, entry, destination),
                None => {
                    joined += 1;
                    self.join(now, destination, joined - 1)
                }
            };
            self.entries.push(entry);
        }
        self.index = self.entries.iter().enumerate().map(|(rank, entry)| (entry.id, rank)).collect();
        let mut left: Vec<MemberState> = left.into_values().collect();
        left.sort_by_key(|entry| entry.id);
        left.into_iter().for_each(|entry| self.leave(entry));
        self.dirty |= !self.entries.iter().map(|entry| entry.id).eq(order);
        self.touched = true;
        self.plan_look(now);
        self.plan_all();
    }

    /// Before a destination's first check.
    fn start(&self) -> Start {
        self.spec.health.as_ref().map_or(Start::Serving, |health| health.schedule.start)
    }

    fn keep(&mut self, now: Tick, mut entry: MemberState, destination: Destination) -> MemberState {
        if entry.destination != destination {
            self.dirty = true;
            if entry.destination.address != destination.address {
                self.invalidate(entry.id);
                entry.forget(now, self.start());
                entry.clear_reason = Some(Reason::AddressChanged);
            }
            entry.destination = destination;
            entry.stats.set_limits(entry.destination.limits);
        }
        entry
    }

    fn join(&mut self, now: Tick, destination: Destination, nth: usize) -> MemberState {
        let id = DestinationId(self.next_id);
        // 4 billion joins: a thousand a second for seven weeks without a break.
        self.next_id = self.next_id.wrapping_add(1);
        let stats = DestinationStats::new(self.workers);
        stats.set_signal_threshold(signal_threshold(&self.spec.outlier));
        stats.reported().set_max_age(self.spec.load.max_age);
        stats.notify_next_failure();
        stats.set_limits(destination.limits);
        let checker = Checker::new(self.first_check(now, nth), self.start());
        let mut entry = MemberState::new(id, destination, stats, now, checker);
        if self.runs {
            entry.begin_slow_start(now, self.spec.window());
        }
        let (pool, destination) = (self.name.clone(), entry.destination.name.clone());
        self.emit(Event::MemberAdded { pool, destination, status: entry.status });
        entry
    }

    fn leave(&mut self, mut entry: MemberState) {
        self.invalidate(entry.id);
        entry.close_trial();
        self.plan(entry.id);
        let (pool, destination) = (self.name.clone(), entry.destination.name);
        self.emit(Event::MemberRemoved { pool, destination, status: entry.status });
    }

    pub(super) fn replace_spec(&mut self, now: Tick, spec: PoolSpec) {
        let old = mem::replace(&mut self.spec, spec);
        if (old.algorithm, &old.settings) != (self.spec.algorithm, &self.spec.settings) {
            self.policy = self.spec.algorithm.policy_with(self.workers, &self.spec.settings);
            self.dirty = true;
        }
        let named =
            |settings: &AlgorithmSettings| settings.formula.as_ref().map(|formula| formula.named().to_vec());
        if named(&old.settings) != named(&self.spec.settings) {
            self.entries.iter().for_each(|entry| entry.stats.reported().forget_named());
        }
        self.dirty |= old.tiers != self.spec.tiers;
        if old.limits != self.spec.limits {
            self.limiter.set_limits(&self.spec.limits);
            self.dirty = true;
        }
        self.touched = true;
        for entry in &mut self.entries {
            entry.stats.set_signal_threshold(signal_threshold(&self.spec.outlier));
            if self.spec.outlier.consecutive_failures == 0 && entry.outlier.uneject(now) {
                entry.clear_reason = Some(Reason::DetectionOff);
            }
        }
        if old.health != self.spec.health {
            self.replace_checks(now, old.health.is_some());
        }
        if old.load != self.spec.load {
            self.replace_load(now);
        }
        if old.outlier != self.spec.outlier {
            self.plan_comparison(now);
            self.plan_look(now);
        }
        self.plan_all();
    }

    pub(super) fn set_admin(&mut self, now: Tick, name: &str, state: AdminState) {
        let start = self.start();
        let Some(entry) = self.entries.iter_mut().find(|entry| &*entry.destination.name == name) else {
            return;
        };
        let id = entry.id;
        if mem::replace(&mut entry.admin, state) == AdminState::Maintenance {
            // As in HAProxy: it starts well and is checked at once.
            entry.forget(now, start);
        }
        if state == AdminState::Maintenance {
            self.invalidate(id);
        }
        self.touched = true;
        self.plan(id);
    }

    pub(super) fn set_weight(&mut self, name: &str, weight: Weight) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| &*entry.destination.name == name)
            && mem::replace(&mut entry.destination.weight, weight) != weight
        {
            (self.dirty, self.touched) = (true, true);
        }
    }
}
