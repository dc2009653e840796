//! Request properties that routes match on.

/// Properties of a request that routes match on.
pub(crate) struct RequestFacts<'b, 'h> {
    pub(crate) host: &'b [u8],
    pub(crate) path: &'b str,
    pub(crate) method: &'b str,
    pub(crate) headers: &'h [httparse::Header<'b>],
    /// Server name that the client requested in its TLS handshake.
    pub(crate) sni: Option<&'h str>,
    /// Client certificate from the TLS handshake. It replaces a `Client-Cert` header of the client.
    pub(crate) certificate: Option<&'h str>,
    /// The client is a trusted proxy, so its `Client-Cert` header is accepted.
    pub(crate) trusted: bool,
}

impl plimsoll_core::route::RouteInput for RequestFacts<'_, '_> {
    fn host(&self) -> &[u8] {
        self.host
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn sni(&self) -> Option<&[u8]> {
        self.sni.map(str::as_bytes)
    }

    fn header_is(&self, lower_name: &str, value: &str) -> bool {
        if lower_name == "client-cert" && (self.certificate.is_some() || !self.trusted) {
            return self.certificate == Some(value);
        }
        self.headers.iter().any(|h| h.name.eq_ignore_ascii_case(lower_name) && h.value == value.as_bytes())
    }
}
