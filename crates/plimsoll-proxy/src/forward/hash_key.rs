//! Hash keys of requests, connections and datagrams, for pools with a hashing algorithm.

use plimsoll_config::model::HashKey;
use plimsoll_core::hash::hash;

use crate::net::stream::Peer;

/// Returns the key of a connection or datagram: the hash of the client's address without its port. A trusted
/// PROXY header replaces that address. Clients on a Unix socket have no key.
pub(crate) fn source_key(peer: Peer) -> Option<u64> {
    match peer.ip()? {
        std::net::IpAddr::V4(ip) => Some(hash(&ip.octets())),
        std::net::IpAddr::V6(ip) => Some(hash(&ip.octets())),
    }
}

/// Returns the key of a request: the hash of the part that `key` names, as received. If that part is missing
/// or empty, returns the key of the client's address.
pub(crate) fn request_key(
    key: &HashKey,
    path_and_query: &str,
    headers: &[httparse::Header<'_>],
    peer: Peer,
) -> Option<u64> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let value = match key {
        HashKey::Source => None,
        HashKey::Path => Some(if path.is_empty() { b"/" } else { path.as_bytes() }),
        HashKey::Header(name) => values_of(headers, name).find(|value| !value.is_empty()),
        // HTTP/2 clients may send each cookie in its own field (RFC 9113 section 8.2.3).
        HashKey::Cookie(name) => values_of(headers, "cookie").find_map(|line| pair_value(line, b';', name)),
        HashKey::Query(name) => pair_value(query.as_bytes(), b'&', name),
    };
    value.map(hash).or_else(|| source_key(peer))
}

fn values_of<'h>(headers: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|header| header.value)
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

    const PEER: Peer = Peer::Socket(std::net::SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        4711,
    ));

    /// Checks that the key is the hash of `expected`, or the key of the source.
    fn check(key: &HashKey, target: &str, lines: &[(&str, &str)], expected: Option<&str>) {
        let headers: Vec<httparse::Header<'_>> =
            lines.iter().map(|&(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let expected_key = expected.map_or_else(|| source_key(PEER), |text| Some(hash(text.as_bytes())));
        assert_eq!(request_key(key, target, &headers, PEER), expected_key, "{key:?} of {target} {lines:?}");
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
        let header = HashKey::Header("x-tenant".into());
        check(&header, "/", &[("X-Tenant", ""), ("X-Tenant", "t9")], Some("t9"));
        check(&header, "/", &[], None);
        check(&HashKey::Path, "/a/b?c", &[], Some("/a/b"));
        check(&HashKey::Path, "?q", &[], Some("/"));
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
