//! Zones, overflow between priority tiers, and the subsets of routes.

use std::sync::Arc;

use plimsoll_core::Name;
use plimsoll_core::subset::{Fallback, Subset};

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::names::label;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::settings::zone::ZoneSettings;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{Listener, Pool};
use crate::problem::Code;

const OVERPROVISION_HELP: &str = "write it like \"140%\", or \"none\" for no overflow";

/// Range of the overprovisioning factor in percent. Below 100 a whole tier would overflow; with 1000 a tier overflows
/// only after nine of ten destinations are lost.
const OVERPROVISION: std::ops::RangeInclusive<u16> = 100..=1000;

impl Reader<'_> {
    /// Reads the zone in which this balancer runs.
    pub(crate) fn own_zone(&mut self, node: &ConfigNode<'_>) -> Option<Name> {
        let own: Name = self.parsed(node, "text", label)?;
        if own.is_empty() {
            self.problem(node, Code::BadValue, "the zone is empty")
                .help("use the name in the destinations' `zone`, or remove this key");
            return None;
        }
        Some(own)
    }

    /// Reads `zone_aware` and `overprovision` over `settings`. `is_top` marks the block at the top of the file.
    pub(crate) fn priority_and_locality(
        &mut self,
        mapping: &Mapping<'_>,
        is_top: bool,
        settings: &mut Settings,
    ) {
        if let Some(node) = mapping.get("overprovision") {
            let factor = self.parsed(node, "a share like \"140%\"", parse_overprovision);
            set_if_given(&mut settings.tiers.overprovision, factor);
        }
        let Some(node) = mapping.get("zone_aware") else { return };
        // The block at the top may be shared by balancers with and without a zone.
        let off = is_top || node.is_bool() && self.boolean(node) == Some(false);
        if settings.zone.own.is_none() && !off {
            self.problem(node, Code::Conflict, "`zone_aware` requires the zone of this balancer")
                .help("set `zone: \"…\"` at the top of the file, or remove this key");
        }
        if node.is_bool() {
            set_if_given(&mut settings.zone.off, self.boolean(node).map(|on| !on));
        } else if node.is_block() {
            self.zone_aware(node, &mut settings.zone);
        } else {
            self.wrong_type(node, "a boolean or a block").help("write true, false, or a block of keys");
        }
    }

    fn zone_aware(&mut self, node: &ConfigNode<'_>, zone: &mut ZoneSettings) {
        let Some(mapping) = self.mapping(node, &keys::ZONE_AWARE) else { return };
        zone.off = !mapping.get("enabled").and_then(|p| self.boolean(p)).unwrap_or(true);
        if let Some(node) = mapping.get("spill_over_at") {
            let none = node.is_text() && !node.is_number_in_quotes();
            zone.spill_over_at = if none {
                self.keyword(node, &[("none", ())], &[]);
                None
            } else {
                self.integer(node, 1..=1_000_000)
            };
        }
        let keys = [("pool", false), ("zone", true)];
        set_if_given(
            &mut zone.zone_local_keys,
            mapping.get("keys").and_then(|p| self.keyword(p, &keys, &[])),
        );
    }

    /// Reads the subset of the pool that a route uses.
    pub(crate) fn subset(&mut self, mapping: &Mapping<'_>) -> Option<Arc<Subset>> {
        let keywords = [("none", Fallback::None), ("any", Fallback::Any)];
        let fallback = mapping.get("subset_fallback");
        let value = fallback.and_then(|p| self.keyword(p, &keywords, &[]));
        let Some(node) = mapping.get("subset") else {
            if let Some(node) = fallback {
                self.problem(node, Code::Conflict, "`subset_fallback` applies to a route with a `subset`")
                    .help("add a `subset`, or remove this key");
            }
            return None;
        };
        let labels = self.labels(node);
        if labels.is_empty() {
            if node.is_empty_block() {
                self.problem(node, Code::BadValue, "the subset has no labels, so it would be the whole pool")
                    .help("write it like `subset: {version: \"2\"}`, or remove this key");
            }
            return None;
        }
        Some(Arc::new(Subset::new(labels, value.unwrap_or(defaults::SUBSET_FALLBACK))))
    }

    /// Adds the subsets of a listener's routes to their pools, and reports subsets without destinations.
    pub(crate) fn collect_subsets(&mut self, node: &ConfigNode<'_>, listener: &Listener, pools: &mut [Pool]) {
        for route in &listener.routes {
            let (Some(subset), Some(pool)) = (&route.subset, pools.get_mut(route.pool)) else { continue };
            let labels = |d: &crate::model::Destination| subset.covers(&d.labels);
            if !pool.destinations.is_empty() && !pool.destinations.iter().any(labels) {
                let message = format!(
                    "no destination matches: the route `{}` requires the labels {}, which no destination of `{}` has",
                    route.name,
                    subset.text(),
                    pool.name
                );
                self.problem(node, Code::Unreachable, message)
                    .help("add these `labels` to a destination, or change the `subset` of the route");
            }
            let subsets = &mut pool.tiers.subsets;
            if subsets.iter().any(|known| known.id() == subset.id()) {
                continue;
            }
            if subsets.len() == Subset::MAX {
                let message = format!(
                    "too many subsets: routes use more than {} of the pool `{}`",
                    Subset::MAX,
                    pool.name
                );
                self.problem(node, Code::TooLarge, message).help("split the pool");
                return;
            }
            subsets.push(subset.clone());
        }
    }
}

fn parse_overprovision(text: &str) -> Result<Option<f64>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let percent: u16 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| ValueError::new(Code::BadUnit, "is not a valid factor", OVERPROVISION_HELP))?;
    if OVERPROVISION.contains(&percent) {
        Ok(Some(f64::from(percent) / 100.0))
    } else {
        Err(ValueError::new(Code::OutOfRange, "is out of range: expected 100% to 1000%", OVERPROVISION_HELP))
    }
}
