//! Load reports of members, and the members that are set aside for overload.

use std::mem;
use std::time::Duration;

use crate::destination::AdminState;
use crate::event::Reason;
use crate::health::OverloadSpec;
use crate::measure::LoadReport;
use crate::pool::Pool;
use crate::pool::member_state::MemberState;
use crate::time::Tick;

/// Interval at which reports in responses are evaluated; others are evaluated when they arrive.
const EVALUATION_INTERVAL: Duration = Duration::from_millis(500);

impl Pool {
    /// Records a load report.
    pub(super) fn load_report(&mut self, now: Tick, name: &str, report: &LoadReport) {
        let Some(member) = self.members.iter().find(|member| &*member.destination.name == name) else {
            return;
        };
        member.stats.reported().record(now, report);
        if self.spec.load.overload.is_some() {
            self.evaluate_load_at = now;
        }
    }

    /// Replaces the settings of load reports.
    pub(super) fn replace_load(&mut self, now: Tick) {
        for member in &mut self.members {
            member.stats.reported().set_max_age(self.spec.load.max_age);
            if self.spec.load.overload.is_none() && mem::take(&mut member.overloaded) {
                member.clear_reason = Some(Reason::LoadRecovered { percent: None });
            }
        }
        self.touched = true;
        self.evaluate_load_at = if self.spec.load.overload.is_some() { now } else { Tick::NEVER };
    }

    /// Sets overloaded members aside, those with the highest load first, and restores recovered ones.
    pub(super) fn evaluate_load(&mut self, now: Tick) {
        let Some(spec) = self.spec.load.overload else { return };
        self.evaluate_load_at = now + EVALUATION_INTERVAL;
        let mut full = Vec::new();
        for (rank, member) in self.members.iter_mut().enumerate() {
            let score = member.stats.reported().report(now).score();
            if member.overloaded && score.is_none_or(|score| score < spec.recover as f32) {
                member.overloaded = false;
                member.clear_reason = Some(Reason::LoadRecovered { percent: score.map(percent) });
                self.touched = true;
            }
            let serves = member.status.serves() && member.admin == AdminState::Ready;
            full.extend(
                score.filter(|&score| serves && score >= spec.threshold as f32).map(|score| (rank, score)),
            );
        }
        // A restored member may add capacity for setting others aside.
        self.update_statuses(now);
        full.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        for (rank, score) in full {
            if !self.can_set_aside(rank, &spec) {
                break;
            }
            let member = &mut self.members[rank];
            member.overloaded = true;
            member.overload_reason = Some(Reason::Overloaded { percent: percent(score) });
            self.touched = true;
            self.update_statuses(now);
        }
    }

    /// Returns whether the pool has the capacity to set the member at `rank` aside.
    fn can_set_aside(&self, rank: usize, spec: &OverloadSpec) -> bool {
        let overloaded = self.members.iter().filter(|member| member.overloaded).count();
        let capacity = self.ejection_capacity(rank);
        overloaded < spec.max_overloaded(self.members.len())
            && capacity.others_serve
            && capacity.others_suffice
    }

    /// Restores overloaded members while too few others serve, the least loaded first: an overloaded member is better
    /// than none.
    pub(super) fn restore_overloaded(&mut self, now: Tick) {
        let (backup, only_member) = (self.spec.tiers.backup_tiers, self.members.len() == 1);
        while self.members.iter().any(|member| member.overloaded) {
            let serves = |member: &&MemberState| member.takes(member.computed_status(only_member), backup);
            let serving = self.members.iter().filter(serves).count();
            if serving > 0 && self.meets_panic_threshold(serving) {
                return;
            }
            let helps = |member: &&mut MemberState| {
                member.overloaded && member.takes(member.status_if_unloaded(), backup)
            };
            let score = |member: &MemberState| member.stats.reported().report(now).score().unwrap_or(0.0);
            let candidates = self.members.iter_mut().filter(helps);
            let Some(least) = candidates.min_by(|a, b| score(a).total_cmp(&score(b))) else { return };
            least.overloaded = false;
            least.clear_reason = Some(Reason::PanicThreshold);
        }
    }
}

fn percent(score: f32) -> u8 {
    (score * 100.0).round().clamp(0.0, 100.0) as u8
}
