//! What destinations say of their load, and who is set aside for it before it fails.

use std::mem;
use std::time::Duration;

use crate::destination::AdminState;
use crate::event::Reason;
use crate::health::OverloadSpec;
use crate::measure::LoadReport;
use crate::pool::Pool;
use crate::time::Tick;

/// So often it is looked what answers have told meanwhile; a report by another way is looked at when it comes.
const LOOK_EACH: Duration = Duration::from_millis(500);

impl Pool {
    /// A destination has said how loaded it is.
    pub(super) fn load_report(&mut self, now: Tick, name: &str, report: &LoadReport) {
        let Some(entry) = self.entries.iter().find(|entry| &*entry.destination.name == name) else { return };
        entry.stats.reported().record(now, report);
        if self.spec.load.overload.is_some() {
            self.evaluate_load_at = now;
        }
    }

    /// Other rules than before: what was said counts by the new ones.
    pub(super) fn replace_load(&mut self, now: Tick) {
        for entry in &mut self.entries {
            entry.stats.reported().set_max_age(self.spec.load.max_age);
            if self.spec.load.overload.is_none() && mem::take(&mut entry.overloaded) {
                entry.clear_reason = Some(Reason::LoadRecovered { percent: None });
            }
        }
        self.touched = true;
        self.evaluate_load_at = if self.spec.load.overload.is_some() { now } else { Tick::NEVER };
    }

    /// Sets aside who has too much to do, the fullest first, and takes back who has less again.
    pub(super) fn evaluate_load(&mut self, now: Tick) {
        let Some(spec) = self.spec.load.overload else { return };
        self.evaluate_load_at = now + LOOK_EACH;
        let mut full = Vec::new();
        for (rank, entry) in self.entries.iter_mut().enumerate() {
            let score = entry.stats.reported().report(now).score();
            if entry.overloaded && score.is_none_or(|score| score < spec.recover as f32) {
                entry.overloaded = false;
                entry.clear_reason = Some(Reason::LoadRecovered { percent: score.map(percent) });
                self.touched = true;
            }
            let serves = entry.status.serves() && entry.admin == AdminState::Ready;
            full.extend(
                score.filter(|&score| serves && score >= spec.threshold as f32).map(|score| (rank, score)),
            );
        }
        // Before anybody is judged: who is back may make room for another.
        self.settle(now);
        full.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        for (rank, score) in full {
            if !self.bears_without(rank, &spec) {
                break;
            }
            let entry = &mut self.entries[rank];
            entry.overloaded = true;
            entry.overload_reason = Some(Reason::Overloaded { percent: percent(score) });
            self.touched = true;
            self.settle(now);
        }
    }

    /// May the pool do without the destination at `rank`?
    fn bears_without(&self, rank: usize, spec: &OverloadSpec) -> bool {
        let overloaded = self.entries.iter().filter(|entry| entry.overloaded).count();
        let room = self.room(rank);
        overloaded < spec.most(self.entries.len()) && room.others_serve && room.others_suffice
    }

    /// Takes overloaded destinations back that the pool cannot do without any more, the least loaded first: one
    /// that has too much to do serves better than none, and than one that failed.
    pub(super) fn restore_overloaded(&mut self, now: Tick) {
        let (backup, lone) = (self.spec.tiers.backup_tiers, self.entries.len() == 1);
        while self.entries.iter().any(|entry| entry.overloaded) {
            let fit =
                self.entries.iter().filter(|e| e.destination.weight.get() > 0 && e.tier_is_used(backup));
            let wanted = fit.count() as f64 * self.spec.panic_threshold - 1e-9;
            let serving = self.entries.iter().filter(|e| e.takes(e.stands(lone), backup)).count();
            if serving > 0 && serving as f64 >= wanted {
                return;
            }
            let helps = |e: &&mut super::MemberState| e.overloaded && e.takes(e.stands_if_unloaded(), backup);
            let score = |e: &super::MemberState| e.stats.reported().report(now).score().unwrap_or(0.0);
            let of_use = self.entries.iter_mut().filter(helps);
            let Some(least) = of_use.min_by(|a, b| score(a).total_cmp(&score(b))) else { return };
            least.overloaded = false;
            least.clear_reason = Some(Reason::PanicThreshold);
        }
    }
}

fn percent(score: f32) -> u8 {
    (score * 100.0).round().clamp(0.0, 100.0) as u8
}
