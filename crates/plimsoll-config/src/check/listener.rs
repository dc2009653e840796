//! Items of `listeners`: addresses, protocol, limits and pools.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use plimsoll_core::Name;

use crate::check::address;
use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::keys;
use crate::check::listener_protocol::{HTTP, ProtocolTraits, Tls};
use crate::check::mapping::Mapping;
use crate::check::pool::Pools;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{
    ClientTimeouts, DestinationAddress, Limits, ListenAddress, Listener, Mqtt, Pool, Protocol, ProxyProtocol,
    ServerTls, Udp, UdpFlow,
};
use crate::problem::Code;
use crate::tree::{Span, Value};

/// Keys that apply to requests only.
const HTTP_ONLY: [&str; 4] = ["via", "half_close", "request_headers", "response_headers"];

/// Names and addresses of listeners that are in use already.
#[derive(Default)]
pub(crate) struct ClaimedAddresses {
    names: FirstSeen<Name>,
    addresses: FirstSeen<ListenAddress>,
}

impl Reader<'_> {
    /// Reads an item of `listeners`.
    pub(crate) fn listener(
        &mut self,
        node: &ConfigNode<'_>,
        pools: &mut Pools<'_>,
        claimed: &mut ClaimedAddresses,
    ) -> Option<Listener> {
        let mapping = self.mapping(node, &keys::LISTENER)?;
        let name = self.listener_name(node, &mapping, claimed);
        let given = mapping.get("protocol");
        let traits = given.and_then(|p| self.listener_protocol(p));
        let protocol_known = given.is_none() || traits.is_some();
        let traits = traits.unwrap_or(HTTP);
        let protocol = traits.protocol;
        let addresses = match mapping.get("address") {
            Some(node) => self.listen_addresses(node, protocol, claimed),
            None => {
                self.missing(node, "address", "write it like \"0.0.0.0:8080\"");
                Vec::new()
            }
        };
        let mut listener = Listener { pool: None, ..Listener::new(name, addresses, protocol) };
        if let Some(node) = mapping.get("unix") {
            let is_unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
            listener.unix = self.unix_file(node, listener.addresses.iter().any(is_unix));
        }
        if traits.has_connections() {
            listener.tcp = self.tcp_options(mapping.get("tcp"), &keys::LISTENER_TCP);
        }
        self.proxy_trust(&mapping, traits, &mut listener);
        if protocol == Protocol::Udp {
            self.reject_connection_keys(&mapping);
        }
        if let Some(node) = mapping.get("udp") {
            self.udp(node, traits, protocol_known, &mut listener.udp);
        }
        if let Some(node) = mapping.get("mqtt") {
            self.mqtt(node, traits, protocol_known, &mut listener.mqtt);
        }
        listener.tls = self.listener_tls(node, &mapping, traits, protocol_known);
        let has_connections = traits.has_connections();
        let terminates_tls = listener.tls.is_some() || traits.tls == Tls::Always;
        let sees_client_hello = traits.sees_client_hello(terminates_tls, mapping.get("routes").is_some());
        if let Some(node) = mapping.get("timeouts").filter(|_| has_connections) {
            let accepts_proxy_protocol = listener.accepts_proxy_protocol;
            self.client_timeouts(
                node,
                traits,
                [sees_client_hello, accepts_proxy_protocol],
                &mut listener.timeouts,
            );
        }
        if let Some(node) = mapping.get("limits").filter(|_| has_connections) {
            self.limits(node, traits, sees_client_hello, &mut listener.limits);
        }
        set_if_given(&mut listener.via, mapping.get("via").and_then(|p| self.boolean(p)));
        set_if_given(&mut listener.half_close, mapping.get("half_close").and_then(|p| self.boolean(p)));
        listener.request_headers = self.header_edits(mapping.get("request_headers"));
        listener.response_headers = self.header_edits(mapping.get("response_headers"));
        listener.pool = mapping.get("pool").and_then(|p| pools.resolve(self, p));
        if let Some(node) = mapping.get("routes").filter(|_| has_connections) {
            listener.routes = self.routes(&listener.name, node, pools, traits.route_scope(terminates_tls));
        }
        let has_target = mapping.get("pool").is_some() || mapping.get("routes").is_some();
        if !has_target && protocol_known {
            self.missing(node, "pool", traits.missing_pool_help());
        }
        Some(listener)
    }

    /// Reads which proxies are trusted, and whether they must send PROXY headers.
    fn proxy_trust(&mut self, mapping: &Mapping<'_>, traits: ProtocolTraits, listener: &mut Listener) {
        let node = mapping.get("proxy_protocol");
        if let Some(node) = node.filter(|_| traits.has_connections()) {
            let keywords = [("none", false), ("accept", true)];
            set_if_given(&mut listener.accepts_proxy_protocol, self.keyword(node, &keywords, &[]));
        }
        if !traits.carries_requests() {
            self.reject_request_keys(mapping, &HTTP_ONLY, traits);
            if !listener.accepts_proxy_protocol {
                self.reject_request_keys(mapping, &["trusted_proxies"], traits);
            }
        }
        if let Some(node) = mapping.get("trusted_proxies") {
            listener.trusted_proxies = self.list(node).iter().filter_map(|p| self.network(p)).collect();
        }
        if let Some(node) = node
            && listener.accepts_proxy_protocol
            && listener.trusted_proxies.is_empty()
        {
            self.problem(node, Code::Conflict, "`proxy_protocol: accept` requires `trusted_proxies`")
                .help("list the networks of the proxies that send PROXY headers in `trusted_proxies`");
        }
    }

    /// Reads the `tls` block, which applies only to protocols that terminate TLS.
    fn listener_tls(
        &mut self,
        listener: &ConfigNode<'_>,
        mapping: &Mapping<'_>,
        traits: ProtocolTraits,
        protocol_known: bool,
    ) -> Option<ServerTls> {
        let name = traits.name;
        match (mapping.get("tls"), traits.tls) {
            (Some(node), Tls::Always | Tls::IfGiven) => self.server_tls(node),
            (None, Tls::Always) => {
                let help = "write it like `tls: {certificates: [{cert: c.pem, key: k.pem}]}`";
                self.missing(listener, "tls", help);
                None
            }
            (Some(node), Tls::Never) if protocol_known => {
                let help = match traits.protocol {
                    Protocol::Http => "set `protocol: https`",
                    Protocol::Udp => "remove it: datagrams are forwarded unchanged",
                    _ => "set `protocol: tls`",
                };
                self.problem(
                    node,
                    Code::Conflict,
                    format!("a listener with `protocol: {name}` does not terminate TLS"),
                )
                .help(help);
                None
            }
            _ => None,
        }
    }

    /// Reads the listener of the short form.
    pub(crate) fn short_form_listener(
        &mut self,
        address: &ConfigNode<'_>,
        claimed: &mut ClaimedAddresses,
    ) -> Listener {
        let addresses = self.listen_addresses(address, Protocol::Http, claimed);
        Listener::new("default", addresses, Protocol::Http)
    }

    fn listener_name(
        &mut self,
        node: &ConfigNode<'_>,
        mapping: &Mapping<'_>,
        claimed: &mut ClaimedAddresses,
    ) -> Name {
        let Some(node) = mapping.get("name") else {
            self.missing(node, "name", "metrics and logs identify the listener by its name");
            return "".into();
        };
        let Some(name) = self.name(node) else { return "".into() };
        if let Some(first) = claimed.names.insert(name.clone(), node.span()) {
            self.duplicate_name("listener", node, first);
        }
        name
    }

    /// Reads an address or a list of addresses.
    fn listen_addresses(
        &mut self,
        node: &ConfigNode<'_>,
        protocol: Protocol,
        claimed: &mut ClaimedAddresses,
    ) -> Vec<ListenAddress> {
        if matches!(&node.tree.value, Value::List(items) if items.is_empty()) {
            self.problem(node, Code::BadValue, "the list of addresses is empty");
        }
        let mut addresses = Vec::new();
        for item in self.one_or_many(node) {
            let parse = if protocol == Protocol::Udp { address::listen_udp } else { address::listen };
            if let Some(address) = self.address(&item, "", parse) {
                self.claim_address(&item, &address, claimed);
                addresses.push(address);
            }
        }
        addresses
    }

    /// Claims an address, and reports one that is in use already. Port 0 is a new port each time, and an address within
    /// another one, such as `127.0.0.1:80` within `:80`, gets its own connections.
    fn claim_address(
        &mut self,
        node: &ConfigNode<'_>,
        address: &ListenAddress,
        claimed: &mut ClaimedAddresses,
    ) {
        let canonical = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let address = match address {
            ListenAddress::Socket(address) | ListenAddress::Udp(address) if address.port() == 0 => return,
            ListenAddress::Socket(address) => ListenAddress::Socket(canonical(address)),
            ListenAddress::Udp(address) => ListenAddress::Udp(canonical(address)),
            ListenAddress::Unix(path) => ListenAddress::Unix(path.clone()),
        };
        if let Some(first) = claimed.addresses.insert(address, node.span()) {
            self.address_conflict(node, first);
        }
    }

    /// Reports an address of the admin plane that a listener uses. They share no port, so that no client of the one
    /// reaches the other.
    pub(crate) fn check_admin_address(
        &mut self,
        node: &ConfigNode<'_>,
        address: SocketAddr,
        claimed: &ClaimedAddresses,
    ) {
        let address = ListenAddress::Socket(address);
        if let Some(first) = claimed.addresses.find(|other| other.overlaps(&address)) {
            self.address_conflict(node, first);
        }
    }

    /// Reports a listener on the default address of the admin plane.
    pub(crate) fn check_default_admin_address(&mut self, claimed: &ClaimedAddresses) {
        let address = ListenAddress::Socket(defaults::ADMIN);
        let Some(listener) = claimed.addresses.find(|other| other.overlaps(&address)) else { return };
        let message =
            format!("this listener has `{}`, the default address of the admin plane", defaults::ADMIN);
        self.problems
            .add(Code::AddressConflict, listener, "admin.address".to_owned(), message)
            .help("set another one, such as `admin: {address: \"127.0.0.1:9901\"}`, or `admin: false`");
    }

    fn address_conflict(&mut self, node: &ConfigNode<'_>, first: Span) {
        let line = self.line_of(first);
        let message = format!("`{}` is already used by another listener, on {line}", node.shown());
        self.problem(node, Code::AddressConflict, message)
            .help("use different addresses or ports")
            .related("first given here", first);
    }

    /// Reads the timeouts of client connections. `header` bounds each wait for what a client sends first.
    fn client_timeouts(
        &mut self,
        node: &ConfigNode<'_>,
        traits: ProtocolTraits,
        [sees_client_hello, accepts_proxy_protocol]: [bool; 2],
        timeouts: &mut ClientTimeouts,
    ) {
        let Some(mapping) = self.mapping(node, &keys::CLIENT_TIMEOUTS) else { return };
        if !(traits.reads_header() || sees_client_hello || accepts_proxy_protocol) {
            self.reject_header_timeout(&mapping, traits);
        }
        if !traits.carries_requests() {
            self.reject_request_keys(&mapping, &["body", "min_rate", "connection"], traits);
        }
        if !sees_client_hello {
            self.reject_tls_key(&mapping, "handshake");
        }
        let mut read = |key| mapping.get(key).and_then(|p| self.duration(p, &defaults::TIMEOUT));
        set_if_given(&mut timeouts.handshake, read("handshake"));
        set_if_given(&mut timeouts.header, read("header"));
        set_if_given(&mut timeouts.body, read("body"));
        set_if_given(&mut timeouts.idle, read("idle"));
        timeouts.connection = read("connection");
        let min_rate = mapping.get("min_rate").and_then(|p| self.byte_rate(p, &defaults::MIN_RATE));
        set_if_given(&mut timeouts.min_rate, min_rate);
    }

    /// Reads the size and count limits.
    fn limits(
        &mut self,
        node: &ConfigNode<'_>,
        traits: ProtocolTraits,
        sees_client_hello: bool,
        limits: &mut Limits,
    ) {
        let Some(mapping) = self.mapping(node, &keys::LIMITS) else { return };
        if !sees_client_hello {
            self.reject_tls_key(&mapping, "handshakes");
            self.reject_tls_key(&mapping, "handshakes_per_source");
        }
        self.source_limit(
            &mapping,
            "connections",
            &mut limits.connections,
            &mut limits.connections_per_source,
        );
        self.source_limit(&mapping, "handshakes", &mut limits.handshakes, &mut limits.handshakes_per_source);
        if !traits.reads_header() {
            self.reject_request_keys(&mapping, &["header_bytes"], traits);
        }
        if !traits.carries_requests() {
            let keys = ["requests", "streams", "headers", "uri_bytes", "body_bytes"];
            self.reject_request_keys(&mapping, &keys, traits);
        }
        set_if_given(
            &mut limits.requests,
            mapping.get("requests").and_then(|p| self.integer(p, defaults::REQUESTS)),
        );
        set_if_given(
            &mut limits.streams,
            mapping.get("streams").and_then(|p| self.integer(p, defaults::STREAMS)),
        );
        set_if_given(
            &mut limits.headers,
            mapping.get("headers").and_then(|p| self.count(p, defaults::HEADERS)),
        );
        let bytes = |size: u64| usize::try_from(size).ok();
        let header_bytes = mapping.get("header_bytes").and_then(|p| self.size(p, defaults::HEADER_BYTES));
        set_if_given(&mut limits.header_bytes, header_bytes.and_then(bytes));
        let uri_bytes = mapping.get("uri_bytes").and_then(|p| self.size(p, defaults::URI_BYTES));
        match uri_bytes.and_then(bytes) {
            Some(bytes) => limits.uri_bytes = bytes,
            None => limits.uri_bytes = limits.uri_bytes.min(limits.header_bytes),
        }
        set_if_given(
            &mut limits.body_bytes,
            mapping.get("body_bytes").and_then(|p| self.size(p, 0..=u64::MAX)),
        );
        if let (Some(node), true) = (mapping.get("uri_bytes"), limits.uri_bytes > limits.header_bytes) {
            self.problem(node, Code::Conflict, "`uri_bytes` is larger than `header_bytes`");
        }
    }

    /// Reads a limit and its part per source, by default at most a half, so that one source cannot use up the limit.
    fn source_limit(
        &mut self,
        mapping: &Mapping<'_>,
        key: &'static str,
        limit: &mut usize,
        per_source: &mut usize,
    ) {
        let read = |reader: &mut Self, key: &str| {
            mapping.get(key).and_then(|p| reader.count(p, defaults::CONNECTIONS))
        };
        set_if_given(limit, read(self, key));
        let given = read(self, &format!("{key}_per_source"));
        *per_source = given.unwrap_or((*per_source).min(limit.div_ceil(2)));
    }

    /// Reads a limit, for which 0 is not valid.
    fn count(&mut self, node: &ConfigNode<'_>, range: std::ops::RangeInclusive<i64>) -> Option<usize> {
        self.integer(node, range)
    }

    /// Reads the `udp` block, which applies only to that protocol.
    fn udp(&mut self, node: &ConfigNode<'_>, traits: ProtocolTraits, protocol_known: bool, udp: &mut Udp) {
        if traits.protocol != Protocol::Udp && protocol_known {
            let message = format!("`udp` does not apply to a listener with `protocol: {}`", traits.name);
            self.problem(node, Code::Conflict, message).help("set `protocol: udp`, or remove this block");
        }
        let Some(mapping) = self.mapping(node, &keys::UDP) else { return };
        let flows = UdpFlow::ALL.map(|flow| (flow.as_str(), flow));
        set_if_given(&mut udp.flow, mapping.get("flow").and_then(|p| self.keyword(p, &flows, &[])));
        set_if_given(&mut udp.idle, mapping.get("idle").and_then(|p| self.duration(p, &defaults::TIMEOUT)));
        let flows = mapping.get("max_flows").and_then(|p| self.count(p, defaults::CONNECTIONS));
        set_if_given(&mut udp.max_flows, flows);
    }

    /// Reads the `mqtt` block, which applies only to that protocol and to `auto`.
    fn mqtt(&mut self, node: &ConfigNode<'_>, traits: ProtocolTraits, protocol_known: bool, mqtt: &mut Mqtt) {
        if !matches!(traits.protocol, Protocol::Mqtt | Protocol::Auto) && protocol_known {
            let message = format!("`mqtt` does not apply to a listener with `protocol: {}`", traits.name);
            self.problem(node, Code::Conflict, message).help("set `protocol: mqtt`, or remove this block");
        }
        let Some(mapping) = self.mapping(node, &keys::MQTT) else { return };
        let rebalance = mapping.get("rebalance").and_then(|p| self.count(p, defaults::REBALANCE));
        set_if_given(&mut mqtt.rebalance, rebalance);
    }

    /// Reports a UDP listener with a pool that cannot receive datagrams.
    pub(crate) fn check_datagram_pool(&mut self, node: &ConfigNode<'_>, listener: &Listener, pools: &[Pool]) {
        let Some(pool) = listener.pool.and_then(|index| pools.get(index)) else { return };
        if listener.protocol != Protocol::Udp {
            return;
        }
        if pool.tls.is_some() {
            let message = format!("the pool `{}` uses TLS, which a UDP listener does not support", pool.name);
            self.problem(node, Code::Conflict, message).help("give the listener a pool without `tls`");
        }
        let is_unix = |d: &&crate::model::Destination| matches!(d.address, DestinationAddress::Unix(_));
        if let Some(unix) = pool.destinations.iter().find(is_unix) {
            let message = format!(
                "the destination `{}` is a Unix socket, which a UDP listener does not support",
                unix.name
            );
            self.problem(node, Code::Conflict, message).help("use an IP address and port");
        }
        if pool.limits_connections() {
            let message =
                format!("the pool `{}` limits connections, which a UDP listener does not use", pool.name);
            self.problem(node, Code::Conflict, message)
                .help("limit `requests` instead: each flow counts as a request");
        }
        if pool.proxy_protocol != ProxyProtocol::None {
            let message = format!(
                "the pool `{}` sends PROXY headers, which a UDP listener does not support",
                pool.name
            );
            self.problem(node, Code::Conflict, message)
                .help("give the listener a pool without `proxy_protocol`");
        }
    }

    /// Reads a network such as `10.0.0.0/8`, or a single address.
    fn network(&mut self, node: &ConfigNode<'_>) -> Option<IpNet> {
        self.parsed(node, "a network", |text| {
            let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            let help = "write it like \"10.0.0.0/8\", \"fd00::/8\" or \"10.0.0.1\"";
            let net: IpNet =
                net.ok_or_else(|| ValueError::new(Code::BadAddress, "is not a valid network", help))?;
            match net.trunc() == net {
                true => Ok(net),
                false => {
                    let help = format!("write \"{}\" for the network, or only the address", net.trunc());
                    Err(ValueError::new(Code::BadAddress, "has bits set after its prefix", help))
                }
            }
        })
    }
}
