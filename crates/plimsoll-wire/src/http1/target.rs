//! Methods, request targets and hosts.

/// Parts of a request target (RFC 9112 section 3.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// Path and query as they are forwarded; `*` for the asterisk-form.
    pub path_and_query: &'b str,
    /// Authority of the absolute-form, which overrides `Host` (RFC 9112 section 3.2.2).
    pub authority: Option<&'b str>,
    /// Scheme of the absolute-form: true for `https`, false for `http`. It must match the connection.
    pub secure: Option<bool>,
}

impl<'b> Target<'b> {
    /// Parses the origin-form, the absolute-form (`http`, `https`) and, for OPTIONS, the asterisk-form. Returns `None`
    /// for other forms, fragments, user information and bytes outside printable ASCII.
    pub fn parse(raw: &'b str, options: bool) -> Option<Self> {
        if raw.bytes().any(|b| !(0x21..=0x7e).contains(&b) || b == b'#') {
            return None;
        }
        if raw.starts_with('/') {
            return Some(Self { path_and_query: raw, authority: None, secure: None });
        }
        if raw == "*" {
            return options.then_some(Self { path_and_query: raw, authority: None, secure: None });
        }
        let (scheme, rest) = raw.split_once("://")?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !is_valid_host(authority.as_bytes()) {
            return None;
        }
        let path_and_query = match path {
            "" if options => "*",
            "" => "/",
            path => path,
        };
        Some(Self { path_and_query, authority: Some(authority), secure: Some(secure) })
    }

    /// Returns the path without the query, as it is forwarded: never empty.
    pub fn path(&self) -> &'b str {
        match self.path_and_query.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => self.path_and_query,
        }
    }
}

/// Reports whether `host` is a valid `host[:port]` without user information (RFC 3986 section 3.2).
pub fn is_valid_host(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let name_ok = match name {
        [] => false,
        [b'[', inner @ .., b']'] => {
            !inner.is_empty()
                && inner.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'v'))
        }
        name => name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(b)),
    };
    name_ok && port.is_none_or(|port| port.len() <= 5 && port.iter().all(u8::is_ascii_digit))
}

fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    match host.iter().rposition(|&b| b == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], Some(&host[colon + 1..])),
        _ => (host, None),
    }
}

/// Request methods. All unknown ones are [`Other`](Self::Other), so metric labels stay bounded.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// The method `GET`.
    Get,
    /// The method `HEAD`.
    Head,
    /// The method `POST`.
    Post,
    /// The method `PUT`.
    Put,
    /// The method `DELETE`.
    Delete,
    /// The method `PATCH`.
    Patch,
    /// The method `OPTIONS`.
    Options,
    /// The method `TRACE`.
    Trace,
    /// The method `CONNECT`.
    Connect,
    /// Any other method.
    Other,
}

impl Method {
    /// Names by the order of the variants; `other` for [`Other`](Self::Other).
    pub const NAMES: [&str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "other"];

    /// Parses a method name, which is case-sensitive.
    #[inline]
    pub fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "PATCH" => Self::Patch,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Reports whether the method is idempotent (RFC 9110 section 9.2.2).
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_three_forms() {
        let parse = |raw| Target::parse(raw, false).map(|t| (t.path_and_query, t.authority, t.secure));
        assert_eq!(parse("/a?b"), Some(("/a?b", None, None)));
        assert_eq!(parse("http://h:80/a"), Some(("/a", Some("h:80"), Some(false))));
        assert_eq!(parse("HTTP://h"), Some(("/", Some("h"), Some(false))));
        assert_eq!(parse("http://h?q"), Some(("?q", Some("h"), Some(false))));
        assert_eq!(parse("https://h:443/a?u=http://x"), Some(("/a?u=http://x", Some("h:443"), Some(true))));
        assert_eq!(parse("HttpS://h"), Some(("/", Some("h"), Some(true))));
        for bad in [
            "",
            "*",
            "a",
            "//\u{7f}",
            "/a#b",
            "http://u@h/",
            "http:///",
            "https://",
            "h:80",
            "ws://h/",
            "httpss://h/",
            "://h",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(Target::parse("http://h", true).map(|t| t.path_and_query), Some("*"));
    }

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        for good in ["a", "a.b:80", "[::1]:8080", "127.0.0.1", "a_b", "xn--a"] {
            assert!(is_valid_host(good.as_bytes()), "{good}");
        }
        for bad in ["", ":80", "a:b", "a b", "u@h", "a/b", "[::1", "a:123456", "a,b", "[]", "a\0"] {
            assert!(!is_valid_host(bad.as_bytes()), "{bad}");
        }
    }
}
