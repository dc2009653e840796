//! Zone of this balancer and how it is preferred.

use plimsoll_core::Name;
use plimsoll_core::spread::ZoneSpec;

/// What `zone` and `zone_aware` come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct ZoneSettings {
    pub(crate) own: Option<Name>,
    pub(crate) off: bool,
    pub(crate) busy: Option<u32>,
    pub(crate) split_keys: bool,
}

impl ZoneSettings {
    pub(crate) fn spec(&self) -> Option<ZoneSpec> {
        let own = self.own.clone().filter(|_| !self.off)?;
        Some(ZoneSpec { own, busy: self.busy, split_keys: self.split_keys })
    }
}
