//! Where a listener accepts, what it speaks and where it leads.

use std::net::IpAddr;

use ipnet::IpNet;
use plimsoll_core::Name;

use crate::check::address;
use crate::check::config_node::Place;
use crate::check::first_seen::Firsts;
use crate::check::keys;
use crate::check::pool::Pools;
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::spoken::{HTTP, Spoken, Tls};
use crate::check::table::Table;
use crate::check::value_error::Wrong;
use crate::defaults;
use crate::model::{
    ClientTimeouts, DestinationAddress, Limits, ListenAddress, Listener, Mqtt, Pool, Protocol, ProxyProtocol,
    ServerTls, Udp, UdpFlow,
};
use crate::problem::Code;
use crate::tree::Value;

/// Keys of a listener that mean something for requests only.
const HTTP_ONLY: [&str; 3] = ["via", "request_headers", "response_headers"];

/// Names and addresses given so far.
#[derive(Default)]
pub(crate) struct Taken {
    names: Firsts<Name>,
    addresses: Firsts<ListenAddress>,
}

impl Reader<'_> {
    /// One item of `listeners`.
    pub(crate) fn listener(
        &mut self,
        place: &Place<'_>,
        pools: &mut Pools<'_>,
        taken: &mut Taken,
    ) -> Option<Listener> {
        let table = self.table(place, &keys::LISTENER)?;
        let name = self.listener_name(place, &table, taken);
        let given = table.get("protocol");
        let spoken = given.and_then(|p| self.spoken(p));
        let understood = given.is_none() || spoken.is_some();
        let spoken = spoken.unwrap_or(HTTP);
        let protocol = spoken.protocol;
        let addresses = match table.get("address") {
            Some(place) => self.listen_addresses(place, protocol, taken),
            None => {
                self.missing(place, "address", "write it like \"0.0.0.0:8080\"");
                Vec::new()
            }
        };
        let mut listener = plain(name, addresses, protocol);
        if let Some(place) = table.get("proxy_protocol").filter(|_| spoken.connects()) {
            let words = [("none", false), ("accept", true)];
            set_if_given(&mut listener.accepts_proxy_protocol, self.word(place, &words, &[]));
        }
        if !spoken.sees_requests() {
            self.only_http(&table, &HTTP_ONLY, spoken);
            if !listener.accepts_proxy_protocol {
                self.only_http(&table, &["trusted_proxies"], spoken);
            }
        }
        if protocol == Protocol::Udp {
            self.not_for_datagrams(&table);
        }
        if let Some(place) = table.get("udp") {
            self.udp(place, spoken, understood, &mut listener.udp);
        }
        if let Some(place) = table.get("mqtt") {
            self.mqtt(place, spoken, understood, &mut listener.mqtt);
        }
        listener.tls = self.listener_tls(place, &table, spoken, understood);
        let connects = spoken.connects();
        let ends_tls = listener.tls.is_some() || spoken.tls == Tls::Always;
        let sees_hello = spoken.sees_hello(ends_tls, table.get("routes").is_some());
        if let Some(place) = table.get("timeouts").filter(|_| connects) {
            self.client_timeouts(place, spoken, sees_hello, &mut listener.timeouts);
        }
        if let Some(place) = table.get("limits").filter(|_| connects) {
            self.limits(place, spoken, sees_hello, &mut listener.limits);
        }
        if let Some(place) = table.get("trusted_proxies") {
            listener.trusted_proxies = self.list(place).iter().filter_map(|p| self.network(p)).collect();
        }
        if let Some(place) = table.get("proxy_protocol")
            && listener.accepts_proxy_protocol
            && listener.trusted_proxies.is_empty()
        {
            self.problem(place, Code::Conflict, "nobody is trusted to send a PROXY header")
                .help("name the networks of those who do in `trusted_proxies`");
        }
        set_if_given(&mut listener.via, table.get("via").and_then(|p| self.switch(p)));
        listener.request_headers = self.header_edits(table.get("request_headers"));
        listener.response_headers = self.header_edits(table.get("response_headers"));
        listener.pool = table.get("pool").and_then(|p| pools.find(self, p));
        if let Some(place) = table.get("routes").filter(|_| connects) {
            listener.routes = self.routes(&listener.name, place, pools, spoken.routed(ends_tls));
        }
        let leads = table.get("pool").is_some() || table.get("routes").is_some();
        if !leads && understood {
            self.missing(place, "pool", spoken.needs_pool());
        }
        Some(listener)
    }

    /// The `tls` block, which belongs to the protocols that end TLS and to no other.
    fn listener_tls(
        &mut self,
        listener: &Place<'_>,
        table: &Table<'_>,
        spoken: Spoken,
        understood: bool,
    ) -> Option<ServerTls> {
        let word = spoken.word;
        match (table.get("tls"), spoken.tls) {
            (Some(place), Tls::Always | Tls::IfGiven) => self.server_tls(place),
            (None, Tls::Always) => {
                let help = "write it like `tls: {certificates: [{cert: c.pem, key: k.pem}]}`";
                self.missing(listener, "tls", help);
                None
            }
            (Some(place), Tls::Never) if understood => {
                let help = match spoken.protocol {
                    Protocol::Http => "make its protocol `https`",
                    Protocol::Udp => "remove it: datagrams are passed on as they are",
                    _ => "make its protocol `tls`",
                };
                self.problem(place, Code::Conflict, format!("a listener of protocol `{word}` ends no TLS"))
                    .help(help);
                None
            }
            _ => None,
        }
    }

    /// The listener of the short form.
    pub(crate) fn default_listener(&mut self, address: &Place<'_>, taken: &mut Taken) -> Listener {
        let addresses = self.listen_addresses(address, Protocol::Http, taken);
        Listener { pool: Some(0), ..plain("default".into(), addresses, Protocol::Http) }
    }

    fn listener_name(&mut self, place: &Place<'_>, table: &Table<'_>, taken: &mut Taken) -> Name {
        let Some(place) = table.get("name") else {
            self.missing(place, "name", "metrics and logs call the listener by it");
            return "".into();
        };
        let Some(name) = self.name(place) else { return "".into() };
        if let Some(first) = taken.names.again(name.clone(), place.span()) {
            self.duplicate_name("listener", place, first);
        }
        name
    }

    fn listen_addresses(
        &mut self,
        place: &Place<'_>,
        protocol: Protocol,
        taken: &mut Taken,
    ) -> Vec<ListenAddress> {
        if matches!(&place.node.value, Value::List(items) if items.is_empty()) {
            self.problem(place, Code::BadValue, "the list of addresses is empty");
        }
        let mut addresses = Vec::new();
        for item in self.one_or_more(place) {
            let parse = if protocol == Protocol::Udp { address::listen_udp } else { address::listen };
            if let Some(address) = self.address(&item, "", parse) {
                self.take_address(&item, &address, taken);
                addresses.push(address);
            }
        }
        addresses
    }

    /// Tells when two want one address. Port 0 is a new port each time.
    pub(crate) fn take_address(&mut self, place: &Place<'_>, address: &ListenAddress, taken: &mut Taken) {
        let port = match address {
            ListenAddress::Socket(socket) | ListenAddress::Udp(socket) => Some(socket.port()),
            ListenAddress::Unix(_) => None,
        };
        if port == Some(0) {
            return;
        }
        if let Some(first) = taken.addresses.again(address.clone(), place.span()) {
            let line = self.line_of(first);
            let message = format!("`{}` is listened on twice; first on {line}", place.shown());
            self.problem(place, Code::AddressConflict, message)
                .help("give each its own address or port")
                .related("first given here", first);
        }
    }

    fn client_timeouts(
        &mut self,
        place: &Place<'_>,
        spoken: Spoken,
        sees_hello: bool,
        timeouts: &mut ClientTimeouts,
    ) {
        let Some(table) = self.table(place, &keys::CLIENT_TIMEOUTS) else { return };
        if !spoken.awaits_a_head() {
            self.only_http(&table, &["header"], spoken);
        }
        if !spoken.sees_requests() {
            self.only_http(&table, &["body", "connection"], spoken);
        }
        if !sees_hello {
            self.only_tls(&table, "handshake");
        }
        let mut read = |key| table.get(key).and_then(|p| self.dur(p, &defaults::TIMEOUT));
        set_if_given(&mut timeouts.handshake, read("handshake"));
        set_if_given(&mut timeouts.header, read("header"));
        set_if_given(&mut timeouts.body, read("body"));
        set_if_given(&mut timeouts.idle, read("idle"));
        timeouts.connection = read("connection");
    }

    fn limits(&mut self, place: &Place<'_>, spoken: Spoken, sees_hello: bool, limits: &mut Limits) {
        let Some(table) = self.table(place, &keys::LIMITS) else { return };
        if !sees_hello {
            self.only_tls(&table, "handshakes");
        }
        set_if_given(
            &mut limits.handshakes,
            table.get("handshakes").and_then(|p| self.count(p, defaults::CONNECTIONS)),
        );
        if !spoken.awaits_a_head() {
            self.only_http(&table, &["header_bytes"], spoken);
        }
        if !spoken.sees_requests() {
            let keys = ["requests", "streams", "headers", "uri_bytes", "body_bytes"];
            self.only_http(&table, &keys, spoken);
        }
        set_if_given(
            &mut limits.connections,
            table.get("connections").and_then(|p| self.count(p, defaults::CONNECTIONS)),
        );
        set_if_given(
            &mut limits.requests,
            table.get("requests").and_then(|p| self.whole(p, defaults::REQUESTS)),
        );
        set_if_given(
            &mut limits.streams,
            table.get("streams").and_then(|p| self.whole(p, defaults::STREAMS)),
        );
        set_if_given(
            &mut limits.headers,
            table.get("headers").and_then(|p| self.count(p, defaults::HEADERS)),
        );
        let bytes = |size: u64| usize::try_from(size).ok();
        let head = table.get("header_bytes").and_then(|p| self.size(p, defaults::HEADER_BYTES));
        set_if_given(&mut limits.header_bytes, head.and_then(bytes));
        let target = table.get("uri_bytes").and_then(|p| self.size(p, defaults::URI_BYTES));
        match target.and_then(bytes) {
            Some(target) => limits.uri_bytes = target,
            None => limits.uri_bytes = limits.uri_bytes.min(limits.header_bytes),
        }
        set_if_given(
            &mut limits.body_bytes,
            table.get("body_bytes").and_then(|p| self.size(p, 0..=u64::MAX)),
        );
        if let (Some(place), true) = (table.get("uri_bytes"), limits.uri_bytes > limits.header_bytes) {
            self.problem(place, Code::Conflict, "`uri_bytes` is above `header_bytes`, which it is a part of");
        }
    }

    /// A number that bounds something, so 0 would let nothing in.
    fn count(&mut self, place: &Place<'_>, range: std::ops::RangeInclusive<i64>) -> Option<usize> {
        self.whole(place, range)
    }

    /// The `udp` block, which belongs to that protocol and to no other.
    fn udp(&mut self, place: &Place<'_>, spoken: Spoken, understood: bool, udp: &mut Udp) {
        if spoken.protocol != Protocol::Udp && understood {
            let message = format!("a listener of protocol `{}` receives no datagrams", spoken.word);
            self.problem(place, Code::Conflict, message).help("make its protocol `udp`, or remove it");
        }
        let Some(table) = self.table(place, &keys::UDP) else { return };
        let flows = [("source", UdpFlow::Source), ("datagram", UdpFlow::Datagram)];
        set_if_given(&mut udp.flow, table.get("flow").and_then(|p| self.word(p, &flows, &[])));
        set_if_given(&mut udp.idle, table.get("idle").and_then(|p| self.dur(p, &defaults::TIMEOUT)));
        let flows = table.get("max_flows").and_then(|p| self.count(p, defaults::CONNECTIONS));
        set_if_given(&mut udp.max_flows, flows);
    }

    /// The `mqtt` block, which belongs to that protocol.
    fn mqtt(&mut self, place: &Place<'_>, spoken: Spoken, understood: bool, mqtt: &mut Mqtt) {
        if !matches!(spoken.protocol, Protocol::Mqtt | Protocol::Auto) && understood {
            let message = format!("a listener of protocol `{}` has no clients of MQTT", spoken.word);
            self.problem(place, Code::Conflict, message).help("make its protocol `mqtt`, or remove it");
        }
        let Some(table) = self.table(place, &keys::MQTT) else { return };
        let rebalance = table.get("rebalance").and_then(|p| self.count(p, defaults::REBALANCE));
        set_if_given(&mut mqtt.rebalance, rebalance);
    }

    /// Tells when a udp listener leads to a pool whose destinations take no datagrams.
    pub(crate) fn takes_datagrams(&mut self, place: &Place<'_>, listener: &Listener, pools: &[Pool]) {
        let Some(pool) = listener.pool.and_then(|index| pools.get(index)) else { return };
        if listener.protocol != Protocol::Udp {
            return;
        }
        if pool.tls.is_some() {
            let message =
                format!("the pool `{}` speaks TLS, and datagrams are passed on as they are", pool.name);
            self.problem(place, Code::Conflict, message).help("give the listener a pool without `tls`");
        }
        let is_unix = |d: &&crate::model::Destination| matches!(d.address, DestinationAddress::Unix(_));
        if let Some(unix) = pool.destinations.iter().find(is_unix) {
            let message = format!("the destination `{}` of its pool is a Unix socket", unix.name);
            self.problem(place, Code::Conflict, message).help("datagrams go to an IP address and port");
        }
        if pool.limits_connections() {
            let message = format!(
                "the pool `{}` limits its connections, and datagrams are passed on without",
                pool.name
            );
            self.problem(place, Code::Conflict, message)
                .help("limit its `requests` instead: flows of datagrams count as such");
        }
        if pool.proxy_protocol != ProxyProtocol::None {
            let message = format!("the pool `{}` sends PROXY headers, and datagrams have none", pool.name);
            self.problem(place, Code::Conflict, message)
                .help("give the listener a pool without `proxy_protocol`");
        }
    }

    /// `10.0.0.0/8`, or one address.
    fn network(&mut self, place: &Place<'_>) -> Option<IpNet> {
        self.parsed(place, "a network", |text| {
            let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            let help = "write it like \"10.0.0.0/8\", \"fd00::/8\" or \"10.0.0.1\"";
            let net: IpNet = net.ok_or_else(|| Wrong::new(Code::BadAddress, "is not a network", help))?;
            match net.trunc() == net {
                true => Ok(net),
                false => {
                    let help = format!("write \"{}\" for the network, or the address alone", net.trunc());
                    Err(Wrong::new(Code::BadAddress, "has bits set beyond its prefix", help))
                }
            }
        })
    }
}

fn plain(name: Name, addresses: Vec<ListenAddress>, protocol: Protocol) -> Listener {
    Listener {
        name,
        addresses,
        protocol,
        tls: None,
        accepts_proxy_protocol: false,
        trusted_proxies: Vec::new(),
        timeouts: defaults::CLIENT_TIMEOUTS,
        limits: defaults::LIMITS,
        udp: defaults::UDP,
        mqtt: defaults::MQTT,
        via: defaults::VIA,
        request_headers: Default::default(),
        response_headers: Default::default(),
        routes: Vec::new(),
        pool: None,
    }
}
