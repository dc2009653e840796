//! Where a pool's messages may go: zones, overflow, and the subsets routes ask for.

use std::sync::Arc;

use plimsoll_core::Name;
use plimsoll_core::subset::{Fallback, Subset};

use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::names::label;
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::settings::zone::ZoneSettings;
use crate::check::table::Table;
use crate::check::value_error::Wrong;
use crate::model::{Listener, Pool};
use crate::problem::Code;

const OVERPROVISION_HELP: &str = "write it like \"140%\": a tier overflows when less than the inverse of that is left; \"none\" for no overflow";

/// Below 100 % a whole tier would overflow; beyond 1000 % nine of ten may be gone before anything does.
const OVERPROVISION: std::ops::RangeInclusive<u16> = 100..=1000;

impl Reader<'_> {
    /// The zone this balancer stands in.
    pub(crate) fn own_zone(&mut self, place: &Place<'_>) -> Option<Name> {
        let own: Name = self.parsed(place, "text", label)?;
        if own.is_empty() {
            self.problem(place, Code::BadValue, "the zone has no name")
                .help("name it as the destinations' `zone` does, or leave it out");
            return None;
        }
        Some(own)
    }

    /// Lays `zone_aware` and `overprovision` over `settings`. `is_top`: they stand at the top of the file.
    pub(crate) fn spread(&mut self, table: &Table<'_>, is_top: bool, settings: &mut Settings) {
        if let Some(place) = table.get("overprovision") {
            let factor = self.parsed(place, "a share like \"140%\"", parse_overprovision);
            set_if_given(&mut settings.spread.overprovision, factor);
        }
        let Some(place) = table.get("zone_aware") else { return };
        // At the top it may be the same file for balancers with and without a zone.
        let off = is_top || place.is_switch() && self.switch(place) == Some(false);
        if settings.zone.own.is_none() && !off {
            self.problem(place, Code::Conflict, "nobody said which zone this balancer stands in")
                .help("write `zone: \"…\"` at the top of the file, or remove this");
        }
        if place.is_switch() {
            set_if_given(&mut settings.zone.off, self.switch(place).map(|on| !on));
        } else if place.is_block() {
            self.zone_aware(place, &mut settings.zone);
        } else {
            self.wrong_type(place, "a switch or a block").help("write true, false, or a block of keys");
        }
    }

    fn zone_aware(&mut self, place: &Place<'_>, zone: &mut ZoneSettings) {
        let Some(table) = self.table(place, &keys::ZONE_AWARE) else { return };
        zone.off = !table.get("enabled").and_then(|p| self.switch(p)).unwrap_or(true);
        if let Some(place) = table.get("busy") {
            let none = place.is_text() && !place.is_number_in_quotes();
            zone.busy = if none {
                self.word(place, &[("none", ())], &[]);
                None
            } else {
                self.whole(place, 1..=1_000_000)
            };
        }
        let keys = [("pool", false), ("zone", true)];
        set_if_given(&mut zone.split_keys, table.get("keys").and_then(|p| self.word(p, &keys, &[])));
    }

    /// The part of its pool a route is for.
    pub(crate) fn subset(&mut self, table: &Table<'_>) -> Option<Arc<Subset>> {
        let words = [("none", Fallback::None), ("any", Fallback::Any)];
        let fallback = table.get("subset_fallback");
        let word = fallback.and_then(|p| self.word(p, &words, &[]));
        let Some(place) = table.get("subset") else {
            if let Some(place) = fallback {
                self.problem(place, Code::Conflict, "`subset_fallback` is for a route with a `subset`")
                    .help("give the route a `subset`, or remove this key");
            }
            return None;
        };
        let labels = self.labels(place);
        if labels.is_empty() {
            if place.is_empty_block() {
                self.problem(place, Code::BadValue, "the subset names no label: it would be the whole pool")
                    .help("write it like `subset: {version: \"2\"}`, or leave it out");
            }
            return None;
        }
        Some(Arc::new(Subset::new(labels, word.unwrap_or_default())))
    }

    /// Gives pools the subsets that a listener's routes ask of them, and tells of those nobody is in.
    pub(crate) fn gather_subsets(&mut self, place: &Place<'_>, listener: &Listener, pools: &mut [Pool]) {
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
                self.problem(place, Code::Unreachable, message)
                    .help("give a destination these `labels`, or change the route's `subset`");
            }
            let known = &mut pool.spread.subsets;
            if known.iter().any(|known| known.id() == subset.id()) {
                continue;
            }
            if known.len() == Subset::MAX {
                let message = format!("routes ask for more than {} subsets of `{}`", Subset::MAX, pool.name);
                self.problem(place, Code::TooLarge, message).help("divide the pool");
                return;
            }
            known.push(subset.clone());
        }
    }
}

fn parse_overprovision(text: &str) -> Result<Option<f64>, Wrong> {
    if text == "none" {
        return Ok(None);
    }
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let percent: u16 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Wrong::new(Code::BadUnit, "is no share", OVERPROVISION_HELP))?;
    if OVERPROVISION.contains(&percent) {
        Ok(Some(f64::from(percent) / 100.0))
    } else {
        Err(Wrong::new(Code::OutOfRange, "is out of range: 100% to 1000%", OVERPROVISION_HELP))
    }
}
