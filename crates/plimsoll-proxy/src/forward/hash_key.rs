//! What a message is hashed by, where its pool's algorithm needs a key. Nothing is copied.

use plimsoll_config::model::HashKey;
use plimsoll_core::hash::hash;

use crate::net::stream::Peer;

/// The key of a connection or datagram, and of requests that lack what they should be hashed by: the client's
/// address without its port, as a trusted peer's PROXY header tells it. A client on a Unix socket has none.
pub(crate) fn source(peer: Peer) -> Option<u64> {
    match peer.ip()? {
        std::net::IpAddr::V4(ip) => Some(hash(&ip.octets())),
        std::net::IpAddr::V6(ip) => Some(hash(&ip.octets())),
    }
}

/// The key of a request: the hash of what `by` names, byte for byte as it came. Where that is missing or empty,
/// its source.
pub(crate) fn of_request(
    by: &HashKey,
    path_and_query: &str,
    headers: &[httparse::Header<'_>],
    peer: Peer,
) -> Option<u64> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let value = match by {
        HashKey::Source => None,
        HashKey::Path => Some(if path.is_empty() { b"/" } else { path.as_bytes() }),
        HashKey::Header(name) => named(headers, name).find(|value| !value.is_empty()),
        // A client of HTTP/2 may send each cookie in a line of its own (RFC 9113, section 8.2.3).
        HashKey::Cookie(name) => named(headers, "cookie").find_map(|line| value_of(line, b';', name)),
        HashKey::Query(name) => value_of(query.as_bytes(), b'&', name),
    };
    value.map(hash).or_else(|| source(peer))
}

fn named<'h>(headers: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The first value that is not empty of that name among `name=value` pairs.
fn value_of<'b>(pairs: &'b [u8], separator: u8, name: &str) -> Option<&'b [u8]> {
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

    /// The key is the hash of `expected`, or the source's.
    fn check(by: &HashKey, target: &str, lines: &[(&str, &str)], expected: Option<&str>) {
        let headers: Vec<httparse::Header<'_>> =
            lines.iter().map(|&(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let due = expected.map_or_else(|| source(PEER), |text| Some(hash(text.as_bytes())));
        assert_eq!(of_request(by, target, &headers, PEER), due, "{by:?} of {target} {lines:?}");
    }

    #[test]
    fn a_request_is_hashed_by_what_is_named_and_else_by_its_source() {
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
    fn a_source_is_an_address_without_its_port_and_mapped_is_plain() {
        let of = |text: &str| source(Peer::Socket(text.parse().expect("an address")));
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:9"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(source(Peer::Unix), None);
    }
}
