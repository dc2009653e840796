//! Warnings of settings that are valid, and do not do what they seem to.

use std::net::{IpAddr, SocketAddr};

use crate::check::config_node::ConfigNode;
use crate::check::reader::Reader;
use crate::model::{Destination, DestinationAddress, ListenAddress, Listener, Pool};
use crate::problem::Code;

impl Reader<'_> {
    /// Reports settings of pools without effect, and listeners that forward to themselves. `nodes` are those of the pools.
    pub(crate) fn warn_of_effects(
        &mut self,
        nodes: &[ConfigNode<'_>],
        listeners: &[Listener],
        pools: &[Pool],
    ) {
        for (pool, node) in pools.iter().zip(nodes) {
            self.warn_of_ignored_weights(node, pool);
        }
        self.warn_of_zones_without_destinations(nodes, pools);
        for listener in listeners {
            if let Some((pool, destination)) = find_loop(listener, listeners, pools) {
                let message = format!(
                    "the destination `{}` of the pool `{}` leads back to the listener `{}`",
                    destination.name, pools[pool].name, listener.name
                );
                if let Some(node) = nodes.get(pool) {
                    self.problem(node, Code::ForwardingLoop, message)
                        .help("name the address of a server, or another port");
                }
            }
        }
    }

    fn warn_of_ignored_weights(&mut self, node: &ConfigNode<'_>, pool: &Pool) {
        let mut weights = pool.destinations.iter().map(|d| d.weight).filter(|weight| weight.get() > 0);
        let Some(first) = weights.next() else { return };
        if weights.any(|weight| weight != first) && !pool.algorithm.heeds_weights() {
            let name = pool.algorithm.name();
            let message =
                format!("the weights of the pool `{}` differ, and `{name}` ignores them", pool.name);
            self.problem(node, Code::NoEffect, message).help(
                "use an algorithm that uses weights, such as weighted_round_robin, or remove the weights",
            );
        }
    }

    /// Reports an own zone that no destination is in.
    fn warn_of_zones_without_destinations(&mut self, nodes: &[ConfigNode<'_>], pools: &[Pool]) {
        let aware = || pools.iter().filter_map(|pool| Some((pool, &pool.tiers.zone.as_ref()?.own)));
        let Some((_, own)) = aware().next() else { return };
        let is_own = |d: &Destination| d.zone.as_ref() == Some(own);
        if aware().any(|(pool, _)| pool.destinations.is_empty() || pool.destinations.iter().any(is_own)) {
            return;
        }
        let message = format!("no destination is in the own zone `{own}`, so it has no effect");
        if let Some(node) = nodes.first() {
            self.problem(node, Code::NoEffect, message)
                .help(format!("add `zone: {own}` to the destinations there"));
        }
    }
}

/// Returns a destination by which messages of the listener come back to it, and the index of its pool.
fn find_loop<'p>(
    start: &Listener,
    listeners: &[Listener],
    pools: &'p [Pool],
) -> Option<(usize, &'p Destination)> {
    let mut seen = vec![false; listeners.len()];
    let mut open = vec![start];
    while let Some(listener) = open.pop() {
        let used = listener.routes.iter().map(|route| route.pool).chain(listener.pool);
        for (pool, destination) in used.flat_map(|pool| destinations_of(pools, pool)) {
            if leads_to(destination, start) {
                return Some((pool, destination));
            }
            for (index, next) in listeners.iter().enumerate() {
                if !seen[index] && leads_to(destination, next) {
                    seen[index] = true;
                    open.push(next);
                }
            }
        }
    }
    None
}

fn destinations_of(pools: &[Pool], pool: usize) -> impl Iterator<Item = (usize, &Destination)> {
    pools.get(pool).into_iter().flat_map(move |found| found.destinations.iter().map(move |d| (pool, d)))
}

/// Returns whether the listener accepts what is sent to the destination. Names other than `localhost` are not resolved.
fn leads_to(destination: &Destination, listener: &Listener) -> bool {
    let reaches = |own: &SocketAddr, to: SocketAddr| {
        own.port() == to.port()
            && own.port() != 0
            && (own.ip() == to.ip() || own.ip().is_unspecified() && to.ip().is_loopback())
    };
    listener.addresses.iter().any(|address| match (address, &destination.address) {
        (ListenAddress::Unix(own), DestinationAddress::Unix(to)) => own == to,
        (ListenAddress::Socket(own) | ListenAddress::Udp(own), DestinationAddress::Socket(to)) => {
            reaches(own, *to)
        }
        (ListenAddress::Socket(own) | ListenAddress::Udp(own), DestinationAddress::Name(name, port)) => {
            let loopback = if own.is_ipv4() {
                IpAddr::from([127, 0, 0, 1])
            } else {
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
            };
            name == "localhost" && reaches(own, SocketAddr::new(loopback, *port))
        }
        _ => false,
    })
}
