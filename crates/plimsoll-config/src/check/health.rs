//! How destinations are checked: how often, how patiently, and by which thresholds.

use std::time::Duration;

use plimsoll_core::health::{HealthSpec, Rhythm, Start};

use crate::check::asking::Asking;
use crate::check::keys;
use crate::check::read::{Place, Reader};
use crate::check::table::Table;
use crate::defaults;
use crate::problem::Code;

/// Settings of checks, before it is known whether there are any: blocks are laid over one another.
#[derive(Clone, Debug)]
pub(crate) struct HealthSettings {
    check_interval: Duration,
    /// `None`: nobody said.
    fast_interval: Option<Duration>,
    timeout: Duration,
    failure_threshold: u32,
    recovery_threshold: u32,
    asking: Asking,
    port: Option<u16>,
    rhythm: Rhythm,
    recovery: bool,
    alerting: bool,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            check_interval: defaults::CHECK_INTERVAL,
            fast_interval: None,
            timeout: defaults::CHECK_TIMEOUT,
            failure_threshold: defaults::FAILURE_THRESHOLD,
            recovery_threshold: defaults::RECOVERY_THRESHOLD,
            asking: Asking::default(),
            port: None,
            rhythm: Rhythm::default(),
            recovery: false,
            alerting: false,
        }
    }
}

impl HealthSettings {
    /// Who passes its checks again proves itself before it is given its share.
    pub(crate) fn recovery(&self) -> bool {
        self.recovery
    }

    /// People are told when destinations and the pool go or come back.
    pub(crate) fn alerting(&self) -> bool {
        self.alerting
    }

    /// Nobody said how checks are made.
    pub(crate) fn is_by_default(&self) -> bool {
        self.asking.is_by_default()
    }

    /// What they come to; `tunes`: intervals and time limits follow what is seen.
    pub(crate) fn spec(&self, tunes: bool) -> HealthSpec {
        let fast = self.fast_interval.unwrap_or(defaults::CHECK_FAST_INTERVAL).min(self.check_interval);
        HealthSpec {
            check_interval: self.check_interval,
            timeout: self.timeout,
            failure_threshold: self.failure_threshold,
            recovery_threshold: self.recovery_threshold,
            probe: self.asking.probe(),
            if_gray: None,
            port: self.port,
            rhythm: Rhythm { fast: Some(fast), tunes, ..self.rhythm },
        }
    }
}

impl Reader<'_> {
    /// Lays a `health_monitoring` block over what held before.
    pub(crate) fn health_monitoring(&mut self, place: &Place<'_>, health: &mut HealthSettings) {
        let Some(table) = self.table(place, &keys::HEALTH_MONITORING) else { return };
        let get = |key| table.get(key);
        set(&mut health.check_interval, get("check_interval").and_then(|p| self.dur(p, &defaults::INTERVAL)));
        set(&mut health.timeout, get("timeout").and_then(|p| self.dur(p, &defaults::TIMEOUT)));
        let threshold = defaults::THRESHOLD;
        set(
            &mut health.failure_threshold,
            get("failure_threshold").and_then(|p| self.whole(p, threshold.clone())),
        );
        set(&mut health.recovery_threshold, get("recovery_threshold").and_then(|p| self.whole(p, threshold)));
        self.rhythm(&table, health);
        self.asking(&table, &mut health.asking);
        if let Some(port) = get("port").and_then(|p| self.whole(p, 1..=65_535)) {
            health.port = Some(port);
        }
        set(&mut health.recovery, get("recovery_management").and_then(|p| self.switch(p)));
        set(&mut health.alerting, get("alerting").and_then(|p| self.switch(p)));
    }

    /// The keys that say when checks are made, beside the interval.
    fn rhythm(&mut self, table: &Table<'_>, health: &mut HealthSettings) {
        let get = |key| table.get(key);
        if let Some(place) = get("fast_interval")
            && let Some(fast) = self.dur(place, &defaults::INTERVAL)
        {
            if fast > health.check_interval {
                let message = "the fast interval is longer than the usual one";
                self.problem(place, Code::Conflict, message)
                    .help("it holds while a change is pending: make it shorter than `check_interval`");
            }
            health.fast_interval = Some(fast);
        }
        if let Some(down) = get("down_interval").and_then(|p| self.dur(p, &defaults::INTERVAL)) {
            health.rhythm.down = Some(down);
        }
        if let Some(place) = get("jitter")
            && let Some(jitter) = self.share(place)
        {
            if jitter > defaults::JITTER_MOST {
                self.problem(
                    place,
                    Code::OutOfRange,
                    format!("`{}` is out of range: 0% to 50%", place.shown()),
                );
            }
            health.rhythm.jitter = jitter;
        }
        set(
            &mut health.rhythm.width,
            get("max_concurrent").and_then(|p| self.whole(p, defaults::CONCURRENT_CHECKS)),
        );
        let words = [("serving", Start::Serving), ("down", Start::Down)];
        set(&mut health.rhythm.start, get("start").and_then(|p| self.word(p, &words, &[])));
    }
}

/// Replaces what held before, if there is something new.
pub(crate) fn set<T>(slot: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *slot = new;
    }
}
