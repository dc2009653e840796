//! Hash keys of requests, connections and datagrams, for pools with a hashing algorithm.

use plimsoll_config::model::HashKey;
use plimsoll_core::hash::hash;

use crate::http::request_facts::RequestFacts;
use crate::net::stream::Peer;

/// Returns the key of a connection or datagram: the hash of the client's address without its port. A trusted
/// PROXY header replaces that address. Clients on a Unix socket have no key.
pub(crate) fn source_key(peer: Peer) -> Option<u64> {
    match peer.ip()? {
        std::net::IpAddr::V4(ip) => Some(hash(&ip.octets())),
        std::net::IpAddr::V6(ip) => Some(hash(&ip.octets())),
    }
}

/// Returns the key of a request: the hash of the part that `key` names, as it is forwarded. If that part is missing
/// or empty, returns the key of the client's address.
pub(crate) fn request_key(key: &HashKey, facts: &RequestFacts<'_, '_>, peer: Peer) -> Option<u64> {
    let target = facts.head.target.path_and_query;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = match key {
        HashKey::Source => None,
        HashKey::Path => Some(hash(if path.is_empty() { b"/" } else { path.as_bytes() })),
        HashKey::Header(name) => facts.find_value(name, |value| (!value.is_empty()).then(|| hash(value))),
        // HTTP/2 clients may send each cookie in its own field (RFC 9113 section 8.2.3).
        HashKey::Cookie(name) => facts.find_value("cookie", |line| pair_value(line, b';', name).map(hash)),
        HashKey::Query(name) => pair_value(query.as_bytes(), b'&', name).map(hash),
    };
    found.or_else(|| source_key(peer))
}

/// Returns the first non-empty value of `name` among `name=value` pairs.
fn pair_value<'b>(pairs: &'b [u8], separator: u8, name: &str) -> Option<&'b [u8]> {
    pairs.split(|&b| b == separator).find_map(|pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end()).filter(|value| !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_wire::http1::request::{self, Forwarding, RequestLimits};

    const PEER: Peer = Peer::Socket(std::net::SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        4711,
    ));

    /// Checks that the key is the hash of `expected`, or the key of the source.
    fn check(key: &HashKey, target: &str, lines: &[(&str, &str)], expected: Option<&str>) {
        let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut slots = [const { std::mem::MaybeUninit::uninit() }; plimsoll_wire::http1::MAX_HEADERS];
        let limits = RequestLimits { target_bytes: 1000, head_bytes: 1000, headers: 10 };
        let parsed = request::parse(text.as_bytes(), &mut slots, &limits);
        let (head, headers) = parsed.expect("a valid head").expect("a complete head");
        let client = PEER.ip();
        let forwarding = Forwarding { client, scheme: "http", certificate: None, trusted: false, via: false };
        let facts = RequestFacts { head: &head, headers, sni: None, forwarding };
        let expected_key = expected.map_or_else(|| source_key(PEER), |text| Some(hash(text.as_bytes())));
        assert_eq!(request_key(key, &facts, PEER), expected_key, "{key:?} of {text}");
    }

    #[test]
    fn a_request_is_hashed_by_the_named_part_or_its_source() {
        let cookie = HashKey::Cookie("sid".into());
        check(&cookie, "/", &[("Cookie", "a=1; sid=x7; b=2")], Some("x7"));
        check(&cookie, "/", &[("cookie", "a=1"), ("cookie", "sid=x7")], Some("x7"));
        check(&cookie, "/", &[("cookie", "xsid=1;sid=; SID=2")], None);
        let query = HashKey::Query("user".into());
        check(&query, "/a?x=1&user=eve&user=bob", &[], Some("eve"));
        check(&query, "/user=eve?xuser=1&user", &[], None);
        let forwarded_for = HashKey::Header("x-forwarded-for".into());
        check(&forwarded_for, "/", &[("X-Forwarded-For", "6.6.6.6")], Some("10.0.0.1"));
        check(&HashKey::Header("forwarded".into()), "/", &[("Forwarded", "for=6.6.6.6")], None);
        check(&HashKey::Header("x-a".into()), "/", &[("X-A", "1"), ("Connection", "x-a")], None);
        let header = HashKey::Header("x-tenant".into());
        check(&header, "/", &[("X-Tenant", ""), ("X-Tenant", "t9")], Some("t9"));
        check(&header, "/", &[], None);
        check(&HashKey::Path, "/a/b?c", &[], Some("/a/b"));
        check(&HashKey::Path, "http://a?q", &[], Some("/"));
        check(&HashKey::Source, "/", &[], None);
    }

    #[test]
    fn a_source_key_ignores_the_port_and_ipv4_mapping() {
        let of = |text: &str| source_key(Peer::Socket(text.parse().expect("an address")));
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:9"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(source_key(Peer::Unix), None);
    }
}
