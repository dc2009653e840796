//! What a listener speaks, and which of its keys that makes sense of.

use crate::check::config_node::ConfigNode;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::route::RouteScope;
use crate::model::Protocol;
use crate::problem::Code;

/// What the word after `protocol` says of a listener.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ProtocolTraits {
    pub(crate) word: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Tls,
}

/// Whether a listener ends TLS.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Its protocol says no.
    Never,
    /// Its protocol says so: it must say how.
    Always,
    /// If it says how.
    IfGiven,
}

const fn traits(word: &'static str, protocol: Protocol, tls: Tls) -> ProtocolTraits {
    ProtocolTraits { word, protocol, tls }
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

/// Keys that mean nothing where there are no connections.
const NOT_FOR_DATAGRAMS: [&str; 4] = ["proxy_protocol", "timeouts", "limits", "routes"];

impl ProtocolTraits {
    /// It carries requests.
    pub(crate) fn carries_requests(self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Auto)
    }

    /// Its clients say first what they want, within limits.
    pub(crate) fn reads_header(self) -> bool {
        !matches!(self.protocol, Protocol::Tcp | Protocol::Udp)
    }

    /// It has connections.
    pub(crate) fn has_connections(self) -> bool {
        self.protocol != Protocol::Udp
    }

    /// What it sees of the hellos of TLS: those it answers, and those it passes on and may route by.
    pub(crate) fn sees_client_hello(self, ends_tls: bool, routes: bool) -> bool {
        ends_tls || self.protocol == Protocol::Auto || (self.protocol == Protocol::Tcp && routes)
    }

    /// What its routes choose between.
    pub(crate) fn route_scope(self, ends_tls: bool) -> RouteScope {
        match (self.carries_requests(), ends_tls || self.protocol == Protocol::Auto) {
            (true, false) => RouteScope::Requests,
            (true, true) => RouteScope::TlsRequests,
            (false, _) => RouteScope::Connections,
        }
    }

    pub(crate) fn needs_pool(self) -> &'static str {
        match self.protocol {
            Protocol::Http => "say which pool takes its requests, here or in `routes`",
            Protocol::Udp => "say which pool takes its datagrams",
            _ => "say which pool takes its connections",
        }
    }
}

impl Reader<'_> {
    /// The word after `protocol`: one of ours, or one the embedding program added.
    pub(crate) fn listener_protocol(&mut self, node: &ConfigNode<'_>) -> Option<ProtocolTraits> {
        let own = PROTOCOLS.into_iter().map(|traits| (traits.word, traits));
        let added = self
            .extensions
            .protocols
            .iter()
            .map(|&word| (word, traits(word, Protocol::Other(word), Tls::IfGiven)));
        let words: Vec<_> = own.chain(added).collect();
        self.keyword(node, &words, &[])
    }

    /// Tells of keys for requests at a listener that sees none.
    pub(crate) fn only_http(&mut self, mapping: &Mapping<'_>, keys: &[&str], traits: ProtocolTraits) {
        for key in keys {
            let Some(node) = mapping.get(key) else { continue };
            let at = node.key.unwrap_or(node.tree.span);
            let message = format!("`{key}` is for requests, and a `{}` listener sees none", traits.word);
            self.problems
                .add(Code::Conflict, at, node.path.text(), message)
                .help("remove it, or make the listener's protocol `http`");
        }
    }

    pub(crate) fn only_tls(&mut self, mapping: &Mapping<'_>, key: &str) {
        let Some(node) = mapping.get(key) else { return };
        let at = node.key.unwrap_or(node.tree.span);
        let message = format!("`{key}` is for TLS, and this listener sees none");
        self.problems
            .add(Code::Conflict, at, node.path.text(), message)
            .help("remove it, or make the listener's protocol `https` or `tls`");
    }

    pub(crate) fn not_for_datagrams(&mut self, mapping: &Mapping<'_>) {
        for key in NOT_FOR_DATAGRAMS {
            let Some(node) = mapping.get(key) else { continue };
            let at = node.key.unwrap_or(node.tree.span);
            let help = match key {
                "timeouts" => "remove it; `udp: {idle: …}` says when a silent client is forgotten",
                "limits" => "remove it; `udp: {max_flows: …}` bounds how many clients there are",
                "routes" => "remove it, and name the one pool with `pool`",
                _ => "remove it",
            };
            let message = format!("`{key}` is for connections, and a `udp` listener has none");
            self.problems.add(Code::Conflict, at, node.path.text(), message).help(help);
        }
    }
}
