//! Settings of a `load_balancer` block: defaults, overlaid by the block at the top of the file and by the pool's own.

pub(crate) mod formula;
pub(crate) mod health;
pub(crate) mod probe;
pub(crate) mod zone;

use std::time::Duration;

use plimsoll_core::balance::{Algorithm, HashSpec};
use plimsoll_core::health::{LoadSpec, OutlierSpec};
use plimsoll_core::retry::{HedgeSpec, RetrySpec};
use plimsoll_core::snapshot::TierSpec;

use self::formula::FormulaSetting;
use self::health::HealthSettings;
use self::zone::ZoneSettings;
use crate::defaults;
use crate::model::HashKey;

/// Settings of a pool's `load_balancer` block.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) algorithm: Algorithm,
    /// Whether a block sets the algorithm.
    pub(crate) algorithm_given: bool,
    pub(crate) hash: HashSpec,
    pub(crate) hash_key: HashKey,
    pub(crate) formula: FormulaSetting,
    pub(crate) load: LoadSpec,
    pub(crate) orca: bool,
    pub(crate) health_checking: bool,
    pub(crate) health: HealthSettings,
    pub(crate) caching: bool,
    pub(crate) parallel_checks: bool,
    pub(crate) optimization: bool,
    pub(crate) outlier: OutlierSpec,
    pub(crate) retry: RetrySpec,
    pub(crate) tiers: TierSpec,
    pub(crate) zone: ZoneSettings,
    pub(crate) hedge: Option<HedgeSpec>,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) panic_threshold: f64,
    pub(crate) total: Option<Duration>,
    pub(crate) quality_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            algorithm: defaults::ALGORITHM,
            algorithm_given: false,
            hash: defaults::HASH,
            hash_key: defaults::HASH_KEY,
            formula: FormulaSetting::default(),
            load: LoadSpec::default(),
            orca: defaults::ORCA,
            health_checking: defaults::HEALTH_CHECKING,
            health: HealthSettings::default(),
            caching: defaults::CACHING,
            parallel_checks: defaults::PARALLEL_CHECKS,
            optimization: defaults::OPTIMIZATION,
            outlier: defaults::OUTLIER,
            retry: defaults::retry(),
            tiers: TierSpec::default(),
            zone: ZoneSettings::default(),
            hedge: None,
            slow_start: None,
            panic_threshold: defaults::PANIC_THRESHOLD,
            total: None,
            quality_metrics: defaults::QUALITY_METRICS,
        }
    }
}
