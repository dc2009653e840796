//! Where a pool's messages may go: zones, overflow, and the subsets routes ask for.

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
use crate::model::{Listener, Pool};
use crate::problem::Code;

const OVERPROVISION_HELP: &str = "write it like \"140%\": a tier overflows when less than the inverse of that is left; \"none\" for no overflow";

/// Below 100 % a whole tier would overflow; beyond 1000 % nine of ten may be gone before anything does.
const OVERPROVISION: std::ops::RangeInclusive<u16> = 100..=1000;

impl Reader<'_> {
    /// The zone this balancer stands in.
    pub(crate) fn own_zone(&mut self, node: &ConfigNode<'_>) -> Option<Name> {
        let own: Name = self.parsed(node, "text", label)?;
        if own.is_empty() {
            self.problem(node, Code::BadValue, "the zone has no name")
                .help("name it as the destinations' `zone` does, or leave it out");
            return None;
        }
        Some(own)
    }

    /// Lays `zone_aware` and `overprovision` over `settings`. `is_top`: they stand at the top of the file.
    pub(crate) fn spread(&mut self, mapping: &Mapping<'_>, is_top: bool, settings: &mut Settings) {
        if let Some(node) = mapping.get("overprovision") {
            let factor = self.parsed(node, "a share like \"140%\"", parse_overprovision);
            set_if_given(&mut settings.tiers.overprovision, factor);
        }
        let Some(node) = mapping.get("zone_aware") else { return };
        // At the top it may be the same file for balancers with and without a zone.
        let off = is_top || node.is_bool() && self.boolean(node) == Some(false);
        if settings.zone.own.is_none() && !off {
            self.problem(node, Code::Conflict, "nobody said which zone this balancer stands in")
                .help("write `zone: \"…\"` at the top of the file, or remove this");
        }
        if node.is_bool() {
            set_if_given(&mut settings.zone.off, self.boolean(node).map(|on| !on));
        } else if node.is_block() {
            self.zone_aware(node, &mut settings.zone);
        } else {
            self.wrong_type(node, "a switch or a block").help("write true, false, or a block of keys");
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

    /// The part of its pool a route is for.
    pub(crate) fn subset(&mut self, mapping: &Mapping<'_>) -> Option<Arc<Subset>> {
        let words = [("none", Fallback::None), ("any", Fallback::Any)];
        let fallback = mapping.get("subset_fallback");
        let word = fallback.and_then(|p| self.keyword(p, &words, &[]));
        let Some(node) = mapping.get("subset") else {
            if let Some(node) = fallback {
                self.problem(node, Code::Conflict, "`subset_fallback` is for a route with a `subset`")
                    .help("give the route a `subset`, or remove this key");
            }
            return None;
        };
        let labels = self.labels(node);
        if labels.is_empty() {
            if node.is_empty_block() {
                self.problem(node, Code::BadValue, "the subset names no label: it would be the whole pool")
                    .help("write it like `subset: {version: \"2\"}`, or leave it out");
            }
            return None;
        }
        Some(Arc::new(Subset::new(labels, word.unwrap_or_default())))
    }

    /// Gives pools the subsets that a listener's routes ask of them, and tells of those nobody is in.
    pub(crate) fn collect_subsets(&mut self, node: &ConfigNode<'_>, listener: &Listener, pools: &mut [Pool]) {
        for route in &listener.routes {
            let (Some(subset), Some(pool)) = (&route.subset, pools.get_mut(route.pool)) else { continue };
            let labels = |d: &crate::model::Destination| subset.covers(&d.labels);
            if !pool.destinations.is_empty() && !pool.destinations.iter().any(labels) {
                let message = format!(
                    "the route `{}` asks for {}, and no destination of `{}` has that",
                    route.name,
                    subset.text(),
                    pool.name
                );
                self.problem(node, Code::Unreachable, message)
                    .help("give a destination these `labels`, or change the route's `subset`");
            }
            let known = &mut pool.tiers.subsets;
            if known.iter().any(|known| known.id() == subset.id()) {
                continue;
            }
            if known.len() == Subset::MAX {
                let message = format!("routes ask for more than {} subsets of `{}`", Subset::MAX, pool.name);
                self.problem(node, Code::TooLarge, message).help("divide the pool");
                return;
            }
            known.push(subset.clone());
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
        .ok_or_else(|| ValueError::new(Code::BadUnit, "is no share", OVERPROVISION_HELP))?;
    if OVERPROVISION.contains(&percent) {
        Ok(Some(f64::from(percent) / 100.0))
    } else {
        Err(ValueError::new(Code::OutOfRange, "is out of range: 100% to 1000%", OVERPROVISION_HELP))
    }
}
