//! How long a request waits before it is sent to a second destination as well.

use std::time::Duration;

use plimsoll_core::measure::Quantile;
use plimsoll_core::retry::HedgeSpec;

/// How long a message waits alone, as the pool's answers of late say; one per worker.
#[derive(Debug)]
pub(crate) struct HedgeDelay {
    pub(crate) spec: HedgeSpec,
    times: Option<Quantile>,
}

impl HedgeDelay {
    pub(crate) fn new(spec: HedgeSpec) -> Self {
        Self { spec, times: spec.quantile().map(Quantile::new) }
    }

    /// It was made for this.
    pub(crate) fn follows(&self, spec: HedgeSpec) -> bool {
        self.spec == spec
    }

    pub(crate) fn wait(&self) -> Option<Duration> {
        self.spec.delay(self.times.as_ref().and_then(Quantile::value))
    }

    pub(crate) fn answered(&mut self, span: Duration) {
        if let Some(times) = &mut self.times {
            times.record(span);
        }
    }
}
