//! Zone of this balancer and how it is preferred.

use plimsoll_core::Name;
use plimsoll_core::snapshot::ZoneSpec;

/// Settings of `zone` and `zone_aware` from all blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ZoneSettings {
    /// Zone of this balancer.
    pub(crate) own: Option<Name>,
    pub(crate) off: bool,
    pub(crate) spill_over_at: Option<u32>,
    pub(crate) zone_local_keys: bool,
}

impl ZoneSettings {
    /// Returns the zone preference, if the zone is known and the preference is on.
    pub(crate) fn spec(&self) -> Option<ZoneSpec> {
        let own = self.own.clone().filter(|_| !self.off)?;
        Some(ZoneSpec { own, spill_over_at: self.spill_over_at, zone_local_keys: self.zone_local_keys })
    }
}
