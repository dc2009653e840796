//! What one `load_balancer` block changes, laid over what held before: the defaults of the program, then the
//! block at the top of the file, then the pool's own.

use plimsoll_core::Tried;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::OutlierSpec;
use plimsoll_core::retry::{CALL_STATUSES, RetrySpec, RetryWhen};

use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::table::Table;
use crate::check::value_error::Wrong;
use crate::defaults;
use crate::problem::Code;
use crate::units::ConfigDuration;

impl Reader<'_> {
    /// Lays a `load_balancer` block over `settings`. `is_top`: the one at the top of the file.
    pub(crate) fn load_balancer(&mut self, place: &Place<'_>, is_top: bool, settings: &mut Settings) {
        let Some(table) = self.table(place, &keys::LOAD_BALANCER) else { return };
        if let Some(place) = table.get("algorithm") {
            settings.names_algorithm = true;
            let known = Algorithm::ALL.into_iter().chain(self.extensions.policies.algorithms());
            let words: Vec<_> = known.map(|algorithm| (algorithm.name(), algorithm)).collect();
            set_if_given(&mut settings.algorithm, self.word(place, &words, &[]));
        }
        // What stands at the top of the file may be meant for pools that name the algorithm themselves.
        let algorithm_here = table.get("algorithm").is_some() || !is_top;
        if let Some(place) = table.get("hash") {
            self.hash(place, algorithm_here, settings);
        }
        if let Some(place) = table.get("custom") {
            self.custom(place, algorithm_here, settings);
        }
        if let Some(place) = table.get("load_reports") {
            self.load_reports(place, settings);
        }
        if let Some(place) = table.get("overload") {
            self.overload(place, &mut settings.load);
        }
        set_if_given(
            &mut settings.health_checking,
            table.get("health_checking").and_then(|p| self.switch(p)),
        );
        set_if_given(&mut settings.retry.failover, table.get("failover").and_then(|p| self.switch(p)));
        if let Some(place) = table.get("health_monitoring") {
            self.health_monitoring(place, &mut settings.health);
        }
        if let Some(place) = table.get("outlier_detection") {
            self.outlier_detection(place, &mut settings.outlier);
        }
        if let Some(window) = table.get("slow_start").and_then(|p| self.dur(p, &defaults::TIMEOUT)) {
            settings.slow_start = Some(window);
        }
        set_if_given(&mut settings.panic_threshold, table.get("panic_threshold").and_then(|p| self.share(p)));
        self.spread(&table, is_top, settings);
        if let Some(place) = table.get("retry") {
            self.retry(place, &mut settings.retry);
        }
        if let Some(place) = table.get("hedge") {
            self.hedge(place, settings);
        }
        if let Some(place) = table.get("performance") {
            self.performance(place, settings);
        }
        if let Some(place) = table.get("quality") {
            self.quality(place, settings);
        }
        self.feature(&table, "dynamic_adjustment", Self::dynamic_adjustment);
        self.feature(&table, "performance_monitoring", Self::performance_monitoring);
    }

    fn outlier_detection(&mut self, place: &Place<'_>, outlier: &mut OutlierSpec) {
        let Some(table) = self.table(place, &keys::OUTLIER_DETECTION) else { return };
        let failures = table.get("consecutive_failures").and_then(|p| self.whole(p, 0..=1_000_000));
        set_if_given(&mut outlier.consecutive_failures, failures);
        let base = table.get("base_ejection").and_then(|p| self.dur(p, &defaults::TIMEOUT));
        set_if_given(&mut outlier.base_ejection, base);
        outlier.max_ejection = defaults::OUTLIER.max_ejection.max(outlier.base_ejection);
        if let Some(interval) = table.get("interval").and_then(|p| self.dur(p, &defaults::INTERVAL)) {
            outlier.interval = Some(interval);
        }
        let silence = |text: &str| match text {
            "none" => Ok(None),
            text => Ok(Some(text.parse::<ConfigDuration>()?.0)),
        };
        if let Some(place) = table.get("silence")
            && let Some(silence) = self.parsed(place, "a duration like \"1s\", or none", silence)
        {
            if silence.is_some_and(|silence| !defaults::INTERVAL.contains(&silence)) {
                self.problem(
                    place,
                    Code::OutOfRange,
                    format!("`{}` is out of range: 10ms to 1d", place.shown()),
                );
            }
            outlier.silence = silence;
        }
        set_if_given(&mut outlier.max_ejected, table.get("max_ejected").and_then(|p| self.share(p)));
    }

    fn retry(&mut self, place: &Place<'_>, retry: &mut RetrySpec) {
        let Some(table) = self.table(place, &keys::RETRY) else { return };
        let most = i64::try_from(Tried::MAX).unwrap_or(i64::MAX);
        set_if_given(&mut retry.attempts, table.get("attempts").and_then(|p| self.whole(p, 1..=most)));
        set_if_given(&mut retry.budget, table.get("budget").and_then(|p| self.share(p)));
        let Some(place) = table.get("when") else { return };
        let mut when = RetryWhen::default();
        for item in self.list(place) {
            self.retry_when(&item, &mut when);
        }
        retry.when = when;
    }

    fn retry_when(&mut self, item: &Place<'_>, when: &mut RetryWhen) {
        const WORDS: [&str; 4] = ["connect_failure", "reset", "empty_response", "timeout"];
        let Some(text) = self.text(item) else { return };
        match text {
            "connect_failure" => when.connect_failure = true,
            "reset" => when.reset = true,
            "empty_response" => when.empty_response = true,
            "timeout" => when.timeout = true,
            _ if text.starts_with("grpc:") => match text.strip_prefix("grpc:").and_then(call_status) {
                Some(status) if when.calls.contains(&status) => {}
                Some(status) => when.calls.push(status),
                None => {
                    let known = CALL_STATUSES.map(|(word, _)| word).join(", ");
                    let help = format!("another destination may do better than {known}");
                    let what = "names no status of a call that is worth another try";
                    self.refuse(item, Wrong::new(Code::BadValue, what, help));
                }
            },
            _ => match text.strip_prefix("status:").map(failing_status) {
                Some(Some(status)) if when.statuses.contains(&status) => {}
                Some(Some(status)) => when.statuses.push(status),
                Some(None) => {
                    let help = "write it like \"status:503\"; only 400 to 599 can be failures";
                    self.refuse(item, Wrong::new(Code::BadValue, "names no status of a failure", help));
                }
                None => {
                    let help = match self.suggest(text, WORDS) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => format!("it is one of {}, status:503, grpc:UNAVAILABLE", WORDS.join(", ")),
                    };
                    self.refuse(item, Wrong::new(Code::BadValue, "is no reason to try again", help));
                }
            },
        }
    }

    fn performance(&mut self, place: &Place<'_>, settings: &mut Settings) {
        let Some(table) = self.table(place, &keys::PERFORMANCE) else { return };
        if let Some(total) = table.get("timeout").and_then(|p| self.dur(p, &defaults::TIMEOUT)) {
            settings.total = Some(total);
        }
        set_if_given(
            &mut settings.parallel_checks,
            table.get("parallel_processing").and_then(|p| self.switch(p)),
        );
        set_if_given(&mut settings.optimization, table.get("optimization").and_then(|p| self.switch(p)));
        set_if_given(&mut settings.caching, table.get("caching").and_then(|p| self.switch(p)));
    }

    fn quality(&mut self, place: &Place<'_>, settings: &mut Settings) {
        let Some(table) = self.table(place, &keys::QUALITY) else { return };
        set_if_given(
            &mut settings.retry.error_recovery,
            table.get("error_recovery").and_then(|p| self.switch(p)),
        );
        set_if_given(
            &mut settings.spread.backup_tiers,
            table.get("failover_support").and_then(|p| self.switch(p)),
        );
        set_if_given(&mut settings.outlier.learns, table.get("learning").and_then(|p| self.switch(p)));
        set_if_given(
            &mut settings.quality_metrics,
            table.get("quality_metrics").and_then(|p| self.switch(p)),
        );
    }

    /// A feature that does nothing yet, as a switch, a block, or both: then the switch says whether the block
    /// is enabled. A block alone is.
    fn feature(&mut self, table: &Table<'_>, key: &str, read: fn(&mut Self, &Place<'_>) -> Option<bool>) {
        let block = table.all(key).find(|place| place.is_block());
        let switch = table.all(key).find(|place| !place.is_block());
        let inner = block.and_then(|place| read(self, place));
        let outer = match switch {
            Some(place) if place.is_switch() => self.switch(place),
            Some(place) => {
                self.wrong_type(place, "a switch or a block").help("write true, false, or a block of keys");
                return;
            }
            None => None,
        };
        if let (Some(place), Some(_), Some(_)) = (block, inner, outer) {
            let message =
                format!("`{key}` is switched twice: by `enabled` here, and by a switch beside the block");
            self.problem(place, Code::Conflict, message).help("keep one of them");
        }
        if let (Some(place), true) = (block.or(switch), outer.or(inner).unwrap_or(true)) {
            self.not_active(place, key);
        }
    }

    /// Reads `enabled` and checks the rest.
    fn dynamic_adjustment(&mut self, place: &Place<'_>) -> Option<bool> {
        let table = self.table(place, &keys::DYNAMIC_ADJUSTMENT)?;
        table.get("adjustment_interval").and_then(|p| self.dur(p, &defaults::INTERVAL));
        for key in ["performance_threshold", "health_threshold"] {
            table.get(key).and_then(|p| self.share(p));
        }
        table.get("learning").and_then(|p| self.switch(p));
        table.get("enabled").and_then(|p| self.switch(p))
    }

    /// Reads `enabled` and checks the rest.
    fn performance_monitoring(&mut self, place: &Place<'_>) -> Option<bool> {
        const METRICS: [(&str, ()); 4] =
            [("response_time", ()), ("throughput", ()), ("error_rate", ()), ("availability", ())];
        let table = self.table(place, &keys::PERFORMANCE_MONITORING)?;
        for item in table.get("metrics").map(|p| self.list(p)).unwrap_or_default() {
            self.word(&item, &METRICS, &[]);
        }
        if let Some(thresholds) = table.get("thresholds").and_then(|p| self.table(p, &keys::THRESHOLDS)) {
            thresholds.get("response_time").and_then(|p| self.dur(p, &defaults::TIMEOUT));
            thresholds.get("throughput").and_then(|p| self.rate(p));
            thresholds.get("error_rate").and_then(|p| self.share(p));
            thresholds.get("availability").and_then(|p| self.share(p));
        }
        for key in ["alerting", "optimization"] {
            table.get(key).and_then(|p| self.switch(p));
        }
        table.get("enabled").and_then(|p| self.switch(p))
    }
}

fn failing_status(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|status| digits && (400..=599).contains(status))
}

fn call_status(text: &str) -> Option<u8> {
    CALL_STATUSES.iter().find(|(word, _)| *word == text).map(|&(_, status)| status)
}
