//! Delay before a request is hedged: sent to a second destination as well.

use std::time::Duration;

use plimsoll_core::measure::Quantile;
use plimsoll_core::retry::HedgeSpec;

/// Hedge delay of a pool on one worker, from the latest response times.
#[derive(Debug)]
pub(crate) struct HedgeDelay {
    pub(crate) spec: HedgeSpec,
    times: Option<Quantile>,
}

impl HedgeDelay {
    pub(crate) fn new(spec: HedgeSpec) -> Self {
        Self { spec, times: spec.quantile().map(Quantile::new) }
    }

    /// Reports whether it was created for this specification.
    pub(crate) fn is_for(&self, spec: HedgeSpec) -> bool {
        self.spec == spec
    }

    /// Returns the current delay; `None` while too few response times are known.
    pub(crate) fn delay(&self) -> Option<Duration> {
        self.spec.delay(self.times.as_ref().and_then(Quantile::value))
    }

    /// Records a response time.
    pub(crate) fn record(&mut self, span: Duration) {
        if let Some(times) = &mut self.times {
            times.record(span);
        }
    }
}
