//! Request properties that routes and hash keys use: what the destination will receive.

use plimsoll_wire::http1::request::{Forwarding, RequestHead};

/// Properties of a request that routes match on.
///
/// Fields that are not forwarded do not count. `X-Forwarded-*` and `Client-Cert` of untrusted clients have the value
/// that the proxy sends instead.
pub(crate) struct RequestFacts<'b, 'h> {
    pub(crate) head: &'h RequestHead<'b>,
    pub(crate) headers: &'h [httparse::Header<'b>],
    /// Server name that the client requested in its TLS handshake.
    pub(crate) sni: Option<&'h str>,
    pub(crate) forwarding: Forwarding<'h>,
}

impl RequestFacts<'_, '_> {
    /// Passes the values of the field `name` to `find` until it returns a result.
    pub(crate) fn find_value<T>(&self, name: &str, mut find: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let is_wanted = |header: &&httparse::Header<'_>| {
            header.name.eq_ignore_ascii_case(name) && self.head.forwards(header.name, &self.forwarding)
        };
        let mut lines = self.headers.iter().filter(is_wanted).peekable();
        match lines.peek() {
            Some(_) => lines.find_map(|header| find(header.value)),
            None => self.head.own_value(name, &self.forwarding).and_then(|value| find(&value)),
        }
    }
}

impl plimsoll_core::route::RouteInput for RequestFacts<'_, '_> {
    fn host(&self) -> &[u8] {
        self.head.host
    }

    fn path(&self) -> &[u8] {
        self.head.target.path().as_bytes()
    }

    fn method(&self) -> &[u8] {
        self.head.method_name.as_bytes()
    }

    fn sni(&self) -> Option<&[u8]> {
        self.sni.map(str::as_bytes)
    }

    fn header_is(&self, lower_name: &str, value: &str) -> bool {
        self.find_value(lower_name, |found| (found == value.as_bytes()).then_some(())).is_some()
    }
}
