//! Changes by the configuration and the operator: members, settings, administrative states and weights.

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
        let order: Vec<DestinationId> = self.members.iter().map(|member| member.id).collect();
        let mut left: HashMap<Name, MemberState> =
            self.members.drain(..).map(|member| (member.destination.name.clone(), member)).collect();
        let (mut seen, mut added) = (HashSet::new(), 0);
        for destination in members {
            if !seen.insert(destination.name.clone()) {
                continue;
            }
            let member = match left.remove(&destination.name) {
                Some(member) => self.keep_member(now, member, destination),
                None => {
                    added += 1;
                    self.add_member(now, destination, added - 1)
                }
            };
            self.members.push(member);
        }
        self.index = self.members.iter().enumerate().map(|(rank, member)| (member.id, rank)).collect();
        let mut left: Vec<MemberState> = left.into_values().collect();
        left.sort_by_key(|member| member.id);
        left.into_iter().for_each(|member| self.remove_member(member));
        self.dirty |= !self.members.iter().map(|member| member.id).eq(order);
        self.touched = true;
        self.plan_detection(now);
        self.plan_all();
    }

    /// Replaces the members after a lookup; those that stay keep their weight, which the operator may have set.
    pub(super) fn replace_looked_up(&mut self, now: Tick, mut members: Vec<Destination>) {
        let weights: HashMap<&Name, Weight> =
            self.members.iter().map(|m| (&m.destination.name, m.destination.weight)).collect();
        for member in &mut members {
            member.weight = weights.get(&member.name).copied().unwrap_or(member.weight);
        }
        self.replace_members(now, members);
    }

    /// Returns the assumed health before a destination's first check.
    fn start_health(&self) -> Start {
        self.spec.health.as_ref().map_or(Start::Serving, |health| health.schedule.start)
    }

    fn keep_member(&mut self, now: Tick, mut member: MemberState, destination: Destination) -> MemberState {
        if member.destination != destination {
            self.dirty = true;
            if member.destination.address != destination.address {
                self.invalidate_check(member.id);
                member.reset(now, self.start_health());
                member.clear_reason = Some(Reason::AddressChanged);
            }
            member.destination = destination;
            member.stats.set_limits(member.destination.limits);
        }
        member
    }

    fn add_member(&mut self, now: Tick, destination: Destination, nth: usize) -> MemberState {
        let id = DestinationId(self.next_id);
        // 4 billion additions: a thousand per second for seven weeks.
        self.next_id = self.next_id.wrapping_add(1);
        let stats = DestinationStats::new(self.workers);
        stats.set_signal_threshold(signal_threshold(&self.spec.outlier));
        stats.reported().set_max_age(self.spec.load.max_age);
        stats.notify_next_failure();
        stats.set_limits(destination.limits);
        let checker = Checker::new(self.first_check(now, nth), self.start_health());
        let mut member = MemberState::new(id, destination, stats, now, checker);
        if self.started {
            member.begin_slow_start(now, self.spec.slow_start_window());
        }
        let (pool, destination) = (self.name.clone(), member.destination.name.clone());
        self.emit(Event::MemberAdded { pool, destination, status: member.status });
        member
    }

    fn remove_member(&mut self, mut member: MemberState) {
        self.invalidate_check(member.id);
        member.close_trial();
        self.plan(member.id);
        let (pool, destination) = (self.name.clone(), member.destination.name);
        self.emit(Event::MemberRemoved { pool, destination, status: member.status });
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
            self.members.iter().for_each(|member| member.stats.reported().forget_named());
        }
        self.dirty |= old.tiers != self.spec.tiers;
        if old.limits != self.spec.limits {
            self.limiter.set_limits(&self.spec.limits);
            self.dirty = true;
        }
        self.touched = true;
        for member in &mut self.members {
            member.stats.set_signal_threshold(signal_threshold(&self.spec.outlier));
            if self.spec.outlier.consecutive_failures == 0 && member.outlier.uneject(now) {
                member.clear_reason = Some(Reason::DetectionOff);
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
            self.plan_detection(now);
        }
        self.plan_all();
    }

    pub(super) fn set_admin(&mut self, now: Tick, name: &str, state: AdminState) {
        let start = self.start_health();
        let Some(member) = self.members.iter_mut().find(|member| &*member.destination.name == name) else {
            return;
        };
        let id = member.id;
        if mem::replace(&mut member.admin, state) == AdminState::Maintenance {
            // As in HAProxy: the destination starts healthy and is checked at once.
            member.reset(now, start);
        }
        if state == AdminState::Maintenance {
            self.invalidate_check(id);
        }
        self.touched = true;
        self.plan(id);
    }

    pub(super) fn set_weight(&mut self, name: &str, weight: Weight) {
        if let Some(member) = self.members.iter_mut().find(|member| &*member.destination.name == name)
            && mem::replace(&mut member.destination.weight, weight) != weight
        {
            (self.dirty, self.touched) = (true, true);
        }
    }
}
