//! Blocks of `load_balancer`. The block at the top of the file overrides the defaults, and the pool's own overrides both.

use plimsoll_core::AttemptedSet;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::OutlierSpec;
use plimsoll_core::retry::{GRPC_STATUSES, RetrySpec, RetryWhen};

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::problem::Code;
use crate::units::ConfigDuration;

impl Reader<'_> {
    /// Reads a `load_balancer` block over `settings`. `is_top` marks the one at the top of the file.
    pub(crate) fn load_balancer(&mut self, node: &ConfigNode<'_>, is_top: bool, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::LOAD_BALANCER) else { return };
        if let Some(node) = mapping.get("algorithm") {
            settings.algorithm_given = true;
            let known = Algorithm::ALL.into_iter().chain(self.extensions.policies.algorithms());
            let keywords: Vec<_> = known.map(|algorithm| (algorithm.name(), algorithm)).collect();
            set_if_given(&mut settings.algorithm, self.keyword(node, &keywords, &[]));
        }
        // The block at the top may have settings for pools that set the algorithm themselves.
        let algorithm_here = mapping.get("algorithm").is_some() || !is_top;
        if let Some(node) = mapping.get("hash") {
            self.hash(node, algorithm_here, settings);
        }
        if let Some(node) = mapping.get("custom") {
            self.custom(node, algorithm_here, settings);
        }
        if let Some(node) = mapping.get("load_reports") {
            self.load_reports(node, settings);
        }
        if let Some(node) = mapping.get("overload") {
            self.overload(node, &mut settings.load);
        }
        set_if_given(
            &mut settings.health_checking,
            mapping.get("health_checking").and_then(|p| self.boolean(p)),
        );
        set_if_given(&mut settings.retry.failover, mapping.get("failover").and_then(|p| self.boolean(p)));
        if let Some(node) = mapping.get("health_monitoring") {
            self.health_monitoring(node, &mut settings.health);
        }
        if let Some(node) = mapping.get("outlier_detection") {
            self.outlier_detection(node, &mut settings.outlier);
        }
        if let Some(window) = mapping.get("slow_start").and_then(|p| self.duration(p, &defaults::TIMEOUT)) {
            settings.slow_start = Some(window);
        }
        set_if_given(
            &mut settings.panic_threshold,
            mapping.get("panic_threshold").and_then(|p| self.share(p)),
        );
        self.priority_and_locality(&mapping, is_top, settings);
        if let Some(node) = mapping.get("retry") {
            self.retry(node, &mut settings.retry);
        }
        if let Some(node) = mapping.get("hedge") {
            self.hedge(node, settings);
        }
        if let Some(node) = mapping.get("performance") {
            self.performance(node, settings);
        }
        if let Some(node) = mapping.get("quality") {
            self.quality(node, settings);
        }
        self.feature(&mapping, "dynamic_adjustment", Self::dynamic_adjustment);
        self.feature(&mapping, "performance_monitoring", Self::performance_monitoring);
    }

    /// Reads an `outlier_detection` block over `outlier`.
    fn outlier_detection(&mut self, node: &ConfigNode<'_>, outlier: &mut OutlierSpec) {
        let Some(mapping) = self.mapping(node, &keys::OUTLIER_DETECTION) else { return };
        let failures = mapping.get("consecutive_failures").and_then(|p| self.integer(p, 0..=1_000_000));
        set_if_given(&mut outlier.consecutive_failures, failures);
        let base = mapping.get("base_ejection").and_then(|p| self.duration(p, &defaults::TIMEOUT));
        set_if_given(&mut outlier.base_ejection, base);
        outlier.max_ejection = defaults::OUTLIER.max_ejection.max(outlier.base_ejection);
        if let Some(interval) = mapping.get("interval").and_then(|p| self.duration(p, &defaults::INTERVAL)) {
            outlier.interval = Some(interval);
        }
        let parse = |text: &str| match text {
            "none" => Ok(None),
            text => Ok(Some(text.parse::<ConfigDuration>()?.0)),
        };
        if let Some(node) = mapping.get("unresponsive_after")
            && let Some(after) = self.parsed(node, "a duration like \"1s\", or none", parse)
        {
            if after.is_some_and(|after| !defaults::INTERVAL.contains(&after)) {
                self.problem(
                    node,
                    Code::OutOfRange,
                    format!("`{}` is out of range: expected 10ms to 24h", node.shown()),
                );
            }
            outlier.unresponsive_after = after;
        }
        set_if_given(&mut outlier.latency, mapping.get("latency").and_then(|p| self.boolean(p)));
        set_if_given(&mut outlier.max_ejected, mapping.get("max_ejected").and_then(|p| self.share(p)));
    }

    /// Reads a `retry` block over `retry`.
    fn retry(&mut self, node: &ConfigNode<'_>, retry: &mut RetrySpec) {
        let Some(mapping) = self.mapping(node, &keys::RETRY) else { return };
        let max = i64::try_from(AttemptedSet::MAX).unwrap_or(i64::MAX);
        set_if_given(&mut retry.attempts, mapping.get("attempts").and_then(|p| self.integer(p, 1..=max)));
        set_if_given(&mut retry.budget, mapping.get("budget").and_then(|p| self.share(p)));
        let Some(node) = mapping.get("when") else { return };
        let mut when = RetryWhen::default();
        for item in self.list(node) {
            self.retry_when(&item, &mut when);
        }
        retry.when = when;
    }

    /// Reads one retry condition.
    fn retry_when(&mut self, item: &ConfigNode<'_>, when: &mut RetryWhen) {
        const CONDITIONS: [&str; 4] = ["connect_failure", "reset", "empty_response", "timeout"];
        let Some(text) = self.text(item) else { return };
        match text {
            "connect_failure" => when.connect_failure = true,
            "reset" => when.reset = true,
            "empty_response" => when.empty_response = true,
            "timeout" => when.timeout = true,
            _ if text.starts_with("grpc:") => match text.strip_prefix("grpc:").and_then(call_status) {
                Some(status) if when.grpc_statuses.contains(&status) => {}
                Some(status) => when.grpc_statuses.push(status),
                None => {
                    let known = GRPC_STATUSES.map(|(word, _)| word).join(", ");
                    let help = format!("expected `grpc:` and one of {known}");
                    let reason = "is not a retryable gRPC status";
                    self.reject(item, ValueError::new(Code::BadValue, reason, help));
                }
            },
            _ => match text.strip_prefix("status:").map(failing_status) {
                Some(Some(status)) if when.statuses.contains(&status) => {}
                Some(Some(status)) => when.statuses.push(status),
                Some(None) => {
                    let help = "write it like \"status:503\", with a status from 400 to 599";
                    self.reject(item, ValueError::new(Code::BadValue, "is not a failure status", help));
                }
                None => {
                    let help = match self.suggest(text, CONDITIONS) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => format!("expected one of {}, status:NNN, grpc:STATUS", CONDITIONS.join(", ")),
                    };
                    self.reject(item, ValueError::new(Code::BadValue, "is not a retry condition", help));
                }
            },
        }
    }

    /// Reads a `performance` block over `settings`.
    fn performance(&mut self, node: &ConfigNode<'_>, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::PERFORMANCE) else { return };
        if let Some(total) = mapping.get("timeout").and_then(|p| self.duration(p, &defaults::TIMEOUT)) {
            settings.total = Some(total);
        }
        set_if_given(
            &mut settings.parallel_checks,
            mapping.get("parallel_processing").and_then(|p| self.boolean(p)),
        );
        set_if_given(&mut settings.optimization, mapping.get("optimization").and_then(|p| self.boolean(p)));
        set_if_given(&mut settings.caching, mapping.get("caching").and_then(|p| self.boolean(p)));
    }

    /// Reads a `quality` block over `settings`.
    fn quality(&mut self, node: &ConfigNode<'_>, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::QUALITY) else { return };
        set_if_given(
            &mut settings.retry.error_recovery,
            mapping.get("error_recovery").and_then(|p| self.boolean(p)),
        );
        set_if_given(
            &mut settings.tiers.backup_tiers,
            mapping.get("failover_support").and_then(|p| self.boolean(p)),
        );
        set_if_given(&mut settings.outlier.learning, mapping.get("learning").and_then(|p| self.boolean(p)));
        set_if_given(
            &mut settings.quality_metrics,
            mapping.get("quality_metrics").and_then(|p| self.boolean(p)),
        );
    }

    /// Reads a feature that is not active yet: a boolean, a block, or both, in which case the boolean enables the block.
    /// A block alone is enabled.
    fn feature(
        &mut self,
        mapping: &Mapping<'_>,
        key: &str,
        read: fn(&mut Self, &ConfigNode<'_>) -> Option<bool>,
    ) {
        let block = mapping.all(key).find(|node| node.is_block());
        let boolean = mapping.all(key).find(|node| !node.is_block());
        let inner = block.and_then(|node| read(self, node));
        let outer = match boolean {
            Some(node) if node.is_bool() => self.boolean(node),
            Some(node) => {
                self.wrong_type(node, "a boolean or a block").help("write true, false, or a block of keys");
                return;
            }
            None => None,
        };
        if let (Some(node), Some(_), Some(_)) = (block, inner, outer) {
            let message =
                format!("`{key}` is enabled twice: by `enabled` here, and by a boolean beside the block");
            self.problem(node, Code::Conflict, message).help("keep one of them");
        }
        if let (Some(node), true) = (block.or(boolean), outer.or(inner).unwrap_or(true)) {
            self.not_active(node, key);
        }
    }

    /// Returns `enabled`, and checks the other keys.
    fn dynamic_adjustment(&mut self, node: &ConfigNode<'_>) -> Option<bool> {
        let mapping = self.mapping(node, &keys::DYNAMIC_ADJUSTMENT)?;
        mapping.get("adjustment_interval").and_then(|p| self.duration(p, &defaults::INTERVAL));
        for key in ["performance_threshold", "health_threshold"] {
            mapping.get(key).and_then(|p| self.share(p));
        }
        mapping.get("learning").and_then(|p| self.boolean(p));
        mapping.get("enabled").and_then(|p| self.boolean(p))
    }

    /// Returns `enabled`, and checks the other keys.
    fn performance_monitoring(&mut self, node: &ConfigNode<'_>) -> Option<bool> {
        const METRICS: [(&str, ()); 4] =
            [("response_time", ()), ("throughput", ()), ("error_rate", ()), ("availability", ())];
        let mapping = self.mapping(node, &keys::PERFORMANCE_MONITORING)?;
        for item in mapping.get("metrics").map(|p| self.list(p)).unwrap_or_default() {
            self.keyword(&item, &METRICS, &[]);
        }
        if let Some(thresholds) = mapping.get("thresholds").and_then(|p| self.mapping(p, &keys::THRESHOLDS)) {
            thresholds.get("response_time").and_then(|p| self.duration(p, &defaults::TIMEOUT));
            thresholds.get("throughput").and_then(|p| self.rate(p));
            thresholds.get("error_rate").and_then(|p| self.share(p));
            thresholds.get("availability").and_then(|p| self.share(p));
        }
        for key in ["alerting", "optimization"] {
            mapping.get(key).and_then(|p| self.boolean(p));
        }
        mapping.get("enabled").and_then(|p| self.boolean(p))
    }
}

fn failing_status(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|status| digits && (400..=599).contains(status))
}

fn call_status(text: &str) -> Option<u8> {
    GRPC_STATUSES.iter().find(|(word, _)| *word == text).map(|&(_, status)| status)
}
