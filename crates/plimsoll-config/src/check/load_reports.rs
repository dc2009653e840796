//! Load reports from destinations, and overload protection.

use plimsoll_core::health::LoadSpec;

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::defaults;
use crate::model::{Listener, Pool, Protocol};
use crate::problem::Code;

impl Reader<'_> {
    /// Reads a `load_reports` block over `settings`.
    pub(crate) fn load_reports(&mut self, node: &ConfigNode<'_>, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::LOAD_REPORTS) else { return };
        set_if_given(&mut settings.orca, mapping.get("orca").and_then(|p| self.boolean(p)));
        set_if_given(
            &mut settings.load.max_age,
            mapping.get("max_age").and_then(|p| self.duration(p, &defaults::INTERVAL)),
        );
    }

    /// Reports a listener without HTTP responses where the pool reads load reports in them.
    pub(crate) fn check_reports_visible(
        &mut self,
        node: &ConfigNode<'_>,
        listener: &Listener,
        pools: &[Pool],
    ) {
        if matches!(listener.protocol, Protocol::Http | Protocol::Auto) {
            return;
        }
        let target_pools = listener.routes.iter().map(|route| route.pool).chain(listener.pool);
        if let Some(pool) = target_pools.filter_map(|index| pools.get(index)).find(|pool| pool.orca) {
            let message = format!(
                "the pool `{}` reads load reports in HTTP responses, which a `{}` listener does not receive",
                pool.name,
                listener.protocol.as_str()
            );
            self.problem(node, Code::Conflict, message)
                .help("use a pool with `load_reports: {orca: false}`; heartbeats report load there, too");
        }
    }

    /// Reads `overload`, a boolean or a block, over `load`.
    pub(crate) fn overload(&mut self, node: &ConfigNode<'_>, load: &mut LoadSpec) {
        if node.is_bool() {
            load.overload = self.boolean(node).unwrap_or(false).then_some(defaults::OVERLOAD);
            return;
        }
        let Some(mapping) = self.mapping(node, &keys::OVERLOAD) else { return };
        let mut spec = load.overload.unwrap_or(defaults::OVERLOAD);
        let threshold = mapping.get("threshold");
        set_if_given(&mut spec.threshold, threshold.and_then(|p| self.share(p)));
        let recover = mapping.get("recover").and_then(|p| self.share(p));
        // A threshold alone keeps the default distance between both.
        let distance = defaults::OVERLOAD.threshold - defaults::OVERLOAD.recover;
        spec.recover = recover.unwrap_or((spec.threshold - distance).max(0.0));
        set_if_given(&mut spec.max_overloaded, mapping.get("max_overloaded").and_then(|p| self.share(p)));
        if let (Some(node), true) = (threshold, spec.threshold <= 0.0) {
            self.problem(node, Code::OutOfRange, "`threshold` is out of range: expected more than 0%")
                .help("write it like \"90%\"");
        }
        if let (Some(node), true) = (mapping.get("recover"), spec.recover > spec.threshold) {
            let message =
                "`recover` is higher than `threshold`: a destination would recover while it is overloaded";
            self.problem(node, Code::Conflict, message).help("set `recover` lower than `threshold`");
        }
        let on = mapping.get("enabled").and_then(|p| self.boolean(p)).unwrap_or(true);
        load.overload = on.then_some(spec);
    }
}
