//! Protocol of a listener, and the keys that apply to it.

use crate::check::config_node::ConfigNode;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::route::RouteScope;
use crate::model::Protocol;
use crate::problem::Code;

/// Properties of a listener that follow from its `protocol`.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ProtocolTraits {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Tls,
}

/// Whether a listener terminates TLS.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// The protocol excludes TLS termination.
    Never,
    /// The protocol requires a `tls` block.
    Always,
    /// TLS is terminated if a `tls` block is given.
    IfGiven,
}

const fn traits(name: &'static str, protocol: Protocol, tls: Tls) -> ProtocolTraits {
    ProtocolTraits { name, protocol, tls }
}

pub(crate) const HTTP: ProtocolTraits = traits("http", Protocol::Http, Tls::Never);
pub(crate) const PROTOCOLS: [ProtocolTraits; 7] = [
    HTTP,
    traits("https", Protocol::Http, Tls::Always),
    traits("tcp", Protocol::Tcp, Tls::Never),
    traits("tls", Protocol::Tcp, Tls::Always),
    traits("udp", Protocol::Udp, Tls::Never),
    traits("mqtt", Protocol::Mqtt, Tls::IfGiven),
    traits("auto", Protocol::Auto, Tls::IfGiven),
];

/// Keys that apply to connections, but not to datagrams.
const NOT_FOR_DATAGRAMS: [&str; 5] = ["proxy_protocol", "tcp", "timeouts", "limits", "routes"];

impl ProtocolTraits {
    /// Returns whether the listener receives HTTP requests.
    pub(crate) fn carries_requests(self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Auto)
    }

    /// Returns whether clients begin with a header of limited size and time.
    pub(crate) fn reads_header(self) -> bool {
        !matches!(self.protocol, Protocol::Tcp | Protocol::Udp)
    }

    /// Returns whether the listener has connections.
    pub(crate) fn has_connections(self) -> bool {
        self.protocol != Protocol::Udp
    }

    /// Returns whether the listener reads a TLS ClientHello, to terminate TLS or to route by server name.
    pub(crate) fn sees_client_hello(self, terminates_tls: bool, routes: bool) -> bool {
        terminates_tls || self.protocol == Protocol::Auto || (self.protocol == Protocol::Tcp && routes)
    }

    /// Returns the kind of messages that its routes match.
    pub(crate) fn route_scope(self, terminates_tls: bool) -> RouteScope {
        match (self.carries_requests(), terminates_tls || self.protocol == Protocol::Auto) {
            (true, false) => RouteScope::Requests,
            (true, true) => RouteScope::TlsRequests,
            (false, _) => RouteScope::Connections,
        }
    }

    /// Returns the help text of a missing pool.
    pub(crate) fn missing_pool_help(self) -> &'static str {
        match self.protocol {
            Protocol::Http => "name the pool for its requests, here or in `routes`",
            Protocol::Udp => "name the pool for its datagrams",
            _ => "name the pool for its connections",
        }
    }
}

impl Reader<'_> {
    /// Reads the protocol of a listener: a built-in one, or one of the embedding program.
    pub(crate) fn listener_protocol(&mut self, node: &ConfigNode<'_>) -> Option<ProtocolTraits> {
        let built_in = PROTOCOLS.into_iter().map(|traits| (traits.name, traits));
        let added = self
            .extensions
            .protocols
            .iter()
            .map(|&name| (name, traits(name, Protocol::Other(name), Tls::IfGiven)));
        let keywords: Vec<_> = built_in.chain(added).collect();
        self.keyword(node, &keywords, &[])
    }

    /// Reports keys that apply to requests only.
    pub(crate) fn reject_request_keys(
        &mut self,
        mapping: &Mapping<'_>,
        keys: &[&str],
        traits: ProtocolTraits,
    ) {
        for key in keys {
            let Some(node) = mapping.get(key) else { continue };
            let at = node.key.unwrap_or(node.tree.span);
            let message =
                format!("`{key}` applies to requests, which a `{}` listener does not receive", traits.name);
            self.problems
                .add(Code::Conflict, at, node.path.text(), message)
                .help("remove it, or set `protocol: http`");
        }
    }

    /// Reports `header` where the proxy waits for nothing that a client sends first.
    pub(crate) fn reject_header_timeout(&mut self, mapping: &Mapping<'_>, traits: ProtocolTraits) {
        let Some(node) = mapping.get("header") else { return };
        let at = node.key.unwrap_or(node.tree.span);
        let message = format!(
            "`header` limits a wait for the client, which this `{}` listener does not have",
            traits.name
        );
        self.problems
            .add(Code::Conflict, at, node.path.text(), message)
            .help("remove it; it applies with `proxy_protocol: accept`, TLS, routes by `sni`, or requests");
    }

    /// Reports a key that applies to TLS only.
    pub(crate) fn reject_tls_key(&mut self, mapping: &Mapping<'_>, key: &str) {
        let Some(node) = mapping.get(key) else { return };
        let at = node.key.unwrap_or(node.tree.span);
        let message = format!("`{key}` applies to TLS, which this listener does not use");
        self.problems
            .add(Code::Conflict, at, node.path.text(), message)
            .help("remove it, or set `protocol: https` or `protocol: tls`");
    }

    /// Reports keys that apply to connections only.
    pub(crate) fn reject_connection_keys(&mut self, mapping: &Mapping<'_>) {
        for key in NOT_FOR_DATAGRAMS {
            let Some(node) = mapping.get(key) else { continue };
            let at = node.key.unwrap_or(node.tree.span);
            let help = match key {
                "timeouts" => "remove it; `udp: {idle: …}` sets the idle timeout of flows",
                "limits" => "remove it; `udp: {max_flows: …}` limits the number of flows",
                "routes" => "remove it, and name the one pool with `pool`",
                _ => "remove it",
            };
            let message = format!("`{key}` applies to connections, which a `udp` listener does not have");
            self.problems.add(Code::Conflict, at, node.path.text(), message).help(help);
        }
    }
}
