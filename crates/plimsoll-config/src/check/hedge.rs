//! Hedged attempts: delay and number.

use std::time::Duration;

use plimsoll_core::retry::HedgeAfter;

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::settings::Settings;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::problem::Code;
use crate::tree::{Kind, Scalar};
use crate::units::ConfigDuration;

const HELP: &str = "write it like \"p95\", a quantile of response times (p50 to p99.9), or \"30ms\"";

/// Range of the quantile in percent. Below 50 most messages would be hedged; above 99.9 hedging has almost no effect.
const SHARE: std::ops::RangeInclusive<f64> = 50.0..=99.9;

/// Range of hedged attempts per message. Each occupies one more destination.
const MAX_HEDGES: std::ops::RangeInclusive<i64> = 0..=3;

impl Reader<'_> {
    /// Reads a `hedge` block over `settings`.
    pub(crate) fn hedge(&mut self, node: &ConfigNode<'_>, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::HEDGE) else { return };
        let mut hedge = settings.hedge.unwrap_or(defaults::HEDGE);
        if let Some(after) = mapping.get("after").and_then(|p| self.hedge_delay(p)) {
            hedge.after = after;
        }
        if let Some(max) = mapping.get("max").and_then(|p| self.integer(p, MAX_HEDGES)) {
            hedge.max = max;
        }
        settings.hedge = Some(hedge);
    }
}

impl Reader<'_> {
    /// Reads `after`. A bare number may be a quantile or a time, so both are suggested.
    fn hedge_delay(&mut self, node: &ConfigNode<'_>) -> Option<HedgeAfter> {
        if let Some(Scalar { kind: Kind::Integer(_) | Kind::Float(_), .. }) = node.scalar() {
            let shown = node.shown();
            let quantile = shown.parse().is_ok_and(|percent: f64| SHARE.contains(&percent));
            let help = match quantile {
                true => format!(
                    "write \"p{shown}\" for a quantile of response times, or \"{shown}ms\" for a delay"
                ),
                false => {
                    format!("write \"{shown}ms\" for a delay, or a quantile of response times like \"p95\"")
                }
            };
            self.reject(node, ValueError::new(Code::BadUnit, "has no unit", help));
            return None;
        }
        self.parsed(node, "a delay", parse_after)
    }
}

fn parse_after(text: &str) -> Result<HedgeAfter, ValueError> {
    if let Some(percent) = text.strip_prefix('p') {
        let plain = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let percent: f64 = percent
            .parse()
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| ValueError::new(Code::BadValue, "is not a valid delay", HELP))?;
        return match SHARE.contains(&percent) {
            true => Ok(HedgeAfter::Quantile(percent / 100.0)),
            false => Err(ValueError::new(Code::OutOfRange, "is out of range: expected p50 to p99.9", HELP)),
        };
    }
    match text.parse::<ConfigDuration>() {
        Ok(ConfigDuration(span)) if (MIN_DELAY..=*defaults::TIMEOUT.end()).contains(&span) => {
            Ok(HedgeAfter::Fixed(span))
        }
        Ok(_) => Err(ValueError::new(Code::OutOfRange, "is out of range: expected 1ms to 24h", HELP)),
        Err(_) => Err(ValueError::new(Code::BadValue, "is not a valid delay", HELP)),
    }
}

/// Minimum delay. Timers have a coarser resolution.
const MIN_DELAY: Duration = Duration::from_millis(1);
